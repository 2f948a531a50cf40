/* What both products of rows with a packed int8 weight share: how rows are quantised, how a weight lies, what follows the sums.
 *
 * The inner dimension is cut into stretches of STRETCH elements, each with a scale for every row and for every channel. Sums
 * within a stretch are whole numbers below 2^24, which float32 holds exactly. A row's OUTLIERS largest elements are zeros in them
 * and are multiplied as they are, after the last stretch. What surrounds the sums is rounded one operation after the other (the
 * files are compiled without contraction), stretch after stretch. So the bits are those of any other way to compute it, on every
 * processor.
 */
#ifndef PROMPTMILL_INT8_H
#define PROMPTMILL_INT8_H

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

INLINE int64_t stretches_of(const struct product *p) { return (p->in + STRETCH - 1) / STRETCH; }

/* sums += whole * scale of the channels * scale of the row */
INLINE void add(float *sums, ivec whole, const float *scale, float factor) {
    *(vec *)sums += __builtin_convertvector(whole, vec) * *(const vec *)scale * factor;
}

/* sums += weight * scale * value of each outlier of a row; `w` and `scale` are of the whole panel */
INLINE void add_outliers(float *sums, const struct outlier *outliers, const int8_t *w, const float *scale) {
    for (int i = 0; i < OUTLIERS; i++) {
        const uint32_t place = outliers[i].place;
        for (int half = 0; half < 2; half++) {
            const ivec weight = one_of(read_weights(w + place / UNIT * STEP + half * (STEP / 2)), place % UNIT);
            const vec step = *(const vec *)(scale + place / STRETCH * PANEL + half * LANES);
            *(vec *)(sums + half * LANES) += __builtin_convertvector(weight, vec) * step * outliers[i].value;
        }
    }
}

/* What comes after the last stretch of a row: its outliers, then the bias. */
INLINE void finish(float *sums, const struct outlier *outliers, const struct panel *panel) {
    add_outliers(sums, outliers, panel->weight, panel->scale);
    for (int v = 0; panel->bias && v < 2; v++)
        *(vec *)(sums + v * LANES) += *(const vec *)(panel->bias + v * LANES);
}

/* Put x[k] among the largest elements so far, if it is one. */
INLINE void compare(const float *x, int64_t k, float sizes[OUTLIERS], struct outlier *found) {
    const float size = fabsf(x[k]);
    if (!(size > sizes[OUTLIERS - 1]))
        return;
    int i = OUTLIERS - 1;
    for (; i > 0 && size > sizes[i - 1]; i--) {
        sizes[i] = sizes[i - 1];
        found[i] = found[i - 1];
    }
    sizes[i] = size;
    found[i] = (struct outlier){x[k] * 127.0f, (int32_t)k};
}

/* The largest elements of a row, in falling order of size, the first ones where sizes are equal. */
static void find_outliers(const float *x, int64_t width, struct outlier *found) {
    float sizes[OUTLIERS];
    for (int i = 0; i < OUTLIERS; i++) {
        sizes[i] = -1;
        found[i] = (struct outlier){0, 0};
    }
    int64_t k = 0;
    for (; k + WIDTH <= width; k += WIDTH) { /* few elements of a row are among the largest: look at many at once */
        ivec larger = {0};
        for (int v = 0; v < VECTORS; v++)
            larger |= (vec)(*(const ivec *)(x + k + v * LANES) & INT32_MAX) > splat(sizes[OUTLIERS - 1]);
        for (int i = 0; any(larger) && i < WIDTH; i++)
            compare(x, k + i, sizes, found);
    }
    for (; k < width; k++)
        compare(x, k, sizes, found);
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

/* A stretch of row x as whole numbers, without the row's outliers. */
static struct factor quantise_stretch(const struct product *p, const float *x, int64_t stretch, const struct outlier *outliers,
                                      int8_t *q) {
    const int64_t here = stretch * STRETCH;
    float rest[STRETCH];
    if (p->in - here >= STRETCH) {
        memcpy(rest, x + here, sizeof rest);
    } else {
        memset(rest, 0, sizeof rest);
        memcpy(rest, x + here, (p->in - here) * sizeof(float));
    }
    for (int i = 0; i < OUTLIERS; i++)
        if (outliers[i].place >= here && outliers[i].place < here + STRETCH)
            rest[outliers[i].place - here] = 0;
    return quantise(rest, q);
}

/* Element `i` of a weight of float32, or of bfloat16, which is the upper half of one. */
INLINE float element(const void *weight, int64_t i, const int halved) {
    const uint32_t upper = halved ? (uint32_t)((const uint16_t *)weight)[i] << 16 : 0;
    float x;
    memcpy(&x, halved ? (const void *)&upper : (const float *)weight + i, sizeof x);
    return x;
}

/* x [STRETCH][PANEL] = a stretch of `count` channels of a weight, from element `first` on; what is not there is zero. */
INLINE void read_stretch(const void *weight, const int halved, int64_t first, int64_t out_stride, int64_t in_stride,
                         int64_t count, int64_t width, float x[STRETCH][PANEL]) {
    memset(x, 0, STRETCH * PANEL * sizeof(float));
    if (out_stride == 1)
        for (int64_t k = 0; k < width; k++)
            for (int64_t c = 0; c < count; c++)
                x[k][c] = element(weight, first + k * in_stride + c, halved);
    else
        for (int64_t c = 0; c < count; c++)
            for (int64_t k = 0; k < width; k++)
                x[k][c] = element(weight, first + c * out_stride + k * in_stride, halved);
}

/* x = x / step in whole numbers, where a channel's step is its largest |x| / 127; its scale is for rows of 127 steps, too, and no
 * number where an element is not finite. */
INLINE void quantise_channels(float x[STRETCH][PANEL], float *scale) {
    for (int v = 0; v < 2; v++) {
        vec most = splat(1e-12f), strange = splat(0.0f);
        for (int k = 0; k < STRETCH; k++) {
            const vec w = *(vec *)(x[k] + v * LANES), size = (vec)((ivec)w & INT32_MAX);
            most = choose(size > most, size, most);
            strange += w * 0.0f; /* 0, or not a number */
        }
        const vec step = most / 127.0f;
        for (int k = 0; k < STRETCH; k++)
            *(vec *)(x[k] + v * LANES) = whole(*(vec *)(x[k] + v * LANES) / step);
        *(vec *)(scale + v * LANES) = step / 127.0f + strange;
    }
}

/* Quantise a weight [out][in] with any strides, and put it into panels of `steps` steps, its scales likewise. */
INLINE void pack_panels(const struct product *p, const void *weight, int64_t out_stride, int64_t in_stride, int64_t steps,
                        int threads) {
    const int64_t stretches = stretches_of(p);
#pragma omp parallel for num_threads(threads)
    for (int64_t panel = 0; panel < panels_of(p); panel++)
        for (int64_t i = 0; i < stretches; i++) {
            const int64_t from = i * STRETCH, count = smaller(p->out - panel * PANEL, PANEL);
            const int64_t first = panel * PANEL * out_stride + from * in_stride, width = smaller(p->in - from, STRETCH);
            float x[STRETCH][PANEL], *scale = (float *)p->scale + (panel * stretches + i) * PANEL;
            if (p->halved)
                read_stretch(weight, 1, first, out_stride, in_stride, count, width, x);
            else
                read_stretch(weight, 0, first, out_stride, in_stride, count, width, x);
            quantise_channels(x, scale);
            memset(scale + count, 0, (PANEL - count) * sizeof(float));
            int8_t *packed = (int8_t *)p->weight + (panel * steps + from / UNIT) * STEP;
            for (int64_t k = 0; k < smaller(steps * UNIT - from, STRETCH); k++)
                for (int64_t c = 0; c < PANEL; c++)
                    packed[k / UNIT * STEP + c * UNIT + k % UNIT] = (int8_t)((int32_t)x[k][c] + WEIGHT_SHIFT);
        }
}

#endif
