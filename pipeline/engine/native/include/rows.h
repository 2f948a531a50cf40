/* What the attention computes for several query rows at a time: scores, weights, and the mixture of values. */
#ifndef PROMPTMILL_ROWS_H
#define PROMPTMILL_ROWS_H

#include "cache.h"

#ifdef __AVX512F__
#define ROWS 8 /* query rows that share one reading of the keys */
#else /* there are fewer registers, or shorter ones */
#define ROWS 4
#endif
#define RUN 16 /* query rows that a thread has room for */

/* Keys or values of a sequence. */
struct side {
    const int32_t *table;
    int head;
};

/* A stretch of a sequence's blocks, and what this thread most likely reads next: that is far away in memory, so it asks for it
 * now. */
struct stretch {
    struct side now, next;
    int from, to;
};

/* scores[row][position] = query . key for `rows` rows */
INLINE void score(const int rows, const float *queries, const struct step *s, const struct layer *l, struct stretch of,
                  float *scores, int64_t stride, int kind) {
    const int padded = padded_dim(s);
    for (int b = of.from; b < of.to; b++) {
        const char *keys = keys_of(of.now.table[b], of.now.head, s, l, kind);
        const char *next = keys_of(of.next.table[b], of.next.head, s, l, kind);
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
                        sum[r][i] += key[i] * queries[r * padded + d];
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

/* mixed[row] += the sum of weight * value over the positions below `count` of a stretch, for `width` vectors of the head from
 * `element` on; all of it times the row's factor, where there are factors */
INLINE void mix(const int rows, const int width, const float *weights, int64_t stride, const float *factors, const struct step *s,
                const struct layer *l, struct stretch of, int element, int count, float *mixed, int kind) {
    const int padded = padded_dim(s);
    vec sum[ROWS][4] = {0};
    if (of.from)
        for (int r = 0; r < rows; r++)
            for (int w = 0; w < width; w++)
                sum[r][w] = *(vec *)(mixed + r * padded + element + w * LANES);
    for (int b = of.from; b < of.to; b++) {
        const char *values = values_of(of.now.table[b], of.now.head, s, l, kind);
        const int stop = smaller(count - b * BLOCK, BLOCK);
        const char *next = values_of(of.next.table[b], of.next.head, s, l, kind);
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
            *(vec *)(mixed + r * padded + element + w * LANES) = factors ? sum[r][w] * factors[r] : sum[r][w];
}

/* As many of the rows that are left as share a reading. */
INLINE int together(int left) { return left >= ROWS ? ROWS : left >= ROWS / 2 ? ROWS / 2 : 1; }

/* Where a task's rows are worked on: the rows of a chunk, some at a time, or those of a run's chunks, one after the other. */
struct room {
    float *queries, *mixed; /* [RUN][padded] */
    float *scores;          /* [RUN][stride] */
    float *factors;         /* [RUN] */
    int64_t stride;
};

INLINE struct room room_of(float *scratch, const struct step *s) {
    const int64_t side = RUN * padded_dim(s), stride = s->table_stride * BLOCK;
    return (struct room){scratch, scratch + side, scratch + 2 * side, scratch + 2 * side + RUN * stride, stride};
}

INLINE struct room from_row(struct room room, int row, const struct step *s) {
    const int64_t side = row * padded_dim(s);
    return (struct room){room.queries + side, room.mixed + side, room.scores + row * room.stride, room.factors + row, room.stride};
}

INLINE void score_rows(int rows, const struct step *s, const struct layer *l, struct stretch of, struct room room, int kind) {
    if (rows == ROWS)
        score(ROWS, room.queries, s, l, of, room.scores, room.stride, kind);
    else if (rows == ROWS / 2)
        score(ROWS / 2, room.queries, s, l, of, room.scores, room.stride, kind);
    else
        score(1, room.queries, s, l, of, room.scores, room.stride, kind);
}

INLINE void mix_some(const int rows, const struct step *s, const struct layer *l, struct stretch of, int count,
                     const float *factors, struct room room, int kind) {
    const int width = rows > ROWS / 2 ? 2 : 4, padded = padded_dim(s); /* as many sums as there are registers for */
    int element = 0;
    for (; element + width * LANES <= padded; element += width * LANES)
        mix(rows, width, room.scores, room.stride, factors, s, l, of, element, count, room.mixed, kind);
    for (; element < padded; element += LANES)
        mix(rows, 1, room.scores, room.stride, factors, s, l, of, element, count, room.mixed, kind);
}

INLINE void mix_rows(int rows, const struct step *s, const struct layer *l, struct stretch of, int count, const float *factors,
                     struct room room, int kind) {
    if (rows == ROWS)
        mix_some(ROWS, s, l, of, count, factors, room, kind);
    else if (rows == ROWS / 2)
        mix_some(ROWS / 2, s, l, of, count, factors, room, kind);
    else
        mix_some(1, s, l, of, count, factors, room, kind);
}

#endif
