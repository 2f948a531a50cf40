/* The product of float32 rows with a packed weight of float32, or of bfloat16, which is widened as it is read.
 *
 * Every sum has one order: fused multiplications and additions along the inner dimension, DEPTH at a time, then these parts
 * one after the other, then the bias. So an element has the same bits whatever the number of rows and threads, and with
 * vectors of any length.
 */
#include "product.h"

#define STEP(halved) (PANEL * (halved ? 2 : 4)) /* bytes of a weight's step */

/* The weights of a step. A bfloat16 is the upper half of a float32; those of both vectors share lanes of 4 bytes. */
INLINE void read_weights(vec weight[2], const char *w, const int halved) {
    const ivec first = *(const ivec *)w;
    weight[0] = (vec)(halved ? first << 16 : first);
    weight[1] = halved ? (vec)(first & (int32_t)0xffff0000) : *(const vec *)(w + 4 * LANES);
}

INLINE vec read_some(const float *from, int64_t count) {
    if (count >= LANES)
        return *(const vec *)from;
    vec x = {0};
    memcpy(&x, from, count * sizeof(float));
    return x;
}

INLINE void write_some(float *to, vec x, int64_t count) {
    if (count >= LANES)
        *(vec *)to = x;
    else
        memcpy(to, &x, count * sizeof(float));
}

INLINE void add_step(const int rows, const int halved, vec sum[MOST][2], const float *x, const char *w) {
    vec weight[2];
    read_weights(weight, w, halved);
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < 2; v++)
            sum[r][v] += weight[v] * x[r];
}

/* y = the sums of `rows` rows over some steps, for a panel of channels; not the `first` ones: y += these sums */
INLINE void tile(const int rows, const int halved, const float *x, const char *w, int64_t steps, struct ahead ahead, float *y,
                 int64_t stride, int64_t channels, int first, const float *bias) {
    vec sum[MOST][2] = {0};
    prefetch_rows(rows, y, stride);
    int64_t k = 0;
    for (; k + UNROLL <= steps; k += UNROLL) {
        prefetch(ahead, k / UNROLL);
#pragma GCC unroll 8
        for (int i = 0; i < UNROLL; i++)
            add_step(rows, halved, sum, x + (k + i) * rows, w + (k + i) * STEP(halved));
    }
    for (; k < steps; k++)
        add_step(rows, halved, sum, x + k * rows, w + k * STEP(halved));
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < 2 && v * LANES < channels; v++) {
            float *place = y + r * stride + v * LANES;
            vec total = sum[r][v];
            if (!first)
                total = read_some(place, channels - v * LANES) + total;
            if (bias)
                total += *(const vec *)(bias + v * LANES);
            write_some(place, total, channels - v * LANES);
        }
}

INLINE void any_tile(int rows, const int halved, const float *x, const char *w, int64_t steps, struct ahead ahead, float *y,
                     int64_t stride, int64_t channels, int first, const float *bias) {
    switch (rows) {
#define ROWS(n)                                                                                                                \
    case n:                                                                                                                    \
        if (n <= MOST)                                                                                                         \
            tile(n, halved, x, w, steps, ahead, y, stride, channels, first, bias);                                             \
        break;
        EACH_ROW(ROWS)
    }
}

/* `rows` is a constant: then each step is written in one go, several times as fast as row after row. */
INLINE void pack_some(const int rows, const float *x, int64_t width, int64_t steps, float *packed) {
    for (int64_t k = 0; k < steps; k++)
#pragma GCC unroll 14
        for (int r = 0; r < rows; r++)
            packed[k * rows + r] = x[r * width + k];
}

/* Rows of a group as they are used: step by step, the rows of a step together. Parts of DEPTH steps lie one after the other. */
static void pack_rows(const struct product *p, const float *x, struct groups g, int64_t group, int64_t start, float *packed) {
    const int64_t from = group_start(g, group), rows = group_start(g, group + 1) - from, steps = smaller(p->in - start, DEPTH);
    switch (rows) {
#define PACK(n)                                                                                                                \
    case n:                                                                                                                    \
        if (n <= MOST)                                                                                                         \
            pack_some(n, x + from * p->in + start, p->in, steps, packed + start * g.rows + from * steps);                      \
        break;
        EACH_ROW(PACK)
    }
}

/* Put weight [out][in], float or the upper half of one, with any strides into panels; channels beyond the last are zeros. */
void pack_float32(const struct product *p, const void *weight, int64_t out_stride, int64_t in_stride, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t panel = 0; panel < panels_of(p); panel++)
        for (int64_t k = 0; k < p->in; k++)
            for (int64_t c = 0; c < PANEL; c++) {
                const int64_t channel = panel * PANEL + c;
                const int64_t from = channel * out_stride + k * in_stride, step = (panel * p->in + k) * PANEL;
                const int there = channel < p->out;
                if (p->halved)
                    ((uint16_t *)p->weight)[step + c % LANES * 2 + c / LANES] = there ? ((const uint16_t *)weight)[from] : 0;
                else
                    ((float *)p->weight)[step + c] = there ? ((const float *)weight)[from] : 0;
            }
}

/* A thread's share of a product, in a parallel region. `halved` is a constant here, so that no step asks for it. */
INLINE void share(const struct product *p, const int halved, const float *x, int64_t rows, float *y, float *packed) {
    const struct groups g = cut(rows, MOST);
#pragma omp for schedule(static) collapse(2)
    for (int64_t group = 0; group < g.count; group++)
        for (int64_t start = 0; start < p->in; start += DEPTH)
            pack_rows(p, x, g, group, start, packed);
#pragma omp for schedule(guided)
    for (int64_t panel = 0; panel < panels_of(p); panel++)
        for (int64_t start = 0; start < p->in; start += DEPTH) {
            const int64_t steps = smaller(p->in - start, DEPTH), channel = panel * PANEL;
            const char *weight = (const char *)p->weight + (panel * p->in + start) * STEP(halved);
            const float *bias = p->bias && start + steps == p->in ? p->bias + channel : 0;
            for (int64_t group = 0; group < g.count; group++) {
                const int64_t from = group_start(g, group);
                any_tile(group_start(g, group + 1) - from, halved, packed + start * rows + from * steps, weight, steps,
                         look_ahead(weight + steps * STEP(halved), STEP(halved), steps, g, group), y + from * p->out + channel,
                         p->out, smaller(p->out - channel, PANEL), start == 0, bias);
            }
        }
}

/* `packed` is room for a copy of x. */
void product_float32(const struct product *p, const float *x, int64_t rows, float *y, float *packed, int threads) {
#pragma omp parallel num_threads(threads)
    if (p->halved)
        share(p, 1, x, rows, y, packed);
    else
        share(p, 0, x, rows, y, packed);
}
