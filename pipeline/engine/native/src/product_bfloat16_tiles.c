/* The product of bfloat16 rows with a packed bfloat16 weight, by instructions for whole tiles.
 *
 * Every sum has one order: block after block of 32 elements along the inner dimension, each as the instruction does it, then the
 * bias; it is rounded to bfloat16 once, at the end. So an element has the same bits whatever the number of rows and threads.
 */
#include "tiles.h"

#ifdef TILES
#include "bfloat16.h"

INLINE int64_t blocks_of(const struct product *p) { return (p->in + 2 * HEIGHT - 1) / (2 * HEIGHT); }

/* sums [height][PANEL] = those of some blocks; not the `first` ones: they go on */
INLINE void tile(const int tall, const char *x, int64_t height, const char *w, int64_t blocks, struct ahead ahead, float *sums,
                 int first) {
    if (first)
        CLEAR_SUMS(tall);
    else
        MOVE_SUMS(LOAD, tall, sums);
    for (int64_t block = 0; block < blocks; block++) {
        prefetch_block(ahead, block);
        ADD_BLOCK(ADD_BFLOAT16, tall, x + block * height * ROW_BYTES, w + block * BLOCK_BYTES);
    }
    MOVE_SUMS(STORE, tall, sums);
}

INLINE void pack_row(const struct product *p, const uint16_t *x, struct groups g, int64_t row, void *packed) {
    for (int64_t block = 0; block < blocks_of(p); block++) {
        const int64_t start = block * 2 * HEIGHT, count = smaller(p->in - start, 2 * HEIGHT);
        char *place = row_block(packed, g, row, block, blocks_of(p));
        memset(place, 0, ROW_BYTES);
        memcpy(place, x + row * p->in + start, count * sizeof *x);
    }
}

void pack_bfloat16(const struct product *p, const uint16_t *weight, int64_t out_stride, int64_t in_stride, int threads) {
    pack_panels(p, weight, out_stride, in_stride, blocks_of(p) * HEIGHT, threads);
}

/* `packed` is room for the blocks of every place of a group, `sums` for PANEL floats for each of them and every thread. */
void product_bfloat16(const struct product *p, const uint16_t *x, int64_t rows, uint16_t *y, void *packed, float *sums,
                      int threads) {
    const struct groups g = cut(rows, TALLEST);
    const int64_t height = height_of(g), all = blocks_of(p);
#pragma omp parallel num_threads(threads)
    {
        float *own = own_sums(sums, g.count * height);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++)
            pack_row(p, x, g, row, packed);
        shape_tiles(height);
#pragma omp for schedule(guided) nowait
        for (int64_t panel = 0; panel < panels_of(p); panel++) {
            const int64_t channel = panel * PANEL;
            for (int64_t start = 0; start < all; start += BLOCKS) {
                const int64_t blocks = smaller(all - start, BLOCKS);
                const char *weight = (const char *)p->weight + (panel * all + start) * BLOCK_BYTES;
                for (int64_t group = 0; group < g.count; group++) {
                    const char *first = (const char *)packed + (group * all + start) * height * ROW_BYTES;
                    const struct ahead ahead =
                        look_ahead(weight + blocks * BLOCK_BYTES, STEP_BYTES, blocks * HEIGHT, g, group);
                    float *here = own + group * height * PANEL;
                    if (height > HEIGHT)
                        tile(1, first, height, weight, blocks, ahead, here, start == 0);
                    else
                        tile(0, first, height, weight, blocks, ahead, here, start == 0);
                }
            }
            for (int64_t group = 0; group < g.count; group++) {
                const int64_t from = group_start(g, group);
                write_sums(own + group * height * PANEL, group_start(g, group + 1) - from, p->bias ? p->bias + channel : 0,
                           y + from * p->out + channel, p->out, p->out - channel);
            }
        }
        RELEASE();
    }
}
#endif
