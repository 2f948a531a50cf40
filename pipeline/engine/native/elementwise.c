/* What surrounds the products: activations, and the scaling of rows for int8. One pass over memory each, a row to a thread.
 *
 * An element's value depends on it (and its row) alone, so a row has the same bits in every batch.
 */
/* a product and a sum are rounded apart, as torch does it, so that int8 has the same bits with and without this file */
#pragma GCC optimize("fp-contract=off")

#include <math.h>
#include <string.h>

#include "vector.h"

enum { GELU_TANH, SILU };

/* x / (1 + exp(-z)), without overflow */
INLINE vec gated(vec x, vec z) {
    vec e = exponential((vec)((ivec)z | INT32_MIN)); /* exp(-|z|) */
    return x * choose(z >= splat(0.0f), splat(1.0f), e) / (e + 1.0f);
}

INLINE vec activation(vec x, int kind) {
    if (kind == SILU)
        return gated(x, x);
    /* tanh(u) = 2 / (1 + exp(-2u)) - 1, so that 0.5 x (1 + tanh(u)) is x / (1 + exp(-2u)) */
    return gated(x, x * (x * x * 0.044715f + 1.0f) * 1.5957691216057308f);
}

INLINE void activate_kind(const float *x, float *y, int64_t width, int kind) {
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES)
        *(vec *)(y + i) = activation(*(const vec *)(x + i), kind);
    if (i < width) {
        vec rest = {0};
        memcpy(&rest, x + i, (width - i) * sizeof(float));
        rest = activation(rest, kind);
        memcpy(y + i, &rest, (width - i) * sizeof(float));
    }
}

CLONES static void activate_row(const float *x, float *y, int64_t width, int kind) {
    if (kind == SILU)
        activate_kind(x, y, width, SILU);
    else
        activate_kind(x, y, width, GELU_TANH);
}

/* q = x * 127 / max|x|, to nearest, shifted by 128; returns max|x|, or no number if x has something that is not finite */
CLONES static float quantise_row(const float *x, uint8_t *q, int64_t width) {
    vec most = {0}, strange = {0};
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) {
        vec a = (vec)(*(const ivec *)(x + i) & INT32_MAX);
        most = choose(a > most, a, most);
        strange += a * 0.0f; /* 0, or not a number */
    }
    float top = 1e-12f, odd = 0;
    for (int lane = 0; lane < LANES; lane++) {
        top = most[lane] > top ? most[lane] : top;
        odd += strange[lane];
    }
    for (; i < width; i++) {
        top = fabsf(x[i]) > top ? fabsf(x[i]) : top;
        odd += x[i] * 0.0f;
    }
    const float factor = 127.0f / top;
    for (i = 0; i + LANES <= width; i += LANES) {
        ivec n = __builtin_convertvector(whole(*(const vec *)(x + i) * factor), ivec) + 128;
        *(byte16 *)(q + i) = __builtin_convertvector(n, byte16);
    }
    for (; i < width; i++)
        q[i] = (uint8_t)((int)nearbyintf(x[i] * factor) + 128);
    return top + odd;
}

/* y = y * factor + bias */
CLONES static void finish_row(float *y, float factor, const float *bias, int64_t width) {
    for (int64_t i = 0; i < width; i++)
        y[i] = bias ? y[i] * factor + bias[i] : y[i] * factor;
}

void activate(const float *x, float *y, int64_t rows, int64_t width, int kind, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++)
        activate_row(x + row * width, y + row * width, width, kind);
}

void quantise(const float *x, uint8_t *q, float *largest, int64_t rows, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++)
        largest[row] = quantise_row(x + row * width, q + row * width, width);
}

void finish(float *y, const float *factors, const float *bias, int64_t rows, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++)
        finish_row(y + row * width, factors[row], bias, width);
}
