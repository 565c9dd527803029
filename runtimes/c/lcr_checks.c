/* What every implementation of lcr_edge.h says of its statuses, and checks around a step. */

#include "lcr_checks.h"

const char *lcr_message(lcr_status status) {
    switch (status) {
    case LCR_OK:
        return "all is well";
    case LCR_ARGUMENT:
        return "an argument is NULL, not aligned or out of range; see lcr_edge.h";
    case LCR_FILE:
        return "a file of the model cannot be opened or read; check its path and permissions";
    case LCR_FORMAT:
        return "this is not a file of lcr_edge, or not of this network, or it was cut off; copy the bundle again";
    case LCR_VERSION:
        return "the file is of another version; export it again, or build the library that came with it";
    case LCR_ENDIAN:
        return "the file is for a processor of the other byte order";
    case LCR_DIGEST:
        return "the file was damaged: its digest differs; copy the bundle again";
    case LCR_MEMORY:
        return "there is not enough memory, or the arena is smaller than lcr_arena_size or not aligned to 64 bytes";
    case LCR_STATE:
        return "the state has values that are NaN or infinite; start the stream again, with NULL as its state";
    case LCR_OVERLAP:
        return "buffers overlap; only state_in and state_out may be the same memory";
    case LCR_BUSY:
        return "all threads of the model are in a step; open it for more, or try again";
    case LCR_PARITY:
        return "the answers are not those of the reference: another compiler or other flags may mend it";
    case LCR_UNSUPPORTED:
        return "this implementation of lcr_edge.h cannot do that; lcr_open_explained says what to change";
    case LCR_ENGINE:
        return "the engine failed; lcr_open_explained says why a model cannot be opened";
    }
    return "an unknown status";
}

int lcr_abi_version(void) {
    return LCR_ABI_VERSION;
}

int lcr_options_right(const lcr_options *options) {
#ifdef __GNUC__
    return options->threads >= 1 && options->threads <= LCR_MOST_THREADS;
#else
    return options->threads == 1; /* places are taken with atomic operations, which this compiler may not have */
#endif
}

size_t lcr_state_floats(const lcr_info *info) {
    return 2 * (size_t)info->layers * (size_t)info->tokens * (size_t)info->dim;
}

/* Whether no value is NaN or infinite: times 0 such a value is NaN, and so is the sum. */
static int all_finite(const float *values, size_t count) {
    float parts[16] = {0};
    size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        for (size_t lane = 0; lane < 16; lane++) {
            parts[lane] += values[i + lane] * 0.0f;
        }
    }
    for (size_t lane = 0; i + lane < count; lane++) {
        parts[lane] += values[i + lane] * 0.0f;
    }
    float sum = 0.0f;
    for (size_t lane = 0; lane < 16; lane++) {
        sum += parts[lane];
    }
    return sum == 0.0f;
}

static int overlap(const void *one, size_t size, const void *other, size_t other_size) {
    const uintptr_t a = (uintptr_t)one, b = (uintptr_t)other;
    return one != NULL && other != NULL && a < b + other_size && b < a + size;
}

lcr_status lcr_check_step(
    const lcr_info *info, const uint8_t *frame, const uint8_t *edges, const void *state_in, const void *state_out,
    const float *logits) {
    if (frame == NULL || state_out == NULL || logits == NULL || (uintptr_t)state_in % sizeof(float) != 0 ||
        (uintptr_t)state_out % sizeof(float) != 0 || (uintptr_t)logits % sizeof(float) != 0) {
        return LCR_ARGUMENT;
    }
    const size_t size = lcr_state_floats(info) * sizeof(float), answer = (size_t)info->classes * sizeof(float);
    const size_t pixels = (size_t)info->height * (size_t)info->width;
    if ((state_in != state_out && overlap(state_in, size, state_out, size)) ||
        overlap(state_in, size, logits, answer) || overlap(state_out, size, logits, answer) ||
        overlap(frame, 3 * pixels, state_out, size) || overlap(frame, 3 * pixels, logits, answer) ||
        overlap(edges, pixels, state_out, size) || overlap(edges, pixels, logits, answer)) {
        return LCR_OVERLAP;
    }
    return state_in == NULL || all_finite(state_in, lcr_state_floats(info)) ? LCR_OK : LCR_STATE;
}

#ifdef __GNUC__

int lcr_take_place(int *taken) {
    int free = 0;
    return __atomic_compare_exchange_n(taken, &free, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

void lcr_leave_place(int *taken) {
    __atomic_store_n(taken, 0, __ATOMIC_RELEASE);
}

#else /* without atomic operations a model belongs to one thread */

int lcr_take_place(int *taken) {
    const int free = *taken == 0;
    *taken = 1;
    return free;
}

void lcr_leave_place(int *taken) {
    *taken = 0;
}

#endif
