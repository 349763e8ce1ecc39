"""SmolLM2 as a GGUF file, for slow tests; fetched as `make demo-llm` does it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "demo_llm.py"


def demo() -> ModuleType:
    """The script of `make demo-llm` as a module."""
    spec = importlib.util.spec_from_file_location("demo_llm", EXAMPLE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def gguf_file() -> Path:
    """The GGUF file; the test is skipped, with the reason, where it cannot be had."""
    script = demo()
    try:
        return script.model_file(script.cache_folder())
    except ValueError as error:
        pytest.skip(str(error))
