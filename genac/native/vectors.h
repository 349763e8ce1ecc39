// Vectors of eight floats, and what decode.cpp and trees.cpp do with them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include <omp.h>

typedef float V __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t I __attribute__((vector_size(32), aligned(4), may_alias));
typedef int64_t Int;

static inline V load(const float *p) { return *(const V *)p; }
static inline void store(float *p, V x) { *(V *)p = x; }
static inline V splat(float x) { return V{} + x; }

static inline float sum(V x) {
    float total = 0;
    for (int i = 0; i < 8; i++) total += x[i];
    return total;
}

// exp of -87.3 to 88.3 by 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2], within 2 units in the
// last place; nonsense elsewhere.
static inline V vexp_inside(V x) {
    V shifted = x * 1.44269504f + 12582912.f;  // the nearest integer stands in the low bits
    V n = shifted - 12582912.f;
    V r = x - n * 0.693359375f + n * 2.12194440e-4f;
    V p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.f;
    return p * (V)(((I)shifted - 0x4B400000 + 127) << 23);
}

static inline V vexp(V x) {
    x = x < splat(-87.3f) ? splat(-87.3f) : x;
    x = x > splat(88.3f) ? splat(88.3f) : x;
    return vexp_inside(x);
}

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else  // older GCC has it under another name
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, I{__VA_ARGS__})
#endif

static inline V pairs(V a, V b) {
    return SHUFFLE(a, b, 0, 8, 2, 10, 4, 12, 6, 14) +
           SHUFFLE(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
}

static inline V fours(V a, V b) {
    return SHUFFLE(a, b, 0, 1, 8, 9, 4, 5, 12, 13) +
           SHUFFLE(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
}

// The sums of eight vectors, side by side.
static inline V sums(const V *a) {
    V low = fours(pairs(a[0], a[1]), pairs(a[2], a[3]));
    V high = fours(pairs(a[4], a[5]), pairs(a[6], a[7]));
    return SHUFFLE(low, high, 0, 1, 2, 3, 8, 9, 10, 11) +
           SHUFFLE(low, high, 4, 5, 6, 7, 12, 13, 14, 15);
}

// Eight vectors as the rows of a square, transposed.
static inline void transpose(V *a) {
    V b[8];
    for (int i = 0; i < 8; i += 2) {
        b[i] = SHUFFLE(a[i], a[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        b[i + 1] = SHUFFLE(a[i], a[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            a[i + 2 * j] = SHUFFLE(b[i + j], b[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            a[i + 2 * j + 1] = SHUFFLE(b[i + j], b[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    for (int i = 0; i < 4; i++) {
        b[i] = SHUFFLE(a[i], a[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        b[i + 4] = SHUFFLE(a[i], a[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
    for (int i = 0; i < 8; i++) a[i] = b[i];
}

// Scores of a query against `count` keys; up to seven places behind them are written as well.
static inline V scored(const float *q, const float *keys, Int count, Int dim, float *out, V best) {
    for (Int t = 0; t < count; t += 8) {
        const float *key[8];
        for (Int j = 0; j < 8; j++) key[j] = keys + (t + j < count ? t + j : count - 1) * dim;
        V acc[8] = {};
        for (Int d = 0; d < dim; d += 8) {
            V query = load(q + d);
            for (int j = 0; j < 8; j++) acc[j] += query * load(key[j] + d);
        }
        V found = sums(acc);  // places behind the last repeat it, so that the maximum holds
        store(out + t, found);
        best = found > best ? found : best;
    }
    return best;
}

// out (8 B) += weights (count) times values (count, dim), in B vectors.
template <int B>
static inline void weighed(const float *weight, const float *values, Int count, Int dim, float *out) {
    V even[B], odd[B] = {};
    for (int j = 0; j < B; j++) even[j] = load(out + 8 * j);
    Int t = 0;
    for (; t + 1 < count; t += 2)
        for (int j = 0; j < B; j++) {
            even[j] += weight[t] * load(values + t * dim + 8 * j);
            odd[j] += weight[t + 1] * load(values + (t + 1) * dim + 8 * j);
        }
    if (t < count)
        for (int j = 0; j < B; j++) even[j] += weight[t] * load(values + t * dim + 8 * j);
    for (int j = 0; j < B; j++) store(out + 8 * j, even[j] + odd[j]);
}

struct Span {
    const float *keys, *values;
    Int count;
};

// softmax(q k^T) v over two spans of keys, and the log-sum-exp; q is scaled already.
static inline float attended(const float *q, const Span *spans, Int dim, float *scores, float *out) {
    float *at[2] = {scores, scores + (spans[0].count + 7) / 8 * 8};
    V best = splat(-INFINITY);
    for (int s = 0; s < 2; s++)
        best = scored(q, spans[s].keys, spans[s].count, dim, at[s], best);
    float most = best[0];
    for (int i = 1; i < 8; i++) most = best[i] > most ? best[i] : most;
    V total = {};
    for (int s = 0; s < 2; s++) {
        for (Int t = spans[s].count; t % 8; t++) at[s][t] = -INFINITY;
        for (Int t = 0; t < spans[s].count; t += 8) {
            V weight = vexp(load(at[s] + t) - most);
            store(at[s] + t, weight);
            total += weight;
        }
    }
    for (Int d = 0; d < dim; d += 8) store(out + d, V{});
    for (int s = 0; s < 2; s++) {
        Int d = 0;
        for (; d + 32 <= dim; d += 32)
            weighed<4>(at[s], spans[s].values + d, spans[s].count, dim, out + d);
        for (; d < dim; d += 8)
            weighed<1>(at[s], spans[s].values + d, spans[s].count, dim, out + d);
    }
    float mass = sum(total);
    for (Int d = 0; d < dim; d += 8) store(out + d, load(out + d) * (1.f / mass));
    return most + logf(mass);
}
