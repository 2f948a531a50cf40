/* From logits to a token, and to its statistics, a row at a time: no row sees another, and every sum has one order. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "vector.h"

#define BLOCK 128 /* probabilities that are summed in float32; such sums are added up in float64 */

/* Where a row's numbers lie while it is worked on. */
struct room {
    float *logits, *weights;
    uint32_t *keys;
};

INLINE vec read_padded(const float *x, int64_t i, int64_t count) {
    if (i + LANES <= count)
        return *(const vec *)(x + i);
    vec v = splat(-INFINITY);
    if (i < count)
        memcpy(&v, x + i, (count - i) * sizeof(float));
    return v;
}

INLINE float largest(const float *x, int64_t count) {
    vec most = splat(-INFINITY);
    for (int64_t i = 0; i < count; i += LANES) {
        const vec v = read_padded(x, i, count);
        most = choose(v > most, v, most);
    }
    float top = most[0];
    for (int lane = 1; lane < LANES; lane++)
        top = most[lane] > top ? most[lane] : top;
    return top;
}

INLINE float total(struct sums s) {
    float x[WIDTH];
    memcpy(x, &s, sizeof x);
    for (int half = WIDTH / 2; half > 2; half /= 2)
        for (int i = 0; i < half; i++)
            x[i] += x[i + half];
    return (x[0] + x[1]) + (x[2] + x[3]);
}

/* What a token of logit z weighs: exp(z - most), and nothing below the threshold. */
INLINE vec weigh(vec z, float most, float threshold) { return choose(z < splat(threshold), splat(0.0f), exponential(z - most)); }

/* Whole numbers in the order of the floats that they stand for. */
INLINE uint32_t key_of(float x) {
    uint32_t bits;
    x += 0.0f; /* -0 is 0 */
    memcpy(&bits, &x, 4);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

INLINE float float_of(uint32_t key) {
    const uint32_t bits = key & 0x80000000u ? key & 0x7fffffffu : ~key;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

/* The largest of `count` keys that reaches `bound` together with those above it; the least one if none does. Digit by digit,
 * with a pass over those that are left. Each weighs its weight, or 1. Keys and weights are overwritten. */
INLINE uint32_t reach(uint32_t *keys, float *weights, int64_t count, double bound, const int weighted) {
    static const int shifts[] = {21, 10, 0}, widths[] = {11, 11, 10};
    double bins[1 << 11], above = 0;
    uint32_t found = 0;
    for (int pass = 0; pass < 3; pass++) {
        const int shift = shifts[pass];
        const uint32_t mask = (1u << widths[pass]) - 1;
        memset(bins, 0, sizeof bins);
        for (int64_t i = 0; i < count; i++)
            bins[keys[i] >> shift & mask] += weighted ? weights[i] : 1.0;
        uint32_t digit = 0;
        double before = above, sum = above;
        for (int64_t bin = mask; bin >= 0 && (sum < bound || sum == 0); bin--) /* one at least, however small the bound */
            if (bins[bin] > 0) {
                digit = bin;
                before = sum;
                sum += bins[bin];
            }
        above = before;
        found |= digit << shift;
        int64_t left = 0;
        for (int64_t i = 0; i < count; i++)
            if ((keys[i] >> shift & mask) == digit) {
                keys[left] = keys[i];
                if (weighted)
                    weights[left] = weights[i];
                left++;
            }
        count = left;
    }
    return found;
}

struct rule {
    float temperature, top_p, log_min_p;
    int64_t top_k; /* the vocabulary's size where it is off */
};

/* The least logit that min-p, then top-k among what is left, then top-p keep. Tokens that tie with it are kept. */
INLINE float threshold_of(const float *z, int64_t vocabulary, float most, struct rule rule, struct room room) {
    float least = most + rule.log_min_p;
    if (rule.top_k < vocabulary) {
        int64_t count = 0;
        for (int64_t i = 0; i < vocabulary; i++) {
            room.keys[count] = key_of(z[i]);
            count += z[i] >= least;
        }
        if (count > rule.top_k)
            least = float_of(reach(room.keys, 0, count, rule.top_k, 0));
    }
    if (rule.top_p < 1) {
        double mass = 0;
        int64_t count = 0;
        for (int64_t from = 0; from < vocabulary; from += BLOCK) {
            struct sums sum = {0};
            for (int64_t i = from; i < from + BLOCK; i += WIDTH)
                for (int part = 0; part < VECTORS; part++) {
                    const vec v = read_padded(z, i + part * LANES, vocabulary), w = weigh(v, most, least);
                    sum.part[part] += w;
                    for (int lane = 0; lane < LANES; lane++) {
                        room.keys[count] = key_of(v[lane]);
                        room.weights[count] = w[lane];
                        count += w[lane] > 0;
                    }
                }
            mass += total(sum);
        }
        if (count)
            least = float_of(reach(room.keys, room.weights, count, rule.top_p * mass, 1));
    }
    return least;
}

/* Invert the distribution at `uniform`: the block in the running sum of the blocks' sums, then the token in the block. Rounding
 * may carry past the end; it is the last token that weighs anything then. */
INLINE int64_t invert(const float *z, int64_t vocabulary, float most, float threshold, double uniform, double *sums) {
    const int64_t blocks = (vocabulary + BLOCK - 1) / BLOCK;
    double mass = 0, running = 0, before = 0;
    for (int64_t b = 0; b < blocks; b++) {
        struct sums sum = {0};
        for (int64_t i = b * BLOCK; i < (b + 1) * BLOCK; i += WIDTH)
            for (int part = 0; part < VECTORS; part++)
                sum.part[part] += weigh(read_padded(z, i + part * LANES, vocabulary), most, threshold);
        mass += sums[b] = total(sum);
    }
    const double target = uniform * mass;
    int64_t block = 0, token = 0;
    for (int64_t b = 0; b < blocks && !(running > target); b++)
        if (sums[b] > 0) {
            block = b;
            before = running;
            running += sums[b];
        }
    token = block * BLOCK;
    running = before;
    for (int64_t i = block * BLOCK; i < (block + 1) * BLOCK && !(running > target); i += LANES) {
        const vec w = weigh(read_padded(z, i, vocabulary), most, threshold);
        for (int lane = 0; lane < LANES && !(running > target); lane++)
            if (w[lane] > 0) {
                token = i + lane;
                running += w[lane];
            }
    }
    return token;
}

static int64_t choose_token(const float *logits, int64_t vocabulary, int greedy, struct rule rule, double uniform, struct room room,
                            float *threshold) {
    const float *z = logits;
    if (greedy) {
        const float most = largest(z, vocabulary);
        int64_t token = 0;
        while (token < vocabulary - 1 && z[token] != most)
            token++;
        *threshold = most;
        return z[token] == most ? token : 0;
    }
    if (rule.temperature != 1) {
        for (int64_t i = 0; i < vocabulary; i += LANES)
            *(vec *)(room.logits + i) = read_padded(z, i, vocabulary) / rule.temperature;
        z = room.logits;
    }
    const float most = largest(z, vocabulary);
    *threshold = threshold_of(z, vocabulary, most, rule, room);
    return invert(z, vocabulary, most, *threshold, uniform, (double *)room.keys);
}

/* What rows' statistics are made of: the largest logit, the logarithm of the sum of exp(logit - largest), the entropy, the token's
 * rank, whether all logits are finite. */
struct measures {
    float *most, *log_sum, *entropy;
    int32_t *rank;
    uint8_t *finite;
};

static void measure_row(const float *x, int64_t vocabulary, int64_t token, int64_t row, struct measures out) {
    const float most = largest(x, vocabulary), own = x[token];
    const int64_t complete = vocabulary / WIDTH * WIDTH;
    double sum = 0, sum_of_products = 0;
    ivec larger = {0};
    vec strange = {0};
    for (int64_t from = 0; from < vocabulary; from += 8 * BLOCK) {
        struct sums weights = {0}, products = {0};
        for (int64_t i = from; i < from + 8 * BLOCK && i < vocabulary; i += WIDTH)
            for (int part = 0; part < VECTORS; part++) {
                const vec v = read_padded(x, i + part * LANES, vocabulary), below = v - most, e = exponential(below);
                weights.part[part] += e;
                products.part[part] += choose(e > splat(0.0f), e * below, splat(0.0f));
                larger -= v > splat(own);
                if (i < complete)
                    strange += v * 0.0f; /* 0, or not a number */
            }
        sum += total(weights);
        sum_of_products += total(products);
    }
    int32_t rank = 1;
    float odd = 0;
    for (int lane = 0; lane < LANES; lane++) {
        rank += larger[lane];
        odd += strange[lane];
    }
    for (int64_t i = complete; i < vocabulary; i++)
        odd += x[i] * 0.0f;
    out.most[row] = most;
    out.log_sum[row] = log(sum);
    out.entropy[row] = log(sum) - sum_of_products / sum;
    out.rank[row] = rank;
    out.finite[row] = odd == 0;
}

/* The rules of rows, an entry for each in every array. */
struct rules {
    const uint8_t *greedy;
    const float *temperature, *top_p, *log_min_p;
    const int64_t *top_k;
    const double *uniform;
};

/* Tokens, and the least logits (after temperature) that were kept for each row. `room` has three times `each` floats for each
 * thread, where that is the vocabulary and at least a vector more. */
void choose_tokens(const float *logits, int64_t rows, int64_t vocabulary, const struct rules *rules, int64_t *tokens,
                   float *thresholds, float *room, int64_t each, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t row = 0; row < rows; row++) {
        float *mine = room + omp_get_thread_num() * 3 * each;
        const struct room places = {mine, mine + each, (uint32_t *)(mine + 2 * each)};
        const struct rule rule = {rules->temperature[row], rules->top_p[row], rules->log_min_p[row], rules->top_k[row]};
        tokens[row] = choose_token(logits + row * vocabulary, vocabulary, rules->greedy[row], rule, rules->uniform[row], places,
                                   thresholds + row);
    }
}

void measure_tokens(const float *logits, int64_t rows, int64_t vocabulary, const int64_t *tokens, const struct measures *out,
                    int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t row = 0; row < rows; row++)
        measure_row(logits + row * vocabulary, vocabulary, tokens[row], row, *out);
}
