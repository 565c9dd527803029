/* lcr_open_explained of the implementation without an engine: what went wrong is in the status. */

#include "lcr_edge.h"

#include <string.h>

lcr_status lcr_open_explained(
    const char *path, const lcr_options *options, lcr_model **model, char *why, size_t why_size) {
    const lcr_status status = lcr_open(path, options, model);
    if (why != NULL && why_size > 0) {
        const char *message = lcr_message(status);
        const size_t length = strlen(message), kept = length < why_size ? length : why_size - 1;
        memcpy(why, message, kept);
        why[kept] = '\0';
    }
    return status;
}
