"""genac's trainer in verl on a real TransferQueue; what came of it is written as JSON.

    python verl_trainer.py WORK.json RESULT.json

Run by the environment of `make verl-env`. Nothing is trained, which needs GPUs: responses are put
into the queue as verl's agent loop does, and the trainer's own methods are called in their order.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
import torch
import transfer_queue as tq
import verl
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict
from verl.trainer.ppo.padding_utils import (
    list_of_dict_to_tensordict,
    upsample_batch_to_divisible_size,
)
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY, get_trainer_cls
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

# Each of the queue's actors asks for a CPU; with fewer it waits for ever.
CPUS = 12
# Less for Ray to start, and time for it where the machine is busy; no process is killed for memory
# that others take.
RAY = {
    "RAY_enable_metrics_collection": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_raylet_start_wait_time_s": "600",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_gcs_server_request_timeout_seconds": "600",
}
USUAL = (
    "trainer.v1.trainer_mode=genac",
    "algorithm.adv_estimator=grpo",
    "critic.enable=False",
    "actor_rollout_ref.rollout.n=4",
    "data.train_batch_size=3",
    "trainer.device=cpu",
)


def main(work: dict[str, Any], folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = {"version": verl.__version__, "trainers": sorted(TRAINER_REGISTRY)}
    url = f"+genac.url={work['url']}"
    result["refused"] = {
        "unknown": message(lambda: trainer(url, "+genac.timout=3")),
        "no url": message(trainer),
        "kl": message(lambda: trainer(url, "algorithm.use_kl_in_reward=True")),
        "critic": message(lambda: trainer(url, "critic.enable=True")),
        "geo_mean": message(
            lambda: trainer(url, "actor_rollout_ref.actor.policy_loss.loss_mode=geo_mean")
        ),
        "gae": message(lambda: trainer(url, "algorithm.adv_estimator=gae")),
        "down": message(lambda: trainer("+genac.url=http://127.0.0.1:9", "+genac.timeout=1")),
    }
    result["documented"] = documented(work["documented"])
    place = f"trainer.default_local_dir={folder}"
    made = trainer(url, "+genac.timeout=300", place)
    result["mode"] = made.trainer_mode
    result["buffer"] = type(made.replay_buffer).__name__
    result["same signatures"] = all(
        inspect.signature(getattr(type(made), name)).parameters.keys()
        == inspect.signature(getattr(PPOTrainerSync, name)).parameters.keys()
        for name in ("_step_once", "_compute_advantage", "_save_checkpoint", "_load_checkpoint")
    )
    with open_dict(made.config):
        made.config.transfer_queue.enable = True
    os.environ |= RAY
    ray.init(num_cpus=CPUS, include_dashboard=False, log_to_driver=False, logging_level="error")
    tq.init(made.config.transfer_queue)
    try:
        result["steps"] = [step(made, i, rows) for i, rows in enumerate(work["steps"])]
        result["refused"] |= refused_batches(made, work["steps"][0])
    finally:
        tq.close()
        ray.shutdown()
    result |= checkpoints(made, folder)
    return result


def composed(keys: Sequence[str]) -> Any:
    folder = str(Path(verl.__file__).parent / "trainer" / "config")
    with initialize_config_dir(folder, version_base=None):
        config = compose("ppo_trainer", overrides=list(keys))
    OmegaConf.resolve(config)
    return config


def documented(keys: Sequence[str]) -> dict[str, Any]:
    """Some of what the documented command sets; hydra refuses a key that verl has not."""
    config = composed(keys)
    mode, gpus = config.trainer.v1.trainer_mode, config.trainer.n_gpus_per_node
    return {"trainer_mode": mode, "gpus": gpus, "url": config.genac.url}


def trainer(*keys: str) -> Any:
    """The trainer that verl's config chooses, as main_ppo makes it."""
    config = composed([*USUAL, *keys])
    return get_trainer_cls(config.trainer.v1.trainer_mode)(config=config)


def message(work: Callable[[], Any]) -> str:
    """What is refused, and how."""
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"


def put(rows: list[dict[str, Any]], name: str, **more: Any) -> Any:
    """A batch in the queue, with keys, fields and tags as AgentLoopWorkerTQ writes them."""
    keys, fields, tags = [], [], []
    for i, row in enumerate(rows):
        prompt, response = torch.tensor(row["prompt_ids"]), torch.tensor(row["response_ids"])
        mask = torch.tensor(row["mask"])
        scores = torch.zeros(len(response))
        scores[-1] = row["reward"]
        keys.append(f"{name}-{row['group']}_{i}_{more.get('output', 0)}")
        fields.append(
            {
                "prompts": prompt,
                "responses": response,
                "input_ids": torch.cat([prompt, response]),
                "position_ids": torch.arange(len(prompt) + len(response)),
                "attention_mask": torch.ones(len(prompt) + len(response), dtype=torch.int64),
                "response_mask": mask,
                "loss_mask": mask,
                "rm_scores": scores * more.get("scale", 1),
                "rollout_log_probs": torch.zeros(len(response)),
                "old_log_probs": torch.zeros(len(response)),
                "uid": f"{name}-{row['group']}",
                "raw_prompt": [{"role": "user", "content": row["problem"]}],
                "multi_modal_inputs": {},
                "num_turns": 2,
            }
        )
        length = len(prompt) + len(response)
        tags.append({"status": "success", "seq_len": length, "prompt_len": len(prompt)})
    return tq.kv_batch_put(
        keys=keys, partition_id="train", fields=list_of_dict_to_tensordict(fields), tags=tags
    )


def step(made: Any, number: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One step of the trainer around its advantages, with rows that verl adds as padding."""
    batch = upsample_batch_to_divisible_size(put(rows, f"step{number}"), 8, eos_token_id=1)
    order = list(range(len(batch)))[::-1]  # verl sorts a batch by length before this
    batch.reorder(order)
    made.global_steps = number + 1
    metrics: dict[str, Any] = {}
    begun = time.perf_counter()
    after = made._compute_advantage(batch, metrics)
    made.finish_learning(metrics)
    seconds = time.perf_counter() - begun
    data = tq.kv_batch_get(
        keys=after.keys, partition_id="train", select_fields=["advantages", "response_mask"]
    )
    streams = [part.tolist() for part in data["advantages"].unbind()]
    padded = [bool(tag.get("is_padding")) for tag in after.tags]
    tq.kv_clear(keys=after.keys, partition_id="train")
    return {
        "advantages": [s for s, pad in zip(streams, padded, strict=True) if not pad][::-1],
        "padding": [s for s, pad in zip(streams, padded, strict=True) if pad],
        "metrics": {k: float(v) for k, v in metrics.items()},
        "seconds": seconds,
    }


def refused_batches(made: Any, rows: list[dict[str, Any]]) -> dict[str, str]:
    made.global_steps = 9
    scaled, second = put(rows, "scaled", scale=10), put(rows, "second", output=1)
    return {
        "reward": message(lambda: made._compute_advantage(scaled, {})),
        "outputs": message(lambda: made._compute_advantage(second, {})),
    }


class Workers:
    """What verl saves and loads besides the critic's state, which would need GPUs."""

    def save_checkpoint(self, *args: Any, **keys: Any) -> None: ...

    def load_checkpoint(self, *args: Any, **keys: Any) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def checkpoints(made: Any, folder: Path) -> dict[str, Any]:
    """What is saved with verl's checkpoint, and what a service that has learnt less is met with."""
    made.actor_rollout_wg = made.train_dataloader = Workers()
    made.global_steps = 2
    made._save_checkpoint()
    file = folder / "global_step_2" / "genac.json"
    saved = json.loads(file.read_text())
    made._load_checkpoint()
    resumed = made.global_steps
    file.write_text(json.dumps({"step": saved["step"] + 1}))
    return {"saved": saved, "resumed": resumed, "behind": message(made._load_checkpoint)}


if __name__ == "__main__":
    work = json.loads(Path(sys.argv[1]).read_text())
    target = Path(sys.argv[2])
    target.write_text(json.dumps(main(work, target.parent / "checkpoints")))
