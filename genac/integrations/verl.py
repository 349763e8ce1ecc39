# pyright: reportMissingImports=false
"""A trainer for verl whose advantages come from a critic service (docs/verl.md).

    python -m verl.trainer.main_ppo trainer.v1.trainer_mode=genac +genac.url=http://HOST:8077 \
        algorithm.adv_estimator=grpo critic.enable=False ...

verl imports this module with itself, through the entry point group `verl.plugins`. Importing it
registers the trainer. Everything but `advantages` and the critic is verl's synchronous trainer.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from genac.client.messages import Learnt, Responses
from genac.integrations.trajectories import Settings, Trajectory, taught, token_streams

SUPPORTED = ">=0.9,<0.10"  # verl's releases whose trainer has the methods overridden here
STATE = "genac.json"  # in a checkpoint of verl: what the service had learnt by then

logger = logging.getLogger(__name__)


def require(release: str) -> None:
    """ImportError for a release of verl that this trainer does not fit."""
    if not SpecifierSet(SUPPORTED, prereleases=True).contains(release):
        raise ImportError(f"{release} is installed; pip install 'verl{SUPPORTED}'")


try:
    require(version("verl"))
    import torch
    import transfer_queue as tq
    from omegaconf import DictConfig, OmegaConf, open_dict
    from tensordict import TensorDict
    from verl.trainer.ppo.v1.trainer_base import register_trainer
    from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
except ImportError as error:
    # verl reports a plug-in that does not load at the level DEBUG only.
    message = f"genac.integrations.verl needs verl{SUPPORTED}: {error}"
    logger.warning("the trainer 'genac' is not registered with verl: %s", message)
    raise ImportError(message) from error


@register_trainer("genac")
class GenACTrainer(PPOTrainerSync):
    """verl's synchronous PPO trainer with advantages of a generative critic.

    The critic learns from a step's outcomes while verl trains the actor; the step ends when both
    are done, so the next step is valued by the new critic.
    """

    def __init__(self, config: Any) -> None:
        self.settings = settings_of(config)
        refuse(config)
        # verl compares the mode with "sync" in several places; another name makes it asynchronous.
        with open_dict(config):
            config.trainer.v1.trainer_mode = "sync"
        super().__init__(config)
        if self.use_critic or config.algorithm.adv_estimator == "gae":  # which needs values
            raise ValueError(
                "the trainer 'genac' takes values from the critic service; set "
                "critic.enable=False and algorithm.adv_estimator=grpo, so that verl trains no "
                "critic of its own"
            )
        self.service = self.settings.client()
        self.service.version()  # a service that does not answer is noticed before models are loaded
        # The service keeps replies by id: steps that are repeated after a crash need other ids.
        self.session = uuid.uuid4().hex[:12]
        self.learner = ThreadPoolExecutor(1, "genac-learn")
        self.learning: Future[Learnt] | None = None

    # --- one step ------------------------------------------------------------------------------

    def _step_once(self, metrics: dict, timing_raw: dict, sample_batch_size: int) -> Any:
        batch = super()._step_once(metrics, timing_raw, sample_batch_size)
        self.finish_learning(metrics)
        return batch

    def _compute_advantage(self, batch: Any, metrics: dict) -> Any:
        """verl's own (rollout correction, masks), then the field `advantages` is replaced."""
        batch = super()._compute_advantage(batch, metrics)
        rows, masks = trajectories(batch)
        known = [row for row in rows if row is not None]
        key = f"verl-{self.session}-{self.global_steps}"
        begun = time.perf_counter()
        request = Responses(
            responses=tuple(row.message() for row in known),
            id=key if self.settings.learn else None,
            step=self.global_steps - 1,  # verl counts from 1
        )
        reply = self.service.advantages(request)
        metrics.update(reply.metrics)
        metrics["critic/version"] = float(reply.version)
        metrics["critic/seconds_advantages"] = time.perf_counter() - begun
        streams = iter(token_streams(reply, known))
        # A row of verl's padding teaches nothing: its mask is 0 throughout.
        advantages = [
            torch.zeros(len(mask)) if row is None else torch.tensor(next(streams)) * mask
            for row, mask in zip(rows, masks, strict=True)
        ]
        if self.settings.learn:
            self.learning = self.learner.submit(taught, self.service, request)
        return tq.kv_batch_put(
            keys=batch.keys,
            partition_id=batch.partition_id,
            fields=TensorDict({"advantages": jagged(advantages)}, batch_size=len(batch)),
        )

    def finish_learning(self, metrics: dict) -> None:
        """Waits until the critic has learnt this step, and raises what went wrong there."""
        if self.learning is None:
            return
        begun = time.perf_counter()
        learning, self.learning = self.learning, None
        metrics.update(learning.result().metrics)
        metrics["critic/seconds_waited"] = time.perf_counter() - begun

    # --- checkpoints ---------------------------------------------------------------------------

    def _save_checkpoint(self) -> None:
        """The service's checkpoint first: verl's is never without one."""
        if self.settings.learn:
            saved = self.service.checkpoint()
            folder = Path(self.config.trainer.default_local_dir, f"global_step_{self.global_steps}")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / STATE).write_text(json.dumps({"step": saved.step}), encoding="utf-8")
        super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if self.global_steps and self.settings.learn:
            compare(self.folder_loaded() / STATE, self.service.version().step)

    def folder_loaded(self) -> Path:
        """The checkpoint that verl has resumed from."""
        trainer = self.config.trainer
        if trainer.resume_mode == "resume_path":
            return Path(trainer.resume_from_path)
        return Path(trainer.default_local_dir, f"global_step_{self.global_steps}")


def settings_of(config: Any) -> Settings:
    """The section `genac` of verl's config."""
    section = config.get("genac")
    if isinstance(section, DictConfig):
        section = OmegaConf.to_container(section, resolve=True)
    return Settings.of(section if isinstance(section, Mapping) else None)


def refuse(config: Any) -> None:
    """ValueError for settings of verl that the critic's advantages would silently undo."""
    if config.algorithm.use_kl_in_reward:
        raise ValueError(
            "algorithm.use_kl_in_reward puts the KL penalty into rewards, which the critic's "
            "advantages do not read; set actor_rollout_ref.actor.use_kl_loss=True instead"
        )
    if config.actor_rollout_ref.actor.policy_loss.loss_mode == "geo_mean":
        raise ValueError(
            "actor_rollout_ref.actor.policy_loss.loss_mode geo_mean gives each token the mean of "
            "its response's advantages, so credit for single steps is lost; use vanilla or gspo"
        )


def trajectories(batch: Any) -> tuple[list[Trajectory | None], list[Any]]:
    """The responses of a batch, None for a row of padding; and of each its mask, (T,) float32."""
    fields = ["prompts", "responses", "response_mask", "rm_scores", "raw_prompt"]
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
    columns = [data[name].unbind() for name in fields[:4]]
    rows: list[Trajectory | None] = []
    masks: list[Any] = []
    for key, tag, prompt, response, mask, scores, raw in zip(
        batch.keys, batch.tags, *columns, list(data["raw_prompt"]), strict=True
    ):
        masks.append(mask.float())
        if tag.get("is_padding", False):
            rows.append(None)
            continue
        group, _, output = key.rsplit("_", 2)
        if output != "0":
            raise ValueError(
                f"the agent loop wrote several outputs in session {key.rsplit('_', 1)[0]}; the "
                "critic values one response per session: return one AgentLoopOutput, with the "
                "tools' tokens masked"
            )
        problem = raw if isinstance(raw, str) else [dict(message) for message in raw]
        reward = float(scores.sum())
        rows.append(Trajectory(key, group, problem, prompt.tolist(), response.tolist(), reward))
    return rows, masks


def jagged(rows: list[Any]) -> Any:
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def compare(path: Path, step: int) -> None:
    """ValueError where the service has learnt less than when verl saved; a warning where more."""
    if not path.exists():
        logger.warning("%s is missing: the checkpoint was saved without a critic service", path)
        return
    saved = json.loads(path.read_text(encoding="utf-8"))["step"]
    if step < saved:
        raise ValueError(
            f"the critic service has learnt {step} requests, and verl's checkpoint was saved after "
            f"{saved} (in {path}); start `genac serve --learn` from its own checkpoint, or delete "
            "that file to go on with this critic"
        )
    if step > saved:
        logger.warning(
            "the critic service has learnt %d requests and verl resumes after %d: the critic "
            "learns from some problems again",
            step,
            saved,
        )
