/* Opens weights where memory is missing, or where the file changes while it is read. Linked with --wrap for the functions
below; built by test_opening.py. Arguments: what to do, the weights. Prints what lcr_open and others did. */

#include "lcr_edge.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void *__wrap_realloc(void *memory, size_t size);
void __real_free(void *memory);
void __wrap_free(void *memory);
size_t __real_fread(void *to, size_t size, size_t count, FILE *file);
size_t __wrap_fread(void *to, size_t size, size_t count, FILE *file);

/* Of the library's calls, the one that fails; how many there were, and how many blocks were not freed. */
static int failing = -1, calls, live;
/* What happens to the file before its second read. */
static const char *event = "", *path;

static int fails(void) {
    return calls++ == failing;
}

void *__wrap_malloc(size_t size) {
    void *memory = fails() ? NULL : __real_malloc(size);
    live += memory != NULL;
    return memory;
}

void *__wrap_calloc(size_t count, size_t size) {
    void *memory = fails() ? NULL : __real_calloc(count, size);
    live += memory != NULL;
    return memory;
}

void *__wrap_realloc(void *memory, size_t size) {
    return fails() ? NULL : __real_realloc(memory, size);
}

void __wrap_free(void *memory) {
    live -= memory != NULL;
    __real_free(memory);
}

static void change(long size) {
    FILE *file = fopen(path, "r+b");
    if (file == NULL) {
        exit(3);
    }
    if (strcmp(event, "shrinks") == 0 && ftruncate(fileno(file), size / 2) != 0) {
        exit(3);
    }
    if (strcmp(event, "changes") == 0) {
        fseek(file, size - 1, SEEK_SET);
        fputc(0x77, file);
    }
    if (strcmp(event, "grows") == 0) {
        fseek(file, 0, SEEK_END);
        fputs("more", file);
    }
    fclose(file);
}

size_t __wrap_fread(void *to, size_t size, size_t count, FILE *file) {
    if (size * count > 4096) { /* the whole of it, not its start */
        change((long)(size * count));
    }
    return __real_fread(to, size, count, file);
}

/* Steps while nothing can be allocated. Returns how often the library asked. */
static int asked_in_steps(lcr_model *model) {
    const lcr_info info = lcr_about(model);
    const size_t pixels = (size_t)info.height * (size_t)info.width * 3;
    uint8_t *frame = __real_calloc(pixels, 1);
    void *state = __real_malloc(lcr_state_size(model));
    float *logits = __real_malloc((size_t)info.classes * sizeof *logits);
    failing = calls = 0;
    for (int i = 0; i < 3; i++) {
        if (lcr_step(model, frame, i == 0 ? NULL : state, state, logits) != LCR_OK) {
            exit(4);
        }
    }
    const int asked = calls;
    __real_free(frame);
    __real_free(state);
    __real_free(logits);
    return asked;
}

int main(int count, char **arguments) {
    lcr_model *model = NULL;
    if (count != 3) {
        return 2;
    }
    event = arguments[1];
    path = arguments[2];
    if (strcmp(event, "memory") != 0) {
        const lcr_status status = lcr_open(path, NULL, &model);
        lcr_close(model);
        printf("%d, not freed: %d\n", (int)status, live);
        return 0;
    }
    for (int number = 0; model == NULL && number < 16; number++) {
        failing = number;
        calls = 0;
        const lcr_status status = lcr_open(path, NULL, &model);
        printf("call %d fails: %d, not freed: %d\n", number, (int)status, live);
    }
    printf("asked in steps: %d\n", model == NULL ? -1 : asked_in_steps(model));
    lcr_close(model);
    printf("closed, not freed: %d\n", live);
    return 0;
}
