/* One token a row, drawn from the softmax of its logits: see sampling.py, which says the same in torch.
 *
 * A row is read three times and nothing of it is written; it is worked on by one thread in one order. Weights of BLOCK
 * tokens (see drawing.py) are summed in fp32, and those sums in fp64.
 */

#define LANES 16
#include "vectors.h"

/* LANES logits from `i` on, -inf from `count` on. */
static inline lanes some(const element *row, int64_t i, int64_t count) {
    if (i + LANES <= count) return loaded(row + i);
    lanes found = every(-INFINITY);
    for (int lane = 0; i + lane < count; lane++) {
        element near[LANES] = {};
        near[0] = row[i + lane];
        found[lane] = loaded(near)[0];
    }
    return found;
}

/* exp((x - top) / temperature), or none where that is below 1.6e-38. */
static inline lanes weighed(lanes logits, float top, float temperature) {
    lanes x = (logits - top) / temperature;
    return chosen(x < every(-87.0f), every(0), exponential(x));
}

static float largest(const element *row, int64_t count) {
    lanes tops = every(-INFINITY);
    for (int64_t i = 0; i < count; i += LANES) {
        lanes logits = some(row, i, count);
        tops = chosen(logits > tops, logits, tops);
    }
    float top = tops[0];
    for (int lane = 1; lane < LANES; lane++) top = tops[lane] > top ? tops[lane] : top;
    return top;
}

static int64_t first_of(const element *row, int64_t count, float top) {
    for (int64_t i = 0; i < count; i += LANES) {
        integers same = some(row, i, count) == top;
        for (int lane = 0; lane < LANES; lane++)
            if (same[lane] && i + lane < count) return i + lane;
    }
    return 0;
}

static double block_sum(const element *row, int64_t start, int64_t count, float top, float temperature) {
    lanes sums = {};
    for (int64_t i = start; i < start + BLOCK && i < count; i += LANES)
        sums += weighed(some(row, i, count), top, temperature);
    return total(sums);
}

/* The first token at which the running sum of weights exceeds `target`, at most the last one of any weight: sets `weight`
 * to its own. Sums are those of the blocks, then those within the block that is found. */
static int64_t found_at(const element *row, int64_t count, const double *sums, double target, float top, float temperature,
                        float *weight) {
    int64_t block = -1, token = 0;
    double before = 0, running = 0;
    for (int64_t b = 0; b * BLOCK < count && running <= target; b++)
        if (sums[b] > 0) block = b, before = running, running += sums[b];
    *weight = NAN;
    if (block < 0) return 0;
    running = before;
    for (int64_t i = block * BLOCK; i < (block + 1) * BLOCK && i < count; i += LANES) {
        lanes weights = weighed(some(row, i, count), top, temperature);
        for (int lane = 0; lane < LANES; lane++)
            if (weights[lane] > 0 && running <= target) token = i + lane, *weight = weights[lane], running += *weight;
    }
    return token;
}

/* tokens and logprobs (N) of logits (N, V) at uniforms (N) in [0, 1). Temperature 0 takes the first of the most likely
 * tokens and the log-prob it has at temperature 1. `sums` has room for (N, V / BLOCK), rounded up. */
void draw(const element *logits, const double *uniforms, int64_t rows, int64_t count, float temperature, double *sums,
          int64_t *tokens, float *logprobs, int threads) {
    int64_t blocks = (count + BLOCK - 1) / BLOCK;
    float divisor = temperature > 0 ? temperature : 1;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t n = 0; n < rows; n++) {
        const element *row = logits + n * count;
        double *own = sums + n * blocks, whole = 0;
        float top = largest(row, count), weight = 1;
        for (int64_t b = 0; b < blocks; b++) whole += own[b] = block_sum(row, b * BLOCK, count, top, divisor);
        if (temperature > 0)
            tokens[n] = found_at(row, count, own, uniforms[n] * whole, top, divisor, &weight);
        else
            tokens[n] = first_of(row, count, top);
        logprobs[n] = log(weight / whole);
    }
}
