"""Uploading, against a stand-in for the hub that keeps what it is sent; and the cards' metadata."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from genac.cli import main
from genac.commands.push import listed, push
from genac.config.run import RunConfig
from genac.hub.files import place_card, unedited
from genac.hub.model_cards import CARD, critic_text, data_section, front_matter, table
from genac.hub.origins import base_model, hub_models, named, start_of, without_folders
from genac.runs.manifest import write_done


@dataclass
class Hub:
    """The requests to the stand-in; `status` is what it answers with."""

    address: str = ""
    status: int = 200
    created: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str | None] = field(default_factory=set)


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    """Create, preupload and commit of the hub's interface, all files inline."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            hub.tokens.add(self.headers.get("authorization"))
            if hub.status != 200:
                return self.answer({"error": "no"}, hub.status)
            if self.path == "/api/repos/create":
                hub.created.append(json.loads(body))
                return self.answer({"url": f"{hub.address}/me/thing"})
            if "/preupload/" in self.path:
                names = [f["path"] for f in json.loads(body)["files"]]
                rows = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
                return self.answer({"files": rows})
            if "/commit/" in self.path:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        name, content = line["value"]["path"], line["value"]["content"]
                        hub.files[f"{self.path.split('/commit/')[0]}:{name}"] = base64.b64decode(
                            content
                        )
                done = {"commitUrl": f"{hub.address}/me/thing/commit/1", "commitOid": "1" * 40}
                return self.answer(done)
            return self.answer({"valid": True})

        def do_GET(self) -> None:
            self.answer({"id": "me/thing", "sha": "0" * 40, "siblings": []})

        def answer(self, body: dict[str, Any], status: int = 200) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            return None

    return Handler


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    result = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(result))
    result.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", result.address)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", result.address)
    monkeypatch.setenv("HF_ENDPOINT", result.address)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield result
    server.shutdown()
    server.server_close()


@pytest.fixture
def model(tiny_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / ".cache").mkdir()
    (folder / ".cache" / "secret").write_text("hidden")
    return folder


def test_a_model_folder_reaches_the_hub_as_it_is(hub, model):
    answer = push([str(model), "me/thing", "--private"])
    assert hub.created[0]["name"] == "thing" and hub.created[0]["visibility"] == "private"
    assert hub.tokens == {"Bearer hf_secret"}
    expected = {f"/api/models/me/thing:{n}": (model / n).read_bytes() for n in listed(model)}
    assert hub.files == expected and not any(".cache" in name for name in expected)
    assert f"{hub.address}/me/thing" in answer and "model.safetensors" in answer


def test_a_dry_run_lists_and_uploads_nothing(hub, model):
    answer = push([str(model), "me/thing", "--dry-run"])
    assert "nothing uploaded" in answer and "model.safetensors" in answer
    assert not hub.tokens


def test_a_damaged_model_of_a_finished_run_is_not_uploaded(hub, model):
    write_done(model.parent, {})
    (model / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(ValueError, match=r"model\.safetensors has 7 bytes where .*restore it"):
        push([str(model), "me/thing"])
    assert not hub.tokens and not (model / CARD).exists()


def as_critic(folder: Path) -> Path:
    (folder / "critic.json").write_text(json.dumps({"kind": "generative", "config": {}}))
    return folder / CARD


def test_a_dry_run_writes_nothing(hub, model):
    as_critic(model)
    before = {f: f.read_bytes() for f in model.rglob("*") if f.is_file()}
    push([str(model), "me/thing", "--dry-run"])
    assert {f: f.read_bytes() for f in model.rglob("*") if f.is_file()} == before


def test_an_edited_card_is_kept_and_uploaded_as_it_is(hub, model):
    card = as_critic(model)
    push([str(model), "me/thing"])
    assert unedited(card.read_text()) and "kept" not in push([str(model), "me/thing"])
    edited = card.read_text().replace("---\n", "---\nlicense: mit\n", 1)
    card.write_text(edited)
    assert f"{card} was edited" in push([str(model), "me/thing"])
    assert card.read_text() == edited == hub.files[f"/api/models/me/thing:{CARD}"].decode()


def test_cards_on_disk(tmp_path):
    card, table_head = tmp_path / CARD, "| on held-out problems | value |\n"
    assert place_card(card, "one\n") == [] and card.read_text().startswith("one\n")
    assert place_card(card, f"two\n{table_head}") == [] and table_head in card.read_text()
    assert "has metrics" in place_card(card, "three\n")[0] and table_head in card.read_text()
    assert place_card(card, f"four\n{table_head}") == [] and "four" in card.read_text()
    card.write_text("by hand")
    assert "edited" in place_card(card, "five\n")[0] and card.read_text() == "by hand"


@pytest.mark.parametrize(
    ("status", "remedy"), [(401, "HF_TOKEN is valid"), (403, "may write"), (503, "try again later")]
)
def test_a_refusal_of_the_hub_says_what_to_do(hub, model, status, remedy, monkeypatch, capsys):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.status = status
    assert main(["push", str(model), "me/thing"]) == 2
    text = capsys.readouterr().err
    assert f"status {status}" in text and remedy in text and "hf_secret" not in text


def test_no_network(hub, model, monkeypatch, capsys):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    for place in (
        "huggingface_hub.constants.ENDPOINT",
        "huggingface_hub.hf_api.constants.ENDPOINT",
    ):
        monkeypatch.setattr(place, "http://127.0.0.1:9")
    assert main(["push", str(model), "me/thing"]) == 2
    assert "http://127.0.0.1:9 could not be reached" in capsys.readouterr().err


def test_no_token(model, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils.get_token", lambda: None)
    with pytest.raises(ValueError, match="set HF_TOKEN or run 'hf auth login'"):
        push([str(model), "me/thing"])


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["MODEL", "a/b/c"], "'a/b/c' is no repository name"),
        (["MODEL", "me/thing", "--only", "actor"], "--only actor chooses"),
        (["NOTHING", "me/thing"], "neither a finished run nor a model folder"),
    ],
)
def test_what_cannot_be_pushed(model, tmp_path, arguments, answer):
    places = {"MODEL": str(model), "NOTHING": str(tmp_path / "nothing")}
    with pytest.raises(ValueError, match=answer):
        push([places.get(a, a) for a in arguments])


def models(actor: str | None, critic: str | None = None) -> dict[str, Any]:
    return {
        "actor": {"model_name_or_path": actor},
        "critic": {"model_name_or_path": critic, "kind": "generative"},
    }


def test_hub_names_and_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "x").mkdir(parents=True)
    assert hub_models(models("owner/model", "owner/other")) == ["owner/model", "owner/other"]
    for path in (None, "runs/x", "/abs/path", "./a", "~/a", "model", "a/b/c"):
        assert hub_models(models(path)) == []


def test_a_folder_of_training_is_no_base_model_wherever_the_card_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert base_model("ckpt/llama", {}) is None and named("ckpt/llama", {}) == "llama"
    known = {"hub_models": ["owner/model"]}
    (tmp_path / "owner" / "model").mkdir(parents=True)
    assert base_model("owner/model", known) == "owner/model"
    assert named("/home/me/x/", known) == "x" and named(None, known) is None


def test_the_critics_base_is_its_own():
    assert start_of("critic", models("owner/a", "owner/b")) == "owner/b"
    assert start_of("critic", models("owner/a")) == start_of("actor", models("owner/a", "x/y"))
    assert start_of("critic", {}) is None


def run_config(**options: Any) -> dict[str, Any]:
    cfg = RunConfig(name="n").model_dump() | models("owner/a", "owner/b")
    return cfg | {"task": {"name": "file", "path": "/home/me/data.jsonl", "options": options}}


def test_the_critics_card_names_the_critics_base(model):
    as_critic(model)
    known = {"hub_models": ["owner/a", "owner/b"]}
    text = critic_text(model, run_config(), known)
    assert ModelCard(text).data.to_dict()["base_model"] == "owner/b" and "owner/a" not in text
    assert "| start | `owner/b` |" in text


def test_options_name_no_folder_of_the_machine():
    paths = {"heldout": "/home/me/x.jsonl", "decontaminate": ["gsm8k", "../up/y.csv", "o/name"]}
    more = {"a": {"b": ["~me/z", "C:\\me\\w.txt", "a/b/c", "data/v.jsonl"]}, "n": 3}
    text = "/no_think Put it in \\boxed{}, and/or explain."
    assert without_folders({**paths, **more, "instruction": text}) == {
        "heldout": "x.jsonl",
        "decontaminate": ["gsm8k", "y.csv", "o/name"],
        "a": {"b": ["z", "w.txt", "c", "v.jsonl"]},
        "n": 3,
        "instruction": text,
    }
    section = data_section(run_config(**paths))
    assert "/home" not in section and "../up" not in section


def test_how_problems_were_held_out():
    assert "held out by a hash" in data_section(run_config())
    own = data_section(run_config(heldout="/home/me/x.jsonl"))
    assert "hash" not in own and "those of `x.jsonl`" in own


def test_a_bar_in_a_cell_stays_in_its_cell():
    assert table(("a", "b"), [("x|y", "z")]).splitlines()[-1] == r"| x\|y | z |"


def test_metadata_of_a_card_is_what_the_hub_reads():
    config = {"task": {"name": "file", "path": "/home/me/data.jsonl"}}
    metrics = [("accuracy", "held-out success", 0.5, [0.4, 0.6])]
    card = ModelCard(
        front_matter(config, "n: #1 actor", ["genac"], metrics, "owner/base") + "\n\n# text\n"
    )
    data = card.data.to_dict()
    assert (data["base_model"], data["tags"]) == ("owner/base", ["genac"])
    assert card.data.eval_results is not None
    result = card.data.eval_results[0]
    assert (result.metric_value, result.dataset_name) == (0.5, "file (data.jsonl)")
    assert card.data.model_name == "n: #1 actor"
