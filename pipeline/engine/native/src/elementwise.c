/* Activations: one pass over memory, a row to a thread.
 *
 * An element's value depends on it alone, so a row has the same bits in every batch.
 */
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

static void activate_row(const float *x, float *y, int64_t width, int kind) {
    if (kind == SILU)
        activate_kind(x, y, width, SILU);
    else
        activate_kind(x, y, width, GELU_TANH);
}

void activate(const float *x, float *y, int64_t rows, int64_t width, int kind, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++)
        activate_row(x + row * width, y + row * width, width, kind);
}
