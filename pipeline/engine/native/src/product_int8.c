/* The product of rows with a packed int8 weight: quantise the rows, sum in whole numbers, scale back; one pass over each. */
#include "tiles.h"

#ifndef TILES
#include "int8.h"

INLINE int64_t steps_of(const struct product *p) { return (p->in + UNIT - 1) / UNIT; }

/* y = the sums of `rows` rows over some steps, for a panel of channels; not the `first` ones: y += these sums. Stretch i has
 * the scales [i][PANEL]. `panel` is the whole product's panel where these steps are the last, else null. */
INLINE void tile(const int rows, const int32_t *x, const int8_t *w, int64_t steps, struct ahead ahead, const float *scale,
                 struct rows of, float *y, int64_t stride, int64_t channels, int first, const struct panel *panel) {
    const struct factor *factors = of.factors;
    float sums[MOST][PANEL] = {0};
    const size_t width = smaller(channels, PANEL) * sizeof(float);
    prefetch_rows(rows, y, stride);
    if (!first)
        for (int r = 0; r < rows; r++)
            memcpy(sums[r], y + r * stride, width);
    for (int64_t from = 0; from < steps; from += STEPS, scale += PANEL, factors += of.all) {
        const int64_t stop = smaller(from + STEPS, steps);
        /* variables with names of their own, as the compiler would keep an array of them in memory */
#define BEGIN(n)                                                                                                               \
    ivec a##n, b##n;                                                                                                           \
    if (rows >= n)                                                                                                             \
        a##n = b##n = WEIGHT_SHIFT ? repeat(factors[n - 1].start) : (ivec){0};
#define MULTIPLY(n)                                                                                                            \
    if (rows >= n) {                                                                                                           \
        const quads row = repeat(step[n - 1]);                                                                         \
        ADD_PRODUCTS(a##n, w0, row);                                                                                           \
        ADD_PRODUCTS(b##n, w1, row);                                                                                           \
    }
#define END(n)                                                                                                                 \
    if (rows >= n) {                                                                                                           \
        add(sums[n - 1], a##n, scale, factors[n - 1].scale);                                                                   \
        add(sums[n - 1] + LANES, b##n, scale + LANES, factors[n - 1].scale);                                                   \
    }
#define ADD_STEP(k)                                                                                                            \
    const quads w0 = read_weights(w + (k) * STEP), w1 = read_weights(w + (k) * STEP + STEP / 2);                               \
    const int32_t *step = x + (k) * rows;                                                                                      \
    EACH_ROW(MULTIPLY)
        EACH_ROW(BEGIN)
        int64_t k = from;
        for (; k + UNROLL <= stop; k += UNROLL) {
            prefetch(ahead, k / UNROLL);
#pragma GCC unroll 8
            for (int i = 0; i < UNROLL; i++) {
                ADD_STEP(k + i)
            }
        }
        for (; k < stop; k++) {
            ADD_STEP(k)
        }
        EACH_ROW(END)
    }
    for (int r = 0; r < rows; r++) {
        if (panel)
            finish(sums[r], of.outliers + r * OUTLIERS, panel);
        memcpy(y + r * stride, sums[r], width);
    }
}

static void any_tile(int rows, const int32_t *x, const int8_t *w, int64_t steps, struct ahead ahead, const float *scale,
                     struct rows of, float *y, int64_t stride, int64_t channels, int first, const struct panel *panel) {
    switch (rows) {
#define ROWS(n)                                                                                                                \
    case n:                                                                                                                    \
        if (n <= MOST)                                                                                                         \
            tile(n, x, w, steps, ahead, scale, of, y, stride, channels, first, panel);                                         \
        break;
        EACH_ROW(ROWS)
    }
}

/* Rows of a group lie step by step, the rows of a step together, DEPTH steps after the other, as in float32. */
static void quantise_row(const float *x, const struct product *p, int32_t *packed, struct factor *factors,
                         struct outlier *outliers, struct groups g, int64_t row) {
    const int64_t group = group_of(g, row), from = group_start(g, group), rows = group_start(g, group + 1) - from;
    const int64_t all = steps_of(p);
    find_outliers(x, p->in, outliers);
    for (int64_t stretch = 0; stretch < stretches_of(p); stretch++) {
        int8_t q[STRETCH];
        factors[stretch * g.rows + row] = quantise_stretch(p, x, stretch, outliers, q);
        const int64_t first = stretch * STEPS, start = first / DEPTH * DEPTH, steps = smaller(all - start, DEPTH);
        int32_t *out = packed + start * g.rows + from * steps + (first - start) * rows + row - from;
        for (int64_t k = 0; k < smaller(all - first, STEPS); k++)
            out[k * rows] = row_step(q + k * UNIT);
    }
}

void pack_int8(const struct product *p, const void *weight, int64_t out_stride, int64_t in_stride, int threads) {
    pack_panels(p, weight, out_stride, in_stride, steps_of(p), threads);
}

/* `packed` is room for 4 bytes for every step of a row, `factors` for a factor for every stretch of one. */
void product_int8(const struct product *p, const float *x, int64_t rows, float *y, int32_t *packed, struct factor *factors,
                  struct outlier *outliers, int threads) {
    const struct groups g = cut(rows, MOST);
    const int64_t all = steps_of(p), stretches = stretches_of(p);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++)
            quantise_row(x + row * p->in, p, packed, factors, outliers + row * OUTLIERS, g, row);
#pragma omp for schedule(guided)
        for (int64_t i = 0; i < panels_of(p); i++) {
            const int64_t channel = i * PANEL;
            const struct panel panel = {(const int8_t *)p->weight + i * all * STEP, p->scale + i * stretches * PANEL,
                                        p->bias ? p->bias + channel : 0};
            for (int64_t start = 0; start < all; start += DEPTH) {
                const int64_t steps = smaller(all - start, DEPTH);
                const int8_t *weight = panel.weight + start * STEP;
                const float *scale = panel.scale + start / STEPS * PANEL;
                for (int64_t group = 0; group < g.count; group++) {
                    const int64_t from = group_start(g, group);
                    const struct rows of = {factors + start / STEPS * rows + from, outliers + from * OUTLIERS, rows};
                    any_tile(group_start(g, group + 1) - from, packed + start * rows + from * steps, weight, steps,
                             look_ahead(weight + steps * STEP, STEP, steps, g, group), scale, of,
                             y + from * p->out + channel, p->out, p->out - channel, start == 0,
                             start + steps == all ? &panel : 0);
                }
            }
        }
    }
}
#endif
