"""What training loops share: resuming, progress, logging, alarms, stored rollouts, checkpoints."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from genac import checkpoint
from genac.config.stages import CriticStage, LoopStage
from genac.critics.base import Critic
from genac.evals.cost import Cost
from genac.runs.alarms import Alarms
from genac.runs.manifest import (
    LOGS,
    TABLES,
    Entry,
    damaged,
    entries,
    entry,
    files_below,
    successors,
)
from genac.runs.progress import Progress
from genac.runs.store import Run
from genac.runtime import Runtime
from genac.stages.callbacks import Callbacks, StopTraining
from genac.stages.interrupts import Interrupts
from genac.types import Advantages, Estimate, Group

SHOWN = (
    "reward",
    "eval/success",
    "loss",
    "critic/mse",
    "critic/reward",
    "critic/parse_failure_rate",
)
# drawn over the steps in a terminal, up to this height: 0.25 is the error of always saying 0.5
SPARKS = {"reward": 1.0, "critic/mse": 0.25}


SEEN = (
    "config.json",
    "environment.json",
    *LOGS,
    *TABLES,
)  # of a run's folder, in every checkpoint's state


class Loop:
    """The steps of one stage, of which a killed run repeats only those behind its last checkpoint.

    for step in loop:               # loads the newest checkpoint, drops rows behind it
        ...
        loop.after(step, metrics)   # logs, warns, and saves when due
    """

    def __init__(
        self,
        run: Run,
        stage: str,
        cfg: LoopStage | CriticStage,
        runtimes: Mapping[str, Runtime],
        critic: Critic | None,
        config_hash: str,
        tokenizer: Any = None,
        callbacks: Callbacks | None = None,
    ) -> None:
        self.run = run
        self.stage = stage
        self.cfg = cfg
        self.runtimes = runtimes
        self.critic = critic
        self.config_hash = config_hash
        self.tokenizer = tokenizer
        self.callbacks = callbacks or Callbacks()
        self.stopped: dict[str, Any] | None = None  # the step and reason of a StopTraining
        self.root = run.checkpoints / stage
        self.cost = Cost()
        self.interrupts = Interrupts()
        self.files: dict[str, Entry] = {}  # of the run's folder, as the newest checkpoint saw them
        self.bf16 = {role: r.bf16 for role, r in runtimes.items()}
        self.alarms = Alarms(run, warn, bf16=any(self.bf16.values()))

    def __iter__(self) -> Iterator[int]:
        first = self._resume()
        if self.callbacks.ended is not None:
            self.stopped = {"step": first, "reason": self.callbacks.ended}
        bar = Progress(self.stage, self.cfg.steps, start=first, sparks=SPARKS)
        with Interrupts() as self.interrupts, bar as self.progress:
            for step in range(first, self.cfg.steps):
                if self.stopped is not None:
                    return
                yield step

    def _resume(self) -> int:
        """Loads the newest checkpoint, if there is one; returns the step to go on with.

        Rows of later steps, which the killed run may have logged, are dropped. Raises ValueError
        where the checkpoint belongs to another config.
        """
        checkpoints = checkpoint.complete(self.root)
        if not checkpoints:
            self.run.truncate_after(self.stage, -1)
            return 0
        self.files = require_progress(self.run, self.stage)
        state = checkpoint.load(checkpoints[-1], self.runtimes)
        written = state["config_hash"]
        require_config(self.run, checkpoints[-1], written, self.config_hash)
        if state.get("bf16", self.bf16) != self.bf16:  # auto means another thing on this machine
            warn(
                f"{self.stage} goes on in {spoken(self.bf16)}, but began in "
                f"{spoken(state['bf16'])}; set hardware.precision for the same numbers anywhere"
            )
        if self.critic is not None:
            self.critic.restore(state["critic"])
        self.cost.restore(state["cost"])
        # Where the run was given more steps since, what stopped it then does not count.
        first = state["step"]
        self.stopped = state.get("stopped") if written == self.config_hash else None
        self.run.truncate_after(self.stage, first - 1)
        self.run.event("resumed", stage=self.stage, step=first)
        return first

    def after(
        self,
        step: int,
        metrics: Mapping[str, Any],
        groups: Sequence[Group] = (),
        estimates: Sequence[Estimate] = (),
        advantages: Advantages | None = None,
    ) -> None:
        """Logs the step with the cost so far, stores what is due, raises alarms, saves a checkpoint
        when due or when Ctrl-C was pressed, for which KeyboardInterrupt follows, or a callback
        raised, which is raised again.
        """
        metrics = {**metrics, **self.cost.totals()}
        self.run.log(self.stage, step, metrics)
        shown = {"stage": self.stage, "step": step, **metrics}
        error = self._hear(step, "on_step", shown)
        if error is None and "eval/success" in metrics:
            error = self._hear(step, "on_evaluate", shown)
        every, last = self.cfg.log_rollouts_every, step + 1 == self.cfg.steps or bool(self.stopped)
        if groups and every and (step % every == 0 or last):
            rollouts = [r for g in groups for r in g]
            self.run.write_rollouts(self.stage, step, rollouts, self._exact)
            if estimates:
                texts = (self._decode, self._critic_exact)
                self.run.write_estimates(self.stage, step, estimates, advantages, *texts)
        self.alarms.check(self.stage, step, metrics)
        self.progress.update(
            step + 1, **{k: metrics[k] for k in SHOWN if metrics.get(k) is not None}
        )
        pressed = self.interrupts.pressed
        if last or pressed or error or (step + 1) % self.cfg.save_every == 0:
            folder, ending = self.save(step + 1), self.stopped
            error = error or self._hear(step, "on_save", folder)
            if self.stopped != ending:
                self.save(step + 1)
        if error is not None or pressed:
            self.progress.close()  # this generator may live on in the error's traceback
            raise error or KeyboardInterrupt

    def _hear(self, step: int, hook: str, about: Any) -> Exception | None:
        """Calls a hook of the callbacks; what one raised, unless that is to stop."""
        error = self.callbacks.call(hook, step + 1, about)
        if isinstance(error, StopTraining):
            self.stopped = {"step": step + 1, "reason": str(error)}
            self.run.event("stopped", stage=self.stage, **self.stopped)
            return None
        if error is not None:
            error.add_note(
                f"raised by {hook} of a callback behind step {step + 1} of {self.stage}, which is "
                "saved: the same call resumes there"
            )
        return error

    def _decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        # Responses are the actor's tokens; the critic's tokenizer may be another.
        tokenizer = self.tokenizer or next(iter(self.runtimes.values())).tokenizer
        return tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def _exact(self, ids: Sequence[int]) -> str:
        return self._decode(ids, skip_special_tokens=False)

    def _critic_exact(self, ids: Sequence[int]) -> str:
        assert self.critic is not None and self.critic.runtime is not None  # only it has rationales
        return self.critic.runtime.tokenizer.decode(list(ids))

    def save(self, step: int) -> Path:
        """A checkpoint from which the next step is `step`; its folder."""
        names = files_below(self.run.path, [n for n in SEEN if (self.run.path / n).exists()])
        fresh = {name for name in names if name in LOGS or name not in self.files}
        self.files |= {name: entry(self.run.path / name) for name in fresh}
        state = {
            "config_hash": self.config_hash,
            "files": self.files,
            "critic": self.critic.state() if self.critic else {},
            "cost": self.cost.state(),
            "bf16": self.bf16,
            "stopped": self.stopped,
        }
        return checkpoint.save(self.root, step, self.runtimes, state)


def require_config(run: Run, folder: Path, written: str, name: str) -> None:
    """ValueError where a checkpoint, whose config's hash is `written`, is of another config than
    `name` and of none that this one came from."""
    if name not in successors(run.path, "config_hash", written):
        raise ValueError(
            f"checkpoint {folder} was written under config {written}, this run has {name} (a key "
            "of the config, a file that it names, or genac itself changed); use the same config "
            "or a new output_dir"
        )


def spoken(bf16: Mapping[str, bool]) -> str:
    """'bf16 (actor), fp32 (critic)'."""
    return ", ".join(f"{'bf16' if half else 'fp32'} ({role})" for role, half in bf16.items())


def require_progress(run: Run, stage: str) -> dict[str, Entry]:
    """What the newest checkpoint of a stage recorded of the run's folder; ValueError where a file
    is not as it was then. Of a log the lines since then may differ."""
    result = checkpoint.complete(run.checkpoints / stage)
    if not result:
        return {}
    files = entries(checkpoint.saved_state(result[-1]), result[-1] / "state.json")
    for name, reason in damaged(run.path, files, growing=True).items():
        raise ValueError(
            f"{run.path / name} {reason}, says {result[-1] / 'state.json'}; restore it, or delete "
            f"it and {run.checkpoints / stage} to train that stage from its start"
        )
    return files


def warn(message: str) -> None:
    """Alarms go to the terminal's error stream."""
    print(message, file=sys.stderr, flush=True)
