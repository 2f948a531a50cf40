/* Vectors of 16 floats, and the functions on them that several kernels need. */
#ifndef PROMPTMILL_VECTOR_H
#define PROMPTMILL_VECTOR_H

#include <stdint.h>

#define LANES 16
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(64), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(64), aligned(4)));
typedef uint16_t half16 __attribute__((vector_size(32), aligned(2)));
typedef int16_t short16 __attribute__((vector_size(32), aligned(2)));
typedef int8_t byte16 __attribute__((vector_size(16), aligned(1)));

INLINE vec splat(float x) { return (vec){0} + x; }

INLINE vec choose(ivec mask, vec yes, vec no) { return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask)); }

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
