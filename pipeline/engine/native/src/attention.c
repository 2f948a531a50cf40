/* Attention over a KV cache in blocks of 32 positions, for the tokens of one step: each with the keys of its own sequence.
 *
 * Plain C with GCC's vector extensions; no Python, no torch. Every sum has a fixed order that depends on the row's own
 * position alone: over a head's elements one after the other, over positions one after the other. So a row of finite numbers has
 * the same bits whatever the batch, the number of threads, and whether its tokens come as a chunk or one by one.
 *
 * Sequences that begin with the same blocks, as samples of one prompt do, form a run: a thread reads these blocks for all of
 * them in turn, several rows at a time, while they are in the core's cache.
 */
#include <omp.h>

#include "rows.h"

INLINE struct side side_of(const int32_t *chunk, int head, const struct step *s) {
    return (struct side){s->tables + chunk[3] * s->table_stride, head};
}

/* Some rows of a chunk at a key head. Rows are numbered over tokens and the query heads that share the key head. */
struct part {
    const int32_t *chunk;
    int head, first, rows;
    int from;         /* the blocks before are done */
    struct side next; /* as in a stretch */
};

INLINE int groups_of(const struct step *s) { return s->heads / s->kv_heads; }

/* How many positions row `r` of a part sees. */
INLINE int seen(struct part p, int r, const struct step *s) { return p.chunk[2] + (p.first + r) / groups_of(s) + 1; }

INLINE struct stretch stretch_of(struct part p, const struct step *s) {
    const int blocks = (seen(p, p.rows - 1, s) + BLOCK - 1) / BLOCK;
    return (struct stretch){side_of(p.chunk, p.head, s), p.next, p.from, blocks};
}

INLINE void read_queries(struct part p, const struct step *s, const struct layer *l, struct room room) {
    const int groups = groups_of(s);
    for (int r = 0; r < p.rows; r++) {
        const int64_t token = p.chunk[0] + (p.first + r) / groups, head = p.head * groups + (p.first + r) % groups;
        const float *q = l->q + token * l->q_token + head * l->q_head;
        for (int d = 0; d < s->head_dim; d++)
            room.queries[r * padded_dim(s) + d] = q[d] * s->scale;
    }
}

/* The weights of a part's rows. */
INLINE void weigh(struct part p, const struct step *s, const struct layer *l, struct room room, int kind) {
    const struct stretch of = stretch_of(p, s);
    score_rows(p.rows, s, l, of, room, kind);
    for (int r = 0; r < p.rows; r++) {
        float *scores = room.scores + r * room.stride;
        room.factors[r] = normalise(scores, seen(p, r, s), of.to);
        for (int b = 0; kind == INT8 && b < of.to; b++)
            scale_positions(scores + b * BLOCK, value_scales(values_of(of.now.table[b], p.head, s, l, kind), s));
    }
}

/* Then their results. */
INLINE void finish(struct part p, const struct step *s, const struct layer *l, struct room room, int kind) {
    const int groups = groups_of(s);
    mix_rows(p.rows, s, l, stretch_of(p, s), seen(p, p.rows - 1, s), room.factors, room, kind);
    for (int r = 0; r < p.rows; r++) {
        const int64_t token = p.chunk[0] + (p.first + r) / groups, head = p.head * groups + (p.first + r) % groups;
        memcpy(l->out + (token * s->heads + head) * s->head_dim, room.mixed + r * padded_dim(s), s->head_dim * sizeof(float));
    }
}

INLINE void attend_chunk(const int32_t *chunk, int head, const struct step *s, const struct layer *l, struct room room,
                         int kind) {
    const int all = chunk[1] * groups_of(s);
    struct part p = {chunk, head, 0, 0, 0, side_of(chunk, head + 1, s)};
    for (; p.first < all; p.first += p.rows) {
        p.rows = together(all - p.first);
        read_queries(p, s, l, room);
        weigh(p, s, l, room, kind);
        finish(p, s, l, room, kind);
    }
}

/* How many blocks two chunks have in common from the first on, not counting those that one of them does not see whole. */
INLINE int shared_blocks(const int32_t *one, const int32_t *other, const struct step *s) {
    const int most = (smaller(one[2], other[2]) + 1) / BLOCK;
    const int32_t *a = side_of(one, 0, s).table, *b = side_of(other, 0, s).table;
    int shared = 0;
    while (shared < most && a[shared] == b[shared])
        shared++;
    return shared;
}

/* Rows `row` and following of a run: those of one chunk. After them, the next chunk's blocks are read at the same head. */
INLINE struct part part_of(const int32_t *run, int chunks, int row, int head, int from, const struct step *s) {
    const int groups = groups_of(s), c = row / groups, last = c + 1 == chunks;
    const struct side next = side_of(run + (last ? 0 : c + 1) * 4, head + last, s);
    return (struct part){run + c * 4, head, row % groups, together(groups - row % groups), from, next};
}

/* A token each of several sequences: their common blocks for all rows, then the others sequence by sequence. */
INLINE void attend_run(const int32_t *run, int chunks, int head, const struct step *s, const struct layer *l, struct room room,
                       int kind) {
    const int all = chunks * groups_of(s);
    const struct side first = side_of(run, head, s), next = side_of(run, head + 1, s);
    struct stretch common = {first, next, 0, shared_blocks(run, run + 4, s)};
    struct part p;
    for (int c = 2; c < chunks; c++)
        common.to = smaller(common.to, shared_blocks(run, run + c * 4, s));
    for (int row = 0; row < all; row += p.rows) {
        p = part_of(run, chunks, row, head, 0, s);
        read_queries(p, s, l, from_row(room, row, s));
    }
    for (int row = 0, rows; row < all; row += rows, common.next = first) {
        rows = together(all - row);
        score_rows(rows, s, l, common, from_row(room, row, s), kind);
    }
    for (int row = 0; row < all; row += p.rows) {
        p = part_of(run, chunks, row, head, common.to, s);
        weigh(p, s, l, from_row(room, row, s), kind);
    }
    common.next = next;
    for (int row = 0, rows; row < all; row += rows, common.next = first) {
        rows = together(all - row);
        mix_rows(rows, s, l, common, common.to * BLOCK, 0, from_row(room, row, s), kind);
    }
    for (int row = 0; row < all; row += p.rows) {
        p = part_of(run, chunks, row, head, common.to, s);
        finish(p, s, l, from_row(room, row, s), kind);
    }
}

INLINE void attend_kind(const int32_t *run, int chunks, int head, const struct step *s, const struct layer *l, float *scratch,
                        int kind) {
    if (chunks == 1)
        attend_chunk(run, head, s, l, room_of(scratch, s), kind);
    else
        attend_run(run, chunks, head, s, l, room_of(scratch, s), kind);
}

static void attend(const int32_t *run, int chunks, int head, const struct step *s, const struct layer *l, float *scratch) {
    if (s->kind == FLOAT32)
        attend_kind(run, chunks, head, s, l, scratch, FLOAT32);
    else if (s->kind == BFLOAT16)
        attend_kind(run, chunks, head, s, l, scratch, BFLOAT16);
    else
        attend_kind(run, chunks, head, s, l, scratch, INT8);
}

/* Find the runs: successive chunks of one token that begin with the same block. They are shorter where there are many threads. */
static int64_t find_runs(const struct step *s) {
    const int64_t groups = groups_of(s), even = s->n * s->kv_heads / (4 * s->threads);
    const int64_t most = smaller(even, RUN / groups);
    int64_t found = 0;
    for (int64_t i = 0; i < s->n; i++) {
        const int32_t *first = s->chunks + (found ? s->runs[found - 1] : i) * 4, *chunk = s->chunks + i * 4;
        const int joins = found && i - s->runs[found - 1] < most && i != s->alone && first[1] == 1 && chunk[1] == 1;
        if (!joins || !shared_blocks(first, chunk, s))
            s->runs[found++] = (int32_t)i;
    }
    s->runs[found] = (int32_t)s->n;
    return found;
}

/* Write the step's keys and values, then attend: a chunk may read what another one of the same step writes. Where that cannot
 * be, a task writes just before it reads, when the places are in the core's cache. */
void block_attention(const struct step *s, const struct layer *l) {
    const int64_t heads = s->kv_heads, tasks = find_runs(s) * heads, share = tasks / (4 * s->threads);
    const int64_t at_once = share < 1 ? 1 : share < heads ? share : heads; /* a sequence's heads lie side by side */
#pragma omp parallel num_threads(s->threads)
    {
        float *scratch = s->scratch + omp_get_thread_num() * s->scratch_stride;
#pragma omp for schedule(static)
        for (int64_t t = s->alone * heads; t < s->n * heads; t++)
            write_block(s->chunks + t / heads * 4, t % heads, s, l);
#pragma omp for schedule(dynamic, at_once)
        for (int64_t t = 0; t < tasks; t++) {
            const int64_t first = s->runs[t / heads], last = s->runs[t / heads + 1], head = t % heads;
            for (int64_t i = first; i < last && i < s->alone; i++)
                write_block(s->chunks + i * 4, head, s, l);
            attend(s->chunks + first * 4, last - first, head, s, l, scratch);
        }
    }
}
