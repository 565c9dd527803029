/* The reader of golden clips, and a selftest of those that are whole. */

#include "fuzz.h"

#include <math.h>

#define MOST_FRAMES 4

static uint8_t *draw_clip(input *from, const lcr_model *model, size_t *size) {
    const lcr_info info = lcr_about(model);
    const int kind = (int)draw(from, 1);
    if (kind % 4 == 0) { /* the input is the file */
        *size = from->size - from->place;
        uint8_t *file = exactly(*size);
        memcpy(file, from->bytes + from->place, *size);
        from->place = from->size;
        return file;
    }
    const size_t pixels = lcr_round_up(3 * (size_t)info.height * (size_t)info.width, LCR_ALIGNMENT);
    const size_t logits = lcr_round_up((size_t)info.classes * sizeof(float), LCR_ALIGNMENT);
    const size_t state = lcr_round_up(lcr_state_size(model), LCR_ALIGNMENT);
    const uint32_t frames = (uint32_t)draw(from, 1) % (MOST_FRAMES + 1);
    uint32_t numbers[11] = {0x0A0B0C0Du, LCR_FORMAT_VERSION, frames, (uint32_t)info.height, (uint32_t)info.width,
                            (uint32_t)info.classes, (uint32_t)info.layers, (uint32_t)info.tokens, (uint32_t)info.dim};
    for (int i = 9; i < 11; i++) { /* what is promised */
        const float promise = draw_float(from);
        memcpy(&numbers[i], &promise, sizeof promise);
    }
    const size_t odd = (size_t)draw(from, 1); /* which number has any bits */
    if (odd < sizeof numbers / sizeof *numbers) {
        numbers[odd] = (uint32_t)draw(from, 4);
    }
    const int off = (int)(int8_t)draw(from, 1);
    *size = GOLDEN_HEADER_SIZE + frames * (pixels + logits + state);
    *size = off >= -16 && off <= 16 ? *size + (size_t)(4 * off) : *size;
    uint8_t *file = exactly(*size), *place = file + GOLDEN_HEADER_SIZE;
    memset(file, 0, *size);
    while (place + pixels + logits + state <= file + *size) {
        draw_bytes(from, place, pixels);
        draw_floats(from, (float *)(void *)(place + pixels), (logits + state) / sizeof(float), 1.0f);
        place += pixels + logits + state;
    }
    uint8_t head[GOLDEN_HEADER_SIZE] = "LCRGOLD";
    memcpy(head + 8, numbers, sizeof numbers);
    memcpy(file, head, *size < sizeof head ? *size : sizeof head);
    return file;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    static lcr_model *models[2];
    if (models[0] == NULL) {
        network of = usual_network();
        models[0] = open_network(&of, 0);
        of.layers = 2, of.classes = 19, of.dim = 8, of.residual = 1, of.int8 = 1, of.roundings = 0x7B9D7B9Du;
        models[1] = open_network(&of, 1);
    }
    input from = {bytes, size, 0};
    lcr_model *model = models[draw(&from, 1) & 1];
    const int is_signed = draw(&from, 1) != 255;
    size_t file_size;
    uint8_t *file = draw_clip(&from, model, &file_size);
    if (is_signed) {
        sign(file, file_size, GOLDEN_DIGEST);
    }
    void *memory = exactly(lcr_selftest_size(model));
    UNWRITTEN(memory, lcr_selftest_size(model));
    lcr_errors errors = {-1, -1.0f, -1.0f};
    const lcr_status status = lcr_selftest(model, file, file_size, memory, &errors);
    if (status == LCR_OK || status == LCR_PARITY) {
        float promises[2];
        memcpy(promises, file + 44, sizeof promises);
        EXPECT(errors.frames > 0 && errors.frames <= MOST_FRAMES + (int)(file_size / GOLDEN_HEADER_SIZE));
        EXPECT((status == LCR_OK) == (errors.one_step <= promises[0] && errors.stream <= promises[1]));
        EXPECT(!(errors.one_step < 0.0f) && !(errors.stream < 0.0f));
    } else {
        EXPECT(status == LCR_FORMAT || status == LCR_VERSION || status == LCR_ENDIAN || status == LCR_DIGEST ||
               status == LCR_STATE);
    }
    free(memory);
    free(file);
    return 0;
}
