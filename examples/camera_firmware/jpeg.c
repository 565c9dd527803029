/* Pictures of MJPEG cameras, by libjpeg. */

#include "camera.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

struct jpeg {
    struct jpeg_decompress_struct decoder;
    struct jpeg_error_mgr errors;
    jmp_buf failed;
    uint8_t *pixels;
    size_t size;
};

static void fail(j_common_ptr common) {
    jpeg *self = common->client_data;
    longjmp(self->failed, 1);
}

static void keep_silent(j_common_ptr common, int level) {
    /* A warning means that pixels were made up: such a picture counts as damaged. */
    common->err->num_warnings += level < 0;
}

/* Returns 0 if the library is of another version than its header. */
static int create(jpeg *self) {
    self->decoder.err = jpeg_std_error(&self->errors);
    self->errors.error_exit = fail;
    self->errors.emit_message = keep_silent;
    self->decoder.client_data = self;
    if (setjmp(self->failed) != 0) {
        return 0;
    }
    jpeg_create_decompress(&self->decoder); /* which keeps client_data */
    return 1;
}

jpeg *jpeg_new(void) {
    jpeg *self = calloc(1, sizeof *self);
    if (self == NULL) {
        complain(FAILED, "there is not enough memory");
        return NULL;
    }
    if (!create(self)) {
        complain(FAILED, "libjpeg cannot be used: build this program again, with the header of the same version");
        free(self);
        return NULL;
    }
    return self;
}

void jpeg_free(jpeg *self) {
    if (self != NULL) {
        jpeg_destroy_decompress(&self->decoder);
        free(self->pixels);
        free(self);
    }
}

int jpeg_decode(jpeg *self, const uint8_t *bytes, size_t size, lcr_image *image) {
    struct jpeg_decompress_struct *decoder = &self->decoder;
    if (setjmp(self->failed) != 0) {
        jpeg_abort_decompress(decoder);
        return 0;
    }
    self->errors.num_warnings = 0;
    jpeg_mem_src(decoder, (unsigned char *)(uintptr_t)bytes, (unsigned long)size); /* old ones take no const */
    jpeg_read_header(decoder, TRUE);
    decoder->out_color_space = JCS_RGB;
    if (decoder->image_width > LCR_MOST_SIDE || decoder->image_height > LCR_MOST_SIDE) {
        jpeg_abort_decompress(decoder);
        return 0;
    }
    jpeg_start_decompress(decoder);
    const size_t stride = 3 * (size_t)decoder->output_width, needed = stride * decoder->output_height;
    if (needed > self->size) {
        free(self->pixels);
        self->pixels = malloc(needed);
        self->size = self->pixels == NULL ? 0 : needed;
    }
    if (self->pixels == NULL) {
        jpeg_abort_decompress(decoder);
        return 0;
    }
    while (decoder->output_scanline < decoder->output_height) {
        JSAMPROW row = self->pixels + stride * decoder->output_scanline;
        jpeg_read_scanlines(decoder, &row, 1);
    }
    jpeg_finish_decompress(decoder);
    if (self->errors.num_warnings != 0) {
        return 0;
    }
    *image = (lcr_image){
        .planes = {self->pixels, NULL},
        .strides = {stride, 0},
        .width = (int)decoder->output_width,
        .height = (int)decoder->output_height,
        .format = LCR_RGB,
    };
    return 1;
}
