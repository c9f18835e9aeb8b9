/* What a decode step of a Llama does between its matrix products: norms, rotations, attention over a cache of slots.
 *
 * Compiled for one model (see kernels.py): WIDTH is the width of a head, GROUP the number of query heads that share keys;
 * LANES divides half of WIDTH and the width of hidden states. Sums are fp32, each made by one thread in one order: no
 * number depends on threads or on other rows.
 *
 * Keys lie in blocks of LANES positions, (T / LANES, D, LANES): one number of LANES keys is one load, and their scores are
 * made together without a sum across lanes.
 */

#include "vectors.h"

#define PARTS (WIDTH / LANES)
#define HALF (WIDTH / 2)

static inline float norm_scale(const float *row, int64_t width, float floor) {
    lanes squares = {};
    for (int64_t i = 0; i < width; i += LANES) squares += *(const lanes *)(row + i) * *(const lanes *)(row + i);
    return 1.0f / sqrtf(floor + total(squares) / (float)width);
}

/* hidden (N, E) += added (N, E) unless that is NULL; normed (N, E) = its root-mean-square norm, times weight (E). */
void add_and_norm(float *hidden, const element *added, const float *weight, float floor, element *normed, int64_t rows,
                  int64_t width, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t n = 0; n < rows; n++) {
        float *row = hidden + n * width;
        for (int64_t i = 0; added && i < width; i += LANES) *(lanes *)(row + i) += loaded(added + n * width + i);
        float scale = norm_scale(row, width, floor);
        for (int64_t i = 0; i < width; i += LANES)
            store(normed + n * width + i, *(lanes *)(row + i) * scale * *(const lanes *)(weight + i));
    }
}

/* A head (D), normed if weight is not NULL, turned by the angles of its position (RoPE), times scaling. */
static inline void turned(const element *head, const float *cosines, const float *sines, const float *weight,
                          float floor, float scaling, float *out) {
    float plain[WIDTH];
    for (int d = 0; d < WIDTH; d += LANES) *(lanes *)(plain + d) = loaded(head + d);
    if (weight) {
        float scale = norm_scale(plain, WIDTH, floor);
        for (int d = 0; d < WIDTH; d++) plain[d] *= scale * weight[d];
    }
    for (int d = 0; d < HALF; d++) {
        out[d] = scaling * (plain[d] * cosines[d] - plain[d + HALF] * sines[d]);
        out[d + HALF] = scaling * (plain[d + HALF] * cosines[d + HALF] + plain[d] * sines[d + HALF]);
    }
}

static inline void store_key(const float *key, int64_t position, element *keys) {
    element rounded[WIDTH], *column = keys + position / LANES * LANES * WIDTH + position % LANES;
    for (int d = 0; d < WIDTH; d += LANES) store(rounded + d, *(const lanes *)(key + d));
    for (int d = 0; d < WIDTH; d++) column[d * LANES] = rounded[d];
}

/* Asks for what will be read a block from here. All at once, they would wait for each other. */
static inline void fetch_next(const element *from) { __builtin_prefetch(from + LANES * WIDTH, 0, 2); }

/* Scores (GROUP, LANES) of a block of keys (D, LANES); two sums of each go on side by side. */
static inline void scored(const float *queries, const element *block, lanes *scores) {
    lanes sums[2][GROUP] = {};
    for (int d = 0; d < WIDTH; d += 2) {
        fetch_next(block + d * LANES);
        for (int part = 0; part < 2; part++) {
            lanes key = loaded(block + (d + part) * LANES);
            for (int g = 0; g < GROUP; g++) sums[part][g] += key * queries[g * WIDTH + d + part];
        }
    }
    for (int g = 0; g < GROUP; g++) scores[g] = sums[0][g] + sums[1][g];
}

static inline float highest(lanes values) {
    float near[LANES];
    *(lanes *)near = values;
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) near[i] = near[i] > near[i + half] ? near[i] : near[i + half];
    return near[0];
}

/* Softmax attention of queries (GROUP, D) to the positions from `first` to before `end`, block by block with a running
 * largest score (arXiv 2112.05682); out is (GROUP, D). */
static inline void attended(const float *queries, const element *keys, const element *values, int64_t first, int64_t end,
                            element *out) {
    lanes sums[GROUP][PARTS] = {}, totals[GROUP] = {}, weights[GROUP];
    float largest[GROUP];
    for (int g = 0; g < GROUP; g++) largest[g] = -FLT_MAX;
    integers place;
    for (int i = 0; i < LANES; i++) place[i] = i;
    for (int64_t start = first / LANES * LANES; start < end; start += LANES) {
        int from = first > start ? first - start : 0, count = end - start < LANES ? end - start : LANES;
        integers seen = (place >= from) & (place < count);
        scored(queries, keys + start * WIDTH, weights);
        for (int g = 0; g < GROUP; g++) {
            lanes scores = chosen(seen, weights[g], every(-INFINITY));
            float top = highest(scores);
            if (top > largest[g]) { /* rarely, but for the first blocks */
                float kept = exponential(every(largest[g] - top))[0];
                largest[g] = top, totals[g] *= kept;
                for (int p = 0; p < PARTS; p++) sums[g][p] *= kept;
            }
            weights[g] = chosen(seen, exponential(scores - largest[g]), every(0));
            totals[g] += weights[g];
        }
        for (int i = from; i < count; i++)
            for (int p = 0; p < PARTS; p++) {
                const element *at = values + (start + i) * WIDTH + p * LANES;
                lanes part = loaded(at);
                if (p % 2 == 0) fetch_next(at);
                for (int g = 0; g < GROUP; g++) sums[g][p] += ((float *)(weights + g))[i] * part;
            }
    }
    for (int g = 0; g < GROUP; g++)
        for (int p = 0; p < PARTS; p++) store(out + g * WIDTH + p * LANES, sums[g][p] / total(totals[g]));
}

/* One token of each of N slots: heads (N, H + 2K, D) are its queries, keys and values before norms (query_weight and
 * key_weight (D), or NULL) and rotation (cosines and sines, (N, D)). Its keys and values are stored at positions[n] of its
 * slot in keys (slots, K, T / LANES, D, LANES) and values (slots, K, T, D), T being `capacity`; its queries attend to all
 * up to there, or to the newest `window` of them if that is not 0. out is (N, H, D). */
void attend_slots(const element *heads, const float *cosines, const float *sines, const float *query_weight,
                  const float *key_weight, float floor, element *keys, element *values, const int64_t *positions,
                  int64_t rows, int64_t sets, int64_t capacity, int64_t window, float scaling, element *out,
                  int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 4)
    for (int64_t job = 0; job < rows * sets; job++) {
        int64_t n = job / sets, set = job % sets, position = positions[n];
        const element *row = heads + n * (GROUP + 2) * sets * WIDTH, *key = row + (GROUP * sets + set) * WIDTH;
        const float *cosine = cosines + n * WIDTH, *sine = sines + n * WIDTH;
        float queries[GROUP * WIDTH], turned_key[WIDTH];
        for (int g = 0; g < GROUP; g++)
            turned(row + (set * GROUP + g) * WIDTH, cosine, sine, query_weight, floor, scaling, queries + g * WIDTH);
        turned(key, cosine, sine, key_weight, floor, 1, turned_key);
        element *own_keys = keys + job * capacity * WIDTH, *own_values = values + job * capacity * WIDTH;
        store_key(turned_key, position, own_keys);
        memcpy(own_values + position * WIDTH, key + sets * WIDTH, WIDTH * sizeof(element));
        int64_t first = window && position >= window ? position + 1 - window : 0;
        attended(queries, own_keys, own_values, first, position + 1, out + job * GROUP * WIDTH);
    }
}
