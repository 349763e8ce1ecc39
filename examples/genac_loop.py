"""GenAC in one short file, with the library's public objects.

    python examples/genac_loop.py recipes/arithmetic.yaml

The loop acts, judges, assigns credit and learns. It leaves out what makes a run a run: checkpoints,
alarms, stored rollouts, evaluation. `genac/stages/joint.py` is the same loop with those.
"""

from __future__ import annotations

import sys

from genac.config.recipes import from_command_line
from genac.config.run import RunConfig
from genac.credit import credit
from genac.rollout import collect, problems_at
from genac.seeding import derive_seed
from genac.stages.pipeline import prepare
from genac.stages.setup import Setup
from genac.states import split


def train(cfg: RunConfig) -> list[float]:
    """Trains actor and critic; returns the mean reward of every step of stage 3."""
    setup = Setup.of(cfg)
    world, first_joint = setup.world, cfg.stages.critic_rl.steps
    # Stage 1. An actor to start from, and a critic that was taught to reason by an oracle's traces.
    # Stage 2 is below, so it is switched off here.
    ready = prepare(setup.without_critic_rl())
    actor = setup.actor(ready.actor)
    # The class that genac/critics/__init__.py lists under `critic.kind`. Your own critic is a class
    # with the methods used below (genac/critics/base.py) and one line in that table.
    critic = setup.critic(ready.critic, actor)
    rewards = []
    for step in range(first_joint + cfg.stages.joint.steps):
        # 1 Act: several responses to each problem, sampled by the engine and judged by the task.
        count = cfg.rollout.num_prompts
        problems = problems_at(world, "train", step * count, count)
        groups = collect(actor, world, problems, "example", step)
        rollouts = [rollout for group in groups for rollout in group]
        # 2 Judge: the critic reasons about each prefix BEFORE the segment that it will baseline,
        # so no value has seen the tokens whose advantage it decides.
        states = split(rollouts, cfg.states, actor.tokenizer)
        estimates = critic.estimate(states, step)
        # 3 Assign credit: GAE over the states of a response. A value that could not be parsed is
        # None, never 0. By default GAE passes over it, and its segment takes the advantage of the
        # state before; a response without any value falls back on its group's rewards
        # (`fill_missing` in genac/credit.py).
        assigned = credit(groups, estimates, cfg.credit, cfg.rollout.temperature)
        # 4 Learn. The critic is a policy too: its reward is 1 - (return - value)^2, and 0 where it
        # gave no score, so it learns to give one. It sees the step's outcomes only now, after its
        # values were used.
        critic.observe(rollouts)
        metrics = critic.learn(estimates, step)
        if step >= first_joint:  # Stage 3. Before it, in stage 2, the actor is frozen.
            actor.learner.learn(assigned.samples, derive_seed(cfg.seed, "example", step))
        # 5 Publish: the engines sample with the new weights from now on.
        actor.publish(step + 1)
        if critic.runtime is not None:
            critic.runtime.publish(step + 1)
        # 6 Say how it goes. A reward of None could not be judged and counts nowhere.
        scored = [r.reward for r in rollouts if r.reward is not None]
        reward = sum(scored) / max(1, len(scored))
        missing = sum(estimate.value is None for estimate in estimates)
        earned = metrics.get("critic/reward")  # None where the critic learnt nothing in this step
        print(
            f"step {step}: reward {reward:.2f}, critic's reward "
            f"{'-' if earned is None else f'{earned:.3f}'}, "
            f"{missing} of {len(states)} values missing"
        )
        rewards += [reward] if step >= first_joint else []
    return rewards


if __name__ == "__main__":
    train(from_command_line(sys.argv[1:], "genac_loop.py"))
