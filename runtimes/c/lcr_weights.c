/* A weights file: a header of 256 bytes, the labels, and tensors in the order in which read_tensors takes them, each at
a multiple of 64 bytes. Little-endian. Written by export/targets/c_convert.py. */

#include "lcr_internal.h"

#include <string.h>

#define ORDER 0x0A0B0C0Du
#define ORDER_OF_OTHERS 0x0D0C0B0Au
#define MOST_DIM 8192
#define MOST_CLASSES 65536
/* The finest grid of a row: products of so many values fit 32 bits (export/targets/c_convert.py). */
#define MOST_FINE 8191

static const char magic[8] = "LCRSTEP";

typedef struct header {
    char magic[8];
    uint32_t order, format_version, contract_version, header_size;
    uint64_t size;
    uint8_t digest[32];
    int32_t height, width, patch, dim, layers, classes, head_dim, hidden;
    int32_t kv_has_frame, head_is_mean, residual, skip, fit, int8;
    uint32_t labels_size;
    float fmax, train_fps, norm_eps, embed_eps;
    uint8_t reserved[256 - 64 - 14 * 4 - 5 * 4];
} header;

/* Stands before the tensors of each product. */
typedef struct product {
    int32_t rounding, low, high;
    float input_scale;
} product;

/* Where the next tensor lies. whole: whether the file holds all of them so far. floats, widest: of its products, whether
one computes in float, and the most values that an int8 one reads of a row. */
typedef struct reader {
    const uint8_t *bytes;
    size_t size, place;
    int whole, floats;
    size_t widest;
} reader;

/* count is not a size_t: of a file's own numbers it may be more than 32 bits hold. */
static const void *take_bytes(reader *file, uint64_t count, size_t size) {
    const size_t place = lcr_round_up(file->place, LCR_ALIGNMENT);
    if (!file->whole || place > file->size || count > (file->size - place) / size) {
        file->whole = 0;
        return NULL;
    }
    file->place = place + (size_t)count * size;
    return file->bytes + place;
}

static const float *take(reader *file, uint64_t count) {
    return (const float *)take_bytes(file, count, sizeof(float));
}

static int between(int32_t value, int32_t least, int32_t most) {
    return value >= least && value <= most;
}

/* Whether rows can be rounded so, and every sum of products then fits 32 bits. */
static int rounds(const product *found, size_t inner) {
    switch (found->rounding) {
    case LCR_FLOAT:
    case LCR_OWN:
        return 1;
    case LCR_FIXED:
        return between(found->low, -255, 0) && between(found->high, 0, 255) &&
               between(found->high - found->low, 1, 255) && found->input_scale > 0.0f && found->input_scale < 1e30f;
    case LCR_FINE:
        return between(found->high, 1, MOST_FINE) && (uint64_t)found->high * 128u * inner <= INT32_MAX;
    default:
        return 0;
    }
}

static void take_matrix(reader *file, size_t inner, size_t columns, lcr_matrix *matrix) {
    const size_t padded = lcr_round_up(columns, LCR_PANEL);
    const product *stored = take_bytes(file, 1, sizeof *stored);
    *matrix = (lcr_matrix){.inner = inner, .columns = columns};
    if (stored == NULL || !rounds(stored, inner)) {
        file->whole = 0;
        return;
    }
    matrix->rounding = (lcr_rounding)stored->rounding;
    matrix->input_scale = stored->input_scale;
    matrix->low = stored->low;
    matrix->high = stored->high;
    if (matrix->rounding == LCR_FLOAT) {
        file->floats = 1;
        matrix->packed = take(file, (uint64_t)inner * padded);
    } else {
        const size_t whole = lcr_round_up(inner, LCR_WORD);
        file->widest = whole > file->widest ? whole : file->widest;
        matrix->steps = take_bytes(file, (uint64_t)whole * padded, 1);
        matrix->scale = take(file, padded);
        matrix->sums = take_bytes(file, padded, sizeof(int32_t));
    }
    matrix->bias = take(file, padded);
}

static void read_tensors(reader *file, lcr_weights *weights) {
    const size_t dim = (size_t)weights->dim, hidden = (size_t)weights->hidden, layers = (size_t)weights->layers;
    const size_t patch = (size_t)weights->patch, values = 3 * patch * patch;
    const size_t each = lcr_round_up(values, LCR_PARTS) / LCR_PARTS, width = (size_t)weights->head_dim;
    lcr_layer dropped;
    weights->frame_row = take(file, dim);
    weights->edge_row = take(file, dim);
    weights->sums = take(file, dim);
    weights->bias = take(file, dim);
    weights->norm_scale = take(file, dim);
    weights->norm_shift = take(file, dim);
    for (size_t part = 0; part < LCR_PARTS; part++) {
        const size_t first = part * each < values ? part * each : values;
        take_matrix(file, values - first < each ? values - first : each, dim, &weights->parts[part]);
    }
    take_matrix(file, patch * patch, dim, &weights->edge);
    take_matrix(file, dim, layers * dim, &weights->prompt);
    weights->cosines = take(file, (uint64_t)weights->tokens * width);
    weights->sines = take(file, (uint64_t)weights->tokens * width);
    for (size_t index = 0; index < layers; index++) {
        lcr_layer *layer = weights->layer == NULL ? &dropped : &weights->layer[index];
        layer->rg_scale = take(file, 2 * dim);
        take_matrix(file, 2 * dim, 2 * dim, &layer->rg);
        layer->kv_scale = take(file, dim);
        take_matrix(file, dim, 2 * dim, &layer->kv);
        layer->decay = take(file, dim);
        layer->bonus = take(file, dim);
        layer->y_eps = take(file, 1);
        layer->y_scale = take(file, dim);
        layer->y_shift = take(file, dim);
        take_matrix(file, dim, dim, &layer->attend);
        layer->mix_scale = take(file, dim);
        take_matrix(file, dim, dim + hidden, &layer->mix_in);
        take_matrix(file, hidden, dim, &layer->mix_out);
    }
    weights->head_scale = take(file, 2 * dim);
    take_matrix(file, 2 * dim, (size_t)weights->classes, &weights->classify);
}

/* Whether the header's numbers are those of a network. A product of two of them fits 32 bits. */
static int sensible(const header *head) {
    const int32_t *flags[] = {&head->kv_has_frame, &head->head_is_mean, &head->residual, &head->skip, &head->fit,
                              &head->int8};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        if (!between(*flags[i], 0, 1)) {
            return 0;
        }
    }
    return between(head->height, 1, LCR_MOST_SIDE) && between(head->width, 1, LCR_MOST_SIDE) &&
           between(head->patch, 1, 256) && head->height % head->patch == 0 && head->width % head->patch == 0 &&
           between(head->dim, 4, MOST_DIM) && between(head->hidden, 1, 8 * MOST_DIM) &&
           between(head->layers, 1, LCR_MOST_LAYERS) && between(head->classes, 1, MOST_CLASSES) &&
           between(head->head_dim, 4, head->dim) && head->head_dim % 4 == 0 && head->dim % head->head_dim == 0 &&
           head->fmax > 0.0f && head->fmax < 1.0f && head->train_fps > 0.0f && head->train_fps < 1e6f && head->norm_eps > 0.0f && head->norm_eps < 1e9f && head->embed_eps > 0.0f &&
           head->embed_eps < 1e9f;
}

/* The labels are as many strings as there are classes, each with a zero behind it. */
static int labels_whole(const char *labels, size_t size, size_t classes) {
    size_t ends = 0;
    for (size_t i = 0; i < size; i++) {
        ends += labels[i] == '\0';
    }
    return ends == classes && labels[size - 1] == '\0';
}

lcr_status lcr_check_start(const void *bytes, uint64_t size) {
    header head;
    if (size < sizeof head || memcmp(bytes, magic, sizeof magic) != 0) {
        return LCR_FORMAT;
    }
    memcpy(&head, bytes, sizeof head);
    if (head.order != ORDER) {
        return head.order == ORDER_OF_OTHERS ? LCR_ENDIAN : LCR_FORMAT;
    }
    if (head.format_version != LCR_FORMAT_VERSION || head.contract_version != LCR_CONTRACT_VERSION) {
        return LCR_VERSION;
    }
    return head.header_size == sizeof head && head.size == size ? LCR_OK : LCR_FORMAT;
}

/* Whether these are all bytes of a file that this library can read, and none was changed. */
lcr_status lcr_check_weights(const void *bytes, size_t size) {
    uint8_t digest[32];
    const size_t before = offsetof(header, digest), behind = before + sizeof digest;
    if (bytes == NULL || (uintptr_t)bytes % LCR_ALIGNMENT != 0) {
        return LCR_ARGUMENT;
    }
    const lcr_status status = lcr_check_start(bytes, size);
    if (status != LCR_OK) {
        return status;
    }
    lcr_sha256(bytes, before, sizeof digest, (const uint8_t *)bytes + behind, size - behind, digest);
    return memcmp(digest, (const uint8_t *)bytes + before, sizeof digest) == 0 ? LCR_OK : LCR_DIGEST;
}

lcr_status lcr_read_weights(const void *bytes, size_t size, lcr_layer *layer, lcr_weights *weights) {
    header head;
    if (bytes == NULL || size < sizeof head || (uintptr_t)bytes % LCR_ALIGNMENT != 0) {
        return LCR_ARGUMENT;
    }
    memcpy(&head, bytes, sizeof head);
    if (!sensible(&head) || head.labels_size == 0 || head.labels_size > size - sizeof head ||
        !labels_whole((const char *)bytes + sizeof head, head.labels_size, (size_t)head.classes)) {
        return LCR_FORMAT;
    }
    *weights = (lcr_weights){
        .height = head.height,
        .width = head.width,
        .patch = head.patch,
        .dim = head.dim,
        .layers = head.layers,
        .classes = head.classes,
        .head_dim = head.head_dim,
        .hidden = head.hidden,
        .kv_has_frame = head.kv_has_frame,
        .head_is_mean = head.head_is_mean,
        .residual = head.residual,
        .skip = head.skip,
        .fit = head.fit,
        .int8 = head.int8,
        .fmax = head.fmax,
        .train_fps = head.train_fps,
        .norm_eps = head.norm_eps,
        .embed_eps = head.embed_eps,
        .tokens = (size_t)(head.height / head.patch) * (size_t)(head.width / head.patch) + 1,
        .heads = (size_t)(head.dim / head.head_dim),
        .labels = (const char *)bytes + sizeof head,
        .layer = layer,
    };
    /* Far above what a step's matrices take together, in numbers that cannot overflow: about 2^54 at most. */
    const uint64_t tokens = weights->tokens + LCR_SPARE_ROWS, dim = (uint64_t)weights->dim;
    const uint64_t row = 3u * (uint64_t)weights->patch * (uint64_t)weights->patch + 12u * dim +
                         (uint64_t)weights->hidden + 3u * (uint64_t)weights->layers * dim + 16u * LCR_PANEL;
    const uint64_t most = 4u * (tokens * row + (uint64_t)weights->classes) +
                          32u * (uint64_t)weights->height * (uint64_t)weights->width;
    if (most > SIZE_MAX / 4) {
        return LCR_MEMORY;
    }
    reader file = {.bytes = bytes, .size = size, .place = sizeof head + head.labels_size, .whole = 1};
    read_tensors(&file, weights);
    weights->spare_rows = file.floats ? LCR_SPARE_ROWS : 0;
    weights->widest = file.widest;
    return file.whole && file.place == size ? LCR_OK : LCR_FORMAT;
}
