"""A run whose workers die goes on from its newest checkpoint, with new workers."""

from __future__ import annotations

import gc
from collections.abc import Callable

from genac.checkpoint import complete
from genac.runs.store import Run
from genac.stages.loop import warn

RESTARTS = 3  # in a row, without a new checkpoint between them


def with_restarts(run: Run, work: Callable[[], None]) -> None:
    """Calls `work`, which resumes what it finds; again each time its workers have died. Raises the
    ChildProcessError of the last attempt where RESTARTS of them brought no new checkpoint.
    """
    failed, newest = 0, checkpoints(run)
    while True:
        try:
            return work()
        except ChildProcessError as error:
            reason = str(error)
        # Outside of the clause above, whose traceback holds the models of the attempt. What refers
        # to itself ends here too: servers would keep the memory that the next ones need.
        gc.collect()
        failed, before, newest = failed + 1, newest, checkpoints(run)
        if newest != before:
            failed = 1
        if failed > RESTARTS:
            raise ChildProcessError(f"{reason} (after {RESTARTS} restarts without a new one)")
        run.event("restarted", reason=reason, attempt=failed)
        warn(
            f"{reason}. The workers are started again and the run goes on from its last "
            f"checkpoint (restart {failed} of {RESTARTS} without a new one)"
        )


def checkpoints(run: Run) -> list[str]:
    """Of the joint stage, by name."""
    return [folder.name for folder in complete(run.checkpoints / "joint")]
