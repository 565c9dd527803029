/* The reader of weights files: whole files with a right digest whose numbers, sizes and values are the input's. What
opens is stepped, in the very memory that the library asked for. */

#include "fuzz.h"

#define MOST_BYTES (1u << 15)
#define MOST_ARENA (1u << 22)
#define MOST_PRODUCTS (1u << 18) /* of a step: tokens times weights */

/* From 1 to ``most``. */
static int32_t some(input *from, int32_t most) {
    return 1 + (int32_t)draw(from, 1) % most;
}

/* A network, or, with one byte of four, one of whose numbers is off. */
static network draw_network(input *from) {
    network of = usual_network();
    of.patch = some(from, 9);
    of.height = of.patch * some(from, 5);
    of.width = of.patch * some(from, 5);
    of.head_dim = 4 * some(from, 6);
    of.dim = of.head_dim * some(from, 2);
    of.layers = some(from, 2);
    of.classes = some(from, 70);
    of.hidden = some(from, 70);
    const int flags = (int)draw(from, 1);
    of.kv_has_frame = flags & 1;
    of.head_is_mean = flags >> 1 & 1;
    of.residual = flags >> 2 & 1;
    of.skip = flags >> 3 & 1;
    of.fit = flags >> 4 & 1;
    of.int8 = flags >> 5 & 1;
    if (of.int8) {
        of.roundings = (uint32_t)draw(from, 4);
    }
    int32_t *numbers[] = {&of.height, &of.width, &of.patch, &of.dim, &of.layers, &of.classes, &of.head_dim, &of.hidden,
                          &of.kv_has_frame, &of.head_is_mean, &of.residual, &of.skip, &of.fit, &of.int8};
    float *floats[] = {&of.fmax, &of.train_fps, &of.norm_eps, &of.embed_eps};
    const size_t odd = (size_t)draw(from, 1), count = sizeof numbers / sizeof *numbers;
    if (odd < 42) {
        *numbers[odd % count] = draw_number(from, 32);
    } else if (odd < 64) {
        *floats[odd % 4] = draw_float(from);
    }
    return of;
}

/* A weights file in memory of exactly its size. */
static uint8_t *draw_file(input *from, size_t *size) {
    const int kind = (int)draw(from, 1);
    if (kind % 4 == 0) { /* the input is the file */
        const size_t left = from->size - from->place;
        uint8_t *file = exactly(left);
        memcpy(file, from->bytes + from->place, left);
        from->place = from->size;
        if (left >= HEADER_SIZE && (kind & 4) == 0) {
            const uint64_t all = left;
            memcpy(file + 24, &all, sizeof all);
        }
        *size = left;
        return file;
    }
    const network of = draw_network(from);
    size_t wanted = weights_size(&of, MOST_BYTES), head = HEADER_SIZE;
    if (wanted == 0) { /* too large, or no network: the tensors are missing */
        head = of.classes >= 0 && of.classes < 4096 ? labels_end(&of) : HEADER_SIZE;
        wanted = head + (size_t)draw(from, 2) % 4096;
    } else {
        head = labels_end(&of);
        const int off = (int)(int8_t)draw(from, 1); /* mostly none, else some words too many or too few */
        wanted += (size_t)(4 * (off < -8 || off > 8 ? 0 : off));
    }
    uint8_t *file = exactly(wanted);
    memset(file, 0, wanted);
    const size_t start = (head + 63) / 64 * 64;
    if (wanted > start) {
        draw_floats(from, (float *)(void *)(file + start), (wanted - start) / sizeof(float), 0.5f);
    }
    write_weights(&of, file, wanted);
    const size_t product = (size_t)draw(from, 1); /* one whose numbers are off */
    if (weights_size(&of, MOST_BYTES) != 0 && product < PRODUCTS(&of)) {
        const size_t place = product_place(&of, product) + 4 * (size_t)(draw(from, 1) % 4);
        const uint32_t number = draw(from, 1) & 1 ? (uint32_t)draw_number(from, 254) : (uint32_t)draw(from, 4);
        if (place + 4 <= wanted) {
            memcpy(file + place, &number, sizeof number);
        }
    }
    const size_t letter = HEADER_SIZE + (size_t)draw(from, 1);
    if ((kind & 64) && letter < head && letter < wanted) { /* a label with a zero in it, or without one behind it */
        file[letter] = (uint8_t)draw(from, 1);
    }
    *size = wanted;
    return file;
}

static void step(lcr_model *model, input *from) {
    const lcr_info info = lcr_about(model);
    const size_t state_size = lcr_state_size(model), pixels = 3 * (size_t)info.height * (size_t)info.width;
    uint8_t *frame = exactly(pixels);
    void *state = exactly(state_size);
    float *logits = exactly((size_t)info.classes * sizeof(float));
    draw_bytes(from, frame, pixels);
    UNWRITTEN(state, state_size);
    UNWRITTEN(logits, (size_t)info.classes * sizeof(float));
    EXPECT(lcr_step(model, frame, NULL, state, logits) == LCR_OK);
    const lcr_status status = lcr_step(model, frame, state, state, logits);
    EXPECT(status == LCR_OK || status == LCR_STATE); /* weights may be NaN, and what comes of them */
    free(frame);
    free(state);
    free(logits);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    input from = {bytes, size, 0};
    const lcr_options options = {draw_number(&from, 3), (int)draw(&from, 1) & 1};
    size_t file_size;
    uint8_t *file = draw_file(&from, &file_size);
    if (draw(&from, 1) != 255) {
        sign(file, file_size, WEIGHTS_DIGEST);
    }
    lcr_model *model = NULL;
    const size_t room = lcr_arena_size(file, file_size, &options);
    if (room == 0) {
        uint8_t none[LCR_ALIGNMENT] __attribute__((aligned(64)));
        const lcr_status status = lcr_open_memory(file, file_size, &options, none, sizeof none, &model);
        EXPECT(status != LCR_OK && model == NULL);
    } else if (room <= MOST_ARENA) {
        uint8_t *arena = exactly(room);
        UNWRITTEN(arena, room);
        EXPECT(lcr_open_memory(file, file_size, &options, arena, room - 1, &model) == LCR_MEMORY && model == NULL);
        EXPECT(lcr_open_memory(file, file_size, &options, arena, room, &model) == LCR_OK && model != NULL);
        const lcr_info info = lcr_about(model);
        for (int i = -1; i <= info.classes; i++) {
            const char *label = lcr_label(model, i);
            EXPECT((label != NULL) == (i >= 0 && i < info.classes));
            EXPECT(label == NULL || strlen(label) < file_size);
        }
        if ((uint64_t)info.tokens * (file_size / sizeof(float)) <= MOST_PRODUCTS) {
            step(model, &from);
        }
        lcr_close(model);
        free(arena);
    }
    free(file);
    return 0;
}
