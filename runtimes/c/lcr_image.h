/* lcr_edge: from a camera's frame to what the network takes, in C99.

The frame, the result and the scratch memory are the caller's. Nothing is allocated, and nothing is read or written after
a call returns. Scratch memory must be aligned for int32_t; what it holds before a call does not matter. Calls with
different memory may run at the same time. */

#ifndef LCR_IMAGE_H
#define LCR_IMAGE_H

#include "lcr_edge.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The most pixels along a side of any image here. */
#define LCR_MOST_SIDE 8192

/* Bytes of scratch memory that lcr_find_edges needs; 0 if a side is below 1 or above LCR_MOST_SIDE. */
size_t lcr_edges_scratch(int height, int width);

/* The edges of an image, as lcr_edge.edges.host finds them, bit for bit. rgb: height x width x 3 bytes. edges: height x
width bytes, each set to 0 or 1. scratch: lcr_edges_scratch(height, width) bytes, which must not be 0. */
void lcr_find_edges(const uint8_t *rgb, int height, int width, uint8_t *edges, void *scratch);

#ifdef __cplusplus
}
#endif

#endif
