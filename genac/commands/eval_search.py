"""genac eval search RUN [RUN ...]: what a critic buys at inference, at equal tokens.

On held-out problems of a run's task: a single sample, majority vote, best-of-n and weighted vote by
the critic's value (before the last segment as in training, and after the end), step-level
beam search, and the oracle's choice as the ceiling. Every method with a critic is compared with
a majority vote over as many samples as its tokens, and its FLOPs, would have bought. Written into
each run folder: search.json (everything, with the outcome per problem) and search.md (the table).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from genac.commands import parsers
from genac.commands.eval_critics import critic_folder
from genac.commands.generate import generative
from genac.config.recipes import recorded
from genac.config.run import RunConfig
from genac.engines.vllm.sharing import shared_servers
from genac.evals.policy import success
from genac.models.loading import parameter_count
from genac.ops.stats import bootstrap_interval, mean_interval
from genac.rollout import problems_at
from genac.runs.files import write_json
from genac.runs.store import Run, atomic_write
from genac.runtime import Runtime
from genac.search.beam import beam_search
from genac.search.candidates import Candidate, Searcher, answers, draw, judged, values
from genac.search.rules import RULES, best
from genac.stages.finish import require_trained
from genac.stages.setup import Setup, evaluated_here, make_world
from genac.types import Problem

Groups = list[list[Candidate]]
MOST = 256  # samples of a matched majority vote at most


@dataclass(frozen=True)
class Bench:
    """The models of one run, its held-out problems, and what both models compute."""

    search: Searcher
    setup: Setup
    critic: Runtime
    problems: list[Problem]
    rationales: int

    @property
    def size_A(self) -> int:
        return parameter_count(self.search.actor.model)

    def metered(self, work: Callable[[], Groups]) -> tuple[Groups, dict[str, float]]:
        """What `work` returns, and per problem the tokens and FLOPs both engines counted."""
        actor, critic = self.search.actor, self.critic
        before = actor.processed_tokens, critic.processed_tokens
        result = work()
        count = len(self.problems)
        a = (actor.processed_tokens - before[0]) / count
        c = (critic.processed_tokens - before[1]) / count
        flops = 2 * (a * self.size_A + c * parameter_count(critic.model))
        return result, {"actor_tokens": a, "critic_tokens": c, "tokens": a + c, "flops": flops}

    def outcomes(self, chosen: Sequence[Candidate]) -> list[float]:
        """Reward of the chosen response per problem; one that cannot be judged is a failure."""
        items = [
            (replace(p, opens_thought=c.rollout.problem.opens_thought), c.rollout.text)
            for p, c in zip(self.problems, chosen, strict=True)
        ]
        judged = self.setup.world.verifier.verify(items)
        return [success(o.reward) for o in judged]

    def choose(self, groups: Groups, rule: str) -> list[float]:
        """Outcome per problem of what a rule picks."""
        task = self.setup.world.task
        return self.outcomes([g[RULES[rule](answers(task, g), values(g))] for g in groups])

    def oracle(self, groups: Groups) -> list[float]:
        """Outcome per problem of the best candidate in hindsight: no choice can do better."""
        rows = [self.outcomes(list(member)) for member in zip(*groups, strict=True)]
        return np.max(rows, axis=0).tolist()


def evaluate_search(arguments: Sequence[str]) -> str:
    """The command; returns the tables."""
    args = parsers.eval_search().parse_args(list(arguments))
    sizes = sorted(set(args.n))
    if min(sizes) < 2 or args.problems < 2:
        raise ValueError(
            f"--n {sizes} and --problems {args.problems}: a search chooses among at least 2 "
            "candidates, and an interval needs at least 2 problems"
        )
    results: dict[str, dict[str, Any]] = {}
    for name in args.runs:
        with shared_servers():
            bench = open_bench(name, args)
            result = measure(bench, sizes) | {"run": Path(name).name, "seed": bench.search.seed}
        write_json(Path(name) / "search.json", result)
        atomic_write(Path(name) / "search.md", markdown(result))
        results[name] = result
    pages = [markdown(result) for result in results.values()]
    return "\n".join([*pages, *([together(list(results.values()))] if len(results) > 1 else [])])


def open_bench(name: str, args: argparse.Namespace) -> Bench:
    """Models, problems and settings of one run; ValueError where one of them is missing."""
    run = Run.open(name)
    require_trained(run)
    cfg = evaluated_here(recorded(run.path, run.config()))
    setup = Setup.of(cfg)
    setup = Setup(cfg, setup.hardware, make_world(cfg, **shifted(cfg, args.shift)))
    actor = setup.actor(run.path / "actor")
    critic = generative(cfg, critic_folder(args.critic or name), actor, args.rationales)
    search = Searcher(actor, critic, cfg.rollout, cfg.states, cfg.seed)
    size = setup.world.task.size("heldout")
    count = args.problems if size is None else min(args.problems, size)
    problems = problems_at(setup.world, "heldout", 0, count)
    assert critic.runtime is not None
    return Bench(search, setup, critic.runtime, problems, critic.cfg.num_samples)


def shifted(cfg: RunConfig, name: str | None) -> dict[str, Any]:
    if name is None:
        return {}
    if name not in cfg.task.shift:
        raise ValueError(f"--shift {name!r}: the run names the shifts {sorted(cfg.task.shift)}")
    return cfg.task.shift[name]


def measure(bench: Bench, sizes: Sequence[int]) -> dict[str, Any]:
    """Every method at every size, each with its matched majority votes."""
    rows: list[dict[str, Any]] = []

    def add(method: str, n: int, outcomes: list[float], cost: dict[str, float]) -> None:
        low, high = interval(outcomes)
        row = {"method": method, "n": n, "success": float(np.mean(outcomes))}
        rows.append(row | {"low": low, "high": high, **cost, "by_problem": outcomes})

    one, one_cost = bench.metered(lambda: draw(bench.search, bench.problems, 1))
    add("single sample", 1, bench.choose(one, "sample"), one_cost)
    for n in sizes:
        groups, cost = bench.metered(lambda n=n: draw(bench.search, bench.problems, n))
        add("majority", n, bench.choose(groups, "majority"), cost)
        for at in ("last", "end"):
            valued, more = bench.metered(lambda g=groups, at=at: judged(bench.search, g, at))
            both = {key: cost[key] + more[key] for key in cost}
            add(f"best-of-n, {at}", n, bench.choose(valued, "best-of-n"), both)
            add(f"weighted, {at}", n, bench.choose(valued, "weighted"), both)
        kept, cost_b = bench.metered(lambda n=n: beam_search(bench.search, bench.problems, n))
        task = bench.setup.world.task
        add("beam", n, bench.outcomes([g[best(answers(task, g), values(g))] for g in kept]), cost_b)
        add("oracle", n, bench.oracle(groups), cost)
    match(bench, rows, one_cost)
    queries = {"problems": len(bench.problems), "rationales": bench.rationales}
    return queries | {"parameters": sizes_of(bench), "rows": rows}


def sizes_of(bench: Bench) -> dict[str, int]:
    return {"actor": bench.size_A, "critic": parameter_count(bench.critic.model)}


def match(bench: Bench, rows: list[dict[str, Any]], one: dict[str, float]) -> None:
    """Adds to each row that used the critic the majority vote its tokens and FLOPs would buy."""
    largest = max((r for r in rows if r["method"] == "majority"), key=lambda r: r["n"])
    votes: dict[int, dict[str, Any]] = {}

    def vote_of(m: int) -> dict[str, Any]:
        if m not in votes:
            groups, cost = bench.metered(lambda: draw(bench.search, bench.problems, m))
            votes[m] = cost | {"n": m, "by_problem": bench.choose(groups, "majority")}
        return votes[m]

    for row in (r for r in rows if r["critic_tokens"]):
        for unit in ("tokens", "flops"):
            per_sample = (largest[unit] - one[unit]) / (largest["n"] - 1)
            m, vote = 1, one
            # What a sample costs depends on what is shared and batched, so it is bought until the
            # vote really had no less to spend.
            while vote[unit] < row[unit] and m < MOST:
                m = min(MOST, m + max(1, int(np.ceil((row[unit] - vote[unit]) / per_sample))))
                vote = vote_of(m)
            row[f"majority_at_equal_{unit}"] = against_vote(row, vote_of(m), unit)


def against_vote(row: dict[str, Any], vote: dict[str, Any], unit: str) -> dict[str, Any]:
    """The vote, and what the row gains over it with an interval over problems (paired).

    `funded`: the vote had no less of the unit to spend than the row; else MOST ended it before.
    """
    gain = np.subtract(row["by_problem"], vote["by_problem"])
    low, high = interval(gain.tolist())
    outcome = {"success": float(np.mean(vote["by_problem"])), "gain": float(gain.mean())}
    return vote | outcome | {"low": low, "high": high, "funded": vote[unit] >= row[unit]}


def interval(outcomes: Sequence[float]) -> tuple[float, float]:
    """95 % bootstrap over problems of the mean of one outcome per problem."""
    return bootstrap_interval([np.array([x]) for x in outcomes])


def markdown(result: dict[str, Any]) -> str:
    """One row per method and size."""
    sizes = result["parameters"]
    head = (
        f"Search on {result['problems']} held-out problems of `{result['run']}` "
        f"(seed {result['seed']}); actor {sizes['actor']:,} and critic {sizes['critic']:,} "
        f"parameters, rationales per state: {result['rationales']}; [95 % bootstrap interval over "
        "problems]. Tokens are what the engines processed per problem.\n\n"
        "| method | n | success | tokens (actor + critic) | MFLOP | majority at equal tokens "
        "| gain | majority at equal FLOPs |\n" + "|---" * 8 + "|\n"
    )
    return head + "".join(line(row) for row in result["rows"])


def line(row: dict[str, Any]) -> str:
    vote, other = row.get("majority_at_equal_tokens"), row.get("majority_at_equal_flops")
    matched = "| | | |"
    if vote and other:
        matched = (
            f"| {vote['success']:.1%} (n {vote['n']}, {vote['tokens']:.0f} tokens{short(vote)}) "
            f"| {signed(vote)} | {other['success']:.1%} (n {other['n']}{short(other)}) |"
        )
    return (
        f"| {row['method']} | {row['n']} | {row['success']:.1%} [{row['low']:.1%}, "
        f"{row['high']:.1%}] | {row['tokens']:.0f} ({row['actor_tokens']:.0f} + "
        f"{row['critic_tokens']:.0f}) | {row['flops'] / 1e6:.0f} {matched}\n"
    )


def short(vote: dict[str, Any]) -> str:
    """A mark on a vote that had less to spend than the method of its row."""
    return "" if vote["funded"] else ", < equal"


def signed(result: dict[str, Any]) -> str:
    """A gain in points with its interval."""
    low, high = (f"{100 * result[k]:+.1f}" for k in ("low", "high"))
    return f"{100 * result['gain']:+.1f} [{low}, {high}]"


def together(results: Sequence[dict[str, Any]]) -> str:
    """Gains over the matched majority vote, per run and over the runs (Student's t over runs).

    A row has no mean where the vote of a run had less to spend: that gain is not at equal tokens.
    """
    names = [r["run"] for r in results]
    text = (
        "Gain over majority vote at equal tokens, in points; per run, [95 % bootstrap interval "
        "over its problems], and the mean over runs, [95 % interval of Student's t over runs]. "
        f"< equal: the vote ended at {MOST} samples with fewer tokens; no mean is taken.\n\n"
        f"| method | n | {' | '.join(names)} | mean |\n" + "|---" * (len(names) + 3) + "|\n"
    )
    for rows in zip(*(r["rows"] for r in results), strict=True):
        result = [row.get("majority_at_equal_tokens") for row in rows]
        if not all(result):
            continue
        cells = " | ".join(signed(f) + short(f) for f in result)
        average = ""
        if all(f["funded"] for f in result):
            mean, low, high = mean_interval([f["gain"] for f in result])
            average = signed({"gain": mean, "low": low, "high": high})
        text += f"| {rows[0]['method']} | {rows[0]['n']} | {cells} | {average} |\n"
    return text
