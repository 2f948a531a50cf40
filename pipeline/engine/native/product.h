/* How the products cut their work, so that float32 and int8 do it alike.
 *
 * A packed weight lies in panels of PANEL output channels, in a panel step by step along the inner dimension. A step is one
 * inner element in float32 and four in int8: 4 bytes either way. Rows are packed likewise, in groups that share a reading of
 * the weight. Which rows are in a group, and which thread does a panel, changes no sum.
 */
#ifndef PROMPTMILL_PRODUCT_H
#define PROMPTMILL_PRODUCT_H

#include <string.h>

#include "vector.h"

#define PANEL 32
#define DEPTH 512 /* steps that are done for all groups before the next ones: their weights stay in the core's own cache */
#define EACH_ROW(DO) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13) DO(14)

/* A layer: y [rows][out] = x [rows][in] . weight + bias. */
struct product {
    const void *weight;   /* packed */
    const float *bias;    /* [panels][PANEL], or null */
    const float *scale;   /* int8: of each channel, likewise */
    const int32_t *start; /* int8: what the sums begin with, likewise */
    int64_t in, out;
};

/* How `rows` rows are cut into groups of `most` at the most, as even as can be. */
struct groups {
    int64_t rows, count;
};

INLINE struct groups cut(int64_t rows, int64_t most) { return (struct groups){rows, (rows + most - 1) / most}; }

INLINE int64_t group_start(struct groups g, int64_t i) { return g.rows * i / g.count; }

INLINE int64_t group_of(struct groups g, int64_t row) { return ((row + 1) * g.count - 1) / g.rows; }

INLINE int64_t panels_of(const struct product *p) { return (p->out + PANEL - 1) / PANEL; }

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Ask for the next weights while these are used, each group for its share: two lines of memory a step in all. */
struct ahead {
    const char *place;
    int64_t stride;
};

INLINE struct ahead look_ahead(const void *next, int64_t steps, struct groups g, int64_t group) {
    const int64_t stride = PANEL * 4 / g.count;
    return (struct ahead){(const char *)next + group * steps * stride, stride};
}

INLINE void prefetch(struct ahead a, int64_t step) {
    __builtin_prefetch(a.place + step * a.stride, 0, 2);
    __builtin_prefetch(a.place + step * a.stride + 64, 0, 2);
}

#endif
