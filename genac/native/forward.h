// A decoder's forward: what Decoder.forward computes, without some forty operations per layer. Up
// to CHUNK tokens of any rows pass the layers together; each attends to what it sees of its row's
// trunk and to the row's own tokens up to itself.
//
// Arrays are dense and row-major; weights stand in panels (native.py).
#pragma once

#include "tiles.h"

static const Int CHUNK = 64;

struct Layer {
    const float *qkv, *qkv_bias, *qk_norm, *out, *out_bias, *gate_up, *down;
};

struct Model {
    Int layers, hidden, heads, kv_heads, dim, inner, vocab, activation;
    double eps;
    const float *embedding, *head, *turn;  // turn (position, 2, dim): cosines, signed sines
    const Layer *layer;
};

// Keys and values are (row, layer, 2, kv_head, capacity, dim), rows `stride` numbers apart, keys in
// panels of PANEL tokens: a capacity is a multiple of that.
struct Batch {
    Int rows, capacity, stride, trunk_capacity, trunk_stride;
    float *own;
    const float *trunk;
    const Int *length, *shared, *trunk_of;  // per row: own tokens and those of its trunk, or -1
    Int *token;                             // per row: the newest, not read yet
    float *logits;                          // (row, vocab), where nothing is drawn
};

// A token that passes the layers. Those of one row follow each other.
struct Item {
    Int row, slot, token;
    bool asked;  // for the logits behind it
    bool alone;  // never beside others of its row
};

static inline V activated(V x, Int kind) {
    if (kind == 0) return x / (1.f + vexp(-x));  // silu
    if (kind == 1) {                             // gelu by tanh
        V inner = 0.7978845608f * (x + 0.044715f * x * x * x);
        return x / (1.f + vexp(-2.f * inner));
    }
    V out;
    for (int i = 0; i < 8; i++) out[i] = 0.5f * x[i] * (1.f + erff(x[i] * 0.7071067812f));
    return out;
}

static void normed(const float *x, float *y, Int rows, Int ld, Int size, double eps) {
    for (Int r = 0; r < rows; r++, x += ld, y += ld) {
        float scale = rms_scale(x, size, eps);
        for (Int i = 0; i < size; i += 8) store(y + i, load(x + i) * scale);
    }
}

// Norm of a head (where there is one) and rotation of adjacent pairs, in place.
static inline void turned(float *x, const float *gain, const float *turn, Int dim, double eps) {
    float scale = gain ? rms_scale(x, dim, eps) : 1.f;
    for (Int i = 0; i < dim; i += 8) {
        V value = load(x + i);
        if (gain) value = value * scale * load(gain + i);
        V swapped = SHUFFLE(value, value, 1, 0, 3, 2, 5, 4, 7, 6);
        store(x + i, value * load(turn + i) + swapped * load(turn + dim + i));
    }
}

// Keys of one row's head in a layer, panels (capacity / PANEL, dim, PANEL); its values (capacity,
// dim) stand behind the keys of all heads.
static inline Stock own_of(const Model &m, const Batch &b, Int row, Int layer, Int head) {
    Int size = b.capacity * m.dim;
    float *keys = b.own + row * b.stride + (layer * 2 * m.kv_heads + head) * size;
    return {keys, keys + m.kv_heads * size, 0};
}

// The same of the row's trunk.
static inline Stock trunk_of(const Model &m, const Batch &b, Int row, Int layer, Int head,
                             Int seen) {
    Int size = b.trunk_capacity * m.dim, place = layer * 2 * m.kv_heads + head;
    const float *keys = b.trunk + b.trunk_of[row] * b.trunk_stride + place * size;
    return {keys, keys + m.kv_heads * size, seen};
}

// Rotates and stores one layer's keys, and stores its values.
static void kept(const Model &m, const Batch &b, Int layer, const Item *item, Int count, float *qkv,
                 Int ld) {
    const float *gain = m.layer[layer].qk_norm;
    for (Int i = 0; i < count; i++) {
        Int row = item[i].row, slot = item[i].slot;
        const float *turn = m.turn + (b.shared[row] + slot) * 2 * m.dim;
        for (Int h = 0; h < m.kv_heads; h++) {
            float *k = qkv + i * ld + (m.heads + h) * m.dim, *v = k + m.kv_heads * m.dim;
            turned(k, gain ? gain + (m.heads + h) * m.dim : nullptr, turn, m.dim, m.eps);
            stored(slot, k, v, m.dim, own_of(m, b, row, layer, h));
        }
    }
}

// Queries of one row that stand together in a tile, and what they read of their own.
struct Run {
    Int first, rows;
    Stock own;
};

// What the queries q of one head, at most TILE that have one trunk, read from it and from their own
// rows: all scores of a query side by side, their softmax, the weighted values.
static void read_keys(const Model &m, const Batch &b, Int layer, Int head, const Item *item, Int n,
                      const float *q, Int ldq, float *scores, float *out, Int ldo) {
    Stock trunk = {nullptr, nullptr, 0};
    Run run[TILE];
    Int runs = 0, longest = 0;
    float share[TILE];
    for (Int i = 0; i < n; i++) {
        Int row = item[i].row, count = item[i].slot + 1;
        if (b.trunk_of && b.trunk_of[row] >= 0) trunk.count = larger(trunk.count, b.shared[row]);
        if (!i || item[i - 1].row != row) run[runs++] = {i, 0, own_of(m, b, row, layer, head)};
        run[runs - 1].rows++;
        run[runs - 1].own.count = count;
        longest = larger(longest, count);
    }
    Int wide = padded(trunk.count), ld = wide + padded(longest);
    if (wide) {
        trunk = trunk_of(m, b, item->row, layer, head, trunk.count);
        faced(n, q, ldq, trunk, m.dim, scores, ld);
    }
    for (Int i = 0; i < runs; i++) {
        const Run &at = run[i];
        float *own = scores + at.first * ld + wide;
        faced(at.rows, q + at.first * ldq, ldq, at.own, m.dim, own, ld);
        for (Int r = at.first; r < at.first + at.rows; r++, own += ld) {
            Int seen = wide ? b.shared[item[r].row] : 0, count = item[r].slot + 1;
            V best = peak(own, count, peak(own - wide, seen, splat(-INFINITY)));
            float most = best[0];
            for (int j = 1; j < 8; j++) most = best[j] > most ? best[j] : most;
            V total = weights(own - wide, seen, trunk.count, most);
            share[r] = 1.f / sum(total + weights(own, count, at.own.count, most));
        }
    }
    for (Int r = 0; r < n; r++) memset(out + r * ldo, 0, m.dim * sizeof(float));
    if (wide) gathered(n, scores, ld, trunk, m.dim, out, ldo);
    for (Int i = 0; i < runs; i++) {
        const float *own = scores + run[i].first * ld + wide;
        float *to = out + run[i].first * ldo;
        if (item[run[i].first].alone) gathered_apart(own, run[i].own, m.dim, to);
        else gathered(run[i].rows, own, ld, run[i].own, m.dim, to, ldo);
    }
    for (Int r = 0; r < n; r++)
        for (Int d = 0; d < m.dim; d += 8)
            store(out + r * ldo + d, load(out + r * ldo + d) * share[r]);
}

// Whether items may share a tile.
static inline bool beside(const Batch &b, const Item &one, const Item &other) {
    return !b.trunk_of || b.trunk_of[one.row] == b.trunk_of[other.row];
}

// One layer's attention of items whose keys and values are stored.
static void attention(const Model &m, const Batch &b, Int layer, const Item *item, Int count,
                      float *qkv, Int ld, float *scores, float *out, Int ldo) {
    const float *gain = m.layer[layer].qk_norm;
    Int group = m.heads / m.kv_heads;
    // Heads outside: a trunk's keys of one head stay in cache while its rows read them.
    for (Int h = 0; h < m.heads; h++)
        for (Int i = 0, n; i < count; i += n) {
            float *q = qkv + i * ld + h * m.dim;
            for (n = 0; n < TILE && i + n < count && beside(b, item[i], item[i + n]); n++) {
                Int position = b.shared[item[i + n].row] + item[i + n].slot;
                turned(q + n * ld, gain ? gain + h * m.dim : nullptr, m.turn + position * 2 * m.dim,
                       m.dim, m.eps);
            }
            read_keys(m, b, layer, h / group, item + i, n, q, ld, scores,
                      out + i * ldo + h * m.dim, ldo);
        }
}

// Passes the items through all layers and leaves their keys and values. Logits (asked, padded
// vocab) behind those that are `asked`, in their order: nobody needs the last layer's output of the
// others. Overwrites the items.
static float *forward(const Model &m, const Batch &b, Item *item, Int count, float *memory) {
    Int width = padded(m.hidden), heads = (m.heads + 2 * m.kv_heads) * m.dim;
    Int ldq = padded(heads), ldo = padded(m.heads * m.dim), ldg = padded(2 * m.inner);
    float *x = memory, *y = x + count * width, *wide = y + count * larger(width, ldo);
    float *scores = wide + count * larger(larger(ldq, ldg), padded(m.vocab));
    for (Int i = 0; i < count; i++)
        memcpy(x + i * width, m.embedding + item[i].token * m.hidden, m.hidden * sizeof(float));
    for (Int l = 0; l < m.layers; l++) {
        const Layer &w = m.layer[l];
        normed(x, y, count, width, m.hidden, m.eps);
        linear(y, width, count, w.qkv, m.hidden, heads, wide, ldq, w.qkv_bias, false);
        kept(m, b, l, item, count, wide, ldq);
        if (l + 1 == m.layers) {
            Int all = count;
            for (Int i = count = 0; i < all; i++) {
                if (!item[i].asked) continue;
                memmove(x + count * width, x + i * width, width * sizeof(float));
                memmove(wide + count * ldq, wide + i * ldq, ldq * sizeof(float));
                item[count++] = item[i];
            }
        }
        attention(m, b, l, item, count, wide, ldq, scores, y, ldo);
        linear(y, ldo, count, w.out, m.heads * m.dim, m.hidden, x, width, w.out_bias, true);
        normed(x, y, count, width, m.hidden, m.eps);
        linear(y, width, count, w.gate_up, m.hidden, 2 * m.inner, wide, ldg, nullptr, false);
        for (Int r = 0; r < count; r++) {
            float *gate = wide + r * ldg;
            for (Int i = 0; i < m.inner; i += 8)
                store(gate + i, activated(load(gate + i), m.activation) * load(gate + m.inner + i));
        }
        linear(wide, ldg, count, w.down, m.inner, m.hidden, x, width, nullptr, true);
    }
    normed(x, y, count, width, m.hidden, m.eps);
    linear(y, width, count, m.head, m.hidden, m.vocab, wide, padded(m.vocab), nullptr, false);
    return wide;
}

// Numbers of memory that `forward` needs for `count` items.
static size_t needed(const Model &m, const Batch &b, Int count) {
    Int wide = larger(padded((m.heads + 2 * m.kv_heads) * m.dim), padded(2 * m.inner));
    Int narrow = 2 * padded(m.hidden) + padded(m.heads * m.dim);
    size_t items = count * (narrow + larger(wide, padded(m.vocab)));
    return items + TILE * (b.capacity + b.trunk_capacity + 2 * PANEL);
}

static float *memory_for(size_t count) {
    return (float *)aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64);
}
