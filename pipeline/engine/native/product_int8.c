/* The product of rows with a packed int8 weight: quantise the rows, sum in whole numbers, scale back; one pass over each.
 *
 * Sums are exact, and what surrounds them is rounded one operation after the other (it is compiled without contraction), so
 * the bits are those of any other way to compute it. Needs AVX-512 with VNNI; there are no such functions for other processors.
 */
#include "product.h"

#ifdef __AVX512F__
#include <immintrin.h>

#define MOST 14 /* rows of a group */

enum { FIRST = 1, LAST = 2 }; /* whether a tile has the first steps of its sums, the last ones */

struct finish {
    const float *scale, *bias, *factor; /* of channels, of channels or null, of rows */
};

INLINE __mmask16 lanes(int64_t channels) { return channels >= LANES ? 0xffff : channels > 0 ? (1 << channels) - 1 : 0; }

INLINE __m512i begin(const int32_t *start, const float *place, __mmask16 mask, int when) {
    return when & FIRST ? _mm512_loadu_si512(start) : _mm512_maskz_loadu_epi32(mask, place);
}

/* y = sum * scale * factor + bias; sums that are not complete wait in y as they are */
INLINE void end(float *place, __m512i sum, __mmask16 mask, int when, struct finish f, int half, int row) {
    if (!(when & LAST)) {
        _mm512_mask_storeu_epi32(place, mask, sum);
        return;
    }
    __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_loadu_ps(f.scale + half));
    y = _mm512_mul_ps(y, _mm512_set1_ps(f.factor[row]));
    if (f.bias)
        y = _mm512_add_ps(y, _mm512_loadu_ps(f.bias + half));
    _mm512_mask_storeu_ps(place, mask, y);
}

/* The intrinsic would do, but the compiler keeps its sums in memory. */
#define MULTIPLY(sum, bytes, weight) __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(bytes), "v"(weight))

INLINE void tile(const int rows, const int32_t *x, const int8_t *w, int64_t steps, struct ahead ahead, const int32_t *start, float *y,
                 int64_t stride, int64_t channels, int when, struct finish f) {
    const __mmask16 left = lanes(channels), right = lanes(channels - LANES);
    /* variables with names of their own, as the compiler would keep an array of them in memory */
#define BEGIN(n)                                                                                                               \
    __m512i a##n, b##n;                                                                                                        \
    if (rows >= n) {                                                                                                           \
        a##n = begin(start, y + (n - 1) * stride, left, when);                                                                 \
        b##n = begin(start + LANES, y + (n - 1) * stride + LANES, right, when);                                                \
    }
#define STEP(n)                                                                                                                \
    if (rows >= n) {                                                                                                           \
        const __m512i bytes = _mm512_set1_epi32(x[k * rows + n - 1]);                                                          \
        MULTIPLY(a##n, bytes, w0);                                                                                             \
        MULTIPLY(b##n, bytes, w1);                                                                                             \
    }
#define END(n)                                                                                                                 \
    if (rows >= n) {                                                                                                           \
        end(y + (n - 1) * stride, a##n, left, when, f, 0, n - 1);                                                              \
        end(y + (n - 1) * stride + LANES, b##n, right, when, f, LANES, n - 1);                                                 \
    }
    EACH_ROW(BEGIN)
    for (int64_t k = 0; k < steps; k++) {
        prefetch(ahead, k);
        const __m512i w0 = _mm512_loadu_si512(w + k * 4 * PANEL), w1 = _mm512_loadu_si512(w + k * 4 * PANEL + 4 * LANES);
        EACH_ROW(STEP)
    }
    EACH_ROW(END)
}

static void any_tile(int rows, const int32_t *x, const int8_t *w, int64_t steps, struct ahead ahead, const int32_t *start,
                            float *y, int64_t stride, int64_t channels, int when, struct finish f) {
    switch (rows) {
#define ROWS(n) case n: tile(n, x, w, steps, ahead, start, y, stride, channels, when, f); break;
        EACH_ROW(ROWS)
    }
}

/* The largest magnitude of a row, at least a little; no number if the row has something that is not finite. */
INLINE float largest_of(const float *x, int64_t width) {
    __m512 most = _mm512_set1_ps(1e-12f), strange = _mm512_setzero_ps();
    for (int64_t i = 0; i < width; i += LANES) {
        const __m512 v = _mm512_abs_ps(_mm512_maskz_loadu_ps(lanes(width - i), x + i));
        most = _mm512_max_ps(v, most);
        strange = _mm512_add_ps(strange, _mm512_mul_ps(v, _mm512_setzero_ps())); /* 0, or not a number */
    }
    return _mm512_reduce_max_ps(most) + _mm512_reduce_add_ps(strange);
}

/* q = x * 127 / max|x|, to nearest, ties to even, shifted by 128; four bytes are a step. Returns max|x|. Rows of a group lie as
 * in float32: step by step, the rows of a step together, DEPTH steps after the other. */
static float quantise_row(const float *x, int64_t width, int32_t *packed, struct groups g, int64_t row) {
    const float largest = largest_of(x, width);
    const __m512 factor = _mm512_set1_ps(127.0f / largest);
    const __m128i shift = _mm_set1_epi8(-128);
    const int64_t group = group_of(g, row), from = group_start(g, group), rows = group_start(g, group + 1) - from;
    const int64_t all = (width + 3) / 4;
    for (int64_t start = 0; start < all; start += DEPTH) {
        const int64_t steps = smaller(all - start, DEPTH);
        int32_t *out = packed + start * g.rows + from * steps + row - from;
        for (int64_t k = 0; k < steps; k += 4, out += 4 * rows) {
            const int64_t here = 4 * (start + k);
            const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes(width - here), x + here), factor);
            const __m128i bytes = _mm_xor_si128(_mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)), shift);
            out[0] = _mm_extract_epi32(bytes, 0);
            if (k + 4 > steps) { /* the last steps of a row may be fewer than four */
                if (k + 1 < steps)
                    out[rows] = _mm_extract_epi32(bytes, 1);
                if (k + 2 < steps)
                    out[2 * rows] = _mm_extract_epi32(bytes, 2);
                break;
            }
            out[rows] = _mm_extract_epi32(bytes, 1);
            out[2 * rows] = _mm_extract_epi32(bytes, 2);
            out[3 * rows] = _mm_extract_epi32(bytes, 3);
        }
    }
    return largest;
}

/* Put an int8 weight [out][in] into panels, and what each channel's sums begin with: rows are shifted by 128, so less that. */
void pack_int8(const struct product *p, const int8_t *weight, int threads) {
    int8_t *packed = (int8_t *)p->weight;
    int32_t *starts = (int32_t *)p->start;
    const int64_t steps = (p->in + 3) / 4;
#pragma omp parallel for num_threads(threads)
    for (int64_t panel = 0; panel < panels_of(p); panel++)
        for (int64_t c = 0; c < PANEL; c++) {
            const int64_t channel = panel * PANEL + c;
            int32_t sum = 0;
            for (int64_t i = 0; i < 4 * steps; i++) {
                const int8_t w = channel < p->out && i < p->in ? weight[channel * p->in + i] : 0;
                packed[((panel * steps + i / 4) * PANEL + c) * 4 + i % 4] = w;
                sum += w;
            }
            starts[channel] = -128 * sum;
        }
}

/* `packed` is room for a number for every four of a row's elements, and `factors` for one a row. */
void product_int8(const struct product *p, const float *x, int64_t rows, float *y, int32_t *packed, float *factors, int threads) {
    const struct groups g = cut(rows, MOST);
    const int64_t all = (p->in + 3) / 4;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++)
            factors[row] = quantise_row(x + row * p->in, p->in, packed, g, row);
#pragma omp for schedule(guided)
        for (int64_t panel = 0; panel < panels_of(p); panel++)
            for (int64_t start = 0; start < all; start += DEPTH) {
                const int64_t steps = smaller(all - start, DEPTH), channel = panel * PANEL;
                const int8_t *weight = (const int8_t *)p->weight + (panel * all + start) * PANEL * 4;
                const int when = (start == 0 ? FIRST : 0) | (start + steps == all ? LAST : 0);
                for (int64_t group = 0; group < g.count; group++) {
                    const int64_t from = group_start(g, group);
                    const struct finish f = {p->scale + channel, p->bias ? p->bias + channel : 0, factors + from};
                    any_tile(group_start(g, group + 1) - from, packed + start * rows + from * steps, weight, steps,
                             look_ahead(weight + steps * PANEL * 4, steps, g, group), p->start + channel,
                             y + from * p->out + channel, p->out, smaller(p->out - channel, PANEL), when, f);
                }
            }
    }
}

/* Whether the processor has the instructions. */
int multiplies_int8(void) { return __builtin_cpu_supports("avx512vnni") != 0; }
#endif
