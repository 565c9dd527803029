/* What lies between lcr_engine.c, which is the same for every engine, and the file of one engine. Not for programs. */

#ifndef LCR_ENGINE_H
#define LCR_ENGINE_H

#include "lcr_bundle.h"

/* The tensors at the step's boundary (docs/export.md), inputs first. */
enum {
    LCR_FRAME,
    LCR_EDGE,
    LCR_H_IN,
    LCR_C_IN,
    LCR_INPUTS, /* how many */
    LCR_LOGITS = LCR_INPUTS,
    LCR_H_OUT,
    LCR_C_OUT,
    LCR_TENSORS /* how many */
};

#define LCR_MOST_RANK 4

typedef struct lcr_tensor {
    const char *name;
    int is_float; /* else uint8 */
    size_t rank;  /* 0: the model has no such tensor */
    int64_t shape[LCR_MOST_RANK];
    size_t bytes;
} lcr_tensor;

/* A model that an engine has loaded. */
typedef struct lcr_engine lcr_engine;

/* What the manifest calls the engine's bundles. */
extern const char lcr_engine_target[];

/* Loads a bundle for so many steps at the same time, after a look whether the model's tensors are these. May keep the
bundle's content, which lives as long as the engine. */
lcr_status lcr_engine_open(
    lcr_bundle *bundle, const lcr_tensor tensors[LCR_TENSORS], int threads, lcr_engine **engine, const lcr_why *why);

/* One step of place 0 to threads - 1, which no other thread uses. data: where the tensors lie; outputs do not overlap
inputs. Returns LCR_OK or LCR_ENGINE. */
lcr_status lcr_engine_step(lcr_engine *engine, int place, void *const data[LCR_TENSORS]);

/* Name and version. */
const char *lcr_engine_name(const lcr_engine *engine);

/* engine may be NULL. */
void lcr_engine_close(lcr_engine *engine);

#endif
