/* Does this model compute here what the reference computed? make selftest && ./selftest
Exit code 0: yes. 1: no, or the files cannot be used. */

#include "lcr_edge.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The file in memory that begins at a multiple of 64 bytes; it is never freed. */
static void *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) {
        return NULL;
    }
    const long end = ftell(file);
    char *memory = end > 0 ? malloc((size_t)end + 64) : NULL;
    if (memory == NULL || fseek(file, 0, SEEK_SET) != 0) {
        return NULL;
    }
    memory += 64 - (uintptr_t)memory % 64;
    *size = fread(memory, 1, (size_t)end, file);
    fclose(file);
    return *size == (size_t)end ? memory : NULL;
}

int main(int count, char **arguments) {
    const char *folder = count > 1 ? arguments[1] : ".";
    char path[4096];
    lcr_model *model = NULL;
    lcr_errors errors = {0, 0.0f, 0.0f};
    size_t size = 0;
    if (strlen(folder) > sizeof path - 16) {
        fputs("the folder's name is too long\n", stderr);
        return 1;
    }
    snprintf(path, sizeof path, "%s/model.bin", folder);
    lcr_status status = lcr_open(path, NULL, &model);
    if (status != LCR_OK) {
        fprintf(stderr, "%s: %s\n", path, lcr_message(status));
        return 1;
    }
    snprintf(path, sizeof path, "%s/golden.bin", folder);
    void *golden = read_file(path, &size), *memory = malloc(lcr_selftest_size(model));
    if (golden == NULL || memory == NULL) {
        fprintf(stderr, "%s: it cannot be read\n", path);
        return 1;
    }
    uint8_t hash[8];
    status = lcr_selftest_hash(model, golden, size, memory, &errors, hash);
    if (status != LCR_OK && status != LCR_PARITY) {
        fprintf(stderr, "%s: %s\n", path, lcr_message(status));
        return 1;
    }
    printf("%s, %d frames: off by %.2e after one step, %.2e in a stream\n", lcr_about(model).kernels, errors.frames,
        (double)errors.one_step, (double)errors.stream);
    fputs("hash of the answers: ", stdout);
    for (size_t i = 0; i < sizeof hash; i++) {
        printf("%02x", hash[i]);
    }
    puts(lcr_about(model).int8 ? " (int8)" : " (float32)");
    puts(status == LCR_OK ? "passed" : lcr_message(status));
    lcr_close(model);
    return status == LCR_OK ? 0 : 1;
}
