/* Camera images to the network's frame, as in lcr_edge/frames.py with OpenCV. What is rounded when, and in which order
sums of float are made, is OpenCV's, so that a network sees on every device what it was trained on.

Sums of float are equal to OpenCV's only if the compiler neither fuses products with sums nor reorders them: compile
with -std=c99, never with -ffast-math. */

#include "lcr_edge.h"

#include <math.h>
#include <string.h>

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

/* A part of an image. */
typedef struct source {
    const lcr_image *image;
    size_t top, left, height, width;
    uint8_t *row; /* room for a row in RGB, of an even number of pixels */
} source;

/* A part of the frame. */
typedef struct target {
    uint8_t *pixels;
    size_t stride, height, width;
} target;

/* Input pixels that one output pixel covers, along one side: their first, how many, and the share of the first one, of
those between and of the last one. */
typedef struct cell {
    int32_t first, count;
    float head, body, tail;
} cell;

/* The two input pixels that one output pixel lies between, along one side, and their shares of WHOLE. */
typedef struct pair {
    int32_t before, after;
    int32_t before_share, after_share;
} pair;

#define WHOLE 2048
/* A cell that covers less of a pixel does not count it. */
#define THINNEST 1e-3

/* What a resize works in; each uses one kind of columns and of lines. */
typedef struct workspace {
    union {
        cell *cells;
        pair *pairs;
    } columns; /* for each output column */
    union {
        float *floats;
        int32_t *whole;
        int64_t *totals;
    } lines[2]; /* of 3 numbers for each output column */
} workspace;

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

/* BT.601 in whole numbers of 2^20. */
#define YUV_SHIFT 20
#define YUV_HALF (1 << (YUV_SHIFT - 1))
#define LUMA 1220542
#define RED_OF_V 1673527
#define GREEN_OF_V (-852492)
#define GREEN_OF_U (-409993)
#define BLUE_OF_U 2116026

/* Bits decide, because noise would mislead every prediction of a branch. A negative number shifted by 31 bits is all
ones: as everywhere here, shifts keep the sign. */
static int not_below_0(int value) {
    return value & ~(value >> 31);
}

static uint8_t level(int value) {
    const int shifted = not_below_0(value >> YUV_SHIFT);
    return (uint8_t)(shifted | ((255 - shifted) >> 31));
}

/* Pairs of pixels that share U and V. luma_step: from one pixel to the next; chroma_step: from one pair to the next. */
static void convert_yuv(
    const uint8_t *luma, size_t luma_step, const uint8_t *u, const uint8_t *v, size_t chroma_step, size_t pairs,
    uint8_t *restrict rgb) {
    for (size_t i = 0; i < pairs; i++) {
        const int blueness = u[i * chroma_step] - 128, redness = v[i * chroma_step] - 128;
        const int red = RED_OF_V * redness + YUV_HALF;
        const int green = GREEN_OF_V * redness + GREEN_OF_U * blueness + YUV_HALF;
        const int blue = BLUE_OF_U * blueness + YUV_HALF;
        for (size_t k = 2 * i; k < 2 * i + 2; k++) {
            const int light = LUMA * not_below_0(luma[k * luma_step] - 16);
            rgb[3 * k] = level(light + red);
            rgb[3 * k + 1] = level(light + green);
            rgb[3 * k + 2] = level(light + blue);
        }
    }
}

static void swap_red_and_blue(const uint8_t *bgr, size_t width, uint8_t *rgb) {
    for (size_t x = 0; x < width; x++) {
        rgb[3 * x] = bgr[3 * x + 2];
        rgb[3 * x + 1] = bgr[3 * x + 1];
        rgb[3 * x + 2] = bgr[3 * x];
    }
}

static void repeat_gray(const uint8_t *gray, size_t width, uint8_t *rgb) {
    for (size_t x = 0; x < width; x++) {
        rgb[3 * x] = gray[x];
        rgb[3 * x + 1] = gray[x];
        rgb[3 * x + 2] = gray[x];
    }
}

/* A row in RGB, valid until the next one is read. Of YUV whole pairs are converted; a pixel too many on the left is
skipped. */
static const uint8_t *read_row(const source *from, size_t y) {
    const lcr_image *image = from->image;
    const size_t line = from->top + y, even = from->left / 2 * 2, odd = from->left % 2;
    const size_t pairs = (odd + from->width + 1) / 2;
    const uint8_t *plane = image->planes[0] + line * image->strides[0];
    const uint8_t *chroma;
    switch (image->format) {
    case LCR_RGB:
        return plane + 3 * from->left;
    case LCR_BGR:
        swap_red_and_blue(plane + 3 * from->left, from->width, from->row);
        return from->row;
    case LCR_GRAY8:
        repeat_gray(plane + from->left, from->width, from->row);
        return from->row;
    case LCR_NV12:
        chroma = image->planes[1] + line / 2 * image->strides[1] + even;
        convert_yuv(plane + even, 1, chroma, chroma + 1, 2, pairs, from->row);
        return from->row + 3 * odd;
    case LCR_YUYV:
        plane += 2 * even;
        convert_yuv(plane, 2, plane + 1, plane + 3, 4, pairs, from->row);
        return from->row + 3 * odd;
    }
    return NULL;
}

/* Input pixels per output pixel. Not the plain quotient: OpenCV rounds its inverse first, and so not every whole number
comes out whole. */
static double scale_of(size_t size_in, size_t size_out) {
    return 1.0 / ((double)size_out / (double)size_in);
}

static int is_whole(double scale) {
    return scale == rint(scale);
}

/* To the nearest whole number, half to even, for 0 <= value < 2^22. Beside 2^23 a float has no room for fractions; the
processor has rounded them away, and what is left in the lowest bits is the number. */
static int32_t round_float(float value) {
    const float beside = value + 8388608.0f;
    int32_t bits;
    memcpy(&bits, &beside, sizeof bits);
    return bits & 0x7fffff;
}

static void copy(const source *from, const target *to) {
    for (size_t y = 0; y < to->height; y++) {
        memcpy(to->pixels + y * to->stride, read_row(from, y), 3 * to->width);
    }
}

/* Adds to each output pixel's totals a row of the block of input pixels that it covers. */
static void add_blocks(const uint8_t *row, size_t width, size_t block, int64_t *totals) {
    for (size_t x = 0; x < width; x++) {
        int32_t red = 0, green = 0, blue = 0;
        for (size_t k = 0; k < block; k++, row += 3) {
            red += row[0];
            green += row[1];
            blue += row[2];
        }
        totals[3 * x] += red;
        totals[3 * x + 1] += green;
        totals[3 * x + 2] += blue;
    }
}

/* Both sides shrink by whole numbers: means of blocks. 2 x 2 pixels round half up, others half to even. */
static void shrink_blocks(const source *from, const target *to, workspace *space) {
    const size_t block_height = from->height / to->height, block_width = from->width / to->width;
    int64_t *totals = space->lines[0].totals;
    const int half_up = block_height == 2 && block_width == 2;
    const float share = 1.0f / (float)(block_height * block_width);
    for (size_t y = 0; y < to->height; y++) {
        uint8_t *out = to->pixels + y * to->stride;
        memset(totals, 0, 3 * to->width * sizeof *totals);
        for (size_t k = 0; k < block_height; k++) {
            add_blocks(read_row(from, y * block_height + k), to->width, block_width, totals);
        }
        for (size_t i = 0; i < 3 * to->width; i++) {
            out[i] = half_up ? (uint8_t)((totals[i] + 2) >> 2) : (uint8_t)round_float((float)totals[i] * share);
        }
    }
}

/* The input pixels that an output pixel covers, at least one. scale: from 1 on. */
static cell cover(size_t number, double scale, size_t size_in) {
    const double begin = (double)number * scale, end = begin + scale;
    /* The last cell is shorter by what rounding begin added. */
    const double length = fmin(scale, (double)size_in - begin);
    const double body_begin = ceil(begin), body_end = floor(end);
    const int has_head = body_begin - begin > THINNEST, has_tail = end - body_end > THINNEST;
    cell result;
    result.first = (int32_t)body_begin - has_head;
    result.count = (int32_t)(body_end - body_begin) + has_head + has_tail;
    result.body = (float)(1.0 / length);
    result.tail = has_tail ? (float)((end - body_end) / length) : result.body;
    result.head = has_head ? (float)((body_begin - begin) / length) : result.count == 1 ? result.tail : result.body;
    return result;
}

/* One row shrunk along its length. */
static void shrink_row(const uint8_t *row, const cell *cells, size_t width, float *line) {
    for (size_t x = 0; x < width; x++) {
        const cell covered = cells[x];
        const uint8_t *pixel = row + 3 * (size_t)covered.first, *last = pixel + 3 * (size_t)(covered.count - 1);
        float red = pixel[0] * covered.head, green = pixel[1] * covered.head, blue = pixel[2] * covered.head;
        for (pixel += 3; pixel < last; pixel += 3) {
            red += pixel[0] * covered.body;
            green += pixel[1] * covered.body;
            blue += pixel[2] * covered.body;
        }
        if (pixel == last) {
            red += pixel[0] * covered.tail;
            green += pixel[1] * covered.tail;
            blue += pixel[2] * covered.tail;
        }
        line[3 * x] = red;
        line[3 * x + 1] = green;
        line[3 * x + 2] = blue;
    }
}

static void add_line(const float *restrict line, float share, size_t size, float *restrict sums) {
    for (size_t i = 0; i < size; i++) {
        sums[i] += line[i] * share;
    }
}

/* Both sides shrink: means over the area that each output pixel covers. */
static void shrink(const source *from, const target *to, workspace *space) {
    const double scale_x = scale_of(from->width, to->width), scale_y = scale_of(from->height, to->height);
    float *line = space->lines[0].floats, *sums = space->lines[1].floats;
    int32_t held = -1; /* the input row in line; a row on the border of two cells is used for both */
    for (size_t x = 0; x < to->width; x++) {
        space->columns.cells[x] = cover(x, scale_x, from->width);
    }
    for (size_t y = 0; y < to->height; y++) {
        const cell covered = cover(y, scale_y, from->height);
        uint8_t *out = to->pixels + y * to->stride;
        memset(sums, 0, 3 * to->width * sizeof *sums);
        for (int32_t k = 0; k < covered.count; k++) {
            if (held != covered.first + k) {
                held = covered.first + k;
                shrink_row(read_row(from, (size_t)held), space->columns.cells, to->width, line);
            }
            const float share = k == 0 ? covered.head : k + 1 < covered.count ? covered.body : covered.tail;
            add_line(line, share, 3 * to->width, sums);
        }
        for (size_t i = 0; i < 3 * to->width; i++) {
            out[i] = (uint8_t)round_float(sums[i]); /* not above 255: the shares add up to 1, but for rounding */
        }
    }
}

/* The input pixels that an output pixel lies between. Outside the centres of the first and the last they are the same
one. */
static pair locate(size_t number, double scale, size_t size_in) {
    const float place = (float)(((double)number + 0.5) * scale - 0.5);
    const float floor_of_place = floorf(place);
    const int32_t before = (int32_t)floor_of_place, last = (int32_t)size_in - 1;
    const float share = place - floor_of_place;
    pair result;
    result.before = before < 0 ? 0 : before > last ? last : before;
    result.after = before + 1 > last ? last : before + 1;
    result.before_share = round_float((1.0f - share) * (float)WHOLE);
    result.after_share = round_float(share * (float)WHOLE);
    return result;
}

/* One row stretched along its length, times WHOLE. */
static void stretch_row(const uint8_t *row, const pair *pairs, size_t width, int32_t *line) {
    for (size_t x = 0; x < width; x++) {
        const pair here = pairs[x];
        const uint8_t *before = row + 3 * (size_t)here.before, *after = row + 3 * (size_t)here.after;
        for (size_t k = 0; k < 3; k++) {
            line[3 * x + k] = before[k] * here.before_share + after[k] * here.after_share;
        }
    }
}

/* Two lines, times WHOLE, into a row. Bits are dropped where OpenCV drops them to stay within 16 bits, in three places;
4 + 16 + 2 are the two times 11 of WHOLE. */
static void mix_lines(
    const int32_t *restrict before, const int32_t *restrict after, pair shares, size_t size, uint8_t *restrict out) {
    for (size_t i = 0; i < size; i++) {
        const int32_t first = ((before[i] >> 4) * shares.before_share) >> 16;
        const int32_t second = ((after[i] >> 4) * shares.after_share) >> 16;
        out[i] = (uint8_t)((first + second + 2) >> 2);
    }
}

/* A side grows: linear between the centres of the pixels. */
static void stretch(const source *from, const target *to, workspace *space) {
    const double scale_x = scale_of(from->width, to->width), scale_y = scale_of(from->height, to->height);
    int32_t held[2] = {-1, -1}; /* the input rows in lines, even ones in the first */
    for (size_t x = 0; x < to->width; x++) {
        space->columns.pairs[x] = locate(x, scale_x, from->width);
    }
    for (size_t y = 0; y < to->height; y++) {
        const pair rows = locate(y, scale_y, from->height);
        for (int32_t row = rows.before; row <= rows.after; row++) {
            if (held[row % 2] != row) {
                held[row % 2] = row;
                stretch_row(
                    read_row(from, (size_t)row), space->columns.pairs, to->width, space->lines[row % 2].whole);
            }
        }
        mix_lines(
            space->lines[rows.before % 2].whole, space->lines[rows.after % 2].whole, rows, 3 * to->width,
            to->pixels + y * to->stride);
    }
}

static void resize(const source *from, const target *to, workspace *space) {
    if (from->height == to->height && from->width == to->width) {
        copy(from, to);
    } else if (from->height < to->height || from->width < to->width) {
        stretch(from, to, space);
    } else if (is_whole(scale_of(from->height, to->height)) && is_whole(scale_of(from->width, to->width))) {
        shrink_blocks(from, to, space);
    } else {
        shrink(from, to, space);
    }
}

/* A product, rounded half to even, from 1 to ``most``. */
static size_t length(double exact, size_t most) {
    const size_t rounded = (size_t)rint(exact);
    return smaller(most, rounded < 1 ? 1 : rounded);
}

/* The whole image in the middle of a black frame. */
static void letterbox(source *from, target *to) {
    const size_t height = to->height, width = to->width;
    const double scale = fmin((double)height / (double)from->height, (double)width / (double)from->width);
    to->height = length((double)from->height * scale, height);
    to->width = length((double)from->width * scale, width);
    memset(to->pixels, 0, height * to->stride);
    to->pixels += (height - to->height) / 2 * to->stride + (width - to->width) / 2 * 3;
}

/* The middle of the image, in the shape of the frame. */
static void cut_out(source *from, const target *to) {
    const size_t height = from->height, width = from->width;
    const double scale = fmax((double)to->height / (double)height, (double)to->width / (double)width);
    from->height = length((double)to->height / scale, height);
    from->width = length((double)to->width / scale, width);
    from->top = (height - from->height) / 2;
    from->left = (width - from->width) / 2;
}

static int in_range(int side) {
    return side >= 1 && side <= LCR_MOST_SIDE;
}

/* Whether everything but the pointers is as it must be. */
static int makes_sense(const lcr_image *image, int height, int width) {
    if (!in_range(image->height) || !in_range(image->width) || !in_range(height) || !in_range(width)) {
        return 0;
    }
    const size_t across = (size_t)image->width;
    switch (image->format) {
    case LCR_RGB:
    case LCR_BGR:
        return image->strides[0] >= 3 * across;
    case LCR_GRAY8:
        return image->strides[0] >= across;
    case LCR_NV12:
        return image->height % 2 == 0 && across % 2 == 0 && image->strides[0] >= across &&
               image->strides[1] >= across;
    case LCR_YUYV:
        return across % 2 == 0 && image->strides[0] >= 2 * across;
    }
    return 0;
}

size_t lcr_fit_scratch(const lcr_image *image, int height, int width, int crop) {
    (void)crop; /* both need the same */
    if (image == NULL || !makes_sense(image, height, width)) {
        return 0;
    }
    const size_t lines = 2 * 3 * (size_t)width * sizeof(int64_t), columns = (size_t)width * sizeof(cell);
    return lines + columns + 3 * ((size_t)image->width + 2);
}

lcr_status lcr_fit_image(const lcr_image *image, int height, int width, int crop, uint8_t *frame, void *scratch) {
    if (image == NULL || frame == NULL || scratch == NULL || !makes_sense(image, height, width) ||
        image->planes[0] == NULL || (image->format == LCR_NV12 && image->planes[1] == NULL)) {
        return LCR_ARGUMENT;
    }
    const size_t across = (size_t)width;
    int64_t *lines = scratch;
    workspace space;
    space.lines[0].totals = lines;
    space.lines[1].totals = lines + 3 * across;
    space.columns.cells = (cell *)(lines + 6 * across);
    source from = {image, 0, 0, (size_t)image->height, (size_t)image->width, (uint8_t *)(space.columns.cells + across)};
    target to = {frame, 3 * across, (size_t)height, across};
    if (crop) {
        cut_out(&from, &to);
    } else {
        letterbox(&from, &to);
    }
    resize(&from, &to, &space);
    return LCR_OK;
}
