/* lcr_edge.h over an engine: all that does not depend on which one. */

#include "lcr_engine.h"
#include "lcr_checks.h"

#include <stdlib.h>
#include <string.h>

/* What one step works in; a step takes a place for as long as it runs. */
typedef struct place {
    uint8_t *edges;
    void *edge_scratch;
    float *state; /* a copy of the state, for steps in place */
    int taken;
} place;

struct lcr_model {
    lcr_bundle bundle;
    lcr_info info;
    lcr_engine *engine;
    lcr_tensor tensors[LCR_TENSORS];
    int threads;
    place *places;
    float *zeros; /* the initial state, which nobody writes */
};

static void describe(const lcr_bundle *bundle, lcr_tensor tensors[LCR_TENSORS]) {
    const lcr_info *info = &bundle->info;
    const int64_t height = info->height, width = info->width, classes = info->classes;
    const lcr_tensor state = {"", 1, 3, {info->layers, info->tokens, info->dim}, 0};
    tensors[LCR_FRAME] = (lcr_tensor){"frame", 0, 4, {1, height, width, 3}, 0};
    tensors[LCR_EDGE] = (lcr_tensor){"edge", 0, bundle->host_edges ? 3 : 0, {1, height, width}, 0};
    tensors[LCR_LOGITS] = (lcr_tensor){"logits", 1, 2, {1, classes}, 0};
    tensors[LCR_H_IN] = tensors[LCR_C_IN] = tensors[LCR_H_OUT] = tensors[LCR_C_OUT] = state;
    tensors[LCR_H_IN].name = "state_h_in";
    tensors[LCR_C_IN].name = "state_c_in";
    tensors[LCR_H_OUT].name = "state_h_out";
    tensors[LCR_C_OUT].name = "state_c_out";
    for (size_t i = 0; i < LCR_TENSORS; i++) {
        tensors[i].bytes = tensors[i].is_float ? sizeof(float) : 1;
        for (size_t axis = 0; axis < tensors[i].rank; axis++) {
            tensors[i].bytes *= (size_t)tensors[i].shape[axis];
        }
    }
}

static lcr_status make_places(lcr_model *model) {
    const int height = model->info.height, width = model->info.width;
    const size_t floats = lcr_state_floats(&model->info);
    model->zeros = calloc(floats, sizeof(float));
    model->places = calloc((size_t)model->threads, sizeof(place));
    if (model->zeros == NULL || model->places == NULL) {
        return LCR_MEMORY;
    }
    for (int i = 0; i < model->threads; i++) {
        place *made = &model->places[i];
        made->edges = malloc((size_t)height * (size_t)width);
        made->edge_scratch = malloc(lcr_edges_scratch(height, width));
        made->state = malloc(floats * sizeof(float));
        if (made->edges == NULL || made->edge_scratch == NULL || made->state == NULL) {
            return LCR_MEMORY;
        }
    }
    return LCR_OK;
}

lcr_status lcr_open_explained(
    const char *path, const lcr_options *options, lcr_model **model, char *why_text, size_t why_size) {
    static const lcr_options usual_options = {1, 0};
    const lcr_why why = {why_text, why_size};
    options = options == NULL ? &usual_options : options;
    if (model == NULL) {
        return lcr_say(&why, LCR_ARGUMENT, "model is NULL: give the address of a lcr_model *");
    }
    *model = NULL;
    if (path == NULL || !lcr_options_right(options)) {
        return lcr_say(&why, LCR_ARGUMENT, "path is NULL, or options.threads is not from 1 to %d", LCR_MOST_THREADS);
    }
    lcr_model *made = calloc(1, sizeof *made);
    if (made == NULL) {
        return lcr_say(&why, LCR_MEMORY, "there is no memory for a model");
    }
    lcr_status status = lcr_read_bundle(path, lcr_engine_target, &made->bundle, &why);
    if (status == LCR_OK) {
        made->threads = options->threads;
        made->info = made->bundle.info;
        describe(&made->bundle, made->tensors);
        status = make_places(made);
        if (status != LCR_OK) {
            lcr_say(&why, status, "there is no memory for %d steps at the same time", made->threads);
        }
    }
    if (status == LCR_OK) {
        status = lcr_engine_open(&made->bundle, made->tensors, made->threads, &made->engine, &why);
    }
    if (status != LCR_OK) {
        lcr_close(made);
        return status;
    }
    made->info.kernels = lcr_engine_name(made->engine);
    *model = made;
    return lcr_say(&why, LCR_OK, "%s", lcr_message(LCR_OK));
}

lcr_status lcr_open(const char *path, const lcr_options *options, lcr_model **model) {
    return lcr_open_explained(path, options, model, NULL, 0);
}

void lcr_close(lcr_model *model) {
    if (model == NULL) {
        return;
    }
    lcr_engine_close(model->engine);
    for (int i = 0; model->places != NULL && i < model->threads; i++) {
        free(model->places[i].edges);
        free(model->places[i].edge_scratch);
        free(model->places[i].state);
    }
    free(model->places);
    free(model->zeros);
    lcr_free_bundle(&model->bundle);
    free(model);
}

size_t lcr_arena_size(const void *weights, size_t size, const lcr_options *options) {
    (void)weights, (void)size, (void)options;
    return 0;
}

lcr_status lcr_open_memory(
    const void *weights, size_t size, const lcr_options *options, void *arena, size_t arena_size, lcr_model **model) {
    (void)weights, (void)size, (void)options, (void)arena, (void)arena_size;
    if (model == NULL) {
        return LCR_ARGUMENT;
    }
    *model = NULL;
    return LCR_UNSUPPORTED;
}

lcr_info lcr_about(const lcr_model *model) {
    return model->info;
}

const char *lcr_label(const lcr_model *model, int number) {
    if (model == NULL || number < 0 || number >= model->info.classes) {
        return NULL;
    }
    const char *label = model->bundle.labels;
    while (number-- > 0) {
        label += strlen(label) + 1;
    }
    return label;
}

size_t lcr_state_size(const lcr_model *model) {
    return lcr_state_floats(&model->info) * sizeof(float);
}

/* A step at a place. The engines' calls take pointers to what they may write; they only read inputs. */
static lcr_status step_at(
    lcr_model *model, int number, const uint8_t *frame, const uint8_t *edges, const void *state_in, void *state_out,
    float *logits) {
    place *mine = &model->places[number];
    const size_t part = lcr_state_floats(&model->info) / 2;
    if (model->bundle.host_edges && edges == NULL) {
        lcr_find_edges(frame, model->info.height, model->info.width, mine->edges, mine->edge_scratch);
        edges = mine->edges;
    }
    if (state_in == state_out) { /* an engine may write a state before it has read all of the old one */
        memcpy(mine->state, state_in, 2 * part * sizeof(float));
        state_in = mine->state;
    }
    float *before = state_in == NULL ? model->zeros : (float *)(uintptr_t)state_in, *after = state_out;
    void *const data[LCR_TENSORS] = {
        [LCR_FRAME] = (uint8_t *)(uintptr_t)frame,
        [LCR_EDGE] = (uint8_t *)(uintptr_t)edges,
        [LCR_H_IN] = before,
        [LCR_C_IN] = before + part,
        [LCR_LOGITS] = logits,
        [LCR_H_OUT] = after,
        [LCR_C_OUT] = after + part,
    };
    return lcr_engine_step(model->engine, number, data);
}

lcr_status lcr_step_edges(
    lcr_model *model, const uint8_t *frame, const uint8_t *edges, const void *state_in, void *state_out,
    float *logits) {
    if (model == NULL) {
        return LCR_ARGUMENT;
    }
    if (edges != NULL && !model->bundle.host_edges) {
        return LCR_UNSUPPORTED;
    }
    lcr_status status = lcr_check_step(&model->info, frame, edges, state_in, state_out, logits);
    if (status != LCR_OK) {
        return status;
    }
    for (int number = 0; number < model->threads; number++) {
        if (lcr_take_place(&model->places[number].taken)) {
            status = step_at(model, number, frame, edges, state_in, state_out, logits);
            lcr_leave_place(&model->places[number].taken);
            return status;
        }
    }
    return LCR_BUSY;
}

lcr_status lcr_step(
    lcr_model *model, const uint8_t *frame, const void *state_in, void *state_out, float *logits) {
    return lcr_step_edges(model, frame, NULL, state_in, state_out, logits);
}
