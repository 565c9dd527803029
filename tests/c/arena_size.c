/* Prints lcr_arena_size of a weights file, as the processor it was built for finds it. */

#include "lcr_edge.h"

#include <stdio.h>
#include <stdlib.h>

int main(int count, char **arguments) {
    FILE *file = count == 2 ? fopen(arguments[1], "rb") : NULL;
    char *memory = malloc((128u << 20) + 64u);
    if (file == NULL || memory == NULL) {
        return 2;
    }
    char *place = memory + 64 - (uintptr_t)memory % 64;
    const size_t size = fread(place, 1, 128u << 20, file);
    printf("%lu of %lu bits\n", (unsigned long)lcr_arena_size(place, size, NULL), (unsigned long)sizeof(void *) * 8);
    return 0;
}
