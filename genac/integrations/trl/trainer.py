"""TRL's GRPOTrainer with the advantages of a generative critic.

Two methods of GRPOTrainer are wrapped around `super()`, as its maintainers advise:

    _calculate_rewards               keeps what the reward functions gave
    _generate_and_score_completions  replaces the (B,) advantages by (B, T), then teaches the critic

Advantages are requested once per generation batch, whatever `num_iterations` and
`steps_per_generation` are. Only the main process speaks to the critic. An
evaluation neither queries nor trains it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

from accelerate.utils import gather_object
from torch import Tensor
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl.trainer.grpo_trainer import GRPOTrainer

from genac.client import Response, Responses
from genac.integrations.trajectories import taught
from genac.integrations.trl.batches import in_groups, padded, responses_of, total_rewards
from genac.integrations.trl.critic import connect, require_critic
from genac.integrations.trl.processes import on_main
from genac.integrations.trl.settings import require_supported
from genac.runs.files import read_json, write_json

CRITIC, PROGRESS = "critic", "trainer.json"  # in a checkpoint: the folder, and its step
Streams = list[tuple[float, ...]]  # per response one advantage per token


class GenACTrainer(GRPOTrainer):
    """GRPOTrainer that trains a generative critic and takes its advantages.

    critic: a `genac.service.LearningCritic`, a `genac.client.Client`, the URL of a
        `genac serve --learn`, or a folder (a saved critic, or a language model for a fresh one).
        With several processes give a URL or a folder: the main process alone opens it.
    train_critic: False queries the critic and never trains it.

    Everything else is GRPOTrainer's. Rewards, summed with `reward_weights`, must lie in [0, 1].
    Raises ValueError for options of TRL that need one advantage per response.
    """

    _tag_names = [*GRPOTrainer._tag_names, "genac"]  # noqa: RUF012  (as TRL has it)

    def __init__(self, *args: Any, critic: Any, train_critic: bool = True, **kwargs: Any) -> None:
        require_supported(args, kwargs)
        require_critic(critic)
        super().__init__(*args, **kwargs)
        if self._is_vlm:
            raise ValueError("the processing class is a processor; the critic reads text only")
        self.train_critic = train_critic
        self._critic_step = 0  # generation batches so far; draws the critic's samples
        tokenizer, model = self.processing_class, self.model
        self._critic = on_main(
            self.accelerator, lambda: connect(critic, tokenizer, model), share=False
        )
        if train_critic and self.args.save_strategy != "no":
            on_main(self.accelerator, lambda: self._critic.require_saving())

    # --- the two hooks ---------------------------------------------------------------------------

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Tensor:
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self._scored = prompts, completion_ids_list, rewards
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        prompts, completion_ids, per_function = self._scored
        del self._scored
        assert self.model is not None
        if not self.model.training:
            return output
        if "tool_mask" in output:
            raise ValueError(
                "rollout_func gives an env_mask, but GenACTrainer supports responses of one turn"
            )
        rewards = total_rewards(per_function, self.reward_weights)
        first = self.accelerator.process_index * len(prompts)
        own = slice(first, first + len(prompts))
        responses = gather_object(responses_of(output, prompts, completion_ids, rewards[own]))
        streams, metrics = on_main(self.accelerator, lambda: self._ask_and_teach(responses))
        self._critic_step += 1
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)
        # The table of completions shows one number per response.
        self._logs["advantages"].extend(sum(s) / max(1, len(s)) for s in streams)
        output["advantages"] = padded(streams[own], output["completion_mask"])
        return output

    def _ask_and_teach(self, responses: list[Response]) -> tuple[Streams, dict[str, float]]:
        """Advantages per token of every response, and what critic and learner measured."""
        step, critic = self._critic_step, self._critic.answers
        assert self.num_generations is not None
        whole = in_groups(responses, self.num_generations)
        # A step that a resumed or restarted loop repeats is another request.
        name = f"{uuid4().hex}-{step}" if self.train_critic else None
        request = Responses(responses=whole, id=name, step=step)
        reply = critic.advantages(request)
        # A response that nobody could score has none, and teaches the actor nothing.
        streams = [
            a.token_advantages or (0.0,) * len(r.tokens or ())
            for r, a in zip(whole, reply.responses, strict=True)
        ]
        if self.train_critic and any(r.reward is not None for r in whole):
            return streams, reply.metrics | taught(critic, request).metrics
        return streams, reply.metrics

    # --- checkpoints -----------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # First, so that TRL deletes no older checkpoint before this one is whole.
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        folder = Path(self._get_output_dir(trial=trial)) / name / CRITIC
        on_main(self.accelerator, lambda: self._save_critic(folder))
        super()._save_checkpoint(model, trial)

    def _save_critic(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if self.train_critic:
            self._critic.save(folder)
        write_json(folder / PROGRESS, {"step": self._critic_step, "trained": self.train_critic})

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            folder = Path(checkpoint) / CRITIC
            self._critic_step = on_main(self.accelerator, lambda: self._load_critic(folder))

    def _load_critic(self, folder: Path) -> int:
        if not (folder / PROGRESS).exists():
            raise ValueError(
                f"{folder.parent} holds no critic: another trainer wrote it; start from its model "
                "instead of resuming"
            )
        progress = read_json(folder / PROGRESS)
        if progress["trained"]:
            self._critic.load(folder)
        return progress["step"]

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As GRPOTrainer; the trained critic of this process goes into the subfolder `critic`."""
        super().save_model(output_dir, _internal_call)
        if self.train_critic and not _internal_call:
            folder = Path(output_dir or str(self.args.output_dir)) / CRITIC
            on_main(self.accelerator, lambda: self._critic.export(folder))
