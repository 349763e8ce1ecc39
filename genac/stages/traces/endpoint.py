"""Traces by a model behind an API, or without one: Monte-Carlo scores with the critic's own words.

endpoint: the model judges each candidate state; what it writes before its score becomes the
reasoning. monte_carlo: the score is the rounded mean of K continuations; the untrained critic
writes the reasoning, which is kept where its own score agrees.

What is not fit to be imitated is dropped, by the first of these that applies, and counted:
unanswered, refused, unparsable, no_reasoning, disagrees, duplicate, unbalanced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from genac.config.run import RunConfig
from genac.critics import is_taught
from genac.critics.generative import GenerativeCritic
from genac.critics.prompts import Context
from genac.critics.scores import CLOSE, OPEN, SCORES, parse_score
from genac.critics.zero_shot import oracle_prompt
from genac.endpoint.client import Endpoint, answers_file
from genac.endpoint.replies import Bill, plan
from genac.endpoint.transport import load_http
from genac.evals.cost import Cost
from genac.runs.store import Run
from genac.seeding import derive_seed
from genac.stages.traces.files import Trace, in_turn, problem_of, write_traces
from genac.stages.traces.inputs import TraceInputs
from genac.stages.traces.states import Candidate, candidates, third
from genac.types import Rationale

Taught = tuple[Candidate, Trace]
REASONS = (
    "unanswered",
    "refused",
    "unparsable",
    "no_reasoning",
    "disagrees",
    "duplicate",
    "unbalanced",
)


def check(cfg: RunConfig) -> None:
    """Refuses, before anything is computed, an endpoint that could not answer."""
    stage = cfg.stages.synthesize
    if stage.oracle != "endpoint" or not is_taught(cfg):
        return
    with_key(cfg)
    if stage.endpoint.dry_run:
        raise ValueError(
            "stages.synthesize.endpoint.dry_run is set, so there would be no traces; use it with "
            "'genac synthesize', and leave it out to go on"
        )


def with_key(cfg: RunConfig) -> Endpoint:
    """The endpoint; the message of what is wrong with it names its place in the config."""
    try:
        if not cfg.stages.synthesize.endpoint.dry_run:
            load_http()
        return Endpoint(cfg.stages.synthesize.endpoint)
    except ValueError as error:
        raise ValueError(f"stages.synthesize.endpoint: {error}") from None


# --- a model behind an API -----------------------------------------------------------------------


def from_endpoint(inputs: TraceInputs, run: Run) -> None:
    """Sends every candidate that was not answered yet; writes what passes the filters."""
    assert inputs.candidates is not None
    cfg, some = inputs.cfg, candidates(inputs.candidates)
    endpoint, prompts = with_key(cfg), prompts_of(cfg, some)
    file = answers_file(cfg.stages.folder, endpoint.cfg)
    cost = Cost()
    with cost.clock("critic_sampling", None):  # its tokens are the bill's
        replies, bill = endpoint.ask(prompts, file)
    dropped, results = Counter[str](), []
    for candidate, prompt in zip(some, prompts, strict=True):
        reply = replies.get(prompt)
        if reply is None or reply.refused:
            dropped["unanswered" if reply is None else "refused"] += 1
            continue
        score, reasoning = parse_score(reply.text), reasoning_of(reply.text)
        if score is None or not reasoning:
            dropped["unparsable" if score is None else "no_reasoning"] += 1
        elif not agrees(score, candidate, cfg.stages.synthesize.tolerance):
            dropped["disagrees"] += 1
        else:
            results.append((candidate, trace(candidate, reasoning, score)))
    keep(cfg, run, some, results, dropped, usage(bill) | cost.totals())
    print(f"oracle: {described(bill)}", flush=True)


def prompts_of(cfg: RunConfig, some: Sequence[Candidate]) -> list[str]:
    stage, icc = cfg.stages.synthesize, cfg.critic.generative.icc.enabled
    return [
        oracle_prompt(
            problem_of(c.problem),
            c.partial,
            Context(c.actor_size, c.success_rate) if icc else None,
            words(cfg),
            c.problem["answer"] if stage.see_answer else None,
            stage.endpoint.notes,
        )
        for c in some
    ]


def words(cfg: RunConfig) -> int:
    """How long the oracle may write: the critic that learns from it must have room to say it."""
    return max(20, cfg.critic.generative.max_new_tokens // 2)


def planned(cfg: RunConfig, actor: Path) -> str:
    """The dry run: what would be sent, and what it would cost at most. Nothing is sent."""
    inputs = TraceInputs.of(cfg, actor)
    assert inputs.candidates is not None
    endpoint = with_key(inputs.cfg)
    prompts = prompts_of(inputs.cfg, candidates(inputs.candidates))
    known = endpoint.known(prompts, answers_file(inputs.cfg.stages.folder, endpoint.cfg))
    return plan(endpoint.cfg, prompts, [*known])


def usage(bill: Bill) -> dict[str, float]:
    return {
        "oracle/answers": bill.prompts - bill.unanswered,
        "oracle/new_answers": bill.new,
        "oracle/retries": bill.retries,
        "oracle/prompt_tokens": bill.prompt_tokens,
        "oracle/completion_tokens": bill.completion_tokens,
        "oracle/uncounted": bill.uncounted,
        "oracle/cost": bill.cost,
        "oracle/new_cost": bill.new_cost,
    }


def described(bill: Bill) -> str:
    """The account as a line."""
    uncounted = f" ({bill.uncounted} answers came without a count)" if bill.uncounted else ""
    return (
        f"{bill.prompts - bill.unanswered} answers ({bill.new} new, {bill.retries} retries), "
        f"{bill.prompt_tokens} prompt and {bill.completion_tokens} answer tokens{uncounted}, "
        f"cost {bill.cost:.4f} ({bill.new_cost:.4f} of it now)"
    )


# --- no API --------------------------------------------------------------------------------------


def from_continuations(inputs: TraceInputs, run: Run) -> None:
    """Monte-Carlo scores, with the critic's own reasoning where its score agrees."""
    assert inputs.actor and inputs.candidates and inputs.critic
    cfg, stage = inputs.cfg, inputs.cfg.stages.synthesize
    some = [c for c in candidates(inputs.candidates) if c.value is not None]
    setup = inputs.setup(with_world=False)
    actor = setup.actor(inputs.actor.path)
    critic = setup.critic(inputs.critic.path, actor)
    assert isinstance(critic, GenerativeCritic)
    icc = critic.cfg.icc.enabled
    prompts = [
        critic.prompts.render_ids(
            problem_of(c.problem),
            c.partial_ids,
            Context(c.actor_size, c.success_rate) if icc else None,
        )
        for c in some
    ]
    dropped, results, bare = Counter[str](), [], 0
    cost = Cost()
    with cost.clock("critic_sampling", critic.runtime):
        rationales = critic.think(prompts, derive_seed(cfg.seed, "rationale"))
    for candidate, own in zip(some, rationales, strict=True):
        score = int(10 * candidate.known + 0.5)
        reasoning, reason = best_reasoning(candidate, own, stage.tolerance)
        if reason and not stage.bare_scores:
            dropped[reason] += 1
            continue
        bare += bool(reason)
        results.append((candidate, trace(candidate, reasoning, score)))
    keep(cfg, run, some, results, dropped, {"bare": bare} | cost.totals())


def best_reasoning(
    candidate: Candidate, rationales: Sequence[Rationale], tolerance: float
) -> tuple[str, str]:
    """The reasoning whose score is nearest to the state's value, or "" and why there is none."""
    scored = [(t, parse_score(t.text)) for t in rationales]
    read = [(abs(s / (SCORES - 1) - candidate.known), t) for t, s in scored if s is not None]
    if not read:
        return "", "unparsable"
    written = [(apart, t) for apart, t in read if reasoning_of(t.text)]
    if not written:
        return "", "no_reasoning"
    apart, nearest = min(written, key=lambda pair: pair[0])
    return (reasoning_of(nearest.text), "") if apart <= tolerance else ("", "disagrees")


# --- filters -------------------------------------------------------------------------------------


def reasoning_of(text: str) -> str:
    """What was written before the score, behind any hidden thinking; "" = nothing to learn from.

    Reasoning with answer tags of its own is none: the critic stops at the first closing one.
    """
    before = text.rsplit("</think>", 1)[-1].rpartition(OPEN)[0].strip()
    return before + "\n" if before and OPEN not in before and CLOSE not in before else ""


def agrees(score: int, candidate: Candidate, tolerance: float) -> bool:
    """Whether the score is near the Monte-Carlo value; always where there is none."""
    if candidate.value is None:
        return True
    return abs(score / (SCORES - 1) - candidate.value) <= tolerance + 1e-9


def trace(c: Candidate, reasoning: str, score: int) -> Trace:
    target = c.value if c.value is not None else c.returns
    return Trace(c.problem, c.partial, c.partial_ids, c.success_rate, reasoning, score, target)


def distinct(results: Sequence[Taught]) -> list[Taught]:
    """One trace per problem and partial text, and per problem and wording."""
    seen: set[tuple[str, str, str]] = set()
    kept = []
    for candidate, one in results:
        text, wording = one.problem["id"], " ".join(one.reasoning.split())
        marks = {(text, "partial", one.partial)}
        if wording:
            marks.add((text, "wording", wording))
        if not marks & seen:
            kept.append((candidate, one))
        seen |= marks
    return kept


def keep(
    cfg: RunConfig,
    run: Run,
    some: Sequence[Candidate],
    results: Sequence[Taught],
    dropped: Counter[str],
    more: dict[str, float],
) -> None:
    """Drops duplicates, balances over outcome, position and score, writes traces and counts.

    ValueError where nothing is left; answers are kept, so another tolerance costs nothing.
    """
    unlike = distinct(results)
    chosen = in_turn(
        unlike,
        lambda pair: (third(pair[0].known), pair[0].position, pair[1].score),
        cfg.stages.synthesize.num_states,
        cfg.seed,
    )
    dropped["duplicate"] += len(results) - len(unlike)
    dropped["unbalanced"] += len(unlike) - len(chosen)
    counts = {f"dropped/{reason}": dropped[reason] for reason in REASONS}
    run.event("oracle", candidates=len(some), traces=len(chosen), **counts, **more)
    text = ", ".join(f"{dropped[r]} {r}" for r in REASONS if dropped[r]) or "nothing"
    print(f"oracle: {len(chosen)} of {len(some)} traces kept; dropped: {text}", flush=True)
    if not chosen:
        raise ValueError(
            f"no trace is left of {len(some)} states (dropped: {text}); look at the answers, then "
            "change the model, its prompt (endpoint.notes), max_tokens, or tolerance"
        )
    write_traces(run.path / "traces.jsonl", [one for _, one in chosen])
    rate = {"reward": some[0].success_rate}
    sizes = {"traces": len(chosen), "candidates": len(some)}
    run.log("synthesize", 0, sizes | rate | counts | more)


BUILD: dict[str, Callable[[TraceInputs, Run], None]] = {
    "endpoint": from_endpoint,
    "monte_carlo": from_continuations,
}
