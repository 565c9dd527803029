/* Steps from states with any bits: NaN, infinite, denormal, huge; of frames and edges with any bytes. */

#include "fuzz.h"

#include <float.h>
#include <math.h>

#define SHAPES 6
/* Up to here a state gives finite answers. */
#define USUAL 1e6f

static int any_more_than(const float *values, size_t count, float most) {
    for (size_t i = 0; i < count; i++) {
        if (!(fabsf(values[i]) <= most)) {
            return 1;
        }
    }
    return 0;
}

static void open_all(lcr_model *models[SHAPES][2]) {
    network shapes[SHAPES];
    for (int i = 0; i < SHAPES; i++) {
        shapes[i] = usual_network();
    }
    shapes[1].dim = 40, shapes[1].head_dim = 20, shapes[1].classes = 33, shapes[1].residual = 1;
    shapes[2].dim = 64, shapes[2].head_dim = 32, shapes[2].layers = 2, shapes[2].skip = 1, shapes[2].head_is_mean = 1;
    shapes[3].dim = 32, shapes[3].head_dim = 16, shapes[3].height = 14, shapes[3].kv_has_frame = 1;
    shapes[4].dim = 36, shapes[4].head_dim = 12, shapes[4].int8 = 1, shapes[4].roundings = 0x79E79E79u; /* all kinds */
    shapes[5].dim = 32, shapes[5].head_dim = 32, shapes[5].int8 = 1, shapes[5].roundings = 0x7B9D7B9Du; /* no floats */
    for (int i = 0; i < SHAPES; i++) {
        for (int plain = 0; plain < 2; plain++) {
            models[i][plain] = open_network(&shapes[i], plain);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    static lcr_model *models[SHAPES][2];
    if (models[0][0] == NULL) {
        open_all(models);
    }
    input from = {bytes, size, 0};
    const int kind = (int)draw(&from, 1);
    lcr_model *model = models[kind % SHAPES][kind / SHAPES % 2];
    const lcr_info info = lcr_about(model);
    const size_t pixels = (size_t)info.height * (size_t)info.width, state_size = lcr_state_size(model);
    const size_t floats = state_size / sizeof(float), classes = (size_t)info.classes;
    uint8_t *frame = exactly(3 * pixels), *edges = exactly(pixels);
    float *before = exactly(state_size), *after = exactly(state_size), *inside = exactly(state_size);
    float *logits = exactly(classes * sizeof(float)), *again = exactly(classes * sizeof(float));
    draw_bytes(&from, frame, 3 * pixels);
    draw_bytes(&from, edges, pixels);
    draw_floats(&from, before, floats, kind & 32 ? 1.0f : 3e38f);
    UNWRITTEN(after, state_size);
    UNWRITTEN(logits, classes * sizeof(float));
    const uint8_t *given = kind & 64 ? edges : NULL; /* bytes above 1 are no edges, but no harm either */
    const lcr_status status = lcr_step_edges(model, frame, given, before, after, logits);
    memcpy(inside, before, state_size);
    EXPECT(lcr_step_edges(model, frame, given, inside, inside, again) == status);
    if (any_more_than(before, floats, FLT_MAX)) { /* NaN, or infinite */
        EXPECT(status == LCR_STATE);
        WRITTEN(after, state_size); /* by the harness */
        WRITTEN(logits, classes * sizeof(float));
        WRITTEN(again, classes * sizeof(float));
        EXPECT(memcmp(inside, before, state_size) == 0 && memcmp(logits, again, classes * sizeof(float)) == 0);
        const uint8_t *untouched = (const uint8_t *)logits;
        EXPECT(untouched[0] == 0x5A && memcmp(untouched, untouched + 1, classes * sizeof(float) - 1) == 0);
        untouched = (const uint8_t *)after;
        EXPECT(untouched[0] == 0x5A && memcmp(untouched, untouched + 1, state_size - 1) == 0);
    } else {
        EXPECT(status == LCR_OK);
        EXPECT(memcmp(inside, after, state_size) == 0 && memcmp(logits, again, classes * sizeof(float)) == 0);
        if (!any_more_than(before, floats, USUAL)) {
            EXPECT(!any_more_than(after, floats, 2 * USUAL) && !any_more_than(logits, classes, 1e9f));
            EXPECT(!any_more_than(after, floats / 2, 1.0f)); /* h is a sigmoid times a tanh */
        }
        EXPECT(lcr_step_edges(model, frame, given, after, after, logits) ==
               (any_more_than(inside, floats, FLT_MAX) ? LCR_STATE : LCR_OK));
    }
    free(frame);
    free(edges);
    free(before);
    free(after);
    free(inside);
    free(logits);
    free(again);
    return 0;
}
