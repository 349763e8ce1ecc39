// Decoding and reading: many steps of many rows, or whole prompts, in one call. Rows are
// independent of each other, so a thread takes a few of them, whose keys and values fit into its
// cache, through all layers and steps, and waits for no other. A row's sums are taken in one order:
// its result does not depend on the other rows. Steps are what Cache.advance and Batch._write
// compute, reading is what Cache.admit does.
#include <vector>

#include "forward.h"
#include "parallel.h"

static bool contains(const Int *list, Int count, Int token) {
    for (Int i = 0; i < count; i++)
        if (list[i] == token) return true;
    return false;
}

// The token at which the cumulative distribution passes the row's uniform number, or the likeliest
// where the temperature is 0; with its log-probability and the entropy of the distribution that
// this refers to. Overwrites the logits by probabilities, and what pads them.
static Int sample(float *logits, Int vocab, float temperature, float uniform, float *logprob,
                  float *entropy) {
    Int best = 0;
    for (Int v = 1; v < vocab; v++)
        if (logits[v] > logits[best]) best = v;
    float max = logits[best], inv_temperature = temperature > 0 ? 1.f / temperature : 1.f;
    float total = 0;
    for (Int v = vocab; v % 8; v++) logits[v] = max;  // adds nothing to the entropy
    V weighted = {};
    for (Int v = 0; v < vocab; v += 8) {
        V power = (load(logits + v) - max) * inv_temperature, mass = vexp(power);
        store(logits + v, mass);
        weighted += mass * power;
    }
    for (Int v = 0; v < vocab; v++) total += logits[v];
    // A uniform number may round to 1; kept below the mass it cannot fall on a token of no mass.
    float goal = std::min(uniform * total, nextafterf(total, 0.f));
    Int token = 0;
    for (float mass = logits[0]; mass <= goal && token + 1 < vocab;) mass += logits[++token];
    if (temperature <= 0) token = best;
    float share = 1.f / total;
    *logprob = logf(logits[token] * share);
    *entropy = fmaxf(logf(total) - sum(weighted) * share, 0.f);  // of all mass on one token: 0
    for (Int v = 0; v < vocab; v++) logits[v] *= share;
    return token;
}

// Samples and records a row's next token; whether the row goes on.
static bool record(const DecoderModel &m, const DecoderBatch &b, Draws &d, Int row, float *logits,
                   std::atomic<Int> &bad) {
    Int n = d.live[row], at = d.length[n], place = n * d.width + at;
    float finite = 0;
    for (Int v = 0; v < m.vocab; v++) finite += logits[v];  // one NaN or infinity is enough
    if (!std::isfinite(finite)) {
        bad = row;
        return false;
    }
    Int token = sample(logits, m.vocab, d.temperature[n], d.uniform[place], d.logprobs + place,
                       d.entropies + place);
    for (Int w = 0; w < d.watched; w++)
        d.probabilities[place * d.watched + w] = logits[d.watch[n * d.watched + w]];
    const Int *line = d.line + n * d.lines;
    bool hit = contains(d.stop + n * d.stops, d.stops, token);
    hit |= at && contains(line, d.lines, d.tokens[place - 1]) && !contains(line, d.lines, token);
    d.tokens[place] = b.token[row] = token;
    d.length[n] = at + 1;
    d.stopped[n] |= hit;
    d.ended[row] = hit || at + 1 >= d.limit[n];
    return !d.ended[row];
}

// What the threads of a call share: the next row that none of them has taken, and a bad one.
struct Shared {
    std::atomic<Int> next{0}, bad{-1};
};

// Takes up to `together` rows at a time, and the next of them all in the place of one that is done.
static void decode_rows(const DecoderModel &m, const DecoderBatch &b, Draws *d, Int steps,
                        Int together, Shared &shared, float *memory) {
    Item item[DECODE_CHUNK], passed[DECODE_CHUNK];
    Int ldv = padded(m.vocab), count = 0;
    for (;;) {
        while (count < together) {
            Int row = shared.next++;
            if (row >= b.rows) break;
            if (!d || !d->ended[row])
                item[count++] = {row, b.length[row], b.token[row], true, true};
        }
        if (!count) return;
        memcpy(passed, item, count * sizeof(Item));  // forward overwrites what it is given
        float *logits = forward(m, b, passed, count, memory);
        Int going = 0;
        for (Int i = 0; i < count; i++) {
            Int row = item[i].row, slot = item[i].slot + 1;
            if (!d)
                memcpy(b.logits + row * m.vocab, logits + i * ldv, m.vocab * sizeof(float));
            else if (record(m, b, *d, row, logits + i * ldv, shared.bad) &&
                     slot < b.length[row] + steps)
                item[going++] = {row, slot, b.token[row], true, true};
        }
        count = going;
    }
}

// Runs body(memory) on every thread, with memory for `count` items each.
template <class Body>
static bool with_memory(const DecoderModel &m, const DecoderBatch &b, Int count, Int threads,
                        const Body &body) {
    std::atomic<bool> failed{false};
    parallel(threads, [&](Int) {
        float *memory = memory_for(forward_numbers(m, b, count));
        if (memory) body(memory);
        else failed = true;
        free(memory);
    });
    return !failed;
}

// Reads the newest token of every row, `together` rows at a time. Without `draws`: one step, and
// the logits of the next token. With them: up to `steps` steps of the rows that have not ended.
// 0, or 1 where there was no memory.
extern "C" int genac_decode(const DecoderModel *m, const DecoderBatch *b, Draws *d, Int steps,
                            Int together, Int threads) {
    together = std::min(together, DECODE_CHUNK);
    return status_of([&] {
        Shared shared;
        bool done = with_memory(*m, *b, together, threads, [&](float *memory) {
            decode_rows(*m, *b, d, steps, together, shared, memory);
        });
        if (d) d->bad = shared.bad;
        return done;
    });
}

// Passes texts `first` to `last` through the layers in chunks of about the same size.
static void read_texts(const DecoderModel &m, const DecoderBatch &b, const Texts &t, Int first,
                       Int last, float *memory) {
    Int tokens = t.start[last] - t.start[first];
    Int chunks = (tokens + DECODE_CHUNK - 1) / DECODE_CHUNK;
    Int size = chunks ? (tokens + chunks - 1) / chunks : 1, count = 0, ends = 0;
    Int text_of[DECODE_CHUNK];  // of the tokens that end a text
    Item item[DECODE_CHUNK];
    for (Int text = first; text < last; text++)
        for (Int i = t.start[text]; i < t.start[text + 1]; i++) {
            Int row = t.row[text], slot = b.length[row] + i - t.start[text];
            bool needs_logits = t.logits && i + 1 == t.start[text + 1];
            item[count++] = {row, slot, t.token[i], needs_logits, false};
            if (needs_logits) text_of[ends++] = text;
            if (count < size && i + 1 < t.start[last]) continue;
            float *logits = forward(m, b, item, count, memory);
            for (Int r = 0; r < ends; r++)
                memcpy(t.logits + text_of[r] * m.vocab, logits + r * padded(m.vocab),
                       m.vocab * sizeof(float));
            count = ends = 0;
        }
}

// Reads the texts, which leave their keys and values. 0, or 1 where there was no memory.
extern "C" int genac_read(const DecoderModel *m, const DecoderBatch *b, const Texts *t,
                          Int threads) {
    return status_of([&] {
        std::vector<Int> job = {0};  // as many texts as a chunk holds, or one that is longer
        for (Int i = 1; i < t->count; i++)
            if (t->start[i + 1] - t->start[job.back()] > DECODE_CHUNK) job.push_back(i);
        Int jobs = job.size();
        job.push_back(t->count);
        std::atomic<Int> next{0};
        return with_memory(*m, *b, DECODE_CHUNK, threads, [&](float *memory) {
            for (Int i; (i = next++) < jobs;) read_texts(*m, *b, *t, job[i], job[i + 1], memory);
        });
    });
}
