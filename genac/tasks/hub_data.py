"""Data sets of the hub: what was loaded or downloaded earlier is used where it does not answer.

The library `datasets` alone tries for minutes, and sees no download of `hf download`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from genac.reach import (
    COMMANDS,
    at_hand,
    downloaded,
    is_hub_name,
    is_listed,
    may_be_hub_name,
    out_of_reach,
)

KIND = "dataset"


def locate(name: str, config: str | None = None, on_hub: bool = False) -> tuple[str, bool]:
    """The folder or hub name of a data set, and whether what the library prepared earlier is to be
    used because the hub does not answer. `on_hub`: it is a name there, whatever folders lie here.

    Raises ValueError where the library is missing, or the data set is neither here nor in reach.
    """
    try:
        from datasets import config as library
    except ImportError as error:
        raise ValueError(
            f"task.path {name!r} is no data file, and data sets need the library 'datasets': "
            "pip install 'genac[data]'"
        ) from error
    from huggingface_hub import constants

    offline, spelled = library.HF_HUB_OFFLINE, may_be_hub_name(name)
    ready = spelled and is_prepared(name, config)
    on_hub = ready or (spelled and on_hub)
    if ready and (offline or out_of_reach(constants.ENDPOINT, patient=False)):
        return name, True
    if offline and (on_hub or is_hub_name(name, KIND)):
        place = str(downloaded(name, KIND) or name)
    else:
        place = at_hand(name, KIND, on_hub)
    if spelled and place != name and not is_listed(Path(place)):
        warn_unlisted(name, place)
    return place, False


@cache
def warn_unlisted(name: str, folder: str) -> None:
    """Once per process."""
    print(
        f"data set {name!r}: the files in {folder} are used, but the hub's library has no list of "
        "them, so some may be missing; to be sure, run "
        f"'{COMMANDS[KIND]} {name}' while there is a network",
        file=sys.stderr,
        flush=True,
    )


def is_prepared(name: str, config: str | None) -> bool:
    """Whether the library has made its own files of this data set and configuration before."""
    from datasets import config as library
    from datasets.naming import camelcase_to_snakecase

    *owner, last = name.split("/")
    folder = "___".join([*owner, camelcase_to_snakecase(last)])
    return any((library.HF_DATASETS_CACHE / folder).glob(f"{config or '*'}/*/*/dataset_info.json"))


@contextmanager
def library_offline(active: bool) -> Iterator[None]:
    """The library takes what it has, and sends no request."""
    from datasets import config as library

    before = library.HF_HUB_OFFLINE
    library.HF_HUB_OFFLINE = before or active
    try:
        yield
    finally:
        library.HF_HUB_OFFLINE = before
