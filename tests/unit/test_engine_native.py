"""Reading and decoding in C++ compute what torch's operations do, and nothing depends on it."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_models import FAST, VOCAB, engine_of, random_model, same
from transformers import LlamaConfig

from genac.engines.base import Request
from genac.engines.local import LocalEngine
from genac.native import compiler, decode, library

PREFIX = tuple(2 + i % 37 for i in range(40))


def torch_engine(model: Any, **options: Any) -> LocalEngine:
    engine = engine_of(model, **options)
    assert engine.decoder is not None
    engine.decoder.native = None
    return engine


@pytest.fixture(scope="module")
def compiled() -> None:
    if library.library() is None:
        pytest.skip("no C++ compiler here")


def some_requests() -> list[Request]:
    """Prompts that share nothing, a prompt, or a long shared prefix; every way to draw and
    to end.
    """
    own = [Request((3 + i, 5), 3 + i % 7, seed=i, temperature=0.5 + i % 3) for i in range(5)]
    stops = [Request((9, 4), 12, seed=i, stop_ids=(i, 7), line_ids=(11, 12)) for i in range(12)]
    greedy = [Request((6, 7, 8), 9, seed=0, temperature=0.0, token_prob_ids=(3, 1, 2))]
    behind = [Request((*PREFIX[: 30 + i], 5), 6, seed=i, token_prob_ids=(4,)) for i in range(10)]
    return [*own, *stops, *greedy, *behind]


@pytest.mark.parametrize("inlined", [True, False])
@pytest.mark.parametrize("name", FAST)
def test_both_ways_say_the_same(compiled, name, inlined, monkeypatch):
    monkeypatch.setattr("genac.engines.local.inline_prefixes", lambda result: inlined)
    model = random_model(FAST[name])
    fast, plain = engine_of(model), torch_engine(model)
    assert fast.decoder is not None and fast.decoder.native is not None
    requests = some_requests()
    for one, other in zip(fast.generate(requests), plain.generate(requests), strict=True):
        same(one, other)


@pytest.mark.parametrize("max_rows", [1, 3, 7])
def test_rows_enter_between_calls(compiled, max_rows, monkeypatch):
    monkeypatch.setattr("genac.engines.scheduler.TOKENS_PER_CALL", 2)
    model = random_model(FAST["qwen3"])
    fast, plain = engine_of(model, max_rows=max_rows), torch_engine(model)
    requests = some_requests()
    for one, other in zip(fast.generate(requests), plain.generate(requests), strict=True):
        same(one, other)


@pytest.mark.parametrize("name", FAST)
def test_a_row_does_not_depend_on_the_other_rows(compiled, name):
    """To the last bit: neither the reading of its prompt nor the step behind it."""
    decoder = engine_of(random_model(FAST[name])).decoder
    assert decoder is not None and decoder.native is not None
    reader = decoder.native
    prefixes = [PREFIX, PREFIX[:7], PREFIX[3:33]]
    prefix, none_N = reader.room(3, 40), torch.zeros(3, dtype=torch.long)
    reader.read(decode.Rows(prefix, none_N, none_N), torch.arange(3), prefixes, predict=False)
    rows = torch.arange(67)
    prefix_B, length_B = rows // 17 - 1, torch.where(rows % 10 == 0, 70, 1 + rows % 5)
    shared_B = torch.where(prefix_B < 0, 0, 7 - rows % 3)
    shared_B[18:30] += 2 * rows[:12]
    texts = [PREFIX * 2 for _ in rows]

    def logits(chosen: torch.Tensor) -> torch.Tensor:
        own, none_B = reader.room(len(chosen), 71), torch.zeros_like(chosen)
        seen = (shared_B[chosen], prefix, prefix_B[chosen])
        parts = [texts[i][i % 9 :][: length_B[i]] for i in chosen.tolist()]
        row_N = torch.arange(len(chosen))
        read = reader.read(decode.Rows(own, none_B, *seen), row_N, parts, predict=True)
        behind = decode.Rows(own, length_B[chosen], *seen)
        return torch.cat([read, reader.decode(behind, chosen % VOCAB)], 1)

    together = logits(rows)
    for chosen in (rows[5:6], torch.tensor([66, 3, 31]), rows[20:60], rows[21:22]):
        assert torch.equal(logits(chosen), together[chosen])


@pytest.mark.parametrize("threads", [1, 3])
def test_prompts_of_all_lengths_are_read(compiled, threads):
    """Alone and behind a shared prefix, shorter and longer than what passes the layers together."""
    model = random_model(FAST["qwen3"])
    fast, plain = engine_of(model, 512), torch_engine(model, max_length=512)
    lengths = (1, 2, 15, 16, 17, 62, 63, 64, 65, 66, 129, 200)
    prompts = [tuple(2 + (i + 3 * n) % 37 for i in range(n)) for n in lengths]
    prompts += [(*PREFIX * 4, *prompt) for prompt in prompts for _ in range(2)]
    requests = [Request(p, 3, seed=i, token_prob_ids=(3, 4)) for i, p in enumerate(prompts)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for one, other in zip(fast.generate(requests), plain.generate(requests), strict=True):
            same(one, other)
    finally:
        torch.set_num_threads(before)


def test_threads_change_nothing(compiled):
    engine = engine_of(random_model(FAST["llama"]))
    requests = [Request((3 + i % 5, 4), 20, seed=i) for i in range(40)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = engine.generate(requests)
        torch.set_num_threads(3)
        for one, other in zip(engine.generate(requests), alone, strict=True):
            same(one, other, atol=0.0)
    finally:
        torch.set_num_threads(before)


def test_what_it_does_not_know_is_left_to_torch(compiled):
    odd = LlamaConfig(**FAST["llama"].to_dict() | {"intermediate_size": 45})
    assert engine_of(random_model(odd)).decoder.native is None  # type: ignore[union-attr]
    half = engine_of(random_model(FAST["llama"]), dtype=torch.bfloat16)
    assert half.decoder is not None and half.decoder.native is None


def test_nucleus_sampling_goes_step_by_step(compiled):
    model = random_model(FAST["qwen2"])
    requests = [replace(r, top_p=0.8) for r in some_requests()]
    fast, plain = engine_of(model), torch_engine(model)
    for one, other in zip(fast.generate(requests), plain.generate(requests), strict=True):
        same(one, other)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A machine on which nothing was compiled yet."""
    library.library.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield tmp_path
    library.library.cache_clear()


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_torch_decodes(elsewhere, monkeypatch, compiler):
    monkeypatch.setenv("CXX", compiler)
    model = random_model(FAST["qwen3"])
    with pytest.warns(UserWarning, match=r"could not be compiled.*install g\+\+"):
        engine = LocalEngine(model, max_length=64)
    assert engine.decoder is not None and engine.decoder.native is None
    assert not list(elsewhere.rglob("*.so"))
    done = engine.generate([Request((5, 6), 5, seed=0)])
    assert len(done[0].ids) == 5


def test_it_can_be_turned_off_silently(elsewhere, monkeypatch):
    monkeypatch.setenv("GENAC_NATIVE", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine = LocalEngine(random_model(FAST["qwen3"]), max_length=64)
    assert engine.decoder is not None and engine.decoder.native is None


@pytest.fixture
def one_source(monkeypatch):
    """A part that takes a second to compile."""
    csrc = Path(compiler.__file__).parent / "csrc"
    monkeypatch.setattr(compiler, "SOURCES", [csrc / "interface.cpp", csrc / "structs.h"])


def test_it_is_compiled_once(compiled, elsewhere, one_source):
    first = compiler.compiled()
    stamp = first.stat().st_mtime_ns
    assert compiler.compiled() == first and first.stat().st_mtime_ns == stamp
    assert [p.name for p in first.parent.iterdir()] == [first.name]


def test_a_compiler_that_fails_is_followed_by_the_next(
    compiled, elsewhere, one_source, monkeypatch
):
    monkeypatch.delenv("CXX", raising=False)
    working = compiler.compiled().name
    monkeypatch.setattr(compiler, "COMPILERS", ("false", *compiler.COMPILERS))
    assert compiler.compiled().name == working


@pytest.mark.parametrize("home", ["a file", "none"])
def test_without_a_folder_of_its_own_it_is_kept_among_temporary_files(home, tmp_path, monkeypatch):
    monkeypatch.setattr(compiler.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    if home == "none":
        monkeypatch.delenv("XDG_CACHE_HOME")

        def unknown():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(compiler.Path, "home", unknown)
    folder = compiler.cache_folder()
    assert folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="written by others"):
        compiler.cache_folder()


def test_whole_numbers_are_temperatures_too(compiled):
    engine = engine_of(random_model(FAST["llama"]))
    prompts = [(5, 6, 7), (8, 9), (10, 11)]
    whole, real = (
        engine.generate([Request(p, 6, seed=i, temperature=t) for i, p in enumerate(prompts)])
        for t in (1, 1.0)
    )
    assert [c.ids for c in whole] == [c.ids for c in real]
    for one, other in zip(whole, real, strict=True):
        same(one, other)
