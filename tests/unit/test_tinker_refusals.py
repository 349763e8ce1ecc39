"""What a config may not request of a Tinker service, and the messages before a run."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from tinker_server import TinkerServer

from genac.config.recipes import resolve
from genac.distributed.tinker.build import require_supported, say_limits
from genac.distributed.tinker.dialects import DIALECTS, MEANING, table
from genac.distributed.tinker.service import answer, within

DOCS = Path(__file__).parents[2] / "docs"
RANK = 4


@pytest.fixture(scope="module")
def server(tiny_folder: Path) -> Iterator[str]:
    with TinkerServer(tiny_folder) as url:
        yield url


def config(folder: Path, url: str | None = "http://127.0.0.1:9", **more: Any) -> Any:
    values: dict[str, Any] = {
        "actor": {"model_name_or_path": str(folder), "lora": {"rank": RANK}},
        "critic": {"lora": {"rank": RANK}},
        "hardware": {"backend": "tinker", "tinker": {"url": url}},
    }
    for key, value in more.items():
        *path, last = key.split("__")
        place = values
        for name in path:
            place = place.setdefault(name, {})
        place[last] = value
    return resolve({}, values)


BAD = {
    "rank": ({"critic__lora__rank": 0}, r"critic.lora.rank is 0.*rank 32"),
    "alpha": ({"actor__lora__alpha": 16}, "actor.lora.alpha is 16"),
    "modules": ({"actor__lora__target_modules": ["q_proj"]}, "leave the default"),
    "entropy": ({"actor__loss__entropy_coef": 0.1}, "tells no entropies"),
    "actor's temperature": ({"rollout__temperature": 0.7}, "rollout.temperature is 0.7"),
    "critic's temperature": ({"critic__generative__temperature": 0.0}, "set 1"),
    "processes": ({"hardware__processes": 2}, "hardware.processes is 2"),
    "engine": ({"hardware__engine": "vllm"}, "hardware.engine is 'vllm'.*the service samples"),
    "actor's engine": ({"actor__engine": "vllm"}, "actor.engine is 'vllm'.*the service samples"),
    "value head": ({"algorithm": "ppo"}, "value head.*ppo.*critic.kind generative"),
    "no model": ({"actor__model_name_or_path": None}, "set actor.model_name_or_path"),
    "two models": (
        {"hardware__tinker__base_model": "one", "critic__model_name_or_path": "two"},
        "leave one of them out",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_no_service_can_do_is_refused_with_the_remedy(tiny_folder, case):
    changes, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        require_supported(config(tiny_folder, **changes), critic=True)


def test_the_hosted_service_needs_a_key(tiny_folder, monkeypatch, tmp_path):
    for name in ("TINKER_API_KEY", "TINKER_CREDENTIAL_CMD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match="set the variable TINKER_API_KEY"):
        require_supported(config(tiny_folder, url=None), critic=True)


def test_an_address_that_does_not_answer_is_named(tiny_folder, monkeypatch):
    monkeypatch.setattr("genac.distributed.tinker.service.CONNECT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"{url} cannot be used .no answer within"):
            require_supported(config(tiny_folder, url=url), critic=True)


def test_an_address_at_which_nothing_listens_is_named(tiny_folder, monkeypatch):
    monkeypatch.setattr("genac.distributed.tinker.service.CONNECT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(ValueError, match=f"{url} cannot be used.*start the server"):
        require_supported(config(tiny_folder, url=url), critic=True)


def test_a_model_that_the_server_has_not_got_is_named_with_those_it_has(server, tiny_folder):
    cfg = config(tiny_folder, url=server, hardware__tinker__base_model="Qwen/Qwen3-8B")
    with pytest.raises(ValueError, match=rf"no model 'Qwen/Qwen3-8B'; it has {tiny_folder}"):
        require_supported(cfg, critic=True)


def test_an_sdk_that_a_server_does_not_understand_is_refused(tiny_folder):
    cfg = config(tiny_folder, hardware__tinker__dialect="skyrl")
    with pytest.raises(ValueError, match=r"'skyrl', which the installed SDK.*tinker<=0.24.1"):
        require_supported(cfg, critic=True)


def test_what_a_server_does_otherwise_is_reported_at_start(server, tiny_folder, recwarn):
    exact = {"readout": "expected", "exact_score_gradient": True}
    cfg = config(
        tiny_folder, url=server, hardware__tinker__dialect="skyrl", critic__generative=exact
    )
    say_limits(cfg)
    text = "\n".join(str(one.message) for one in recwarn)
    for name in ("several_targets", "named_probs", "clips_gradients", "snapshots", "fresh_moments"):
        assert MEANING[name][1] in text
    assert MEANING["any_loss"][1] not in text  # it changes no result


def test_a_call_without_an_answer_ends_at_its_deadline():
    with pytest.raises(TimeoutError, match=r"a thing within 0.05 s.*hardware.tinker.timeout"):
        within(0.05, lambda: time.sleep(5), "a thing")
    with pytest.raises(TimeoutError, match=r"a thing within 0.05 s"):
        answer(Future(), 0.05, "a thing")


def test_the_page_holds_the_table_of_dialects():
    assert table() in (DOCS / "tinker.md").read_text()
    assert set(MEANING) | {"sdk"} == set(vars(DIALECTS["hosted"]))
