"""Data sets of the hub: what was loaded or downloaded earlier is used where it does not answer.

The library `datasets` alone tries for minutes, and sees no download of `hf download`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from genac.reach import at_hand, downloaded, is_hub_name, out_of_reach

KIND = "dataset"


def load(name: str, config: str | None, split: str) -> Any:
    """By `datasets`, of a place that `locate` did not refuse."""
    import datasets

    place, prepared = locate(name, config)
    with asking_nobody(prepared):
        return datasets.load_dataset(place, config, split=split)


def locate(name: str, config: str | None = None) -> tuple[str, bool]:
    """The folder or hub name of a data set, and whether what the library prepared earlier is to be
    used because the hub does not answer.

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

    if is_hub_name(name, KIND):
        offline = library.HF_HUB_OFFLINE
        ready = is_prepared(name, config)
        if ready and (offline or out_of_reach(constants.ENDPOINT, patient=False)):
            return name, True
        if offline:
            return str(downloaded(name, KIND) or name), False
    return at_hand(name, KIND), False


def is_prepared(name: str, config: str | None) -> bool:
    """Whether the library has made its own files of this data set and configuration before."""
    from datasets import config as library
    from datasets.naming import camelcase_to_snakecase

    *owner, last = name.split("/")
    folder = "___".join([*owner, camelcase_to_snakecase(last)])
    return any((library.HF_DATASETS_CACHE / folder).glob(f"{config or '*'}/*/*/dataset_info.json"))


@contextmanager
def asking_nobody(active: bool) -> Iterator[None]:
    """The library takes what it has, and sends no request."""
    from datasets import config as library

    before = library.HF_HUB_OFFLINE
    library.HF_HUB_OFFLINE = before or active
    try:
        yield
    finally:
        library.HF_HUB_OFFLINE = before
