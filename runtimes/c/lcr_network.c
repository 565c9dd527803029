/* The step itself. Letters and order are those of lcr_edge/model/step_cell.py, from which the weights come. */

#include "lcr_internal.h"

#include <string.h>

/* The network takes pixels * PIXEL - 1. */
#define PIXEL (2.0f / 255.0f)

/* What a step works in: matrices with a row for each token, whose rows begin at multiples of their strides. */
typedef struct workspace {
    size_t narrow, wide;                 /* strides of dim and of 2 dim */
    size_t mixed, forgotten;             /* strides of dim + hidden and of layers * dim */
    size_t pixel_stride, edge_stride;
    float *x, *e, *forget;               /* [tokens][dim], [tokens][dim], [tokens][layers dim] */
    /* Only while the frame and its edges become tokens; all that follows takes the same memory. */
    float *pixels;                       /* a patch in each row, 0..255, minus its mean; its edges later */
    float *input, *rg, *kv, *mix;        /* of products, and their results */
    float *y, *outcome;                  /* [tokens][dim] */
    float *levelled;                     /* one head of one token */
    uint32_t *patch_sums;                /* of the bytes of each patch */
    lcr_rounded rounded;                 /* what an int8 product reads */
    const lcr_int8_kernels *int8;
} workspace;

/* Gives each matrix its place after ``memory``, which may be NULL to count. Returns the floats of all. */
static size_t lay_out(const lcr_weights *weights, float *memory, workspace *space) {
    const size_t dim = (size_t)weights->dim, hidden = (size_t)weights->hidden, layers = (size_t)weights->layers;
    const size_t rows = weights->tokens + weights->spare_rows, patch = (size_t)weights->patch;
    const size_t head_dim = (size_t)weights->head_dim;
    space->narrow = lcr_round_up(dim, LCR_PANEL);
    space->wide = lcr_round_up(2 * dim, LCR_PANEL);
    space->mixed = lcr_round_up(dim + hidden, LCR_PANEL);
    space->forgotten = lcr_round_up(layers * dim, LCR_PANEL);
    space->pixel_stride = lcr_round_up(3 * patch * patch, LCR_PANEL);
    space->edge_stride = lcr_round_up(patch * patch, LCR_PANEL);
    space->rounded.stride = weights->widest;
    float *sums, *rounded, *lows;
    struct {
        float **place;
        size_t floats;
    } parts[] = {
        {&space->x, rows * space->narrow},
        {&space->e, rows * space->narrow},
        {&space->forget, rows * space->forgotten},
        {&space->levelled, head_dim},
        {&sums, rows},
        {&rounded, (rows * weights->widest + 1) / 2},
        {&space->rounded.scales, weights->widest > 0 ? rows : 0},
        {&lows, weights->widest > 0 ? rows : 0},
        {&space->input, rows * space->wide},
        {&space->rg, rows * space->wide},
        /* The logits are computed here too, in one row and its spare ones. */
        {&space->kv, rows * space->wide + lcr_round_up((size_t)weights->classes, LCR_PANEL)},
        {&space->mix, rows * space->mixed},
        {&space->y, rows * space->narrow},
        {&space->outcome, rows * space->narrow},
    };
    size_t used = 0, shared = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        shared = parts[i].place == &space->input ? used : shared;
        *parts[i].place = memory == NULL ? NULL : memory + used;
        used += lcr_round_up(parts[i].floats, LCR_ALIGNMENT / sizeof(float));
    }
    space->pixels = memory == NULL ? NULL : memory + shared;
    space->patch_sums = (uint32_t *)(void *)sums;
    space->rounded.values = (int16_t *)(void *)rounded;
    space->rounded.lows = (int32_t *)(void *)lows;
    const size_t pixels = shared + rows * space->pixel_stride;
    return used > pixels ? used : pixels;
}

size_t lcr_step_floats(const lcr_weights *weights) {
    workspace space;
    return lay_out(weights, NULL, &space);
}

static void multiply(
    const workspace *space, const lcr_kernels *kernels, const lcr_matrix *matrix, const float *a, size_t a_stride,
    size_t rows, float *out, size_t out_stride, int add) {
    if (matrix->rounding == LCR_FLOAT) {
        kernels->product(
            a, a_stride, rows, matrix->packed, matrix->bias, matrix->inner, matrix->columns, out, out_stride, add);
        return;
    }
    space->int8->round(a, a_stride, rows, matrix, &space->rounded);
    space->int8->product(&space->rounded, rows, matrix, out, out_stride, add);
}

/* Bytes [height][width * channels] to a patch in each row, as floats, with channels of a pixel side by side. sums: of
the bytes of each patch, NULL for none. */
static void cut(
    const uint8_t *image, const lcr_weights *weights, size_t channels, float *out, size_t stride, uint32_t *sums) {
    const size_t patch = (size_t)weights->patch, across = (size_t)weights->width / patch;
    const size_t down = (size_t)weights->height / patch, line = patch * channels;
    for (size_t row = 0; row < down; row++) {
        for (size_t i = 0; i < patch; i++) {
            const uint8_t *bytes = image + (row * patch + i) * across * line;
            for (size_t column = 0; column < across; column++, bytes += line) {
                float *restrict place = out + (row * across + column) * stride + i * line;
                uint32_t sum = 0;
                for (size_t j = 0; j < line; j++) {
                    place[j] = (float)bytes[j];
                    sum += bytes[j];
                }
                if (sums != NULL) {
                    sums[row * across + column] = sum + (i > 0 ? sums[row * across + column] : 0);
                }
            }
        }
    }
}

/* The frame's tokens: each patch is centred, its mean enters separately, and its pixels are summed in four parts. A sum
over all of them would lose digits. */
static void embed_frame(
    const lcr_weights *weights, const lcr_kernels *kernels, const uint8_t *frame, workspace *space) {
    const size_t dim = (size_t)weights->dim, patches = weights->tokens - 1;
    const size_t values = 3 * (size_t)weights->patch * (size_t)weights->patch;
    float *tokens = space->x + space->narrow;
    cut(frame, weights, 3, space->pixels, space->pixel_stride, space->patch_sums);
    for (size_t row = 0; row < patches; row++) {
        float *restrict pixels = space->pixels + row * space->pixel_stride;
        float *restrict token = tokens + row * space->narrow;
        const float mean = (float)space->patch_sums[row] / (float)values, level = mean * PIXEL - 1.0f;
        for (size_t i = 0; i < values; i++) {
            pixels[i] -= mean;
        }
        for (size_t i = 0; i < dim; i++) {
            token[i] = level * weights->sums[i] + weights->bias[i];
        }
    }
    size_t first = 0;
    for (int part = 0; part < LCR_PARTS; part++) {
        multiply(
            space, kernels, &weights->parts[part], space->pixels + first, space->pixel_stride, patches, tokens,
            space->narrow, 1);
        first += weights->parts[part].inner;
    }
    for (size_t row = 0; row < patches; row++) {
        float *token = tokens + row * space->narrow;
        kernels->normalise(token, dim, weights->embed_eps, weights->norm_scale, weights->norm_shift, space->y);
        memcpy(token, space->y, dim * sizeof *token);
    }
    memcpy(space->x, weights->frame_row, dim * sizeof *space->x);
}

static void embed_edges(
    const lcr_weights *weights, const lcr_kernels *kernels, const uint8_t *edges, workspace *space) {
    cut(edges, weights, 1, space->pixels, space->edge_stride, NULL);
    multiply(
        space, kernels, &weights->edge, space->pixels, space->edge_stride, weights->tokens - 1, space->e + space->narrow,
        space->narrow, 0);
    memcpy(space->e, weights->edge_row, (size_t)weights->dim * sizeof *space->e);
    multiply(
        space, kernels, &weights->prompt, space->e, space->narrow, weights->tokens, space->forget, space->forgotten, 0);
    for (size_t token = 0; token < weights->tokens; token++) {
        kernels->sigmoid(
            space->forget + token * space->forgotten, (size_t)weights->layers * (size_t)weights->dim, weights->fmax);
    }
}

/* Rotary positions, in place: x * cos + (x's halves exchanged) * sin, for each head; the sines carry the sign. */
static void turn(const lcr_weights *weights, size_t token, float *x) {
    const size_t width = (size_t)weights->head_dim, half = width / 2;
    const float *cosines = weights->cosines + token * width, *sines = weights->sines + token * width;
    for (size_t head = 0; head < weights->heads; head++, x += width) {
        for (size_t i = 0; i < half; i++) {
            const float first = x[i], second = x[half + i];
            x[i] = first * cosines[i] + second * sines[i];
            x[half + i] = second * cosines[half + i] + first * sines[half + i];
        }
    }
}

/* The Cross RWKV gate: x + attend(silu(g) * norm(wkv(r, k, v))), added to x. h [tokens][dim] is the state before. */
static void cross(
    const lcr_weights *weights, const lcr_kernels *kernels, const lcr_layer *layer, const float *h, workspace *space) {
    const size_t dim = (size_t)weights->dim, tokens = weights->tokens, width = (size_t)weights->head_dim;
    for (size_t token = 0; token < tokens; token++) {
        float *both = space->rg; /* free until the product */
        memcpy(both, space->x + token * space->narrow, dim * sizeof *both);
        if (h == NULL) {
            memset(both + dim, 0, dim * sizeof *both);
        } else {
            memcpy(both + dim, h + token * dim, dim * sizeof *both);
        }
        kernels->normalise(
            both, 2 * dim, weights->norm_eps, layer->rg_scale, NULL, space->input + token * space->wide);
    }
    multiply(space, kernels, &layer->rg, space->input, space->wide, tokens, space->rg, space->wide, 0);
    for (size_t token = 0; token < tokens; token++) {
        const float *x = space->x + token * space->narrow, *e = space->e + token * space->narrow;
        float *z = space->kv;
        for (size_t i = 0; i < dim; i++) {
            z[i] = weights->kv_has_frame ? x[i] + e[i] : e[i];
        }
        kernels->normalise(z, dim, weights->norm_eps, layer->kv_scale, NULL, space->input + token * space->narrow);
    }
    multiply(space, kernels, &layer->kv, space->input, space->narrow, tokens, space->kv, space->wide, 0);
    for (size_t token = 0; token < tokens; token++) {
        turn(weights, token, space->rg + token * space->wide);
        turn(weights, token, space->kv + token * space->wide);
    }
    for (size_t head = 0; head < weights->heads; head++) {
        const size_t first = head * width;
        kernels->wkv(
            space->rg + first, space->wide, space->kv + first, space->kv + dim + first, space->wide,
            layer->decay + first, layer->bonus + first, tokens, width, space->y + first, space->narrow);
    }
    for (size_t token = 0; token < tokens; token++) {
        float *y = space->y + token * space->narrow, *levelled = space->levelled;
        for (size_t head = 0; head < weights->heads; head++) {
            kernels->normalise(
                y + head * width, width, *layer->y_eps, NULL, NULL, levelled);
            memcpy(y + head * width, levelled, width * sizeof *y);
        }
        kernels->gated(
            space->rg + token * space->wide + dim, y, layer->y_scale, layer->y_shift, dim,
            space->input + token * space->narrow);
    }
    memcpy(space->outcome, space->x, tokens * space->narrow * sizeof *space->x);
    multiply(space, kernels, &layer->attend, space->input, space->narrow, tokens, space->outcome, space->narrow, 1);
}

/* The channel mix and the cell: states h and c [tokens][dim] from c_in, which is NULL for zeros. */
static void remember(
    const lcr_weights *weights, const lcr_kernels *kernels, const lcr_layer *layer, size_t index, const float *c_in,
    float *h, float *c, workspace *space) {
    const size_t dim = (size_t)weights->dim, hidden = (size_t)weights->hidden, tokens = weights->tokens;
    for (size_t token = 0; token < tokens; token++) {
        kernels->normalise(
            space->outcome + token * space->narrow, dim, weights->norm_eps, layer->mix_scale, NULL,
            space->input + token * space->narrow);
    }
    multiply(space, kernels, &layer->mix_in, space->input, space->narrow, tokens, space->mix, space->mixed, 0);
    for (size_t token = 0; token < tokens; token++) {
        kernels->squared_relu(space->mix + token * space->mixed + dim, hidden);
    }
    multiply(space, kernels, &layer->mix_out, space->mix + dim, space->mixed, tokens, space->y, space->narrow, 0);
    for (size_t token = 0; token < tokens; token++) {
        if (c_in == NULL) {
            memset(space->input, 0, dim * sizeof *space->input);
        }
        kernels->remember(
            space->outcome + token * space->narrow, space->mix + token * space->mixed, space->y + token * space->narrow,
            space->forget + token * space->forgotten + index * dim, weights->residual, dim,
            c_in == NULL ? space->input : c_in + token * dim, h + token * dim, c + token * dim);
    }
}

static void classify(
    const lcr_weights *weights, const lcr_kernels *kernels, const float *h, const float *c, float *logits,
    workspace *space) {
    const size_t dim = (size_t)weights->dim, tokens = weights->tokens;
    const size_t count = weights->head_is_mean ? tokens : 1u;
    float *restrict pooled = space->rg;
    memset(pooled, 0, 2 * dim * sizeof *pooled);
    for (size_t token = 0; token < count; token++) {
        for (size_t i = 0; i < dim; i++) {
            pooled[i] += h[token * dim + i];
            pooled[dim + i] += c[token * dim + i];
        }
    }
    for (size_t i = 0; i < 2 * dim; i++) {
        pooled[i] /= (float)count;
    }
    kernels->normalise(pooled, 2 * dim, weights->norm_eps, weights->head_scale, NULL, space->input);
    multiply(space, kernels, &weights->classify, space->input, space->wide, 1, space->kv, space->wide, 0);
    memcpy(logits, space->kv, (size_t)weights->classes * sizeof *logits);
}

void lcr_run_step(
    const lcr_weights *weights, const lcr_kernels *kernels, const lcr_int8_kernels *int8, const uint8_t *frame,
    const uint8_t *edges, const float *state_in, float *state_out, float *logits, float *memory) {
    const size_t layers = (size_t)weights->layers, size = weights->tokens * (size_t)weights->dim;
    workspace space;
    lay_out(weights, memory, &space);
    space.int8 = int8;
    embed_frame(weights, kernels, frame, &space);
    embed_edges(weights, kernels, edges, &space);
    for (size_t index = 0; index < layers; index++) {
        const lcr_layer *layer = &weights->layer[index];
        float *h = state_out + index * size, *c = state_out + (layers + index) * size;
        cross(weights, kernels, layer, state_in == NULL ? NULL : state_in + index * size, &space);
        remember(
            weights, kernels, layer, index, state_in == NULL ? NULL : state_in + (layers + index) * size, h, c,
            &space);
        for (size_t token = 0; token < weights->tokens; token++) {
            float *x = space.x + token * space.narrow;
            for (size_t i = 0; i < (size_t)weights->dim; i++) {
                x[i] = weights->skip ? x[i] + h[token * (size_t)weights->dim + i] : h[token * (size_t)weights->dim + i];
            }
        }
    }
    const size_t last = layers - 1;
    classify(weights, kernels, state_out + last * size, state_out + (layers + last) * size, logits, &space);
}
