// What crosses the boundary to Python. Every struct here has a mirror of the same name, with the
// same fields in the same order, in genac/native/structs.py; sizes are compared when the library is
// loaded.
//
// Arrays are dense and row-major unless a stride stands with them. Rows share a prefix.
#pragma once

#include <cstdint>

typedef int64_t Int;

// Python asks for these numbers by name (genac_activation).
enum Activation : Int { SILU, GELU_TANH, GELU };

// --- decoding (decode.cpp) -----------------------------------------------------------------------

struct DecoderLayer {  // weights in panels; absent ones are null
    const float *qkv, *qkv_bias, *qk_norm, *out, *out_bias, *gate_up, *down;
};

struct DecoderModel {
    Int layers, hidden, heads, kv_heads, dim, inner, vocab, activation;
    double eps;
    const float *embedding, *head, *rope;  // rope (position, 2, dim): cosines, signed sines
    const DecoderLayer *layer;
};

// Keys and values are (row, layer, 2, kv_head, capacity, dim), rows `stride` numbers apart, keys in
// panels of PANEL tokens: a capacity is a multiple of that.
struct DecoderBatch {
    Int rows, capacity, stride, prefix_capacity, prefix_stride;
    float *own;
    const float *prefix;
    const Int *length, *shared, *prefix_of;  // per row: own tokens and those of its prefix, or -1
    Int *token;                             // per row: the newest, not read yet
    float *logits;                          // (row, vocab), where nothing is sampled
};

// Prompts to be read behind what their rows hold.
struct Texts {
    Int count;
    const Int *row, *start, *token;  // text i: token[start[i]] to token[start[i + 1] - 1]
    float *logits;                   // (text, vocab) of what follows, or null
};

// What is sampled and when a row ends, by request; `live` has the request of each row.
struct Draws {
    Int width, stops, lines, watched;  // of the arrays below
    const Int *live, *limit, *stop, *line, *watch;
    const float *temperature, *uniform;
    Int *tokens, *length;
    float *logprobs, *entropies, *probabilities;
    uint8_t *stopped, *ended;  // ended: per row
    Int bad;                   // a row whose logits are not finite, or -1
};

// --- training (layers.cpp, trees.cpp) ------------------------------------------------------------

struct LayerWeights {  // as transformers has them, (outputs, inputs); absent ones are null
    float *in_gain, *q, *k, *v, *q_bias, *k_bias, *v_bias, *q_gain, *k_gain, *out, *out_bias,
        *post_gain, *gate, *up, *down;
};

struct TrainedLayer {
    Int tokens, hidden, heads, kv_heads, dim, inner, activation;
    double eps;
    LayerWeights w, w_grad;      // gradients are null where none is needed
    const float *cosine, *sine;  // (token, dim)
    // x, mid and y: residuals before, within and behind the layer. q, k, v: before norm and
    // rotation; rope_*: what attention reads, keys and values once per query head.
    float *x, *q, *k, *v, *rope_q, *rope_k, *rope_v, *attended, *mid, *gates, *ups, *y;
    float *grad, *dmid, *dattended, *dq, *dk, *dv, *dx;  // grad: of y
};

struct Segment {  // tokens that attend causally, behind `shared` tokens from `prefix` on
    Int start, length, prefix, shared;
};

struct TokenRows {  // (token, head, dim): heads side by side, tokens `step` numbers apart
    float *at;
    Int step;
};

struct Tree {
    Int heads, kv_heads, dim, families;
    const Int *family;  // the first segment of each, and the number of segments
    const Segment *segment;
    double scale;
    float *lse;  // (token, head)
    TokenRows q, k, v, out, grad, dq, dk, dv;
};
