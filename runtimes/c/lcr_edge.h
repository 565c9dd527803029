/* lcr_edge: one step of an LCR network in C99.

Ownership, in four rules:

1. A model belongs to whoever opened it, until lcr_close. It does not change while it is used.
2. A state belongs to the caller: lcr_state_size() bytes for each camera, aligned for float. The library keeps no
   pointer to it. A NULL state_in means the initial state, all zeros. state_out may be the same memory as state_in.
3. Frames, edges and logits are the caller's too. Nothing is read or written after a call returns.
4. Every string that is returned belongs to the library and lives as long as the model, or for ever (lcr_message).

Nothing is allocated after opening. With lcr_open_memory nothing is allocated at all, and no file is read.

Threads: one model may step many states from several threads at once, as many as it was opened for
(lcr_options.threads); one more gets LCR_BUSY and may try again. Two threads must not use one state at the same time.
lcr_open and lcr_close of one model belong to one thread. Everything else may be called from any thread at any time.

Errors are returned, never printed. Whatever is wrong, nothing was written to state_out and logits. */

#ifndef LCR_EDGE_H
#define LCR_EDGE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Changes when a program has to be compiled again. */
#define LCR_ABI_VERSION 1
/* The step contract of docs/export.md: what a frame, a state and logits are. */
#define LCR_CONTRACT_VERSION 1

typedef enum lcr_status {
    LCR_OK = 0,
    LCR_ARGUMENT, /* a NULL where something is needed, or a number out of range */
    LCR_FILE,     /* the file cannot be opened or read */
    LCR_FORMAT,   /* not a weights file, or truncated, or its sizes contradict each other */
    LCR_VERSION,  /* of another version of the format or of the contract */
    LCR_ENDIAN,   /* written for a processor of the other byte order */
    LCR_DIGEST,   /* a byte is not what it was when the file was written */
    LCR_MEMORY,   /* memory is missing, or the arena is too small or not aligned */
    LCR_STATE,    /* the state has a value that is NaN or infinite: this stream is lost, start again from NULL */
    LCR_OVERLAP,  /* buffers overlap that must not */
    LCR_BUSY      /* all of the model's threads are in a step */
} lcr_status;

/* One sentence in English for a status. Never NULL. */
const char *lcr_message(lcr_status status);

/* LCR_ABI_VERSION of the library, to compare with that of the header. */
int lcr_abi_version(void);

typedef struct lcr_model lcr_model;

typedef struct lcr_options {
    int threads; /* steps that may run at the same time, 1 to 64 */
    int plain;   /* not 0: plain C, whatever the processor can do */
} lcr_options;

/* Reads a weights file, model.bin of a bundle, into memory of its own. options: NULL for one thread. */
lcr_status lcr_open(const char *path, const lcr_options *options, lcr_model **model);

/* The bytes that lcr_open_memory needs for these weights; 0 if they are not weights. */
size_t lcr_arena_size(const void *weights, size_t size, const lcr_options *options);

/* Uses weights where they are, such as a const array in flash, and an arena of the caller's. Both must be aligned to 64
bytes and live, unchanged but by the library, until lcr_close. */
lcr_status lcr_open_memory(
    const void *weights, size_t size, const lcr_options *options, void *arena, size_t arena_size, lcr_model **model);

/* Closes a model; NULL is allowed. No step may be running. */
void lcr_close(lcr_model *model);

typedef struct lcr_info {
    int height, width; /* of a frame, pixels */
    int classes;
    int layers, tokens, dim; /* a state has two parts of layers x tokens x dim float */
    int fit;                 /* how camera frames are fitted: 0 letterbox, 1 crop */
    int int8;                /* 1: products of int8 numbers */
    float train_fps;         /* frames a second that the network was trained on */
    const char *kernels;     /* what the products are computed with: "plain C", "AVX2", ... */
} lcr_info;

/* What the model is. Never fails for an open model. */
lcr_info lcr_about(const lcr_model *model);

/* The name of a class, UTF-8; NULL for a number that is none. */
const char *lcr_label(const lcr_model *model, int number);

/* Bytes of one state. */
size_t lcr_state_size(const lcr_model *model);

/* One step. frame: height x width x 3 bytes, RGB. state_in: the state before, or NULL. state_out: the state after it.
logits: classes floats. */
lcr_status lcr_step(
    lcr_model *model, const uint8_t *frame, const void *state_in, void *state_out, float *logits);

/* The same with the edges given: height x width bytes, 0 or 1; NULL to have them found. */
lcr_status lcr_step_edges(
    lcr_model *model, const uint8_t *frame, const uint8_t *edges, const void *state_in, void *state_out,
    float *logits);

#ifdef __cplusplus
}
#endif

#endif
