"""Model cards: README.md of a saved actor and critic, with the hub's metadata.

Everything in a card comes from the run's config and summary and from critic.json. Of a path only
its last part is named, so that no card tells where it was made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from genac.config.models import CriticConfig
from genac.critics.running_prompt import prompt_of
from genac.critics.saved import critic_card
from genac.hub.card_usage import actor_use, prompt_section, use_section
from genac.hub.files import METRICS_HEAD, place_card
from genac.hub.origins import base_model, last_part, named, start_of, without_folders
from genac.runs.files import read_json
from genac.runs.manifest import POINTER
from genac.runs.store import Run

CARD = "README.md"
AT_A_SERVICE = """## Weights

They are at a Tinker service: `tinker.json` says where. The code above needs them in this folder."""
Metric = tuple[str, str, float, list[float] | None]  # type, name, value, interval


def write_cards(folder: str | Path) -> list[str]:
    """README.md into actor/ and critic/ of a finished run; a line on each card that was kept."""
    run = Run.open(folder)
    rows = []
    for role, card in (("actor", actor_card), ("critic", critic_text)):
        if (run.path / role).is_dir():
            text = card(run.path / role, run.config(), run.summary())
            if (run.path / role / POINTER).exists():
                text = join(text.rstrip(), AT_A_SERVICE)
            rows += place_card(run.path / role / CARD, text)
    return rows


def write_critic_card(folder: Path) -> list[str]:
    """The card of a critic that stands alone (a stage's model, a copy): no run's figures in it."""
    return place_card(folder / CARD, critic_text(folder, {}, {}))


def actor_card(folder: Path, config: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """Metadata and text of the actor's card."""
    metrics, start = success_metrics(summary), start_of("actor", config)
    name = f"{config['name']} actor"
    tags = ["genac", "reinforcement-learning", config["algorithm"]]
    return join(
        front_matter(config, name, tags, metrics, base_model(start, summary)),
        f"# {name}",
        f"A language model trained by reinforcement learning with `{config['algorithm']}` in "
        "genac. It writes solutions to the task below.",
        data_section(config),
        stages_section(config, named(start, summary)),
        metrics_section(metrics),
        actor_use(config),
        LIMITS,
    )


def critic_text(folder: Path, config: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """Metadata and text of the critic's card; config and summary are empty outside a run."""
    saved = critic_card(folder)
    if not saved:
        raise ValueError(f"{folder} holds no critic.json, so it is no critic of genac")
    cfg = CriticConfig(**saved["config"])
    metrics, start = critic_metrics(summary), start_of("critic", config)
    name = f"{config['name']} critic" if config else "genac critic"
    tags = ["genac", f"{cfg.kind}-critic", "reinforcement-learning"]
    head = [
        front_matter(config, name, tags, metrics, base_model(start, summary)),
        f"# {name}",
        f"A {cfg.kind} critic: it judges a problem and the beginning of a solution, and predicts "
        "how likely its author is to end right, as a value in [0, 1].",
    ]
    if config:
        stages = stages_section(config, named(start, summary))
        head += [data_section(config), stages, metrics_section(metrics)]
    if cfg.kind != "generative":
        return join(*head, "Its values come from `value_head.safetensors`, not from text.", LIMITS)
    if cfg.generative.form == "running":
        return join(
            *head,
            "It reads a whole response and writes a note and a score behind every segment "
            "(`critic.generative.form: running`); `genac eval` and `genac generate` ask it.",
            LIMITS,
        )
    chosen = prompt_of(cfg.generative)
    return join(*head, prompt_section(chosen, saved, cfg), use_section(chosen, saved, cfg), LIMITS)


# --- metadata -------------------------------------------------------------------------------------


def front_matter(
    config: Mapping[str, Any],
    name: str,
    tags: Sequence[str],
    metrics: Sequence[Metric],
    base: str | None,
) -> str:
    """The hub's YAML: library, task, tags, base model and, as a model index, the metrics."""
    data: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": list(tags),
    }
    if base:
        data["base_model"] = base
    if config and metrics:
        task = {"type": "text-generation", "name": "text generation"}
        rows = [{"type": t, "name": n, "value": round(v, 6)} for t, n, v, _ in metrics]
        dataset = {"name": data_name(config), "type": config["task"]["name"], "split": "heldout"}
        result = {"task": task, "dataset": dataset, "metrics": rows}
        data["model-index"] = [{"name": name, "results": [result]}]
    return "---\n" + yaml.safe_dump(data, sort_keys=False, allow_unicode=True) + "---"


def data_name(config: Mapping[str, Any]) -> str:
    """The task's name and, of a data file, the file's."""
    path = config["task"].get("path")
    return f"{config['task']['name']} ({Path(path).name})" if path else config["task"]["name"]


def success_metrics(summary: Mapping[str, Any]) -> list[Metric]:
    results: list[Metric] = []
    for when in ("before", "after"):
        if s := summary.get(f"success_{when}"):
            name = f"held-out success {when} training"
            results.append(("accuracy", name, s["mean"], [s["low"], s["high"]]))
    if (s := summary.get("success_after")) and "pass_at_k_low" in s:
        interval = [s["pass_at_k_low"], s["pass_at_k_high"]]
        results.append(("pass@k", f"pass@{s['k']} after training", s["pass_at_k"], interval))
    return results


CRITIC_METRICS = {
    "mse": "mean squared error against Monte-Carlo values",
    "mse_constant": "the same of the best constant",
    "auc_within_problem": "AUC of right against wrong responses to one problem",
    "parse_rate": "scores that could be read",
    "expected_calibration_error": "expected calibration error",
}


def critic_metrics(summary: Mapping[str, Any]) -> list[Metric]:
    """Of the critic as joint training began, and where it was judged again, as it ended."""
    results: list[Metric] = []
    critic = summary.get("critic") or {}
    for part, when in (
        (critic, "before joint training"),
        (critic.get("after_joint"), "at the end"),
    ):
        for key, text in CRITIC_METRICS.items():
            if part and part.get(key) is not None:
                interval = part.get(f"{key}_interval")
                results.append((key, f"{text}, {when}", part[key], interval))
    return results


# --- text -----------------------------------------------------------------------------------------

LIMITS = (
    "## Limits\n\nThe figures hold for the task above and for actors like the one it was trained "
    "with. No licence is stated here: who publishes the weights chooses it."
)


def data_section(config: Mapping[str, Any]) -> str:
    task = config["task"]
    lines = [f"## Data\n\nTask: `{data_name(config)}`."]
    if task["options"]:
        lines.append(
            f"Settings of its generator: `{json.dumps(without_folders(task['options']))}`."
        )
    if task.get("reward"):
        lines.append(f"Reward: `{Path(task['reward']).name}`.")
    own = task["options"].get("heldout")
    lines.append(
        f"Problems of evaluations are those of `{last_part(own)}`; training rows that hold one are "
        "left out."
        if own
        else "Problems of evaluations are held out by a hash of their text."
    )
    return " ".join(lines)


def stages_section(config: Mapping[str, Any], start: str | None) -> str:
    """What was trained, in order, from `start` (None: a model made from scratch)."""
    stages = config["stages"]
    kind = config["critic"]["kind"]
    rows = [
        ("start", f"`{start}`" if start else f"made from scratch, {stages['base']['steps']} steps")
    ]
    if kind == "generative":
        rows.append(("critic SFT on reasoning traces", f"{stages['sft']['epochs']} epochs"))
    if kind in ("generative", "discriminative"):
        steps = stages["critic_rl"]["steps"]
        rows.append(("critic training on returns, actor frozen", f"{steps} steps"))
    rows.append(("joint reinforcement learning", f"{stages['joint']['steps']} steps"))
    credit = config["credit"]
    rows += [
        ("algorithm", f"`{config['algorithm']}`, preset `{config['preset']}`"),
        ("credit", f"`{credit['estimator']}`, gamma {credit['gamma']}, lambda {credit['lam']}"),
        ("seed", str(config["seed"])),
    ]
    return "## Training\n\n" + table(("stage", ""), rows)


def metrics_section(metrics: Sequence[Metric]) -> str:
    if not metrics:
        return "## Metrics\n\nNone were recorded."
    rows = [
        (name, f"{v:.4f}", "" if i is None else f"[{i[0]:.4f}, {i[1]:.4f}]")
        for _, name, v, i in metrics
    ]
    return "## Metrics\n\n" + table((METRICS_HEAD, "value", "95 % interval"), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    cells = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in lines)
    return "\n".join(f"| {row} |" for row in cells)


def join(*parts: str) -> str:
    return "\n\n".join(parts) + "\n"


def run_of(folder: Path) -> Path | None:
    """The finished run whose actor or critic the folder is."""
    parent = folder.resolve().parent
    inside = folder.resolve().name in ("actor", "critic")
    return parent if inside and (parent / "config.json").exists() and summary_of(parent) else None


def summary_of(run: Path) -> dict[str, Any]:
    file = run / "summary.json"
    return read_json(file) if file.exists() else {}
