/* Several threads step states of their own on one model; every state must end as if it had been alone. Built with
sanitizers by test_step.py. Arguments: the weights, the number of threads. Prints "same" or what went wrong. */

#include "lcr_edge.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEPS 3
#define MOST 8

typedef struct job {
    lcr_model *model;
    uint8_t *frame;
    void *state;
    float *logits;
    lcr_status status;
} job;

static void *run(void *argument) {
    job *mine = argument;
    for (int step = 0; step < STEPS && mine->status == LCR_OK; step++) {
        mine->status = lcr_step(mine->model, mine->frame, step == 0 ? NULL : mine->state, mine->state, mine->logits);
    }
    return NULL;
}

static void prepare(job *each, lcr_model *model, unsigned seed) {
    const lcr_info info = lcr_about(model);
    const size_t pixels = (size_t)info.height * (size_t)info.width * 3;
    each->model = model;
    each->frame = malloc(pixels);
    each->state = malloc(lcr_state_size(model));
    each->logits = malloc((size_t)info.classes * sizeof(float));
    each->status = LCR_OK;
    for (size_t i = 0; i < pixels; i++) {
        seed = seed * 1664525u + 1013904223u;
        each->frame[i] = (uint8_t)(seed >> 24);
    }
}

static void release(job *each) {
    free(each->frame);
    free(each->state);
    free(each->logits);
}

int main(int count, char **arguments) {
    const int threads = count > 2 ? atoi(arguments[2]) : 2;
    const lcr_options options = {threads, 0};
    lcr_model *model = NULL;
    job together[MOST], alone;
    pthread_t ids[MOST];
    int same = 1;
    if (threads < 1 || threads > MOST || lcr_open(arguments[1], &options, &model) != LCR_OK) {
        return 1;
    }
    for (int i = 0; i < threads; i++) {
        prepare(&together[i], model, (unsigned)i);
        pthread_create(&ids[i], NULL, run, &together[i]);
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
    }
    for (int i = 0; i < threads; i++) {
        prepare(&alone, model, (unsigned)i);
        run(&alone);
        same = same && together[i].status == LCR_OK && alone.status == LCR_OK &&
               memcmp(together[i].state, alone.state, lcr_state_size(model)) == 0;
        release(&alone);
        release(&together[i]);
    }
    lcr_close(model);
    puts(same ? "same" : "different");
    return same ? 0 : 1;
}
