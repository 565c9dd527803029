#include "lcr_bundle.h"
#include "lcr_internal.h"
#include "lcr_json.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MANIFEST "manifest.json"
#define MOST_MANIFEST ((size_t)4 << 20)
#define MOST_PATH 4096
#define HEX 64 /* digits of a digest */

/* A manifest while it is read. */
typedef struct manifest {
    char path[MOST_PATH];
    size_t folder; /* how much of the path is the folder with its last slash */
    char *text;
    lcr_json json;
    const lcr_why *why;
} manifest;

lcr_status lcr_say(const lcr_why *why, lcr_status status, const char *format, ...) {
    if (why->text != NULL && why->size > 0) {
        va_list rest;
        va_start(rest, format);
        vsnprintf(why->text, why->size, format, rest);
        va_end(rest);
    }
    return status;
}

/* The bytes of a file of at most ``most``; wanted: how many it must have, 0 for any number. They end with a zero. */
static lcr_status read_file(
    const char *path, size_t wanted, size_t most, void **bytes, size_t *size, const lcr_why *why) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return lcr_say(why, LCR_FILE, "%s cannot be opened; check that it is there and may be read", path);
    }
    lcr_status status = LCR_OK;
    long length = -1;
    if (fgetc(file) == EOF) {
        status = ferror(file)
                     ? lcr_say(why, LCR_FILE, "%s cannot be read: no " MANIFEST " is in it, or the disk failed", path)
                     : lcr_say(why, LCR_FORMAT, "%s is empty; copy the bundle again", path);
    } else if (fseek(file, 0, SEEK_END) != 0 || (length = ftell(file)) < 0 || fseek(file, 0, SEEK_SET) != 0) {
        status = lcr_say(why, LCR_FILE, "%s cannot be read: it is no plain file", path);
    } else if (wanted != 0 && (size_t)length != wanted) {
        status = lcr_say(why, LCR_DIGEST, "%s has %ld bytes, not %lu as the manifest says; copy the bundle again", path,
            length, (unsigned long)wanted);
    } else if ((size_t)length > most) {
        status = lcr_say(why, LCR_FORMAT,
            "%s has %ld bytes, too many for a manifest: give the bundle's folder or its %s", path, length, MANIFEST);
    } else {
        char *memory = malloc((size_t)length + 1);
        if (memory == NULL) {
            status = lcr_say(why, LCR_MEMORY, "there is no memory for the %ld bytes of %s", length, path);
        } else if (fread(memory, 1, (size_t)length, file) != (size_t)length) {
            status = lcr_say(why, LCR_FILE, "%s cannot be read to its end", path);
            free(memory);
        } else {
            memory[length] = '\0';
            *bytes = memory;
            *size = (size_t)length;
        }
    }
    fclose(file);
    return status;
}

static void hex_digest(const void *bytes, size_t size, char text[HEX + 1]) {
    static const char digits[] = "0123456789abcdef";
    uint8_t digest[32];
    lcr_sha256(bytes, size, 0, NULL, 0, digest);
    for (size_t i = 0; i < sizeof digest; i++) {
        text[2 * i] = digits[digest[i] >> 4];
        text[2 * i + 1] = digits[digest[i] & 15];
    }
    text[HEX] = '\0';
}

static size_t find(const manifest *file, size_t object, const char *key) {
    return lcr_json_find(&file->json, object, key);
}

static lcr_status wrong(const manifest *file, const char *key) {
    return lcr_say(file->why, LCR_FORMAT, "%s: %s is missing or not what it should be; export the bundle again",
        file->path, key);
}

/* The manifest's path from that of the bundle's folder or of the manifest. */
static lcr_status find_manifest(const char *path, manifest *file) {
    const size_t length = strlen(path);
    if (length == 0 || length > MOST_PATH - sizeof MANIFEST - 1) {
        return lcr_say(file->why, LCR_FILE, "the path of the bundle is empty or longer than %d bytes", MOST_PATH);
    }
    snprintf(file->path, sizeof file->path, "%s%s" MANIFEST, path, path[length - 1] == '/' ? "" : "/");
    FILE *found = fopen(file->path, "rb");
    if (found != NULL) {
        fclose(found);
    } else {
        memcpy(file->path, path, length + 1);
    }
    const char *slash = strrchr(file->path, '/');
    file->folder = slash == NULL ? 0 : (size_t)(slash - file->path) + 1;
    return LCR_OK;
}

/* Reads the manifest and checks that nobody changed it: its last value is the digest of all its bytes, with as many
zeros in that place. The version comes first, because another one may seal in another way. */
static lcr_status read_manifest(manifest *file) {
    void *bytes = NULL;
    size_t size = 0;
    int64_t version = 0;
    char seal[HEX + 1], digest[HEX + 1];
    lcr_status status = read_file(file->path, 0, MOST_MANIFEST, &bytes, &size, file->why);
    if (status != LCR_OK) {
        return status;
    }
    file->text = bytes;
    const size_t count = lcr_json_read(file->text, size, NULL, size);
    lcr_json_node *nodes = count == 0 ? NULL : malloc(count * sizeof *nodes);
    if (count == 0) {
        return lcr_say(file->why, LCR_FORMAT, "%s is not JSON: give the bundle's folder or its %s, or copy it again",
            file->path, MANIFEST);
    }
    if (nodes == NULL) {
        return lcr_say(file->why, LCR_MEMORY, "there is no memory to read %s", file->path);
    }
    file->json = (lcr_json){file->text, size, nodes, lcr_json_read(file->text, size, nodes, count)};
    if (!lcr_json_whole(&file->json, find(file, 0, "contract_version"), 0, INT32_MAX, &version)) {
        return wrong(file, "contract_version");
    }
    if (version != LCR_CONTRACT_VERSION) {
        return lcr_say(file->why, LCR_VERSION, "%s has version %ld of the contract, and this library knows %d: %s",
            file->path, (long)version, LCR_CONTRACT_VERSION,
            version > LCR_CONTRACT_VERSION ? "build a newer one" : "export the bundle again");
    }
    const size_t sealed = find(file, 0, "manifest_sha256");
    if (lcr_json_string(&file->json, sealed, seal, sizeof seal) != HEX ||
        nodes[sealed].end - nodes[sealed].start != HEX) {
        return wrong(file, "manifest_sha256");
    }
    char *place = file->text + nodes[sealed].start;
    memset(place, '0', HEX);
    hex_digest(file->text, size, digest);
    memcpy(place, seal, HEX);
    return strcmp(seal, digest) == 0
               ? LCR_OK
               : lcr_say(file->why, LCR_DIGEST, "%s was changed after the export; copy the bundle again", file->path);
}

/* What this library cannot run is refused with the option of the export that made it so. */
static lcr_status check_kind(const manifest *file, const char *target, lcr_bundle *bundle) {
    static const struct kind {
        const char *key, *wanted, *advice;
    } kinds[] = {
        {"state_mode", "explicit", "it keeps its state inside; export it with --state-mode explicit"},
        {"io", "float", "its states and logits are integers; export it without --io int8"},
        {"state_precision", "fp32", "its states are not float32; export it with --state-precision fp32"},
    };
    char found[32];
    int64_t batch = 1;
    if (!lcr_json_is(&file->json, find(file, 0, "target"), target)) {
        const size_t length = lcr_json_string(&file->json, find(file, 0, "target"), found, sizeof found);
        return length == LCR_JSON_NONE
                   ? wrong(file, "target")
                   : lcr_say(file->why, LCR_UNSUPPORTED,
                         "%s: the bundle is for %s, and this library runs bundles for %s", file->path, found, target);
    }
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        const size_t node = find(file, 0, kinds[i].key);
        /* Bundles made before the last two existed are float. */
        if (node == LCR_JSON_NONE ? i == 0 : file->json.nodes[node].kind != LCR_JSON_STRING) {
            return wrong(file, kinds[i].key);
        }
        if (node != LCR_JSON_NONE && !lcr_json_is(&file->json, node, kinds[i].wanted)) {
            return lcr_say(file->why, LCR_UNSUPPORTED, "%s: this library cannot run the bundle, because %s", file->path,
                kinds[i].advice);
        }
    }
    const size_t node = find(file, 0, "batch");
    if (node != LCR_JSON_NONE && !lcr_json_whole(&file->json, node, 1, 1 << 16, &batch)) {
        return wrong(file, "batch");
    }
    if (batch > 1) {
        return lcr_say(file->why, LCR_UNSUPPORTED,
            "%s: this library cannot run the bundle, because it steps %ld streams in a call; export it with --batch 1",
            file->path, (long)batch);
    }
    const size_t edges = find(file, 0, "edges");
    bundle->host_edges = lcr_json_is(&file->json, edges, "host");
    if (!bundle->host_edges && !lcr_json_is(&file->json, edges, "graph")) {
        return wrong(file, "edges");
    }
    bundle->info.int8 = lcr_json_is(&file->json, find(file, 0, "precision"), "int8");
    return LCR_OK;
}

static lcr_status read_numbers(const manifest *file, lcr_bundle *bundle) {
    int64_t patch = 0, of_frame[2] = {0};
    const size_t config = find(file, 0, "config"), frame = find(file, 0, "frame");
    lcr_info *info = &bundle->info;
    const struct number {
        const char *key;
        int64_t most;
        int *place;
    } numbers[] = {
        {"height", LCR_MOST_SIDE, &info->height}, {"width", LCR_MOST_SIDE, &info->width},
        {"classes", LCR_MOST_CLASSES, &info->classes}, {"layers", LCR_MOST_LAYERS, &info->layers},
        {"dim", 8192, &info->dim},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        int64_t value = 0;
        if (!lcr_json_whole(&file->json, find(file, config, numbers[i].key), 1, numbers[i].most, &value)) {
            return wrong(file, numbers[i].key);
        }
        *numbers[i].place = (int)value;
    }
    if (!lcr_json_whole(&file->json, find(file, config, "patch"), 1, LCR_MOST_SIDE, &patch) ||
        info->height % patch != 0 || info->width % patch != 0) {
        return wrong(file, "patch");
    }
    const int64_t tokens = (info->height / patch) * (info->width / patch) + 1;
    /* Below 2^51 floats, so nothing overflows; of 32 bits there may be too few for the state. */
    if (tokens > INT32_MAX || (uint64_t)tokens * (uint64_t)info->layers * (uint64_t)info->dim > SIZE_MAX / 64) {
        return wrong(file, "patch");
    }
    info->tokens = (int)tokens;
    if (!lcr_json_whole(&file->json, find(file, frame, "height"), info->height, info->height, &of_frame[0]) ||
        !lcr_json_whole(&file->json, find(file, frame, "width"), info->width, info->width, &of_frame[1]) ||
        !lcr_json_is(&file->json, find(file, frame, "colour"), "RGB") ||
        !lcr_json_is(&file->json, find(file, frame, "layout"), "NHWC")) {
        return wrong(file, "frame");
    }
    const size_t fit = find(file, frame, "fit");
    info->fit = lcr_json_is(&file->json, fit, "crop");
    if (fit != LCR_JSON_NONE && !info->fit && !lcr_json_is(&file->json, fit, "letterbox")) {
        return wrong(file, "fit");
    }
    double rate = 0.0;
    if (!lcr_json_real(&file->json, find(file, frame, "train_fps"), &rate) || rate <= 0.0 || rate >= 1e6) {
        return wrong(file, "train_fps");
    }
    info->train_fps = (float)rate;
    bundle->group_size = -1;
    const size_t size = find(file, find(file, 0, "runtime_hints"), "DYNAMIC_QUANTIZATION_GROUP_SIZE");
    if (size != LCR_JSON_NONE && !lcr_json_whole(&file->json, size, 0, INT32_MAX, &bundle->group_size)) {
        return wrong(file, "DYNAMIC_QUANTIZATION_GROUP_SIZE");
    }
    return LCR_OK;
}

static lcr_status read_labels(const manifest *file, lcr_bundle *bundle) {
    const size_t list = find(file, 0, "labels");
    if (list == LCR_JSON_NONE || file->json.nodes[list].kind != LCR_JSON_ARRAY) {
        return wrong(file, "labels");
    }
    /* What an escape stands for is never longer than the escape, and each label has two quotes for its zero. */
    const size_t room = file->json.nodes[list].end - file->json.nodes[list].start;
    size_t used = 0, count = 0;
    bundle->labels = malloc(room);
    if (bundle->labels == NULL) {
        return lcr_say(file->why, LCR_MEMORY, "there is no memory for the labels of %s", file->path);
    }
    for (size_t i = list + 1; i < file->json.nodes[list].next; i = file->json.nodes[i].next, count++) {
        const size_t size = lcr_json_string(&file->json, i, bundle->labels + used, room - used);
        if (size == LCR_JSON_NONE) {
            return wrong(file, "labels");
        }
        used += size + 1;
    }
    return count == (size_t)bundle->info.classes ? LCR_OK : wrong(file, "labels");
}

/* A model file lies beside the manifest: a name without a folder in it. */
static int plain_name(const char *name) {
    return name[0] != '\0' && name[0] != '.' && strpbrk(name, "/\\:") == NULL;
}

static lcr_status read_model_file(manifest *file, size_t node, lcr_bundle *bundle) {
    char name[256], path[MOST_PATH + sizeof name], wanted[HEX + 1], found[HEX + 1];
    int64_t size = 0;
    if (lcr_json_string(&file->json, node, name, sizeof name) == LCR_JSON_NONE || !plain_name(name)) {
        return wrong(file, "model_files");
    }
    const size_t record = find(file, find(file, 0, "files"), name);
    if (!lcr_json_whole(&file->json, find(file, record, "bytes"), 1, INT64_C(1) << 40, &size) ||
        (uint64_t)size > SIZE_MAX / 2 ||
        lcr_json_string(&file->json, find(file, record, "sha256"), wanted, sizeof wanted) != HEX) {
        return wrong(file, "files");
    }
    snprintf(path, sizeof path, "%.*s%s", (int)file->folder, file->path, name);
    const int number = bundle->files;
    const lcr_status status =
        read_file(path, (size_t)size, (size_t)size, &bundle->content[number], &bundle->sizes[number], file->why);
    if (status != LCR_OK) {
        return status;
    }
    bundle->files++;
    hex_digest(bundle->content[number], bundle->sizes[number], found);
    if (strcmp(found, wanted) != 0) {
        return lcr_say(file->why, LCR_DIGEST,
            "%s is not what was exported: its digest differs; copy the bundle again", path);
    }
    return LCR_OK;
}

static lcr_status read_model_files(manifest *file, lcr_bundle *bundle) {
    const size_t list = find(file, 0, "model_files");
    if (list == LCR_JSON_NONE || file->json.nodes[list].kind != LCR_JSON_ARRAY) {
        return wrong(file, "model_files");
    }
    lcr_status status = LCR_OK;
    for (size_t i = list + 1; i < file->json.nodes[list].next && status == LCR_OK; i = file->json.nodes[i].next) {
        status = bundle->files == LCR_MOST_MODEL_FILES ? wrong(file, "model_files") : read_model_file(file, i, bundle);
    }
    return status == LCR_OK && bundle->files == 0 ? wrong(file, "model_files") : status;
}

lcr_status lcr_read_bundle(const char *path, const char *target, lcr_bundle *bundle, const lcr_why *why) {
    manifest file = {.why = why};
    *bundle = (lcr_bundle){.files = 0};
    lcr_status status = find_manifest(path, &file);
    status = status == LCR_OK ? read_manifest(&file) : status;
    status = status == LCR_OK ? check_kind(&file, target, bundle) : status;
    status = status == LCR_OK ? read_numbers(&file, bundle) : status;
    status = status == LCR_OK ? read_labels(&file, bundle) : status;
    status = status == LCR_OK ? read_model_files(&file, bundle) : status;
    free(file.text);
    free(file.json.nodes);
    if (status != LCR_OK) {
        lcr_free_bundle(bundle);
    }
    return status;
}

void lcr_free_bundle(lcr_bundle *bundle) {
    for (int i = 0; i < bundle->files; i++) {
        free(bundle->content[i]);
    }
    free(bundle->labels);
    *bundle = (lcr_bundle){.files = 0};
}
