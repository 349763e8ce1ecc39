// Attention over packed trees, forward and backward: every token reads the part of the trunk that
// its stretch has seen, and its stretch up to itself (models/tree_attention.py).
//
// Queries go in blocks of LANES, neighbours in the row, turned so that a vector holds one number of
// eight queries: a softmax over keys is then no sum across a vector, a key is read where it stands,
// and a mask is a comparison. The query heads of one key head are neighbours too, and a block may
// hold the end of one stretch and the start of the next. KEYS keys at a time stay in the cache,
// with their gradients, while the blocks that see them pass by.
//
// Threads divide the key heads and the families of stretches (no other reads their tokens). None of
// these sums depends on another, or on the number of threads.
#include "vectors.h"

static const Int LANES = 16, KEYS = 96, AHEAD = 16;  // AHEAD: rows
static const int HIGH = 6;         // rows of a tile of products
static const float NONE = -1e30f;  // the maximum of no scores
static const V ONES[2] = {V{} + 1.f, V{} + 1.f};

struct Stretch {
    Int start, length, trunk, shared;
};

struct Rows {  // (token, head, dim): heads side by side, tokens `step` numbers apart
    float *at;
    Int step;
};

struct Tree {
    Int heads, kv_heads, dim, families;
    const Int *family;  // the first stretch of each, and the number of stretches
    const Stretch *stretch;
    double scale;
    float *lse;  // (token, head)
    Rows q, k, v, out, grad, dq, dk, dv;
};

struct Range {
    Int from, to;
};

static Int least(Int a, Int b) { return a < b ? a : b; }
static Int largest(Int a, Int b) { return a > b ? a : b; }
static Int tiled(Range r) { return (r.to - r.from + HIGH - 1) / HIGH * HIGH; }  // up to a full tile
static bool within(Int x, Range r) { return x >= r.from && x < r.to; }
static Range both(Range a, Range b) { return {largest(a.from, b.from), least(a.to, b.to)}; }
static Range around(Range a, Range b) {  // of those that are not empty
    if (a.from >= a.to) return b;
    if (b.from >= b.to) return a;
    return {least(a.from, b.from), largest(a.to, b.to)};
}

struct Block {
    I own[2][2], trunk[2][2];                     // by query: the keys from [0] and before [1]
    Range some_own, some_trunk, all_own, all_trunk;  // around what some, within what all see
    V most[2], mass[2];  // forward: the largest score and the sum of weights; backward: lse, delta
    float *q, *turned_q, *grad, *turned_grad;  // (LANES, dim); (dim, LANES); backward: the output's
    float *sum;  // (dim, LANES): weighed values, or what moves the queries
};

// The tokens of a family and the queries of one key head there: those of a token side by side.
struct Part {
    const Tree &t;
    Int head, group;
    Range tokens;
    const Stretch *first;
    Int queries() const { return (tokens.to - tokens.from) * group; }
};

// Where a query stands.
struct Place {
    const Part &part;
    Int token, head;
    Place(const Part &p, Int query) : part(p) {
        token = p.tokens.from + query / p.group;
        head = p.head * p.group + query % p.group;
    }
    float *row(const Rows &x) const { return x.at + token * x.step + head * part.t.dim; }
    float &lse() const { return part.t.lse[token * part.t.heads + head]; }
    void next() {
        if (++head == (part.head + 1) * part.group) head -= part.group, token++;
    }
};

// What one thread works in.
struct Memory {
    Block *blocks;
    float *lines, *k, *v, *dk, *dv;  // lines (LANES, dim); the others (KEYS + HIGH, dim)
    float *p, *ds;                   // weights and what pulls at scores: (KEYS + HIGH, LANES)
};

#ifdef __AVX__
typedef V W;  // what a register holds: GCC keeps sums in wider vectors in memory
#else
typedef float W __attribute__((vector_size(16), aligned(4), may_alias));
#endif
static const int WIDTH = sizeof(W) / sizeof(float);

// c (R, 8 B) = a (R, depth) times b (depth, 8 B), plus, with `rest`, c times that, which has a
// number per column. Numbers of a are `row` and `step` apart.
template <int R, int B>
static inline void tile(const float *a, Int row, Int step, const float *b, Int ldb, Int depth,
                        float *c, Int ldc, const V *rest) {
    const int N = 8 * B / WIDTH;
    W acc[R][N] = {};
    for (Int s = 0; s < depth; s++) {
        W x[N];
        for (int j = 0; j < N; j++) x[j] = *(const W *)(b + s * ldb + WIDTH * j);
        for (int r = 0; r < R; r++)
            for (int j = 0; j < N; j++) acc[r][j] += a[r * row + s * step] * x[j];
    }
    for (int r = 0; r < R; r++)
        for (int j = 0; j < N; j++) {
            W *to = (W *)(c + r * ldc + WIDTH * j);
            *to = rest ? *to * ((const W *)rest)[j] + acc[r][j] : acc[r][j];
        }
}

// out (count, LANES) = x (count, dim) times turned (dim, LANES). All counts: up to a full tile.
static void against(const float *x, Int count, Int dim, const float *turned, float *out) {
    for (Int n = 0; n < count; n += HIGH)
        tile<HIGH, 2>(x + n * dim, dim, 1, turned, LANES, dim, out + n * LANES, LANES, nullptr);
}

// out (dim, LANES) = rest (LANES) times out, plus x (count, dim) transposed times weights (count,
// LANES).
static void gathered(const float *x, Int count, Int dim, const float *weights, const V *rest,
                     float *out) {
    for (Int d = 0; d < dim;) {
        float *to = out + d * LANES;
        bool high = (dim - d) % HIGH == 0;
        if (high)
            tile<HIGH, 2>(x + d, 1, dim, weights, LANES, count, to, LANES, rest);
        else
            tile<4, 2>(x + d, 1, dim, weights, LANES, count, to, LANES, rest);
        d += high ? HIGH : 4;
    }
}

// out (count, dim) += weights (count, LANES) times x (LANES, dim).
static void spread(const float *weights, Int count, Int dim, const float *x, float *out) {
    for (Int n = 0; n < count; n += HIGH) {
        const float *a = weights + n * LANES;
        float *to = out + n * dim;
        Int d = 0;
        for (; d + 16 <= dim; d += 16)
            tile<HIGH, 2>(a, LANES, 1, x + d, dim, LANES, to + d, dim, ONES);
        if (d < dim) tile<HIGH, 1>(a, LANES, 1, x + d, dim, LANES, to + d, dim, ONES);
    }
}

// to (columns, rows) = x (rows, columns) transposed.
static void turn(const float *x, Int rows, Int columns, float *to) {
    for (Int r = 0; r < rows; r += 8)
        for (Int c = 0; c < columns; c += 8) {
            V square[8];
            for (int i = 0; i < 8; i++) square[i] = load(x + (r + i) * columns + c);
            transpose(square);
            for (int i = 0; i < 8; i++) store(to + (c + i) * rows + r, square[i]);
        }
}

// A row of x. Of rows that are `step` apart the processor does not foresee the next: it is told.
static void copy(const float *x, Int step, Int dim, float factor, float *to) {
    for (Int d = 0; d < dim; d += 8) {
        if (step) __builtin_prefetch(x + AHEAD * step + d);
        store(to + d, load(x + d) * factor);
    }
}

// What the queries from `query` on see; `at` is the stretch of the first and becomes that of the
// last. Places behind the last query of all see what it sees.
static void look(const Part &part, Int query, const Stretch *&at, Block &b) {
    Place place(part, query);
    for (int lane = 0; lane < LANES; lane++, place.next()) {
        Int token = least(place.token, part.tokens.to - 1);
        while (token >= at->start + at->length) at++;
        Range own = {at->start, token + 1}, trunk = {at->trunk, at->trunk + at->shared};
        int j = lane / 8, i = lane % 8;
        b.own[0][j][i] = (int32_t)own.from, b.own[1][j][i] = (int32_t)own.to;
        b.trunk[0][j][i] = (int32_t)trunk.from, b.trunk[1][j][i] = (int32_t)trunk.to;
        b.some_own = lane ? around(b.some_own, own) : own;
        b.some_trunk = lane ? around(b.some_trunk, trunk) : trunk;
        b.all_own = lane ? both(b.all_own, own) : own;
        b.all_trunk = lane ? both(b.all_trunk, trunk) : trunk;
    }
}

// Scores become -inf where a query does not see the key, and behind the last key up to a full tile.
static void hide(const Block &b, Range keys, float *scores) {
    for (Int i = keys.from; i < keys.from + tiled(keys); i++, scores += LANES) {
        if (i < keys.to && (within(i, b.all_own) || within(i, b.all_trunk))) continue;
        I at = I{} + (int32_t)(i < keys.to ? i : INT32_MAX);
        for (int j = 0; j < 2; j++) {
            I own = (at >= b.own[0][j]) & (at < b.own[1][j]);
            I trunk = (at >= b.trunk[0][j]) & (at < b.trunk[1][j]);
            store(scores + 8 * j, (own | trunk) ? load(scores + 8 * j) : splat(-INFINITY));
        }
    }
}

// exp of what is hardly above 0, and 0 where it has no more digits.
static inline V weight_of(V x) { return x <= splat(-87.f) ? V{} : vexp_inside(x); }

// A block reads some keys of the row; the first stands at place n of the memory.
static void collect(Block &b, const Memory &m, Int dim, Range keys, Int n) {
    V rest[2];
    Int count = tiled(keys);
    against(m.k + n * dim, count, dim, b.turned_q, m.p);
    hide(b, keys, m.p);
    for (int j = 0; j < 2; j++) {
        float *p = m.p + 8 * j;
        V most = b.most[j], mass = {};
        for (Int i = 0; i < count * LANES; i += LANES)
            most = load(p + i) > most ? load(p + i) : most;
        for (Int i = 0; i < count * LANES; i += LANES) {
            V weight = weight_of(load(p + i) - most);
            store(p + i, weight);
            mass += weight;
        }
        rest[j] = vexp(b.most[j] - most);
        b.most[j] = most;
        b.mass[j] = b.mass[j] * rest[j] + mass;
    }
    gathered(m.v + n * dim, count, dim, m.p, rest, b.sum);
}

// The same backward: what flows through these keys, to them and to the block.
static void pull(Block &b, const Memory &m, Int dim, Range keys, Int n) {
    Int count = tiled(keys);
    against(m.k + n * dim, count, dim, b.turned_q, m.p);
    against(m.v + n * dim, count, dim, b.turned_grad, m.ds);
    hide(b, keys, m.p);
    for (Int i = 0; i < count * LANES; i += LANES)
        for (int j = 0; j < 2; j++) {
            float *p = m.p + i + 8 * j, *ds = m.ds + i + 8 * j;
            V weight = weight_of(load(p) - b.most[j]);
            store(p, weight);
            store(ds, weight * (load(ds) - b.mass[j]));
        }
    spread(m.p, count, dim, b.grad, m.dv + n * dim);
    spread(m.ds, count, dim, b.q, m.dk + n * dim);
    gathered(m.k + n * dim, count, dim, m.ds, ONES, b.sum);
}

// Rows of x of `count` queries from a place on, times a factor; zeros behind them.
static void take(Place at, const Rows &x, Int count, float factor, float *to) {
    Int dim = at.part.t.dim;
    for (Int i = 0; i < count; i++, at.next()) copy(at.row(x), x.step, dim, factor, to + i * dim);
    memset(to + count * dim, 0, (LANES - count) * dim * sizeof(float));
}

// A block and the keys in memory: those of the trunk and its own, in one go where they meet.
static void meet(Block &b, const Memory &m, Int dim, Range keys, bool backward) {
    Range own = both(b.some_own, keys), trunk = both(b.some_trunk, keys);
    if (own.from < trunk.to + HIGH) own = around(own, trunk), trunk = {0, 0};
    Range parts[2] = {trunk, own};
    for (Range some : parts)
        if (some.from < some.to)
            (backward ? pull : collect)(b, m, dim, some, some.from - keys.from);
}

static void begin(Place at, Int count, const Memory &m, bool backward, Block &b) {
    const Tree &t = at.part.t;
    for (int j = 0; j < 2; j++) b.most[j] = splat(backward ? 0.f : NONE), b.mass[j] = V{};
    if (!backward) b.q = m.lines;  // needed no longer once it is turned
    take(at, t.q, count, t.scale, b.q);
    turn(b.q, LANES, t.dim, b.turned_q);
    if (backward) {
        take(at, t.grad, count, 1.f, b.grad);
        turn(b.grad, LANES, t.dim, b.turned_grad);
        take(at, t.out, count, 1.f, m.lines);
        turn(m.lines, LANES, t.dim, b.sum);
        for (Int i = 0; i < t.dim * LANES; i += 8)
            b.mass[i / 8 % 2] += load(b.turned_grad + i) * load(b.sum + i);
        for (Int i = 0; i < count; i++, at.next()) b.most[i / 8][i % 8] = at.lse();
    }
    memset(b.sum, 0, LANES * t.dim * sizeof(float));
}

static void end(Place at, Int count, const Memory &m, bool backward, Block &b) {
    const Tree &t = at.part.t;
    turn(b.sum, t.dim, LANES, m.lines);
    for (Int i = 0; i < count; i++, at.next()) {
        float mass = b.mass[i / 8][i % 8], factor = backward ? (float)t.scale : 1.f / mass;
        copy(m.lines + i * t.dim, 0, t.dim, factor, at.row(backward ? t.dq : t.out));
        if (!backward) at.lse() = b.most[i / 8][i % 8] + logf(mass);
    }
}

static void attend(const Part &part, Memory &m, bool backward) {
    const Tree &t = part.t;
    Int queries = part.queries(), dim = t.dim, shift = part.head * dim;
    const Stretch *at = part.first;
    for (Int i = 0; i < queries; i += LANES) {
        look(part, i, at, m.blocks[i / LANES]);
        begin({part, i}, least(LANES, queries - i), m, backward, m.blocks[i / LANES]);
    }
    for (Int from = part.tokens.from; from < part.tokens.to; from += KEYS) {
        Range keys = {from, least(from + KEYS, part.tokens.to)};
        memset(m.k, 0, (backward ? 4 : 2) * (KEYS + HIGH) * dim * sizeof(float));
        for (Int i = from; i < keys.to; i++) {
            copy(t.k.at + i * t.k.step + shift, t.k.step, dim, 1.f, m.k + (i - from) * dim);
            copy(t.v.at + i * t.v.step + shift, t.v.step, dim, 1.f, m.v + (i - from) * dim);
        }
        for (Int i = 0; i < queries; i += LANES)
            meet(m.blocks[i / LANES], m, dim, keys, backward);
        for (Int i = from; backward && i < keys.to; i++) {
            copy(m.dk + (i - from) * dim, 0, dim, 1.f, t.dk.at + i * t.dk.step + shift);
            copy(m.dv + (i - from) * dim, 0, dim, 1.f, t.dv.at + i * t.dv.step + shift);
        }
    }
    for (Int i = 0; i < queries; i += LANES)
        end({part, i}, least(LANES, queries - i), m, backward, m.blocks[i / LANES]);
}

static Part part_of(const Tree &t, Int number) {
    const Int *family = t.family + number / t.kv_heads;
    const Stretch *first = t.stretch + family[0], *last = t.stretch + family[1] - 1;
    Range tokens = {first->start, last->start + last->length};
    return {t, number % t.kv_heads, t.heads / t.kv_heads, tokens, first};
}

// Memory for parts of at most `blocks` blocks; false where there is none.
static bool made(Memory &m, Int blocks, Int dim, bool backward) {
    Int rows = LANES * dim, arrays = backward ? 5 : 2, keys = KEYS + HIGH;
    Int numbers = (blocks * arrays + 1) * rows + keys * (4 * dim + 2 * LANES);
    m.blocks = (Block *)calloc(blocks, sizeof(Block));
    m.lines = (float *)aligned_alloc(64, (numbers * sizeof(float) + 63) / 64 * 64);
    if (!m.blocks || !m.lines) return false;
    m.k = m.lines + rows, m.v = m.k + keys * dim, m.dk = m.v + keys * dim, m.dv = m.dk + keys * dim;
    m.p = m.dv + keys * dim, m.ds = m.p + keys * LANES;
    float *at = m.ds + keys * LANES;
    for (Int i = 0; i < blocks; i++, at += arrays * rows) {
        Block &b = m.blocks[i];
        b.turned_q = at, b.sum = at + rows;
        if (backward) b.q = at + 2 * rows, b.grad = at + 3 * rows, b.turned_grad = at + 4 * rows;
    }
    return true;
}

// Writes out and lse, or, where `backward` says so, the gradients dq, dk, dv. 0, or 1 where there
// was no memory.
extern "C" int genac_tree(const Tree *t, Int backward, Int threads) {
    int failed = 0;
    Int parts = t->families * t->kv_heads, blocks = 1;
    for (Int i = 0; i < parts; i += t->kv_heads)
        blocks = largest(blocks, (part_of(*t, i).queries() + LANES - 1) / LANES);
#pragma omp parallel num_threads(least(threads, parts)) reduction(| : failed)
    {
        Memory m;
        bool ready = made(m, blocks, t->dim, backward);
        failed = !ready;
#pragma omp for schedule(dynamic)
        for (Int i = 0; i < parts; i++)
            if (ready) attend(part_of(*t, i), m, backward);
        free(m.lines);
        free(m.blocks);
    }
    return failed;
}
