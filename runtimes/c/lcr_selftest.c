/* The golden clip of a bundle, golden.bin: a header of 128 bytes, and for each frame its pixels, the reference's logits
and the state after it, each at a multiple of 64 bytes. Little-endian. Written by export/targets/c_convert.py. */

#include "lcr_internal.h"

#include <math.h>
#include <string.h>

#define ORDER 0x0A0B0C0Du
#define ORDER_OF_OTHERS 0x0D0C0B0Au

static const char magic[8] = "LCRGOLD";

typedef struct header {
    char magic[8];
    uint32_t order, format_version, frames;
    int32_t height, width, classes, layers, tokens, dim;
    float one_step, stream; /* what is promised */
    uint8_t reserved[12];
    uint8_t digest[32];
    uint8_t more[32];
} header;

static size_t unit(size_t bytes) {
    return lcr_round_up(bytes, LCR_ALIGNMENT);
}

/* Whether the clip is whole, and of a network of this model's shape. */
static lcr_status check(const lcr_model *model, const void *golden, size_t size, header *head) {
    const lcr_info info = lcr_about(model);
    const size_t before = offsetof(header, digest), behind = before + sizeof head->digest;
    uint8_t digest[32];
    if (size < sizeof *head || memcmp(golden, magic, sizeof magic) != 0) {
        return LCR_FORMAT;
    }
    memcpy(head, golden, sizeof *head);
    if (head->order != ORDER) {
        return head->order == ORDER_OF_OTHERS ? LCR_ENDIAN : LCR_FORMAT;
    }
    if (head->format_version != LCR_FORMAT_VERSION) {
        return LCR_VERSION;
    }
    lcr_sha256(golden, before, sizeof digest, (const uint8_t *)golden + behind, size - behind, digest);
    if (memcmp(digest, head->digest, sizeof digest) != 0) {
        return LCR_DIGEST;
    }
    const size_t pixels = 3 * (size_t)info.height * (size_t)info.width, answers = (size_t)info.classes * sizeof(float);
    const size_t each = unit(pixels) + unit(answers) + unit(lcr_state_size(model));
    const int same = head->height == info.height && head->width == info.width && head->classes == info.classes &&
                     head->layers == info.layers && head->tokens == info.tokens && head->dim == info.dim;
    return same && head->frames > 0 && (size - sizeof *head) / each == head->frames &&
                   (size - sizeof *head) % each == 0
               ? LCR_OK
               : LCR_FORMAT;
}

/* The largest of ``so_far`` and the differences; a NaN stays. */
static float largest(const float *found, const float *wanted, size_t count, float so_far) {
    for (size_t i = 0; i < count; i++) {
        const float off = fabsf(found[i] - wanted[i]);
        so_far = isnan(so_far) || off <= so_far ? so_far : off;
    }
    return so_far;
}

size_t lcr_selftest_size(const lcr_model *model) {
    return 2 * unit(lcr_state_size(model)) + unit((size_t)lcr_about(model).classes * sizeof(float));
}

lcr_status lcr_selftest(lcr_model *model, const void *golden, size_t size, void *memory, lcr_errors *errors) {
    header head;
    if (model == NULL || golden == NULL || memory == NULL || errors == NULL ||
        (uintptr_t)golden % LCR_ALIGNMENT != 0 || (uintptr_t)memory % sizeof(float) != 0) {
        return LCR_ARGUMENT;
    }
    lcr_status status = check(model, golden, size, &head);
    if (status != LCR_OK) {
        return status;
    }
    const lcr_info info = lcr_about(model);
    const size_t state_size = lcr_state_size(model), classes = (size_t)info.classes;
    const uint8_t *place = (const uint8_t *)golden + sizeof head;
    uint8_t *after = memory, *own = after + unit(state_size);
    float *logits = (float *)(void *)(own + unit(state_size));
    const void *before = NULL;
    *errors = (lcr_errors){(int)head.frames, 0.0f, 0.0f};
    for (uint32_t number = 0; number < head.frames; number++) {
        const uint8_t *frame = place;
        const float *answer = (const float *)(const void *)(frame + unit(3 * (size_t)info.height * (size_t)info.width));
        const float *state = (const float *)(const void *)((const uint8_t *)answer + unit(classes * sizeof(float)));
        status = lcr_step(model, frame, before, after, logits);
        if (status != LCR_OK) {
            return status;
        }
        errors->one_step = largest(logits, answer, classes, errors->one_step);
        errors->one_step =
            largest((const float *)(const void *)after, state, state_size / sizeof(float), errors->one_step);
        status = lcr_step(model, frame, number == 0 ? NULL : own, own, logits);
        if (status != LCR_OK) {
            return status;
        }
        errors->stream = largest(logits, answer, classes, errors->stream);
        errors->stream = largest((const float *)(const void *)own, state, state_size / sizeof(float), errors->stream);
        before = state;
        place = (const uint8_t *)state + unit(state_size);
    }
    return errors->one_step <= head.one_step && errors->stream <= head.stream ? LCR_OK : LCR_PARITY;
}
