/* The product of bfloat16 rows with a packed bfloat16 weight, by an instruction for pairs of elements.
 *
 * Every sum has one order: pair after pair along the inner dimension, DEPTH at a time, then these parts one after the other, then
 * the bias; it is rounded to bfloat16 once, at the end. So an element has the same bits whatever the number of rows and threads.
 */
#include "pairs.h"
#include "tiles.h"

#if defined PAIRS && !defined TILES
#include "bfloat16.h"

INLINE int64_t steps_of(const struct product *p) { return (p->in + 1) / 2; }

/* sums [rows][PANEL] = those of some steps; not the `first` ones: they are added */
INLINE void tile(const int rows, const int32_t *x, const char *w, int64_t steps, struct ahead ahead, float *sums, int first) {
    /* variables with names of their own, as the compiler would keep an array of them in memory */
#define BEGIN(n) vec a##n = {0}, b##n = {0};
#define MULTIPLY(n)                                                                                                            \
    if (rows >= n) {                                                                                                           \
        const ivec row = (ivec){0} + step[n - 1];                                                                              \
        ADD_PAIRS(a##n, w0, row);                                                                                              \
        ADD_PAIRS(b##n, w1, row);                                                                                              \
    }
#define END(n)                                                                                                                 \
    if (rows >= n) {                                                                                                           \
        vec *place = (vec *)(sums + (n - 1) * PANEL);                                                                          \
        place[0] = first ? a##n : place[0] + a##n;                                                                             \
        place[1] = first ? b##n : place[1] + b##n;                                                                             \
    }
#define ADD_STEP(k)                                                                                                            \
    const ivec w0 = *(const ivec *)(w + (k) * STEP), w1 = *(const ivec *)(w + (k) * STEP + STEP / 2);                          \
    const int32_t *step = x + (k) * rows;                                                                                      \
    EACH_ROW(MULTIPLY)
    EACH_ROW(BEGIN)
    int64_t k = 0;
    for (; k + UNROLL <= steps; k += UNROLL) {
        prefetch(ahead, k / UNROLL);
#pragma GCC unroll 8
        for (int i = 0; i < UNROLL; i++) {
            ADD_STEP(k + i)
        }
    }
    for (; k < steps; k++) {
        ADD_STEP(k)
    }
    EACH_ROW(END)
}

static void any_tile(int rows, const int32_t *x, const char *w, int64_t steps, struct ahead ahead, float *sums, int first) {
    switch (rows) {
#define ROWS(n)                                                                                                                \
    case n:                                                                                                                    \
        if (n <= MOST)                                                                                                         \
            tile(n, x, w, steps, ahead, sums, first);                                                                          \
        break;
        EACH_ROW(ROWS)
    }
}

/* Rows of a group as they are used: step by step, the rows of a step together. Parts of DEPTH steps lie one after the other. */
INLINE void pack_rows(const struct product *p, const uint16_t *x, struct groups g, int64_t group, int64_t start, int32_t *packed) {
    const int64_t from = group_start(g, group), rows = group_start(g, group + 1) - from;
    const int64_t steps = smaller(steps_of(p) - start, DEPTH);
    int32_t *out = packed + start * g.rows + from * steps;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < steps; k++)
            out[k * rows + r] = pair_of(x + (from + r) * p->in, 2 * (start + k), p->in);
}

void pack_bfloat16(const struct product *p, const uint16_t *weight, int64_t out_stride, int64_t in_stride, int threads) {
    pack_panels(p, weight, out_stride, in_stride, steps_of(p), threads);
}

/* `packed` is room for 4 bytes for every step of a row, `sums` for PANEL floats for every row and thread. */
void product_bfloat16(const struct product *p, const uint16_t *x, int64_t rows, uint16_t *y, void *packed, float *sums,
                      int threads) {
    const struct groups g = cut(rows, MOST);
    const int64_t all = steps_of(p);
#pragma omp parallel num_threads(threads)
    {
        float *own = own_sums(sums, rows);
#pragma omp for schedule(static) collapse(2)
        for (int64_t group = 0; group < g.count; group++)
            for (int64_t start = 0; start < all; start += DEPTH)
                pack_rows(p, x, g, group, start, packed);
#pragma omp for schedule(guided)
        for (int64_t panel = 0; panel < panels_of(p); panel++) {
            const int64_t channel = panel * PANEL;
            for (int64_t start = 0; start < all; start += DEPTH) {
                const int64_t steps = smaller(all - start, DEPTH);
                const char *weight = (const char *)p->weight + (panel * all + start) * STEP;
                for (int64_t group = 0; group < g.count; group++) {
                    const int64_t from = group_start(g, group);
                    any_tile(group_start(g, group + 1) - from, (int32_t *)packed + start * rows + from * steps, weight, steps,
                             look_ahead(weight + steps * STEP, STEP, steps, g, group), own + from * PANEL, start == 0);
                }
            }
            write_sums(own, rows, p->bias ? p->bias + channel : 0, y + channel, p->out, p->out - channel);
        }
    }
}
#endif
