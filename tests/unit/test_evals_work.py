"""The cost model on shapes small enough to count by hand."""

import pytest
from transformers import Qwen2Config, Qwen2ForCausalLM
from work import Iteration, Rates, Sizes, Work, seconds, work

MODEL = Sizes(linear=100, layers=2, hidden=5, queries=10, keys=4, vocab=7)


def test_a_response_is_read_once_and_trained_three_times():
    """One response of 6 tokens behind 4: 10 tokens, 6 * (4 + 3) pairs, 6 predictions."""
    it = Iteration(prompts=1, generations=1, prompt=4, response=6)
    todo = work(it, "grpo", MODEL, MODEL)
    flops = 2 * 100 * 10 + 2 * 7 * 5 * 6 + 4 * 2 * 10 * 42
    assert set(todo) == {"actor_sampling", "actor_training"}
    # 42 keys and values of 2 layers x 4 numbers, and the weights at each of 6 steps
    assert todo["actor_sampling"] == Work(flops, 4 * (2 * 2 * 4 * 42 + 100 * 6), 12)
    assert todo["actor_training"] == Work(3 * flops)
    assert work(it, "ppo", MODEL, MODEL)["critic_sampling"].flops == flops - 2 * 7 * 5 * 6


def test_rationales_suffix_from_a_prefix_that_is_read_once():
    """One state at the start: the shared prefix is the prompt; half of the rationales learn."""
    it = Iteration(
        1, 2, prompt=4, response=6, states=1, samples=2, rationale=3, question=1, learn=2
    )
    todo = work(it, "genac", MODEL, MODEL)
    tokens, pairs = 2 * 4 + 4 * 4, 2 * 4**2 / 2 + 4 * 4 * (4 + 2)
    forward = 2 * 100 * tokens + 2 * 7 * 5 * 12 + 4 * 2 * 10 * pairs
    assert todo["critic_sampling"].flops == forward
    learnt = 2 * 100 * (8 + 2 * 4) + 2 * 7 * 5 * 6 + 4 * 2 * 10 * (16 + 2 * 4 * 6)
    assert todo["critic_training"].flops == 3 * learnt


def test_continuations_write_what_is_left():
    """Two states: K = 3 continuations of 6 and of 3 tokens."""
    it = Iteration(1, 1, prompt=4, response=6, states=2, continuations=3)
    result = work(it, "vineppo", MODEL, MODEL)["critic_sampling"]
    tokens, pairs = 3 * 9, 3 * (6 * (4 + 3) + 3 * (7 + 1.5))
    prefix = 4 + 3
    forward = 2 * 100 * (prefix + tokens) + 2 * 7 * 5 * 27 + 4 * 2 * 10 * (prefix**2 / 2 + pairs)
    assert result.flops == pytest.approx(forward)


def test_waves_and_seconds():
    it = Iteration(prompts=4, generations=4, prompt=1, response=10, rows=8)
    assert it.steps(16, 10) == 20 and it.steps(4, 10) == 10
    rates = Rates(sampling_flops=10, sampling_bytes=5, training_flops=4, layer=0.5)
    todo = {"actor_sampling": Work(20, 10, 4), "actor_training": Work(20)}
    assert seconds(todo, rates) == {"actor_sampling": 2 + 2 + 2, "actor_training": 5}


@pytest.mark.parametrize("tied", [True, False])
def test_sizes_of_a_model_leave_out_the_tables(tied):
    config = Qwen2Config(
        vocab_size=11, hidden_size=8, intermediate_size=6, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    sizes = Sizes.of(model, bytes_per_number=2)
    layers = sum(p.numel() for p in model.model.layers.parameters())
    assert sizes == Sizes(layers + 8, 3, 8, 8, 4, 11, 2)  # 8: the last norm
