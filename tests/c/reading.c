/* Reads bundles that may be damaged, and tells the status of each. Built with sanitizers by test_manifest.py.
Arguments: the target, then manifests or folders; or "-" and files of JSON, of which it counts the nodes. */

#include "lcr_bundle.h"
#include "lcr_json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The nodes of a file, read from memory that ends with it. */
static size_t count_nodes(const char *path) {
    FILE *file = fopen(path, "rb");
    static char whole[1 << 20];
    const size_t size = file == NULL ? 0 : fread(whole, 1, sizeof whole, file);
    char *text = malloc(size + (size == 0)), out[64];
    if (file == NULL || text == NULL) {
        return LCR_JSON_NONE;
    }
    fclose(file);
    memcpy(text, whole, size);
    const size_t count = lcr_json_read(text, size, NULL, size);
    lcr_json_node *nodes = calloc(count + 1, sizeof *nodes);
    if (nodes == NULL || lcr_json_read(text, size, nodes, count) != count) {
        return LCR_JSON_NONE;
    }
    const lcr_json json = {text, size, nodes, count};
    for (size_t i = 0; i < count; i++) { /* whatever they are */
        int64_t number;
        double real;
        lcr_json_string(&json, i, out, sizeof out);
        lcr_json_whole(&json, i, INT64_MIN, INT64_MAX, &number);
        lcr_json_real(&json, i, &real);
        lcr_json_find(&json, i, "key");
        if (nodes[i].start > nodes[i].end || nodes[i].end > size || nodes[i].next <= i || nodes[i].next > count) {
            return LCR_JSON_NONE;
        }
    }
    free(nodes);
    free(text);
    return count;
}

int main(int count, char **arguments) {
    for (int i = 2; i < count; i++) {
        char text[200];
        const lcr_why why = {text, sizeof text};
        lcr_bundle bundle;
        if (strcmp(arguments[1], "-") == 0) {
            printf("%ld\n", (long)count_nodes(arguments[i]));
            continue;
        }
        const lcr_status status = lcr_read_bundle(arguments[i], arguments[1], &bundle, &why);
        printf("%d %s\n", (int)status, status == LCR_OK ? bundle.labels : text);
        if (status == LCR_OK) {
            lcr_free_bundle(&bundle);
        }
    }
    return 0;
}
