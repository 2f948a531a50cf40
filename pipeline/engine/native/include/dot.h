/* Sums of products of whole numbers, as each kind of processor has instructions for them.
 *
 * A lane of `quads` holds UNIT successive elements of one channel or row, 4 bytes in all. ADD_PRODUCTS adds a lane's products to
 * the lane's sum, exactly. Where an instruction takes one side without sign it is the weight, stored WEIGHT_SHIFT too large:
 * a row's sums then begin with -WEIGHT_SHIFT times the sum of its elements.
 */
#ifndef PROMPTMILL_DOT_H
#define PROMPTMILL_DOT_H

#include <string.h>

#include "tiles.h"
#include "vector.h"

#if defined __AVX512F__ && LANES == 16
#define BITS 512
#include <immintrin.h>
#elif defined __AVX2__ && LANES == 8
#define BITS 256
#include <immintrin.h>
#elif defined __ARM_FEATURE_DOTPROD && LANES == 4
#define BITS 128
#include <arm_neon.h>
#else
#define BITS 0 /* no instructions of its own */
#endif

typedef ivec quads;

INLINE quads repeat(int32_t x) { return (quads){0} + x; }

#if defined TILES || BITS == 512 && defined __AVX512VNNI__ || BITS == 256 && defined __AVXVNNI__ || BITS == 128
/* four products of bytes; where there are tiles, they do the sums */
#define UNIT 4
#if defined TILES || BITS == 128
#define WEIGHT_SHIFT 0
#else
#define WEIGHT_SHIFT 128
#endif

INLINE quads read_weights(const int8_t *w) { return *(const quads *)w; }

INLINE int32_t row_step(const int8_t *q) {
    int32_t step;
    memcpy(&step, q, 4);
    return step;
}

/* Element `i` of every lane, as it was before the shift: what is 128 too large has the other top bit. */
INLINE ivec one_of(quads weights, int i) {
    const ivec top = weights << (24 - 8 * i);
    return (WEIGHT_SHIFT ? top ^ INT32_MIN : top) >> 24;
}

#ifdef TILES
#elif BITS == 128
#define ADD_PRODUCTS(sum, weights, row) sum = (ivec)vdotq_s32((int32x4_t)sum, (int8x16_t)weights, (int8x16_t)row)
#else /* the intrinsics would do, but the compiler keeps their sums in memory */
#if BITS == 512
#define ADD_PRODUCTS(sum, weights, row) __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(row))
#else
#define ADD_PRODUCTS(sum, weights, row) __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(weights), "x"(row))
#endif
#endif

#else /* two products of 16 bits */
#define UNIT 2
#define WEIGHT_SHIFT 0

INLINE int32_t row_step(const int8_t *q) { return (int32_t)((uint32_t)(uint16_t)q[0] | (uint32_t)(uint16_t)q[1] << 16); }

INLINE ivec one_of(quads weights, int i) { return weights << (16 - 16 * i) >> 16; }

#if BITS == 512
INLINE quads read_weights(const int8_t *w) { return (quads)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)w)); }
#define ADD_PRODUCTS(sum, weights, row) sum += (ivec)_mm512_madd_epi16((__m512i)weights, (__m512i)row)
#elif BITS == 256
INLINE quads read_weights(const int8_t *w) { return (quads)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)w)); }
#define ADD_PRODUCTS(sum, weights, row) sum += (ivec)_mm256_madd_epi16((__m256i)weights, (__m256i)row)
#else /* any other processor */
typedef int16_t pairs __attribute__((vector_size(4 * LANES)));
typedef int8_t bytes __attribute__((vector_size(2 * LANES), aligned(1)));
INLINE quads read_weights(const int8_t *w) { return (quads)__builtin_convertvector(*(const bytes *)w, pairs); }
#define ADD_PRODUCTS(sum, weights, row) sum += (weights << 16 >> 16) * (row << 16 >> 16) + (weights >> 16) * (row >> 16)
#endif
#endif

#endif
