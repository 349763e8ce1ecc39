"""A critic that learns: what it promises to repeat, to remember and to refuse."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from service import Start, equal, micro_start, one_step, weights

from genac.client.errors import Gone
from genac.client.messages import Learn, Response, Responses, SuccessRate
from genac.config.models import OptimizerConfig
from genac.config.run import CreditConfig
from genac.scoring import Critic
from genac.service import LearningCritic


@pytest.fixture(scope="module")
def start(stages: Path) -> Start:
    return micro_start(stages)


@pytest.fixture
def critic(start: Start) -> LearningCritic:
    return start.load()


# --- resuming ------------------------------------------------------------------------------------


def test_a_loaded_checkpoint_goes_on_to_the_bit(start: Start, tmp_path: Path) -> None:
    first, resumed = start.load(), start.load()
    for step in range(2):
        one_step(first, start.steps[step], step)
    first.save(tmp_path / "saved")
    expected = one_step(first, start.steps[2], 2)
    resumed.load(tmp_path / "saved")
    assert (resumed.version, resumed.step) == (2, 2)
    assert one_step(resumed, start.steps[2], 2) == expected
    assert equal(weights(resumed, tmp_path / "b"), weights(first, tmp_path / "a"))


def test_adapters_go_on_to_the_bit_too(start: Start, tmp_path: Path) -> None:
    """A critic whose card says that adapters of it are trained."""
    shutil.copytree(start.critic, tmp_path / "critic")
    card = json.loads((tmp_path / "critic/critic.json").read_text())
    card["config"]["lora"] |= {"rank": 4, "alpha": 8}
    (tmp_path / "critic/critic.json").write_text(json.dumps(card))
    adapted = replace(start, critic=tmp_path / "critic")
    first, resumed = adapted.load(), adapted.load()
    one_step(first, start.steps[0], 0)
    first.save(tmp_path / "saved")
    resumed.load(tmp_path / "saved")
    assert one_step(resumed, start.steps[1], 1) == one_step(first, start.steps[1], 1)
    own = weights(first, tmp_path / "a")
    assert equal(weights(resumed, tmp_path / "b"), own)
    assert not equal(weights(start.load(), tmp_path / "c"), own)


def test_what_was_learnt_behind_the_last_checkpoint_is_learnt_again_after_a_kill(
    start: Start, tmp_path: Path
) -> None:
    whole, killed = start.load(), start.load(folder=tmp_path / "own", save_every=2)
    for step in range(3):
        one_step(whole, start.steps[step], step)
        last = one_step(killed, start.steps[step], step)
    assert sorted(p.name for p in (tmp_path / "own").glob("step-*")) == [
        "step-000000",
        "step-000002",
    ]
    killed.set_success_rate(SuccessRate(rate=0.25))
    resumed = start.load(folder=tmp_path / "own", save_every=2)
    assert resumed.step == 3 and resumed.critic.rate.value == 0.25
    assert equal(weights(resumed, tmp_path / "a"), weights(whole, tmp_path / "b"))
    again = Learn(request_id="learn-2", estimates="ask-2")
    assert resumed.learn(again) == last and resumed.step == 3  # not twice
    # The optimiser's state too, and then the journal is short again.
    whole.set_success_rate(SuccessRate(rate=0.25))
    assert one_step(resumed, start.steps[3], 3) == one_step(whole, start.steps[3], 3)
    assert equal(weights(resumed, tmp_path / "a"), weights(whole, tmp_path / "b"))
    assert [p.name for p in sorted((tmp_path / "own/learnt").iterdir())] == [
        "000002.npz",
        "000003.npz",
    ]


def test_a_lesson_that_fails_leaves_nothing_behind(start: Start, tmp_path: Path) -> None:
    critic = start.load(folder=tmp_path / "own")
    responses = start.steps[0]
    critic.values(Responses(responses=responses, id="v"))
    before = critic.critic.rate.state()
    learner = critic.critic.runtime.learner
    broken: Any = critic.critic.runtime
    broken.learner = None
    with pytest.raises(AttributeError):
        critic.learn(Learn(request_id="a", estimates="v"))
    broken.learner = learner
    assert critic.step == 0 and critic.critic.rate.state() == before
    assert not list((tmp_path / "own/learnt").iterdir())
    assert critic.learn(Learn(request_id="a", estimates="v")).step == 1


def test_what_was_learnt_is_learnt_again_where_all_checkpoints_were_deleted(
    start: Start, tmp_path: Path
) -> None:
    critic = start.load(folder=tmp_path / "own")
    for step in range(2):
        last = one_step(critic, start.steps[step], step)
    shutil.rmtree(tmp_path / "own/step-000000")
    (tmp_path / "own/.step-000009.tmp").mkdir()  # a writer was killed
    resumed = start.load(folder=tmp_path / "own")
    assert resumed.step == 2 and resumed.learnt("learn-1") == last
    assert equal(weights(resumed, tmp_path / "a"), weights(critic, tmp_path / "b"))
    assert not (tmp_path / "own/.step-000009.tmp").exists()


def test_lessons_to_which_no_checkpoint_leads_are_refused(start: Start, tmp_path: Path) -> None:
    """Else another critic would learn them once its steps got there."""
    critic = start.load(folder=tmp_path / "own")
    for step in range(3):
        one_step(critic, start.steps[step], step)
    (tmp_path / "own/learnt/000001.npz").unlink()
    with pytest.raises(ValueError, match=r"holds 000002\.npz, but .* lead to step 1 only"):
        start.load(folder=tmp_path / "own")
    shutil.rmtree(tmp_path / "own/step-000000")
    (tmp_path / "own/learnt/000000.npz").unlink()
    with pytest.raises(ValueError, match=r"lead to step 0 only; .* delete 1 lessons"):
        start.load(folder=tmp_path / "own")


def test_estimates_train_once_even_where_the_engine_got_no_weights(
    start: Start, critic: LearningCritic, monkeypatch: pytest.MonkeyPatch
) -> None:
    critic.values(Responses(responses=start.steps[0], id="v"))

    def broken(version: int) -> None:
        raise ConnectionError("the engine is gone")

    monkeypatch.setattr(critic.critic.runtime, "publish", broken)
    with pytest.raises(ConnectionError):
        critic.learn(Learn(request_id="a", estimates="v"))
    assert critic.learn(Learn(request_id="a", estimates="v")).step == 1
    with pytest.raises(ValueError, match="were learnt by the request 'a'"):
        critic.learn(Learn(request_id="b", estimates="v"))


def test_a_checkpoint_of_another_seed_or_none_is_refused(start: Start, tmp_path: Path) -> None:
    critic = start.load()
    critic.save(tmp_path / "saved")
    with pytest.raises(ValueError, match="written with the seed 0, this critic has 7"):
        start.load(seed=7).load(tmp_path / "saved")
    with pytest.raises(ValueError, match="holds no checkpoint"):
        critic.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="no folder for checkpoints"):
        critic.save()


def test_a_saved_model_is_an_ordinary_critic(start: Start, tmp_path: Path) -> None:
    critic = start.load(actor_size="1.7B")
    one_step(critic, start.steps[0], 0)
    critic.save_model(tmp_path / "critic")
    scorer = Critic.from_pretrained(tmp_path / "critic")
    assert scorer.describe()["actor_size"] == "1.7B"
    assert scorer.describe()["success_rate"] == critic.critic.rate.value


# --- repeated requests ---------------------------------------------------------------------------


def test_a_repeated_request_gets_the_first_reply_whatever_was_learnt_since(
    start: Start, critic: LearningCritic
) -> None:
    responses = Responses(responses=start.steps[0], id="a", step=0)
    first = critic.advantages(responses)
    learnt = critic.learn(Learn(request_id="l", estimates="a"))
    assert critic.advantages(responses) == first and first.version == 0
    assert critic.learn(Learn(request_id="l", estimates="a")) == learnt == critic.learnt("l")
    assert critic.version == 1 and critic.learnt("other") is None


def test_an_id_belongs_to_one_request(start: Start, critic: LearningCritic) -> None:
    responses = Responses(responses=start.steps[0], id="a")
    critic.values(responses)
    with pytest.raises(ValueError, match="'a' was another request's"):
        critic.advantages(responses)
    critic.learn(Learn(request_id="l", estimates="a"))
    with pytest.raises(ValueError, match="request_id 'l' was another request's"):
        critic.learn(Learn(request_id="l", responses=start.steps[1]))
    with pytest.raises(ValueError, match="'a' were learnt by the request 'l'"):
        critic.learn(Learn(request_id="m", estimates="a"))


def test_estimates_make_room_for_newer_ones(
    start: Start, critic: LearningCritic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genac.service.kept.KEPT_TOKENS", 1)
    critic.values(Responses(responses=start.steps[0], id="a"))
    critic.values(Responses(responses=start.steps[1], id="b"))
    with pytest.raises(Gone, match=r"estimates 'a' are not kept.*with a new id"):
        critic.learn(Learn(request_id="l", estimates="a"))
    assert critic.learn(Learn(request_id="l", estimates="b")).step == 1  # the newest stay
    with pytest.raises(Gone, match="estimates 'c' are not kept"):
        critic.learn(Learn(request_id="m", estimates="c"))


def test_replies_make_room_for_newer_ones(
    start: Start, critic: LearningCritic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genac.service.kept.KEPT_NUMBERS", 1)
    first, second = (Responses(responses=start.steps[i], id=f"{i}") for i in range(2))
    critic.values(first)
    reply = critic.values(second)
    one_step(critic, start.steps[2], 2)
    assert critic.values(second).version == 1 and reply.version == 0  # it was forgotten
    with pytest.raises(Gone, match="estimates '0' are not kept"):
        critic.learn(Learn(request_id="l", estimates="0"))


# --- learning ------------------------------------------------------------------------------------


def test_rewards_may_come_with_learn(start: Start, tmp_path: Path) -> None:
    early, late = start.load(), start.load()
    for critic in (early, late):  # or the first rewards would be in the prompts of one alone
        critic.set_success_rate(SuccessRate(rate=0.5))
    bare = tuple(r.model_copy(update={"reward": None}) for r in start.steps[0])
    early.values(Responses(responses=start.steps[0], id="a"))
    late.values(Responses(responses=bare, id="a"))
    expected = early.learn(Learn(request_id="l", estimates="a"))
    rewards = tuple(r.reward for r in start.steps[0])
    assert late.learn(Learn(request_id="l", estimates="a", rewards=rewards)) == expected
    assert equal(weights(early, tmp_path / "a"), weights(late, tmp_path / "b"))


def test_learning_from_responses_estimates_them_first(
    start: Start, critic: LearningCritic, tmp_path: Path
) -> None:
    before = weights(critic, tmp_path / "a")
    learnt = critic.learn(Learn(request_id="l", responses=start.steps[0]))
    assert learnt.version == 1 and "critic/reward" in learnt.metrics
    assert not equal(before, weights(critic, tmp_path / "b"))


def test_older_estimates_still_train(start: Start, critic: LearningCritic) -> None:
    critic.advantages(Responses(responses=start.steps[0], id="a"))
    one_step(critic, start.steps[1], 1)
    learnt = critic.learn(Learn(request_id="l", estimates="a"))
    assert learnt.step == 2 and np.isfinite(learnt.metrics["critic/loss"])


def test_the_success_rate_is_in_the_prompts(start: Start, critic: LearningCritic) -> None:
    responses = Responses(responses=start.steps[0][:1], rationales=True)
    replies = []
    for rate in (0.0, 1.0, None):
        critic.set_success_rate(SuccessRate(rate=rate))
        replies.append(critic.values(responses))
    assert replies[0] != replies[1]


def test_groups_of_unequal_size_get_the_advantages_that_each_has_alone(
    start: Start, critic: LearningCritic
) -> None:
    one, other = start.steps[0][:4], start.steps[0][4:6]
    critic.set_success_rate(SuccessRate(rate=0.5))
    group = critic.advantages(Responses(responses=one)).responses
    both = critic.advantages(Responses(responses=(*one, *other))).responses
    assert len(both) == 6
    for a, b in zip(group, both, strict=False):
        assert a.values == b.values
        assert a.advantages == b.advantages


def test_whitening_needs_groups_of_one_size(start: Start) -> None:
    critic = start.load(credit=CreditConfig(whiten_advantages="scale"))
    with pytest.raises(ValueError, match="groups have 2, 4 responses"):
        critic.advantages(Responses(responses=start.steps[0][:6]))


def test_a_response_without_a_reward_has_no_advantages(
    start: Start, critic: LearningCritic
) -> None:
    first, *others = start.steps[0][:4]
    responses = (first.model_copy(update={"reward": None}), *others)
    reply = critic.advantages(Responses(responses=responses)).responses
    assert set(reply[0].advantages) == {None} and reply[0].token_advantages is None
    for response, row in zip(others, reply[1:], strict=True):
        assert response.tokens and row.token_advantages is not None
        assert len(row.token_advantages) == len(response.tokens)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"tokens": (5, 999)},
            "holds the token 999, but the tokenizer .* has .* another tokenizer",
        ),
        ({"tokens": (5, 6), "boundaries": (0, 3)}, "boundary 3 is beyond response 0, which has 2"),
        ({"tokens": (5, 6), "boundaries": (1,)}, "begin with .1.; the first segment starts at 0"),
        ({"tokens": (5, 6), "boundaries": (0, 1, 1)}, "do not ascend: 1 stands behind 1"),
        ({"tokens": (5, 6), "logprobs": (-1.0,)}, "has 1 logprobs for 2 tokens"),
        ({"tokens": (5,), "prompt_tokens": (999,)}, "the prompt of response 0 holds the token 999"),
    ],
)
def test_what_does_not_fit_the_actor_is_refused(
    critic: LearningCritic, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        critic.values(Responses(responses=(Response(problem="a+3>", **fields),)))


def test_learning_needs_outcomes_that_fit(start: Start, critic: LearningCritic) -> None:
    bare = tuple(r.model_copy(update={"reward": None}) for r in start.steps[0])
    critic.values(Responses(responses=bare, id="bare"))
    critic.values(Responses(responses=start.steps[0], id="scored"))
    with pytest.raises(ValueError, match="no response has a reward"):
        critic.learn(Learn(request_id="a", estimates="bare"))
    with pytest.raises(ValueError, match="no response has a reward"):
        critic.learn(Learn(request_id="a", responses=bare))
    with pytest.raises(ValueError, match="no response has a reward"):
        critic.learn(Learn(request_id="a", estimates="bare", rewards=(None,) * len(bare)))
    with pytest.raises(ValueError, match="2 rewards for 16 responses"):
        critic.learn(Learn(request_id="a", estimates="bare", rewards=(0.0, 1.0)))
    wrong = tuple(0.5 for _ in bare)
    with pytest.raises(ValueError, match=r"came with the reward \d.* and now has 0.5"):
        critic.learn(Learn(request_id="a", estimates="scored", rewards=wrong))
    assert critic.step == 0


def test_a_group_is_of_one_problem(start: Start, critic: LearningCritic) -> None:
    other = start.steps[0][0].model_copy(update={"problem": "another>"})
    with pytest.raises(ValueError, match="response 1 is of group '0' but of another problem"):
        critic.values(Responses(responses=(start.steps[0][0], other)))


def test_what_is_no_generative_critic_is_refused(start: Start, tmp_path: Path) -> None:
    (tmp_path / "run/actor").mkdir(parents=True)
    with pytest.raises(ValueError, match="is a run without a critic"):
        LearningCritic.from_pretrained(tmp_path / "run")
    with pytest.raises(ValueError, match="only a value head gives a value per token"):
        start.load(credit=CreditConfig(granularity="tokens"))
    (tmp_path / "critic.json").write_text('{"kind": "discriminative"}')
    with pytest.raises(ValueError, match="is discriminative; only a generative critic learns"):
        LearningCritic.from_pretrained(tmp_path)


def test_any_language_model_begins_as_a_critic(start: Start) -> None:
    generative = start.cfg.critic.generative
    critic = LearningCritic.from_pretrained(
        start.actor, generative=generative, optimizer=OptimizerConfig(learning_rate=1e-3)
    )
    reply = critic.values(Responses(responses=start.steps[0][:2]))
    assert len(reply.responses) == 2 and critic.describe()["actor_size"]
