/* What both products of bfloat16 rows with a packed bfloat16 weight share: how a weight lies, and what becomes of a sum.
 *
 * A weight's step is two inner elements of every channel of a panel, which lie together. Where the inner dimension ends within a
 * step, or within a block of them, the rest is zeros.
 */
#ifndef PROMPTMILL_BFLOAT16_H
#define PROMPTMILL_BFLOAT16_H

#include "product.h"

#define STEP (4 * PANEL) /* bytes of a weight's step */

/* Two elements of a row from `k` on, as one number of 4 bytes. */
INLINE int32_t pair_of(const uint16_t *row, int64_t k, int64_t width) {
    return (int32_t)(row[k] | (k + 1 < width ? (uint32_t)row[k + 1] << 16 : 0));
}

/* Put weight [out][in] of any strides into panels of `steps` steps; channels beyond the last are zeros. */
INLINE void pack_panels(const struct product *p, const uint16_t *weight, int64_t out_stride, int64_t in_stride, int64_t steps,
                        int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t panel = 0; panel < panels_of(p); panel++)
        for (int64_t k = 0; k < 2 * steps; k++)
            for (int64_t c = 0; c < PANEL; c++) {
                const int64_t channel = panel * PANEL + c;
                uint16_t *place = (uint16_t *)p->weight + (panel * steps + k / 2) * 2 * PANEL + 2 * c + k % 2;
                *place = channel < p->out && k < p->in ? weight[channel * out_stride + k * in_stride] : 0;
            }
}

/* Round to bfloat16: to nearest, ties to even; what is not a number stays none. */
INLINE half_vec rounded(vec x) {
    const ivec bits = (ivec)x & (x == x), near = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return __builtin_convertvector(near | ((x != x) & 0x7fc0), half_vec);
}

/* y [rows][stride] = the sums [rows][PANEL] of a panel, with the bias, for as many channels as there are. */
INLINE void write_sums(const float *sums, int64_t rows, const float *bias, uint16_t *y, int64_t stride, int64_t channels) {
    for (int64_t r = 0; r < rows; r++)
        for (int v = 0; v < 2 && v * LANES < channels; v++) {
            vec total = *(const vec *)(sums + r * PANEL + v * LANES);
            if (bias)
                total += *(const vec *)(bias + v * LANES);
            const half_vec found = rounded(total);
            memcpy(y + r * stride + v * LANES, &found, smaller(channels - v * LANES, LANES) * sizeof(uint16_t));
        }
}

/* Room of this thread for the sums of a panel, in room for those of all threads. */
int omp_get_thread_num(void);

INLINE float *own_sums(float *sums, int64_t rows) { return sums + omp_get_thread_num() * rows * PANEL; }

#endif
