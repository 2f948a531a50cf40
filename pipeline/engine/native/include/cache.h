/* The KV cache as the attention sees it: what a step and a layer are, where keys and values lie, how they are read and written.
 *
 * Keys lie as [block][head][element][32 positions]: the scores of successive positions are a vector. Values lie as
 * [block][head][32 positions][element, padded to 16]. Keys and values of 8 bits are followed by the 32 positions' scales in
 * float32: an element is its number times the scale of its position and head.
 */
#ifndef PROMPTMILL_CACHE_H
#define PROMPTMILL_CACHE_H

#include <math.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "vector.h"

#define BLOCK 32 /* positions of a block */

enum { FLOAT32, BFLOAT16, INT8 };
static const int item_size[] = {4, 2, 1};
#define SCALES (BLOCK * 4) /* bytes */
#define LINE 64 /* bytes that memory gives at once */

/* What a step's layers share. Chunk c: tokens first .. first + length are positions start .. of table row `slot`. */
struct step {
    const int32_t *chunks; /* [n][4]: first, length, start, slot; what the first `alone` write nobody else reads in this step */
    const int32_t *tables; /* [slots][table_stride]: block numbers */
    float *scratch;        /* [threads][scratch_stride] */
    int32_t *runs;         /* [n + 1], room for where each run begins */
    int64_t n, alone, table_stride, scratch_stride;
    int32_t heads, kv_heads, head_dim, kind, threads;
    float scale;
};

/* One layer's tensors; strides in elements. `out` is [tokens][heads][head_dim]. */
struct layer {
    const float *q, *k, *v;
    float *out;
    char *keys, *values;
    int64_t q_token, q_head, k_token, k_head, v_token, v_head;
};

INLINE int smaller(int a, int b) { return a < b ? a : b; }

INLINE int padded_dim(const struct step *s) { return (s->head_dim + WIDTH - 1) / WIDTH * WIDTH; }

INLINE char *keys_of(int64_t block, int head, const struct step *s, const struct layer *l, int kind) {
    const int64_t bytes = s->head_dim * BLOCK * item_size[kind] + (kind == INT8 ? SCALES : 0);
    return l->keys + (block * s->kv_heads + head) * bytes;
}

INLINE char *values_of(int64_t block, int head, const struct step *s, const struct layer *l, int kind) {
    const int padded = padded_dim(s), more = kind == INT8 ? (SCALES + padded - 1) / padded : 0; /* whole rows for the scales */
    return l->values + (block * s->kv_heads + head) * (BLOCK + more) * padded * item_size[kind];
}

/* The scales that follow keys or values of 8 bits. */
INLINE float *key_scales(const char *keys, const struct step *s) { return (float *)(keys + s->head_dim * BLOCK); }

INLINE float *value_scales(const char *values, const struct step *s) { return (float *)(values + BLOCK * padded_dim(s)); }

INLINE void prefetch_scales(const float *scales) {
    __builtin_prefetch(scales, 0, 2);
    __builtin_prefetch(scales + LINE / 4, 0, 2);
}

INLINE void scale_positions(float *x, const float *scales) {
    for (int i = 0; i < BLOCK / LANES; i++)
        ((vec *)x)[i] *= ((const vec *)scales)[i];
}

INLINE vec load(const char *base, int64_t element, int kind) {
    if (kind == FLOAT32)
        return *(const vec *)(base + 4 * element);
#if defined __AVX512F__ && LANES == 16
    if (kind == INT8)
        return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(base + element))));
#elif defined __AVX2__ && LANES == 8
    if (kind == INT8)
        return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(base + element))));
#endif
    if (kind == INT8) { /* in steps that the compiler has instructions for */
        const short_vec wide = __builtin_convertvector(*(const byte_vec *)(base + element), short_vec);
        return __builtin_convertvector(__builtin_convertvector(wide, ivec), vec);
    }
    return (vec)(__builtin_convertvector(*(const half_vec *)(base + 2 * element), ivec) << 16);
}

INLINE void store(char *base, int64_t element, float x, int kind) {
    if (kind == FLOAT32) {
        ((float *)base)[element] = x;
    } else if (kind == INT8) {
        base[element] = x == x ? (int8_t)lrintf(x) : 0; /* to nearest, ties to even */
    } else {
        uint32_t bits;
        memcpy(&bits, &x, 4);
        /* to nearest, ties to even; what is not a number stays none */
        ((uint16_t *)base)[element] = x != x ? 0x7fc0 : (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    }
}

/* The factor that makes whole numbers up to 127 of a head's elements, and the scale that undoes it: no number where one of them
 * is not finite. */
INLINE float factor_of(const float *x, int count, float *scale) {
    float largest = 1e-12f, strange = 0;
    for (int d = 0; d < count; d++) {
        largest = fabsf(x[d]) > largest ? fabsf(x[d]) : largest;
        strange += x[d] * 0.0f;
    }
    *scale = largest / 127.0f + strange;
    return strange == 0 ? 127.0f / largest : 0.0f;
}

/* Put a chunk's new keys and values of one head into its block; a chunk lies in one block. */
static void write_block(const int32_t *chunk, int head, const struct step *s, const struct layer *l) {
    const int padded = padded_dim(s);
    const int32_t block = s->tables[chunk[3] * s->table_stride + chunk[2] / BLOCK];
    char *keys = keys_of(block, head, s, l, s->kind), *values = values_of(block, head, s, l, s->kind);
    for (int i = 0; i < chunk[1]; i++) {
        const int j = chunk[2] % BLOCK + i;
        const float *k = l->k + (chunk[0] + i) * l->k_token + head * l->k_head;
        const float *v = l->v + (chunk[0] + i) * l->v_token + head * l->v_head;
        float to_key = 1, to_value = 1;
        if (s->kind == INT8) {
            to_key = factor_of(k, s->head_dim, key_scales(keys, s) + j);
            to_value = factor_of(v, s->head_dim, value_scales(values, s) + j);
        }
        for (int d = 0; d < s->head_dim; d++) {
            store(keys, d * BLOCK + j, k[d] * to_key, s->kind);
            store(values, j * padded + d, v[d] * to_value, s->kind);
        }
    }
}

#endif
