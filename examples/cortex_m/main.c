/* A model in flash on a Cortex-M: opened where it lies, compared with the reference, one step timed. No malloc, no
files, no printf. */

#include "board.h"
#include "lcr_edge.h"
#include "model.h"

#define GOLDEN_HEADER 128u

static uint8_t arena[LCR_MODEL_ARENA] LCR_ALIGNED BOARD_WORK;
static float state[LCR_MODEL_STATE / sizeof(float)] BOARD_WORK;
static float logits[LCR_MODEL_CLASSES];
static float memory[LCR_MODEL_SELFTEST / sizeof(float)] BOARD_WORK;

/* All that was measured. */
typedef struct outcome {
    lcr_model *model;
    lcr_errors errors;
    uint8_t hash[8];
    size_t arena_needed, stack;
    uint64_t ticks;
} outcome;

static void print_number(uint64_t number) {
    char text[21], *place = text + sizeof text - 1;
    *place = '\0';
    do {
        *--place = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    board_print(place);
}

/* As %.2e does, but for the last digit's rounding of a tie. */
static void print_error(float number) {
    int exponent = 0;
    if (!(number >= 1e-30f && number <= 1e30f)) {
        board_print(number == 0.0f ? "0.00e+00" : "nan");
        return;
    }
    double value = (double)number;
    for (; value < 1.0; value *= 10.0) {
        exponent--;
    }
    for (; value >= 10.0; value /= 10.0) {
        exponent++;
    }
    unsigned digits = (unsigned)(value * 100.0 + 0.5);
    if (digits == 1000u) {
        digits = 100u;
        exponent++;
    }
    const unsigned power = (unsigned)(exponent < 0 ? -exponent : exponent);
    const char text[] = {(char)('0' + digits / 100u), '.', (char)('0' + digits / 10u % 10u), (char)('0' + digits % 10u),
        'e', exponent < 0 ? '-' : '+', (char)('0' + power / 10u), (char)('0' + power % 10u), '\0'};
    board_print(text);
}

static void print_hash(const uint8_t hash[8]) {
    static const char digits[] = "0123456789abcdef";
    char text[17] = "";
    for (size_t i = 0; i < 8; i++) {
        text[2 * i] = digits[hash[i] >> 4];
        text[2 * i + 1] = digits[hash[i] & 15];
    }
    board_print(text);
}

/* Everything that uses the library, in a call of its own, so that main can look at the stack afterwards. */
__attribute__((noinline)) static lcr_status try_model(outcome *found) {
    found->arena_needed = lcr_arena_size(lcr_model_weights, LCR_MODEL_WEIGHTS_SIZE, NULL);
    lcr_status status =
        lcr_open_memory(lcr_model_weights, LCR_MODEL_WEIGHTS_SIZE, NULL, arena, sizeof arena, &found->model);
    if (status == LCR_OK) {
        status = lcr_selftest_hash(
            found->model, lcr_model_golden, LCR_MODEL_GOLDEN_SIZE, memory, &found->errors, found->hash);
    }
    return status;
}

/* The ticks of a step in the middle of a stream. */
static lcr_status time_step(outcome *found) {
    const uint8_t *frame = (const uint8_t *)lcr_model_golden + GOLDEN_HEADER;
    lcr_status status = lcr_step(found->model, frame, NULL, state, logits);
    board_start_clock();
    const uint64_t before = board_ticks();
    if (status == LCR_OK) {
        status = lcr_step(found->model, frame, state, state, logits);
    }
    found->ticks = board_ticks() - before;
    return status;
}

static void print_outcome(const outcome *found) {
    const lcr_info info = lcr_about(found->model);
    board_print(info.kernels);
    board_print(", ");
    print_number((uint64_t)found->errors.frames);
    board_print(" frames: off by ");
    print_error(found->errors.one_step);
    board_print(" after one step, ");
    print_error(found->errors.stream);
    board_print(" in a stream\nhash of the answers: ");
    print_hash(found->hash);
    board_print(info.int8 ? " (int8)\nbytes: weights " : " (float32)\nbytes: weights ");
    print_number(LCR_MODEL_WEIGHTS_SIZE);
    board_print(", state ");
    print_number(lcr_state_size(found->model));
    board_print(", arena ");
    print_number(found->arena_needed);
    board_print(" of ");
    print_number(sizeof arena);
    board_print(", stack ");
    print_number(found->stack);
    board_print("\none step: ");
    print_number(found->ticks);
    board_print(" ticks of " BOARD_CLOCK_TEXT " Hz\n");
}

int main(void) {
    outcome found = {0};
    board_paint_stack();
    lcr_status status = try_model(&found);
    found.stack = board_deepest_stack();
    if (status == LCR_OK || status == LCR_PARITY) {
        const lcr_status stepped = time_step(&found);
        status = stepped == LCR_OK ? status : stepped;
        print_outcome(&found);
    }
    board_print(status == LCR_OK ? "passed" : lcr_message(status));
    board_print("\n");
    lcr_close(found.model);
    return status == LCR_OK ? 0 : 1;
}
