/* Counts what our own files allocate in steps. Linked with --wrap by test_engines.py, so that the calls of our objects
come here and those of an engine's library do not. Argument: the bundle. Prints the calls to open and those of steps. */

#include "lcr_edge.h"

#include <stdio.h>
#include <stdlib.h>

static unsigned long calls;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);

void *__wrap_malloc(size_t size) {
    calls++;
    return __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size) {
    calls++;
    return __real_calloc(count, size);
}

void *__wrap_realloc(void *memory, size_t size) {
    calls++;
    return __real_realloc(memory, size);
}

int main(int count, char **arguments) {
    lcr_model *model = NULL;
    if (count < 2 || lcr_open(arguments[1], NULL, &model) != LCR_OK) {
        return 1;
    }
    const unsigned long to_open = calls;
    const lcr_info info = lcr_about(model);
    uint8_t *frame = calloc((size_t)info.height * (size_t)info.width, 3);
    void *states[2] = {malloc(lcr_state_size(model)), malloc(lcr_state_size(model))};
    float *logits = malloc((size_t)info.classes * sizeof *logits);
    const unsigned long before = calls;
    for (int step = 0; step < 6; step++) { /* in turn, then in place */
        const void *given = step == 0 ? NULL : states[step < 4 ? step % 2 : 0];
        if (lcr_step(model, frame, given, states[step < 4 ? 1 - step % 2 : 0], logits) != LCR_OK) {
            return 1;
        }
    }
    printf("%lu to open, %lu in steps\n", to_open, calls - before);
    lcr_close(model);
    free(frame);
    free(states[0]);
    free(states[1]);
    free(logits);
    return 0;
}
