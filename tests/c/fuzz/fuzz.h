/* What the harnesses share: numbers drawn from an input, memory without room to spare, small networks.

A harness is one function, LLVMFuzzerTestOneInput. It makes a case of any bytes, calls the library, and aborts where an
answer is not what lcr_edge.h promises; what reads or writes where it must not, a sanitizer finds. */

#ifndef LCR_FUZZ_H
#define LCR_FUZZ_H

#include "lcr_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* For MemorySanitizer: from now on this memory counts as never written, or as written. */
#define UNWRITTEN(memory, size) ((void)(memory), (void)(size))
#define WRITTEN(memory, size) ((void)(memory), (void)(size))
#ifdef __has_feature
#if __has_feature(memory_sanitizer)
#include <sanitizer/msan_interface.h>
#undef UNWRITTEN
#undef WRITTEN
#define UNWRITTEN(memory, size) __msan_poison(memory, size)
#define WRITTEN(memory, size) __msan_unpoison(memory, size)
#endif
#endif

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

#define EXPECT(fact) \
    do { \
        if (!(fact)) { \
            fprintf(stderr, "%s:%d: this is not so: %s\n", __FILE__, __LINE__, #fact); \
            abort(); \
        } \
    } while (0)

/* The bytes of a case, taken from the first to the last; zeros behind them. */
typedef struct input {
    const uint8_t *bytes;
    size_t size, place;
} input;

/* A little-endian number of up to 8 bytes. */
uint64_t draw(input *from, int bytes);

/* 0 to ``most``, or, with one byte of 256, any number of 32 bits. most: below 255. */
int32_t draw_number(input *from, int32_t most);

/* The bits of a float. */
float draw_float(input *from);

/* The bits of a double. */
double draw_double(input *from);

/* Bytes all equal, or those of the input again and again, or noise. */
void draw_bytes(input *from, void *to, size_t size);

/* Floats from -size to size, or with any bits, NaN and infinite among them. */
void draw_floats(input *from, float *to, size_t count, float size);

/* The next of 2^24 numbers. */
static inline uint32_t noise_of(uint32_t *noise) {
    *noise = *noise * 1664525u + 1013904223u;
    return *noise >> 8;
}

/* Memory at a multiple of 64 bytes, full of 0x5A, behind which nothing may be touched. Freed by free. */
void *exactly(size_t size);

/* The numbers of a weights file's header, and, two bits for each product in turn, how its rows are rounded
(lcr_rounding). */
typedef struct network {
    int32_t height, width, patch, dim, layers, classes, head_dim, hidden;
    int32_t kv_has_frame, head_is_mean, residual, skip, fit, int8;
    float fmax, train_fps, norm_eps, embed_eps;
    uint32_t roundings;
} network;

#define PRODUCTS(network) (LCR_PARTS + 3 + 5 * (size_t)(network)->layers)

#define HEADER_SIZE 256u
#define GOLDEN_HEADER_SIZE 128u

/* A small network that lcr_open_memory takes. */
network usual_network(void);

/* Bytes of its weights file, with labels of one letter; 0 if it has more than ``most`` or is no network. */
size_t weights_size(const network *of, size_t most);

/* Where a product's numbers (how it rounds) lie in the file; it must be one that weights_size takes. */
size_t product_place(const network *of, size_t number);

/* Writes header, labels and the numbers of products; the other tensors must be there. ``size`` is that of the file. */
void write_weights(const network *of, uint8_t *file, size_t size);

/* Bytes of header and labels. */
size_t labels_end(const network *of);

/* Puts the right digest into a weights file or, with its header's size and the digest's place, a golden clip. */
void sign(uint8_t *file, size_t size, size_t place);

#define WEIGHTS_DIGEST 32u
#define GOLDEN_DIGEST 64u

/* A model that lives for ever, of noise from -0.5 to 0.5. */
lcr_model *open_network(const network *of, int plain);

#endif
