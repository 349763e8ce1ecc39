"""Every causal-LM architecture of the installed transformers, in a tiny form, with random weights.

Sizes are shrunk by the names that configs give them; what those rules miss stands in SPECIAL.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from genac.config.models import OptimizerConfig
from genac.engines.base import Request
from genac.engines.local import LocalEngine
from genac.learner import Learner
from genac.types import Sample

ARCHITECTURES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
VOCAB = 64
# The first rule whose expression matches a whole name decides.
RULES: tuple[tuple[str, int], ...] = (
    (r"(decoder_|encoder_)?vocab_size(_per_layer_input)?|unpadded_vocab_size", VOCAB),
    (r"(hidden_size|d_model|n_embd|embedding_dim|embedding_size|emb_dim|dim_model)", 32),
    (r"(word_embed_proj_dim|lru_width|mamba_d_ssm|adapter_rank)", 32),
    (r"(input|output)_embedding_size|backbone_hidden_size|ple_embed_dim", 32),
    (r"(num_hidden_layers|n_layers?|num_layers|(en|de)coder_layers|num_blocks|depth)", 2),
    (r"num_(en|de)coder_layers", 2),
    (r"(num_attention_heads|n_heads?|num_heads|attention_heads|swa_num_attention_heads)", 4),
    (r"(en|de)coder_attention_heads|num_(en|de)coder_attention_heads", 4),
    (r"num_key_value_heads|num_kv_heads|swa_num_key_value_heads|num_query_groups", 2),
    (r"linear_num_(key_|value_)?heads|index_n_heads", 4),
    (r"(head_dim|swa_head_dim|d_head|dim_head|attention_head_size|kv_channels|d_kv)", 8),
    (r"linear_(key_|value_)?head_dim|index_head_dim|mamba_d_head|mamba_head_?dim", 8),
    (r"qk_(nope|rope)_head_dim|v_head_dim|attention_head_dim|rotary_dim", 8),
    (r"(q|kv|o)_lora_rank|gated_norm_rank|laurel_rank|hc_lowrank|router_hidden_size", 8),
    (r".*(intermediate_size|ffn_dim|ffn_hidden_size|d_inner|dim_ff|dff|d_ff|mlp_dim).*", 48),
    (r"feed_forward_size", 48),
    (r"(max_(position_embeddings|seq_len|target_positions)|n_positions|n_ctx)", 128),
    (r"context_length|model_max_length|original_max_position_embeddings", 128),
    (r"(sliding_window|attention_window_size|sliding_window_size|local_attention)", 64),
    (r"window_size|keep_window_size|attention_chunk_size", 64),
    (r"(num_experts|num_local_experts|n_routed_experts|moe_num_experts|zero_expert_num)", 4),
    (r"(state_size|ssm_state_size|mamba_d_state|time_step_rank|mamba_dt_rank)", 8),
    (r"mamba_(n|num)_heads", 8),
    (r"num_experts_per_tok|moe_top_?k|moe_k|top_k|num_experts_per_token", 2),
    (r"n_group|num_expert_group|n_groups", 2),
    (r"topk_group", 1),
    (r"adapter_(in|out)_dim|adapter_input_size|hidden_size_global", 32),
    (r"shape_vocab_size|pronunciation_vocab_size|encoder_hash_byte_group_vocab", VOCAB),
    (r"ngram_vocab_size_base", VOCAB),
    (r"num_kv_shared_layers|num_nextn_predict_layers", 0),
    (r"(mamba_)?chunk_size", 8),
    (r"index_topk|index_topk_blocks", 64),
)
# Lists with an entry per layer: one layer of each kind stays.
PER_LAYER = (
    *("layer_types", "mlp_layer_types", "layers_block_type", "indexer_types", "no_rope_layers"),
    *("attention_layers", "layer_rope_theta", "num_attention_heads_per_layer"),
    *("intermediate_size", "activation_sparsity_pattern"),
)
UNSET = {"head_dim": 8, "num_experts_per_tok": 2}  # what defaults leave open
SPECIAL: dict[str, dict[str, Any]] = {
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}
    },
    "dbrx": {"attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4}},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "nemotron": {"num_key_value_heads": 2},
    "rwkv": {"attention_hidden_size": 32},
    "reformer": {
        "attn_layers": ["local", "lsh"],
        "axial_pos_shape": [8, 16],
        "axial_pos_embds_dim": [8, 24],
    },
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "num_hidden_layers": 4},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "num_hidden_layers": 4},
    "bamba": {"attn_layer_indices": [1]},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note.text_config": {"num_key_value_heads": 4},
    "dots3_note_text": {"num_key_value_heads": 4},
    "falcon_h1": {"mamba_d_head": 8, "mamba_d_ssm": 64},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8},
    "recurrent_gemma": {"num_hidden_layers": 3},
}
QSA = {
    "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8,
    "indexer_budget": 64, "indexer_compress_ratio": 4,
}  # fmt: skip
SPECIAL |= {"qwen4_exp.text_config": QSA, "qwen4_exp_text": QSA}


def shrunk(config_class: type[Any], name: str = "") -> dict[str, Any]:
    """Arguments that make a config of this class tiny, nested ones included."""
    default, out, named = config_class(), dict[str, Any](), VOCAB - 1
    for key, value in vars(default).items():
        if re.fullmatch(r".*token_(id|index)", key) and isinstance(value, int) and value >= VOCAB:
            out[key], named = named, named - 1
        elif value is None and key in UNSET:
            out[key] = UNSET[key]
        elif key == "is_decoder":
            out[key] = True
        elif isinstance(value, int) and not isinstance(value, bool):
            size = next((s for expression, s in RULES if re.fullmatch(expression, key)), value)
            if size < value:
                out[key] = size
    heads, groups = (vars(default).get(f"num_{n}_heads") for n in ("attention", "key_value"))
    if heads == groups and "num_attention_heads" in out and groups is not None:
        out["num_key_value_heads"] = out["num_attention_heads"]
    for key in config_class.sub_configs or {}:
        nested = getattr(default, key, None)
        if nested is not None:
            out[key] = shrunk(type(nested), f"{name}.{key}")
    out |= {key: 0.15 for key in ("initializer_range", "init_std") if hasattr(default, key)}
    return out | layers(default, out) | SPECIAL.get(name, {})


def layers(default: Any, out: dict[str, Any]) -> dict[str, Any]:
    """The lists that have an entry per layer, with every kind of layer that they name."""
    count = getattr(default, "num_hidden_layers", None)
    lists = {key: vars(default).get(key) for key in PER_LAYER}
    lists = {
        k: list(v) for k, v in lists.items() if isinstance(v, (list, tuple)) and len(v) == count
    }
    kinds = {key: list(dict.fromkeys(map(str, v))) for key, v in lists.items()}
    size = max([2, *map(len, kinds.values())])
    if not lists:
        return {}
    chosen = {k: [v[list(map(str, v)).index(kind)] for kind in kinds[k]] for k, v in lists.items()}
    cut = {k: (v * size)[:size] for k, v in chosen.items()}
    return cut | {key: size for key in ("num_hidden_layers",) if key in out}


def config_of(name: str, **changes: Any) -> Any:
    return CONFIG_MAPPING[name](**shrunk(CONFIG_MAPPING[name], name) | changes)


def tiny(name: str, seed: int = 0, **changes: Any) -> Any:
    """A random model of the architecture in fp32 with a few thousand weights."""
    config = config_of(name, **changes)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():  # gains of one and biases of zero would hide a forgotten one
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


# --- what becomes of it ---------------------------------------------------------------------------

PROMPTS = ((5, 6, 7, 8, 9, 10), (11, 12), (5, 6, 7, 13), (14, 15, 16))


def outcome(model: Any) -> str:
    """ "agrees" or "refused: why"; AssertionError where neither holds."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            engine = LocalEngine(model, 64, dtype=torch.float32)
        learner = Learner(model, OptimizerConfig(learning_rate=1e-3))
    except ValueError as error:
        return f"refused: {error}"
    requests = [Request(PROMPTS[i % 4], 4 + i, seed=i) for i in range(8)]
    done = engine.generate(requests)
    samples = [sample(r.prompt_ids, d.ids) for r, d in zip(requests, done, strict=True)]
    for request, one, logprobs in zip(requests, done, learner.logprobs(samples), strict=True):
        np.testing.assert_allclose(one.logprobs, logprobs[len(request.prompt_ids) :], atol=1e-4)
    losses = [learner.learn(samples, seed=0)["loss"] for _ in range(2)]
    assert np.isfinite(losses).all() and losses[0] != losses[1], losses
    return "agrees"


@torch.no_grad()
def read_alone(model: Any) -> float:
    """How far a log-probability moves where only the first of four tokens is another."""
    rows = [
        model(input_ids=torch.tensor([[first, 6, 7, 8]]), use_cache=False).logits[0, -1]
        for first in (5, 9)
    ]
    one, other = (torch.log_softmax(row.float(), -1) for row in rows)
    return float((one - other).abs().max())


def sample(prompt: tuple[int, ...], ids: tuple[int, ...]) -> Sample:
    weights = np.zeros(len(prompt) + len(ids), np.float32)
    weights[len(prompt) :] = 1.0
    return Sample(ids=prompt + ids, weights=weights, loss="sft")
