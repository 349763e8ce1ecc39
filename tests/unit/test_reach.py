"""A name on the hub without a network: what was downloaded is used, else the remedy comes soon."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from fakes import ALPHABET

from genac import reach
from genac.commands.early import has_driver
from genac.models.loading import load_context, load_model, load_tokenizer
from genac.models.tiny import save_tiny
from genac.scoring.generative import local_folder
from genac.tasks.sources import require_source, rows

ROOT = Path(__file__).parents[2]
SHAPE = {"hidden_size": 16, "layers": 1, "heads": 2, "seed": 0}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[int], str]:
    """hub(port) -> the address, which is the hub's from then on; with an empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(reach, "_last", {})

    def set_address(port: int) -> str:
        address = f"http://127.0.0.1:{port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        return address

    return set_address


@pytest.fixture
def downloaded(tmp_path: Path) -> Path:
    """owner/name as 'hf download' leaves it."""
    place, commit = tmp_path / "hub/models--owner--name", "a" * 40
    (place / "refs").mkdir(parents=True)
    (place / "refs/main").write_text(commit)
    save_tiny(place / "snapshots" / commit, ALPHABET, max_length=64, **SHAPE)
    return place / "snapshots" / commit


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


class Busy(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def answering(port: int, after: float = 0.0) -> Iterator[None]:
    """A hub on `port` that is busy, and that listens only `after` so many seconds."""
    ready, stop = threading.Event(), threading.Event()

    def serve() -> None:
        time.sleep(after)
        with HTTPServer(("127.0.0.1", port), Busy) as server:
            server.timeout = 0.1
            ready.set()
            while not stop.is_set():
                server.handle_request()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert after or ready.wait(30)
        yield
    finally:
        stop.set()
        thread.join()


def refused(commands: list[list[str]], folder: Path) -> str:
    """What commands print that all are refused before torch is imported, in one process."""
    code = (
        "import json, sys; from genac.cli import main\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    print(main(command), 'torch' in sys.modules)\n"
    )
    env = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "HF_HOME": str(folder),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == ["2 False"] * len(commands), done.stderr
    return done.stderr


def test_servers_that_are_not_there_are_refused_without_torch(tmp_path: Path) -> None:
    vllm = ["train", "arithmetic", "--hardware.engine", "vllm"]
    nothing = f"127.0.0.1:{free_port()}"
    workers = ["--hardware.device", "cpu", "--hardware.processes", "2"]
    shown = refused(
        [
            vllm,
            [*vllm, "--hardware.vllm.python", str(tmp_path / "python")],
            [*vllm, "--hardware.vllm.urls", f'["http://{nothing}"]'],
            ["train", "arithmetic", *workers, "--hardware.cluster", nothing],
        ],
        tmp_path,
    )
    for text in ("has no vLLM", "does not run as a Python interpreter", "which does not answer"):
        assert text in shown
    assert f"no Ray cluster answers at {nothing}" in shown
    assert not (tmp_path / "runs").exists()


def test_what_is_not_here_is_refused_soon_and_without_torch(tmp_path: Path) -> None:
    """All in one process, for the hub gets a request once a minute only."""
    commands = [
        ["train", "arithmetic", "--actor.model_name_or_path", "owner/name"],
        ["score", "owner/name", "3 a+4>", "a="],
        ["eval", "benchmarks", "owner/name"],
        ["eval", "solutions", "owner/name", "file.jsonl"],
        ["serve", "owner/name"],
        ["generate", "runs/nowhere/actor", "3 a+4>"],
        ["score", "nowhere.yaml", "3 a+4>", "a="],
        ["train", "own-data", "--task.path", "owner/set"],
        ["train", "own-data", "--task.path", "gsm8k"],
    ]
    (tmp_path / "own").mkdir()
    paths = [
        *([verb, "arithmetic", "--actor.model_name_or_path", "own/a"] for verb in ("train", "sft")),
        ["train", "arithmetic", "--critic.model_name_or_path", "own/b"],
        ["score", "own/c", "3 a+4>", "a="],
        ["eval", "benchmarks", "own/d"],
        ["eval", "solutions", "own/e", "file.jsonl"],
        ["serve", "own/f"],
        ["generate", "own/g", "3 a+4>"],
        ["train", "own-data", "--task.path", "own/h"],
    ]
    commands += paths
    if not has_driver():
        commands += [[*verb, "--hardware.device", "cuda"] for verb in (["train"], ["doctor"])]
    started = time.monotonic()
    shown = refused(commands, tmp_path)
    assert shown.count("run 'hf download owner/name' while there is one") == 5
    assert "actor: there is no 'runs/nowhere/actor' here" in shown
    for name in ("owner/set", "openai/gsm8k"):
        assert f"run 'hf download --repo-type dataset {name}' while there is one" in shown
    assert shown.count("'own' is a folder, so this is a path") == len(paths)
    assert time.monotonic() - started < 120  # 12 s on a quiet machine
    assert not (tmp_path / "runs").exists()


def test_what_was_downloaded_is_used_at_once(hub, downloaded: Path) -> None:
    hub(free_port())
    started = time.monotonic()
    tokenizer = load_tokenizer("owner/name")
    assert load_context("owner/name", tokenizer) == 64
    assert load_model("owner/name").config.hidden_size == 16
    assert local_folder("owner/name") == downloaded
    assert time.monotonic() - started < 20, "the library's own attempts would take minutes"


def test_half_a_download_names_the_command_that_completes_it(hub, downloaded: Path) -> None:
    hub(free_port())
    for file in downloaded.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(ValueError, match=r"'owner/name'.*run 'hf download owner/name'"):
        load_model("owner/name")


def test_a_hub_that_comes_back_within_seconds_is_waited_for(hub, capsys) -> None:
    port = free_port()
    address = hub(port)
    with answering(port, after=0.5):
        assert reach.at_hand("owner/name") == "owner/name"
    assert f"{address} does not answer" in capsys.readouterr().err


def test_a_hub_that_is_busy_is_left_to_its_library(hub, downloaded: Path) -> None:
    port = free_port()
    hub(port)
    with answering(port):
        assert reach.at_hand("owner/name") == "owner/name"


def test_one_quick_try_for_a_download_does_not_stand_for_a_patient_one(
    hub, downloaded: Path
) -> None:
    port = free_port()
    hub(port)
    assert reach.at_hand("owner/name") == str(downloaded)
    with answering(port):
        assert reach.at_hand("owner/other") == "owner/other"


def test_what_begins_with_a_folder_here_is_a_path_and_asks_nobody(
    hub, monkeypatch, tmp_path: Path
) -> None:
    hub(free_port())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    load_any = (load_tokenizer, load_model, local_folder, lambda name: load_context(name, None))
    for load in load_any:
        with pytest.raises(ValueError, match=r"'owner' is a folder.*hf download owner/name' first"):
            load("owner/name")
    assert reach._last == {}


def test_what_was_downloaded_is_of_the_hub_whatever_lies_here(
    hub, downloaded: Path, monkeypatch, tmp_path: Path
) -> None:
    hub(free_port())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    assert reach.is_hub_name("owner/name") and not reach.is_hub_name("owner/other")
    assert reach.at_hand("owner/name") == str(downloaded)


def test_offline_mode_and_local_paths_ask_nobody(
    hub, monkeypatch, downloaded: Path, tmp_path: Path
) -> None:
    hub(free_port())
    for name in (str(tmp_path), "runs/a/critic", "./name", "model.gguf/x/y"):
        assert reach.at_hand(name) == name
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert reach.at_hand("owner/name") == "owner/name"
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set: run 'hf download owner/other'"):
        reach.at_hand("owner/other")
    assert reach._last == {}


# --- data sets -----------------------------------------------------------------------------------

ROWS = [{"prompt": "3 + 4?", "answer": "7"}, {"prompt": "1 + 1?", "answer": "2"}]


@pytest.fixture
def data_hub(hub, monkeypatch, tmp_path: Path) -> Callable[[int], str]:
    """`hub` for data sets too, with an empty cache of their library."""
    config = pytest.importorskip("datasets").config
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "prepared")
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)

    def set_address(port: int) -> str:
        monkeypatch.setattr(config, "HF_ENDPOINT", f"http://127.0.0.1:{port}")
        return hub(port)

    return set_address


def write_rows(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    return folder


@pytest.fixture
def downloaded_set(tmp_path: Path) -> Path:
    """owner/set as 'hf download --repo-type dataset' leaves it, without the list of its files,
    for which it returns the place."""
    place, commit = tmp_path / "hub/datasets--owner--set", "a" * 40
    write_rows(place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs/main").write_text(commit)
    return place / "trees" / f"{commit}.json"


def write_list(place: Path, *names: str) -> None:
    """The list of a data set's files, by the hub's library."""
    cache = pytest.importorskip("huggingface_hub._tree_cache")
    files = {name: cache.TreeCacheEntry(size=1, blob_id="a") for name in names}
    cache.write_tree_cache(str(place.parents[1]), place.stem, files)
    assert place.is_file()


@pytest.mark.parametrize("offline", [False, True])
def test_a_downloaded_data_set_is_used_at_once(
    offline: bool, data_hub, downloaded_set: Path, monkeypatch, capsys
) -> None:
    write_list(downloaded_set, "train.jsonl")
    data_hub(free_port())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", offline)
    started = time.monotonic()
    assert rows("owner/set") == ROWS
    assert time.monotonic() - started < 20, "the library's own attempts take minutes"
    assert (reach._last == {}) == offline
    assert "some may be missing" not in capsys.readouterr().err


def test_a_data_set_that_may_lack_files_is_used_with_a_warning(
    data_hub, downloaded_set: Path, monkeypatch, capsys
) -> None:
    data_hub(free_port())
    monkeypatch.setattr(reach, "PATIENCE", 1.0)
    for _ in range(2):
        require_source("owner/set")
    assert capsys.readouterr().err.count("run 'hf download --repo-type dataset owner/set'") == 1
    write_list(downloaded_set, "train.jsonl", "train-2.jsonl")
    with pytest.raises(ValueError, match="does not answer"):
        require_source("owner/set")


def test_a_data_set_that_was_loaded_earlier_is_used_at_once(
    data_hub, monkeypatch, tmp_path: Path
) -> None:
    import datasets

    port = free_port()
    address = data_hub(port)
    # Of a folder, the library makes the same files as of the hub, under another name.
    datasets.load_dataset(str(write_rows(tmp_path / "set")))
    (made,) = (tmp_path / "prepared/set").glob("*/*/*/dataset_info.json")
    target = tmp_path / "prepared/owner___set/default" / made.parents[1].name / made.parent.name
    made.parent.rename(shutil.copytree(made.parent, target).with_suffix(".old"))
    info = json.loads((target / "dataset_info.json").read_text()) | {"config_name": "default"}
    (target / "dataset_info.json").write_text(json.dumps(info))
    started = time.monotonic()
    assert rows("owner/set") == ROWS
    assert time.monotonic() - started < 20, "the library's own attempts take minutes"
    assert reach._last[address].reason and not reach._last[address].patient
    monkeypatch.setattr(reach, "PATIENCE", 1.0)
    assert not datasets.config.HF_HUB_OFFLINE
    with pytest.raises(ValueError, match="hf download --repo-type dataset owner/other"):
        rows("owner/other")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    assert rows("owner/set") == ROWS


def test_a_data_file_that_is_not_here_is_not_searched_for_on_the_hub(
    data_hub, monkeypatch, tmp_path: Path
) -> None:
    data_hub(free_port())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    for name, reason in (("owner/set", "'owner' is a folder"), ("set.txt", "extension '.txt'")):
        for read in (rows, require_source):
            with pytest.raises(ValueError, match=reason):
                read(name)
    for name in ("owner/set@test", "gsm8k@test", "./set"):
        with pytest.raises(ValueError, match="there is no data set"):
            require_source(name)
    with pytest.raises(ValueError, match=r"extension '\.jsonl@train'"):
        require_source("set.jsonl@train")
    assert reach._last == {}


def test_a_known_data_set_is_of_the_hub_whatever_lies_here(
    data_hub, monkeypatch, tmp_path: Path
) -> None:
    data_hub(free_port())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reach, "PATIENCE", 1.0)
    (tmp_path / "openai").mkdir()
    for read in (rows, require_source):
        with pytest.raises(ValueError, match="hf download --repo-type dataset openai/gsm8k' while"):
            read("gsm8k")
    with pytest.raises(ValueError, match="'openai' is a folder"):
        require_source("openai/gsm8k")
