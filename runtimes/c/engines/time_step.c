/* How long a step takes, with any implementation of lcr_edge.h: time_step BUNDLE [STEPS]. Prints the shortest and the
median time in ms, of steps with two states in turn. The frames are noise, and their edges are part of the step. */

#define _POSIX_C_SOURCE 200112L /* clock_gettime */

#include "lcr_edge.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define FRAMES 8

static double now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return 1e3 * (double)now.tv_sec + 1e-6 * (double)now.tv_nsec;
}

static int compare(const void *one, const void *other) {
    const double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

int main(int count, char **arguments) {
    const size_t steps = count > 2 ? (size_t)strtoul(arguments[2], NULL, 10) : 200;
    lcr_model *model = NULL;
    char why[512];
    if (count < 2 || steps < 1 || steps > 1000000) {
        fputs("usage: time_step BUNDLE [STEPS], 1 to 1000000 steps\n", stderr);
        return 2;
    }
    if (lcr_open_explained(arguments[1], NULL, &model, why, sizeof why) != LCR_OK) {
        fprintf(stderr, "%s\n", why);
        return 1;
    }
    const lcr_info info = lcr_about(model);
    const size_t pixels = 3 * (size_t)info.height * (size_t)info.width;
    uint8_t *frames = malloc(FRAMES * pixels);
    void *states[2] = {calloc(1, lcr_state_size(model)), calloc(1, lcr_state_size(model))};
    float *logits = malloc((size_t)info.classes * sizeof *logits);
    double *times = malloc(steps * sizeof *times);
    unsigned seed = 1;
    if (frames == NULL || states[0] == NULL || states[1] == NULL || logits == NULL || times == NULL) {
        fputs("there is not enough memory\n", stderr);
        return 1;
    }
    for (size_t i = 0; i < FRAMES * pixels; i++) {
        seed = seed * 1664525u + 1013904223u;
        frames[i] = (uint8_t)(seed >> 24);
    }
    for (size_t i = 0; i < steps; i++) {
        const double start = now_ms();
        const lcr_status status =
            lcr_step(model, frames + i % FRAMES * pixels, states[i % 2], states[1 - i % 2], logits);
        times[i] = now_ms() - start;
        if (status != LCR_OK) {
            fprintf(stderr, "%s\n", lcr_message(status));
            return 1;
        }
    }
    qsort(times, steps, sizeof *times, compare);
    printf("%s%s: %.3f ms, median %.3f\n", info.kernels, info.int8 ? ", int8 bundle" : "", times[0], times[steps / 2]);
    free(frames);
    free(states[0]);
    free(states[1]);
    free(logits);
    free(times);
    lcr_close(model);
    return 0;
}
