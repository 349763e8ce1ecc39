"""`genac doctor RECIPE`: what would go wrong in a run, detected before anything large is loaded.

Every line begins with "ok   ", "warn " or "FAIL ", gives the number and, where bad, the remedy.
"""

from __future__ import annotations

from collections.abc import Mapping

from genac.commands.doctor import price
from genac.commands.doctor.findings import Findings
from genac.commands.doctor.lengths import LETTERS, Candidate, Lengths, candidates, measure
from genac.commands.doctor.machine import device, threads, versions
from genac.commands.doctor.placement import placed
from genac.commands.doctor.services import environment
from genac.config.run import RunConfig
from genac.critics import critic_class, is_taught
from genac.critics.prompts import size_text
from genac.critics.scores import score_tokens
from genac.models.loading import parameter_count
from genac.stages.traces import labels
from genac.stages.traces.endpoint import check as check_endpoint
from genac.tasks import make_task, row_counts
from genac.tasks.base import SPLITS, Task
from genac.tasks.check import check


def examine(cfg: RunConfig, gpu_gib: float | None = None) -> tuple[list[str], bool]:
    """The findings about a recipe, and whether none of them is a FAIL. `gpu_gib`: for a run on a
    GPU of that memory, wherever this runs."""
    result = Findings()
    versions(result)
    threads(result, cfg)
    hardware = device(result, cfg, gpu_gib)
    with result.attempt("task"):
        task = make_task(cfg.task, cfg.seed)
        splits(result, cfg, task)
        gold(result, cfg, task)
        oracle(result, cfg, task)
    with result.attempt("models"):
        models = candidates(cfg)
        tokenizers(result, cfg, models)
        lengths = measure(cfg, models)
        contexts(result, cfg, models, lengths)
        solutions(result, cfg, models["actor"])
        written = (f"{count:,} in {kind}" for kind, count in price.joint_step(cfg).items())
        result.add("ok", f"tokens: a joint step writes at most {', '.join(written)}")
        if cfg.hardware.backend == "tinker":
            for line in price.lines(cfg, lengths):
                result.add("ok", line)
            with result.attempt("tinker"):
                price.check(cfg)
        elif hardware is not None:
            if gpu_gib is None:
                environment(result, cfg, hardware)
            placed(result, cfg, models, lengths, hardware, gpu_gib)
    return result.lines, not any(line.startswith("FAIL") for line in result.lines)


# --- the task ------------------------------------------------------------------------------------


def splits(result: Findings, cfg: RunConfig, task: Task) -> None:
    """Both splits hold problems, and enough of them."""
    for split in SPLITS:
        size = "unlimited" if task.size(split) is None else task.size(split)
        remedy = "add rows, or change task.options.heldout_fraction"
        result.judge(size != 0, f"task: {size} {split} problems", remedy)
    for name, count in row_counts(task).get("removed", {}).items():
        result.add("ok", f"task: {count} training rows left out that hold a problem of {name}")
    size, queries = task.size("heldout"), cfg.evaluate.num_problems
    if size and size < queries:
        text = f"evaluate.num_problems is {queries} but there are {size} held-out problems"
        result.add("warn", f"{text}, which are sent again; lower it to {size}")


def gold(result: Findings, cfg: RunConfig, task: Task) -> None:
    """Gold answers score 1 and corrupted ones less, where the task can demonstrate."""
    proof, name = check(task, time_limit=cfg.task.verify_seconds), cfg.task.reward or cfg.task.name
    if not proof.judged:
        result.add("warn", f"reward {name!r} is not tried on gold answers: {proof.reason}")
        return
    # A user's reward may want more than the bare reference answer, a format for example.
    level = "warn" if cfg.task.reward else "FAIL"
    text = f"reward {name!r}: {proof.full} of {proof.judged} gold answers score 1"
    remedy = f"{proof.reason}; compare the reward with the answers in the data"
    result.judge(proof.full == proof.judged, text, remedy, level)
    text = f"reward {name!r}: {proof.fooled} of {proof.judged} corrupted answers score as high"
    result.judge(proof.fooled == 0, text, "it does not tell right from wrong: correct it", level)


def oracle(result: Findings, cfg: RunConfig, task: Task) -> None:
    """Traces for the critic and checks for the base model need an oracle."""
    stages = cfg.stages
    traces = is_taught(cfg)
    traces = traces and stages.synthesize.oracle in ("task", "calibrated")
    with result.attempt("endpoint"):
        check_endpoint(cfg)
    base = not cfg.actor.model_name_or_path and stages.base.check_fraction > 0
    if traces or base:
        with result.attempt("oracle" if traces else "oracle (set stages.base.check_fraction 0)"):
            task.oracle(task.problem("train", 0), "", None)


# --- the models ----------------------------------------------------------------------------------


def tokenizers(result: Findings, cfg: RunConfig, models: Mapping[str, Candidate]) -> None:
    """Sizes, end-of-sequence and padding tokens, and whether actor and critic understand scores."""
    for role, m in models.items():
        text = f"{role}: {size_text(parameter_count(m.model))} parameters, context {m.limit}"
        if m.tokenizer is None:
            remedy = f"lengths are guessed at {LETTERS} characters per token: download the model"
            result.add("warn", f"{text}, tokenizer not at hand; {remedy}")
            continue
        eos, pad = m.tokenizer.eos_token, m.tokenizer.pad_token
        text = f"{text}, {len(m.tokenizer)} tokens, eos {eos!r}, padding {pad!r}"
        remedy = f"its embedding has {m.vocabulary} rows only: resize it, or take its own tokenizer"
        result.judge(len(m.tokenizer) <= m.vocabulary, text, remedy)
    actor, critic = models["actor"].tokenizer, models.get("critic", models["actor"]).tokenizer
    kind = critic_class(cfg.critic.kind)
    if critic is not None and actor is not None and kind.reads_actor_tokens:
        same = critic.get_vocab() == actor.get_vocab()
        text = f"critic: {'the' if same else 'not the'} vocabulary of the actor"
        result.judge(same, text, "a value head reads the actor's tokens: start both from one model")
    g = cfg.critic.generative
    exact = kind.needs_traces and (g.readout == "expected" or g.exact_score_gradient)
    if exact and critic is not None:
        scores = score_tokens(critic)
        text = "critic: scores 0..10 are one token each"
        if scores is None:
            text = "critic: the digits 0..9 are not one token each"
        elif scores.one is not None:
            text = "critic: scores 0..9 are one token each, 10 two"
        remedy = "expected readout and exact gradient need that; scores are read as sampled"
        result.judge(scores is not None, text, remedy, "warn")


def contexts(
    result: Findings, cfg: RunConfig, models: Mapping[str, Candidate], lengths: Lengths
) -> None:
    """Prompts and what is written after them, against the models' contexts."""
    new, kind = cfg.rollout.max_completion_length, critic_class(cfg.critic.kind)
    for role in ("actor", "critic") if kind.reads_actor_tokens else ("actor",):
        limit = models[role].limit
        text = f"{role} context: prompt {lengths.prompt} + max_completion_length {new} of {limit}"
        remedy = f"lower rollout.max_completion_length to {limit - lengths.prompt}"
        if limit <= lengths.prompt:
            remedy = "drop long prompts, or use a longer context (actor.tiny.max_length)"
        result.judge(lengths.prompt + new <= limit, text, remedy)
    if lengths.gold:
        text = f"actor: the longest gold answer takes {lengths.gold} of {new} tokens"
        remedy = f"raise rollout.max_completion_length to {lengths.gold + 1} or more"
        result.judge(lengths.gold < new, text, remedy, "warn")
    if kind.needs_traces:
        rationale, limit = cfg.critic.generative.max_new_tokens, models["critic"].limit
        room = limit - rationale - lengths.question
        text = f"prompt {lengths.question} + response {new} + rationale {rationale} of {limit}"
        remedy = f"responses get no value behind token {room}: lower max_new_tokens or the response"
        if room < 0:
            remedy = "nothing fits: lower critic.generative.max_new_tokens, or set prompt compact"
        level = "warn" if room >= 0 else "FAIL"
        result.judge(room >= new, f"critic context: {text}", remedy, level)


def solutions(result: Findings, cfg: RunConfig, actor: Candidate) -> None:
    """Labelled solutions hold right ones and wrong ones, of problems that are not held out."""
    stage = cfg.stages.synthesize
    if stage.oracle != "labels" or not is_taught(cfg):
        return
    with result.attempt("labelled solutions"):
        some = labels.labelled(cfg, make_task(cfg.task, cfg.seed))
        if actor.tokenizer is not None:
            labels.require_fitting(cfg, some, actor.tokenizer, actor.limit)
        right = sum(bool(solution.ends_right) for _, solution in some.pairs)
        text = f"labels: {right} of {len(some.pairs)} solutions are right"
        for count, why in ((some.left_out[name], labels.REASONS[name]) for name in some.left_out):
            text += f"; {count} {why} and are left out" if count else ""
        mixed = 0 < right < len(some.pairs) or stage.own_responses
        result.judge(mixed, text, labels.constant(stage.own_responses), "warn")
