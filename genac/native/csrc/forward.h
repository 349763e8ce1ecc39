// A decoder's forward: what Decoder.forward computes, without some forty operations per layer. Up
// to DECODE_CHUNK tokens of any rows pass the layers together; each attends to what it sees of its
// row's prefix and to the row's own tokens up to itself.
#pragma once

#include "kv_span.h"

static const Int DECODE_CHUNK = 64;

// A token that passes the layers. Those of one row follow each other.
struct Item {
    Int row, slot, token;
    bool needs_logits;  // of what follows it
    bool single;        // never together with others of its row
};

static inline V activate(V x, Int kind) {
    if (kind == SILU) return x / (1.f + vexp(-x));
    if (kind == GELU_TANH) {
        V inner = 0.7978845608f * (x + 0.044715f * x * x * x);
        return x / (1.f + vexp(-2.f * inner));  // 0.5 x (1 + tanh(inner))
    }
    V out;
    for (int i = 0; i < 8; i++) out[i] = 0.5f * x[i] * (1.f + erff(x[i] * 0.7071067812f));
    return out;
}

// y (rows, padded width) = or += x (rows, depth) w + bias, with w in panels of all their depth.
static void gemm_panel(const float *x, Int ldx, Int rows, const float *w, Int depth, Int width,
                       float *y, Int ldy, const float *bias, bool add) {
    for (Int n = 0; n < width; n += PANEL, w += PANEL * depth)
        tiles<false, 2>(rows, x, ldx, w, PANEL, depth, y + n, ldy, bias ? bias + n : nullptr, add);
}

// Without a gain: that is multiplied into the weights that follow.
static void rmsnorm(const float *x, float *y, Int rows, Int ld, Int size, double eps) {
    for (Int r = 0; r < rows; r++, x += ld, y += ld) {
        float scale = rmsnorm_scale(x, size, eps);
        for (Int i = 0; i < size; i += 8) store(y + i, load(x + i) * scale);
    }
}

// Norm of a head (where there is one) and rotation of adjacent pairs, in place.
static inline void rope(float *x, const float *gain, const float *table, Int dim, double eps) {
    float scale = gain ? rmsnorm_scale(x, dim, eps) : 1.f;
    for (Int i = 0; i < dim; i += 8) {
        V value = load(x + i);
        if (gain) value = value * scale * load(gain + i);
        V swapped = SHUFFLE(value, value, 1, 0, 3, 2, 5, 4, 7, 6);
        store(x + i, value * load(table + i) + swapped * load(table + dim + i));
    }
}

// Keys of one row's head in a layer, panels (capacity / PANEL, dim, PANEL); its values (capacity,
// dim) stand behind the keys of all heads.
static inline KVSpan own_span(const DecoderModel &m, const DecoderBatch &b, Int row, Int layer,
                              Int head) {
    Int size = b.capacity * m.dim;
    float *keys = b.own + row * b.stride + (layer * 2 * m.kv_heads + head) * size;
    return {keys, keys + m.kv_heads * size, 0};
}

// The same of the row's prefix, which is only read.
static inline KVSpan prefix_span(const DecoderModel &m, const DecoderBatch &b, Int row, Int layer,
                                Int head, Int seen) {
    Int size = b.prefix_capacity * m.dim, place = layer * 2 * m.kv_heads + head;
    float *keys = (float *)b.prefix + b.prefix_of[row] * b.prefix_stride + place * size;
    return {keys, keys + m.kv_heads * size, seen};
}

// Rotates and stores one layer's keys, and stores its values.
static void store_kv(const DecoderModel &m, const DecoderBatch &b, Int layer, const Item *item,
                     Int count, float *qkv, Int ld) {
    const float *gain = m.layer[layer].qk_norm;
    for (Int i = 0; i < count; i++) {
        Int row = item[i].row, slot = item[i].slot;
        const float *table = m.rope + (b.shared[row] + slot) * 2 * m.dim;
        for (Int h = 0; h < m.kv_heads; h++) {
            float *k = qkv + i * ld + (m.heads + h) * m.dim, *v = k + m.kv_heads * m.dim;
            rope(k, gain ? gain + (m.heads + h) * m.dim : nullptr, table, m.dim, m.eps);
            store_kv(slot, k, v, m.dim, own_span(m, b, row, layer, h));
        }
    }
}

// Queries of one row that stand together in a tile, and what they read of their own.
struct RowSpan {
    Int first, rows;
    KVSpan own;
};

// What the queries q of one head, at most TILE of one prefix, read from it and from their own
// rows: all scores of a query side by side, their softmax, the weighted values.
static void attend(const DecoderModel &m, const DecoderBatch &b, Int layer, Int head,
                   const Item *item, Int n, const float *q, Int ldq, float *scores, float *out,
                   Int ldo) {
    KVSpan prefix = {nullptr, nullptr, 0};
    RowSpan span[TILE];
    Int spans = 0, longest = 0;
    float share[TILE];
    for (Int i = 0; i < n; i++) {
        Int row = item[i].row, count = item[i].slot + 1;
        if (b.prefix_of && b.prefix_of[row] >= 0)
            prefix.count = std::max(prefix.count, b.shared[row]);
        if (!i || item[i - 1].row != row) span[spans++] = {i, 0, own_span(m, b, row, layer, head)};
        span[spans - 1].rows++;
        span[spans - 1].own.count = count;
        longest = std::max(longest, count);
    }
    Int wide = padded(prefix.count), ld = wide + padded(longest);
    if (wide) {
        prefix = prefix_span(m, b, item->row, layer, head, prefix.count);
        qk_scores(n, q, ldq, prefix, m.dim, scores, ld);
    }
    for (Int i = 0; i < spans; i++) {
        const RowSpan &at = span[i];
        float *own = scores + at.first * ld + wide;
        qk_scores(at.rows, q + at.first * ldq, ldq, at.own, m.dim, own, ld);
        for (Int r = at.first; r < at.first + at.rows; r++, own += ld) {
            Int seen = wide ? b.shared[item[r].row] : 0, count = item[r].slot + 1;
            V lanes = softmax_max(own, count, softmax_max(own - wide, seen, splat(-INFINITY)));
            float max = lanes[0];
            for (int j = 1; j < 8; j++) max = lanes[j] > max ? lanes[j] : max;
            // Up to the counts of the whole tile: what a query does not see weighs 0 in its sums.
            V total = softmax_weights(own - wide, seen, prefix.count, max);
            share[r] = 1.f / sum(total + softmax_weights(own, count, at.own.count, max));
        }
    }
    for (Int r = 0; r < n; r++) memset(out + r * ldo, 0, m.dim * sizeof(float));
    if (wide) pv_accumulate(n, scores, ld, prefix, m.dim, out, ldo);
    for (Int i = 0; i < spans; i++) {
        const float *own = scores + span[i].first * ld + wide;
        float *to = out + span[i].first * ldo;
        if (item[span[i].first].single) pv_accumulate_one(own, span[i].own, m.dim, to);
        else pv_accumulate(span[i].rows, own, ld, span[i].own, m.dim, to, ldo);
    }
    for (Int r = 0; r < n; r++)
        for (Int d = 0; d < m.dim; d += 8)
            store(out + r * ldo + d, load(out + r * ldo + d) * share[r]);
}

// Whether items may share a tile.
static inline bool same_prefix(const DecoderBatch &b, const Item &one, const Item &other) {
    return !b.prefix_of || b.prefix_of[one.row] == b.prefix_of[other.row];
}

// One layer's attention of items whose keys and values are stored.
static void attention(const DecoderModel &m, const DecoderBatch &b, Int layer, const Item *item,
                      Int count, float *qkv, Int ld, float *scores, float *out, Int ldo) {
    const float *gain = m.layer[layer].qk_norm;
    Int group = m.heads / m.kv_heads;
    // Heads outside: a prefix's keys of one head stay in cache while its rows read them.
    for (Int h = 0; h < m.heads; h++)
        for (Int i = 0, n; i < count; i += n) {
            float *q = qkv + i * ld + h * m.dim;
            for (n = 0; n < TILE && i + n < count && same_prefix(b, item[i], item[i + n]); n++) {
                Int position = b.shared[item[i + n].row] + item[i + n].slot;
                rope(q + n * ld, gain ? gain + h * m.dim : nullptr, m.rope + position * 2 * m.dim,
                     m.dim, m.eps);
            }
            attend(m, b, layer, h / group, item + i, n, q, ld, scores, out + i * ldo + h * m.dim,
                   ldo);
        }
}

// Passes the items through all layers and leaves their keys and values. Logits (needed, padded
// vocab) behind those that need them, in their order: nobody needs the last layer's output of the
// others. Overwrites the items.
static float *forward(const DecoderModel &m, const DecoderBatch &b, Item *item, Int count,
                      float *memory) {
    Int width = padded(m.hidden), heads = (m.heads + 2 * m.kv_heads) * m.dim;
    Int ldq = padded(heads), ldo = padded(m.heads * m.dim), ldg = padded(2 * m.inner);
    float *x = memory, *y = x + count * width, *wide = y + count * std::max(width, ldo);
    float *scores = wide + count * std::max(std::max(ldq, ldg), padded(m.vocab));
    for (Int i = 0; i < count; i++)
        memcpy(x + i * width, m.embedding + item[i].token * m.hidden, m.hidden * sizeof(float));
    for (Int l = 0; l < m.layers; l++) {
        const DecoderLayer &w = m.layer[l];
        rmsnorm(x, y, count, width, m.hidden, m.eps);
        gemm_panel(y, width, count, w.qkv, m.hidden, heads, wide, ldq, w.qkv_bias, false);
        store_kv(m, b, l, item, count, wide, ldq);
        if (l + 1 == m.layers) {  // keys and values of all are stored: the rest may leave
            Int all = count;
            for (Int i = count = 0; i < all; i++) {
                if (!item[i].needs_logits) continue;
                memmove(x + count * width, x + i * width, width * sizeof(float));
                memmove(wide + count * ldq, wide + i * ldq, ldq * sizeof(float));
                item[count++] = item[i];
            }
        }
        attention(m, b, l, item, count, wide, ldq, scores, y, ldo);
        gemm_panel(y, ldo, count, w.out, m.heads * m.dim, m.hidden, x, width, w.out_bias, true);
        rmsnorm(x, y, count, width, m.hidden, m.eps);
        gemm_panel(y, width, count, w.gate_up, m.hidden, 2 * m.inner, wide, ldg, nullptr, false);
        for (Int r = 0; r < count; r++) {
            float *gate = wide + r * ldg;
            for (Int i = 0; i < m.inner; i += 8)
                store(gate + i, activate(load(gate + i), m.activation) * load(gate + m.inner + i));
        }
        gemm_panel(wide, ldg, count, w.down, m.inner, m.hidden, x, width, nullptr, true);
    }
    rmsnorm(x, y, count, width, m.hidden, m.eps);
    gemm_panel(y, width, count, m.head, m.hidden, m.vocab, wide, padded(m.vocab), nullptr, false);
    return wide;
}

// Numbers of memory that `forward` needs for `count` items.
static size_t forward_numbers(const DecoderModel &m, const DecoderBatch &b, Int count) {
    Int wide = std::max(padded((m.heads + 2 * m.kv_heads) * m.dim), padded(2 * m.inner));
    Int narrow = 2 * padded(m.hidden) + padded(m.heads * m.dim);
    size_t items = count * (narrow + std::max(wide, padded(m.vocab)));
    return items + TILE * (b.capacity + b.prefix_capacity + 2 * PANEL);
}

// Null where there is none. aligned_alloc wants whole lines of the alignment.
static float *memory_for(size_t count) {
    return (float *)aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64);
}
