// Products of a few tokens with a layer's weights, and of their gradients with each other
// (layers.cpp): tiles that stay in registers, over operands that stand in a core's cache.
#pragma once

#include <vector>

#include "vectors.h"

static const Int PANEL = 16, TILE = 6;  // a product's tile: outputs, rows
static const Int CHUNK = 48;            // tokens that pass all products of a layer together
static const Int DEPTH = 96;            // tokens whose weight gradients are added at a time
static const Int REACH = 384;           // inputs whose panel of weights stays in the first cache

typedef std::vector<float> Floats;

static inline Int least(Int a, Int b) { return a < b ? a : b; }

// y (R, 8 J) = or += a (R, depth) b (depth, 8 J); `row` and `step` are a's strides, `ldb` is b's.
template <int R, int J>
static inline void tile(const float *a, Int row, Int step, const float *b, Int ldb, Int depth,
                        float *y, Int ldy, bool add) {
    V acc[R][J];
    for (int r = 0; r < R; r++)
        for (int j = 0; j < J; j++) acc[r][j] = add ? load(y + r * ldy + 8 * j) : V{};
    for (Int k = 0; k < depth; k++, a += step, b += ldb) {
        V right[J];
        for (int j = 0; j < J; j++) right[j] = load(b + 8 * j);
        for (int r = 0; r < R; r++) {
            float left = a[r * row];
            for (int j = 0; j < J; j++) acc[r][j] += left * right[j];
        }
    }
    for (int r = 0; r < R; r++)
        for (int j = 0; j < J; j++) store(y + r * ldy + 8 * j, acc[r][j]);
}

template <int J>
static inline void tiles(Int rows, const float *a, Int row, Int step, const float *b, Int ldb,
                         Int depth, float *y, Int ldy, bool add) {
    for (; rows >= TILE; rows -= TILE, a += TILE * row, y += TILE * ldy)
        tile<TILE, J>(a, row, step, b, ldb, depth, y, ldy, add);
    switch (rows) {
        case 1: tile<1, J>(a, row, step, b, ldb, depth, y, ldy, add); break;
        case 2: tile<2, J>(a, row, step, b, ldb, depth, y, ldy, add); break;
        case 3: tile<3, J>(a, row, step, b, ldb, depth, y, ldy, add); break;
        case 4: tile<4, J>(a, row, step, b, ldb, depth, y, ldy, add); break;
        case 5: tile<5, J>(a, row, step, b, ldb, depth, y, ldy, add); break;
    }
}

// A matrix (depth, width) as panels (width / PANEL, depth, PANEL).
struct Panels {
    Int depth, width;
    Floats at;

    // weight is (width, depth), or (depth, width) where it is read `back`.
    Panels(const float *weight, Int outs, Int ins, bool back, Int threads)
        : depth(back ? outs : ins), width(back ? ins : outs), at((width + PANEL) * depth) {
        Int along = back ? 1 : depth, down = back ? width : 1;
#pragma omp parallel for num_threads(threads)
        for (Int n = 0; n < width; n += PANEL)
            for (Int k = 0; k < depth; k++) {
                const float *from = weight + n * along + k * down;
                float *to = at.data() + n * depth + k * PANEL;
                for (Int i = 0; i < least(PANEL, width - n); i++) to[i] = from[i * along];
            }
    }
};

// y (rows, width) = or += x (rows, depth) m.
static void product(const float *x, Int ldx, Int rows, const Panels &m, float *y, Int ldy,
                    bool add) {
    for (Int k = 0; k < m.depth; k += REACH) {
        Int deep = least(REACH, m.depth - k);
        for (Int n = 0; n < m.width; n += PANEL) {
            const float *panel = m.at.data() + n * m.depth + k * PANEL;
            bool more = add || k;
            if (m.width - n >= PANEL)
                tiles<2>(rows, x + k, ldx, 1, panel, PANEL, deep, y + n, ldy, more);
            else
                tiles<1>(rows, x + k, ldx, 1, panel, PANEL, deep, y + n, ldy, more);
        }
    }
}

// A weight's gradient (outs, ins) = or += dy^T x over the tokens of a block; threads divide it.
static void outer(float *grad, Int outs, Int ins, const float *dy, Int ldy, const float *x, Int ldx,
                  Int tokens, bool add) {
    if (!grad) return;
#pragma omp for collapse(2) schedule(static) nowait
    for (Int n = 0; n < ins; n += PANEL)
        for (Int o = 0; o < outs; o += CHUNK)
            for (Int t = 0; t < tokens; t += DEPTH) {
                Int deep = least(DEPTH, tokens - t), rows = least(CHUNK, outs - o);
                const float *a = dy + t * ldy + o, *b = x + t * ldx + n;
                float *to = grad + o * ins + n;
                if (ins - n >= PANEL)
                    tiles<2>(rows, a, 1, ldy, b, ldx, deep, to, ins, add || t);
                else
                    tiles<1>(rows, a, 1, ldy, b, ldx, deep, to, ins, add || t);
            }
}
