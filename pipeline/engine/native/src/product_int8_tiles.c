/* The product of rows with a packed int8 weight, by instructions for whole tiles: a stretch is just what a tile holds of a row.
 *
 * Sums leave the tiles after every stretch, to be scaled. While that is done for one, the tiles are at the next.
 */
#include "tiles.h"

#ifdef TILES
#include "int8.h"

/* whole [height][PANEL] = the sums of a stretch */
INLINE void sum_stretch(const int tall, const char *x, const char *w, int32_t *whole) {
    CLEAR_SUMS(tall);
    ADD_BLOCK(ADD_INT8, tall, x, w);
    MOVE_SUMS(STORE, tall, whole);
}

/* y = the sums of a group over some stretches, for a panel of channels; not the `first` ones: y += these sums. `count` places of
 * its `height` are rows. `panel` is the whole product's panel where these stretches are the last, else null. */
INLINE void tile(const int tall, const char *x, int64_t height, int64_t count, const char *w, int64_t stretches,
                 struct ahead ahead, const float *scale, struct rows of, float *y, int64_t stride, int64_t channels, int first,
                 const struct panel *panel) {
    float sums[TALLEST][PANEL] __attribute__((aligned(64))) = {0};
    int32_t whole[2][TALLEST][PANEL] __attribute__((aligned(64)));
    const size_t width = smaller(channels, PANEL) * sizeof(float);
    if (!first)
        for (int64_t r = 0; r < count; r++)
            memcpy(sums[r], y + r * stride, width);
    sum_stretch(tall, x, w, whole[0][0]);
    for (int64_t i = 0; i < stretches; i++) {
        const int64_t next = i + 1;
        prefetch_block(ahead, i);
        if (next < stretches)
            sum_stretch(tall, x + next * height * ROW_BYTES, w + next * BLOCK_BYTES, whole[next % 2][0]);
        for (int64_t r = 0; r < count; r++)
            for (int v = 0; v < 2; v++)
                add(sums[r] + v * LANES, *(const ivec *)(whole[i % 2][r] + v * LANES), scale + i * PANEL + v * LANES,
                    of.factors[i * of.all + r].scale);
    }
    for (int64_t r = 0; r < count; r++) {
        if (panel)
            finish(sums[r], of.outliers + r * OUTLIERS, panel);
        memcpy(y + r * stride, sums[r], width);
    }
}

static void quantise_row(const float *x, const struct product *p, void *packed, struct factor *factors, struct outlier *outliers,
                         struct groups g, int64_t row) {
    find_outliers(x, p->in, outliers);
    for (int64_t stretch = 0; stretch < stretches_of(p); stretch++) {
        int8_t *q = (int8_t *)row_block(packed, g, row, stretch, stretches_of(p));
        factors[stretch * g.rows + row] = quantise_stretch(p, x, stretch, outliers, q);
    }
}

void pack_int8(const struct product *p, const void *weight, int64_t out_stride, int64_t in_stride, int threads) {
    pack_panels(p, weight, out_stride, in_stride, stretches_of(p) * STEPS, threads);
}

/* `packed` is room for a stretch's bytes for every stretch and place of a group, `factors` for a factor for every stretch of a row. */
void product_int8(const struct product *p, const float *x, int64_t rows, float *y, int32_t *packed, struct factor *factors,
                  struct outlier *outliers, int threads) {
    const struct groups g = cut(rows, TALLEST);
    const int64_t height = height_of(g), all = stretches_of(p);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++)
            quantise_row(x + row * p->in, p, packed, factors, outliers + row * OUTLIERS, g, row);
        shape_tiles(height);
#pragma omp for schedule(guided) nowait
        for (int64_t i = 0; i < panels_of(p); i++) {
            const int64_t channel = i * PANEL;
            const struct panel panel = {(const int8_t *)p->weight + i * all * BLOCK_BYTES, p->scale + i * all * PANEL,
                                        p->bias ? p->bias + channel : 0};
            for (int64_t start = 0; start < all; start += BLOCKS) {
                const int64_t stretches = smaller(all - start, BLOCKS);
                const char *weight = (const char *)panel.weight + start * BLOCK_BYTES;
                for (int64_t group = 0; group < g.count; group++) {
                    const int64_t from = group_start(g, group), count = group_start(g, group + 1) - from;
                    const char *first = (const char *)packed + (group * all + start) * height * ROW_BYTES;
                    const struct ahead ahead =
                        look_ahead(weight + stretches * BLOCK_BYTES, STEP_BYTES, stretches * HEIGHT, g, group);
                    const struct rows of = {factors + start * rows + from, outliers + from * OUTLIERS, rows};
                    const struct panel *last = start + stretches == all ? &panel : 0;
                    float *here = y + from * p->out + channel;
                    if (height > HEIGHT)
                        tile(1, first, height, count, weight, stretches, ahead, panel.scale + start * PANEL, of, here, p->out,
                             p->out - channel, start == 0, last);
                    else
                        tile(0, first, height, count, weight, stretches, ahead, panel.scale + start * PANEL, of, here, p->out,
                             p->out - channel, start == 0, last);
                }
            }
        }
        RELEASE();
    }
}
#endif
