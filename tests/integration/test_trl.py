"""GenACTrainer inside TRL, with a critic that is a formula: what reaches the loss, and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl")

from datasets import Dataset
from trl_runs import PROMPTS, Ramp, config, letters, ramp, trainer

from genac.client import Gone, Learn, Learnt, Version
from genac.integrations.trl import GenACTrainer


def test_the_advantage_of_every_token_reaches_the_loss(tiny_folder: Path, tmp_path: Path) -> None:
    critic = Ramp()
    run = trainer(tiny_folder, critic, config(tmp_path, max_steps=1))
    run.train()
    (inputs,) = run.losses
    expected = {
        r.tokens: torch.tensor(ramp(r.reward, len(r.tokens))) for r in critic.requests[0].responses
    }
    for ids, mask, advantages in zip(
        inputs["completion_ids"], inputs["completion_mask"], inputs["advantages"], strict=True
    ):
        length = int(mask.sum())
        assert torch.equal(advantages[:length], expected[tuple(ids[:length].tolist())])
        assert not advantages[length:].any()
    assert len({r.reward for r in critic.requests[0].responses}) > 1


def test_every_supported_loss_reads_the_advantage_of_each_token(
    tiny_folder: Path, tmp_path: Path
) -> None:
    run = trainer(tiny_folder, Ramp(), config(tmp_path, max_steps=1))
    run.train()
    inputs = run.losses[0]
    other = inputs | {"advantages": inputs["advantages"].clone()}
    other["advantages"][0, 0] += 1.0
    for name in ("dapo", "grpo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo"):
        run.loss_type = name
        one, two = (run.compute_loss(run.model, i) for i in (inputs, other))
        assert torch.isfinite(one) and one != two, name


def test_the_critic_judges_and_learns_once_per_generation_batch(
    tiny_folder: Path, tmp_path: Path
) -> None:
    critic = Ramp()
    reuse = {"num_iterations": 2, "steps_per_generation": 4, "gradient_accumulation_steps": 2}
    run = trainer(tiny_folder, critic, config(tmp_path, max_steps=8, **reuse))
    run.train()  # 8 optimiser steps of 2 micro-batches: 2 generation batches, each used 8 times
    assert len(run.losses) == 16
    assert [len(r.responses) for r in critic.requests] == [16, 16]
    assert [r.step for r in critic.requests] == [0, 1]
    assert [lesson.estimates for lesson in critic.lessons] == [r.id for r in critic.requests]
    groups = [r.group for r in critic.requests[0].responses]
    assert groups == [str(i // 2) for i in range(16)]
    logged = [line for line in run.state.log_history if "critic/reward" in line]
    assert [line["critic/mse"] for line in logged] == [0.25, 0.25]


def test_an_evaluation_neither_queries_nor_trains_the_critic(
    tiny_folder: Path, tmp_path: Path
) -> None:
    critic = Ramp()
    data = Dataset.from_dict({"prompt": PROMPTS[:4]})
    run = trainer(tiny_folder, critic, config(tmp_path), eval_dataset=data)
    metrics = run.evaluate()
    assert "eval_reward" in metrics and not critic.requests and not critic.lessons


def test_one_response_per_problem_is_enough(tiny_folder: Path, tmp_path: Path) -> None:
    critic = Ramp()
    run = trainer(tiny_folder, critic, config(tmp_path, num_generations=1, max_steps=1))
    before = [p.detach().clone() for p in run.model.parameters()]
    run.train()
    assert [r.group for r in critic.requests[0].responses] == ["0", "1", "2", "3"]
    # GRPO's advantages would all be 0, and no weight would move.
    assert any(not torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))


def test_one_response_in_a_whole_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a generation batch has 1 response"):
        config(tmp_path, num_generations=1, per_device_train_batch_size=1)


def test_a_response_without_a_reward_trains_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    def every_other(completions: list[str], **_: Any) -> list[float | None]:
        return [None if i % 2 else 1.0 for i in range(len(completions))]

    critic = Ramp()
    run = trainer(tiny_folder, critic, config(tmp_path, max_steps=1), every_other)
    run.train()
    assert [r.reward for r in critic.requests[0].responses] == [1.0, None, 1.0, None]
    moved = run.losses[0]["advantages"].ne(0).any(-1)
    assert moved.sum() == 2


def test_rewards_are_weighted_as_in_trl(tiny_folder: Path, tmp_path: Path) -> None:
    def one(completions: list[str], **_: Any) -> list[float]:
        return [1.0] * len(completions)

    def two(completions: list[str], **_: Any) -> list[float | None]:
        return [2.0, None] * (len(completions) // 2)

    critic = Ramp()
    args = config(tmp_path, max_steps=1, reward_weights=[0.5, 0.25])
    trainer(tiny_folder, critic, args, [one, two]).train()
    assert [r.reward for r in critic.requests[0].responses] == [1.0, 0.5, 1.0, 0.5]


def test_a_reward_outside_the_scores_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    def centred(completions: list[str], **_: Any) -> list[float]:
        return [-0.5] * len(completions)

    run = trainer(tiny_folder, Ramp(), config(tmp_path), centred)
    with pytest.raises(ValueError, match=r"reward is -0\.5; .*\[0, 1\].*reward_weights"):
        run.train()


def test_prompts_and_sampled_log_probabilities_are_sent_as_they_are(
    tiny_folder: Path, tmp_path: Path
) -> None:
    def rollout(prompts: list[Any], run: Any) -> dict[str, list[Any]]:
        """What TRL's vLLM mode returns: tokens, and the log-probabilities they were drawn with."""
        ids = run.processing_class(text=prompts)["input_ids"]
        logprobs = [[-0.5, None if i == 0 else -0.25] for i in range(len(prompts))]
        return {"prompt_ids": ids, "completion_ids": [[5, 6]] * len(ids), "logprobs": logprobs}

    critic = Ramp()
    run = trainer(tiny_folder, critic, config(tmp_path, max_steps=1), rollout_func=rollout)
    run.train()
    first, second, *_ = critic.requests[0].responses
    assert second.problem == PROMPTS[0] and second.tokens == (5, 6)
    assert second.prompt_tokens == tuple(run.processing_class(text=PROMPTS[0])["input_ids"])
    assert second.logprobs == (-0.5, -0.25)
    assert first.logprobs is None  # vLLM had no number for one of its tokens


def test_tokens_of_others_in_a_rollout_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    def rollout(prompts: list[Any], run: Any) -> dict[str, list[Any]]:
        ids = run.processing_class(text=prompts)["input_ids"]
        answers = {"completion_ids": [[5, 6]] * len(ids), "logprobs": [[-1.0, -1.0]] * len(ids)}
        return {"prompt_ids": ids, "env_mask": [[1, 0]] * len(ids), **answers}

    run = trainer(tiny_folder, Ramp(), config(tmp_path), rollout_func=rollout)
    with pytest.raises(ValueError, match="env_mask"):
        run.train()


def test_adapters_train_and_the_base_rests(tiny_folder: Path, tmp_path: Path) -> None:
    from peft import LoraConfig

    adapters = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    run = trainer(tiny_folder, Ramp(), config(tmp_path), peft_config=adapters)
    frozen = {n: p.detach().clone() for n, p in run.model.named_parameters() if "lora" not in n}
    run.train()
    after = dict(run.model.named_parameters())
    assert all(torch.equal(p, after[n]) for n, p in frozen.items())
    assert any(p.any() for n, p in after.items() if "lora_B" in n)


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(tiny_folder: Path, tmp_path: Path) -> None:
    def losses(run: Any) -> list[float]:
        return [line["loss"] for line in run.state.log_history if "loss" in line]

    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole = trainer(tiny_folder, Ramp(), config(tmp_path / "whole", **saving))
    whole.train()
    critic = Ramp()
    again = trainer(tiny_folder, critic, config(tmp_path / "again", **saving))
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert losses(again) == losses(whole)
    assert critic.step == 4 and [r.step for r in critic.requests] == [2, 3]


def test_a_loop_that_is_run_again_sends_requests_of_their_own(
    tiny_folder: Path, tmp_path: Path
) -> None:
    saving = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    critic = Ramp()
    run = trainer(tiny_folder, critic, config(tmp_path, **saving))
    run.train()
    run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))  # as in a notebook
    assert [r.step for r in critic.requests] == [0, 1, 1]
    assert len({r.id for r in critic.requests}) == 3


def test_a_checkpoint_without_a_critic_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    import shutil

    args = config(tmp_path, save_strategy="steps", save_steps=1, max_steps=1)
    trainer(tiny_folder, Ramp(), args).train()
    place = tmp_path / "checkpoint-1"
    shutil.rmtree(place / "critic")
    with pytest.raises(ValueError, match="checkpoint-1 holds no critic"):
        trainer(tiny_folder, Ramp(), args).train(resume_from_checkpoint=str(place))


def test_a_frozen_critic_only_judges(tiny_folder: Path, tmp_path: Path) -> None:
    critic = Ramp()
    run = trainer(tiny_folder, critic, config(tmp_path), train_critic=False)
    run.train()
    assert len(critic.requests) == 2 and not critic.lessons
    assert all(request.id is None for request in critic.requests)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("loss_type", "vespo", "loss_type 'vespo' does not go with a critic"),
        ("importance_sampling_level", "sequence", "mean of their advantages"),
        ("multi_objective_aggregation", "normalize_then_sum", "sum_then_normalize"),
        ("off_policy_mask_threshold", 0.5, "off_policy_mask_threshold 0.5"),
    ],
)
def test_options_that_want_one_advantage_per_response_are_refused(
    tmp_path: Path, option: str, value: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):  # before the model, which does not exist
        trainer_of_nothing(config(tmp_path, **{option: value}))


def test_tools_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tools is set, but GenACTrainer supports"):
        trainer_of_nothing(config(tmp_path), tools=[letters])


def test_an_idle_scale_of_rewards_is_warned_of(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="scale_rewards 'group' has no effect"):
        trainer(tiny_folder, Ramp(), config(tmp_path, scale_rewards="group"))


@pytest.mark.parametrize(
    ("critic", "message"),
    [({}, "critic is a dict; it must be a LearningCritic"), ("no/critic", "no/critic")],
)
def test_a_critic_that_is_none_is_refused(tmp_path: Path, critic: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):  # before the model, which does not exist
        trainer_of_nothing(config(tmp_path), critic)


def test_a_critic_of_another_actor_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    class Other(Ramp):
        def describe_version(self) -> Version:
            return Version(version=0, step=0, critic={"actor_tokens": 7})

    with pytest.raises(ValueError, match="reads an actor of 7 tokens, but the trainer's tokenizer"):
        trainer(tiny_folder, Other(), config(tmp_path))


def test_estimates_that_a_restarted_service_lost_are_requested_again(
    tiny_folder: Path, tmp_path: Path
) -> None:
    class Restarted(Ramp):
        def learn(self, learn: Learn) -> Learnt:
            if len(self.requests) == 1:
                raise Gone("not kept")
            return super().learn(learn)

    critic = Restarted()
    trainer(tiny_folder, critic, config(tmp_path, max_steps=1)).train()
    first, again = critic.requests
    assert first.responses == again.responses and first.step == again.step == 0
    assert [lesson.estimates for lesson in critic.lessons] == [again.id]


def trainer_of_nothing(args: Any, critic: Any = None, **options: Any) -> None:
    GenACTrainer("no/model", letters, args, critic=Ramp() if critic is None else critic, **options)
