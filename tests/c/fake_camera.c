/* A camera for LD_PRELOAD: /dev/video9 behind open, ioctl and poll, which does what a script says, line by line.

FAKE_CAMERA names the script, FAKE_FRAMES the bytes of the frames, one behind the other.

    caps HEX                          what VIDIOC_QUERYCAP says
    offer FOURCC WIDTH HEIGHT STRIDE  a format; STRIDE 0: the driver leaves it out
    refuse REQUEST ERRNO              OPEN, S_FMT, REQBUFS, STREAMON or QBUF fails
    buffers COUNT                     so many and no more
    frame USEC SEQUENCE BYTES FLAGS   VIDIOC_DQBUF gives the next bytes
    again                             VIDIOC_DQBUF finds nothing, once
    fail ERRNO                        VIDIOC_DQBUF fails, from now on
    silent                            nothing comes any more
    stop                              SIGTERM, and then nothing

Buffers that the driver has are overwritten, and a buffer that is handed over twice ends the program. */

#define _GNU_SOURCE

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MOST = 8, QUEUED = 1, TAKEN = 2 };

static int camera = -1, silent, failing, count, most = MOST, states[MOST];
static FILE *script, *frames;
static char line[256];
static unsigned caps = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
static size_t length;
static struct v4l2_pix_format shape;

static void die(const char *what) {
    fprintf(stderr, "fake camera: %s\n", what);
    abort();
}

static int errno_of(const char *name) {
    static const struct { const char *name; int number; } all[] = {
        {"EACCES", EACCES}, {"EBUSY", EBUSY}, {"EIO", EIO}, {"ENODEV", ENODEV}, {"ENOENT", ENOENT}, {"EINTR", EINTR},
        {"ENOMEM", ENOMEM}, {"ENOTTY", ENOTTY},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (strcmp(name, all[i].name) == 0) {
            return all[i].number;
        }
    }
    die("no such errno");
    return 0;
}

/* Goes through the whole script: the refusal of a request, or 0. */
static int refused(const char *request) {
    char word[16], number[16];
    const long place = ftell(script);
    int found = 0;
    rewind(script);
    while (fgets(line, sizeof line, script) != NULL) {
        if (sscanf(line, "refuse %15s %15s", word, number) == 2 && strcmp(word, request) == 0) {
            found = errno_of(number);
        }
        sscanf(line, "caps %x", &caps);
        sscanf(line, "buffers %d", &most);
    }
    fseek(script, place, SEEK_SET);
    return found;
}

static int open_it(void) {
    script = fopen(getenv("FAKE_CAMERA"), "r");
    frames = fopen(getenv("FAKE_FRAMES"), "rb");
    if (script == NULL || frames == NULL) {
        die("there is no script, or there are no frames");
    }
    errno = refused("OPEN");
    if (errno != 0) {
        return -1;
    }
    camera = memfd_create("camera", MFD_CLOEXEC);
    return camera;
}

int open(const char *path, int flags, ...) {
    static int (*real)(const char *, int, ...);
    va_list rest;
    va_start(rest, flags);
    const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    real = real != NULL ? real : (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
    if (strcmp(path, "/dev/video9") == 0) {
        if ((flags & O_NONBLOCK) == 0) {
            die("it was opened to block");
        }
        return open_it();
    }
    return real(path, flags, mode);
}

int poll(struct pollfd *files, nfds_t number, int wait) {
    static int (*real)(struct pollfd *, nfds_t, int);
    real = real != NULL ? real : (int (*)(struct pollfd *, nfds_t, int))dlsym(RTLD_NEXT, "poll");
    if (number == 1 && files[0].fd == camera && silent) {
        usleep((useconds_t)wait * 1000);
        return 0;
    }
    return real(files, number, wait);
}

static int set_format(struct v4l2_format *format) {
    char code[8];
    unsigned width, height, stride;
    const long place = ftell(script);
    int found = 0;
    rewind(script);
    while (fgets(line, sizeof line, script) != NULL) {
        if (sscanf(line, "offer %4s %u %u %u", code, &width, &height, &stride) != 4) {
            continue;
        }
        const unsigned fourcc = v4l2_fourcc(code[0], code[1], code[2], code[3]);
        if (!found || fourcc == format->fmt.pix.pixelformat) { /* as drivers do: the first where it has no such */
            shape = (struct v4l2_pix_format){.width = width, .height = height, .pixelformat = fourcc};
            shape.bytesperline = stride;
            found = 1 + (fourcc == format->fmt.pix.pixelformat);
        }
        if (found == 2) {
            break;
        }
    }
    fseek(script, place, SEEK_SET);
    shape.sizeimage = 4 * width * height + 2 * stride * height;
    length = (shape.sizeimage + 4095) / 4096 * 4096;
    format->fmt.pix = shape;
    errno = EINVAL;
    return found ? 0 : -1;
}

static int describe_format(struct v4l2_fmtdesc *wanted) {
    char code[8];
    const long place = ftell(script);
    unsigned index = 0;
    int found = -1;
    rewind(script);
    while (found < 0 && fgets(line, sizeof line, script) != NULL) {
        if (sscanf(line, "offer %4s", code) == 1 && index++ == wanted->index) {
            wanted->pixelformat = v4l2_fourcc(code[0], code[1], code[2], code[3]);
            found = 0;
        }
    }
    fseek(script, place, SEEK_SET);
    errno = EINVAL;
    return found;
}

static void overwrite(int index) {
    static uint8_t noise[1 << 22];
    memset(noise, 0xa5, sizeof noise);
    if (length > sizeof noise || pwrite(camera, noise, length, (off_t)((size_t)index * length)) != (ssize_t)length) {
        die("a buffer cannot be overwritten");
    }
}

static int give_frame(struct v4l2_buffer *buffer, long usec, unsigned sequence, unsigned bytes, unsigned flags) {
    static uint8_t data[1 << 22];
    int index = 0;
    while (index < count && states[index] != QUEUED) {
        index++;
    }
    if (index == count) {
        die("it has no buffer to fill");
    }
    const size_t part = bytes < length ? bytes : length; /* more bytes than there is room for are a lie of the driver */
    if (part > sizeof data || fread(data, 1, part, frames) != part ||
        pwrite(camera, data, part, (off_t)((size_t)index * length)) != (ssize_t)part) {
        die("a frame is missing");
    }
    states[index] = TAKEN;
    buffer->index = (unsigned)index;
    buffer->bytesused = bytes;
    buffer->sequence = sequence;
    buffer->timestamp.tv_sec = usec / 1000000;
    buffer->timestamp.tv_usec = usec % 1000000;
    buffer->flags = flags | V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
    return 0;
}

/* The next line that is about frames. */
static int take_buffer(struct v4l2_buffer *buffer) {
    char word[16];
    long usec;
    unsigned sequence, bytes, flags;
    while (!silent && failing == 0 && fgets(line, sizeof line, script) != NULL) {
        if (sscanf(line, "frame %ld %u %u %u", &usec, &sequence, &bytes, &flags) == 4) {
            return give_frame(buffer, usec, sequence, bytes, flags);
        }
        if (sscanf(line, "fail %15s", word) == 1) {
            failing = errno_of(word);
        } else if (strncmp(line, "silent", 6) == 0) {
            silent = 1;
        } else if (strncmp(line, "stop", 4) == 0) {
            silent = 1;
            raise(SIGTERM);
        } else if (strncmp(line, "again", 5) == 0) {
            break;
        }
    }
    errno = failing != 0 ? failing : EAGAIN;
    return -1;
}

static int control(unsigned long request, void *argument) {
    struct v4l2_buffer *buffer = argument;
    switch (request) {
    case VIDIOC_QUERYCAP:
        ((struct v4l2_capability *)argument)->capabilities = caps;
        strcpy((char *)((struct v4l2_capability *)argument)->card, "Fake");
        return 0;
    case VIDIOC_ENUM_FMT:
        return describe_format(argument);
    case VIDIOC_S_FMT:
        errno = refused("S_FMT");
        return errno != 0 ? -1 : set_format(argument);
    case VIDIOC_REQBUFS:
        count = (int)((struct v4l2_requestbuffers *)argument)->count;
        count = count > most ? most : count;
        ((struct v4l2_requestbuffers *)argument)->count = (unsigned)count;
        errno = refused("REQBUFS");
        return errno != 0 || ftruncate(camera, (off_t)((size_t)count * length)) != 0 ? -1 : 0;
    case VIDIOC_QUERYBUF:
        buffer->length = (unsigned)length;
        buffer->m.offset = (unsigned)(buffer->index * length);
        return 0;
    case VIDIOC_QBUF:
        if (buffer->index >= (unsigned)count || states[buffer->index] == QUEUED) {
            die("a buffer is handed over twice, or is none");
        }
        errno = refused("QBUF");
        if (errno != 0) {
            return -1;
        }
        states[buffer->index] = QUEUED;
        overwrite((int)buffer->index);
        return 0;
    case VIDIOC_STREAMON:
        errno = refused("STREAMON");
        return errno != 0 ? -1 : 0;
    case VIDIOC_STREAMOFF:
        fprintf(stderr, "fake camera: it is stopped\n");
        return 0;
    case VIDIOC_DQBUF:
        return take_buffer(buffer);
    default:
        die("an unknown request");
        return -1;
    }
}

int ioctl(int file, unsigned long request, ...) {
    static int (*real)(int, unsigned long, ...);
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    real = real != NULL ? real : (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
    return camera >= 0 && file == camera ? control(request, argument) : real(file, request, argument);
}
