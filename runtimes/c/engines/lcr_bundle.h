/* A bundle for an engine: what its manifest says, and its model files. Not for programs. */

#ifndef LCR_BUNDLE_H
#define LCR_BUNDLE_H

#include "lcr_edge.h"

#define LCR_MOST_MODEL_FILES 2

/* Where a sentence about an error goes. */
typedef struct lcr_why {
    char *text; /* or NULL */
    size_t size;
} lcr_why;

#ifdef __GNUC__
__attribute__((format(printf, 3, 4)))
#endif
/* Writes the sentence, cut where it does not fit, and returns the status. */
lcr_status lcr_say(const lcr_why *why, lcr_status status, const char *format, ...);

typedef struct lcr_bundle {
    lcr_info info;       /* without kernels */
    int host_edges;      /* the model takes edges */
    int64_t group_size;  /* OpenVINO's DYNAMIC_QUANTIZATION_GROUP_SIZE; -1 where the manifest has none */
    char *labels;        /* as many strings as classes, one behind the other */
    int files;
    void *content[LCR_MOST_MODEL_FILES]; /* of the model files, in the manifest's order */
    size_t sizes[LCR_MOST_MODEL_FILES];
} lcr_bundle;

/* Reads a bundle for this target: its folder, or the path of its manifest.json. Checks the manifest's seal and the
model files' digests. Where it fails nothing is left to be freed, and why says what is wrong. */
lcr_status lcr_read_bundle(const char *path, const char *target, lcr_bundle *bundle, const lcr_why *why);

void lcr_free_bundle(lcr_bundle *bundle);

#endif
