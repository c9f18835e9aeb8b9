/* Products of rows with a packed matrix, bfloat16 with fp32 sums, for processors that multiply bfloat16 in pairs.
 *
 * Decoding has few rows and a great many products, each too short for a general library to reach its speed. A number is
 * summed by one thread in one order, so it does not depend on threads or on other rows.
 *
 * The matrix (O, I) lies in panels of COLUMNS of its rows (see products.py), (O / COLUMNS, I / 2, COLUMNS, 2): one load holds a pair of
 * inputs for each of 16 outputs.
 */

#if defined(__AVX512BF16__) && !defined(__AMX_BF16__) /* with tiles, oneDNN is faster */

#define LANES 16
#define BF16
#include "vectors.h"

#include <immintrin.h>

#define ROWS 8
#define PARTS (COLUMNS / LANES)
#define CHUNK 64 /* rows that pass over a panel while it is near */

static inline void summed(const element *const *rows, const element *panel, int64_t inputs, __m512 sums[ROWS][PARTS]) {
    for (int r = 0; r < ROWS; r++)
        for (int p = 0; p < PARTS; p++) sums[r][p] = _mm512_setzero_ps();
    for (int64_t i = 0; i < inputs; i += 2) {
        __m512bh weights[PARTS];
        for (int p = 0; p < PARTS; p++)
            weights[p] = (__m512bh)_mm512_loadu_si512(panel + i * COLUMNS + p * 2 * LANES);
        for (int r = 0; r < ROWS; r++) {
            int32_t pair;
            memcpy(&pair, rows[r] + i, sizeof pair);
            for (int p = 0; p < PARTS; p++)
                sums[r][p] = _mm512_dpbf16_ps(sums[r][p], (__m512bh)_mm512_set1_epi32(pair), weights[p]);
        }
    }
}

static inline lanes swished(lanes x) {
    lanes size = chosen(x < every(0), -x, x), small = chosen(size > every(87), every(0), exponential(-size));
    return x * chosen(x < every(0), small, every(1)) / (small + 1);
}

/* `count` of LANES outputs: the sum, plus bias unless that is NULL, its swish if asked for, times factors unless NULL. */
static inline void finish(element *out, lanes sum, const element *bias, const element *factors, int swish, int count) {
    element near[3][LANES] = {};
    if (bias) memcpy(near[0], bias, count * sizeof(element)), sum += loaded(near[0]);
    if (swish) sum = swished(sum);
    if (factors) memcpy(near[1], factors, count * sizeof(element)), sum *= loaded(near[1]);
    store(near[2], sum);
    memcpy(out, near[2], count * sizeof(element));
}

/* out (N, O) of rows (N, I); bias is (O), factors are (N, O). */
void multiply(const element *rows, const element *matrix, const element *bias, const element *factors, int swish,
              element *out, int64_t count, int64_t inputs, int64_t outputs, int threads) {
    int64_t panels = (outputs + COLUMNS - 1) / COLUMNS, chunks = (count + CHUNK - 1) / CHUNK;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t job = 0; job < chunks * panels; job++) {
        int64_t first = job / panels * CHUNK, start = job % panels * COLUMNS;
        int64_t end = first + CHUNK < count ? first + CHUNK : count;
        for (int64_t n = first; n < end; n += ROWS) {
            const element *some[ROWS];
            for (int r = 0; r < ROWS; r++) some[r] = rows + (n + r < end ? n + r : end - 1) * inputs;
            __m512 sums[ROWS][PARTS];
            summed(some, matrix + start * inputs, inputs, sums);
            for (int r = 0; r < ROWS && n + r < end; r++)
                for (int64_t p = 0, o = start; p < PARTS && o < outputs; p++, o += LANES) {
                    int64_t at = (n + r) * outputs + o, left = outputs - o < LANES ? outputs - o : LANES;
                    const element *factor = factors ? factors + at : NULL;
                    if (left == LANES) /* a count that the compiler knows makes each copy one instruction */
                        finish(out + at, (lanes)sums[r][p], bias ? bias + o : NULL, factor, swish, LANES);
                    else
                        finish(out + at, (lanes)sums[r][p], bias ? bias + o : NULL, factor, swish, left);
                }
        }
    }
}

#endif
