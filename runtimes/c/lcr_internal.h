/* What the parts of the library share. Not for programs: those include lcr_edge.h. */

#ifndef LCR_INTERNAL_H
#define LCR_INTERNAL_H

#include "lcr_edge.h"

/* Of model.bin and golden.bin. */
#define LCR_FORMAT_VERSION 2u
#define LCR_ALIGNMENT 64u
/* Columns of a panel of packed weights, and the unit of every row's length. */
#define LCR_PANEL 32u
/* int8 weights of a column that lie side by side. */
#define LCR_WORD 4u
/* The embedding sums a patch's pixels in so many parts (docs/export.md). */
#define LCR_PARTS 4
/* A product computes whole blocks of rows, so every matrix has this many rows behind its last one. */
#define LCR_SPARE_ROWS 15u

/* The functions of lcr_products.inc and lcr_rows.inc that suit this processor. */
typedef struct lcr_kernels {
    const char *name;

    /* out [rows][columns] = a [rows][inner] times packed weights, plus bias; added to out where ``add``. Rows begin at
    multiples of a_stride and out_stride floats. Up to LCR_SPARE_ROWS rows more are read and written, and columns up to
    the next multiple of LCR_PANEL. */
    void (*product)(
        const float *a, size_t a_stride, size_t rows, const float *packed, const float *bias, size_t inner,
        size_t columns, float *out, size_t out_stride, int add);
    /* out = (x - mean) / sqrt(variance + eps) * scale + shift over n values; both may be NULL. */
    void (*normalise)(const float *x, size_t n, float eps, const float *scale, const float *shift, float *out);
    /* x = 1 / (1 + exp(-x)) * factor */
    void (*sigmoid)(float *x, size_t n, float factor);
    /* out = g / (1 + exp(-g)) * (y * scale + shift) */
    void (*gated)(const float *g, const float *y, const float *scale, const float *shift, size_t n, float *out);
    /* x = max(x, 0)^2 */
    void (*squared_relu)(float *x, size_t n);
    /* The end of a layer: a = x + sigmoid(gate) * mixed, c = forget * (c + tanh a) (plus c where residual), and
    h = sigmoid(a) * tanh(c). */
    void (*remember)(
        const float *x, const float *gate, const float *mixed, const float *forget, int residual, size_t n,
        const float *c_in, float *h, float *c);
    /* y [tokens][width] of one head from r, k, v [tokens][width]: what the tokens before and after each one left,
    decayed by w [width] for every step between, and itself times u [width]. */
    void (*wkv)(
        const float *r, size_t r_stride, const float *k, const float *v, size_t kv_stride, const float *w,
        const float *u, size_t tokens, size_t width, float *y, size_t y_stride);
} lcr_kernels;

const lcr_kernels *lcr_choose_kernels(int plain);

/* How the rows that a product reads become whole numbers. */
typedef enum lcr_rounding {
    LCR_FLOAT = 0, /* not at all: float weights */
    LCR_FIXED,     /* on the matrix's own grid */
    LCR_OWN,       /* each row on a grid of 256 steps that covers it and 0 */
    LCR_FINE       /* each row on a grid of 2 high + 1 steps around 0 */
} lcr_rounding;

/* Packed weights [inner][columns] with a bias for each column: floats, or int8 steps of a scale for each column.

Of int8 the product is float(sum of a * steps) * (scale of a's row * scale) + bias, in this order, where row x became
a = clamp(rint(x / its scale), low, high). */
typedef struct lcr_matrix {
    const float *packed, *bias;
    const int8_t *steps;
    const float *scale;
    const int32_t *sums; /* of the steps of each column */
    size_t inner, columns;
    lcr_rounding rounding;
    float input_scale;
    int32_t low, high;
} lcr_matrix;

/* Rows of whole numbers: 16 bits each, or 8 bits that count from the row's low. */
typedef struct lcr_rounded {
    int16_t *values;
    size_t stride; /* values from row to row */
    float *scales;
    int32_t *lows;
} lcr_rounded;

/* The functions of lcr_int8.inc that suit this processor. */
typedef struct lcr_int8_kernels {
    const char *name;
    /* Reads rows [rows][inner] of floats. */
    void (*round)(const float *a, size_t a_stride, size_t rows, const lcr_matrix *matrix, const lcr_rounded *rounded);
    /* out [rows][columns], added to where ``add``; columns up to the next multiple of LCR_PANEL are written. */
    void (*product)(
        const lcr_rounded *rounded, size_t rows, const lcr_matrix *matrix, float *out, size_t out_stride, int add);
} lcr_int8_kernels;

const lcr_int8_kernels *lcr_choose_int8(int plain);

typedef struct lcr_layer {
    const float *rg_scale, *kv_scale, *mix_scale;
    const float *decay, *bonus; /* w and u of the WKV, [dim] */
    const float *y_eps, *y_scale, *y_shift; /* of the norm of its result; y_eps is one number */
    lcr_matrix rg, kv, attend, mix_in, mix_out;
} lcr_layer;

#define LCR_MOST_LAYERS 64

/* A weights file in memory, understood. Pointers lead into it. */
typedef struct lcr_weights {
    int height, width, patch, dim, layers, classes, head_dim, hidden;
    int kv_has_frame, head_is_mean, residual, skip, fit, int8;
    float fmax, train_fps, norm_eps, embed_eps;
    size_t tokens, heads;
    size_t spare_rows; /* behind the last one of every matrix, where a product computes in float; else 0 */
    size_t widest;     /* the most values that an int8 product reads of a row, rounded up to words; 0 without any */
    const char *labels;
    const float *frame_row, *edge_row, *sums, *bias, *norm_scale, *norm_shift, *cosines, *sines, *head_scale;
    lcr_matrix parts[LCR_PARTS], edge, prompt, classify;
    lcr_layer *layer;
} lcr_weights;

#define LCR_WEIGHTS_START 256u

/* Whether a weights file of ``size`` bytes may begin with these LCR_WEIGHTS_START bytes. */
lcr_status lcr_check_start(const void *bytes, uint64_t size);

/* Whether a weights file is whole: of this version, with the right size and digest. bytes: aligned to LCR_ALIGNMENT. */
lcr_status lcr_check_weights(const void *bytes, size_t size);

/* Understands a weights file that is whole. layer: room for the layers, or NULL to check that
they are there. LCR_MEMORY: a step needs more than this processor can address. */
lcr_status lcr_read_weights(const void *bytes, size_t size, lcr_layer *layer, lcr_weights *weights);

/* SHA-256 of two pieces, one after the other with so many zeros between them. */
void lcr_sha256(const uint8_t *first, size_t first_size, size_t zeros, const uint8_t *rest, size_t rest_size,
    uint8_t digest[32]);

/* Floats of memory that one step works in. */
size_t lcr_step_floats(const lcr_weights *weights);

/* The step: logits [classes], and state_out [2][layers][tokens][dim] from state_in or, where that is NULL, from zeros.
They may be the same memory. edges [height][width] in 0 and 1. */
void lcr_run_step(
    const lcr_weights *weights, const lcr_kernels *kernels, const lcr_int8_kernels *int8, const uint8_t *frame,
    const uint8_t *edges, const float *state_in, float *state_out, float *logits, float *memory);

/* n rounded up to a whole number of units. */
static inline size_t lcr_round_up(size_t n, size_t unit) {
    return (n + unit - 1u) / unit * unit;
}

#endif
