/* What every implementation of lcr_edge.h checks around a step. Not for programs: those include lcr_edge.h. */

#ifndef LCR_CHECKS_H
#define LCR_CHECKS_H

#include "lcr_edge.h"

#define LCR_MOST_THREADS 64

/* Whether so many threads can be had. */
int lcr_options_right(const lcr_options *options);

/* Floats of one state. */
size_t lcr_state_floats(const lcr_info *info);

/* Arguments of a step of a model like this: LCR_ARGUMENT, LCR_OVERLAP, LCR_STATE or LCR_OK. edges may be NULL. */
lcr_status lcr_check_step(
    const lcr_info *info, const uint8_t *frame, const uint8_t *edges, const void *state_in, const void *state_out,
    const float *logits);

/* Takes a place that is 0 and returns 1; returns 0 if another thread has it. */
int lcr_take_place(int *taken);
void lcr_leave_place(int *taken);

#endif
