// Attention over packed trees, forward and backward: every token reads the part of the prefix that
// its segment has seen, and its segment up to itself (models/packed/attention.py).
//
// Queries go in blocks of LANES, neighbours in the row, transposed so that a vector holds one number
// of eight queries: a softmax over keys is then no sum across a vector, a key is read where it
// stands, and a mask is a comparison. The query heads of one key head are neighbours too, and a
// block may hold the end of one segment and the start of the next. KEYS keys at a time stay in the
// cache, with their gradients, while the blocks that see them pass by.
//
// Threads divide the key heads and the families of segments (no other reads their tokens). None of
// these sums depends on another, or on the number of threads.
#include "parallel.h"
#include "tile.h"

static const Int LANES = 16, KEYS = 96, AHEAD = 16;  // AHEAD: rows
static const float NONE = -1e30f;  // the maximum of no scores; -INFINITY less itself is a NaN
static const V ONES[2] = {V{} + 1.f, V{} + 1.f};

struct Range {
    Int from, to;
};

// Its length, up to a full tile.
static Int tiled(Range r) { return (r.to - r.from + TILE - 1) / TILE * TILE; }
static bool within(Int x, Range r) { return x >= r.from && x < r.to; }
static Range intersection(Range a, Range b) {
    return {std::max(a.from, b.from), std::min(a.to, b.to)};
}
static Range hull(Range a, Range b) {  // of those that are not empty
    if (a.from >= a.to) return b;
    if (b.from >= b.to) return a;
    return {std::min(a.from, b.from), std::max(a.to, b.to)};
}

struct Block {
    I own[2][2], prefix[2][2];                     // by query: the keys from [0] and before [1]
    Range some_own, some_prefix, all_own, all_prefix;  // around what some, within what all see
    V max[2], mass[2];  // forward: the largest score and the sum of weights; backward: lse, delta
    float *q, *q_t, *grad, *grad_t;  // (LANES, dim); (dim, LANES); backward: the output's
    float *sum;                      // (dim, LANES): weighted values; backward: gradients of q
};

// The tokens of a family and the queries of one key head there: those of a token side by side.
struct HeadTask {
    const Tree &t;
    Int head, group;
    Range tokens;
    const Segment *first;
    Int queries() const { return (tokens.to - tokens.from) * group; }
};

// Where a query stands.
struct QueryPos {
    const HeadTask &task;
    Int token, head;
    QueryPos(const HeadTask &p, Int query) : task(p) {
        token = p.tokens.from + query / p.group;
        head = p.head * p.group + query % p.group;
    }
    float *row(const TokenRows &x) const { return x.at + token * x.step + head * task.t.dim; }
    float &lse() const { return task.t.lse[token * task.t.heads + head]; }
    void next() {
        if (++head == (task.head + 1) * task.group) head -= task.group, token++;
    }
};

// What one thread works in.
struct Memory {
    Block *blocks;
    float *lines, *k, *v, *dk, *dv;  // lines (LANES, dim); the others (KEYS + TILE, dim)
    float *p, *ds;                   // weights, gradients of scores: (KEYS + TILE, LANES)
};

// c (R, 8 C) = a b plus, with `rest`, c times that, which has a number per column.
template <bool Transposed, int R, int C>
static inline void tile_scaled(const float *a, Int lda, const float *b, Int ldb, Int depth,
                               float *c, Int ldc, const V *rest) {
    const int N = 8 * C / WIDTH;
    W acc[R][N] = {};
    multiply_add<Transposed>(acc, a, lda, b, ldb, depth);
    for (int r = 0; r < R; r++)
        for (int j = 0; j < N; j++) {
            W *to = (W *)(c + r * ldc + WIDTH * j);
            *to = rest ? *to * ((const W *)rest)[j] + acc[r][j] : acc[r][j];
        }
}

// out (count, LANES) = x (count, dim) times y_t (dim, LANES). All counts: up to a full tile.
static void qk_scores(const float *x, Int count, Int dim, const float *y_t, float *out) {
    for (Int n = 0; n < count; n += TILE)
        tile_scaled<false, TILE, 2>(x + n * dim, dim, y_t, LANES, dim, out + n * LANES, LANES,
                                    nullptr);
}

// out (dim, LANES) = rest (LANES) times out, plus x (count, dim) transposed times weights (count,
// LANES).
static void pv_accumulate(const float *x, Int count, Int dim, const float *weights, const V *rest,
                          float *out) {
    for (Int d = 0; d < dim;) {
        float *to = out + d * LANES;
        bool high = (dim - d) % TILE == 0;  // tiles of 4 until the others fill the rest
        if (high)
            tile_scaled<true, TILE, 2>(x + d, dim, weights, LANES, count, to, LANES, rest);
        else
            tile_scaled<true, 4, 2>(x + d, dim, weights, LANES, count, to, LANES, rest);
        d += high ? TILE : 4;
    }
}

// Gradients of keys or values: out (count, dim) += weights (count, LANES) times x (LANES, dim).
static void kv_grad(const float *weights, Int count, Int dim, const float *x, float *out) {
    for (Int n = 0; n < count; n += TILE) {
        const float *a = weights + n * LANES;
        float *to = out + n * dim;
        Int d = 0;
        for (; d + 16 <= dim; d += 16)
            tile_scaled<false, TILE, 2>(a, LANES, x + d, dim, LANES, to + d, dim, ONES);
        if (d < dim) tile_scaled<false, TILE, 1>(a, LANES, x + d, dim, LANES, to + d, dim, ONES);
    }
}

// to (columns, rows) = x (rows, columns) transposed.
static void transpose(const float *x, Int rows, Int columns, float *to) {
    for (Int r = 0; r < rows; r += 8)
        for (Int c = 0; c < columns; c += 8) {
            V square[8];
            for (int i = 0; i < 8; i++) square[i] = load(x + (r + i) * columns + c);
            transpose(square);
            for (int i = 0; i < 8; i++) store(to + (c + i) * rows + r, square[i]);
        }
}

// A row of x. Of rows that are `step` apart the processor does not foresee the next one, so it is
// prefetched.
static void copy_row(const float *x, Int step, Int dim, float factor, float *to) {
    for (Int d = 0; d < dim; d += 8) {
        if (step) __builtin_prefetch(x + AHEAD * step + d);
        store(to + d, load(x + d) * factor);
    }
}

// What the queries from `query` on see, as ranges of keys; `at` is the segment of the first and
// becomes that of the last. Places behind the last query of all see what it sees.
static void find_visible(const HeadTask &task, Int query, const Segment *&at, Block &b) {
    QueryPos place(task, query);
    for (int lane = 0; lane < LANES; lane++, place.next()) {
        Int token = std::min(place.token, task.tokens.to - 1);
        while (token >= at->start + at->length) at++;
        Range own = {at->start, token + 1}, prefix = {at->prefix, at->prefix + at->shared};
        int j = lane / 8, i = lane % 8;
        b.own[0][j][i] = (int32_t)own.from, b.own[1][j][i] = (int32_t)own.to;
        b.prefix[0][j][i] = (int32_t)prefix.from, b.prefix[1][j][i] = (int32_t)prefix.to;
        b.some_own = lane ? hull(b.some_own, own) : own;
        b.some_prefix = lane ? hull(b.some_prefix, prefix) : prefix;
        b.all_own = lane ? intersection(b.all_own, own) : own;
        b.all_prefix = lane ? intersection(b.all_prefix, prefix) : prefix;
    }
}

// Scores become -INFINITY where a query does not see the key, and behind the last key up to a full
// tile.
static void mask(const Block &b, Range keys, float *scores) {
    for (Int i = keys.from; i < keys.from + tiled(keys); i++, scores += LANES) {
        if (i < keys.to && (within(i, b.all_own) || within(i, b.all_prefix))) continue;
        I at = I{} + (int32_t)(i < keys.to ? i : INT32_MAX);
        for (int j = 0; j < 2; j++) {
            I own = (at >= b.own[0][j]) & (at < b.own[1][j]);
            I prefix = (at >= b.prefix[0][j]) & (at < b.prefix[1][j]);
            store(scores + 8 * j, (own | prefix) ? load(scores + 8 * j) : splat(-INFINITY));
        }
    }
}

// exp of what is at most 0 but for rounding; 0 where that has no more digits, and of -INFINITY.
static inline V weight_of(V x) { return x <= splat(-87.f) ? V{} : vexp_inside(x); }

// A block reads some keys of the row; the first stands at place n of the memory.
static void attend_fwd(Block &b, const Memory &m, Int dim, Range keys, Int n) {
    V rest[2];
    Int count = tiled(keys);
    qk_scores(m.k + n * dim, count, dim, b.q_t, m.p);
    mask(b, keys, m.p);
    for (int j = 0; j < 2; j++) {
        float *p = m.p + 8 * j;
        V max = b.max[j], mass = {};
        for (Int i = 0; i < count * LANES; i += LANES)
            max = load(p + i) > max ? load(p + i) : max;
        for (Int i = 0; i < count * LANES; i += LANES) {
            V weight = weight_of(load(p + i) - max);
            store(p + i, weight);
            mass += weight;
        }
        rest[j] = vexp(b.max[j] - max);
        b.max[j] = max;
        b.mass[j] = b.mass[j] * rest[j] + mass;
    }
    pv_accumulate(m.v + n * dim, count, dim, m.p, rest, b.sum);
}

// The same backward: what flows through these keys, to them and to the block.
static void attend_bwd(Block &b, const Memory &m, Int dim, Range keys, Int n) {
    Int count = tiled(keys);
    qk_scores(m.k + n * dim, count, dim, b.q_t, m.p);
    qk_scores(m.v + n * dim, count, dim, b.grad_t, m.ds);
    mask(b, keys, m.p);
    for (Int i = 0; i < count * LANES; i += LANES)
        for (int j = 0; j < 2; j++) {
            float *p = m.p + i + 8 * j, *ds = m.ds + i + 8 * j;
            V weight = weight_of(load(p) - b.max[j]);
            store(p, weight);
            store(ds, weight * (load(ds) - b.mass[j]));
        }
    kv_grad(m.p, count, dim, b.grad, m.dv + n * dim);
    kv_grad(m.ds, count, dim, b.q, m.dk + n * dim);
    pv_accumulate(m.k + n * dim, count, dim, m.ds, ONES, b.sum);
}

// The rows in x of `count` queries from a place on, times a factor; zeros behind them.
static void load_rows(QueryPos at, const TokenRows &x, Int count, float factor, float *to) {
    Int dim = at.task.t.dim;
    for (Int i = 0; i < count; i++, at.next())
        copy_row(at.row(x), x.step, dim, factor, to + i * dim);
    memset(to + count * dim, 0, (LANES - count) * dim * sizeof(float));
}

// A block and the keys in memory: those of the prefix and its own, in one go where they meet.
static void visit_keys(Block &b, const Memory &m, Int dim, Range keys, bool backward) {
    Range own = intersection(b.some_own, keys), prefix = intersection(b.some_prefix, keys);
    if (own.from < prefix.to + TILE) own = hull(own, prefix), prefix = {0, 0};
    Range parts[2] = {prefix, own};
    for (Range some : parts)
        if (some.from < some.to)
            (backward ? attend_bwd : attend_fwd)(b, m, dim, some, some.from - keys.from);
}

static void begin_block(QueryPos at, Int count, const Memory &m, bool backward, Block &b) {
    const Tree &t = at.task.t;
    for (int j = 0; j < 2; j++) b.max[j] = splat(backward ? 0.f : NONE), b.mass[j] = V{};
    if (!backward) b.q = m.lines;  // needed no longer once it is transposed
    load_rows(at, t.q, count, t.scale, b.q);
    transpose(b.q, LANES, t.dim, b.q_t);
    if (backward) {
        load_rows(at, t.grad, count, 1.f, b.grad);
        transpose(b.grad, LANES, t.dim, b.grad_t);
        load_rows(at, t.out, count, 1.f, m.lines);
        transpose(m.lines, LANES, t.dim, b.sum);
        for (Int i = 0; i < t.dim * LANES; i += 8)
            b.mass[i / 8 % 2] += load(b.grad_t + i) * load(b.sum + i);
        for (Int i = 0; i < count; i++, at.next()) b.max[i / 8][i % 8] = at.lse();
    }
    memset(b.sum, 0, LANES * t.dim * sizeof(float));
}

static void end_block(QueryPos at, Int count, const Memory &m, bool backward, Block &b) {
    const Tree &t = at.task.t;
    transpose(b.sum, t.dim, LANES, m.lines);
    for (Int i = 0; i < count; i++, at.next()) {
        float mass = b.mass[i / 8][i % 8], factor = backward ? (float)t.scale : 1.f / mass;
        copy_row(m.lines + i * t.dim, 0, t.dim, factor, at.row(backward ? t.dq : t.out));
        if (!backward) at.lse() = b.max[i / 8][i % 8] + logf(mass);
    }
}

static void attend(const HeadTask &task, Memory &m, bool backward) {
    const Tree &t = task.t;
    Int queries = task.queries(), dim = t.dim, shift = task.head * dim;
    const Segment *at = task.first;
    for (Int i = 0; i < queries; i += LANES) {
        find_visible(task, i, at, m.blocks[i / LANES]);
        begin_block({task, i}, std::min(LANES, queries - i), m, backward, m.blocks[i / LANES]);
    }
    for (Int from = task.tokens.from; from < task.tokens.to; from += KEYS) {
        Range keys = {from, std::min(from + KEYS, task.tokens.to)};
        memset(m.k, 0, (backward ? 4 : 2) * (KEYS + TILE) * dim * sizeof(float));
        for (Int i = from; i < keys.to; i++) {
            copy_row(t.k.at + i * t.k.step + shift, t.k.step, dim, 1.f, m.k + (i - from) * dim);
            copy_row(t.v.at + i * t.v.step + shift, t.v.step, dim, 1.f, m.v + (i - from) * dim);
        }
        for (Int i = 0; i < queries; i += LANES)
            visit_keys(m.blocks[i / LANES], m, dim, keys, backward);
        for (Int i = from; backward && i < keys.to; i++) {
            copy_row(m.dk + (i - from) * dim, 0, dim, 1.f, t.dk.at + i * t.dk.step + shift);
            copy_row(m.dv + (i - from) * dim, 0, dim, 1.f, t.dv.at + i * t.dv.step + shift);
        }
    }
    for (Int i = 0; i < queries; i += LANES)
        end_block({task, i}, std::min(LANES, queries - i), m, backward, m.blocks[i / LANES]);
}

static HeadTask task_of(const Tree &t, Int number) {
    const Int *family = t.family + number / t.kv_heads;
    const Segment *first = t.segment + family[0], *last = t.segment + family[1] - 1;
    Range tokens = {first->start, last->start + last->length};
    return {t, number % t.kv_heads, t.heads / t.kv_heads, tokens, first};
}

// Memory for tasks of at most `blocks` blocks; false where there is none.
static bool allocate(Memory &m, Int blocks, Int dim, bool backward) {
    Int rows = LANES * dim, arrays = backward ? 5 : 2, keys = KEYS + TILE;
    Int numbers = (blocks * arrays + 1) * rows + keys * (4 * dim + 2 * LANES);
    m.blocks = (Block *)calloc(blocks, sizeof(Block));
    m.lines = (float *)aligned_alloc(64, (numbers * sizeof(float) + 63) / 64 * 64);
    if (!m.blocks || !m.lines) return false;
    m.k = m.lines + rows, m.v = m.k + keys * dim, m.dk = m.v + keys * dim, m.dv = m.dk + keys * dim;
    m.p = m.dv + keys * dim, m.ds = m.p + keys * LANES;
    float *at = m.ds + keys * LANES;
    for (Int i = 0; i < blocks; i++, at += arrays * rows) {
        Block &b = m.blocks[i];
        b.q_t = at, b.sum = at + rows;
        if (backward) b.q = at + 2 * rows, b.grad = at + 3 * rows, b.grad_t = at + 4 * rows;
    }
    return true;
}

// Writes out and lse, or, where `backward` says so, the gradients dq, dk, dv. 0, or 1 where there
// was no memory.
extern "C" int genac_tree(const Tree *t, Int backward, Int threads) {
    Int tasks = t->families * t->kv_heads, blocks = 1;
    for (Int i = 0; i < tasks; i += t->kv_heads)
        blocks = std::max(blocks, (task_of(*t, i).queries() + LANES - 1) / LANES);
    std::atomic<Int> next{0};
    std::atomic<bool> failed{false};
    return status_of([&] {
        parallel(std::min(threads, tasks), [&](Int) {
            Memory m;
            if (allocate(m, blocks, t->dim, backward))
                for (Int i; (i = next++) < tasks;) attend(task_of(*t, i), m, backward);
            else
                failed = true;
            free(m.lines);
            free(m.blocks);
        });
        return !failed;
    });
}
