"""A caller's objects as what a config can name: rows as a file, a loaded model as a folder.

    stored_rows(dataset, root)            ->  root/data-HASH/data.jsonl
    stored_model(model, tokenizer, root)  ->  root/loaded-HASH/model

The folders are named by what they hold, so the same object is written once, whoever made it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from genac.models.loading import load_tokenizer
from genac.runs.store import Run, atomic_write
from genac.runtime import OF_A_FILE, save_folder
from genac.stages.artifacts import build_once
from genac.tasks.values import plain

FORMAT = 1  # of the folders; raise it where other files are written from the same object
ROWS, MODEL = "data.jsonl", "model"


# --- rows -----------------------------------------------------------------------------------------


def stored_rows(data: Any, root: str | Path, name: str) -> str:
    """The file of a data set: a `datasets.Dataset`, or any iterable of mappings. A text is a file
    or a data set's name already. ValueError for what cannot be written, naming its row.
    """
    if isinstance(data, str | Path):
        return str(data)
    if isinstance(data, Mapping) or not isinstance(data, Iterable):
        splits = f" (its splits: {list(data)})" if isinstance(data, Mapping) else ""
        raise ValueError(
            f"{name} is a {type(data).__name__}{splits}; give one data set: rows with a 'prompt', "
            "as a datasets.Dataset or a list of dicts"
        )
    lines = [line_of(row, f"row {number} of {name}") for number, row in enumerate(data, 1)]
    if not lines:
        raise ValueError(f"{name} has no rows; give at least one")
    text = "".join(lines)
    key = {"rows": hashlib.sha256(text.encode()).hexdigest(), "format": FORMAT}
    folder = build_once(root, "data", key, lambda run: atomic_write(run.path / ROWS, text))
    return str(folder / ROWS)


def line_of(row: Any, where: str) -> str:
    """A row as a line of JSON."""
    if not isinstance(row, Mapping):
        raise ValueError(f"{where} is {row!r:.80}; give a mapping of columns to values")
    values = {}
    for column, value in row.items():
        try:
            values[str(column)] = json.loads(json.dumps(plain(value)))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{where}: the column {column!r} holds {value!r:.80} ({type(value).__name__}), "
                "which cannot be written as text; leave the column out, or turn it into texts, "
                "numbers and lists"
            ) from error
    return json.dumps(values, ensure_ascii=False) + "\n"


# --- models ---------------------------------------------------------------------------------------


def stored_model(model: Any, tokenizer: Any, root: str | Path, name: str) -> str:
    """The folder of a loaded model and its tokenizer (None: the one of the name that it was loaded
    from). A text is a folder or a name on the hub already.
    """
    if isinstance(model, str | Path):
        require_own(tokenizer, str(model), name)
        return str(model)
    require_model(model, name)
    tokenizer = tokenizer if tokenizer is not None else tokenizer_of(model, name)
    key = {"weights": weights_digest(model), "rest": settings(model, tokenizer), "format": FORMAT}

    def save(run: Run) -> None:
        save_folder(model, tokenizer, run.path / MODEL)

    return str(build_once(root, "loaded", key, save) / MODEL)


def require_model(model: Any, name: str) -> None:
    if not hasattr(model, "save_pretrained") or not hasattr(model, "state_dict"):
        raise ValueError(
            f"{name} is a {type(model).__name__}; give a name on the hub, a folder, or a loaded "
            "transformers model"
        )
    if getattr(model, "peft_config", None):
        raise ValueError(
            f"{name} carries adapters of peft; give model.merge_and_unload(), and set "
            "actor.lora.rank to train new ones"
        )


def require_own(tokenizer: Any, path: str, name: str) -> None:
    """ValueError where a named model would be trained with another tokenizer than its own."""
    if tokenizer is None:
        return
    own = load_tokenizer(path)
    if (own.get_vocab(), own.chat_template) != (tokenizer.get_vocab(), tokenizer.chat_template):
        raise ValueError(
            f"processing_class is not the tokenizer of {name} {path!r} (another vocabulary or chat "
            "template); give the loaded model with it, or save both into one folder"
        )


def tokenizer_of(model: Any, name: str) -> Any:
    path = getattr(model.config, "_name_or_path", "")
    if not path:
        raise ValueError(f"{name} is a loaded model; give its tokenizer as processing_class")
    return load_tokenizer(path)


def weights_digest(model: Any) -> str:
    """sha256 of every tensor, by name."""
    state = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        whole = tensor.detach().cpu().contiguous().reshape(-1)
        state.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        state.update(whole.view(torch.uint8).numpy().data)
    return state.hexdigest()


def settings(model: Any, tokenizer: Any) -> str:
    """Digest of configuration, vocabulary and chat template."""
    config = {k: v for k, v in model.config.to_dict().items() if k not in OF_A_FILE}
    generation = getattr(model, "generation_config", None)
    parts = [
        config,
        generation.to_dict() if generation is not None else {},
        sorted(tokenizer.get_vocab().items()),
        tokenizer.chat_template,
        sorted(map(str, tokenizer.special_tokens_map.items())),
    ]
    return hashlib.sha256(json.dumps(parts, default=str, sort_keys=True).encode()).hexdigest()
