/* How the products cut their work, so that float32 and int8 do it alike.
 *
 * A packed weight lies in panels of two vectors of output channels, in a panel step by step along the inner dimension. A step is
 * one inner element in float32 and as many as an instruction sums in int8. Rows are packed likewise, 4 bytes a step, in groups
 * that share a reading of the weight. Which rows are in a group, and which thread does a panel, changes no sum.
 */
#ifndef PROMPTMILL_PRODUCT_H
#define PROMPTMILL_PRODUCT_H

#include <string.h>

#include "vector.h"

#define PANEL (2 * LANES)
#if defined __AVX512F__ || defined __aarch64__
#define MOST 14 /* rows of a group: their sums, and what these are made of, fill the registers */
#else /* half as many registers */
#define MOST 6
#endif
#define DEPTH 512 /* steps that are done for all groups before the next ones: their weights stay in the core's own cache */
#ifndef UNROLL /* a test sets less, to be compiled sooner */
#define UNROLL 8 /* steps of a loop's turn: a core that two programs share has no time for what turns cost beside the sums */
#endif
#define EACH_ROW(DO) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13) DO(14)

/* A layer: y [rows][out] = x [rows][in] . weight + bias. */
struct product {
    const void *weight; /* packed */
    const float *bias;  /* [panels][PANEL], or null */
    const float *scale; /* int8: [panels][stretches of the inner dimension][PANEL] */
    int64_t in, out;
    int32_t halved; /* whether the weight that was given is bfloat16, the upper half of a float32 */
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

/* Ask for the next weights while these are used, each group for its share of them, evenly. */
struct ahead {
    const char *place;
    int64_t bytes; /* in a loop's turn */
};

INLINE struct ahead look_ahead(const void *next, int64_t bytes, int64_t steps, struct groups g, int64_t group) {
    return (struct ahead){(const char *)next + group * steps * bytes / g.count, UNROLL * bytes / g.count};
}

INLINE void prefetch(struct ahead a, int64_t turn) {
    const char *place = a.place + turn * a.bytes;
    __builtin_prefetch(place, 0, 2);
#pragma GCC unroll 1
    for (int64_t line = 64; line < a.bytes; line += 64)
        __builtin_prefetch(place + line, 0, 2);
}

/* Fetch the lines that a tile's sums go to before the sums are there: with many channels, each row lies on a page of its own. */
INLINE void prefetch_rows(const int rows, const float *y, int64_t stride) {
    for (int r = 0; r < rows; r++, y += stride) {
        for (int c = 0; c < PANEL; c += 16)
            __builtin_prefetch(y + c, 1);
        __builtin_prefetch(y + PANEL - 1, 1);
    }
}

#endif
