"""TRL trains the actor; a generative critic learns with it and gives the advantages.

    python examples/trl_genac.py recipes/arithmetic.yaml       (needs: pip install 'genac[trl]')

Stages 1 and 2 of the recipe make the critic, then TRL takes over with its own config, data set and
reward function. `critic=` could as well be the folder of a saved critic or the URL of a
`genac serve --learn`: docs/trl.md.
"""

from __future__ import annotations

import sys
from typing import Any

from datasets import Dataset

from genac.config.recipes import from_command_line
from genac.config.run import RunConfig
from genac.integrations.trl import GenACConfig, GenACTrainer
from genac.models.loading import load_tokenizer
from genac.rollout import problems_at
from genac.service import LearningCritic
from genac.stages.pipeline import prepare
from genac.stages.setup import Setup


def train(cfg: RunConfig, steps: int = 40) -> list[float]:
    """Trains actor and critic; returns the mean reward of every step."""
    setup = Setup.of(cfg)
    ready, world = prepare(setup), setup.world
    tokenizer = load_tokenizer(str(ready.actor))
    # 1 The critic: how it assigns credit, where responses are cut, which states train it.
    critic = LearningCritic.from_pretrained(
        str(ready.critic),
        actor_tokenizer=tokenizer,
        credit=cfg.credit,
        states=cfg.states,
        generative=cfg.critic.generative,
        optimizer=cfg.critic.optimizer,
        max_states=cfg.stages.joint.max_states,
        hardware=cfg.hardware,
    )
    # 2 What TRL wants: prompts, a reward function with values in [0, 1], its arguments.
    problems = problems_at(world, "train", 0, steps * cfg.rollout.num_prompts)

    def right(completions: list[str], answer: list[str], **_: Any) -> list[float]:
        return [
            float(world.task.answer_of(c) == a) for c, a in zip(completions, answer, strict=True)
        ]

    args = GenACConfig(
        output_dir=f"{cfg.output_dir}/trl",
        per_device_train_batch_size=cfg.rollout.num_prompts * cfg.rollout.num_generations,
        num_generations=cfg.rollout.num_generations,
        max_completion_length=cfg.rollout.max_completion_length,
        learning_rate=cfg.actor.optimizer.learning_rate,
        lr_scheduler_type="constant",
        scale_rewards="none",  # advantages are the critic's
        max_steps=steps,
        logging_steps=1,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=setup.hardware.device.type == "cpu",
        report_to="none",
    )
    trainer = GenACTrainer(
        model=str(ready.actor),
        reward_funcs=right,
        args=args,
        train_dataset=Dataset.from_list(
            [{"prompt": p.prompt, "answer": p.answer} for p in problems]
        ),
        processing_class=tokenizer,
        critic=critic,
    )
    # 3 TRL's loop. Its log has critic/* next to TRL's own metrics.
    trainer.train()
    trainer.save_model()  # the actor, and the critic in the subfolder critic/
    return [line["reward"] for line in trainer.state.log_history if "reward" in line]


if __name__ == "__main__":
    train(from_command_line(sys.argv[1:], "trl_genac.py"))
