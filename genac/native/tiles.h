// Products in tiles of up to six rows and sixteen columns, and what attention is made of.
//
// What stands on the right of a product lies in panels: sixteen columns side by side, one line of
// them per depth. Keys are kept so, sixteen tokens to a panel (panel, dim, token): a tile holds the
// scores of several queries against sixteen keys without a sum across lanes. A row's sums are taken
// in one order, whatever rows share its tile.
#pragma once

#include "vectors.h"

static const Int PANEL = 16, TILE = 6;

static inline Int padded(Int n) { return (n + PANEL - 1) / PANEL * PANEL; }
static inline Int larger(Int a, Int b) { return a > b ? a : b; }

// y (R, 8 C) of x (R, depth) and one panel of w, whose lines are `ldw` apart; `add` adds to what
// stands there.
template <int R, int C>
static inline void tile(const float *x, Int ldx, const float *w, Int ldw, Int depth, float *y,
                        Int ldy, const float *bias, bool add) {
    V acc[R][C];
    for (int r = 0; r < R; r++)
        for (int j = 0; j < C; j++)
            acc[r][j] = add ? load(y + r * ldy + 8 * j) : bias ? load(bias + 8 * j) : V{};
    if (add && bias)
        for (int r = 0; r < R; r++)
            for (int j = 0; j < C; j++) acc[r][j] += load(bias + 8 * j);
    for (Int k = 0; k < depth; k++, w += ldw) {
        V line[C];
        for (int j = 0; j < C; j++) line[j] = load(w + 8 * j);
        for (int r = 0; r < R; r++)
            for (int j = 0; j < C; j++) acc[r][j] += x[r * ldx + k] * line[j];
    }
    for (int r = 0; r < R; r++)
        for (int j = 0; j < C; j++) store(y + r * ldy + 8 * j, acc[r][j]);
}

template <int C>
static inline void tiled(Int rows, const float *x, Int ldx, const float *w, Int ldw, Int depth,
                         float *y, Int ldy, const float *bias, bool add) {
    switch (rows) {
        case 1: return tile<1, C>(x, ldx, w, ldw, depth, y, ldy, bias, add);
        case 2: return tile<2, C>(x, ldx, w, ldw, depth, y, ldy, bias, add);
        case 3: return tile<3, C>(x, ldx, w, ldw, depth, y, ldy, bias, add);
        case 4: return tile<4, C>(x, ldx, w, ldw, depth, y, ldy, bias, add);
        case 5: return tile<5, C>(x, ldx, w, ldw, depth, y, ldy, bias, add);
        default: return tile<6, C>(x, ldx, w, ldw, depth, y, ldy, bias, add);
    }
}

static void linear(const float *x, Int ldx, Int rows, const float *w, Int depth, Int width,
                   float *y, Int ldy, const float *bias, bool add) {
    for (Int n = 0; n < width; n += PANEL, w += PANEL * depth)
        for (Int r = 0; r < rows; r += TILE)
            tiled<2>(rows - r < TILE ? rows - r : TILE, x + r * ldx, ldx, w, PANEL, depth,
                     y + r * ldy + n, ldy, bias ? bias + n : nullptr, add);
}

// A stretch of keys in panels and their values.
struct Stock {
    const float *keys, *values;
    Int count;
};

// Puts a token's key and value in their place.
static inline void stored(Int slot, const float *k, const float *v, Int dim, const Stock &to) {
    float *keys = (float *)to.keys + slot / PANEL * PANEL * dim + slot % PANEL;
    for (Int d = 0; d < dim; d++) keys[PANEL * d] = k[d];
    memcpy((float *)to.values + slot * dim, v, dim * sizeof(float));
}

// Scores of one query against P panels of keys: enough sums at a time to hide their latency.
template <int P>
static inline void alone(const float *q, const float *keys, Int dim, float *scores) {
    V acc[2 * P] = {};
    for (Int d = 0; d < dim; d++)
        for (int p = 0; p < P; p++)
            for (int j = 0; j < 2; j++)
                acc[2 * p + j] += q[d] * load(keys + (p * dim + d) * PANEL + 8 * j);
    for (int j = 0; j < 2 * P; j++) store(scores + 8 * j, acc[j]);
}

// Scores (n, padded count) of n queries.
static inline void faced(Int n, const float *q, Int ldq, const Stock &s, Int dim, float *scores,
                         Int ld) {
    Int t = 0;
    if (n > 1) {
        for (; t < s.count; t += PANEL)
            tiled<2>(n, q, ldq, s.keys + t * dim, PANEL, dim, scores + t, ld, nullptr, false);
        return;
    }
    for (; t + 3 * PANEL < s.count; t += 4 * PANEL) alone<4>(q, s.keys + t * dim, dim, scores + t);
    for (Int left = (s.count - t + PANEL - 1) / PANEL; left > 0; left -= 2, t += 2 * PANEL)
        if (left > 1) alone<2>(q, s.keys + t * dim, dim, scores + t);
        else alone<1>(q, s.keys + t * dim, dim, scores + t);
}

// A row of eight columns, by the same instructions wherever it stands: whether products are rounded
// before they are added is up to the compiler, and differs between tiles of one row and of several.
__attribute__((noinline)) static void eight(const float *weights, const float *values, Int dim,
                                            Int count, float *out) {
    tile<1, 1>(weights, 0, values, dim, count, out, 0, nullptr, true);
}

// out (n, dim) += weights (n, count) times values; `n` changes nothing in a row's sums.
static inline void gathered(Int n, const float *weights, Int ld, const Stock &s, Int dim,
                            float *out, Int ldo) {
    Int d = 0;
    if (n == 1)
        for (; d + 32 <= dim; d += 32)
            tile<1, 4>(weights, ld, s.values + d, dim, s.count, out + d, ldo, nullptr, true);
    for (; d + 16 <= dim; d += 16)
        tiled<2>(n, weights, ld, s.values + d, dim, s.count, out + d, ldo, nullptr, true);
    for (; d < dim; d += 8)
        for (Int r = 0; r < n; r++)
            eight(weights + r * ld, s.values + d, dim, s.count, out + r * ldo + d);
}

// The same of one row in two sums, of even and of odd tokens: twice as fast, where no other row has
// to agree.
static inline void gathered_apart(const float *weights, const Stock &s, Int dim, float *out) {
    Int d = 0;
    for (; d + 32 <= dim; d += 32) weighed<4>(weights, s.values + d, s.count, dim, out + d);
    for (; d < dim; d += 8) weighed<1>(weights, s.values + d, s.count, dim, out + d);
}

// The largest of `count` scores, and of what `best` holds.
static inline V peak(float *scores, Int count, V best) {
    for (Int t = count; t % 8; t++) scores[t] = -INFINITY;
    for (Int t = 0; t < count; t += 8) {
        V x = load(scores + t);
        best = x > best ? x : best;
    }
    return best;
}

// exp(score - most) in the place of `count` scores, and zeros from there to `end`; their sum.
static inline V weights(float *scores, Int count, Int end, float most) {
    V total = {};
    for (Int t = 0; t < count; t += 8) {
        V weight = vexp(load(scores + t) - most);
        store(scores + t, weight);
        total += weight;
    }
    for (Int t = count; t < end; t++) scores[t] = 0.f;
    return total;
}
