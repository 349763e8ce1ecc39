"""Every key of the config, and the folders that another value of it changes, against a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from genac.config.run import RunConfig
from genac.config.stages import Section
from genac.rollout import problems_at
from genac.stages.base_model import BaseInputs
from genac.stages.critic_rl import FIRST_PROBLEM, CriticRLInputs, stage_world
from genac.stages.finish import config_hash
from genac.stages.inputs import NO_RESULT, StageInputs, replaced, value_at
from genac.stages.panels import PanelInputs
from genac.stages.setup import prepared_config
from genac.stages.sft import SFTInputs
from genac.stages.traces.inputs import TraceInputs
from genac.stages.warmup import WarmupInputs

Row = dict[str, set[str]]

RUN = {"run"}
NONE: set[str] = set()
RL = {"critic_rl", "run"}
SFT = {"critic_sft"} | RL  # a stage's folder is in the hash of the next
TAUGHT = {"traces"} | SFT
STATES = {"candidates"} | TAUGHT
ACTOR = STATES | {"panel"}
WARM = {"warmup"} | ACTOR
ALL = WARM | {"base"}

# Dotted key or section -> what another value changes; the longest row that fits counts.
TABLE: Row = {
    "name": NONE,
    "output_dir": NONE,
    "report_to": NONE,
    "tracking": NONE,
    "seed": ALL,
    "algorithm": RUN,  # its values are in the keys that it sets
    "preset": RUN,
    "task": ALL,
    "task.shift": RUN,
    "actor.model_name_or_path": WARM,
    "actor.tiny": ALL,
    "actor.loss": RUN,
    "actor.optimizer": RUN,
    "actor.optimizer.tokens_per_microbatch": NONE,
    "actor.optimizer.gradient_checkpointing": NONE,
    "actor.lora": WARM,
    "actor.load": WARM,
    "actor.engine": ACTOR,  # the warm-up samples nothing
    "critic.kind": SFT,
    "critic.model_name_or_path": SFT,
    "critic.optimizer": RL,
    "critic.optimizer.tokens_per_microbatch": NONE,
    "critic.optimizer.gradient_checkpointing": NONE,
    "critic.loss": SFT,
    "critic.lora": SFT,
    "critic.load": SFT,
    "critic.engine": RL,
    "critic.share_base": SFT,
    "critic.generative": SFT,
    "critic.generative.icc.enabled": TAUGHT,
    "critic.generative.value_samples": RUN,
    "critic.generative.reinforce_baseline": RL,
    "critic.generative.pool_states": RL,
    "critic.generative.reasoning_weight": RL,
    "critic.generative.force_prompt": NONE,
    "critic.discriminative": RL,
    "critic.num_continuations": RUN,
    "rollout": ACTOR,
    "rollout.num_prompts": RL,
    "rollout.num_generations": RL,
    "rollout.max_rows": NONE,
    "states": ACTOR,
    "credit": RUN,
    "credit.gamma": RL,
    "credit.granularity": RL,
    "stages.base": ALL,
    "stages.base.optimizer.tokens_per_microbatch": NONE,
    "stages.base.optimizer.gradient_checkpointing": NONE,
    "stages.warmup": WARM,
    "stages.warmup.optimizer.tokens_per_microbatch": NONE,
    "stages.warmup.optimizer.gradient_checkpointing": NONE,
    "stages.synthesize.oracle": STATES,
    "stages.synthesize.num_prompts": STATES,
    "stages.synthesize.num_generations": STATES,
    "stages.synthesize.num_states": STATES,
    "stages.synthesize.vary_success_rate": TAUGHT,
    "stages.synthesize.options": STATES,
    "stages.synthesize.demonstrations": NONE,
    "stages.synthesize.fault_rate": NONE,
    "stages.synthesize.path": NONE,
    "stages.synthesize.columns": NONE,
    "stages.synthesize.own_responses": NONE,
    "stages.synthesize.endpoint": NONE,
    "stages.synthesize.num_requests": NONE,
    "stages.synthesize.continuations": NONE,
    "stages.synthesize.tolerance": NONE,
    "stages.synthesize.bare_scores": NONE,
    "stages.synthesize.see_answer": NONE,
    "stages.sft": SFT,
    "stages.sft.save_every": NONE,
    "stages.sft.optimizer.tokens_per_microbatch": NONE,
    "stages.sft.optimizer.gradient_checkpointing": NONE,
    "stages.critic_rl": RL,
    "stages.joint": RUN,
    "stages.seed": ALL,
    "stages.folder": NONE,
    "evaluate": RUN,
    "evaluate.panel_problems": RUN | {"panel"},
    "evaluate.panel_continuations": RUN | {"panel"},
    "hardware": ALL,
    "hardware.threads": NONE,
    "hardware.processes": NONE,
    "hardware.placement": NONE,
    "hardware.cluster": NONE,
    "hardware.engine": ACTOR,
    "hardware.vllm": NONE,
    "hardware.backend": WARM,  # the base model is trained here anyway
    "hardware.tinker": WARM,
    "hardware.tinker.url": NONE,
    "hardware.tinker.timeout": NONE,
    "hardware.tinker.prices": NONE,
}

# The programmatic oracle has no candidates; the other two read more, and not the same.
ASKING: Row = {
    "critic.generative.icc.actor_size": STATES,
    "stages.synthesize.vary_success_rate": RUN,
    "stages.synthesize.num_requests": STATES,
    "stages.synthesize.continuations": STATES,
    "stages.synthesize.tolerance": TAUGHT,
}
BY_ORACLE: dict[str, Row] = {
    "task": {
        "critic.generative.form": TAUGHT,
        "stages.synthesize.demonstrations": TAUGHT,
        "stages.synthesize.fault_rate": TAUGHT,
    },
    "labels": {
        "critic.generative.form": TAUGHT,
        "stages.synthesize.path": TAUGHT,
        "stages.synthesize.columns": TAUGHT,
        "stages.synthesize.own_responses": TAUGHT,
    },
    "endpoint": {
        **ASKING,
        "critic.generative.max_new_tokens": TAUGHT,
        "stages.synthesize.see_answer": TAUGHT,
        "stages.synthesize.endpoint.model": TAUGHT,
        "stages.synthesize.endpoint.temperature": TAUGHT,
        "stages.synthesize.endpoint.max_tokens": TAUGHT,
        "stages.synthesize.endpoint.request": TAUGHT,
        "stages.synthesize.endpoint.notes": TAUGHT,
    },
    "monte_carlo": {
        **ASKING,
        "stages.synthesize.bare_scores": TAUGHT,
        "critic.kind": TAUGHT,
        "critic.model_name_or_path": TAUGHT,
        "critic.lora": TAUGHT,
        "critic.load": TAUGHT,
        "critic.share_base": TAUGHT,
        "critic.engine": TAUGHT,
        "critic.generative.form": TAUGHT,
        "critic.generative.prompt": TAUGHT,
        "critic.generative.icc": TAUGHT,
        "critic.generative.num_samples": TAUGHT,
        "critic.generative.max_new_tokens": TAUGHT,
        "critic.generative.temperature": TAUGHT,
        "critic.generative.too_long": TAUGHT,
    },
}

# Keys whose other value cannot be guessed from their type.
OTHER: dict[str, Any] = {
    "algorithm": "ppo",
    "critic.generative.prompt": "compact",
    "critic.kind": "discriminative",
    "stages.synthesize.oracle": "outcome",
    "stages.synthesize.demonstrations": 2,
    "stages.synthesize.path": "others.jsonl",
    "stages.synthesize.columns": {"correct": "right"},
    "stages.synthesize.own_responses": True,
}
GUESSES: dict[type, list[Any]] = {
    type(None): [1, 2.0, "x"],
    dict: [{"x": 1}, {"x": {"y": 1}}],
    list: [["wandb"], ["q_proj"], ["http://host:1"]],
}


def leaves(section: Section, prefix: str = "") -> Iterator[str]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def other_value(cfg: RunConfig, key: str) -> Any:
    """Another value that the key's section takes."""
    place, _, name = key.rpartition(".")
    section = value_at(cfg, place) if place else cfg
    value = getattr(section, name)
    if key in OTHER:
        return OTHER[key]
    if isinstance(value, bool):
        guesses: list[Any] = [not value]
    elif isinstance(value, int | float):
        guesses = [value + 1, value / 2, 0.5]
    elif isinstance(value, str):
        guesses = [value + "x", "OTHER", *get_args(type(section).model_fields[name].annotation)]
    else:
        guesses = GUESSES[type(value)]
    for guess in guesses:
        try:
            type(section)(**section.model_dump() | {name: guess})
        except ValidationError:
            continue
        if guess != value:
            return guess
    raise AssertionError(f"{key}: give another valid value in OTHER")


def stages_of(cfg: RunConfig) -> dict[str, StageInputs]:
    """The inputs of every stage, each on the folders of those before it, as a run has them."""
    cfg = prepared_config(cfg)
    base = BaseInputs.of(cfg)
    actor = Path(cfg.actor.model_name_or_path or f"{base.name}/model")
    warm = WarmupInputs.of(cfg, actor)
    actor = Path(f"{warm.name}/model")
    start = Path(cfg.critic.model_name_or_path or actor)
    traces = TraceInputs.of(cfg, actor)
    sft = SFTInputs.of(cfg, Path(traces.name, "traces.jsonl"), start, actor)
    rl = CriticRLInputs.of(cfg, Path(sft.name, "model"), actor)
    panel = PanelInputs.of(cfg, actor, {})
    made = [base, warm, traces, sft, rl, panel, *([traces.candidates] if traces.candidates else [])]
    return {one.stage: one for one in made}


def hashes(cfg: RunConfig) -> dict[str, str]:
    return {stage: one.hash for stage, one in stages_of(cfg).items()} | {"run": config_hash(cfg)}


def row_of(key: str, table: Row) -> set[str]:
    fitting = [row for row in table if key == row or key.startswith(f"{row}.")]
    assert fitting, (
        f"the config key {key} has no row in TABLE: decide which stages read it, add it to the "
        "`reads` of their inputs (to NO_RESULT where it changes no result), and write the row"
    )
    return table[max(fitting, key=len)]


def config(oracle: str, **values: Any) -> RunConfig:
    stage = {"oracle": oracle, "continuations": 2}
    stage |= {"path": "solutions.jsonl"} if oracle == "labels" else {}
    return RunConfig(**{"stages": {"synthesize": stage}, **values})


@pytest.mark.parametrize("oracle", BY_ORACLE)
def test_another_value_of_a_key_changes_the_folders_of_the_stages_that_read_it(oracle):
    cfg, table = config(oracle), TABLE | BY_ORACLE[oracle]
    before = hashes(cfg)
    wrong = []
    for key in leaves(cfg):
        now = hashes(replaced(cfg, {key: other_value(cfg, key)}))
        changed = {stage for stage in before if now.get(stage) != before[stage]}
        expected = row_of(key, table) & before.keys()
        if changed != expected:
            wrong.append(f"{key}: changes {sorted(changed)}, the table says {sorted(expected)}")
    assert not wrong, "\n".join(wrong)


def test_what_auto_comes_to_is_counted_and_not_where_its_servers_are():
    servers = [{"urls": ["http://host:1"]}, {"python": "vllm/bin/python"}]
    on_cuda = [
        hashes(config("task", hardware={"device": "cuda", "vllm": vllm})) for vllm in ({}, *servers)
    ]
    changed = {stage for stage in on_cuda[0] if on_cuda[0][stage] != on_cuda[1][stage]}
    assert changed == (ACTOR | {"panel"}) & on_cuda[0].keys()
    assert on_cuda[1] == on_cuda[2]
    named = {"device": "cuda", "engine": "vllm", "vllm": servers[0]}
    assert hashes(config("task", hardware=named)) == on_cuda[1]
    on_cpu = [hashes(config("task", hardware={"device": "cpu", "vllm": v})) for v in ({}, *servers)]
    assert on_cpu[0] == on_cpu[1] == on_cpu[2]


def test_the_engine_of_one_model_is_counted_as_what_it_comes_to():
    hardware = {"device": "cuda", "engine": "local", "vllm": {"urls": ["http://host:1"]}}
    by_engine = [
        hashes(config("task", hardware=hardware, critic={"engine": engine}))
        for engine in ("auto", "vllm", "local")
    ]
    assert by_engine[0] == by_engine[1] != by_engine[2]


def test_every_row_of_the_table_speaks_of_a_key():
    keys = list(leaves(RunConfig()))
    for row in {*TABLE, *(row for rows in BY_ORACLE.values() for row in rows), *NO_RESULT, *OTHER}:
        assert any(key == row or key.startswith(f"{row}.") for key in keys), row


def test_a_key_without_a_row_gets_a_remedy():
    with pytest.raises(AssertionError, match=r"rollout\.new has no row .* add it to the `reads`"):
        row_of("rollout.new", {"rollout.max_rows": NONE})


# Examples of what is in a stage's hash in no way, and which it therefore cannot read.
UNREAD = {
    "base": ["critic.kind", "rollout.temperature", "stages.base.options", "stages.sft.epochs"],
    "warmup": ["critic.kind", "rollout.temperature", "stages.base.steps", "task.shift"],
    "candidates": ["critic.kind", "rollout.num_prompts", "stages.synthesize.num_states"],
    "traces": ["task.shift", "evaluate.during", "stages.synthesize.options", "credit.lam"],
    "critic_sft": ["task.name", "states.window", "stages.synthesize.oracle", "credit.gamma"],
    "critic_rl": ["credit.lam", "stages.joint.steps", "stages.critic_rl.options", "task.shift"],
    "panel": ["critic.kind", "rollout.num_generations", "evaluate.during", "credit.gamma"],
}


@pytest.mark.parametrize("stage", UNREAD)
def test_a_value_that_the_hash_does_not_count_is_no_attribute(stage):
    inputs = stages_of(config("monte_carlo"))[stage]
    for key in UNREAD[stage]:
        with pytest.raises(AttributeError):
            value_at(inputs.cfg, key)


def test_the_hash_counts_whatever_is_an_attribute():
    actor = "actor.model_name_or_path"  # by its digest
    for oracle in BY_ORACLE:
        for inputs in stages_of(config(oracle)).values():
            readable = set(left(inputs.cfg)) - {*NO_RESULT, actor}
            counted = {k: v for k, v in inputs.key.items() if k != "inputs"}
            assert readable == set(dotted(counted))


def left(section: Section, prefix: str = "") -> Iterator[str]:
    """The keys that a narrowed section still has."""
    for name, value in vars(section).items():
        if isinstance(value, Section):
            yield from left(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def dotted(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_what_changes_memory_only_still_reaches_the_stages():
    cfg = config("task", rollout={"max_rows": 3}, hardware={"threads": 2, "processes": 5})
    cfg = replaced(cfg, {"stages.sft.optimizer.tokens_per_microbatch": 77})
    stages = stages_of(cfg)
    for inputs in stages.values():
        seen = inputs.cfg
        assert (seen.rollout.max_rows, seen.hardware.threads, seen.hardware.processes) == (3, 2, 5)
    assert stages["critic_sft"].cfg.stages.sft.optimizer.tokens_per_microbatch == 77
    assert hashes(cfg) == hashes(config("task"))


def test_options_of_a_stage_win_over_those_of_the_run():
    cfg = config("task", task={"options": {"max_steps": 2, "min_steps": 1}})
    cfg = replaced(cfg, {"stages.base.options": {"max_steps": 5}})
    assert BaseInputs.of(cfg).cfg.task.options == {"max_steps": 5, "min_steps": 1}
    rl = replaced(cfg, {"stages.critic_rl.options": {"max_steps": 7}})
    rl_inputs = CriticRLInputs.of(rl, Path("start"), Path("actor"))
    assert rl_inputs.cfg.task.options == {"max_steps": 7, "min_steps": 1}
    panel = PanelInputs.of(cfg, Path("actor"), {"min_steps": 2})
    assert panel.cfg.task.options == {"max_steps": 2, "min_steps": 2}
    hidden = replaced(cfg, {"task.options": {"max_steps": 9, "min_steps": 1}})
    assert BaseInputs.of(hidden).hash == BaseInputs.of(cfg).hash, "the overridden value is not read"


def test_critic_rl_draws_its_problems_under_its_own_options():
    cfg = replaced(config("task"), {"stages.critic_rl.options": {"min_steps": 9, "max_steps": 9}})
    setup = CriticRLInputs.of(cfg, Path("start"), Path("actor")).setup()
    drawn = problems_at(stage_world(setup), "train", FIRST_PROBLEM, 8)
    assert {len(problem.extras["operations"]) for problem in drawn} == {9}
