/* What the instructions of pairs.h and tiles.h do, in C, for tests on processors that lack them; Intel's manual tells it likewise,
 * VDPBF16PS, TDPBF16PS and TDPBSSD. What they would refuse ends the process. Only tests compile this.
 *
 * A result just below the smallest normal number that rounds to it stays, and there may become zero; nothing else differs.
 */
#ifndef PROMPTMILL_EMULATED_H
#define PROMPTMILL_EMULATED_H

#include <stdlib.h>
#include <string.h>

#include "vector.h"

static inline float without_subnormals(float x) { return __builtin_fabsf(x) < 0x1p-126f ? __builtin_copysignf(0, x) : x; }

static inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return without_subnormals(x);
}

/* sum + x * w for the upper or the lower bfloat16 of each. */
static inline float add_upper(float sum, uint32_t x, uint32_t w) {
    return without_subnormals(__builtin_fmaf(float_of(x & 0xffff0000), float_of(w & 0xffff0000), without_subnormals(sum)));
}

static inline float add_lower(float sum, uint32_t x, uint32_t w) { return add_upper(sum, x << 16, w << 16); }

static inline vec emulated_pairs(vec sum, ivec weights, ivec row) {
    for (int lane = 0; lane < LANES; lane++)
        sum[lane] = add_lower(add_upper(sum[lane], row[lane], weights[lane]), row[lane], weights[lane]);
    return sum;
}

static _Thread_local struct {
    int rows, bytes;
    uint32_t value[16][16];
} tiles[8];

static inline void refuse_unless(int right) {
    if (!right)
        abort();
}

/* `told`: palette, first row, 14 zeros, bytes of a row of each of 16 tiles in two bytes, rows of each. */
static inline void emulated_configure(const void *told) {
    const uint8_t *bytes = told;
    uint16_t widths[16];
    memcpy(widths, bytes + 16, sizeof widths);
    refuse_unless(bytes[0] == 1);
    for (int i = 1; i < 16; i++)
        refuse_unless(bytes[i] == 0);
    for (int i = 0; i < 16; i++) {
        const int rows = bytes[48 + i];
        refuse_unless(i < 8 ? rows <= 16 && widths[i] <= 64 && !rows == !widths[i] : !rows && !widths[i]);
    }
    memset(tiles, 0, sizeof tiles);
    for (int i = 0; i < 8; i++) {
        tiles[i].rows = bytes[48 + i];
        tiles[i].bytes = widths[i];
    }
}

static inline void emulated_release(void) { memset(tiles, 0, sizeof tiles); }

static inline void emulated_clear(int tile) {
    refuse_unless(tiles[tile].rows);
    memset(tiles[tile].value, 0, sizeof tiles[tile].value);
}

static inline void emulated_load(int tile, const void *from, int64_t stride) {
    emulated_clear(tile);
    for (int row = 0; row < tiles[tile].rows; row++)
        memcpy(tiles[tile].value[row], (const char *)from + row * stride, tiles[tile].bytes);
}

static inline void emulated_store(int tile, void *to, int64_t stride) {
    refuse_unless(tiles[tile].rows);
    for (int row = 0; row < tiles[tile].rows; row++)
        memcpy((char *)to + row * stride, tiles[tile].value[row], tiles[tile].bytes);
}

static inline void check_shapes(int sums, int rows, int weights) {
    refuse_unless(tiles[sums].rows && tiles[rows].rows && tiles[weights].rows);
    refuse_unless(tiles[sums].rows == tiles[rows].rows && tiles[sums].bytes == tiles[weights].bytes);
    refuse_unless(tiles[rows].bytes == 4 * tiles[weights].rows);
}

static inline void emulated_int8(int sums, int rows, int weights) {
    check_shapes(sums, rows, weights);
    for (int row = 0; row < tiles[sums].rows; row++)
        for (int step = 0; step < tiles[weights].rows; step++)
            for (int channel = 0; channel < tiles[sums].bytes / 4; channel++)
                for (int byte = 0; byte < 32; byte += 8)
                    tiles[sums].value[row][channel] += (int8_t)(tiles[rows].value[row][step] >> byte) *
                                                       (int8_t)(tiles[weights].value[step][channel] >> byte);
}

static inline void emulated_bfloat16(int sums, int rows, int weights) {
    check_shapes(sums, rows, weights);
    for (int row = 0; row < tiles[sums].rows; row++)
        for (int channel = 0; channel < tiles[sums].bytes / 4; channel++) {
            float lower = 0, upper = 0, total;
            for (int step = 0; step < tiles[weights].rows; step++) {
                const uint32_t x = tiles[rows].value[row][step], w = tiles[weights].value[step][channel];
                lower = add_lower(lower, x, w);
                upper = add_upper(upper, x, w);
            }
            memcpy(&total, &tiles[sums].value[row][channel], 4);
            total = without_subnormals(without_subnormals(total) + without_subnormals(lower + upper));
            memcpy(&tiles[sums].value[row][channel], &total, 4);
        }
}

#endif
