"""The running critic: notes behind segments, in all stages of a small run."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import make_rollout
from killing import Killed
from micro import Values, copy_stages, results, weights

from genac.config.models import GenerativeConfig, OptimizerConfig
from genac.config.recipes import resolve
from genac.config.run import RunConfig
from genac.critics.running import RunningCritic
from genac.distributed.build import require_supported
from genac.hardware import Hardware
from genac.models.tiny import save_tiny
from genac.runs.store import Run
from genac.runtime import ModelSpec, build
from genac.scoring import Critic
from genac.service.loading import build_critic
from genac.stages.loop import Loop
from genac.stages.pipeline import train
from genac.stages.setup import Setup
from genac.stages.sft import trace_sample
from genac.stages.traces.files import read_traces
from genac.stages.traces.synthesize import running_traces, whole_path
from genac.tasks.arithmetic import check_lines
from genac.types import Rollout

RUNNING = {"generative": {"form": "running", "prompt": "compact", "max_new_tokens": 16}}


@pytest.fixture
def run(run_micro) -> Run:
    return run_micro(critic=RUNNING)


def test_all_three_stages_train_it_and_it_is_saved(run, stages, tmp_path):
    metrics = run.metrics("joint")
    assert len(metrics) == 3 and all("critic/reward" in line for line in metrics)
    with pytest.raises(ValueError, match="reads whole responses"):
        Critic.from_pretrained(run.path / "critic")
    # A trace holds each segment behind the note about what stood before it.
    folders = [f for f in stages.glob("traces-*") if (f / "traces.jsonl").exists()]
    traces = [t for f in folders for t in read_traces(f / "traces.jsonl") if t.earlier]
    assert traces
    for trace in traces:
        ends = [end for end, _, _ in trace.earlier]
        assert ends[0] == 0 and ends == sorted(set(ends)) and ends[-1] < len(trace.partial_ids)
        assert trace.earlier[0][1] == ""  # nothing to check yet
        assert all(note.count("\n") <= 1 for _, note, _ in trace.earlier)


def test_own_prompts_and_oracles_of_single_states_are_refused(micro, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text('text: "{problem}{response}{icc}<judge>"\nname: short\n')
    for more, words in (
        ({"prompt": str(own)}, "file of your own"),
        ({"too_long": "truncate"}, "truncate"),
        ({"value_samples": 1}, "value_samples"),
    ):
        with pytest.raises(ValueError, match=words):
            GenerativeConfig(**{**RUNNING["generative"], **more})
    monte_carlo = {"synthesize": {"oracle": "monte_carlo", "continuations": 2}}
    with pytest.raises(ValueError, match="judges single states"):
        train(resolve(micro(critic=RUNNING, stages=monte_carlo)))


def test_a_task_whose_oracle_does_not_check_step_by_step_is_refused(micro):
    values = micro(critic=RUNNING) | {"task": {"name": "exact"}}
    words = r"task 'exact' does not check step by step; set .*outcome"
    with pytest.raises(ValueError, match=words):
        train(resolve(values))


def test_a_tinker_service_and_a_critic_service_refuse_it(tiny_folder):
    adapters = {"lora": {"rank": 4}}
    cfg = resolve(
        {
            "actor": {"model_name_or_path": str(tiny_folder), **adapters},
            "critic": {**RUNNING, **adapters},
            "hardware": {"backend": "tinker", "tinker": {"url": "http://127.0.0.1:9"}},
        }
    )
    with pytest.raises(ValueError, match=r"form is 'running'.*set it to per_state"):
        require_supported(cfg, Hardware.resolve(cfg.hardware), critic=True)
    source: Any = None  # refused before it is looked at
    with pytest.raises(ValueError, match=r"reads whole responses.*a critic service asks"):
        build_critic(resolve({"critic": RUNNING}), source, "nowhere", 1, None)


# --- what it learns -------------------------------------------------------------------------------


def written_out(critic: RunningCritic, setup: Setup, split: str, count: int) -> list[Rollout]:
    """Responses with about a wrong line in two."""
    task, encode, result = setup.world.task, critic.runtime.tokenizer.encode, []
    for index in range(count):
        problem = task.problem(split, index)
        text = task.demonstration(problem, random.Random(index), fault_rate=3.3)
        ids = [encode(words, add_special_tokens=False) for words in (problem.prompt, f"{text}\n")]
        result.append(make_rollout(ids[1], prompt=ids[0], problem=problem, text=text))
    return result


def test_after_a_short_sft_a_wrong_line_is_flagged_by_its_own_note(tmp_path):
    critic_options = {"temperature": 0.0, "num_samples": 1, "icc": {"enabled": False}}
    cfg = resolve(
        {
            "task": {"name": "arithmetic", "options": {**SUBTRACTIONS}},
            "critic": {"generative": {**RUNNING["generative"], **critic_options}},
            "hardware": {"device": "cpu"},
        }
    )
    setup = Setup.of(cfg)
    critic = taught(cfg, setup, tmp_path)
    rollouts = written_out(critic, setup, "heldout", 40)
    states = [s for rollout in rollouts for s in whole_path(rollout, cfg, critic.runtime)]
    right = total = 0
    for estimate in critic.estimate(states, step=0):
        state = estimate.state
        read = critic.runtime.tokenizer.decode(state.rollout.response_ids[: state.start])
        checks, _ = check_lines(state.rollout.problem, read)
        if state.start and "ans" not in read:
            right += checks[-1].split()[-1] in estimate.rationales[0].text
            total += 1
    assert right > 0.85 * total > 40


SUBTRACTIONS = {"min_steps": 1, "max_steps": 2, "operators": "-"}


def taught(cfg: RunConfig, setup: Setup, folder: Path) -> RunningCritic:
    """A critic of random weights, after 300 steps on traces of the task's oracle."""
    shape = {"hidden_size": 64, "layers": 2, "heads": 4, "seed": 0}
    save_tiny(folder, setup.world.task.alphabet(), max_length=64, **shape)
    optimizer = OptimizerConfig(learning_rate=3e-3, warmup_steps=10)
    runtime = build(ModelSpec("critic", str(folder), optimizer), setup.hardware)
    critic = RunningCritic(runtime, runtime, cfg.critic.generative, seed=0)
    critic.splits_as(cfg)
    rollouts = written_out(critic, setup, "train", 2000)
    traces = running_traces(setup, setup.world, runtime, rollouts, 0.5)
    samples = [trace_sample(critic, trace) for trace in traces]
    rng = np.random.default_rng(0)
    for step in range(300):
        batch = rng.choice(len(samples), 32, replace=False)
        runtime.learner.learn([samples[i] for i in batch], seed=step)
    runtime.publish(1)
    return critic


# --- resuming -------------------------------------------------------------------------------------


def test_a_killed_run_resumes_equal(
    micro: Callable[..., Values], stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Run.open(train(resolve(micro(critic=RUNNING, output_dir=str(tmp_path / "whole")))))
    own = copy_stages(stages, tmp_path / "own", "base", "traces", "critic_sft")
    cfg = resolve(micro(critic=RUNNING, stages={"folder": str(own)}))
    plain = Loop.after
    for stage in ("critic_rl", "joint"):

        def killed(self: Loop, step: int, *args: Any, stage: str = stage, **fields: Any) -> None:
            plain(self, step, *args, **fields)
            if (self.stage, step) == (stage, 0):
                raise Killed(stage)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Loop, "after", killed)
            train(cfg)
    again = Run.open(train(cfg))
    folders = [again.path, *own.glob("critic_rl-*")]
    resumed = [e["stage"] for folder in folders for e in Run.open(folder).events("resumed")]
    assert sorted(resumed) == ["critic_rl", "joint"]
    assert results(again) == results(whole) and weights(again) == weights(whole)
