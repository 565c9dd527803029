/* Every int8 product that this processor can run against plain C, on matrices of all kinds of sizes. Prints the names of
those that were compared, and what differs. Built by test_int8.py, also with instructions that are simulated. */

#include "lcr_int8.c"

#include <stdio.h>
#include <stdlib.h>

#define MOST_ROWS 23u
#define MOST_INNER 131u
#define MOST_COLUMNS 70u

static uint32_t seed = 1;

static uint32_t drawn(void) {
    seed = seed * 1664525u + 1013904223u;
    return seed >> 8;
}

/* From -range to range. */
static float number(float range) {
    return ((float)drawn() / 8388608.0f - 1.0f) * range;
}

static int compared(const lcr_int8_kernels *kernels, const lcr_matrix *matrix, size_t rows, size_t stride, int add) {
    static int16_t values[2][MOST_ROWS * (MOST_INNER + 5)];
    static float x[MOST_ROWS * (MOST_INNER + 5)], out[2][MOST_ROWS * 128], scales[2][MOST_ROWS];
    static int32_t lows[2][MOST_ROWS];
    for (size_t i = 0; i < rows * stride; i++) {
        x[i] = number(i % 7 == 0 ? 40.0f : 3.0f);
    }
    for (int side = 0; side < 2; side++) {
        const lcr_int8_kernels *mine = side == 0 ? &plain_kernels : kernels;
        const lcr_rounded rounded = {values[side], stride, scales[side], lows[side]};
        for (size_t i = 0; i < MOST_ROWS * 128; i++) {
            out[side][i] = (float)i;
        }
        mine->round(x, stride, rows, matrix, &rounded);
        mine->product(&rounded, rows, matrix, out[side], 128, add);
    }
    for (size_t row = 0; row < MOST_ROWS; row++) { /* the rows behind are as they were */
        const size_t width = row < rows ? matrix->columns : 128;
        if (memcmp(out[0] + row * 128, out[1] + row * 128, width * sizeof(float)) != 0) {
            return 0;
        }
    }
    return 1;
}

static int same(const lcr_int8_kernels *kernels) {
    static int8_t steps[(MOST_INNER + 5) * 96];
    static float scale[96], bias[96];
    static int32_t sums[96];
    for (int round = 0; round < 400; round++) {
        const size_t inner = 1 + drawn() % MOST_INNER, columns = 1 + drawn() % MOST_COLUMNS;
        const size_t whole = lcr_round_up(inner, LCR_WORD), stride = whole + 2 * (drawn() % 2);
        lcr_matrix matrix = {.steps = steps, .scale = scale, .bias = bias, .sums = sums, .inner = inner, .columns = columns};
        memset(steps, 0, sizeof steps);
        for (size_t column = 0; column < columns; column++) {
            sums[column] = 0;
            scale[column] = number(0.1f);
            bias[column] = number(2.0f);
            for (size_t k = 0; k < inner; k++) {
                static const size_t places[4] = {0, 2, 1, 3};
                const int8_t step = (int8_t)(round % 3 == 0 ? (drawn() % 2 ? 127 : -127) : (int)(drawn() % 255) - 127);
                steps[column / 32 * 32 * whole + k / 4 * 128 + column % 32 * 4 + places[k % 4]] = step;
                sums[column] += step;
            }
        }
        matrix.rounding = (lcr_rounding)(1 + round % 3);
        matrix.input_scale = 0.05f;
        matrix.low = -(int32_t)(drawn() % 256);
        matrix.high = matrix.rounding == LCR_FIXED ? matrix.low + 255 : 8191;
        if (!compared(kernels, &matrix, 1 + drawn() % MOST_ROWS, stride, round % 2)) {
            printf("%s differs: %zu x %zu, rounding %d\n", kernels->name, inner, columns, (int)matrix.rounding);
            return 0;
        }
    }
    puts(kernels->name);
    return 1;
}

int main(void) {
    int all = 1;
#ifdef LCR_X86
    all &= same(&sse2_kernels);
    if (SUPPORTS("avx2")) {
        all &= same(&avx2_kernels);
    }
    if (SUPPORTS("avx512bw")) {
        all &= same(&avx512_kernels);
    }
    if (SUPPORTS("avx512vnni")) {
        all &= same(&vnni_kernels);
    }
#else
    all &= same(lcr_choose_int8(0));
#endif
    return all ? 0 : 1;
}
