// Attention over packed trees, forward and backward: every token reads the part of the trunk that
// its stretch has seen, and its stretch up to itself (models/tree_attention.py). One pass over the
// keys of a token instead of blocks that are gathered, padded, masked and merged. Threads divide the
// heads: what branches add to the keys of their trunk belongs to one thread.
#include "vectors.h"

struct Stretch {
    Int start, length, trunk, shared;
};

struct Tree {
    Int length, heads, dim, stretches, longest;  // longest: keys that any token reads
    const Stretch *stretch;
    double scale;
    const float *q, *k, *v, *out, *lse, *grad;  // (token, head, dim); lse (token, head)
    float *dq, *dk, *dv;
};

// One head of x, token behind token.
static void take(const Tree &t, Int head, const float *x, float factor, float *to) {
    for (Int i = 0; i < t.length; i++)
        for (Int d = 0; d < t.dim; d += 8)
            store(to + i * t.dim + d, load(x + (i * t.heads + head) * t.dim + d) * factor);
}

static void give(const Tree &t, Int head, const float *from, float factor, float *x) {
    for (Int i = 0; i < t.length; i++)
        for (Int d = 0; d < t.dim; d += 8)
            store(x + (i * t.heads + head) * t.dim + d, load(from + i * t.dim + d) * factor);
}

static void forward(const Tree &t, Int head, float *memory) {
    Int size = t.length * t.dim;
    float *q = memory, *k = q + size, *v = k + size, *scores = v + size;
    take(t, head, t.q, (float)t.scale, q);
    take(t, head, t.k, 1.f, k);
    take(t, head, t.v, 1.f, v);
    for (Int s = 0; s < t.stretches; s++) {
        const Stretch &at = t.stretch[s];
        for (Int i = at.start; i < at.start + at.length; i++) {
            Span spans[2] = {{k + at.trunk * t.dim, v + at.trunk * t.dim, at.shared},
                             {k + at.start * t.dim, v + at.start * t.dim, i + 1 - at.start}};
            Int place = i * t.heads + head;
            ((float *)t.lse)[place] =
                attended(q + i * t.dim, spans, t.dim, scores, (float *)t.out + place * t.dim);
        }
    }
}

// dk += ds q, dv += p grad and dq += ds k over one span of keys, in B vectors.
template <int B>
static inline void pulled(const float *p, const float *ds, Int count, Int dim, const float *q,
                          const float *grad, const float *k, float *dq, float *dk, float *dv) {
    V query[B], back[B], found[B];
    for (int j = 0; j < B; j++) {
        query[j] = load(q + 8 * j);
        back[j] = load(grad + 8 * j);
        found[j] = load(dq + 8 * j);
    }
    for (Int n = 0; n < count; n++) {
        float weight = p[n], pull = ds[n];
        const float *key = k + n * dim;
        float *to_key = dk + n * dim, *to_value = dv + n * dim;
        for (int j = 0; j < B; j++) {
            found[j] += pull * load(key + 8 * j);
            store(to_key + 8 * j, load(to_key + 8 * j) + pull * query[j]);
            store(to_value + 8 * j, load(to_value + 8 * j) + weight * back[j]);
        }
    }
    for (int j = 0; j < B; j++) store(dq + 8 * j, found[j]);
}

static void backward(const Tree &t, Int head, float *memory) {
    Int size = t.length * t.dim;
    float *q = memory, *k = q + size, *v = k + size, *dq = v + size, *dk = dq + size;
    float *dv = dk + size, *p = dv + size, *ds = p + t.longest + 8;
    take(t, head, t.q, (float)t.scale, q);
    take(t, head, t.k, 1.f, k);
    take(t, head, t.v, 1.f, v);
    memset(dq, 0, 3 * size * sizeof(float));
    for (Int s = 0; s < t.stretches; s++) {
        const Stretch &at = t.stretch[s];
        for (Int i = at.start; i < at.start + at.length; i++) {
            Int place = i * t.heads + head;
            const float *grad = t.grad + place * t.dim, *out = t.out + place * t.dim;
            V products = {};
            for (Int d = 0; d < t.dim; d += 8) products += load(grad + d) * load(out + d);
            float delta = sum(products), lse = t.lse[place];
            Int from[2] = {at.trunk, at.start}, count[2] = {at.shared, i + 1 - at.start};
            for (int part = 0; part < 2; part++) {
                Int n = count[part], low = from[part] * t.dim, d = 0;
                scored(q + i * t.dim, k + low, n, t.dim, p, V{});
                scored(grad, v + low, n, t.dim, ds, V{});
                for (Int j = 0; j < n; j += 8) {
                    V weight = vexp(load(p + j) - lse);
                    store(p + j, weight);
                    store(ds + j, weight * (load(ds + j) - delta));
                }
                for (; d + 32 <= t.dim; d += 32)
                    pulled<4>(p, ds, n, t.dim, q + i * t.dim + d, grad + d, k + low + d,
                              dq + i * t.dim + d, dk + low + d, dv + low + d);
                for (; d < t.dim; d += 8)
                    pulled<1>(p, ds, n, t.dim, q + i * t.dim + d, grad + d, k + low + d,
                              dq + i * t.dim + d, dk + low + d, dv + low + d);
            }
        }
    }
    give(t, head, dq, (float)t.scale, t.dq);
    give(t, head, dk, 1.f, t.dk);
    give(t, head, dv, 1.f, t.dv);
}

// Writes out and lse, or, where `pull` says so, the gradients dq, dk, dv. 0, or 1 where there was no
// memory.
extern "C" int genac_tree(const Tree *t, Int pull, Int threads) {
    size_t bytes = (6 * t->length * t->dim + 2 * (t->longest + 32)) * sizeof(float);
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        float *memory = (float *)aligned_alloc(64, (bytes + 63) / 64 * 64);
        failed = memory == nullptr;
#pragma omp for schedule(dynamic)
        for (Int head = 0; head < t->heads; head++)
            if (memory) (pull ? backward : forward)(*t, head, memory);
        free(memory);
    }
    return failed;
}
