/* Opening and closing a model, and the checks around a step. */

#if !defined(LCR_NO_FILES) && (defined(__unix__) || defined(__APPLE__))
#define LCR_POSIX 1
#define _POSIX_C_SOURCE 200112L /* stat */
#endif

#include "lcr_checks.h"
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
    const lcr_int8_kernels *int8;
    int threads;
    desk *desks;
    void *own_weights, *own_arena; /* of lcr_open, to be freed */
};

static const lcr_options usual_options = {1, 0};

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

size_t lcr_arena_size(const void *weights, size_t size, const lcr_options *options) {
    lcr_weights found;
    options = options == NULL ? &usual_options : options;
    if (!lcr_options_right(options) || lcr_check_weights(weights, size) != LCR_OK ||
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
    made->int8 = lcr_choose_int8(options->plain);
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
    if (arena == NULL || !lcr_options_right(options)) {
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
    if (path == NULL || !lcr_options_right(options)) {
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
        .kernels = weights->int8 ? model->int8->name : model->kernels->name,
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

size_t lcr_state_size(const lcr_model *model) {
    const lcr_info info = lcr_about(model);
    return lcr_state_floats(&info) * sizeof(float);
}

/* Which desk is free, and take it; -1 where none is. */
static int take_desk(lcr_model *model) {
    for (int i = 0; i < model->threads; i++) {
        if (lcr_take_place(&model->desks[i].taken)) {
            return i;
        }
    }
    return -1;
}

lcr_status lcr_step_edges(
    lcr_model *model, const uint8_t *frame, const uint8_t *edges, const void *state_in, void *state_out,
    float *logits) {
    if (model == NULL) {
        return LCR_ARGUMENT;
    }
    const lcr_info info = lcr_about(model);
    const lcr_status status = lcr_check_step(&info, frame, edges, state_in, state_out, logits);
    if (status != LCR_OK) {
        return status;
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
    lcr_run_step(
        &model->weights, model->kernels, model->int8, frame, edges, state_in, state_out, logits, mine->floats);
    lcr_leave_place(&mine->taken);
    return LCR_OK;
}

lcr_status lcr_step(
    lcr_model *model, const uint8_t *frame, const void *state_in, void *state_out, float *logits) {
    return lcr_step_edges(model, frame, NULL, state_in, state_out, logits);
}
