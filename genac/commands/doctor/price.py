"""What a run at a Tinker service may cost, from its config alone: tokens from above, times prices.

Every response and every rationale is taken to be as long as its limit, every prompt as the longest,
and every response to have as many states as it may. The panel and probes are not counted.
"""

from __future__ import annotations

from dataclasses import asdict

from genac.commands.doctor.lengths import Lengths
from genac.config.run import RunConfig
from genac.critics import critic_class
from genac.distributed.build import require_supported
from genac.distributed.tinker.account import Account
from genac.distributed.tinker.dialects import DIALECTS
from genac.hardware import Hardware

# A rationale is read again for its tokens' probabilities, and once more for the token behind a 1.
READINGS = 2


def check(cfg: RunConfig) -> None:
    """ValueError where the service is not to be had, or not for this run."""
    learns = critic_class(cfg.critic.kind).learns
    require_supported(cfg, Hardware.resolve(cfg.hardware), critic=learns)


def bounds(cfg: RunConfig, lengths: Lengths) -> dict[str, Account]:
    """Tokens by role, at most."""
    joint = cfg.stages.joint.steps * cfg.rollout.num_prompts * cfg.rollout.num_generations
    result = {"actor": actor_tokens(cfg, lengths, joint, responses_for_critic(cfg))}
    if critic_class(cfg.critic.kind).learns:
        result["critic"] = critic_tokens(cfg, lengths, joint, responses_for_critic(cfg))
    return result


def responses_for_critic(cfg: RunConfig) -> int:
    """Responses of the stage that trains the critic alone."""
    stage = cfg.stages.critic_rl
    if not critic_class(cfg.critic.kind).learns:
        return 0
    prompts = stage.num_prompts or cfg.rollout.num_prompts
    return stage.steps * prompts * (stage.num_generations or cfg.rollout.num_generations)


def actor_tokens(cfg: RunConfig, lengths: Lengths, joint: int, early: int) -> Account:
    stages, evaluate, new = cfg.stages, cfg.evaluate, cfg.rollout.max_completion_length
    every = stages.joint.eval_every
    during = stages.joint.steps // every * evaluate.during if every else 0
    tested = (2 * evaluate.num_problems + during) * evaluate.num_samples
    traced = 0
    kind = critic_class(cfg.critic.kind)
    if kind.needs_traces and stages.sft.epochs:
        traced = stages.synthesize.responses
    rows = joint + early + tested + traced
    account = Account(prefilled=rows * lengths.prompt, sampled=rows * new)
    if kind.continues_states:
        continued = joint * cfg.states.max_states * cfg.critic.num_continuations
        account.prefilled += continued * (lengths.prompt + new)
        account.sampled += continued * new
    read = joint * (lengths.prompt + new)
    account.trained = read * cfg.actor.loss.num_iterations
    account.forwarded = account.trained + (read if cfg.actor.loss.beta else 0)
    return account


def critic_tokens(cfg: RunConfig, lengths: Lengths, joint: int, early: int) -> Account:
    generative, stages, states = cfg.critic.generative, cfg.stages, cfg.states.max_states
    prompt = lengths.question + cfg.rollout.max_completion_length
    whole = prompt + generative.max_new_tokens
    training, other = joint_rationales(cfg, joint, stages.joint.steps)
    most = stages.critic_rl.max_states
    alone = early * states if most is None else min(early * states, stages.critic_rl.steps * most)
    rationales = (training + alone) * generative.num_samples + other
    account = Account(prefilled=rationales * prompt, sampled=rationales * generative.max_new_tokens)
    if DIALECTS[cfg.hardware.tinker.dialect].named_probs:
        account.prefilled += READINGS * rationales * whole
        account.sampled += READINGS * rationales
    # A limit is of unique states; unless they are pooled, equal ones train once each.
    trained = training + alone if generative.pool_states else (joint + early) * states
    taught = stages.sft.epochs * stages.synthesize.num_states
    samples = trained * generative.num_samples * cfg.critic.loss.num_iterations + taught
    account.trained = account.forwarded = samples * whole
    return account


def joint_rationales(cfg: RunConfig, responses: int, steps: int) -> tuple[int, int]:
    """States that train in so many steps, and the rationales of those that do not, which may be
    fewer for each."""
    generative, most = cfg.critic.generative, cfg.stages.joint.max_states
    states = responses * cfg.states.max_states
    training = states if most is None else min(states, steps * most)
    return training, (states - training) * (generative.value_samples or generative.num_samples)


def joint_step(cfg: RunConfig) -> dict[str, int]:
    """Tokens that one joint step writes at most, by what they are."""
    responses = cfg.rollout.num_prompts * cfg.rollout.num_generations
    result = {"responses": responses * cfg.rollout.max_completion_length}
    kind = critic_class(cfg.critic.kind)
    if kind.continues_states:
        states = responses * cfg.states.max_states
        tokens = states * cfg.critic.num_continuations * cfg.rollout.max_completion_length
        result["continuations"] = tokens
    elif kind.needs_traces:
        training, other = joint_rationales(cfg, responses, 1)
        rationales = training * cfg.critic.generative.num_samples + other
        result["rationales"] = rationales * cfg.critic.generative.max_new_tokens
    return result


def lines(cfg: RunConfig, lengths: Lengths) -> list[str]:
    """The bounds as text: a line per role, and the price where prices are given."""
    accounts, whole = bounds(cfg, lengths), Account()
    result = []
    for role, account in accounts.items():
        whole.add(asdict(account))
        kinds = ", ".join(f"{k} {v / 1e6:.3g} M" for k, v in asdict(account).items() if v)
        result.append(f"tinker: {role} at most {kinds} tokens (without panel and probes)")
    cost = whole.cost(cfg.hardware.tinker.prices)
    if cost is None:
        return [*result, "tinker: no price, as hardware.tinker.prices does not give all of them"]
    return [*result, f"tinker: at most {cost:.2f} by hardware.tinker.prices"]
