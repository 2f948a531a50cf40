/* Vectors as long as the processor's registers, and the functions on them that several kernels need.
 *
 * A longer vector would be right, too, but the compiler keeps it in memory. Layouts and the order of sums go by WIDTH, which is
 * the same everywhere, so the bits do not depend on the length of a register.
 */
#ifndef PROMPTMILL_VECTOR_H
#define PROMPTMILL_VECTOR_H

#include <stdint.h>

#define WIDTH 16 /* numbers that lie together in every layout, and sums that run side by side */
#ifndef LANES /* numbers of a vector; a test sets others, to see that they give the same bits */
#ifdef __AVX512F__
#define LANES 16
#elif defined __AVX2__
#define LANES 8
#else
#define LANES 4
#endif
#endif
#define VECTORS (WIDTH / LANES)
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint16_t half_vec __attribute__((vector_size(2 * LANES), aligned(2)));
typedef int16_t short_vec __attribute__((vector_size(2 * LANES), aligned(2)));
typedef int8_t byte_vec __attribute__((vector_size(LANES), aligned(1)));

/* WIDTH sums that run side by side. */
struct sums {
    vec part[VECTORS];
};

INLINE vec splat(float x) { return (vec){0} + x; }

INLINE vec choose(ivec mask, vec yes, vec no) { return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask)); }

/* Whether a comparison holds for any lane. */
INLINE int any(ivec mask) {
#if defined __AVX2__ && LANES == 8
    return __builtin_ia32_movmskps256((vec)mask);
#else
    int32_t found = 0;
    for (int lane = 0; lane < LANES; lane++)
        found |= mask[lane];
    return found;
#endif
}

/* Round to a whole number, ties to even, for |x| < 2^22. */
INLINE vec whole(vec x) {
    const vec magic = splat(12582912.0f); /* 1.5 * 2^23 */
    return (x + magic) - magic;
}

/* exp for x <= 0, to 2 units in the last place; 0 below -87. Cephes' reduction by ln 2 in two parts, degree 6. */
INLINE vec exponential(vec x) {
    const vec low = splat(-87.0f);
    ivec gone = x < low;
    x = choose(gone, low, x);
    vec n = whole(x * 1.44269504088896341f);
    vec r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    vec p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    ivec power = (__builtin_convertvector(n, ivec) + 127) << 23;
    p = p * (vec)power;
    return (vec)((ivec)p & ~gone);
}

#endif
