// Vectors of eight floats, and what all inner loops do with them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "structs.h"

// aligned(4): loads and stores may fall on any float.
typedef float V __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t I __attribute__((vector_size(32), aligned(4), may_alias));

static inline V load(const float *p) { return *(const V *)p; }
static inline void store(float *p, V x) { *(V *)p = x; }
static inline V splat(float x) { return V{} + x; }

// Lane after lane: the order is part of the result.
static inline float sum(V x) {
    float total = 0;
    for (int i = 0; i < 8; i++) total += x[i];
    return total;
}

// 1 / sqrt(mean(x^2) + eps).
static inline float rmsnorm_scale(const float *x, Int size, double eps) {
    V squares = {};
    for (Int i = 0; i < size; i += 8) squares += load(x + i) * load(x + i);
    return 1.f / sqrtf(sum(squares) / size + (float)eps);
}

// exp of -87.3 to 88.3 by 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2], within 2 units in the
// last place; nonsense elsewhere.
static inline V vexp_inside(V x) {
    V shifted = x * 1.44269504f + 12582912.f;  // 1.5 * 2^23: the nearest integer is in the low bits
    V n = shifted - 12582912.f;
    V r = x - n * 0.693359375f + n * 2.12194440e-4f;  // ln 2 in two parts, the first without error
    V p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.f;
    return p * (V)(((I)shifted - 0x4B400000 + 127) << 23);  // 2^n, made as an exponent field
}

static inline V vexp(V x) {
    x = x < splat(-87.3f) ? splat(-87.3f) : x;
    x = x > splat(88.3f) ? splat(88.3f) : x;
    return vexp_inside(x);
}

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else  // older GCC has it under another name
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, I{__VA_ARGS__})
#endif

// Eight vectors as the rows of a square, transposed.
static inline void transpose(V *a) {
    V b[8];
    for (int i = 0; i < 8; i += 2) {
        b[i] = SHUFFLE(a[i], a[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        b[i + 1] = SHUFFLE(a[i], a[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            a[i + 2 * j] = SHUFFLE(b[i + j], b[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            a[i + 2 * j + 1] = SHUFFLE(b[i + j], b[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    for (int i = 0; i < 4; i++) {
        b[i] = SHUFFLE(a[i], a[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        b[i + 4] = SHUFFLE(a[i], a[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
    for (int i = 0; i < 8; i++) a[i] = b[i];
}
