// A decoder's layers in training, forward and backward, but for the attention (trees.cpp): norms,
// products, rotations, activations and residuals of a few tokens after each other, while they stand
// in a core's cache (models/packed/layers.py). Threads divide the tokens, and in the backward pass
// of a block of tokens the entries of the weights' gradients. Every sum is taken in one order, so
// that the number of threads changes no result.
#include "gemm.h"

static const Int SPACE = 16;  // between rows, so that they fall on different cache sets

// --- what stands between them --------------------------------------------------------------------

static void rmsnorm(const float *x, Int ldx, const float *gain, Int rows, Int size, double eps,
                    float *y, Int ldy) {
    for (Int r = 0; r < rows; r++, x += ldx, y += ldy) {
        float scale = rmsnorm_scale(x, size, eps);
        for (Int i = 0; i < size; i += 8) store(y + i, load(x + i) * scale * load(gain + i));
    }
}

// dx = rest (where there is one) + the gradient through y = x scale gain; the gain's is added up.
static inline void rmsnorm_bwd(const float *x, const float *gain, const float *dy,
                               const float *rest, Int size, double eps, float *dx, float *dgain) {
    float scale = rmsnorm_scale(x, size, eps);
    V along = {};
    for (Int i = 0; i < size; i += 8) along += load(dy + i) * load(gain + i) * load(x + i);
    float shrink = scale * scale * scale * sum(along) / size;
    for (Int i = 0; i < size; i += 8) {
        V back = load(dy + i), value = load(x + i);
        store(dgain + i, load(dgain + i) + back * value * scale);
        V own = scale * load(gain + i) * back - shrink * value;
        store(dx + i, rest ? load(rest + i) + own : own);
    }
}

static inline V errf(V x) {
    for (int i = 0; i < 8; i++) x[i] = erff(x[i]);
    return x;
}

// The activation, and its derivative.
static inline V activate(V x, Int kind, V *slope) {
    if (kind == SILU) {
        V gate = 1.f / (1.f + vexp(-x));
        *slope = gate * (1.f + x * (1.f - gate));
        return x * gate;
    }
    if (kind == GELU_TANH) {  // 0.5 (1 + tanh(z)) is the sigmoid of 2 z
        V inner = 1.5957691216f * (x + 0.044715f * x * x * x), gate = 1.f / (1.f + vexp(-inner));
        V steep = 1.5957691216f * (1.f + 0.134145f * x * x);
        *slope = gate * (1.f + x * (1.f - gate) * steep);
        return x * gate;
    }
    V gate = 0.5f * (1.f + errf(x * 0.7071067812f));
    *slope = gate + x * 0.3989422804f * vexp(-0.5f * x * x);
    return x * gate;
}

// inner = activation(gates) ups.
static void gate_fwd(const float *gates, const float *ups, Int rows, Int size, Int kind,
                     float *inner, Int ld) {
    for (Int r = 0; r < rows; r++, gates += size, ups += size, inner += ld)
        for (Int i = 0; i < size; i += 8) {
            V slope, x = activate(load(gates + i), kind, &slope);
            store(inner + i, x * load(ups + i));
        }
}

// `inner` once more, and the gradients of gates and ups; `dgate` comes with the one of `inner`.
static void gate_bwd(const float *gates, const float *ups, Int rows, Int size, Int kind,
                     float *inner, float *dgate, float *dup, Int ld) {
    for (Int r = 0; r < rows; r++, gates += size, ups += size)
        for (Int i = 0; i < size; i += 8) {
            Int to = r * ld + i;
            V slope, x = activate(load(gates + i), kind, &slope);
            V back = load(dgate + to), side = load(ups + i);
            store(inner + to, x * side);
            store(dgate + to, back * side * slope);
            store(dup + to, back * x);
        }
}

// One head: norm (where there is a gain) and rotation of the pairs (i, i + dim / 2).
static inline void rope(const TrainedLayer &l, Int token, const float *x, const float *gain,
                        float *to) {
    const float *cosine = l.cosine + token * l.dim, *sine = l.sine + token * l.dim;
    Int half = l.dim / 2;
    float scale = gain ? rmsnorm_scale(x, l.dim, l.eps) : 1.f;
    for (Int i = 0; i < half; i += 8) {
        Int j = i + half;
        V low = load(x + i), high = load(x + j);
        if (gain) low *= scale * load(gain + i), high *= scale * load(gain + j);
        store(to + i, low * load(cosine + i) - high * load(sine + i));
        store(to + j, high * load(cosine + j) + low * load(sine + j));
    }
}

// The gradient through `rope`, from dy to dx.
static inline void rope_bwd(const TrainedLayer &l, Int token, const float *dy, const float *x,
                            const float *gain, float *dx, float *dgain) {
    const float *cosine = l.cosine + token * l.dim, *sine = l.sine + token * l.dim;
    Int half = l.dim / 2;
    for (Int i = 0; i < half; i += 8) {
        Int j = i + half;
        V low = load(dy + i), high = load(dy + j);
        store(dx + i, low * load(cosine + i) + high * load(sine + j));
        store(dx + j, high * load(cosine + j) - low * load(sine + i));
    }
    if (gain) rmsnorm_bwd(x, gain, dx, nullptr, l.dim, l.eps, dx, dgain);
}

static void rope_token(const TrainedLayer &l, Int token) {
    Int group = l.heads / l.kv_heads, dim = l.dim;
    Int at = token * l.heads * dim, own = token * l.kv_heads * dim;
    for (Int h = 0; h < l.heads; h++)
        rope(l, token, l.q + at + h * dim, l.w.q_gain, l.rope_q + at + h * dim);
    for (Int h = 0; h < l.kv_heads; h++) {
        float *key = l.rope_k + at + h * group * dim, *value = l.rope_v + at + h * group * dim;
        rope(l, token, l.k + own + h * dim, l.w.k_gain, key);
        for (Int g = 1; g < group; g++) memcpy(key + g * dim, key, dim * sizeof(float));
        for (Int g = 0; g < group && group > 1; g++)
            memcpy(value + g * dim, l.v + own + h * dim, dim * sizeof(float));
    }
}

// One key head's gradient is the sum of those of its query heads.
static inline void sum_heads(const TrainedLayer &l, const float *from, float *to) {
    for (Int i = 0; i < l.dim; i += 8) {
        V total = load(from + i);
        for (Int g = 1; g < l.heads / l.kv_heads; g++) total += load(from + g * l.dim + i);
        store(to + i, total);
    }
}

static void fill(float *y, const float *row, Int rows, Int size) {
    for (Int r = 0; r < rows && row; r++) memcpy(y + r * size, row, size * sizeof(float));
}

static void copy_rows(const float *x, Int rows, Int size, float *y, Int ldy) {
    for (Int r = 0; r < rows; r++) memcpy(y + r * ldy, x + r * size, size * sizeof(float));
}

static void add_rows(const float *x, Int ldx, Int rows, Int size, float *total) {
    for (Int r = 0; r < rows; r++)
        for (Int i = 0; i < size; i += 8) store(total + i, load(total + i) + load(x + r * ldx + i));
}

// --- the passes ----------------------------------------------------------------------------------

static Int chunks_of(Int tokens) { return (tokens + TRAIN_CHUNK - 1) / TRAIN_CHUNK; }

// Residual to queries, keys and values.
static void attn_in_fwd(const TrainedLayer &l, Int threads) {
    Int a = l.heads * l.dim, b = l.kv_heads * l.dim, ld = l.hidden + SPACE;
    const Panels q(l.w.q, a, l.hidden, false, threads), k(l.w.k, b, l.hidden, false, threads);
    const Panels v(l.w.v, b, l.hidden, false, threads);
    Floats memory(threads * TRAIN_CHUNK * ld);
    parallel_for(chunks_of(l.tokens), threads, [&](Int chunk, Int thread) {
        Int t = chunk * TRAIN_CHUNK, n = std::min(TRAIN_CHUNK, l.tokens - t);
        float *y = memory.data() + thread * TRAIN_CHUNK * ld;
        rmsnorm(l.x + t * l.hidden, l.hidden, l.w.in_gain, n, l.hidden, l.eps, y, ld);
        fill(l.q + t * a, l.w.q_bias, n, a);
        fill(l.k + t * b, l.w.k_bias, n, b);
        fill(l.v + t * b, l.w.v_bias, n, b);
        gemm(y, ld, n, q, l.q + t * a, a, l.w.q_bias != nullptr);
        gemm(y, ld, n, k, l.k + t * b, b, l.w.k_bias != nullptr);
        gemm(y, ld, n, v, l.v + t * b, b, l.w.v_bias != nullptr);
        for (Int i = t; i < t + n; i++) rope_token(l, i);
    });
}

// Queries, keys and values as attention reads them, once more.
static void rope_recompute(const TrainedLayer &l, Int threads) {
    parallel_for(chunks_of(l.tokens), threads, [&](Int chunk, Int) {
        Int t = chunk * TRAIN_CHUNK, end = std::min(t + TRAIN_CHUNK, l.tokens);
        for (; t < end; t++) rope_token(l, t);
    });
}

// From attention's output to the next residual. Without room for `gates` and `ups` they are not kept.
static void attn_out_mlp_fwd(const TrainedLayer &l, Int threads) {
    Int h = l.hidden, a = l.heads * l.dim, ld = h + SPACE, wide = l.inner + SPACE;
    const Panels out(l.w.out, h, a, false, threads), gate(l.w.gate, l.inner, h, false, threads);
    const Panels up(l.w.up, l.inner, h, false, threads), down(l.w.down, h, l.inner, false, threads);
    Int room = TRAIN_CHUNK * (2 * ld + 3 * wide);
    Floats memory(threads * room);
    parallel_for(chunks_of(l.tokens), threads, [&](Int chunk, Int thread) {
        Int t = chunk * TRAIN_CHUNK;
        Int n = std::min(TRAIN_CHUNK, l.tokens - t), size = n * h * sizeof(float);
        float *y = memory.data() + thread * room, *inner = y + TRAIN_CHUNK * ld;
        float *gates = l.gates ? l.gates + t * l.inner : inner + TRAIN_CHUNK * wide;
        float *ups = l.ups ? l.ups + t * l.inner : inner + 2 * TRAIN_CHUNK * wide;
        float *mid = l.mid ? l.mid + t * h : inner + 3 * TRAIN_CHUNK * wide;
        memcpy(mid, l.x + t * h, size);
        if (l.w.out_bias)
            for (Int r = 0; r < n; r++) add_rows(l.w.out_bias, 0, 1, h, mid + r * h);
        gemm(l.attended + t * a, a, n, out, mid, h, true);
        rmsnorm(mid, h, l.w.post_gain, n, h, l.eps, y, ld);
        gemm(y, ld, n, gate, gates, l.inner, false);
        gemm(y, ld, n, up, ups, l.inner, false);
        gate_fwd(gates, ups, n, l.inner, l.activation, inner, wide);
        memcpy(l.y + t * h, mid, size);
        gemm(inner, wide, n, down, l.y + t * h, h, true);
    });
}

// Adds what the chunks of a block computed for gains and biases, in their order.
static void add_chunks(float *grad, Int size, const float *parts, Int ld, Int chunks, bool add) {
    if (!grad) return;
    if (!add) memset(grad, 0, size * sizeof(float));
    add_rows(parts, ld, chunks, size, grad);
}

// The gradient of `attn_out_mlp_fwd`, from `grad` to `dmid` and `dattended`.
static void attn_out_mlp_bwd(const TrainedLayer &l, Int threads) {
    Int h = l.hidden, a = l.heads * l.dim, ld = h + SPACE, lda = a + SPACE, wide = l.inner + SPACE;
    const Panels out(l.w.out, h, a, true, threads), gate(l.w.gate, l.inner, h, true, threads);
    const Panels up(l.w.up, l.inner, h, true, threads), down(l.w.down, h, l.inner, true, threads);
    Int block = threads * DEPTH, chunks = block / TRAIN_CHUNK;
    Floats memory(block * (4 * ld + lda + 3 * wide)), sums(chunks * 2 * h);
    float *grad = memory.data(), *y = grad + block * ld, *dy = y + block * ld;
    float *dmid = dy + block * ld, *heads = dmid + block * ld, *inner = heads + block * lda;
    float *dgate = inner + block * wide, *dup = dgate + block * wide;
    for (Int from = 0; from < l.tokens; from += block) {
        Int count = std::min(block, l.tokens - from);
        parallel_for(chunks, threads, [&](Int c, Int) {
            Int s = c * TRAIN_CHUNK, t = from + s, n = std::min(TRAIN_CHUNK, count - s);
            float *gains = sums.data() + c * 2 * h, *own = dgate + s * wide;
            memset(gains, 0, 2 * h * sizeof(float));
            if (n <= 0) return;  // behind the last token: nothing to add
            copy_rows(l.grad + t * h, n, h, grad + s * ld, ld);
            copy_rows(l.attended + t * a, n, a, heads + s * lda, lda);
            gemm(grad + s * ld, ld, n, down, own, wide, false);
            gate_bwd(l.gates + t * l.inner, l.ups + t * l.inner, n, l.inner, l.activation,
                     inner + s * wide, own, dup + s * wide, wide);
            gemm(own, wide, n, gate, dy + s * ld, ld, false);
            gemm(dup + s * wide, wide, n, up, dy + s * ld, ld, true);
            rmsnorm(l.mid + t * h, h, l.w.post_gain, n, h, l.eps, y + s * ld, ld);
            for (Int r = 0; r < n; r++)
                rmsnorm_bwd(l.mid + (t + r) * h, l.w.post_gain, dy + (s + r) * ld,
                            grad + (s + r) * ld, h, l.eps, dmid + (s + r) * ld, gains);
            for (Int r = 0; r < n; r++)
                memcpy(l.dmid + (t + r) * h, dmid + (s + r) * ld, h * sizeof(float));
            add_rows(dmid + s * ld, ld, n, h, gains + h);
            gemm(dmid + s * ld, ld, n, out, l.dattended + t * a, a, false);
        });
        gemm_tn({{l.w_grad.down, h, l.inner, grad, ld, inner, wide},
                 {l.w_grad.gate, l.inner, h, dgate, wide, y, ld},
                 {l.w_grad.up, l.inner, h, dup, wide, y, ld},
                 {l.w_grad.out, h, a, dmid, ld, heads, lda}},
                count, from, threads);
        add_chunks(l.w_grad.post_gain, h, sums.data(), 2 * h, chunks, from);
        add_chunks(l.w_grad.out_bias, h, sums.data() + h, 2 * h, chunks, from);
    }
}

// The gradient of `attn_in_fwd`, from `dq`, `dk`, `dv` of what attention read, and `dmid`, to `dx`.
static void attn_in_bwd(const TrainedLayer &l, Int threads) {
    Int h = l.hidden, dim = l.dim, a = l.heads * dim, b = l.kv_heads * dim, group = a / b;
    Int ld = h + SPACE, lda = a + SPACE, ldb = b + SPACE, kinds = h + a + 2 * b + 2 * dim;
    const Panels q(l.w.q, a, h, true, threads), k(l.w.k, b, h, true, threads);
    const Panels v(l.w.v, b, h, true, threads);
    Int block = threads * DEPTH, chunks = block / TRAIN_CHUNK;
    Floats memory(block * (2 * ld + lda + 2 * ldb)), sums(chunks * kinds);
    float *y = memory.data(), *dy = y + block * ld, *dq = dy + block * ld;
    float *dk = dq + block * lda, *dv = dk + block * ldb;
    for (Int from = 0; from < l.tokens; from += block) {
        Int count = std::min(block, l.tokens - from);
        parallel_for(chunks, threads, [&](Int c, Int) {
            Int s = c * TRAIN_CHUNK, t = from + s, n = std::min(TRAIN_CHUNK, count - s);
            float *gains = sums.data() + c * kinds, *q_gain = gains + h, *k_gain = q_gain + dim;
            float *biases = k_gain + dim;
            memset(gains, 0, kinds * sizeof(float));
            if (n <= 0) return;  // behind the last token: nothing to add
            for (Int r = 0; r < n; r++) {
                Int at = (t + r) * a, own = (t + r) * b;
                float *to = dq + (s + r) * lda, *to_k = dk + (s + r) * ldb;
                for (Int i = 0; i < a; i += dim)
                    rope_bwd(l, t + r, l.dq + at + i, l.q + at + i, l.w.q_gain, to + i, q_gain);
                for (Int i = 0; i < b; i += dim) {
                    sum_heads(l, l.dk + at + i * group, to_k + i);
                    rope_bwd(l, t + r, to_k + i, l.k + own + i, l.w.k_gain, to_k + i, k_gain);
                    sum_heads(l, l.dv + at + i * group, dv + (s + r) * ldb + i);
                }
            }
            gemm(dq + s * lda, lda, n, q, dy + s * ld, ld, false);
            gemm(dk + s * ldb, ldb, n, k, dy + s * ld, ld, true);
            gemm(dv + s * ldb, ldb, n, v, dy + s * ld, ld, true);
            rmsnorm(l.x + t * h, h, l.w.in_gain, n, h, l.eps, y + s * ld, ld);
            for (Int r = 0; r < n; r++)
                rmsnorm_bwd(l.x + (t + r) * h, l.w.in_gain, dy + (s + r) * ld, l.dmid + (t + r) * h,
                            h, l.eps, l.dx + (t + r) * h, gains);
            if (l.w_grad.q_bias) add_rows(dq + s * lda, lda, n, a, biases);
            if (l.w_grad.k_bias) add_rows(dk + s * ldb, ldb, n, b, biases + a);
            if (l.w_grad.v_bias) add_rows(dv + s * ldb, ldb, n, b, biases + a + b);
        });
        gemm_tn({{l.w_grad.q, a, h, dq, lda, y, ld},
                 {l.w_grad.k, b, h, dk, ldb, y, ld},
                 {l.w_grad.v, b, h, dv, ldb, y, ld}},
                count, from, threads);
        const float *part = sums.data();
        add_chunks(l.w_grad.in_gain, h, part, kinds, chunks, from);
        add_chunks(l.w_grad.q_gain, dim, part + h, kinds, chunks, from);
        add_chunks(l.w_grad.k_gain, dim, part + h + dim, kinds, chunks, from);
        add_chunks(l.w_grad.q_bias, a, part + h + 2 * dim, kinds, chunks, from);
        add_chunks(l.w_grad.k_bias, b, part + h + 2 * dim + a, kinds, chunks, from);
        add_chunks(l.w_grad.v_bias, b, part + h + 2 * dim + a + b, kinds, chunks, from);
    }
}

// The norm behind the last layer: from `x` to `y`.
static void norm_fwd(const TrainedLayer &l, Int threads) {
    Int h = l.hidden;
    parallel_for(chunks_of(l.tokens), threads, [&](Int chunk, Int) {
        Int t = chunk * TRAIN_CHUNK, n = std::min(TRAIN_CHUNK, l.tokens - t);
        rmsnorm(l.x + t * h, h, l.w.in_gain, n, h, l.eps, l.y + t * h, h);
    });
}

// Its gradient, from `grad` to `dx`.
static void norm_bwd(const TrainedLayer &l, Int threads) {
    Int h = l.hidden, chunks = chunks_of(l.tokens);
    Floats sums(chunks * h);
    parallel_for(chunks, threads, [&](Int c, Int) {
        for (Int t = c * TRAIN_CHUNK; t < std::min((c + 1) * TRAIN_CHUNK, l.tokens); t++)
            rmsnorm_bwd(l.x + t * h, l.w.in_gain, l.grad + t * h, nullptr, h, l.eps, l.dx + t * h,
                        sums.data() + c * h);
    });
    add_chunks(l.w_grad.in_gain, h, sums.data(), h, chunks, false);
}

// 0, or 1 where there was no memory.
#define EXPORT(pass)                                                  \
    extern "C" int genac_##pass(const TrainedLayer *l, Int threads) { \
        return status_of([&] { return pass(*l, threads), true; });    \
    }
EXPORT(attn_in_fwd)
EXPORT(rope_recompute)
EXPORT(attn_out_mlp_fwd)
EXPORT(attn_out_mlp_bwd)
EXPORT(attn_in_bwd)
EXPORT(norm_fwd)
EXPORT(norm_bwd)
