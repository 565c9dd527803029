/* What the files for OpenVINO share. Not for programs. */

#ifndef LCR_OPENVINO_H
#define LCR_OPENVINO_H

#include <openvino/c/openvino.h>

/* Whether OpenVINO's int8 products are wrong on this processor, found by one whose result is known. A failure counts as
yes: then int8 is computed in float, which is right and slower. */
int lcr_openvino_saturates(ov_core_t *core);

#endif
