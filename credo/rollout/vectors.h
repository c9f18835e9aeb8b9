/* Vectors of LANES numbers in the types of GCC and Clang, whatever the processor has.
 *
 * LANES is a power of two up to 16. BF16 is defined where `element`, what products read and write, is bfloat16 and not
 * float.
 */

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t integers __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t bits __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#ifdef BF16
typedef uint16_t element;
typedef uint16_t elements __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

static inline lanes loaded(const element *from) {
    return (lanes)(__builtin_convertvector(*(const elements *)from, bits) << 16);
}

static inline void store(element *to, lanes values) { /* rounded to nearest, ties to even; NaN stays NaN */
    bits whole = (bits)values, numbers = (bits)(values == values);
    bits nearest = (whole + 0x7FFFu + ((whole >> 16) & 1u)) >> 16;
    *(elements *)to = __builtin_convertvector((nearest & numbers) | (~numbers & 0x7FC0u), elements);
}
#else
typedef float element;

static inline lanes loaded(const element *from) { return *(const lanes *)from; }
static inline void store(element *to, lanes values) { *(lanes *)to = values; }
#endif

static inline lanes every(float value) { return (lanes){} + value; }

static inline lanes chosen(integers where, lanes these, lanes those) {
    return (lanes)((where & (integers)these) | (~where & (integers)those));
}

static inline float total(lanes values) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += values[i];
    return sum;
}

/* Of x <= 0, to 2e-7 of it (Cephes' expf); 1.6e-38 below -87; NaN stays NaN. */
static inline lanes exponential(lanes x) {
    x = chosen(x < every(-87.0f), every(-87.0f), x);
    lanes integral = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
    lanes rest = (x - integral * 0.693359375f) + integral * 2.12194440e-4f;
    lanes sum = every(1.9875691500e-4f);
    sum = sum * rest + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1.0f;
    return sum * (lanes)((__builtin_convertvector(integral, integers) + 127) << 23);
}
