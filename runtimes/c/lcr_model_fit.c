/* Camera images to the frame of a model, as its network was trained. */

#include "lcr_edge.h"

size_t lcr_fit_size(const lcr_model *model, const lcr_image *image) {
    if (model == NULL) {
        return 0;
    }
    const lcr_info info = lcr_about(model);
    return lcr_fit_scratch(image, info.height, info.width, info.fit);
}

lcr_status lcr_fit(const lcr_model *model, const lcr_image *image, uint8_t *frame, void *scratch) {
    if (model == NULL) {
        return LCR_ARGUMENT;
    }
    const lcr_info info = lcr_about(model);
    return lcr_fit_image(image, info.height, info.width, info.fit, frame, scratch);
}
