// What attention over cached keys and values is made of.
//
// Keys are kept in panels of sixteen tokens (panel, dim, token): a tile holds the scores of several
// queries against sixteen keys without a sum across lanes.
#pragma once

#include "tile.h"

// Consecutive keys in panels and their values.
struct KVSpan {
    float *keys, *values;
    Int count;
};

// Puts a token's key and value in their place.
static inline void store_kv(Int slot, const float *k, const float *v, Int dim, const KVSpan &to) {
    float *keys = to.keys + slot / PANEL * PANEL * dim + slot % PANEL;
    for (Int d = 0; d < dim; d++) keys[PANEL * d] = k[d];
    memcpy(to.values + slot * dim, v, dim * sizeof(float));
}

// Scores of one query against P panels of keys: enough sums at a time to hide their latency.
template <int P>
static inline void qk_scores_one(const float *q, const float *keys, Int dim, float *scores) {
    V acc[2 * P] = {};
    for (Int d = 0; d < dim; d++)
        for (int p = 0; p < P; p++)
            for (int j = 0; j < 2; j++)
                acc[2 * p + j] += q[d] * load(keys + (p * dim + d) * PANEL + 8 * j);
    for (int j = 0; j < 2 * P; j++) store(scores + 8 * j, acc[j]);
}

// Scores (n, padded count) of n queries, at most TILE.
static inline void qk_scores(Int n, const float *q, Int ldq, const KVSpan &s, Int dim,
                             float *scores, Int ld) {
    Int t = 0;
    if (n > 1) {
        for (; t < s.count; t += PANEL)
            tile_rows<false, 2>(n, q, ldq, s.keys + t * dim, PANEL, dim, scores + t, ld, nullptr,
                                false);
        return;
    }
    for (; t + 3 * PANEL < s.count; t += 4 * PANEL)
        qk_scores_one<4>(q, s.keys + t * dim, dim, scores + t);
    for (Int left = (s.count - t + PANEL - 1) / PANEL; left > 0; left -= 2, t += 2 * PANEL)
        if (left > 1) qk_scores_one<2>(q, s.keys + t * dim, dim, scores + t);
        else qk_scores_one<1>(q, s.keys + t * dim, dim, scores + t);
}

// A row of eight columns, by the same instructions wherever it stands (noinline): whether products
// are rounded before they are added is up to the compiler, and differs between tiles of one row and
// of several.
__attribute__((noinline)) static void pv_accumulate_8(const float *weights, const float *values,
                                                      Int dim, Int count, float *out) {
    tile<false, 1, 1>(weights, 0, values, dim, count, out, 0, nullptr, true);
}

// out (n, dim) += weights (n, count) times values; `n` changes nothing in a row's sums.
static inline void pv_accumulate(Int n, const float *weights, Int ld, const KVSpan &s, Int dim,
                                 float *out, Int ldo) {
    Int d = 0;
    if (n == 1)
        for (; d + 32 <= dim; d += 32)
            tile<false, 1, 4>(weights, ld, s.values + d, dim, s.count, out + d, ldo, nullptr, true);
    for (; d + 16 <= dim; d += 16)
        tile_rows<false, 2>(n, weights, ld, s.values + d, dim, s.count, out + d, ldo, nullptr,
                            true);
    for (; d < dim; d += 8)
        for (Int r = 0; r < n; r++)
            pv_accumulate_8(weights + r * ld, s.values + d, dim, s.count, out + r * ldo + d);
}

// out (8 B) += weights (count) times values (count, dim), in B vectors.
template <int B>
static inline void pv_accumulate_even_odd(const float *weight, const float *values, Int count,
                                          Int dim, float *out) {
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

// pv_accumulate of one row in two sums, of even and of odd tokens: twice as fast, where no other
// row has to agree.
static inline void pv_accumulate_one(const float *weights, const KVSpan &s, Int dim, float *out) {
    Int d = 0;
    for (; d + 32 <= dim; d += 32)
        pv_accumulate_even_odd<4>(weights, s.values + d, s.count, dim, out + d);
    for (; d < dim; d += 8)
        pv_accumulate_even_odd<1>(weights, s.values + d, s.count, dim, out + d);
}

// By lane, the largest of `count` scores and of what `max` holds. Fills the last vector up.
static inline V softmax_max(float *scores, Int count, V max) {
    for (Int t = count; t % 8; t++) scores[t] = -INFINITY;
    for (Int t = 0; t < count; t += 8) {
        V x = load(scores + t);
        max = x > max ? x : max;
    }
    return max;
}

// exp(score - max) in the place of `count` scores, and zeros from there to `end`; their sum.
static inline V softmax_weights(float *scores, Int count, Int end, float max) {
    V total = {};
    for (Int t = 0; t < count; t += 8) {
        V weight = vexp(load(scores + t) - max);
        store(scores + t, weight);
        total += weight;
    }
    for (Int t = count; t < end; t++) scores[t] = 0.f;
    return total;
}
