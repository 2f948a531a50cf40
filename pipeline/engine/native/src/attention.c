/* Attention over a KV cache in blocks of 32 positions, for the tokens of one step: each with the keys of its own sequence.
 *
 * Plain C with GCC's vector extensions; no Python, no torch. Every sum has a fixed order that depends on the row's own
 * position alone: over a head's elements one after the other, over positions one after the other. So a row of finite numbers has
 * the same bits whatever the batch, the number of threads, and whether its tokens come as a chunk or one by one.
 *
 * Keys lie as [block][head][element][32 positions]: the scores of successive positions are a vector. Values lie as
 * [block][head][32 positions][element, padded to 16]. Keys and values of 8 bits are followed by the 32 positions' scales in
 * float32: an element is its number times the scale of its position and head.
 */
#include <math.h>
#include <omp.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "vector.h"

#define BLOCK 32 /* positions of a block */
#ifdef __AVX512F__
#define ROWS 8 /* query rows that share one reading of the keys */
#else /* there are fewer registers, or shorter ones */
#define ROWS 4
#endif

enum { FLOAT32, BFLOAT16, INT8 };
static const int item_size[] = {4, 2, 1};
#define SCALES (BLOCK * 4) /* bytes */
#define LINE 64 /* bytes that memory gives at once */

/* What a step's layers share. Chunk c: tokens first .. first + length are positions start .. of table row `slot`. */
struct step {
    const int32_t *chunks; /* [n][4]: first, length, start, slot; what the first `alone` write nobody else reads in this step */
    const int32_t *tables; /* [slots][table_stride]: block numbers */
    float *scratch;        /* [threads][scratch_stride] */
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

/* scores[row][position] = query . key for `rows` rows over `blocks` blocks */
INLINE void score(const int rows, const float *queries, const struct step *s, const struct layer *l, const int32_t *table,
                  int head, int blocks, float *scores, int64_t stride, int kind) {
    for (int b = 0; b < blocks; b++) {
        const char *keys = keys_of(table[b], head, s, l, kind);
        /* far away in memory, and most likely what this thread reads next: ask for it now */
        const char *next = keys_of(table[b], head + 1, s, l, kind);
        if (kind == INT8)
            prefetch_scales(key_scales(next, s));
        const int together = rows > 1 ? 2 : BLOCK / LANES; /* vectors of positions: as many sums as there are registers for */
        for (int from = 0; from < BLOCK; from += together * LANES) {
            vec sum[ROWS][BLOCK / LANES] = {0};
            for (int d = 0; d < s->head_dim; d++) {
                if (from == 0 && (kind != INT8 || d % 2 == 0)) /* a line of memory has two of its rows */
                    __builtin_prefetch(next + d * BLOCK * item_size[kind], 0, 2);
                if (from == 0 && kind == FLOAT32)
                    __builtin_prefetch(next + d * BLOCK * item_size[kind] + LINE, 0, 2);
                vec key[BLOCK / LANES];
                for (int i = 0; i < together; i++)
                    key[i] = load(keys, d * BLOCK + from + i * LANES, kind);
                for (int r = 0; r < rows; r++)
                    for (int i = 0; i < together; i++)
                        sum[r][i] += key[i] * queries[r * s->head_dim + d];
            }
            for (int r = 0; r < rows; r++)
                for (int i = 0; i < together; i++)
                    *(vec *)(scores + r * stride + b * BLOCK + from + i * LANES) = sum[r][i];
        }
        if (kind == INT8)
            for (int r = 0; r < rows; r++)
                scale_positions(scores + r * stride + b * BLOCK, key_scales(keys, s));
    }
}

/* scores -> weights over the first `count` positions, the rest of the last block 0; returns 1 / their sum */
INLINE float normalise(float *scores, int count, int blocks) {
    for (int i = count; i < blocks * BLOCK; i++)
        scores[i] = -INFINITY;
    struct sums most = *(struct sums *)scores, sums = {0};
    for (int i = WIDTH; i < blocks * BLOCK; i += WIDTH)
        for (int v = 0; v < VECTORS; v++) {
            const vec x = *(vec *)(scores + i + v * LANES);
            most.part[v] = choose(x > most.part[v], x, most.part[v]);
        }
    float top = most.part[0][0];
    for (int i = 1; i < WIDTH; i++) {
        const float x = most.part[i / LANES][i % LANES];
        top = x > top ? x : top;
    }
    for (int i = 0; i < blocks * BLOCK; i += WIDTH)
        for (int v = 0; v < VECTORS; v++) {
            const vec x = exponential(*(vec *)(scores + i + v * LANES) - top);
            *(vec *)(scores + i + v * LANES) = x;
            sums.part[v] += x;
        }
    float sum = 0;
    for (int i = 0; i < WIDTH; i++)
        sum += sums.part[i / LANES][i % LANES];
    return 1.0f / sum;
}

/* out[row] = sum over `count` positions of weight * value, for `width` vectors of the head from `element` on */
INLINE void mix(const int rows, const int width, const float *weights, int64_t stride, const float *factors, const struct step *s,
                const struct layer *l, const int32_t *table, int head, int element, int count, float *mixed, int kind) {
    const int padded = padded_dim(s);
    vec sum[ROWS][4] = {0};
    for (int b = 0; b * BLOCK < count; b++) {
        const char *values = values_of(table[b], head, s, l, kind);
        int stop = count - b * BLOCK < BLOCK ? count - b * BLOCK : BLOCK;
        const char *next = values_of(table[b], head + 1, s, l, kind);
        if (kind == INT8)
            prefetch_scales(value_scales(next, s));
        for (int j = 0; j < stop; j++) {
            for (int w = 0; w < width; w += LINE / LANES / item_size[kind])
                __builtin_prefetch(next + ((int64_t)j * padded + element + w * LANES) * item_size[kind], 0, 2);
            for (int w = 0; w < width; w++) {
                vec value = load(values, (int64_t)j * padded + element + w * LANES, kind);
                for (int r = 0; r < rows; r++)
                    sum[r][w] += value * weights[r * stride + b * BLOCK + j];
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (int w = 0; w < width; w++)
            *(vec *)(mixed + r * padded + element + w * LANES) = sum[r][w] * factors[r];
}

/* `rows` rows of a chunk, numbered over tokens and the query heads that share this key head */
INLINE void attend_rows(const int rows, int row, const int32_t *chunk, int head, const struct step *s, const struct layer *l,
                        float *scratch, int kind) {
    const int groups = s->heads / s->kv_heads, dim = s->head_dim;
    const int padded = padded_dim(s);
    const int32_t *table = s->tables + chunk[3] * s->table_stride;
    const int count = chunk[2] + (row + rows - 1) / groups + 1; /* positions that the last row sees */
    const int blocks = (count + BLOCK - 1) / BLOCK;
    const int64_t stride = s->table_stride * BLOCK;
    float *queries = scratch, *mixed = queries + ROWS * padded, *scores = mixed + ROWS * padded, factors[ROWS];
    for (int r = 0; r < rows; r++) {
        int token = chunk[0] + (row + r) / groups, h = head * groups + (row + r) % groups;
        for (int d = 0; d < dim; d++)
            queries[r * dim + d] = l->q[token * l->q_token + h * l->q_head + d] * s->scale;
    }
    score(rows, queries, s, l, table, head, blocks, scores, stride, kind);
    for (int r = 0; r < rows; r++)
        factors[r] = normalise(scores + r * stride, chunk[2] + (row + r) / groups + 1, blocks);
    if (kind == INT8)
        for (int b = 0; b < blocks; b++)
            for (int r = 0; r < rows; r++)
                scale_positions(scores + r * stride + b * BLOCK, value_scales(values_of(table[b], head, s, l, kind), s));
    const int width = rows > ROWS / 2 ? 2 : 4; /* as many sums as there are registers for */
    int element = 0;
    for (; element + width * LANES <= padded; element += width * LANES)
        mix(rows, width, scores, stride, factors, s, l, table, head, element, count, mixed, kind);
    for (; element < padded; element += LANES)
        mix(rows, 1, scores, stride, factors, s, l, table, head, element, count, mixed, kind);
    for (int r = 0; r < rows; r++) {
        int token = chunk[0] + (row + r) / groups, h = head * groups + (row + r) % groups;
        memcpy(l->out + ((int64_t)token * s->heads + h) * dim, mixed + r * padded, dim * sizeof(float));
    }
}

INLINE void attend_kind(const int32_t *chunk, int head, const struct step *s, const struct layer *l, float *scratch, int kind) {
    const int rows = chunk[1] * (s->heads / s->kv_heads);
    int row = 0;
    for (; row + ROWS <= rows; row += ROWS)
        attend_rows(ROWS, row, chunk, head, s, l, scratch, kind);
    for (; row + ROWS / 2 <= rows; row += ROWS / 2)
        attend_rows(ROWS / 2, row, chunk, head, s, l, scratch, kind);
    for (; row < rows; row++)
        attend_rows(1, row, chunk, head, s, l, scratch, kind);
}

static void attend(const int32_t *chunk, int head, const struct step *s, const struct layer *l, float *scratch) {
    if (s->kind == FLOAT32)
        attend_kind(chunk, head, s, l, scratch, FLOAT32);
    else if (s->kind == BFLOAT16)
        attend_kind(chunk, head, s, l, scratch, BFLOAT16);
    else
        attend_kind(chunk, head, s, l, scratch, INT8);
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

/* Write the step's keys and values, then attend: a chunk may read what another one of the same step writes. Where that cannot
 * be, a task writes just before it reads, when the places are in the core's cache. */
void block_attention(const struct step *s, const struct layer *l) {
    const int64_t heads = s->kv_heads, alone = s->alone * heads, tasks = s->n * heads, share = tasks / (4 * s->threads);
    const int64_t together = share < 1 ? 1 : share < heads ? share : heads; /* a sequence's heads lie side by side */
#pragma omp parallel num_threads(s->threads)
    {
        float *scratch = s->scratch + omp_get_thread_num() * s->scratch_stride;
#pragma omp for schedule(static)
        for (int64_t t = alone; t < tasks; t++)
            write_block(s->chunks + t / heads * 4, t % heads, s, l);
#pragma omp for schedule(dynamic, together)
        for (int64_t t = 0; t < tasks; t++) {
            if (t < alone)
                write_block(s->chunks + t / heads * 4, t % heads, s, l);
            attend(s->chunks + t / heads * 4, t % heads, s, l, scratch);
        }
    }
}
