"""Names on the Hugging Face hub, and what to load where the hub does not answer.

Without a network its library tries every file of a model six times, which takes half a minute each,
also for files that a model need not have. So one request learns whether the hub answers at all.
"""

from __future__ import annotations

import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
PATIENCE = 15.0  # seconds until a hub that does not answer is out of reach
ATTEMPT = 10.0  # seconds of one attempt, as of the library's own
KEPT = 60.0  # seconds for which an answer, or none, counts
CARDS = ("config.json", "critic.json", "tokenizer_config.json")  # one of them is in every folder
COMMANDS = {"model": "hf download", "dataset": "hf download --repo-type dataset"}
LOCAL = {
    "model": "a folder",
    "dataset": "a local copy: a .jsonl or .parquet file, or a folder written by "
    "dataset.save_to_disk()",
}


@dataclass(frozen=True)
class Attempt:
    """What the last requests came to."""

    reason: str  # why it is out of reach, "" = it answered
    patient: bool  # whether it was tried more than once
    time: float  # time.monotonic()


_last: dict[str, Attempt] = {}  # by address


def is_hub_name(name: str, kind: str = "model") -> bool:
    """Whether `name` can only be one on the hub: no file here, spelled like one, and no path."""
    return may_be_hub_name(name) and not local_path_reason(name, kind)


def may_be_hub_name(name: str) -> bool:
    """Whether `name` is spelled like one on the hub, and is no file here."""
    return NAME.fullmatch(name) is not None and not Path(name).exists()


def local_path_reason(name: str, kind: str = "model") -> str:
    """Why a name that is spelled like one on the hub is a path here: it begins with a folder, as
    runs/none does, and was not downloaded. "" where it is none.
    """
    owner, slash, _ = name.partition("/")
    if not (slash and Path(owner).is_dir() and may_be_hub_name(name)) or downloaded(name, kind):
        return ""
    return (
        f"{owner!r} is a folder, so this is a path; if it is a name on the hub, "
        f"run '{COMMANDS[kind]} {name}' first"
    )


def at_hand(name: str, kind: str = "model", on_hub: bool = False) -> str:
    """What to load a model, tokenizer, critic or data set from: `name` itself, or where the hub
    does not answer, the folder into which it was downloaded earlier. `kind`: a key of COMMANDS;
    `on_hub`: it is a name there, whatever folders lie here.

    ValueError where a name on the hub is neither within reach nor downloaded, and for a path that
    the hub would be searched for.
    """
    name = os.path.expanduser(name)
    if not on_hub:
        if reason := local_path_reason(name, kind):
            raise ValueError(f"there is no {name!r} here ({reason})")
        if not is_hub_name(name, kind):
            return name
    from huggingface_hub import constants, is_offline_mode

    folder = downloaded(name, kind)
    if is_offline_mode():
        if folder is None and kind == "model":  # what data sets were prepared their library knows
            raise ValueError(
                f"{name!r} is no folder here and was not downloaded, and HF_HUB_OFFLINE is set: "
                f"run '{COMMANDS[kind]} {name}' without it, or name {LOCAL[kind]}"
            )
        return name
    reason = out_of_reach(constants.ENDPOINT, patient=folder is None)
    if not reason:
        return name
    if folder is None:
        raise ValueError(
            f"{name!r} is no folder here, and {constants.ENDPOINT} does not answer ({reason}): "
            f"check the network, run '{COMMANDS[kind]} {name}' while there is one, or name "
            f"{LOCAL[kind]}"
        )
    return str(folder)


def downloaded(name: str, kind: str = "model") -> Path | None:
    """The folder in the hub's cache with files of `name`; None where there is none, or of a data
    set whose files are listed there, not all of them."""
    from huggingface_hub import snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        if kind == "dataset":
            return Path(snapshot_download(name, repo_type=kind, local_files_only=True))
        for card in CARDS:
            file = try_to_load_from_cache(name, card)
            if isinstance(file, str):
                return Path(file).parent
    except (HFValidationError, LocalEntryNotFoundError):  # the hub says what is wrong with a name
        return None
    return None


def is_listed(folder: Path) -> bool:
    """Whether the hub's library listed the files of the download in this folder of its cache, and
    so knows that it is whole. 'hf download' lists them, loading a data set does not."""
    return (folder.parents[1] / "trees" / f"{folder.name}.json").is_file()


def out_of_reach(address: str, patient: bool) -> str:
    """Why the hub does not answer, "" if it does. Any answer counts, also one that it is busy: the
    library waits for that. `patient`: PATIENCE for a network that fails now and then, else one try.
    """
    last = _last.get(address)
    if last and time.monotonic() - last.time < KEPT and (last.patient or not patient):
        return last.reason
    until, wait = time.monotonic() + PATIENCE, 1.0
    while (reason := request(address, until)) and patient and time.monotonic() + wait < until:
        if wait == 1.0:
            print(f"{address} does not answer ({reason}); trying again", file=sys.stderr)
        time.sleep(wait)
        wait *= 2
    _last[address] = Attempt(reason, patient or not reason, time.monotonic())
    return reason


def request(address: str, until: float) -> str:
    """One request: why there was no answer, else ""."""
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]
    from huggingface_hub.utils import get_session

    left = max(1.0, until - time.monotonic())
    try:
        get_session().head(address, timeout=min(ATTEMPT, left))
    except (HTTPError, OSError) as error:
        return str(error).strip() or type(error).__name__
    return ""
