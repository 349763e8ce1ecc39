"""What a plug-in for a trainer checks before it sends, and how it reads the reply."""

from __future__ import annotations

import math
import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from genac.client.messages import Advantages, ChatMessage, ResponseAdvantages
from genac.integrations.trajectories import Settings, Trajectory, token_streams

ROOT = Path(__file__).parents[2]
URL = "http://127.0.0.1:8077"
ROW = Trajectory("u0_1_0", "u0", "6 a+3>", (5, 6), (7, 8, 9), 1.0)


def reply(*streams: tuple[float, ...] | None) -> Advantages:
    parts = [
        ResponseAdvantages(
            boundaries=(0,), values=(0.5,), spreads=(None,), advantages=(0.5,), token_advantages=s
        )
        for s in streams
    ]
    return Advantages(responses=tuple(parts), version=0)


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (None, "genac.url is missing"),
        ({"timeout": 3}, "genac.url is missing"),
        ({"url": "localhost:8077"}, "http://HOST:8077"),
        ({"url": URL, "timout": 3}, "did you mean genac.timeout"),
        ({"url": URL, "lambda": 1}, "known: url, api_key_env, timeout, learn"),
        ({"url": URL, "timeout": 0}, "must be positive"),
        ({"url": URL, "timeout": math.inf}, "finite"),
        ({"url": URL, "timeout": "long"}, "number of seconds"),
        ({"url": URL, "learn": "no"}, "true or false"),
        ({"url": URL, "api_key_env": "GENAC_NO_SUCH_KEY"}, "is not set in this process"),
    ],
)
def test_a_setting_that_cannot_be_is_named_with_its_remedy(
    section: dict[str, Any] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Settings.of(section)


def test_the_key_is_read_from_the_variable_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENAC_TEST_KEY", "secret")
    settings = Settings.of({"url": URL, "api_key_env": "GENAC_TEST_KEY", "timeout": 5})
    assert settings.client().timeout == 5
    assert "secret" not in repr(settings)


# --- responses -----------------------------------------------------------------------------------


def test_a_response_is_sent_as_tokens_with_its_group_and_reward() -> None:
    message = ROW.message()
    assert message.tokens == (7, 8, 9) and message.prompt_tokens == (5, 6)
    assert message.group == "u0" and message.reward == 1.0 and message.problem == "6 a+3>"


def test_chat_messages_keep_role_and_text_and_lose_what_the_critic_does_not_read() -> None:
    chat = [{"role": "user", "content": "6 a+3>", "name": "someone"}]
    assert replace(ROW, problem=chat).message().problem == (
        ChatMessage(role="user", content="6 a+3>"),
    )


def test_a_prompt_with_a_picture_is_refused() -> None:
    chat = [{"role": "user", "content": [{"type": "image"}]}]
    with pytest.raises(ValueError, match=r"u0_1_0 .* no text \(list\)"):
        replace(ROW, problem=chat).message()


@pytest.mark.parametrize("reward", [None, math.nan])
def test_a_missing_reward_is_null_and_never_0(reward: float | None) -> None:
    assert replace(ROW, reward=reward).message().reward is None


@pytest.mark.parametrize("reward", [-0.5, 1.01, math.inf])
def test_a_reward_beyond_0_and_1_is_refused(reward: float) -> None:
    with pytest.raises(ValueError, match=r"u0_1_0 is .* outcomes in"):
        replace(ROW, reward=reward).message()


def test_a_float32_sum_that_passes_1_by_rounding_is_1() -> None:
    assert replace(ROW, reward=1.0000001).message().reward == 1.0


# --- replies -------------------------------------------------------------------------------------


def test_every_token_gets_its_advantage_and_a_response_without_a_reward_gets_zeros() -> None:
    rows = [ROW, replace(ROW, reward=math.nan)]
    assert token_streams(reply((0.1, 0.2, 0.3), None), rows) == [(0.1, 0.2, 0.3), (0.0, 0.0, 0.0)]


@pytest.mark.parametrize("streams", [(), ((0.1, 0.2),), (None,), ((0.1,) * 3,) * 2])
def test_a_reply_that_does_not_fit_the_batch_is_no_advantage(streams: tuple[Any, ...]) -> None:
    with pytest.raises(RuntimeError, match="of one version of genac"):
        token_streams(reply(*streams), [ROW])


# --- packaging -----------------------------------------------------------------------------------


def test_entry_points_name_modules_that_exist() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert set(groups) == {"verl.plugins", "inspect_ai"}
    for group in groups.values():
        assert all(find_spec(name) is not None for name in group.values())


def test_without_verl_the_plug_in_says_which_release_it_needs() -> None:
    if find_spec("verl") is not None:
        pytest.skip("verl is installed here")
    code = "import genac, genac.integrations; import genac.integrations.verl"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "ImportError: genac.integrations.verl needs verl>=0.9,<0.10" in done.stderr
    assert "the trainer 'genac' is not registered with verl" in done.stderr


def test_what_the_plug_ins_share_needs_no_torch() -> None:
    heavy = ("torch", "transformers", "numpy")
    code = (
        "import sys; import genac.integrations.trajectories; "
        f"print(*[m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
