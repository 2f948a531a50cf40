/* Products of whole tiles, as processors with AMX have instructions for them, and how rows are packed for them.
 *
 * A tile is 16 rows of 64 bytes. A product adds to a tile of sums, [rows][16 channels], a tile of rows, [rows][16 steps], times
 * one of weights, [16 steps][16 channels]; a step is four bytes of int8 or two bfloat16. A panel of the weight is two tiles wide, and
 * a group of rows one or two high: tiles 0 to 3 are its sums, 4 and 5 the rows, 6 and 7 the weights. What is in one row of a tile
 * changes no other.
 *
 * ADD_INT8 is exact. ADD_BFLOAT16 sums the products of the lower elements of all steps and those of the upper ones, each from
 * zero by fused multiplications and additions in the order of the steps, adds the two, and adds that to the tile of sums;
 * subnormal numbers are as in pairs.h (Intel's manual, TDPBF16PS). Tests compile the same in C.
 */
#ifndef PROMPTMILL_TILES_H
#define PROMPTMILL_TILES_H

#include "product.h"

#if LANES == 16 && (defined PROMPTMILL_EMULATED_TILES || (defined __AMX_INT8__ && defined __AMX_BF16__))
#define TILES
#define HEIGHT 16 /* rows of a tile; steps of a block, too */
#define TALLEST 32 /* rows of a group: two tiles */
#define ROW_BYTES 64
#define STEP_BYTES (4 * PANEL)
#define BLOCK_BYTES (HEIGHT * STEP_BYTES) /* of a weight, 16 steps of both tiles */
#define BLOCKS 16 /* that are done for all groups before the next ones: their weights stay in the core's first cache */

/* What the processor is told of the tiles. */
struct shapes {
    uint8_t palette, start, none[14];
    uint16_t bytes[16]; /* of a row */
    uint8_t rows[16];
};

#ifdef PROMPTMILL_EMULATED_TILES
#include "emulated.h"
#define CONFIGURE(shapes) emulated_configure(&(shapes))
#define RELEASE() emulated_release()
#define CLEAR(tile) emulated_clear(tile)
#define LOAD(tile, from, stride) emulated_load(tile, from, stride)
#define STORE(tile, to, stride) emulated_store(tile, to, stride)
#define ADD_INT8(sums, rows, weights) emulated_int8(sums, rows, weights)
#define ADD_BFLOAT16(sums, rows, weights) emulated_bfloat16(sums, rows, weights)
#else /* the compiler's own lack what tells it that memory is read */
#define CONFIGURE(shapes) __asm__ volatile("ldtilecfg %0" : : "m"(shapes))
#define RELEASE() __asm__ volatile("tilerelease")
#define CLEAR(tile) __asm__ volatile("tilezero %%tmm" #tile : :)
#define LOAD(tile, from, stride)                                                                                               \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile : : "r"(from), "r"((int64_t)(stride)) : "memory")
#define STORE(tile, to, stride)                                                                                                \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" : : "r"(to), "r"((int64_t)(stride)) : "memory")
#define ADD_INT8(sums, rows, weights) __asm__ volatile("tdpbssd %%tmm" #weights ", %%tmm" #rows ", %%tmm" #sums : :)
#define ADD_BFLOAT16(sums, rows, weights) __asm__ volatile("tdpbf16ps %%tmm" #weights ", %%tmm" #rows ", %%tmm" #sums : :)
#endif

/* All groups have places for `height` rows, the size of the largest one: the others leave one idle, which no row notices. */
INLINE int64_t height_of(struct groups g) { return g.rows ? (g.rows + g.count - 1) / g.count : 0; }

/* Give the tiles of this thread their sizes, for groups of `height` rows. */
INLINE void shape_tiles(int64_t height) {
    const int first = smaller(height, HEIGHT), second = height - first;
    struct shapes shapes = {.palette = 1};
    const int rows[8] = {first, first, second, second, first, second, HEIGHT, HEIGHT};
    for (int tile = 0; tile < 8; tile++) {
        shapes.rows[tile] = rows[tile];
        shapes.bytes[tile] = rows[tile] ? ROW_BYTES : 0;
    }
    CONFIGURE(shapes);
}

/* Where the 64 bytes of a row's block are, of as many blocks: group by group, block by block, row by row. */
INLINE char *row_block(void *packed, struct groups g, int64_t row, int64_t block, int64_t blocks) {
    const int64_t group = group_of(g, row), place = (group * blocks + block) * height_of(g) + row - group_start(g, group);
    return (char *)packed + place * ROW_BYTES;
}

/* A group's product with a block of a panel's weights added to the tiles of sums by `ADD`: ADD_INT8 or ADD_BFLOAT16. */
#define ADD_BLOCK(ADD, tall, x, w)                                                                                             \
    do {                                                                                                                       \
        LOAD(4, x, ROW_BYTES);                                                                                                 \
        LOAD(6, w, STEP_BYTES);                                                                                                \
        LOAD(7, (w) + ROW_BYTES, STEP_BYTES);                                                                                  \
        ADD(0, 4, 6);                                                                                                          \
        ADD(1, 4, 7);                                                                                                          \
        if (tall) {                                                                                                            \
            LOAD(5, (x) + HEIGHT * ROW_BYTES, ROW_BYTES);                                                                      \
            ADD(2, 5, 6);                                                                                                      \
            ADD(3, 5, 7);                                                                                                      \
        }                                                                                                                      \
    } while (0)

/* The four tiles of sums from or to [rows][PANEL] numbers of 4 bytes: `MOVE` is LOAD or STORE. */
#define MOVE_SUMS(MOVE, tall, sums)                                                                                            \
    do {                                                                                                                       \
        MOVE(0, sums, STEP_BYTES);                                                                                             \
        MOVE(1, (sums) + LANES, STEP_BYTES);                                                                                   \
        if (tall) {                                                                                                            \
            MOVE(2, (sums) + HEIGHT * PANEL, STEP_BYTES);                                                                      \
            MOVE(3, (sums) + HEIGHT * PANEL + LANES, STEP_BYTES);                                                              \
        }                                                                                                                      \
    } while (0)

#define CLEAR_SUMS(tall)                                                                                                       \
    do {                                                                                                                       \
        CLEAR(0);                                                                                                              \
        CLEAR(1);                                                                                                              \
        if (tall) {                                                                                                            \
            CLEAR(2);                                                                                                          \
            CLEAR(3);                                                                                                          \
        }                                                                                                                      \
    } while (0)

/* Ask for a block's share of the next weights. */
INLINE void prefetch_block(struct ahead ahead, int64_t block) {
    for (int turn = 0; turn < HEIGHT / UNROLL; turn++)
        prefetch(ahead, block * (HEIGHT / UNROLL) + turn);
}
#endif

#endif
