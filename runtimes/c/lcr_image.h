/* lcr_edge: from a camera's image to what the network takes, in C99.

Images, results and scratch memory are the caller's. Nothing is allocated, and nothing is read or written after a call
returns. Scratch memory must be aligned for int64_t; what it holds before a call does not matter. Calls with different
memory may run at the same time. */

#ifndef LCR_IMAGE_H
#define LCR_IMAGE_H

#include "lcr_edge.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The most pixels along a side of any image here. */
#define LCR_MOST_SIDE 8192

typedef enum lcr_format {
    LCR_RGB = 0, /* 3 bytes a pixel: red, green, blue */
    LCR_BGR,     /* 3 bytes a pixel: blue, green, red */
    LCR_GRAY8,   /* 1 byte a pixel */
    LCR_NV12,    /* luma in the first plane; in the second U and V in turn, a pair for every 2 x 2 pixels */
    LCR_YUYV     /* luma, U, luma, V: 4 bytes for every 2 pixels of a row */
} lcr_format;

/* An image as a camera gives it. YUV means BT.601 with luma from 16 to 235, as cameras do. */
typedef struct lcr_image {
    const uint8_t *planes[2]; /* the second for NV12 only */
    size_t strides[2];        /* bytes from the start of a row to that of the next, for each plane */
    int width, height;        /* pixels; both even for NV12, an even width for YUYV */
    lcr_format format;
} lcr_image;

/* Bytes of scratch memory that lcr_fit_image needs for images of this size and format; 0 if the image, but for the
planes, or the wanted size is wrong. */
size_t lcr_fit_scratch(const lcr_image *image, int height, int width, int crop);

/* Fits an image to the network's frame, height x width x 3 bytes, RGB. crop: 0 for the whole image on black, not 0 for
the largest centred part that fills the frame (lcr_info.fit says what a model wants). scratch: lcr_fit_scratch bytes.

The result is that of lcr_edge.frames with OpenCV, bit for bit; YUV is converted first, also as OpenCV does. Where
OpenCV was compiled with fused products and sums, as compilers for ARM like to, its own result may differ by one level
if both sides shrink and one of them not by a whole number.

LCR_ARGUMENT: a NULL, a side below 1 or above LCR_MOST_SIDE or odd where it must be even, an unknown format, or a stride
that is shorter than a row. Then frame is as it was. */
lcr_status lcr_fit_image(const lcr_image *image, int height, int width, int crop, uint8_t *frame, void *scratch);

/* Bytes of scratch memory that lcr_find_edges needs; 0 if a side is below 1 or above LCR_MOST_SIDE. */
size_t lcr_edges_scratch(int height, int width);

/* The edges of a frame, as lcr_edge.edges.host finds them, bit for bit. rgb: height x width x 3 bytes. edges: height x
width bytes, each set to 0 or 1. scratch: lcr_edges_scratch(height, width) bytes, which must not be 0. */
void lcr_find_edges(const uint8_t *rgb, int height, int width, uint8_t *edges, void *scratch);

#ifdef __cplusplus
}
#endif

#endif
