/* The product of rows with a packed int8 weight: quantise the rows, sum in whole numbers, scale back; one pass over each.
 *
 * The inner dimension is cut into stretches of STRETCH elements, each with a scale for every row and for every channel. Sums
 * within a stretch are whole numbers below 2^24, which float32 holds exactly. A row's OUTLIERS largest elements are zeros in them
 * and are multiplied as they are, after the last stretch. What surrounds the sums is rounded one operation after the other (this
 * file is compiled without contraction), stretch after stretch. So the bits are those of any other way to compute it, on every
 * processor.
 */
#include <math.h>

#include "dot.h"
#include "product.h"

#define STRETCH 64 /* as in int8.py */
#define OUTLIERS 4 /* likewise */
#define STEPS (STRETCH / UNIT) /* of a stretch */
#define STEP (PANEL * UNIT) /* bytes of a weight's step */

/* What a stretch of a row was divided by, and what its sums begin with. */
struct factor {
    float scale;
    int32_t start;
};

/* An element that is multiplied as it is: 127 times its value, as the channels' scales are for that. */
struct outlier {
    float value;
    int32_t place;
};

/* A panel of the weight, from its first step on. */
struct panel {
    const int8_t *weight;
    const float *scale, *bias;
};

/* What is known of the rows that share a reading of the weight, beside their packed elements. */
struct rows {
    const struct factor *factors; /* [stretches][all] */
    const struct outlier *outliers; /* [OUTLIERS] of the first row, and so on */
    int64_t all;
};

INLINE int64_t steps_of(const struct product *p) { return (p->in + UNIT - 1) / UNIT; }

INLINE int64_t stretches_of(const struct product *p) { return (p->in + STRETCH - 1) / STRETCH; }

/* sums += whole * scale of the channels * scale of the row */
INLINE void add(float *sums, ivec whole, const float *scale, float factor) {
    *(vec *)sums += __builtin_convertvector(whole, vec) * *(const vec *)scale * factor;
}

/* sums += weight * scale * value of each outlier of a row; `w` and `scale` are of the whole panel */
INLINE void add_outliers(float *sums, const struct outlier *outliers, const int8_t *w, const float *scale) {
    for (int i = 0; i < OUTLIERS; i++) {
        const int64_t place = outliers[i].place;
        for (int half = 0; half < 2; half++) {
            const ivec weight = one_of(read_weights(w + place / UNIT * STEP + half * (STEP / 2)), place % UNIT);
            const vec step = *(const vec *)(scale + place / STRETCH * PANEL + half * LANES);
            *(vec *)(sums + half * LANES) += __builtin_convertvector(weight, vec) * step * outliers[i].value;
        }
    }
}

/* y = the sums of `rows` rows over some steps, for a panel of channels; not the `first` ones: y += these sums. Stretch i has
 * the scales [i][PANEL]. `panel` is the whole product's panel where these steps are the last, else null. */
INLINE void tile(const int rows, const int32_t *x, const int8_t *w, int64_t steps, struct ahead ahead, const float *scale,
                 struct rows of, float *y, int64_t stride, int64_t channels, int first, const struct panel *panel) {
    const struct factor *factors = of.factors;
    float sums[MOST][PANEL] = {0};
    const size_t width = smaller(channels, PANEL) * sizeof(float);
    if (!first)
        for (int r = 0; r < rows; r++)
            memcpy(sums[r], y + r * stride, width);
    for (int64_t from = 0; from < steps; from += STEPS, scale += PANEL, factors += of.all) {
        const int64_t stop = smaller(from + STEPS, steps);
        /* variables with names of their own, as the compiler would keep an array of them in memory */
#define BEGIN(n)                                                                                                               \
    ivec a##n, b##n;                                                                                                           \
    if (rows >= n)                                                                                                             \
        a##n = b##n = (ivec){0} + factors[n - 1].start;
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
            add_outliers(sums[r], of.outliers + r * OUTLIERS, panel->weight, panel->scale);
        for (int v = 0; panel && panel->bias && v < 2; v++)
            *(vec *)(sums[r] + v * LANES) += *(const vec *)(panel->bias + v * LANES);
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

/* The largest elements of a row, in falling order of size, the first ones where sizes are equal. */
static void find_outliers(const float *x, int64_t width, struct outlier *found) {
    float sizes[OUTLIERS];
    for (int i = 0; i < OUTLIERS; i++) {
        sizes[i] = -1;
        found[i] = (struct outlier){0, 0};
    }
    for (int64_t k = 0; k < width; k++) {
        const float size = fabsf(x[k]);
        if (!(size > sizes[OUTLIERS - 1]))
            continue;
        int i = OUTLIERS - 1;
        for (; i > 0 && size > sizes[i - 1]; i--) {
            sizes[i] = sizes[i - 1];
            found[i] = found[i - 1];
        }
        sizes[i] = size;
        found[i] = (struct outlier){x[k] * 127.0f, (int32_t)k};
    }
}

/* q = x * 127 / max|x|, to nearest, ties to even. The factor is no number where x is not finite. */
static struct factor quantise(const float *x, int8_t *q) {
    vec most = splat(1e-12f), strange = splat(0.0f);
    for (int i = 0; i < STRETCH; i += LANES) {
        const vec v = *(const vec *)(x + i), size = (vec)((ivec)v & INT32_MAX);
        most = choose(size > most, size, most);
        strange += v * 0.0f; /* 0, or not a number */
    }
    float largest = most[0], odd = strange[0];
    for (int lane = 1; lane < LANES; lane++) {
        largest = most[lane] > largest ? most[lane] : largest;
        odd += strange[lane];
    }
    const float factor = odd == 0 ? 127.0f / largest : 0.0f;
    int32_t sum = 0;
    for (int i = 0; i < STRETCH; i++) {
        const float scaled = odd == 0 ? x[i] * factor : 0.0f;
        q[i] = (int8_t)((scaled + 12582912.0f) - 12582912.0f); /* to nearest, as `whole` */
        sum += q[i];
    }
    return (struct factor){largest + odd, -WEIGHT_SHIFT * sum};
}

/* Rows of a group lie step by step, the rows of a step together, DEPTH steps after the other, as in float32. */
static void quantise_row(const float *x, const struct product *p, int32_t *packed, struct factor *factors,
                         struct outlier *outliers, struct groups g, int64_t row) {
    const int64_t group = group_of(g, row), from = group_start(g, group), rows = group_start(g, group + 1) - from;
    const int64_t all = steps_of(p);
    find_outliers(x, p->in, outliers);
    for (int64_t stretch = 0; stretch < stretches_of(p); stretch++) {
        const int64_t here = stretch * STRETCH;
        float rest[STRETCH] = {0};
        int8_t q[STRETCH];
        memcpy(rest, x + here, smaller(p->in - here, STRETCH) * sizeof(float));
        for (int i = 0; i < OUTLIERS; i++)
            if (outliers[i].place >= here && outliers[i].place < here + STRETCH)
                rest[outliers[i].place - here] = 0;
        factors[stretch * g.rows + row] = quantise(rest, q);
        const int64_t first = stretch * STEPS, start = first / DEPTH * DEPTH, steps = smaller(all - start, DEPTH);
        int32_t *out = packed + start * g.rows + from * steps + (first - start) * rows + row - from;
        for (int64_t k = 0; k < smaller(all - first, STEPS); k++)
            out[k * rows] = row_step(q + k * UNIT);
    }
}

/* Put an int8 weight [out][in] into panels, and scales [out][stretches] likewise. */
void pack_int8(const struct product *p, const int8_t *weight, const float *scale, int threads) {
    const int64_t steps = steps_of(p), stretches = stretches_of(p);
#pragma omp parallel for num_threads(threads)
    for (int64_t panel = 0; panel < panels_of(p); panel++)
        for (int64_t c = 0; c < PANEL; c++) {
            const int64_t channel = panel * PANEL + c;
            int8_t *packed = (int8_t *)p->weight + (panel * steps * PANEL + c) * UNIT;
            for (int64_t i = 0; i < UNIT * steps; i++) {
                const int8_t w = channel < p->out && i < p->in ? weight[channel * p->in + i] : 0;
                packed[i / UNIT * STEP + i % UNIT] = (int8_t)(w + WEIGHT_SHIFT);
            }
            for (int64_t i = 0; i < stretches; i++)
                ((float *)p->scale)[(panel * stretches + i) * PANEL + c] = channel < p->out ? scale[channel * stretches + i] : 0;
        }
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
