"""genac eval critic RUN [CRITIC ...]: critics against panels, as a table.

The panels are those of the run's actor: its task, and each of its named shifts. The critics are the
run's own and any others given by folder (as in genac eval states), of either kind; and
zero-shot ones: openai:MODEL@URL, or a YAML file with the keys of an endpoint (docs/oracle.md).
Written into the run folder: critics.json (everything), critics.md (the table), and
critics-reliability.svg.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from genac.commands import parsers
from genac.commands.early import endpoint_of
from genac.config.models import CriticConfig
from genac.config.recipes import recorded
from genac.config.run import RunConfig
from genac.config.stages import EndpointConfig
from genac.critics.base import Critic
from genac.critics.prompts import size_text
from genac.critics.saved import CARD, critic_card, critic_of_checkpoint
from genac.critics.zero_shot import EndpointCritic, zero_shot_template
from genac.endpoint.client import Endpoint, answers_file
from genac.endpoint.replies import plan
from genac.engines.vllm.sharing import shared_servers
from genac.evals.critic import POOLS, evaluate_critic, trivial_baselines
from genac.evals.ground_truth import NoPanel, Panel
from genac.evals.policy import evaluate_policy
from genac.models.loading import parameter_count
from genac.runs.manifest import require_saved
from genac.runs.store import Run, atomic_write
from genac.runtime import Runtime
from genac.stages.finish import require_trained
from genac.stages.panels import stored_panel
from genac.stages.setup import Setup, evaluated_here, make_world
from genac.ui.figures import reliability

Cell = dict[str, Any]
USUAL = 32  # problems of a panel where the run has none


def evaluate_critics(arguments: Sequence[str]) -> str:
    """The command; returns the table."""
    args = parsers.eval_critic().parse_args(list(arguments))
    run = Run.open(args.run)
    require_trained(run)
    cfg = evaluated_here(recorded(run.path, run.config()))
    cfg = with_panel(cfg, args.problems, args.continuations)
    own = [args.run] if (run.path / "critic" / CARD).exists() else []
    sources = {name: critic_source(name, args) for name in [*own, *args.critics]}
    if not sources:
        raise ValueError(f"{args.run} has no critic of its own; name the critics to evaluate")
    if args.dry_run:
        return dry_run(cfg, run.path / "actor", sources)
    cells = judge(cfg, run.path / "actor", sources)
    text = markdown(cells, args.run, cfg)
    atomic_write(run.path / "critics.json", json.dumps(cells, indent=1))
    atomic_write(run.path / "critics.md", text)
    first = cells["in distribution"].items()
    known = {name: result["calibration"] for name, result in first if "calibration" in result}
    if find_spec("matplotlib") is None:
        return f"{text}\n\nWithout critics-reliability.svg: pip install 'genac[figures]'."
    drawing = reliability("Reliability in distribution", known)
    atomic_write(run.path / "critics-reliability.svg", drawing)
    return text


def with_panel(cfg: RunConfig, problems: int | None, continuations: int | None) -> RunConfig:
    """The config with other panel sizes; ValueError where they make no panel."""
    if problems is None:
        problems = cfg.evaluate.panel_problems or USUAL
    continuations = cfg.evaluate.panel_continuations if continuations is None else continuations
    if continuations < 2:
        raise ValueError(
            f"--continuations {continuations}: a panel needs at least 2 continuations per state, "
            "since its noise is estimated from them; the usual K is 32"
        )
    if problems < 2:
        raise ValueError(
            f"--problems {problems}: a panel needs at least 2 problems; {USUAL} are usual"
        )
    sizes = {"panel_problems": problems, "panel_continuations": continuations}
    return cfg.model_copy(update={"evaluate": cfg.evaluate.model_copy(update=sizes)})


def critic_folder(name: str) -> Path:
    """The folder with critic.json in what the user named, or a checkpoint's critic."""
    for folder in (Path(name), Path(name) / "critic", Path(name) / "model"):
        if (folder / CARD).exists():
            require_saved(folder)
            return folder
    if result := critic_of_checkpoint(name):
        return result
    raise ValueError(
        f"{name} holds no critic.json; give a run, the folder of a critic that a run saved, or a "
        "checkpoint (RUN/checkpoints/STAGE/step-NNNNNN)"
    )


def critic_source(name: str, args: argparse.Namespace) -> Path | EndpointConfig:
    """Whom the user named: an endpoint, or the folder with critic.json."""
    return endpoint_of(name, args) or critic_folder(name)


def dry_run(cfg: RunConfig, actor_path: Path, sources: Mapping[str, Path | EndpointConfig]) -> str:
    """What would be sent to each endpoint on each panel; nothing is sent."""
    setup = Setup.of(cfg)
    actor = setup.actor(actor_path)
    lines = []
    for name, source in sources.items():
        if isinstance(source, Path):
            continue
        critic = endpoint_critic(cfg, source, actor)
        for shift, options in {"in distribution": {}, **cfg.task.shift}.items():
            try:
                panel = stored_panel(setup, actor_path, actor, options)
            except NoPanel as reason:
                lines.append(f"{name}, {shift}: {reason}")
                continue
            critic.set_success_rate(success(cfg, actor, options))
            prompts = critic.prompts_of(panel.states)
            known = critic.endpoint.known(prompts, critic.file)
            lines.append(f"{name}, {shift}:\n{plan(source, prompts, [*known])}\n")
    return "\n".join(lines) or "no endpoint was named, so nothing would be sent"


def judge(
    cfg: RunConfig, actor_path: Path, critics: Mapping[str, Path | EndpointConfig]
) -> dict[str, dict[str, Cell]]:
    """panel -> critic -> metrics; a panel that cannot be built says why."""
    setup = Setup.of(cfg)
    table: dict[str, dict[str, Cell]] = {}
    panels: dict[str, tuple[Panel, float]] = {}
    with shared_servers():
        actor = setup.actor(actor_path)
        loaded = {
            name: load_critic(cfg, source, actor)
            if isinstance(source, Path)
            else endpoint_critic(cfg, source, actor)
            for name, source in critics.items()
        }
        for shift, options in {"in distribution": {}, **cfg.task.shift}.items():
            try:
                panel = stored_panel(setup, actor_path, actor, options)
            except NoPanel as reason:
                table[shift] = {"skipped": {"reason": str(reason)}}
                continue
            panels[shift], table[shift] = (panel, success(cfg, actor, options)), {}
        for name, critic in loaded.items():  # one after the other: they may share servers
            for shift, (panel, rate) in panels.items():
                table[shift][name] = cell(critic, panel, rate)
    return table


def load_critic(cfg: RunConfig, folder: Path, actor: Runtime) -> Critic:
    """A saved critic of either kind, prompted as it was in training."""
    card = critic_card(folder)
    saved = CriticConfig(**card["config"])
    cfg = evaluated_here(cfg.model_copy(update={"critic": saved}))
    return Setup.of(cfg).critic(folder, actor)


def endpoint_critic(cfg: RunConfig, source: EndpointConfig, actor: Runtime) -> EndpointCritic:
    """A zero-shot critic prompted with the run's prompt, or with one that explains the score."""
    queries = cfg.critic.generative
    size = queries.icc.actor_size or size_text(parameter_count(actor.model))
    return EndpointCritic(
        Endpoint(source),
        zero_shot_template(queries.prompt),
        actor,
        size if queries.icc.enabled else None,
        answers_file(cfg.stages.folder, source),
    )


def success(cfg: RunConfig, actor: Runtime, options: dict[str, Any]) -> float:
    """The actor's held-out success under a shift of the task."""
    world = make_world(cfg, **options)
    return evaluate_policy(actor, world, cfg.evaluate.num_problems, cfg.evaluate.num_samples).mean


def cell(critic: Critic, panel: Panel, rate: float) -> Cell:
    """One critic on one panel, with the actor's success rate there."""
    critic.set_success_rate(rate)
    if not isinstance(critic, EndpointCritic):
        return evaluate_critic(critic, panel) | trivial_baselines(panel)
    result = evaluate_critic(critic, panel) | trivial_baselines(panel)
    tokens = critic.bill.prompt_tokens + critic.bill.completion_tokens
    return result | {
        "tokens_per_value": tokens / result["states"],
        "cost": critic.bill.cost,
        "new_answers": critic.bill.new,
        "unanswered": critic.bill.unanswered,
    }


def markdown(table: dict[str, dict[str, Cell]], run: str, cfg: RunConfig) -> str:
    """One row per panel and critic."""
    head = (
        f"Critics on panels of the actor of `{run}`: {cfg.evaluate.panel_continuations} "
        "continuations per state; [95 % bootstrap interval over problems]. A missing score counts "
        "as an error of 1. Baselines look at no response: the best constant and the problem's "
        "success rate, both in hindsight. The difference to the better one is paired by problem."
        "\n\n| panel | critic | states | parsed | MSE | less noise | best baseline | MSE below it "
        "| MAE | Pearson | Spearman | AUC in problem (ceiling) | top-1 of "
        + ", ".join(map(str, POOLS))
        + " (chance) | MSE by part | tokens, ms per value |\n"
        + "|---" * 15
        + "|\n"
    )
    rows = []
    for panel, cells in table.items():
        for name, c in cells.items():
            if "reason" in c:
                rows.append(f"| {panel} | - | {c['reason']} |" + " |" * 12 + "\n")
                continue
            pools = ", ".join(
                f"{number(p['accuracy'], 2)} ({number(p['chance'], 2)})"
                for p in c["top1_by_pool"].values()
            )
            parts = " ".join(number(v) for v in c["mse_by_fraction"].values())
            baseline = min(c["mse_constant"], c["mse_success_rate"])
            cost = f"{number(c.get('tokens_per_value'), 1)}, {1000 * c['seconds_per_value']:.2f}"
            rows.append(
                f"| {panel} | {name} | {c['states']} | {c['parse_rate']:.3f} "
                f"| {spread(c, 'mse')} | {number(c['mse_corrected'])} | {baseline:.4f} "
                f"| {spread(c, 'mse_gain')} | {number(c.get('mae'))} "
                f"| {number(c.get('pearson'), 3)} | {number(c.get('spearman'), 3)} "
                f"| {spread(c, 'auc_within_problem', 3)} ({number(c['auc_ceiling'], 3)}) "
                f"| {pools} | {parts} | {cost} |\n"
            )
    return head + "".join(rows) + verdict_table(table)


def verdict_table(table: dict[str, dict[str, Cell]]) -> str:
    """The critics whose rationales say whether a mistake stands; empty where none does."""
    columns = ("accuracy", "false_alarms", "misses", "rate", "mistakes")
    rows = [
        f"| {panel} | {name} | {' | '.join(spread(c, f'verdict_{key}', 3) for key in columns)} |\n"
        for panel, cells in table.items()
        for name, c in cells.items()
        if "verdict_accuracy" in c
    ]
    head = (
        "\nWhether a mistake stands, say the critic's rationales and the task's program:\n\n"
        "| panel | critic | right verdicts | false alarms, of states without a mistake "
        "| misses, of states with one | states with a verdict | states with a mistake |\n"
        + "|---" * 7
        + "|\n"
    )
    return head + "".join(rows) if rows else ""


def number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def spread(c: Cell, key: str, digits: int = 4) -> str:
    if c[key] is None:
        return "-"
    low, high = c[f"{key}_interval"]
    return f"{c[key]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
