/* Opening and closing a model, and the checks around a step. */

#if !defined(LCR_NO_FILES) && (defined(__unix__) || defined(__APPLE__))
#define LCR_POSIX 1
#define _POSIX_C_SOURCE 200112L /* stat */
#endif

#include "lcr_internal.h"

#include <stdlib.h>
#include <string.h>
#ifndef LCR_NO_FILES
#include <stdio.h>
#endif
#ifdef LCR_POSIX
#include <sys/stat.h>
#endif

/* What one step works in; a step takes a desk for as long as it runs. */
typedef struct desk {
    float *floats;
    uint8_t *edges;
    void *edge_scratch;
    int taken;
} desk;

struct lcr_model {
    lcr_weights weights;
    const lcr_kernels *kernels;
    int threads;
    desk *desks;
    void *own_weights, *own_arena; /* of lcr_open, to be freed */
};

static const lcr_options usual_options = {1, 0};

const char *lcr_message(lcr_status status) {
    switch (status) {
    case LCR_OK:
        return "all is well";
    case LCR_ARGUMENT:
        return "an argument is NULL, not aligned or out of range; see lcr_edge.h";
    case LCR_FILE:
        return "the weights file cannot be opened or read; check its path and permissions";
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
    }
    return "an unknown status";
}

int lcr_abi_version(void) {
    return LCR_ABI_VERSION;
}

static size_t padded(size_t bytes) {
    return lcr_round_up(bytes, LCR_ALIGNMENT);
}

static size_t edge_bytes(const lcr_weights *weights) {
    return padded((size_t)weights->height * (size_t)weights->width);
}

static size_t desk_bytes(const lcr_weights *weights) {
    return padded(lcr_step_floats(weights) * sizeof(float)) + edge_bytes(weights) +
           padded(lcr_edges_scratch(weights->height, weights->width));
}

/* SIZE_MAX where so many desks cannot be addressed. */
static size_t arena_bytes(const lcr_weights *weights, const lcr_options *options) {
    if (desk_bytes(weights) > SIZE_MAX / 2 / (size_t)options->threads) {
        return SIZE_MAX;
    }
    return padded(sizeof(lcr_model)) + padded((size_t)weights->layers * sizeof(lcr_layer)) +
           padded((size_t)options->threads * sizeof(desk)) + (size_t)options->threads * desk_bytes(weights);
}

static int options_right(const lcr_options *options) {
#ifdef __GNUC__
    return options->threads >= 1 && options->threads <= LCR_MOST_THREADS;
#else
    return options->threads == 1; /* desks are taken with atomic operations, which this compiler may not have */
#endif
}

size_t lcr_arena_size(const void *weights, size_t size, const lcr_options *options) {
    lcr_weights found;
    options = options == NULL ? &usual_options : options;
    if (!options_right(options) || lcr_check_weights(weights, size) != LCR_OK ||
        lcr_read_weights(weights, size, NULL, &found) != LCR_OK) {
        return 0;
    }
    const size_t needed = arena_bytes(&found, options);
    return needed == SIZE_MAX ? 0 : needed;
}

/* Weights that are whole, and an arena, to a model. */
static lcr_status open_whole(
    const void *weights, size_t size, const lcr_options *options, void *arena, size_t arena_size, lcr_model **model) {
    lcr_weights found;
    lcr_status status = lcr_read_weights(weights, size, NULL, &found);
    if (status != LCR_OK) {
        return status;
    }
    const size_t needed = arena_bytes(&found, options);
    if (needed == SIZE_MAX || arena_size < needed || (uintptr_t)arena % LCR_ALIGNMENT != 0) {
        return LCR_MEMORY;
    }
    memset(arena, 0, needed);
    uint8_t *place = arena;
    lcr_model *made = (lcr_model *)(void *)place;
    place += padded(sizeof *made);
    lcr_layer *layers = (lcr_layer *)(void *)place;
    place += padded((size_t)found.layers * sizeof *layers);
    made->desks = (desk *)(void *)place;
    place += padded((size_t)options->threads * sizeof(desk));
    status = lcr_read_weights(weights, size, layers, &made->weights);
    if (status != LCR_OK) {
        return status;
    }
    made->kernels = lcr_choose_kernels(options->plain);
    made->threads = options->threads;
    for (int i = 0; i < made->threads; i++, place += desk_bytes(&found)) {
        made->desks[i].floats = (float *)(void *)place;
        made->desks[i].edges = place + padded(lcr_step_floats(&found) * sizeof(float));
        made->desks[i].edge_scratch = made->desks[i].edges + edge_bytes(&found);
    }
    *model = made;
    return LCR_OK;
}

lcr_status lcr_open_memory(
    const void *weights, size_t size, const lcr_options *options, void *arena, size_t arena_size, lcr_model **model) {
    options = options == NULL ? &usual_options : options;
    if (model == NULL) {
        return LCR_ARGUMENT;
    }
    *model = NULL;
    if (arena == NULL || !options_right(options)) {
        return LCR_ARGUMENT;
    }
    const lcr_status status = lcr_check_weights(weights, size);
    return status == LCR_OK ? open_whole(weights, size, options, arena, arena_size, model) : status;
}

#ifndef LCR_NO_FILES

/* Memory that begins at a multiple of LCR_ALIGNMENT; the byte before it says how far behind what malloc gave. */
static void *allocate(size_t size) {
    uint8_t *all = size > SIZE_MAX - LCR_ALIGNMENT ? NULL : malloc(size + LCR_ALIGNMENT);
    if (all == NULL) {
        return NULL;
    }
    const size_t shift = LCR_ALIGNMENT - (uintptr_t)all % LCR_ALIGNMENT;
    all[shift - 1] = (uint8_t)shift;
    return all + shift;
}

static void release(void *memory) {
    if (memory != NULL) {
        uint8_t *place = memory;
        free(place - place[-1]);
    }
}

/* Whether opening and reading it returns at once: a pipe waits for somebody who writes. */
static int is_file(const char *path) {
#ifdef LCR_POSIX
    struct stat found;
    return stat(path, &found) == 0 && S_ISREG(found.st_mode);
#else
    (void)path;
    return 1;
#endif
}

/* Its start is read first: memory is taken only for what says that it is weights of this size. */
static lcr_status read_file(const char *path, void **bytes, size_t *size) {
    FILE *file = is_file(path) ? fopen(path, "rb") : NULL;
    if (file == NULL) {
        return LCR_FILE;
    }
    uint8_t start[LCR_WEIGHTS_START];
    lcr_status status = LCR_FILE;
    long end = 0;
    const size_t got = fread(start, 1, sizeof start, file);
    if (!ferror(file) && fseek(file, 0, SEEK_END) == 0 && (end = ftell(file)) >= 0 && fseek(file, 0, SEEK_SET) == 0) {
        *size = (size_t)end;
        status = got < sizeof start ? LCR_FORMAT : lcr_check_start(start, *size);
        if (status == LCR_OK) {
            *bytes = allocate(*size);
            status = *bytes == NULL ? LCR_MEMORY : fread(*bytes, 1, *size, file) == *size ? LCR_OK : LCR_FILE;
        }
    }
    fclose(file);
    return status;
}

lcr_status lcr_open(const char *path, const lcr_options *options, lcr_model **model) {
    void *weights = NULL, *arena = NULL;
    size_t size = 0;
    lcr_weights found;
    options = options == NULL ? &usual_options : options;
    if (model == NULL) {
        return LCR_ARGUMENT;
    }
    *model = NULL;
    if (path == NULL || !options_right(options)) {
        return LCR_ARGUMENT;
    }
    lcr_status status = read_file(path, &weights, &size);
    if (status == LCR_OK) {
        status = lcr_check_weights(weights, size);
    }
    if (status == LCR_OK) {
        status = lcr_read_weights(weights, size, NULL, &found);
    }
    if (status == LCR_OK) {
        const size_t needed = arena_bytes(&found, options);
        arena = allocate(needed);
        status = arena == NULL ? LCR_MEMORY : open_whole(weights, size, options, arena, needed, model);
    }
    if (status != LCR_OK) {
        release(weights);
        release(arena);
        return status;
    }
    (*model)->own_weights = weights;
    (*model)->own_arena = arena;
    return LCR_OK;
}

void lcr_close(lcr_model *model) {
    if (model != NULL) {
        release(model->own_weights);
        release(model->own_arena); /* in which the model lies */
    }
}

#else

lcr_status lcr_open(const char *path, const lcr_options *options, lcr_model **model) {
    (void)path, (void)options;
    if (model != NULL) {
        *model = NULL;
    }
    return LCR_FILE;
}

void lcr_close(lcr_model *model) {
    (void)model;
}

#endif

lcr_info lcr_about(const lcr_model *model) {
    const lcr_weights *weights = &model->weights;
    return (lcr_info){
        .height = weights->height,
        .width = weights->width,
        .classes = weights->classes,
        .layers = weights->layers,
        .tokens = (int)weights->tokens,
        .dim = weights->dim,
        .fit = weights->fit,
        .int8 = weights->int8,
        .train_fps = weights->train_fps,
        .kernels = model->kernels->name,
    };
}

const char *lcr_label(const lcr_model *model, int number) {
    if (model == NULL || number < 0 || number >= model->weights.classes) {
        return NULL;
    }
    const char *label = model->weights.labels;
    while (number-- > 0) {
        label += strlen(label) + 1;
    }
    return label;
}

static size_t state_floats(const lcr_weights *weights) {
    return 2 * (size_t)weights->layers * weights->tokens * (size_t)weights->dim;
}

size_t lcr_state_size(const lcr_model *model) {
    return state_floats(&model->weights) * sizeof(float);
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

/* Which desk is free, and take it; -1 where none is. */
static int take_desk(lcr_model *model) {
    for (int i = 0; i < model->threads; i++) {
#ifdef __GNUC__
        int free = 0;
        if (__atomic_compare_exchange_n(&model->desks[i].taken, &free, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
            return i;
        }
#else
        if (!model->desks[i].taken) { /* without atomic operations a model belongs to one thread */
            model->desks[i].taken = 1;
            return i;
        }
#endif
    }
    return -1;
}

static void leave_desk(desk *mine) {
#ifdef __GNUC__
    __atomic_store_n(&mine->taken, 0, __ATOMIC_RELEASE);
#else
    mine->taken = 0;
#endif
}

static lcr_status check(
    const lcr_model *model, const uint8_t *frame, const void *state_in, const void *state_out, const float *logits) {
    if (model == NULL || frame == NULL || state_out == NULL || logits == NULL ||
        (uintptr_t)state_in % sizeof(float) != 0 || (uintptr_t)state_out % sizeof(float) != 0 ||
        (uintptr_t)logits % sizeof(float) != 0) {
        return LCR_ARGUMENT;
    }
    const size_t size = lcr_state_size(model), answer = (size_t)model->weights.classes * sizeof(float);
    const size_t pixels = 3 * (size_t)model->weights.height * (size_t)model->weights.width;
    if ((state_in != state_out && overlap(state_in, size, state_out, size)) ||
        overlap(state_in, size, logits, answer) || overlap(state_out, size, logits, answer) ||
        overlap(frame, pixels, state_out, size) || overlap(frame, pixels, logits, answer)) {
        return LCR_OVERLAP;
    }
    return state_in == NULL || all_finite(state_in, state_floats(&model->weights)) ? LCR_OK : LCR_STATE;
}

lcr_status lcr_step_edges(
    lcr_model *model, const uint8_t *frame, const uint8_t *edges, const void *state_in, void *state_out,
    float *logits) {
    lcr_status status = check(model, frame, state_in, state_out, logits);
    if (status != LCR_OK) {
        return status;
    }
    const size_t pixels = (size_t)model->weights.height * (size_t)model->weights.width;
    if (edges != NULL && (overlap(edges, pixels, state_out, lcr_state_size(model)) ||
                          overlap(edges, pixels, logits, (size_t)model->weights.classes * sizeof(float)))) {
        return LCR_OVERLAP;
    }
    const int number = take_desk(model);
    if (number < 0) {
        return LCR_BUSY;
    }
    desk *mine = &model->desks[number];
    if (edges == NULL) {
        lcr_find_edges(frame, model->weights.height, model->weights.width, mine->edges, mine->edge_scratch);
        edges = mine->edges;
    }
    lcr_run_step(&model->weights, model->kernels, frame, edges, state_in, state_out, logits, mine->floats);
    leave_desk(mine);
    return LCR_OK;
}

lcr_status lcr_step(
    lcr_model *model, const uint8_t *frame, const void *state_in, void *state_out, float *logits) {
    return lcr_step_edges(model, frame, NULL, state_in, state_out, logits);
}
