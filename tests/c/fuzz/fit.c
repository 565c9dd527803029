/* Camera images of any size, stride and format, in memory that ends with the last pixel of the last row. */

#include "fuzz.h"

#define MOST_PIXELS (1 << 16)

/* A side: mostly small, sometimes as long as allowed, or any number. */
static int draw_side(input *from) {
    const int kind = (int)draw(from, 1);
    return kind < 200 ? 1 + kind : kind < 254 ? 1 + (int)draw(from, 2) % LCR_MOST_SIDE : (int)(uint32_t)draw(from, 4);
}

static size_t row_bytes(const lcr_image *image, int plane) {
    const size_t width = (size_t)image->width;
    switch ((int)image->format) {
    case LCR_RGB:
    case LCR_BGR:
        return plane == 0 ? 3 * width : 0;
    case LCR_YUYV:
        return plane == 0 ? 2 * width : 0;
    case LCR_NV12:
        return width;
    }
    return plane == 0 ? width : 0;
}

static int small(int height, int width) {
    return height >= 1 && width >= 1 && height <= MOST_PIXELS && width <= MOST_PIXELS / height;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    input from = {bytes, size, 0};
    lcr_image image = {{NULL, NULL}, {0, 0}, 0, 0, LCR_RGB};
    const int kind = (int)draw(&from, 1), crop = kind & 1;
    const int format = draw_number(&from, 5);
    memcpy(&image.format, &format, sizeof format); /* an enum that may have no such value */
    image.width = draw_side(&from);
    image.height = draw_side(&from);
    const int height = draw_side(&from), width = draw_side(&from);
    if (kind & 2) {
        image.width &= ~1;
        image.height &= ~1;
    }
    if (!small(height, width) || !small(image.height, image.width)) {
        image.strides[0] = (size_t)draw(&from, 8);
        image.strides[1] = (size_t)draw(&from, 8);
        uint8_t frame[1] = {7};
        int64_t scratch[1];
        const size_t room = lcr_fit_scratch(&image, height, width, crop);
        EXPECT(room < (size_t)1 << 24);
        if (room == 0) {
            EXPECT(lcr_fit_image(&image, height, width, crop, frame, scratch) == LCR_ARGUMENT && frame[0] == 7);
        }
        return 0;
    }
    uint8_t *planes[2] = {NULL, NULL};
    for (int plane = 0; plane < 2; plane++) {
        const size_t row = row_bytes(&image, plane);
        const size_t rows = plane == 0 ? (size_t)image.height : (size_t)(image.height + 1) / 2;
        const int more = (int)(int8_t)draw(&from, 1);
        if (row > 0) {
            image.strides[plane] = more < 0 && row > 1 && more > -3 ? row - 1 : row + (size_t)(more < 0 ? 0 : more);
            planes[plane] = exactly((rows - 1) * image.strides[plane] + row);
            draw_bytes(&from, planes[plane], (rows - 1) * image.strides[plane] + row);
            image.planes[plane] = planes[plane];
        }
    }
    if (kind & 64 && draw(&from, 1) == 1) {
        image.planes[0] = NULL;
    }
    const size_t frame_size = 3 * (size_t)height * (size_t)width, room = lcr_fit_scratch(&image, height, width, crop);
    uint8_t *frame = exactly(frame_size), *again = exactly(frame_size);
    void *scratch = exactly(room);
    UNWRITTEN(frame, frame_size);
    UNWRITTEN(scratch, room);
    const lcr_status status = lcr_fit_image(&image, height, width, crop, frame, scratch);
    EXPECT((status == LCR_OK) == (room > 0 && image.planes[0] != NULL));
    if (status == LCR_OK) {
        memset(again, 0xA5, frame_size); /* what nothing writes differs */
        memset(scratch, 0xA5, room);
        EXPECT(lcr_fit_image(&image, height, width, crop, again, scratch) == LCR_OK);
        EXPECT(memcmp(frame, again, frame_size) == 0);
        if (format == LCR_GRAY8) { /* gray stays gray, and an even image even */
            const size_t length = ((size_t)image.height - 1) * image.strides[0] + (size_t)image.width;
            const int even = crop && memcmp(planes[0], planes[0] + 1, length - 1) == 0;
            for (size_t i = 0; i < frame_size; i++) {
                EXPECT(frame[i] == frame[i / 3 * 3] && (!even || frame[i] == planes[0][0]));
            }
        }
    } else {
        WRITTEN(frame, frame_size); /* by the harness */
        EXPECT(status == LCR_ARGUMENT && frame[0] == 0x5A && memcmp(frame, frame + 1, frame_size - 1) == 0);
    }
    free(planes[0]);
    free(planes[1]);
    free(frame);
    free(again);
    free(scratch);
    return 0;
}
