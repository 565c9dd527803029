/* Opens bundles one after the other, and tells of each the status and the sentence. Arguments: the bundles. */

#include "lcr_edge.h"

#include <stdio.h>

int main(int count, char **arguments) {
    const lcr_options options = {2, 0};
    for (int i = 1; i < count; i++) {
        lcr_model *model = NULL;
        char why[512];
        const lcr_status status = lcr_open_explained(arguments[i], &options, &model, why, sizeof why);
        printf("%d %s\n", (int)status, why);
        lcr_close(model);
    }
    return 0;
}
