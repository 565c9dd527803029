/* How much stack opening a model, its selftest and a step take: a thread on a painted stack.
painted MODEL.BIN GOLDEN.BIN prints the bytes. */

#define _POSIX_C_SOURCE 200112L

#include "lcr_edge.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STACK (256 * 1024)
#define PAINT 0xA5

static void *weights, *golden, *arena, *memory;
static size_t weights_size, golden_size, arena_size;
static lcr_status status = LCR_PARITY;

static void *aligned_memory(size_t size) {
    void *made = NULL;
    return posix_memalign(&made, 4096, size) == 0 ? made : NULL;
}

static void *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    void *content = aligned_memory(64u << 20);
    if (file == NULL || content == NULL) {
        exit(2);
    }
    *size = fread(content, 1, 64u << 20, file);
    fclose(file);
    return content;
}

/* With an argument the thread does its work, without one it only ends: that part is not the library's. */
static void *work(void *wanted) {
    lcr_model *model = NULL;
    lcr_errors errors;
    uint8_t hash[8];
    if (wanted == NULL) {
        return NULL;
    }
    status = lcr_open_memory(weights, weights_size, NULL, arena, arena_size, &model);
    if (status == LCR_OK) {
        status = lcr_selftest_hash(model, golden, golden_size, memory, &errors, hash);
    }
    return NULL;
}

static size_t deepest(void *wanted) {
    unsigned char *stack = aligned_memory(STACK);
    size_t untouched = 0;
    pthread_attr_t how;
    pthread_t thread;
    memset(stack, PAINT, STACK);
    if (pthread_attr_init(&how) != 0 || pthread_attr_setstack(&how, stack, STACK) != 0 ||
        pthread_create(&thread, &how, work, wanted) != 0 || pthread_join(thread, NULL) != 0) {
        exit(2);
    }
    while (untouched < STACK && stack[untouched] == PAINT) {
        untouched++;
    }
    free(stack);
    return STACK - untouched;
}

int main(int count, char **arguments) {
    if (count != 3) {
        return 2;
    }
    weights = read_file(arguments[1], &weights_size);
    golden = read_file(arguments[2], &golden_size);
    arena_size = lcr_arena_size(weights, weights_size, NULL);
    arena = aligned_memory(arena_size);
    memory = aligned_memory(1u << 20);
    const size_t bare = deepest(NULL), used = deepest(&status);
    printf("%zu\n", used - bare);
    return status == LCR_OK ? 0 : 1;
}
