"""With an exact score the critic follows the gradient of its expected reward, thought and score.

The model of the first test is a table of logits: a thought is one token, or two where it begins
with 0, and the score is the token behind it. So all thoughts can be enumerated.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from genac.batching import pad
from genac.config.models import GenerativeConfig, LossConfig, OptimizerConfig
from genac.critics.reinforce import rationale_sample, rationale_samples
from genac.critics.scores import ScoreTokens
from genac.learner import Learner, counts_of
from genac.ops.losses import critic_reward
from genac.ops.objectives import LOSSES, Outputs
from genac.types import SCORE_VALUES, Rationale, Sample

TOKENS = 11  # the scores, of which thoughts are made too
SCORES = ScoreTokens(tuple(range(TOKENS)))
PROMPT = (7, 8)
LONG = 0  # a thought that begins with it has a second token
THOUGHTS = [(a,) for a in range(TOKENS) if a != LONG] + [(LONG, b) for b in range(TOKENS)]
TARGET = 0.3
Table = dict[tuple[int, ...], Tensor]  # what was written -> the logits of the next token


@pytest.fixture
def table() -> Table:
    rng = torch.Generator().manual_seed(0)
    contexts = [(), (LONG,), *THOUGHTS]
    return {c: torch.randn(TOKENS, generator=rng).requires_grad_() for c in contexts}


def logp_of(table: Table, thought: tuple[int, ...]) -> Tensor:
    """(T,) log-probabilities of a thought's tokens."""
    rows = [torch.log_softmax(table[thought[:i]], -1)[t] for i, t in enumerate(thought)]
    return torch.stack(rows)


def rationale_of(table: Table, thought: tuple[int, ...]) -> Rationale:
    """The score that was drawn decides nothing, so every rationale wrote 4."""
    logprobs = torch.cat([logp_of(table, thought), torch.zeros(1)]).detach().numpy()
    probs = torch.softmax(table[thought], -1).detach().double().numpy()
    return Rationale(PROMPT, (*thought, 4), logprobs, "", 0.4, len(thought), probs)


def batch_loss(table: Table, thoughts: tuple[tuple[int, ...], ...], **cfg: Any) -> Tensor:
    """The loss of a mini-batch of rationales about one state."""
    options = {"exact_score_gradient": True, "num_samples": len(thoughts), **cfg}
    judged = (TARGET, tuple(rationale_of(table, t) for t in thoughts))
    samples, _ = rationale_samples([judged], SCORES, GenerativeConfig(**options))
    rows, first = pad(samples), len(PROMPT)
    logp_BT = torch.zeros(rows.weights_BT.shape)
    for row, thought in enumerate(thoughts):
        logp_BT[row, first : first + len(thought)] = logp_of(table, thought)
    logits = torch.stack([table[t] for t in thoughts])
    out = Outputs(logp_BT, None, logits)
    return LOSSES["score"].compute(out, rows, LossConfig(), counts_of(samples))[0]


def expected_reward(table: Table) -> Tensor:
    """Over all thoughts and all scores behind them."""
    rewards = torch.tensor(critic_reward(SCORE_VALUES, TARGET), dtype=torch.float32)
    return sum(
        (logp_of(table, t).sum().exp() * (torch.softmax(table[t], -1) @ rewards) for t in THOUGHTS),
        torch.zeros(()),
    )


def slopes(value: Tensor, table: Table) -> Tensor:
    parts = torch.autograd.grad(value, list(table.values()), allow_unused=True)
    return torch.cat([torch.zeros(TOKENS) if p is None else p for p in parts])


@pytest.mark.parametrize("baseline", ["none", "leave_one_out"])
def test_over_all_thoughts_the_loss_has_the_gradient_of_the_expected_reward(table, baseline):
    """Every pair of thoughts is a mini-batch, weighted by its probability."""
    p = {t: float(logp_of(table, t).detach().sum().exp()) for t in THOUGHTS}
    assert sum(p.values()) == pytest.approx(1)
    pairs = list(itertools.product(THOUGHTS, repeat=2))

    def mean_gradient(weight: float) -> Tensor:
        options = {"reinforce_baseline": baseline, "reasoning_weight": weight}
        losses = [p[a] * p[b] * batch_loss(table, (a, b), **options) for a, b in pairs]
        return slopes(-torch.stack(losses).sum(), table)

    expected = slopes(expected_reward(table), table)
    torch.testing.assert_close(mean_gradient(1.0), expected, atol=2e-5, rtol=1e-3)
    # The score alone is not the whole: what the thoughts are worth is missing.
    score_only = mean_gradient(0.0)
    thoughts = slice(0, 2 * TOKENS)  # the logits of thoughts come first in the table
    assert not score_only[thoughts].any() and expected[thoughts].abs().max() > 1e-3
    torch.testing.assert_close(
        score_only[2 * TOKENS :], expected[2 * TOKENS :], atol=2e-5, rtol=1e-3
    )


# --- through the learner --------------------------------------------------------------------------


def sample_of(length: int, advantage: float, scored: bool = True, seed: int = 0) -> Sample:
    """A rationale of `length` tokens before its score, and a closing token."""
    rng = np.random.default_rng([seed, length])
    ids = tuple(int(i) for i in rng.integers(3, 14, length + 2))
    probs = np.full(TOKENS, 1 / TOKENS) if scored else None
    logprobs = np.full(len(ids), -2.0, np.float32)
    rationale = Rationale(
        (14, 15), ids, logprobs, "", 0.4 if scored else None, length if scored else None, probs
    )
    cfg = GenerativeConfig(exact_score_gradient=True, reasoning_weight=0.5)
    return rationale_sample(rationale, advantage, TARGET, ScoreTokens(tuple(range(3, 14))), cfg)


def gradient(model: Any, samples: list[Sample], **loss: Any) -> Tensor:
    optimizer = OptimizerConfig(learning_rate=1e-3, weight_decay=0.0, max_grad_norm=1e9)
    # The ratio is far from 1 here, and a clip would hide the reasoning's gradient.
    learner = Learner(copy.deepcopy(model), optimizer, LossConfig(epsilon_high=1e9, **loss))
    learner.learn(samples, seed=0)
    parts = [p.grad for p in learner.model.parameters() if p.grad is not None]
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize("loss_type", ["token", "sequence"])
@pytest.mark.parametrize("scored", [True, False])
def test_a_rationale_weighs_the_same_beside_short_and_long_ones(tiny_model, scored, loss_type):
    own = sample_of(3, 0.7)
    alone = gradient(tiny_model, [own], loss_type=loss_type)
    for length in (1, 12, 25):
        other = sample_of(length, -0.4, scored, seed=1)
        both = gradient(tiny_model, [own, other], loss_type=loss_type)
        rest = gradient(tiny_model, [other], loss_type=loss_type)
        torch.testing.assert_close(2 * both, alone + rest, atol=2e-6, rtol=1e-4)


def test_a_rationale_without_a_score_counts_in_the_mean(tiny_model):
    """Or the score would weigh more, the more rationales gave none."""
    scored, unscored = sample_of(3, 0.0), sample_of(4, 0.0, scored=False)
    alone, both = (gradient(tiny_model, s) for s in ([scored], [scored, unscored]))
    torch.testing.assert_close(2 * both, alone, atol=1e-6, rtol=1e-4)


def test_a_sampled_score_is_trained_like_any_policy():
    """Reasoning and score are tokens of one kind then, and have one footing in any mean."""
    rationale = Rationale(
        (14, 15), (3, 4, 5), np.zeros(3, np.float32), "", 0.4, 1, np.ones(11) / 11
    )
    sampled, _ = rationale_samples([(TARGET, (rationale,))], SCORES, GenerativeConfig())
    exact_cfg = GenerativeConfig(exact_score_gradient=True)
    exact, _ = rationale_samples([(TARGET, (rationale,))], SCORES, exact_cfg)
    assert [s.loss for s in (*sampled, *exact)] == ["policy", "score"]
    assert sampled[0].weights.tolist() == [0, 0, 1, 1, 1] and not sampled[0].scores
