// Products of training: a layer's weights with a few tokens, and gradients with each other.
#pragma once

#include <initializer_list>
#include <vector>

#include "parallel.h"
#include "tile.h"

// Tokens that pass all products of a layer together. Gradients of gains and biases are added up by
// chunk: another number rounds them otherwise (DECODE_CHUNK of forward.h changes no result).
static const Int TRAIN_CHUNK = 48;
static const Int DEPTH = 96;   // tokens whose weight gradients are added at a time: whole chunks
static const Int REACH = 384;  // inputs whose panel of weights stays in the first cache

typedef std::vector<float> Floats;

// A matrix (depth, width) as panels (width / PANEL, depth, PANEL).
struct Panels {
    Int depth, width;
    Floats at;

    // weight is (width, depth), or (depth, width) where it is read `back`.
    Panels(const float *weight, Int outs, Int ins, bool back, Int threads)
        : depth(back ? outs : ins), width(back ? ins : outs), at((width + PANEL) * depth) {
        Int along = back ? 1 : depth, down = back ? width : 1;
        parallel_for((width + PANEL - 1) / PANEL, threads, [&](Int panel, Int) {
            Int n = panel * PANEL;
            for (Int k = 0; k < depth; k++) {
                const float *from = weight + n * along + k * down;
                float *to = at.data() + n * depth + k * PANEL;
                for (Int i = 0; i < std::min(PANEL, width - n); i++) to[i] = from[i * along];
            }
        });
    }
};

// y (rows, width) = or += x (rows, depth) m.
static void gemm(const float *x, Int ldx, Int rows, const Panels &m, float *y, Int ldy, bool add) {
    for (Int k = 0; k < m.depth; k += REACH) {
        Int deep = std::min(REACH, m.depth - k);
        for (Int n = 0; n < m.width; n += PANEL) {
            const float *panel = m.at.data() + n * m.depth + k * PANEL;
            bool more = add || k;
            if (m.width - n >= PANEL)
                tiles<false, 2>(rows, x + k, ldx, panel, PANEL, deep, y + n, ldy, nullptr, more);
            else  // widths are multiples of 8
                tiles<false, 1>(rows, x + k, ldx, panel, PANEL, deep, y + n, ldy, nullptr, more);
        }
    }
}

// A weight's gradient (outs, ins) = or += dy^T x over the tokens of a block; null where none is
// needed.
struct WeightGrad {
    float *grad;
    Int outs, ins;
    const float *dy;
    Int ldy;
    const float *x;
    Int ldx;

    Int down() const { return (outs + TRAIN_CHUNK - 1) / TRAIN_CHUNK; }
    Int pieces() const { return grad ? down() * ((ins + PANEL - 1) / PANEL) : 0; }
};

// One piece of it: up to TRAIN_CHUNK outputs and PANEL inputs.
static void gemm_tn(const WeightGrad &w, Int piece, Int tokens, bool add) {
    Int n = piece / w.down() * PANEL, o = piece % w.down() * TRAIN_CHUNK;
    Int rows = std::min(TRAIN_CHUNK, w.outs - o);
    float *to = w.grad + o * w.ins + n;
    for (Int t = 0; t < tokens; t += DEPTH) {
        Int deep = std::min(DEPTH, tokens - t);
        const float *a = w.dy + t * w.ldy + o, *b = w.x + t * w.ldx + n;
        if (w.ins - n >= PANEL)
            tiles<true, 2>(rows, a, w.ldy, b, w.ldx, deep, to, w.ins, nullptr, add || t);
        else
            tiles<true, 1>(rows, a, w.ldy, b, w.ldx, deep, to, w.ins, nullptr, add || t);
    }
}

// Several of them: threads divide their pieces.
static void gemm_tn(std::initializer_list<WeightGrad> weights, Int tokens, bool add,
                    Int threads) {
    Int total = 0;
    for (const WeightGrad &w : weights) total += w.pieces();
    parallel_for(total, threads, [&](Int piece, Int) {
        const WeightGrad *w = weights.begin();
        while (piece >= w->pieces()) piece -= w++->pieces();
        gemm_tn(*w, piece, tokens, add);
    });
}
