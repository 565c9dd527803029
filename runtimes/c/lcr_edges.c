/* Canny edges with an Otsu threshold, as in lcr_edge/edges/host.py. Whole numbers all the way, so that every processor
finds the same edges; only the variances that Otsu's threshold compares are double. */

#include "lcr_edge.h"

#include <string.h>

/* The share of red, green and blue in gray, of 2^15. */
#define RED 9798
#define GREEN 19235
#define BLUE 3735
#define HALF (1 << 14)
/* tan(22.5 degrees) * 2^15 is 13573; twice that, because a product's upper 16 bits are the cheapest shift. */
#define TAN_22_TWICE 27146
#define LEVELS 256
/* What the map holds: the bit STRONG, read as a number, is the result after a shift by one. */
#define WEAK 1
#define STRONG 2
#define EIGHT sizeof(uint64_t)

/* A row of derivatives. The magnitude has a column of zeros before its first pixel and one after its last. */
typedef struct gradient {
    int16_t *x, *y, *magnitude;
} gradient;

/* The scratch memory. gray and map have a border of one pixel all around; behind the map is room to read EIGHT pixels
from its last one on. */
typedef struct workspace {
    int32_t *stack;    /* places in the map */
    int32_t *counts;   /* pixels of each gray level */
    gradient rows[3];  /* of three neighbouring rows; row y is in rows[(y + 1) % 3], that above the image in rows[0] */
    uint8_t *gray, *map;
} workspace;

size_t lcr_edges_scratch(int height, int width) {
    if (height < 1 || width < 1 || height > LCR_MOST_SIDE || width > LCR_MOST_SIDE) {
        return 0;
    }
    const size_t h = (size_t)height, w = (size_t)width;
    return (h * w + LEVELS) * sizeof(int32_t) + 9 * (w + 2) * sizeof(int16_t) + 2 * (h + 2) * (w + 2) + EIGHT;
}

static workspace lay_out(void *scratch, size_t height, size_t width) {
    workspace space;
    space.stack = scratch;
    space.counts = space.stack + height * width;
    int16_t *place = (int16_t *)(space.counts + LEVELS);
    for (int row = 0; row < 3; row++) {
        space.rows[row].x = place;
        space.rows[row].y = place + width + 2;
        space.rows[row].magnitude = place + 2 * (width + 2);
        place += 3 * (width + 2);
    }
    space.gray = (uint8_t *)place;
    space.map = space.gray + (height + 2) * (width + 2);
    return space;
}

/* Gray with its border, which repeats the pixels at the edge. */
static void make_gray(const uint8_t *rgb, size_t height, size_t width, uint8_t *gray) {
    const size_t stride = width + 2;
    for (size_t y = 0; y < height; y++) {
        const uint8_t *pixel = rgb + y * width * 3;
        uint8_t *row = gray + (y + 1) * stride;
        for (size_t x = 0; x < width; x++) {
            row[x + 1] =
                (uint8_t)((RED * pixel[3 * x] + GREEN * pixel[3 * x + 1] + BLUE * pixel[3 * x + 2] + HALF) >> 15);
        }
        row[0] = row[1];
        row[width + 1] = row[width];
    }
    memcpy(gray, gray + stride, stride);
    memcpy(gray + (height + 1) * stride, gray + height * stride, stride);
}

static void count_levels(const uint8_t *gray, size_t height, size_t width, int32_t *counts) {
    memset(counts, 0, LEVELS * sizeof *counts);
    for (size_t y = 1; y <= height; y++) {
        const uint8_t *row = gray + y * (width + 2);
        for (size_t x = 1; x <= width; x++) {
            counts[row[x]]++;
        }
    }
}

/* Otsu's threshold: the first level with the largest variance between the pixels up to it and those above it. */
static int16_t otsu_threshold(const int32_t *counts) {
    int64_t all = 0, sum = 0;
    for (int level = 0; level < LEVELS; level++) {
        all += counts[level];
        sum += (int64_t)level * counts[level];
    }
    int64_t below = 0, below_sum = 0;
    double most = 0.0;
    int best = 0;
    for (int level = 0; level < LEVELS; level++) {
        below += counts[level];
        below_sum += (int64_t)level * counts[level];
        const int64_t pairs = below * (all - below);
        const double moment = (double)(all * below_sum - below * sum);
        const double variance = moment * moment / (double)(pairs > 0 ? pairs : 1);
        if (variance > most) {
            most = variance;
            best = level;
        }
    }
    return (int16_t)best;
}

/* Sobel derivatives of a row. gray: the row above it in the bordered image. magnitude: behind its first zero. */
static void derive_pixels(
    const uint8_t *restrict gray, size_t width, int16_t *restrict gx, int16_t *restrict gy,
    int16_t *restrict magnitude) {
    const uint8_t *above = gray, *here = gray + (width + 2), *below = gray + 2 * (width + 2);
    for (size_t x = 0; x < width; x++) {
        const int dx = above[x + 2] - above[x] + 2 * (here[x + 2] - here[x]) + below[x + 2] - below[x];
        const int dy = below[x] - above[x] + 2 * (below[x + 1] - above[x + 1]) + below[x + 2] - above[x + 2];
        gx[x] = (int16_t)dx;
        gy[x] = (int16_t)dy;
        magnitude[x] = (int16_t)((dx < 0 ? -dx : dx) + (dy < 0 ? -dy : dy));
    }
}

static void derive(const uint8_t *gray, size_t width, gradient row) {
    derive_pixels(gray, width, row.x, row.y, row.magnitude + 1);
    row.magnitude[0] = 0;
    row.magnitude[width + 1] = 0;
}

static inline int16_t larger(int16_t a, int16_t b) {
    return a > b ? a : b;
}

/* Local maxima of the magnitude across the edge, WEAK above ``low``, STRONG above ``high``. A maximum must exceed its
neighbour to the left or above and reach that to the right or below; on a diagonal it must exceed both.

All numbers fit 16 bits. The edge is flat where |gy| < |gx| tan 22.5, and steep where |gy| > |gx| (2 + tan 22.5), which
is tan 67.5. Between whole numbers both may be asked of the product rounded down: it is a whole number only for gx = 0,
where the first question goes wrong only if the magnitude is 0, which is never an edge. */
static void thin(
    gradient row, const int16_t *above, const int16_t *below, size_t width, int16_t low, int16_t high,
    uint8_t *restrict map) {
    const int16_t *restrict gx = row.x, *restrict gy = row.y, *restrict here = row.magnitude;
    for (size_t i = 0; i < width; i++) {
        const int16_t x = (int16_t)(gx[i] < 0 ? -gx[i] : gx[i]);
        const int16_t y = (int16_t)(gy[i] < 0 ? -gy[i] : gy[i]);
        const int16_t slope = (int16_t)((x * TAN_22_TWICE) >> 16);
        const int16_t across = larger(here[i], (int16_t)(here[i + 2] - 1));
        const int16_t along = larger(above[i + 1], (int16_t)(below[i + 1] - 1));
        const int16_t falling = larger(above[i], below[i + 2]);
        const int16_t rising = larger(above[i + 2], below[i]);
        const int16_t diagonal = (gx[i] ^ gy[i]) >= 0 ? falling : rising;
        const int16_t upright = y - 2 * x > slope ? along : diagonal;
        const int16_t around = y <= slope ? across : upright;
        const int16_t magnitude = here[i + 1];
        const uint8_t strength = magnitude > high ? STRONG : WEAK;
        map[i] = magnitude > larger(around, low) ? strength : 0;
    }
}

/* The map of weak and strong pixels; its border and what is behind it are empty. */
static void find_peaks(const workspace *space, size_t height, size_t width, int16_t low, int16_t high) {
    const size_t stride = width + 2;
    memset(space->map, 0, stride);
    memset(space->map + (height + 1) * stride, 0, stride + EIGHT);
    memset(space->rows[0].magnitude, 0, stride * sizeof(int16_t));
    derive(space->gray, width, space->rows[1]);
    for (size_t y = 0; y < height; y++) {
        const gradient above = space->rows[y % 3], here = space->rows[(y + 1) % 3], below = space->rows[(y + 2) % 3];
        uint8_t *row = space->map + (y + 1) * stride;
        if (y + 1 < height) {
            derive(space->gray + (y + 1) * stride, width, below);
        } else {
            memset(below.magnitude, 0, stride * sizeof(int16_t));
        }
        row[0] = 0;
        row[width + 1] = 0;
        thin(here, above.magnitude, below.magnitude, width, low, high, row + 1);
    }
}

/* Puts the places of the strong pixels on the stack. Returns how many. Most of a map is empty: EIGHT pixels a look. */
static size_t collect_strong(const uint8_t *map, size_t size, int32_t *stack) {
    size_t count = 0;
    for (size_t start = 0; start < size; start += EIGHT) {
        uint64_t pixels;
        memcpy(&pixels, map + start, sizeof pixels);
        if ((pixels & UINT64_C(0x0202020202020202)) == 0) {
            continue;
        }
        for (size_t i = start; i < start + EIGHT; i++) {
            if (map[i] == STRONG) {
                stack[count++] = (int32_t)i;
            }
        }
    }
    return count;
}

/* Makes every weak pixel strong that a path of weak ones joins to a strong one. A pixel is put on the stack once, when
it becomes strong, so that there is room for all. */
static void spread(uint8_t *map, size_t height, size_t width, int32_t *stack) {
    const int32_t stride = (int32_t)width + 2;
    const int32_t around[8] = {-stride - 1, -stride, -stride + 1, -1, 1, stride - 1, stride, stride + 1};
    size_t count = collect_strong(map, (height + 2) * (width + 2), stack);
    while (count > 0) {
        const int32_t place = stack[--count];
        for (int i = 0; i < 8; i++) {
            const int32_t next = place + around[i];
            if (map[next] == WEAK) {
                map[next] = STRONG;
                stack[count++] = next;
            }
        }
    }
}

void lcr_find_edges(const uint8_t *rgb, int height, int width, uint8_t *edges, void *scratch) {
    const size_t h = (size_t)height, w = (size_t)width;
    const workspace space = lay_out(scratch, h, w);
    make_gray(rgb, h, w, space.gray);
    count_levels(space.gray, h, w, space.counts);
    const int16_t high = otsu_threshold(space.counts);
    find_peaks(&space, h, w, high / 2, high);
    spread(space.map, h, w, space.stack);
    for (size_t y = 0; y < h; y++) {
        const uint8_t *row = space.map + (y + 1) * (w + 2) + 1;
        for (size_t x = 0; x < w; x++) {
            edges[y * w + x] = row[x] >> 1;
        }
    }
}
