/* A camera of Linux (V4L2), whose buffers are mapped into memory: no frame is copied before it is fitted. */

#define _DEFAULT_SOURCE

#include "camera.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/videodev2.h>

enum { BUFFERS = 4, NONE = -1 };

typedef struct layout {
    const char *name;
    uint32_t code;
    lcr_format format;
    int is_jpeg;
} layout;

/* In the order in which they are asked for: the smallest without loss first. */
static const layout layouts[] = {
    {"nv12", V4L2_PIX_FMT_NV12, LCR_NV12, 0},   {"yuyv", V4L2_PIX_FMT_YUYV, LCR_YUYV, 0},
    {"rgb", V4L2_PIX_FMT_RGB24, LCR_RGB, 0},    {"bgr", V4L2_PIX_FMT_BGR24, LCR_BGR, 0},
    {"gray", V4L2_PIX_FMT_GREY, LCR_GRAY8, 0},
#ifdef LCR_CAMERA_JPEG
    {"mjpeg", V4L2_PIX_FMT_MJPEG, LCR_RGB, 1},
#endif
};
enum { LAYOUTS = sizeof layouts / sizeof layouts[0] };

typedef struct camera {
    source base;
    char name[256];
    double patience_s;
    int file;
    int streaming;
    struct v4l2_pix_format shape;
    const layout *layout;
    struct {
        void *start;
        size_t length;
    } buffers[BUFFERS];
    unsigned count;
    int held;               /* the buffer that the caller reads */
    uint32_t sequence;      /* of the last frame */
    double first_s, last_s; /* of the first and of the last frame */
    jpeg *decoder;
} camera;

static int control(const camera *self, unsigned long request, void *argument) {
    int done;
    do {
        done = ioctl(self->file, request, argument);
    } while (done < 0 && errno == EINTR);
    return done;
}

/* Complains about what failed, with the fix for errno. */
static void blame(const camera *self, int code, const char *what) {
    const char *fix = "see dmesg";
    switch (errno) {
    case ENODEV:
    case ENXIO:
        complain(code, "%s is gone: check its cable", self->name);
        return;
    case EACCES:
    case EPERM:
        fix = "sudo usermod -aG video $USER, then log in again";
        break;
    case ENOENT:
        fix = "v4l2-ctl --list-devices names those that there are";
        break;
    case EBUSY:
        fix = "another program is using it";
        break;
    case ENOTTY:
        fix = "it is no camera";
        break;
    default:
        break;
    }
    complain(code, "%s: cannot %s (%s): %s", self->name, what, strerror(errno), fix);
}

/* Bytes of a frame, without what is behind its last row. */
static size_t frame_bytes(const camera *self) {
    const size_t stride = self->shape.bytesperline, height = self->shape.height, width = self->shape.width;
    switch (self->layout->format) {
    case LCR_NV12:
        return stride * (height + height / 2 - 1) + width;
    case LCR_YUYV:
        return stride * (height - 1) + 2 * width;
    case LCR_GRAY8:
        return stride * (height - 1) + width;
    default:
        return stride * (height - 1) + 3 * width;
    }
}

static size_t row_bytes(const camera *self) {
    const size_t width = self->shape.width;
    return self->layout->format == LCR_YUYV                                         ? 2 * width
           : self->layout->format == LCR_NV12 || self->layout->format == LCR_GRAY8 ? width
                                                                                    : 3 * width;
}

/* ---- Opening ---- */

/* Whether it is a camera that can stream. Complains if not. */
static int is_camera(const camera *self) {
    struct v4l2_capability found;
    memset(&found, 0, sizeof found);
    if (control(self, VIDIOC_QUERYCAP, &found) < 0) {
        blame(self, USAGE, "ask what it is");
        return 0;
    }
    const uint32_t able =
        (found.capabilities & V4L2_CAP_DEVICE_CAPS) != 0 ? found.device_caps : found.capabilities;
    if ((able & V4L2_CAP_VIDEO_CAPTURE) == 0) {
        complain(USAGE, (able & V4L2_CAP_VIDEO_CAPTURE_MPLANE) != 0
                ? "%s gives its planes one by one, which this program does not read: use gst:v4l2src device=%s"
                : "%s takes no pictures (%s may have other devices that do): v4l2-ctl --list-devices",
            self->name, (able & V4L2_CAP_VIDEO_CAPTURE_MPLANE) != 0 ? self->name : (const char *)found.card);
        return 0;
    }
    if ((able & V4L2_CAP_STREAMING) == 0) {
        complain(USAGE, "%s cannot stream into memory: use gst:v4l2src device=%s", self->name, self->name);
        return 0;
    }
    return 1;
}

/* The names of the formats that it offers, for people. */
static void list_offered(const camera *self, char *text, size_t size) {
    size_t used = 0;
    text[0] = '\0';
    for (uint32_t index = 0; index < 64 && used + 8 < size; index++) {
        struct v4l2_fmtdesc found;
        memset(&found, 0, sizeof found);
        found.index = index;
        found.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
        if (control(self, VIDIOC_ENUM_FMT, &found) < 0) {
            break;
        }
        const uint32_t code = found.pixelformat;
        used += (size_t)snprintf(text + used, size - used, "%s%c%c%c%c", used == 0 ? "" : ", ", (int)(code & 127u),
            (int)(code >> 8 & 127u), (int)(code >> 16 & 127u), (int)(code >> 24 & 127u));
    }
}

/* Asks for a layout. Returns 1 if it is given, 0 if another one is, -1 after complaining. */
static int ask(camera *self, const layout *wanted, const options *options) {
    struct v4l2_format format;
    memset(&format, 0, sizeof format);
    format.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    format.fmt.pix.width = (uint32_t)options->width;
    format.fmt.pix.height = (uint32_t)options->height;
    format.fmt.pix.pixelformat = wanted->code;
    format.fmt.pix.field = V4L2_FIELD_ANY;
    if (control(self, VIDIOC_S_FMT, &format) < 0) {
        if (errno == EINVAL) {
            return 0;
        }
        blame(self, USAGE, "choose the format of its pictures");
        return -1;
    }
    if (format.fmt.pix.pixelformat != wanted->code) {
        return 0;
    }
    self->shape = format.fmt.pix;
    self->layout = wanted;
    if (self->shape.width < 1 || self->shape.width > LCR_MOST_SIDE || self->shape.height < 1 ||
        self->shape.height > LCR_MOST_SIDE) {
        complain(USAGE, "%s gives pictures of %u x %u, which is too large: give --size", self->name, self->shape.width,
            self->shape.height);
        return -1;
    }
    if (self->shape.bytesperline < row_bytes(self)) { /* some drivers leave it 0 */
        self->shape.bytesperline = (uint32_t)row_bytes(self);
    }
    return 1;
}

static int choose_format(camera *self, const options *options) {
    int known = options->format == NULL;
    for (int i = 0; i < LAYOUTS; i++) {
        if (options->format != NULL && strcmp(options->format, layouts[i].name) != 0) {
            continue;
        }
        known = 1;
        const int given = ask(self, &layouts[i], options);
        if (given != 0) {
            return given > 0;
        }
    }
#ifndef LCR_CAMERA_JPEG
    if (options->format != NULL && strcmp(options->format, "mjpeg") == 0) {
        complain(USAGE, "--format mjpeg: this program was built without libjpeg; apt-get install libjpeg-dev, then "
                        "build it again");
        return 0;
    }
#endif
    if (!known) {
        complain(USAGE, "--format %s: give yuyv, nv12, rgb, bgr, gray or mjpeg", options->format);
        return 0;
    }
    char offered[512];
    list_offered(self, offered, sizeof offered);
    complain(USAGE, "%s offers %s, but not %s: choose another --format, or use gst:v4l2src device=%s ! ... ! videoconvert",
        self->name, offered[0] == '\0' ? "nothing" : offered,
        options->format == NULL ? "a format that this program reads" : options->format, self->name);
    return 0;
}

static struct v4l2_buffer buffer_of(uint32_t index) {
    struct v4l2_buffer buffer;
    memset(&buffer, 0, sizeof buffer);
    buffer.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    buffer.memory = V4L2_MEMORY_MMAP;
    buffer.index = index;
    return buffer;
}

static int start(camera *self) {
    struct v4l2_requestbuffers request;
    memset(&request, 0, sizeof request);
    request.count = BUFFERS;
    request.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    request.memory = V4L2_MEMORY_MMAP;
    if (control(self, VIDIOC_REQBUFS, &request) < 0 || request.count < 2) {
        blame(self, USAGE, "get memory for its pictures");
        return 0;
    }
    self->count = request.count < BUFFERS ? request.count : BUFFERS;
    for (uint32_t i = 0; i < self->count; i++) {
        struct v4l2_buffer buffer = buffer_of(i);
        if (control(self, VIDIOC_QUERYBUF, &buffer) < 0) {
            blame(self, USAGE, "find the memory of its pictures");
            return 0;
        }
        void *place = mmap(NULL, buffer.length, PROT_READ | PROT_WRITE, MAP_SHARED, self->file, (off_t)buffer.m.offset);
        if (place == MAP_FAILED) {
            blame(self, USAGE, "map the memory of its pictures");
            return 0;
        }
        self->buffers[i].start = place;
        self->buffers[i].length = buffer.length;
        if (control(self, VIDIOC_QBUF, &buffer) < 0) {
            blame(self, USAGE, "hand it memory for pictures");
            return 0;
        }
    }
    int type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    if (control(self, VIDIOC_STREAMON, &type) < 0) {
        blame(self, USAGE, "start it");
        return 0;
    }
    self->streaming = 1;
    return 1;
}

/* ---- Frames ---- */

/* Gives a buffer back to the driver. Returns 0 after complaining. */
static int give_back(const camera *self, int index) {
    struct v4l2_buffer buffer = buffer_of((uint32_t)index);
    if (control(self, VIDIOC_QBUF, &buffer) < 0) {
        blame(self, FAILED, "hand it memory for pictures");
        return 0;
    }
    return 1;
}

/* When a frame was taken, by CLOCK_MONOTONIC; by arrival where the driver has another clock. */
static double time_of(const struct v4l2_buffer *buffer) {
    if ((buffer->flags & V4L2_BUF_FLAG_TIMESTAMP_MASK) != V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC) {
        return now_s();
    }
    return (double)buffer->timestamp.tv_sec + (double)buffer->timestamp.tv_usec * 1e-6;
}

/* Counts a frame that arrived, and notes the time since the one before. */
static void count(camera *self, const struct v4l2_buffer *buffer, double *pause_s) {
    const double time_s = time_of(buffer);
    if (self->base.seen == 0) {
        self->first_s = time_s;
        *pause_s = 0.0;
    } else {
        /* A number that runs back is a driver that counts anew. */
        const uint32_t step = buffer->sequence - self->sequence;
        if (step > 1 && step < UINT32_MAX / 2) {
            self->base.lost += step - 1;
        }
        *pause_s = time_s - self->last_s > *pause_s ? time_s - self->last_s : *pause_s;
    }
    self->base.seen++;
    self->sequence = buffer->sequence;
    self->last_s = time_s;
}

/* Describes the bytes of a buffer. Returns 0 if they are no picture. */
static int describe(camera *self, const struct v4l2_buffer *buffer, lcr_image *image) {
    const uint8_t *bytes = self->buffers[buffer->index].start;
#ifdef LCR_CAMERA_JPEG
    if (self->layout->is_jpeg) {
        return jpeg_decode(self->decoder, bytes, buffer->bytesused, image);
    }
#endif
    const size_t stride = self->shape.bytesperline, luma = stride * self->shape.height;
    const int has_colours = self->layout->format == LCR_NV12;
    *image = (lcr_image){
        .planes = {bytes, has_colours ? bytes + luma : NULL},
        .strides = {stride, has_colours ? stride : 0},
        .width = (int)self->shape.width,
        .height = (int)self->shape.height,
        .format = self->layout->format,
    };
    return 1;
}

static int is_whole(const camera *self, const struct v4l2_buffer *buffer) {
    const size_t used = buffer->bytesused, room = self->buffers[buffer->index].length;
    return (buffer->flags & V4L2_BUF_FLAG_ERROR) == 0 && used <= room &&
           (self->layout->is_jpeg ? used > 0 : used >= frame_bytes(self));
}

/* Takes what is there, the newest frame last. Returns PICTURE, also where there is none (then newest->index is
BUFFERS), or LOST after complaining. */
static outcome drain(camera *self, struct v4l2_buffer *newest, double *pause_s) {
    newest->index = BUFFERS;
    for (unsigned taken = 0; taken < self->count; taken++) {
        struct v4l2_buffer buffer = buffer_of(0);
        if (control(self, VIDIOC_DQBUF, &buffer) < 0) {
            if (errno == EAGAIN) {
                return PICTURE;
            }
            blame(self, FAILED, "read a picture");
            return LOST;
        }
        if (buffer.index >= self->count) {
            complain(FAILED, "%s gives memory that it was not given: its driver is broken", self->name);
            return LOST;
        }
        const int whole = is_whole(self, &buffer);
        const uint32_t spare = whole ? newest->index : buffer.index;
        if (whole) {
            count(self, &buffer, pause_s);
            *newest = buffer;
        } else {
            self->base.damaged++;
        }
        if (spare < BUFFERS && !give_back(self, (int)spare)) {
            return LOST;
        }
    }
    return PICTURE;
}

static outcome next(source *base, picture *picture) {
    camera *self = (camera *)(void *)base;
    const double until_s = now_s() + self->patience_s;
    picture->pause_s = 0.0;
    if (self->held != NONE) {
        const int held = self->held;
        self->held = NONE;
        if (!give_back(self, held)) {
            return LOST;
        }
    }
    for (;;) {
        const double left_s = until_s - now_s();
        const readiness ready = left_s > 0.0 ? wait_readable(self->file, left_s) : NOT_READY;
        if (ready == STOP_ASKED) {
            return STOPPED;
        }
        if (ready == NOT_READY) {
            complain(FAILED, "%s gave no picture for %g s: check its cable, or give --patience", self->name,
                self->patience_s);
            return LOST;
        }
        struct v4l2_buffer newest;
        if (drain(self, &newest, &picture->pause_s) == LOST) {
            return LOST;
        }
        if (newest.index == BUFFERS) {
            continue;
        }
        if (describe(self, &newest, &picture->image)) {
            self->held = (int)newest.index;
            picture->time_s = self->last_s - self->first_s;
            return PICTURE;
        }
        self->base.damaged++;
        if (!give_back(self, (int)newest.index)) {
            return LOST;
        }
    }
}

static void close_camera(source *base) {
    camera *self = (camera *)(void *)base;
    int type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    if (self->streaming) {
        ioctl(self->file, VIDIOC_STREAMOFF, &type); /* one that is gone cannot be stopped */
    }
    for (unsigned i = 0; i < self->count; i++) {
        if (self->buffers[i].start != NULL) {
            munmap(self->buffers[i].start, self->buffers[i].length);
        }
    }
    if (self->file >= 0) {
        close(self->file);
    }
#ifdef LCR_CAMERA_JPEG
    jpeg_free(self->decoder);
#endif
    free(self);
}

source *open_v4l2(const options *options) {
    camera *self = calloc(1, sizeof *self);
    if (self == NULL) {
        complain(FAILED, "there is not enough memory");
        return NULL;
    }
    const int is_number = options->source[0] >= '0' && options->source[0] <= '9';
    snprintf(self->name, sizeof self->name, "%s%s", is_number ? "/dev/video" : "", options->source);
    self->base.live = 1;
    self->base.next = next;
    self->base.close = close_camera;
    self->patience_s = options->patience_s;
    self->held = NONE;
    self->file = open(self->name, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    int good = self->file >= 0;
    if (!good) {
        blame(self, USAGE, "open it");
    }
#ifdef LCR_CAMERA_JPEG
    self->decoder = jpeg_new();
    good = good && self->decoder != NULL;
#endif
    if (!good || !is_camera(self) || !choose_format(self, options) || !start(self)) {
        close_camera(&self->base);
        return NULL;
    }
    return &self->base;
}
