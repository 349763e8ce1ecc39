// Decoding: many steps of many rows in one call. A step is what Decoder.forward, Cache.advance and
// Batch._write compute, without some fifty small operations per layer. Rows are independent of each
// other, so a thread takes a few of them, whose keys and values fit into its cache, through all
// layers and steps, and waits for no other. A row's sums are taken in one order: its result does not
// depend on the rows beside it.
//
// Arrays are dense and row-major, dimensions as in cache.py and batch.py; weights stand in panels
// (native.py).
#include "vectors.h"

static const Int PANEL = 16, TILE = 6, CHUNK = 64;  // CHUNK: rows at most

struct Layer {
    const float *qkv, *qkv_bias, *qk_norm, *out, *out_bias, *gate_up, *down;
};

struct Model {
    Int layers, hidden, heads, kv_heads, dim, inner, vocab, activation;
    double eps;
    const float *embedding, *head, *turn;  // turn (position, 2, dim): cosines, signed sines
    const Layer *layer;
};

struct Batch {
    Int rows, capacity, at, trunks, trunk_capacity;
    float *own;                                  // (layer, 2, row, kv_head, capacity, dim)
    const float *trunk;                          // (layer, 2, trunk, kv_head, length, dim)
    const Int *pad, *shared, *trunk_of;          // per row; trunk_of may be null
    Int *token;                                  // per row: the newest, not read yet
    float *logits;                               // (row, vocab), where nothing is drawn
};

// What is drawn and when a row ends, by request; `live` has the request of each row.
struct Draws {
    Int width, stops, lines, watched;  // of the arrays below
    const Int *live, *limit, *stop, *line, *watch;
    const float *temperature, *uniform;
    Int *tokens, *length;
    float *logprobs, *entropies, *probabilities;
    uint8_t *stopped, *ended;  // ended: per row
    Int bad;                   // a row whose logits are not finite, or -1
};

static inline Int padded(Int n) { return (n + PANEL - 1) / PANEL * PANEL; }
static inline Int largest(Int a, Int b, Int c) { return a > b ? a > c ? a : c : b > c ? b : c; }
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

// y (R, PANEL) of one panel of weights; `add` adds to what stands there.
template <int R>
static inline void tile(const float *x, Int ldx, const float *w, Int depth, float *y, Int ldy,
                        const float *bias, bool add) {
    V acc[R][2];
    for (int r = 0; r < R; r++)
        for (int j = 0; j < 2; j++)
            acc[r][j] = add ? load(y + r * ldy + 8 * j) : bias ? load(bias + 8 * j) : V{};
    if (add && bias)
        for (int r = 0; r < R; r++)
            for (int j = 0; j < 2; j++) acc[r][j] += load(bias + 8 * j);
    for (Int k = 0; k < depth; k++) {
        V left = load(w + PANEL * k), right = load(w + PANEL * k + 8);
        for (int r = 0; r < R; r++) {
            float value = x[r * ldx + k];
            acc[r][0] += value * left;
            acc[r][1] += value * right;
        }
    }
    for (int r = 0; r < R; r++)
        for (int j = 0; j < 2; j++) store(y + r * ldy + 8 * j, acc[r][j]);
}

static void linear(const float *x, Int ldx, Int rows, const float *w, Int depth, Int width,
                   float *y, Int ldy, const float *bias, bool add) {
    for (Int n = 0; n < width; n += PANEL, w += PANEL * depth) {
        const float *b = bias ? bias + n : nullptr;
        for (Int r = 0; r < rows; r += TILE) {
            const float *xr = x + r * ldx;
            float *yr = y + r * ldy + n;
            switch (rows - r < TILE ? rows - r : TILE) {
                case 1: tile<1>(xr, ldx, w, depth, yr, ldy, b, add); break;
                case 2: tile<2>(xr, ldx, w, depth, yr, ldy, b, add); break;
                case 3: tile<3>(xr, ldx, w, depth, yr, ldy, b, add); break;
                case 4: tile<4>(xr, ldx, w, depth, yr, ldy, b, add); break;
                case 5: tile<5>(xr, ldx, w, depth, yr, ldy, b, add); break;
                default: tile<6>(xr, ldx, w, depth, yr, ldy, b, add);
            }
        }
    }
}

static inline float rms_scale(const float *x, Int size, double eps) {
    V squares = {};
    for (Int i = 0; i < size; i += 8) squares += load(x + i) * load(x + i);
    return 1.f / sqrtf(sum(squares) / size + (float)eps);
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

// One layer's attention of the listed rows at slot `at`: their new keys and values are stored, their
// queries read.
static void attention(const Model &m, const Batch &b, Int layer, const Int *list, Int rows, Int at,
                      float *qkv, Int ld, const float *qk_norm, float *scores, float *out,
                      Int ldo) {
    Int group = m.heads / m.kv_heads, line = b.capacity * m.dim;
    Int shared_line = b.trunk_capacity * m.dim;
    float *keys = b.own + layer * 2 * b.rows * m.kv_heads * line;
    float *values = keys + b.rows * m.kv_heads * line;
    Int trunk_size = b.trunks * m.kv_heads * shared_line;
    const float *trunk = b.trunk + (b.trunk ? layer * 2 * trunk_size : 0);
    // Heads outside: a trunk's keys of one head stay in cache while its rows read them.
    for (Int h = 0; h < m.kv_heads; h++)
        for (Int r = 0; r < rows; r++) {
            Int row = list[r], pad = b.pad[row], shared = b.trunk_of ? b.shared[row] : 0;
            const float *turn = m.turn + (b.shared[row] + at - pad) * 2 * m.dim;
            float *q = qkv + r * ld + h * group * m.dim;
            float *k = qkv + r * ld + (m.heads + h) * m.dim, *v = k + m.kv_heads * m.dim;
            for (Int g = 0; g < group; g++)
                turned(q + g * m.dim, qk_norm ? qk_norm + (h * group + g) * m.dim : nullptr, turn,
                       m.dim, m.eps);
            turned(k, qk_norm ? qk_norm + (m.heads + h) * m.dim : nullptr, turn, m.dim, m.eps);
            float *own_k = keys + (row * m.kv_heads + h) * line;
            float *own_v = values + (row * m.kv_heads + h) * line;
            memcpy(own_k + at * m.dim, k, m.dim * sizeof(float));
            memcpy(own_v + at * m.dim, v, m.dim * sizeof(float));
            Span spans[2] = {{trunk, trunk, 0},
                             {own_k + pad * m.dim, own_v + pad * m.dim, at + 1 - pad}};
            if (shared) {
                const float *from = trunk + (b.trunk_of[row] * m.kv_heads + h) * shared_line;
                spans[0] = {from, from + trunk_size, shared};
            }
            for (Int g = 0; g < group; g++)
                attended(q + g * m.dim, spans, m.dim, scores,
                         out + r * ldo + (h * group + g) * m.dim);
        }
}

// Logits (rows, padded vocab) behind the newest tokens of the listed rows, which move to slot `at`.
static float *forward(const Model &m, const Batch &b, const Int *list, Int rows, Int at,
                      float *memory) {
    Int width = padded(m.hidden), heads = (m.heads + 2 * m.kv_heads) * m.dim;
    Int ldq = padded(heads), ldo = padded(m.heads * m.dim), ldg = padded(2 * m.inner);
    float *x = memory, *y = x + rows * width, *wide = y + rows * (width > ldo ? width : ldo);
    float *scores = wide + rows * largest(ldq, ldg, padded(m.vocab));
    for (Int r = 0; r < rows; r++)
        memcpy(x + r * width, m.embedding + b.token[list[r]] * m.hidden, m.hidden * sizeof(float));
    for (Int l = 0; l < m.layers; l++) {
        const Layer &w = m.layer[l];
        normed(x, y, rows, width, m.hidden, m.eps);
        linear(y, width, rows, w.qkv, m.hidden, heads, wide, ldq, w.qkv_bias, false);
        attention(m, b, l, list, rows, at, wide, ldq, w.qk_norm, scores, y, ldo);
        linear(y, ldo, rows, w.out, m.heads * m.dim, m.hidden, x, width, w.out_bias, true);
        normed(x, y, rows, width, m.hidden, m.eps);
        linear(y, width, rows, w.gate_up, m.hidden, 2 * m.inner, wide, ldg, nullptr, false);
        for (Int r = 0; r < rows; r++) {
            float *gate = wide + r * ldg;
            for (Int i = 0; i < m.inner; i += 8)
                store(gate + i, activated(load(gate + i), m.activation) * load(gate + m.inner + i));
        }
        linear(wide, ldg, rows, w.down, m.inner, m.hidden, x, width, nullptr, true);
    }
    normed(x, y, rows, width, m.hidden, m.eps);
    linear(y, width, rows, m.head, m.hidden, m.vocab, wide, padded(m.vocab), nullptr, false);
    return wide;
}

static bool holds(const Int *list, Int count, Int token) {
    for (Int i = 0; i < count; i++)
        if (list[i] == token) return true;
    return false;
}

// The token at which the cumulative distribution passes the row's uniform number, or the likeliest
// where the temperature is 0; with its log-probability and the entropy of the distribution that this
// refers to. Overwrites the logits by probabilities, and what pads them.
static Int drawn(float *logits, Int vocab, float temperature, float uniform, float *logprob,
                 float *entropy) {
    Int best = 0;
    for (Int v = 1; v < vocab; v++)
        if (logits[v] > logits[best]) best = v;
    float most = logits[best], heat = temperature > 0 ? 1.f / temperature : 1.f, total = 0;
    for (Int v = vocab; v % 8; v++) logits[v] = most;  // adds nothing to the entropy
    V weighed = {};
    for (Int v = 0; v < vocab; v += 8) {
        V power = (load(logits + v) - most) * heat, mass = vexp(power);
        store(logits + v, mass);
        weighed += mass * power;
    }
    for (Int v = 0; v < vocab; v++) total += logits[v];
    // A uniform number may round to 1; kept below the mass it cannot fall on a token of no mass.
    float below = nextafterf(total, 0.f), goal = uniform * total < below ? uniform * total : below;
    Int token = 0;
    for (float mass = logits[0]; mass <= goal && token + 1 < vocab;) mass += logits[++token];
    if (temperature <= 0) token = best;
    float share = 1.f / total;
    *logprob = logf(logits[token] * share);
    *entropy = fmaxf(logf(total) - sum(weighed) * share, 0.f);  // of all mass on one token: 0
    for (Int v = 0; v < vocab; v++) logits[v] *= share;
    return token;
}

// Draws and records a row's next token; whether the row goes on.
static bool written(const Model &m, const Batch &b, Draws &d, Int row, float *logits) {
    Int n = d.live[row], at = d.length[n], place = n * d.width + at;
    float finite = 0;
    for (Int v = 0; v < m.vocab; v++) finite += logits[v];
    if (!std::isfinite(finite)) {
#pragma omp atomic write
        d.bad = row;
        return false;
    }
    Int token = drawn(logits, m.vocab, d.temperature[n], d.uniform[place], d.logprobs + place,
                      d.entropies + place);
    for (Int w = 0; w < d.watched; w++)
        d.probabilities[place * d.watched + w] = logits[d.watch[n * d.watched + w]];
    const Int *line = d.line + n * d.lines;
    bool hit = holds(d.stop + n * d.stops, d.stops, token);
    hit |= at && holds(line, d.lines, d.tokens[place - 1]) && !holds(line, d.lines, token);
    d.tokens[place] = b.token[row] = token;
    d.length[n] = at + 1;
    d.stopped[n] |= hit;
    d.ended[row] = hit || at + 1 >= d.limit[n];
    return !d.ended[row];
}

static void decode(const Model &m, const Batch &b, Draws *d, Int first, Int rows, Int steps,
                   float *memory) {
    Int list[CHUNK], ldv = padded(m.vocab), count = 0;
    for (Int row = first; row < first + rows; row++)
        if (!d || !d->ended[row]) list[count++] = row;
    for (Int step = 0; step < steps && count; step++) {
        float *logits = forward(m, b, list, count, b.at + step, memory);
        Int kept = 0;
        for (Int r = 0; r < count; r++)
            if (!d)
                memcpy(b.logits + list[r] * m.vocab, logits + r * ldv, m.vocab * sizeof(float));
            else if (written(m, b, *d, list[r], logits + r * ldv))
                list[kept++] = list[r];
        if (d) count = kept;
    }
}

// Reads the newest token of every row, `together` rows at a time. Without `draws`: one step, and the
// logits of the next token. With them: up to `steps` steps of the rows that have not ended.
// 0, or 1 where there was no memory.
extern "C" int genac_decode(const Model *m, const Batch *b, Draws *d, Int steps, Int together,
                            Int threads) {
    if (together > CHUNK) together = CHUNK;
    Int wide = largest(padded((m->heads + 2 * m->kv_heads) * m->dim), padded(2 * m->inner),
                       padded(m->vocab));
    Int narrow = 2 * padded(m->hidden) + padded(m->heads * m->dim);
    Int scores = b->capacity + b->trunk_capacity + 16;
    size_t bytes = (together * (narrow + wide) + scores) * sizeof(float);
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        float *memory = (float *)aligned_alloc(64, (bytes + 63) / 64 * 64);
        failed = memory == nullptr;
#pragma omp for schedule(dynamic)
        for (Int first = 0; first < b->rows; first += together) {
            Int rows = b->rows - first < together ? b->rows - first : together;
            if (memory) decode(*m, *b, d, first, rows, d ? steps : 1, memory);
        }
        free(memory);
    }
    return failed;
}
