// The register tile of all products: decoding's, training's and those of attention.
//
// What stands on the right of a product lies in panels: PANEL columns side by side, one line of
// them per depth. A row's sums are taken in one order, whatever rows share its tile.
#pragma once

#include "vectors.h"

static const Int PANEL = 16, TILE = 6;  // columns and rows: 12 sums, which leave 4 registers of 16

static inline Int padded(Int n) { return (n + PANEL - 1) / PANEL * PANEL; }

#ifdef __AVX__
typedef V W;  // what a register holds: GCC keeps sums in wider vectors in memory
#else
typedef float W __attribute__((vector_size(16), aligned(4), may_alias));
#endif
static const int WIDTH = sizeof(W) / sizeof(float);

// acc (R, WIDTH N) += a b, with a (R, depth), or (depth, R) where it is `Transposed`, and
// b (depth, WIDTH N); `lda` and `ldb` lie between their lines.
template <bool Transposed, int R, int N>
static inline __attribute__((always_inline)) void multiply_add(W (&acc)[R][N], const float *a,
                                                               Int lda, const float *b, Int ldb,
                                                               Int depth) {
    const Int row = Transposed ? 1 : lda, step = Transposed ? lda : 1;
    for (Int k = 0; k < depth; k++, a += step, b += ldb) {
        W right[N];
        for (int j = 0; j < N; j++) right[j] = *(const W *)(b + WIDTH * j);
        for (int r = 0; r < R; r++) {
            float left = a[r * row];
            for (int j = 0; j < N; j++) acc[r][j] += left * right[j];
        }
    }
}

// y (R, 8 C) = a b + bias, which may be null; `add` adds to what stands there.
template <bool Transposed, int R, int C>
static inline void tile(const float *a, Int lda, const float *b, Int ldb, Int depth, float *y,
                        Int ldy, const float *bias, bool add) {
    const int N = 8 * C / WIDTH;
    W acc[R][N];
    for (int r = 0; r < R; r++)
        for (int j = 0; j < N; j++) {
            const float *from = add ? y + r * ldy : bias;
            acc[r][j] = from ? *(const W *)(from + WIDTH * j) : W{};
            if (add && bias) acc[r][j] += *(const W *)(bias + WIDTH * j);
        }
    multiply_add<Transposed>(acc, a, lda, b, ldb, depth);
    for (int r = 0; r < R; r++)
        for (int j = 0; j < N; j++) *(W *)(y + r * ldy + WIDTH * j) = acc[r][j];
}

// The same of up to TILE rows.
template <bool Transposed, int C>
static inline void tile_rows(Int rows, const float *a, Int lda, const float *b, Int ldb, Int depth,
                             float *y, Int ldy, const float *bias, bool add) {
    switch (rows) {
        case 1: return tile<Transposed, 1, C>(a, lda, b, ldb, depth, y, ldy, bias, add);
        case 2: return tile<Transposed, 2, C>(a, lda, b, ldb, depth, y, ldy, bias, add);
        case 3: return tile<Transposed, 3, C>(a, lda, b, ldb, depth, y, ldy, bias, add);
        case 4: return tile<Transposed, 4, C>(a, lda, b, ldb, depth, y, ldy, bias, add);
        case 5: return tile<Transposed, 5, C>(a, lda, b, ldb, depth, y, ldy, bias, add);
        default: return tile<Transposed, 6, C>(a, lda, b, ldb, depth, y, ldy, bias, add);
    }
}

// The same of any number of rows.
template <bool Transposed, int C>
static inline void tiles(Int rows, const float *a, Int lda, const float *b, Int ldb, Int depth,
                         float *y, Int ldy, const float *bias, bool add) {
    for (Int r = 0; r < rows; r += TILE)
        tile_rows<Transposed, C>(std::min(TILE, rows - r), a + (Transposed ? r : r * lda), lda, b,
                                 ldb, depth, y + r * ldy, ldy, bias, add);
}
