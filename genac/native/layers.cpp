// A decoder's layers in training, forward and backward, but for the attention (trees.cpp): norms,
// products, rotations, activations and residuals of a few tokens after each other, while they stand
// in a core's cache (models/fused.py). Threads divide the tokens, and in the backward pass of a
// block of tokens the entries of the weights' gradients. Every sum is taken in one order, so that
// the number of threads changes no result.
//
// Arrays are dense and row-major, a token behind the other; weights as transformers has them,
// (outputs, inputs).
#include <new>

#include "products.h"

static const Int SPACE = 16;            // between rows, so that they fall on different cache sets

struct Weights {  // absent ones are null
    float *in_gain, *q, *k, *v, *q_bias, *k_bias, *v_bias, *q_gain, *k_gain, *out, *out_bias,
        *post_gain, *gate, *up, *down;
};

struct Trained {
    Int tokens, hidden, heads, kv_heads, dim, inner, activation;
    double eps;
    Weights w, pull;             // pull: gradients, null where none is asked for
    const float *cosine, *sine;  // (token, dim)
    // x, mid and y: residuals before, within and behind the layer. q, k, v: before norm and
    // rotation; turned_*: what attention reads, keys and values once per query head.
    float *x, *q, *k, *v, *turned_q, *turned_k, *turned_v, *attended, *mid, *gates, *ups, *y;
    float *grad, *dmid, *dattended, *dq, *dk, *dv, *dx;
};

// --- what stands between them --------------------------------------------------------------------

static void normed(const float *x, Int ldx, const float *gain, Int rows, Int size, double eps,
                   float *y, Int ldy) {
    for (Int r = 0; r < rows; r++, x += ldx, y += ldy) {
        float scale = rms_scale(x, size, eps);
        for (Int i = 0; i < size; i += 8) store(y + i, load(x + i) * scale * load(gain + i));
    }
}

// dx = rest (where there is one) + the gradient through y = x scale gain; the gain's is added up.
static inline void norm_back(const float *x, const float *gain, const float *dy, const float *rest,
                             Int size, double eps, float *dx, float *dgain) {
    float scale = rms_scale(x, size, eps);
    V along = {};
    for (Int i = 0; i < size; i += 8) along += load(dy + i) * load(gain + i) * load(x + i);
    float shrink = scale * scale * scale * sum(along) / size;
    for (Int i = 0; i < size; i += 8) {
        V back = load(dy + i), value = load(x + i);
        store(dgain + i, load(dgain + i) + back * value * scale);
        V found = scale * load(gain + i) * back - shrink * value;
        store(dx + i, rest ? load(rest + i) + found : found);
    }
}

static inline V errf(V x) {
    for (int i = 0; i < 8; i++) x[i] = erff(x[i]);
    return x;
}

// The activation, and its derivative.
static inline V activated(V x, Int kind, V *slope) {
    if (kind == 0) {  // silu
        V gate = 1.f / (1.f + vexp(-x));
        *slope = gate * (1.f + x * (1.f - gate));
        return x * gate;
    }
    if (kind == 1) {  // gelu by tanh
        V inner = 1.5957691216f * (x + 0.044715f * x * x * x), gate = 1.f / (1.f + vexp(-inner));
        V steep = 1.5957691216f * (1.f + 0.134145f * x * x);
        *slope = gate * (1.f + x * (1.f - gate) * steep);
        return x * gate;
    }
    V gate = 0.5f * (1.f + errf(x * 0.7071067812f));
    *slope = gate + x * 0.3989422804f * vexp(-0.5f * x * x);
    return x * gate;
}

// One head: norm (where there is a gain) and rotation of the pairs (i, i + dim / 2).
static inline void turn(const Trained &l, Int token, const float *x, const float *gain, float *to) {
    const float *cosine = l.cosine + token * l.dim, *sine = l.sine + token * l.dim;
    Int half = l.dim / 2;
    float scale = gain ? rms_scale(x, l.dim, l.eps) : 1.f;
    for (Int i = 0; i < half; i += 8) {
        Int j = i + half;
        V low = load(x + i), high = load(x + j);
        if (gain) low *= scale * load(gain + i), high *= scale * load(gain + j);
        store(to + i, low * load(cosine + i) - high * load(sine + i));
        store(to + j, high * load(cosine + j) + low * load(sine + j));
    }
}

// The gradient through `turn`, from dy to dx.
static inline void turn_back(const Trained &l, Int token, const float *dy, const float *x,
                             const float *gain, float *dx, float *dgain) {
    const float *cosine = l.cosine + token * l.dim, *sine = l.sine + token * l.dim;
    Int half = l.dim / 2;
    for (Int i = 0; i < half; i += 8) {
        Int j = i + half;
        V low = load(dy + i), high = load(dy + j);
        store(dx + i, low * load(cosine + i) + high * load(sine + j));
        store(dx + j, high * load(cosine + j) - low * load(sine + i));
    }
    if (gain) norm_back(x, gain, dx, nullptr, l.dim, l.eps, dx, dgain);
}

static void turned(const Trained &l, Int token) {
    Int group = l.heads / l.kv_heads, dim = l.dim;
    Int at = token * l.heads * dim, own = token * l.kv_heads * dim;
    for (Int h = 0; h < l.heads; h++)
        turn(l, token, l.q + at + h * dim, l.w.q_gain, l.turned_q + at + h * dim);
    for (Int h = 0; h < l.kv_heads; h++) {
        float *key = l.turned_k + at + h * group * dim, *value = l.turned_v + at + h * group * dim;
        turn(l, token, l.k + own + h * dim, l.w.k_gain, key);
        for (Int g = 1; g < group; g++) memcpy(key + g * dim, key, dim * sizeof(float));
        for (Int g = 0; g < group && group > 1; g++)
            memcpy(value + g * dim, l.v + own + h * dim, dim * sizeof(float));
    }
}

// One key head's gradient is the sum of those of its query heads.
static inline void gathered(const Trained &l, const float *from, float *to) {
    for (Int i = 0; i < l.dim; i += 8) {
        V total = load(from + i);
        for (Int g = 1; g < l.heads / l.kv_heads; g++) total += load(from + g * l.dim + i);
        store(to + i, total);
    }
}

static void fill(float *y, const float *row, Int rows, Int size) {
    for (Int r = 0; r < rows && row; r++) memcpy(y + r * size, row, size * sizeof(float));
}

static void copied(const float *x, Int rows, Int size, float *y, Int ldy) {
    for (Int r = 0; r < rows; r++) memcpy(y + r * ldy, x + r * size, size * sizeof(float));
}

static void add_rows(const float *x, Int ldx, Int rows, Int size, float *total) {
    for (Int r = 0; r < rows; r++)
        for (Int i = 0; i < size; i += 8) store(total + i, load(total + i) + load(x + r * ldx + i));
}

// --- the passes ----------------------------------------------------------------------------------

// Residual to queries, keys and values.
static void read(const Trained &l, Int threads) {
    Int a = l.heads * l.dim, b = l.kv_heads * l.dim, ld = l.hidden + SPACE;
    const Panels q(l.w.q, a, l.hidden, false, threads), k(l.w.k, b, l.hidden, false, threads);
    const Panels v(l.w.v, b, l.hidden, false, threads);
    Floats memory(threads * CHUNK * ld);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (Int t = 0; t < l.tokens; t += CHUNK) {
        Int n = least(CHUNK, l.tokens - t);
        float *y = memory.data() + omp_get_thread_num() * CHUNK * ld;
        normed(l.x + t * l.hidden, l.hidden, l.w.in_gain, n, l.hidden, l.eps, y, ld);
        fill(l.q + t * a, l.w.q_bias, n, a);
        fill(l.k + t * b, l.w.k_bias, n, b);
        fill(l.v + t * b, l.w.v_bias, n, b);
        product(y, ld, n, q, l.q + t * a, a, l.w.q_bias);
        product(y, ld, n, k, l.k + t * b, b, l.w.k_bias);
        product(y, ld, n, v, l.v + t * b, b, l.w.v_bias);
        for (Int i = t; i < t + n; i++) turned(l, i);
    }
}

// Queries, keys and values as attention reads them, once more.
static void again(const Trained &l, Int threads) {
#pragma omp parallel for num_threads(threads)
    for (Int i = 0; i < l.tokens; i++) turned(l, i);
}

// What attention found to the next residual. Without room for `gates` and `ups` they are not kept.
static void write(const Trained &l, Int threads) {
    Int h = l.hidden, a = l.heads * l.dim, ld = h + SPACE, wide = l.inner + SPACE;
    const Panels out(l.w.out, h, a, false, threads), gate(l.w.gate, l.inner, h, false, threads);
    const Panels up(l.w.up, l.inner, h, false, threads), down(l.w.down, h, l.inner, false, threads);
    Int room = CHUNK * (2 * ld + 3 * wide);
    Floats memory(threads * room);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (Int t = 0; t < l.tokens; t += CHUNK) {
        Int n = least(CHUNK, l.tokens - t), size = n * h * sizeof(float);
        float *y = memory.data() + omp_get_thread_num() * room, *inner = y + CHUNK * ld;
        float *gates = l.gates ? l.gates + t * l.inner : inner + CHUNK * wide;
        float *ups = l.ups ? l.ups + t * l.inner : inner + 2 * CHUNK * wide;
        float *mid = l.mid ? l.mid + t * h : inner + 3 * CHUNK * wide;
        memcpy(mid, l.x + t * h, size);
        if (l.w.out_bias)
            for (Int r = 0; r < n; r++) add_rows(l.w.out_bias, 0, 1, h, mid + r * h);
        product(l.attended + t * a, a, n, out, mid, h, true);
        normed(mid, h, l.w.post_gain, n, h, l.eps, y, ld);
        product(y, ld, n, gate, gates, l.inner, false);
        product(y, ld, n, up, ups, l.inner, false);
        for (Int r = 0; r < n; r++)
            for (Int i = 0; i < l.inner; i += 8) {
                V slope, x = activated(load(gates + r * l.inner + i), l.activation, &slope);
                store(inner + r * wide + i, x * load(ups + r * l.inner + i));
            }
        memcpy(l.y + t * h, mid, size);
        product(inner, wide, n, down, l.y + t * h, h, true);
    }
}

// Adds what the chunks of a block found for gains and biases, in their order.
static void collect(float *grad, Int size, const float *parts, Int ld, Int chunks, bool add) {
    if (!grad) return;
    if (!add) memset(grad, 0, size * sizeof(float));
    add_rows(parts, ld, chunks, size, grad);
}

// The gradient of `write`, from `grad` to `dmid` and `dattended`.
static void write_back(const Trained &l, Int threads) {
    Int h = l.hidden, a = l.heads * l.dim, ld = h + SPACE, lda = a + SPACE, wide = l.inner + SPACE;
    const Panels out(l.w.out, h, a, true, threads), gate(l.w.gate, l.inner, h, true, threads);
    const Panels up(l.w.up, l.inner, h, true, threads), down(l.w.down, h, l.inner, true, threads);
    Int block = threads * DEPTH, chunks = block / CHUNK;
    Floats memory(block * (4 * ld + lda + 3 * wide)), sums(chunks * 2 * h);
    float *grad = memory.data(), *y = grad + block * ld, *dy = y + block * ld;
    float *dmid = dy + block * ld, *heads = dmid + block * ld, *inner = heads + block * lda;
    float *dgate = inner + block * wide, *dup = dgate + block * wide;
#pragma omp parallel num_threads(threads)
    for (Int from = 0; from < l.tokens; from += block) {
        Int count = least(block, l.tokens - from);
#pragma omp for schedule(static)
        for (Int c = 0; c < chunks; c++) {
            Int s = c * CHUNK, t = from + s, n = least(CHUNK, count - s);
            float *gains = sums.data() + c * 2 * h, *mine = dgate + s * wide;
            memset(gains, 0, 2 * h * sizeof(float));
            if (n <= 0) continue;
            copied(l.grad + t * h, n, h, grad + s * ld, ld);
            copied(l.attended + t * a, n, a, heads + s * lda, lda);
            product(grad + s * ld, ld, n, down, mine, wide, false);
            for (Int r = 0; r < n; r++)
                for (Int i = 0; i < l.inner; i += 8) {
                    Int place = (t + r) * l.inner + i, to = (s + r) * wide + i;
                    V slope, x = activated(load(l.gates + place), l.activation, &slope);
                    V back = load(dgate + to), side = load(l.ups + place);
                    store(inner + to, x * side);
                    store(dgate + to, back * side * slope);
                    store(dup + to, back * x);
                }
            product(mine, wide, n, gate, dy + s * ld, ld, false);
            product(dup + s * wide, wide, n, up, dy + s * ld, ld, true);
            normed(l.mid + t * h, h, l.w.post_gain, n, h, l.eps, y + s * ld, ld);
            for (Int r = 0; r < n; r++)
                norm_back(l.mid + (t + r) * h, l.w.post_gain, dy + (s + r) * ld,
                          grad + (s + r) * ld, h, l.eps, dmid + (s + r) * ld, gains);
            for (Int r = 0; r < n; r++)
                memcpy(l.dmid + (t + r) * h, dmid + (s + r) * ld, h * sizeof(float));
            add_rows(dmid + s * ld, ld, n, h, gains + h);
            product(dmid + s * ld, ld, n, out, l.dattended + t * a, a, false);
        }
        outer(l.pull.down, h, l.inner, grad, ld, inner, wide, count, from);
        outer(l.pull.gate, l.inner, h, dgate, wide, y, ld, count, from);
        outer(l.pull.up, l.inner, h, dup, wide, y, ld, count, from);
        outer(l.pull.out, h, a, dmid, ld, heads, lda, count, from);
#pragma omp single
        {
            collect(l.pull.post_gain, h, sums.data(), 2 * h, chunks, from);
            collect(l.pull.out_bias, h, sums.data() + h, 2 * h, chunks, from);
        }
    }
}

// The gradient of `read`, from `dq`, `dk`, `dv` of what attention read, and `dmid`, to `dx`.
static void read_back(const Trained &l, Int threads) {
    Int h = l.hidden, dim = l.dim, a = l.heads * dim, b = l.kv_heads * dim, group = a / b;
    Int ld = h + SPACE, lda = a + SPACE, ldb = b + SPACE, kinds = h + a + 2 * b + 2 * dim;
    const Panels q(l.w.q, a, h, true, threads), k(l.w.k, b, h, true, threads);
    const Panels v(l.w.v, b, h, true, threads);
    Int block = threads * DEPTH, chunks = block / CHUNK;
    Floats memory(block * (2 * ld + lda + 2 * ldb)), sums(chunks * kinds);
    float *y = memory.data(), *dy = y + block * ld, *dq = dy + block * ld;
    float *dk = dq + block * lda, *dv = dk + block * ldb;
#pragma omp parallel num_threads(threads)
    for (Int from = 0; from < l.tokens; from += block) {
        Int count = least(block, l.tokens - from);
#pragma omp for schedule(static)
        for (Int c = 0; c < chunks; c++) {
            Int s = c * CHUNK, t = from + s, n = least(CHUNK, count - s);
            float *gains = sums.data() + c * kinds, *q_gain = gains + h, *k_gain = q_gain + dim;
            float *biases = k_gain + dim;
            memset(gains, 0, kinds * sizeof(float));
            if (n <= 0) continue;
            for (Int r = 0; r < n; r++) {
                Int at = (t + r) * a, own = (t + r) * b;
                float *to = dq + (s + r) * lda, *to_k = dk + (s + r) * ldb;
                for (Int i = 0; i < a; i += dim)
                    turn_back(l, t + r, l.dq + at + i, l.q + at + i, l.w.q_gain, to + i, q_gain);
                for (Int i = 0; i < b; i += dim) {
                    gathered(l, l.dk + at + i * group, to_k + i);
                    turn_back(l, t + r, to_k + i, l.k + own + i, l.w.k_gain, to_k + i, k_gain);
                    gathered(l, l.dv + at + i * group, dv + (s + r) * ldb + i);
                }
            }
            product(dq + s * lda, lda, n, q, dy + s * ld, ld, false);
            product(dk + s * ldb, ldb, n, k, dy + s * ld, ld, true);
            product(dv + s * ldb, ldb, n, v, dy + s * ld, ld, true);
            normed(l.x + t * h, h, l.w.in_gain, n, h, l.eps, y + s * ld, ld);
            for (Int r = 0; r < n; r++)
                norm_back(l.x + (t + r) * h, l.w.in_gain, dy + (s + r) * ld, l.dmid + (t + r) * h,
                          h, l.eps, l.dx + (t + r) * h, gains);
            if (l.pull.q_bias) add_rows(dq + s * lda, lda, n, a, biases);
            if (l.pull.k_bias) add_rows(dk + s * ldb, ldb, n, b, biases + a);
            if (l.pull.v_bias) add_rows(dv + s * ldb, ldb, n, b, biases + a + b);
        }
        outer(l.pull.q, a, h, dq, lda, y, ld, count, from);
        outer(l.pull.k, b, h, dk, ldb, y, ld, count, from);
        outer(l.pull.v, b, h, dv, ldb, y, ld, count, from);
#pragma omp single
        {
            const float *part = sums.data();
            collect(l.pull.in_gain, h, part, kinds, chunks, from);
            collect(l.pull.q_gain, dim, part + h, kinds, chunks, from);
            collect(l.pull.k_gain, dim, part + h + dim, kinds, chunks, from);
            collect(l.pull.q_bias, a, part + h + 2 * dim, kinds, chunks, from);
            collect(l.pull.k_bias, b, part + h + 2 * dim + a, kinds, chunks, from);
            collect(l.pull.v_bias, b, part + h + 2 * dim + a + b, kinds, chunks, from);
        }
    }
}

// The norm behind the last layer: from `x` to `y`.
static void norm(const Trained &l, Int threads) {
    Int h = l.hidden;
#pragma omp parallel for num_threads(threads)
    for (Int t = 0; t < l.tokens; t++)
        normed(l.x + t * h, h, l.w.in_gain, 1, h, l.eps, l.y + t * h, h);
}

// Its gradient, from `grad` to `dx`.
static void norm_pulled(const Trained &l, Int threads) {
    Int h = l.hidden, chunks = (l.tokens + CHUNK - 1) / CHUNK;
    Floats sums(chunks * h);
#pragma omp parallel for num_threads(threads)
    for (Int c = 0; c < chunks; c++)
        for (Int t = c * CHUNK; t < least((c + 1) * CHUNK, l.tokens); t++)
            norm_back(l.x + t * h, l.w.in_gain, l.grad + t * h, nullptr, h, l.eps, l.dx + t * h,
                      sums.data() + c * h);
    collect(l.pull.in_gain, h, sums.data(), h, chunks, false);
}

// 0, or 1 where there was no memory.
extern "C" int genac_layer(const Trained *l, Int pass, Int threads) {
    void (*const passes[])(const Trained &, Int) = {read,      again, write, write_back,
                                                  read_back, norm,  norm_pulled};
    try {
        passes[pass](*l, threads);
    } catch (const std::bad_alloc &) {
        return 1;
    }
    return 0;
}
