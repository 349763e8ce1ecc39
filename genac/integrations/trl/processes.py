"""Work of the main process, for all processes of a trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list


def on_main(accelerator: Accelerator, compute: Callable[[], Any], share: bool = True) -> Any:
    """What `compute` returns in the main process: there only, or everywhere if it is to be shared.

    An error there is raised in all processes, because the others would wait for an answer.
    """
    if accelerator.num_processes == 1:
        return compute()
    result, problem = None, None
    if accelerator.is_main_process:
        try:
            result = compute()
        except Exception as error:
            problem = error
    message = [result if share else None, None if problem is None else repr(problem)]
    broadcast_object_list(message)
    if problem is not None:
        raise problem
    if message[1] is not None:
        raise RuntimeError(f"the critic failed in the main process: {message[1]}")
    return message[0] if share else result
