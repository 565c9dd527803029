/* Pictures from a file, a pipe or stdin: PPM (P6) or PGM (P5) with 8 bits, one behind the other, as
ffmpeg -i clip.mp4 -f image2pipe -c:v ppm - writes them. A comment in a header may say when the picture was taken:

    P6
    # time_s 0.0417
    640 480
    255
    ... 640 x 480 x 3 bytes ... */

#define _POSIX_C_SOURCE 200809L

#include "camera.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ROOM = 65536, LONGEST_LINE = 256 };

/* What getting a byte may come to, besides the byte. */
enum { AT_END = -1, AT_STOP = -2, AT_ERROR = -3 };

typedef struct stream {
    source base;
    const char *name;
    int file;
    double fps;
    uint8_t *pixels;
    size_t pixels_size;
    size_t begin, end; /* of what was read ahead */
    uint8_t ahead[ROOM];
} stream;

static outcome broken(const stream *self, const char *what) {
    complain(USAGE, "%s: picture %lu %s", self->name, self->base.seen, what);
    return BROKEN;
}

/* Reads something into ahead, which is empty. Returns 0 or one of AT_... */
static int fill(stream *self) {
    for (;;) {
        if (wait_readable(self->file, -1.0) == STOP_ASKED) {
            return AT_STOP;
        }
        const ssize_t got = read(self->file, self->ahead, ROOM);
        if (got > 0) {
            self->begin = 0;
            self->end = (size_t)got;
            return 0;
        }
        if (got == 0) {
            return AT_END;
        }
        if (errno != EINTR && errno != EAGAIN) {
            complain(USAGE, "cannot read %s: %s", self->name, strerror(errno));
            return AT_ERROR;
        }
    }
}

static int next_byte(stream *self) {
    if (self->begin == self->end) {
        const int failed = fill(self);
        if (failed != 0) {
            return failed;
        }
    }
    return self->ahead[self->begin++];
}

/* What became of the stream where a byte within a picture could not be had. */
static outcome torn(const stream *self, int why) {
    return why == AT_END ? broken(self, "is cut off: write the file again") : why == AT_STOP ? STOPPED : BROKEN;
}

/* Reads a comment, behind its #. Returns 0 or one of AT_... */
static int read_comment(stream *self, double *time_s) {
    static const char key[] = "time_s ";
    char line[LONGEST_LINE];
    size_t length = 0;
    for (;;) {
        const int byte = next_byte(self);
        if (byte < 0) {
            return byte;
        }
        if (byte == '\n') {
            break;
        }
        if (length + 1 < sizeof line) {
            line[length++] = (char)byte;
        }
    }
    line[length] = '\0';
    const char *text = line + strspn(line, " ");
    if (strncmp(text, key, sizeof key - 1) == 0) {
        char *end = NULL;
        const double found = strtod(text + sizeof key - 1, &end);
        *time_s = end != text + sizeof key - 1 && *end == '\0' && isfinite(found) ? found : HUGE_VAL;
    }
    return 0;
}

static int is_space(int byte) {
    return byte == ' ' || (byte >= '\t' && byte <= '\r');
}

/* Reads a number of the header and the one space behind it. Returns it, -4 if there is none, or one of AT_... */
static long read_number(stream *self, double *time_s) {
    long number = -4;
    for (;;) {
        const int byte = next_byte(self);
        if (byte < 0) {
            return byte;
        }
        if (byte >= '0' && byte <= '9') {
            number = (number < 0 ? 0 : number) * 10 + (byte - '0');
            if (number > 1000000) {
                return -4;
            }
        } else if (byte == '#' && number < 0) {
            const int failed = read_comment(self, time_s);
            if (failed != 0) {
                return failed;
            }
        } else if (!is_space(byte)) {
            return -4;
        } else if (number >= 0) {
            return number;
        }
    }
}

/* Reads size bytes into pixels. Returns 0 or one of AT_... */
static int read_pixels(stream *self, size_t size) {
    size_t have = 0;
    while (have < size) {
        if (self->begin == self->end) {
            const int failed = fill(self);
            if (failed != 0) {
                return failed;
            }
        }
        const size_t there = self->end - self->begin, part = there < size - have ? there : size - have;
        memcpy(self->pixels + have, self->ahead + self->begin, part);
        self->begin += part;
        have += part;
    }
    return 0;
}

static outcome read_picture(stream *self, picture *picture, size_t channels) {
    double time_s = -HUGE_VAL;
    long numbers[3];
    for (int i = 0; i < 3; i++) {
        numbers[i] = read_number(self, &time_s);
        if (numbers[i] == -4) {
            return broken(self, "has no width, height and largest level in its header: write PPM pictures");
        }
        if (numbers[i] < 0) {
            return torn(self, (int)numbers[i]);
        }
    }
    if (numbers[0] < 1 || numbers[0] > LCR_MOST_SIDE || numbers[1] < 1 || numbers[1] > LCR_MOST_SIDE) {
        return broken(self, "is empty or more than 8192 pixels wide or high: make it smaller");
    }
    if (numbers[2] != 255) {
        return broken(self, "has not 8 bits a colour: write it with 255 as its largest level");
    }
    if (time_s == HUGE_VAL) {
        return broken(self, "has a time that is none: write it as # time_s 0.0417");
    }
    if (time_s == -HUGE_VAL) {
        if (self->fps <= 0.0) {
            return broken(self, "does not say when it was taken: give --fps, or write # time_s SECONDS in its header");
        }
        time_s = (double)self->base.seen / self->fps;
    }
    const size_t row = (size_t)numbers[0] * channels, size = row * (size_t)numbers[1];
    if (size > self->pixels_size) {
        free(self->pixels);
        self->pixels = malloc(size);
        self->pixels_size = self->pixels == NULL ? 0 : size;
        if (self->pixels == NULL) {
            return broken(self, "does not fit into memory: make it smaller");
        }
    }
    const int failed = read_pixels(self, size);
    if (failed != 0) {
        return torn(self, failed);
    }
    self->base.seen++;
    picture->image = (lcr_image){
        .planes = {self->pixels, NULL},
        .strides = {row, 0},
        .width = (int)numbers[0],
        .height = (int)numbers[1],
        .format = channels == 3 ? LCR_RGB : LCR_GRAY8,
    };
    picture->time_s = time_s;
    picture->pause_s = -1.0;
    return PICTURE;
}

static outcome next(source *base, picture *picture) {
    stream *self = (stream *)(void *)base;
    const int first = next_byte(self);
    if (first == AT_END) {
        if (self->base.seen == 0) {
            complain(USAGE, "%s is empty: give it PPM pictures", self->name);
            return BROKEN;
        }
        return OVER;
    }
    if (first < 0) {
        return torn(self, first);
    }
    const int kind = next_byte(self);
    if (kind < 0) {
        return torn(self, kind);
    }
    if (first != 'P' || (kind != '5' && kind != '6')) {
        return broken(
            self, "is neither PPM (P6) nor PGM (P5): ffmpeg -i clip.mp4 -f image2pipe -c:v ppm - writes such pictures");
    }
    return read_picture(self, picture, kind == '6' ? 3 : 1);
}

static void close_stream(source *base) {
    stream *self = (stream *)(void *)base;
    if (self->file != STDIN_FILENO) {
        close(self->file);
    }
    free(self->pixels);
    free(self);
}

source *open_stream(const options *options) {
    const int is_stdin = strcmp(options->source, "-") == 0;
    struct stat found;
    stream *self = calloc(1, sizeof *self);
    if (self == NULL) {
        complain(FAILED, "there is not enough memory");
        return NULL;
    }
    self->name = is_stdin ? "stdin" : options->source;
    self->file = is_stdin ? STDIN_FILENO : open(options->source, O_RDONLY | O_CLOEXEC);
    if (self->file < 0 || fstat(self->file, &found) != 0) {
        complain(USAGE, "cannot open %s: %s", self->name, strerror(errno));
        free(self);
        return NULL;
    }
    if (S_ISDIR(found.st_mode)) {
        complain(USAGE, "%s is a folder: give a file, - or a camera", self->name);
        close_stream(&self->base);
        return NULL;
    }
    self->fps = options->fps;
    self->base.next = next;
    self->base.close = close_stream;
    return &self->base;
}
