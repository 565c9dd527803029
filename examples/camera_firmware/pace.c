/* Which frames of a camera are stepped, and when a stream is cut: the rules of lcr_edge/runtimes/video.py, computed in
the same order, so that the same frames are chosen. */

#include "camera.h"

#include <math.h>

/* Timestamps are rounded to 1 ms or coarser; a frame early by this much still belongs to its tick. */
#define ROUNDING_S 2e-3

/* Why the stream is cut before a picture, NULL if it is not. */
static const char *find_gap(pace *pace, const picture *picture) {
    const double passed = picture->time_s - pace->last_s;
    const double without = picture->pause_s >= 0.0 ? picture->pause_s : passed;
    const lcr_image *image = &picture->image;
    if (without > MOST_GAP_S) {
        snprintf(pace->reason, sizeof pace->reason, "%.1f s without a frame", without);
    } else if (passed < 0.0) {
        snprintf(pace->reason, sizeof pace->reason, "time ran back by %.3f s", -passed);
    } else if (image->width != pace->width || image->height != pace->height) {
        snprintf(
            pace->reason, sizeof pace->reason, "frames of %d x %d became frames of %d x %d", pace->width, pace->height,
            image->width, image->height);
    } else {
        return NULL;
    }
    return pace->reason;
}

unsigned long pace_take(pace *pace, const picture *picture, const char **gap) {
    *gap = pace->begun ? find_gap(pace, picture) : NULL;
    if (!pace->begun || *gap != NULL) {
        pace->begun = 1;
        pace->start_s = picture->time_s;
        pace->ticks = 0.0;
    }
    pace->last_s = picture->time_s;
    pace->width = picture->image.width;
    pace->height = picture->image.height;
    /* Ticks are counted, not summed: a stream that lasts months must not drift. */
    const double due = floor((picture->time_s - pace->start_s + ROUNDING_S) * pace->fps) + 1.0 - pace->ticks;
    if (due < 1.0) {
        return 0;
    }
    pace->ticks += due;
    return (unsigned long)due;
}
