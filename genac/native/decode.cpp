// Decoding and reading: many steps of many rows, or whole prompts, in one call. Rows are
// independent of each other, so a thread takes a few of them, whose keys and values fit into its
// cache, through all layers and steps, and waits for no other. A row's sums are taken in one order:
// its result does not depend on the rows beside it. Steps are what Cache.advance and Batch._write
// compute, reading is what Cache.admit does.
#include <vector>

#include "forward.h"

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

// Prompts to be read behind what their rows hold.
struct Texts {
    Int count;
    const Int *row, *start, *token;  // text i: token[start[i]] to token[start[i + 1] - 1]
    float *logits;                   // (text, vocab) of what follows, or null
};

static bool holds(const Int *list, Int count, Int token) {
    for (Int i = 0; i < count; i++)
        if (list[i] == token) return true;
    return false;
}

// The token at which the cumulative distribution passes the row's uniform number, or the likeliest
// where the temperature is 0; with its log-probability and the entropy of the distribution that
// this refers to. Overwrites the logits by probabilities, and what pads them.
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

// Takes up to `together` rows at a time, and the next of them all in the place of one that is done.
static void decode(const Model &m, const Batch &b, Draws *d, Int steps, Int together, Int *next,
                   float *memory) {
    Item item[CHUNK], passed[CHUNK];
    Int ldv = padded(m.vocab), count = 0;
    for (;;) {
        while (count < together) {
            Int row;
#pragma omp atomic capture
            row = (*next)++;
            if (row >= b.rows) break;
            if (!d || !d->ended[row])
                item[count++] = {row, b.length[row], b.token[row], true, true};
        }
        if (!count) return;
        memcpy(passed, item, count * sizeof(Item));
        float *logits = forward(m, b, passed, count, memory);
        Int on = 0;
        for (Int i = 0; i < count; i++) {
            Int row = item[i].row, slot = item[i].slot + 1;
            if (!d)
                memcpy(b.logits + row * m.vocab, logits + i * ldv, m.vocab * sizeof(float));
            else if (written(m, b, *d, row, logits + i * ldv) && slot < b.length[row] + steps)
                item[on++] = {row, slot, b.token[row], true, true};
        }
        count = on;
    }
}

// Reads the newest token of every row, `together` rows at a time. Without `draws`: one step, and
// the logits of the next token. With them: up to `steps` steps of the rows that have not ended.
// 0, or 1 where there was no memory.
extern "C" int genac_decode(const Model *m, const Batch *b, Draws *d, Int steps, Int together,
                            Int threads) {
    if (together > CHUNK) together = CHUNK;
    int failed = 0;
    Int next = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        float *memory = memory_for(needed(*m, *b, together));
        failed = memory == nullptr;
        if (memory) decode(*m, *b, d, steps, together, &next, memory);
        free(memory);
    }
    return failed;
}

// Passes texts `first` to `last` through the layers in chunks of about the same size.
static void read_texts(const Model &m, const Batch &b, const Texts &t, Int first, Int last,
                       float *memory) {
    Int tokens = t.start[last] - t.start[first], parts = (tokens + CHUNK - 1) / CHUNK;
    Int size = parts ? (tokens + parts - 1) / parts : 1, count = 0, asked[CHUNK], wanted = 0;
    Item item[CHUNK];
    for (Int text = first; text < last; text++)
        for (Int i = t.start[text]; i < t.start[text + 1]; i++) {
            Int row = t.row[text], slot = b.length[row] + i - t.start[text];
            bool ask = t.logits && i + 1 == t.start[text + 1];
            item[count++] = {row, slot, t.token[i], ask, false};
            if (ask) asked[wanted++] = text;
            if (count < size && i + 1 < t.start[last]) continue;
            float *logits = forward(m, b, item, count, memory);
            for (Int r = 0; r < wanted; r++)
                memcpy(t.logits + asked[r] * m.vocab, logits + r * padded(m.vocab),
                       m.vocab * sizeof(float));
            count = wanted = 0;
        }
}

// Reads the texts, which leave their keys and values. 0, or 1 where there was no memory.
extern "C" int genac_read(const Model *m, const Batch *b, const Texts *t, Int threads) {
    std::vector<Int> job = {0};  // as many texts as a chunk holds, or one that is longer
    for (Int i = 1; i < t->count; i++)
        if (t->start[i + 1] - t->start[job.back()] > CHUNK) job.push_back(i);
    Int jobs = job.size();
    job.push_back(t->count);
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        float *memory = memory_for(needed(*m, *b, CHUNK));
        failed = memory == nullptr;
#pragma omp for schedule(dynamic)
        for (Int i = 0; i < jobs; i++)
            if (memory) read_texts(*m, *b, *t, job[i], job[i + 1], memory);
        free(memory);
    }
    return failed;
}
