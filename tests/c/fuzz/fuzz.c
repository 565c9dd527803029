#include "fuzz.h"

uint64_t draw(input *from, int bytes) {
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++) {
        if (from->place < from->size) {
            value |= (uint64_t)from->bytes[from->place++] << (8 * i);
        }
    }
    return value;
}

int32_t draw_number(input *from, int32_t most) {
    const int32_t value = (int32_t)draw(from, 1);
    return value == 255 ? (int32_t)(uint32_t)draw(from, 4) : value % (most + 1);
}

float draw_float(input *from) {
    const uint32_t bits = (uint32_t)draw(from, 4);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

double draw_double(input *from) {
    const uint64_t bits = draw(from, 8);
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

void draw_bytes(input *from, void *to, size_t size) {
    const int kind = (int)draw(from, 1) % 3;
    uint32_t noise = (uint32_t)draw(from, 2);
    const size_t start = from->place, left = from->size - start;
    uint8_t *bytes = to;
    for (size_t i = 0; i < size; i++) {
        bytes[i] = (uint8_t)(kind == 0 ? noise : kind == 1 && left > 0 ? from->bytes[start + i % left] : noise_of(&noise));
    }
    from->place += kind == 1 ? (size < left ? size : left) : 0;
}

void draw_floats(input *from, float *to, size_t count, float size) {
    const int kind = (int)draw(from, 1) % 3;
    uint32_t noise = (uint32_t)draw(from, 2);
    if (kind == 0) {
        draw_bytes(from, to, count * sizeof *to);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        to[i] = size * ((float)noise_of(&noise) / 8388608.0f - 1.0f);
    }
    if (kind == 2 && count > 0) { /* one of them with any bits */
        const float odd = draw_float(from);
        to[draw(from, 4) % count] = odd;
    }
}

void *exactly(size_t size) {
    void *memory = NULL;
    if (posix_memalign(&memory, LCR_ALIGNMENT, size) != 0) {
        abort();
    }
    memset(memory, 0x5A, size);
    return memory;
}
