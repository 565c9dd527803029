/* Weights files of small networks, signed as the library wants them. */

#include "fuzz.h"

network usual_network(void) {
    return (network){
        .height = 4,
        .width = 4,
        .patch = 2,
        .dim = 4,
        .layers = 1,
        .classes = 2,
        .head_dim = 4,
        .hidden = 4,
        .fmax = 0.9f,
        .train_fps = 12.0f,
        .norm_eps = 1e-5f,
        .embed_eps = 1e-5f,
    };
}

size_t labels_end(const network *of) {
    return HEADER_SIZE + 2 * (size_t)of->classes;
}

/* What a file has of special places: the WKV norm's eps of each layer, and the numbers of each product. */
typedef struct places {
    uint64_t eps[LCR_MOST_LAYERS], products[LCR_PARTS + 3 + 5 * LCR_MOST_LAYERS], inner[LCR_PARTS + 3 + 5 * LCR_MOST_LAYERS];
    size_t count; /* of products so far */
} places;

static uint64_t round_up(uint64_t number, uint64_t unit) {
    return (number + unit - 1) / unit * unit;
}

static lcr_rounding rounding_of(const network *of, size_t product) {
    return (lcr_rounding)(of->roundings >> product % 16 * 2 & 3);
}

static uint64_t behind_row(uint64_t place, uint64_t floats) {
    return round_up(place, LCR_ALIGNMENT) + 4 * floats;
}

/* Behind a product's numbers, weights, for int8 scales and sums, and bias. */
static uint64_t behind(const network *of, places *found, uint64_t place, uint64_t inner, uint64_t columns) {
    const uint64_t padded = round_up(columns, LCR_PANEL);
    const int is_int8 = rounding_of(of, found->count) != LCR_FLOAT;
    place = round_up(place, LCR_ALIGNMENT);
    found->inner[found->count] = inner;
    found->products[found->count++] = place;
    place += 16;
    if (!is_int8) {
        return behind_row(behind_row(place, inner * padded), padded);
    }
    place = round_up(place, LCR_ALIGNMENT) + round_up(inner, 4) * padded;
    return behind_row(behind_row(behind_row(place, padded), padded), padded);
}

/* The order is that of read_tensors in lcr_weights.c; written down again, so that a mistake there is seen. Returns the
file's bytes, 0 for numbers that are no network's. */
static uint64_t walk(const network *of, places *found) {
    if (of->height < 1 || of->width < 1 || of->patch < 1 || of->dim < 1 || of->layers < 1 || of->classes < 1 ||
        of->head_dim < 1 || of->hidden < 1 || of->height > 512 || of->width > 512 || of->patch > 64 || of->dim > 256 ||
        of->layers > LCR_MOST_LAYERS || of->classes > 4096 || of->head_dim > 256 || of->hidden > 1024) {
        return 0;
    }
    const uint64_t dim = (uint64_t)of->dim, hidden = (uint64_t)of->hidden, layers = (uint64_t)of->layers;
    const uint64_t pixels = (uint64_t)of->patch * (uint64_t)of->patch, values = 3 * pixels;
    const uint64_t tokens = (uint64_t)(of->height / of->patch) * (uint64_t)(of->width / of->patch) + 1;
    const uint64_t each = (values + LCR_PARTS - 1) / LCR_PARTS;
    uint64_t place = labels_end(of);
    found->count = 0;
    for (int i = 0; i < 6; i++) {
        place = behind_row(place, dim);
    }
    for (uint64_t part = 0; part < LCR_PARTS; part++) {
        const uint64_t left = part * each < values ? values - part * each : 0;
        place = behind(of, found, place, left < each ? left : each, dim);
    }
    place = behind(of, found, place, pixels, dim);
    place = behind(of, found, place, dim, layers * dim);
    place = behind_row(behind_row(place, tokens * (uint64_t)of->head_dim), tokens * (uint64_t)of->head_dim);
    for (int32_t layer = 0; layer < of->layers; layer++) {
        place = behind(of, found, behind_row(place, 2 * dim), 2 * dim, 2 * dim);
        place = behind(of, found, behind_row(place, dim), dim, 2 * dim);
        place = behind_row(behind_row(behind_row(place, dim), dim), 1);
        found->eps[layer] = place - sizeof(float);
        place = behind(of, found, behind_row(behind_row(place, dim), dim), dim, dim);
        place = behind(of, found, behind_row(place, dim), dim, dim + hidden);
        place = behind(of, found, place, hidden, dim);
    }
    return behind(of, found, behind_row(place, 2 * dim), 2 * dim, (uint64_t)of->classes);
}

size_t weights_size(const network *of, size_t most) {
    places found;
    const uint64_t size = walk(of, &found);
    return size <= most ? (size_t)size : 0;
}

size_t product_place(const network *of, size_t number) {
    places found;
    walk(of, &found);
    return (size_t)found.products[number];
}

void write_weights(const network *of, uint8_t *file, size_t size) {
    const uint32_t order = 0x0A0B0C0Du, numbers[3] = {LCR_FUZZ_FORMAT, LCR_CONTRACT_VERSION, HEADER_SIZE};
    const uint32_t labels = 2u * (uint32_t)of->classes;
    const uint64_t all = size;
    memset(file, 0, HEADER_SIZE);
    memcpy(file, "LCRSTEP", 8);
    memcpy(file + 8, &order, sizeof order);
    memcpy(file + 12, numbers, sizeof numbers);
    memcpy(file + 24, &all, sizeof all);
    memcpy(file + 64, of, 14 * sizeof(int32_t)); /* up to int8 */
    memcpy(file + 120, &labels, sizeof labels);
    memcpy(file + 124, &of->fmax, 4 * sizeof(float));
    for (size_t i = HEADER_SIZE; i < labels_end(of) && i + 1 < size; i += 2) {
        memcpy(file + i, "x", 2);
    }
    places found;
    if (walk(of, &found) == 0) {
        return;
    }
    for (size_t i = 0; i < found.count; i++) {
        const lcr_rounding rounding = rounding_of(of, i);
        const int32_t fine = found.inner[i] > 2047 ? 1 : 8191;
        const int32_t product[3] = {(int32_t)rounding, rounding == LCR_FIXED ? -100 : 0, rounding == LCR_FIXED ? 155 : fine};
        const float scale = 0.01f;
        if (found.products[i] + 16 <= size) {
            memcpy(file + found.products[i], product, sizeof product);
            memcpy(file + found.products[i] + sizeof product, &scale, sizeof scale);
        }
    }
}

void sign(uint8_t *file, size_t size, size_t place) {
    if (size >= place + 32) {
        uint8_t digest[32];
        lcr_sha256(file, place, sizeof digest, file + place + 32, size - place - 32, digest);
        memcpy(file + place, digest, sizeof digest);
    }
}

lcr_model *open_network(const network *of, int plain) {
    const lcr_options options = {1, plain};
    const size_t size = weights_size(of, 1u << 24), start = (labels_end(of) + 63) / 64 * 64;
    uint8_t *file = exactly(size);
    uint32_t noise = 1;
    places found;
    walk(of, &found);
    memset(file, 0, size);
    for (size_t i = start; i < size; i += sizeof(float)) {
        const float value = (float)noise_of(&noise) / 16777216.0f - 0.5f;
        memcpy(file + i, &value, sizeof value);
    }
    for (int32_t layer = 0; layer < of->layers; layer++) {
        memcpy(file + found.eps[layer], &of->norm_eps, sizeof of->norm_eps);
    }
    write_weights(of, file, size);
    sign(file, size, WEIGHTS_DIGEST);
    lcr_model *model = NULL;
    const size_t room = lcr_arena_size(file, size, &options);
    EXPECT(room > 0);
    EXPECT(lcr_open_memory(file, size, &options, exactly(room), room, &model) == LCR_OK);
    return model;
}
