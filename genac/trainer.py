"""The shape that users of TRL know, over the same loop as `genac train`.

    trainer = genac.Trainer(
        model="Qwen/Qwen3-1.7B",           # or a loaded model, with its tokenizer
        reward_funcs=score,                # score(completions, **columns) -> list in [0, 1]
        train_dataset=rows,                # a datasets.Dataset, or a list of dicts with 'prompt'
        args={"recipe": "own-data", "stages.joint.steps": 50, "output_dir": "runs/first"},
    )
    trainer.train()
    trainer.run                            # the folder: metrics, responses, values, report.html

Everything given becomes a config: rows a file, a loaded model a folder, a function a name. So a run
is resumed, hashed, viewed and evaluated as any other.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from genac.config.recipes import read_recipe, resolve
from genac.config.run import RunConfig
from genac.critics import critic_class
from genac.engines.vllm.sharing import shared_servers
from genac.hardware import with_engines
from genac.runs.manifest import MODELS
from genac.runs.store import Run
from genac.stages.callbacks import Callbacks
from genac.stages.contents import contents
from genac.stages.finish import config_hash, finished, require_trained
from genac.stages.loop import warn
from genac.stages.objects import stored_model, stored_rows
from genac.stages.pipeline import held_out, starting_actor, train
from genac.stages.setup import Setup, prepared_config
from genac.tasks import make_task
from genac.tasks.callables import is_in_process, reward_spec


class Trainer:
    """Actor and critic trained together, by every algorithm of `RunConfig.algorithm`.

    model, critic_model: a name on the hub, a folder, or a loaded transformers model; None = what
        `args` says. The critic starts from the actor's model where it names none.
    reward_funcs: a function of TRL's signature, a spec of `task.reward` ("math", "rewards.py:fn"),
        or a list of them; `reward_weights` are scaled to sum 1 (None = equal). Rewards lie in
        [0, 1]; None = the response cannot be judged.
    train_dataset: rows with `prompt` (text or messages) and further columns, which the functions
        get: a datasets.Dataset, a list of dicts, or the name of a file or data set. None = the task
        of `args`.
    eval_dataset: the held-out rows; None = a tenth of train_dataset.
    args: a RunConfig, a recipe's name or file, or a dict of keys, dotted or nested, over the recipe
        that its key "recipe" names; without one over the defaults, which are those of a large run.
    processing_class: the tokenizer of a loaded model; None = of the name it was loaded from.
    callbacks: see genac.stages.callbacks.

    Raises ValueError, before anything is trained, for what does not fit together.
    """

    def __init__(
        self,
        model: Any = None,
        reward_funcs: Any = None,
        args: RunConfig | Mapping[str, Any] | str | Path | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        *,
        critic_model: Any = None,
        reward_weights: Sequence[float] | None = None,
        callbacks: Iterable[Any] = (),
    ) -> None:
        self.callbacks = list(callbacks)
        Callbacks(self.callbacks)  # refuses what is none
        cfg = config_of(args)
        if critic_model is not None and not critic_class(cfg.critic.kind).learns:
            raise ValueError(
                f"critic_model is given, but algorithm {cfg.algorithm!r} trains no critic "
                f"(critic.kind {cfg.critic.kind!r}); leave it out, or choose genac or ppo"
            )
        task = task_of(cfg, train_dataset, eval_dataset, reward_funcs, reward_weights)
        values = cfg.model_dump() | {"task": task}
        for role, own in (("actor", model), ("critic", critic_model)):
            if own is not None:
                named_critic = role == "critic" and isinstance(own, str | Path)
                tokenizer = None if named_critic else processing_class
                name = "model" if role == "actor" else "critic_model"
                path = stored_model(own, tokenizer, cfg.stages.folder, name)
                values[role] = values[role] | {"model_name_or_path": path}
        self.args = with_engines(resolve(values))
        make_task(self.args.task, self.args.seed)  # reads the rows, and loads the reward
        if is_in_process(self.args.task.reward):
            warn(NOTE.format(self.args.task.reward))

    def train(self) -> Run:
        """All stages; resumes what was interrupted. Returns the finished run."""
        return Run.open(train(self.args, self.callbacks))

    def evaluate(self, eval_dataset: Any = None) -> dict[str, float]:
        """Success with its 95 % interval on the held-out problems, or on other rows, of which the
        first `evaluate.num_problems` count: of the trained actor, or before training of what it
        starts from.
        """
        cfg = self.args
        if eval_dataset is not None:
            rows = stored_rows(eval_dataset, cfg.stages.folder, "eval_dataset")
            options = cfg.task.options | {"heldout": rows}
            task = cfg.task.model_copy(update={"options": options})
            cfg = cfg.model_copy(update={"task": task})
        done = finished(self.args, contents(self.args))
        path = self.run.path / "actor" if done else starting_actor(prepared_config(self.args))[0]
        setup = Setup.of(cfg)
        with shared_servers():
            score = held_out(setup, setup.actor(path))
        return score.logged() | {"eval/pass_at_k": score.pass_at_k}

    def save_model(self, output_dir: str | Path) -> None:
        """Copies the trained actor into a folder, and the critic into its subfolder `critic`."""
        target = Path(output_dir)
        require_trained(self.run)
        for role, place in zip(MODELS, (target, target / "critic"), strict=True):
            if (self.run.path / role).is_dir():
                shutil.copytree(self.run.path / role, place, dirs_exist_ok=True)

    @property
    def run(self) -> Run:
        """The run folder. ValueError before `train` has begun it."""
        run = Run.open(self.args.output_dir)
        if run.config_hash() != config_hash(self.args):
            raise ValueError(
                f"{run.path} holds a run of another config; call train(), or choose "
                "another output_dir"
            )
        return run

    @property
    def log_history(self) -> list[dict[str, Any]]:
        """The metrics of every step of joint training so far."""
        return self.run.metrics("joint")


NOTE = (
    "note: the reward {} lives in this process, where it has no time limit and no other command "
    "can call it; a function imported from a file of its own has neither limit"
)


def config_of(args: Any) -> RunConfig:
    """The config that `args` means. ValueError for anything that is none."""
    if isinstance(args, RunConfig):
        return args
    if isinstance(args, str | Path):
        return resolve(read_recipe(args))
    if args is None or isinstance(args, Mapping):
        values = dict(args or {})
        recipe = values.pop("recipe", None)
        return resolve({} if recipe is None else read_recipe(recipe), values)
    raise ValueError(
        f"args is a {type(args).__module__}.{type(args).__qualname__}; give a RunConfig, a "
        "recipe's name, or a dict of keys (docs/migration.md has those of TRL's GRPOConfig)"
    )


def task_of(
    cfg: RunConfig, train_dataset: Any, eval_dataset: Any, reward_funcs: Any, weights: Any
) -> dict[str, Any]:
    """The task section: that of `cfg`, with rows and rewards in their place."""
    task, root = cfg.task.model_dump(), cfg.stages.folder
    if train_dataset is not None:
        own = task["options"] if task["name"] == "file" else {}
        task |= {"name": "file", "shift": {}, "options": own}
        task["path"] = stored_rows(train_dataset, root, "train_dataset")
    elif task["name"] != "file" and (reward_funcs is not None or eval_dataset is not None):
        raise ValueError(
            f"the task of args is {task['name']!r}, which makes and judges its own problems; give "
            "train_dataset with reward_funcs and eval_dataset"
        )
    if eval_dataset is not None:
        heldout = stored_rows(eval_dataset, root, "eval_dataset")
        task["options"] = task["options"] | {"heldout": heldout}
    if reward_funcs is not None:
        task["reward"] = reward_spec(reward_funcs, weights)
    elif weights is not None:
        raise ValueError("reward_weights is given without reward_funcs")
    return task
