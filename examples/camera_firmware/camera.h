/* What the parts of the camera program share. */

#ifndef LCR_CAMERA_H
#define LCR_CAMERA_H

#include "lcr_edge.h"

#include <stdint.h>
#include <stdio.h>

/* Exit codes: what the caller can mend (arguments, files, no such camera), and what went wrong on the way. */
enum { ALL_WELL = 0, FAILED = 1, USAGE = 2 };

/* Prints "error: ..." on stderr. Returns code. */
int complain(int code, const char *format, ...)
#ifdef __GNUC__
    __attribute__((format(printf, 2, 3)))
#endif
    ;

/* ---- Options (options.c) ---- */

enum { MOST_NAMES = 64 };

typedef struct options {
    const char *model, *source;
    double fps;        /* of pictures that do not say their time; 0: they must */
    const char *format; /* of a camera, NULL: the first that it has */
    int width, height; /* asked of a camera; it may give another size */
    double patience_s; /* without a frame, and a camera is lost */
    unsigned long steps; /* stop after so many; 0: never */
    double enter, leave, min_s, pause_s; /* negative: not given */
    const char *ignored[MOST_NAMES], *entered[MOST_NAMES]; /* labels, and LABEL=P */
    int ignored_count, entered_count;
} options;

/* Returns ALL_WELL, USAGE after an error, or -1 after --help. */
int read_options(int count, char **arguments, options *options);

/* The rules of events for a model. memory: classes doubles, and classes bytes behind them. Returns ALL_WELL or USAGE. */
int make_rules(const options *options, const lcr_model *model, void *memory, lcr_event_rules *rules);

/* ---- Sources: stream.c, v4l2.c, gstreamer.c ---- */

typedef struct picture {
    lcr_image image; /* until the next call */
    double time_s;   /* on the source's clock */
    double pause_s;  /* the longest time between two frames since the picture before, with those that nobody took;
                        negative: there were none */
} picture;

typedef enum outcome {
    PICTURE,
    OVER,    /* a file is at its end */
    STOPPED, /* a signal asked for it */
    LOST,    /* a camera is gone; the error was printed */
    BROKEN   /* what it gives cannot be read; the error was printed */
} outcome;

typedef struct source source;
struct source {
    int live; /* a camera: a frame that comes late is not stepped twice */
    unsigned long seen;    /* frames that arrived */
    unsigned long lost;    /* that the driver dropped */
    unsigned long damaged; /* that could not be used */
    outcome (*next)(source *self, picture *picture);
    void (*close)(source *self);
};

/* Each returns NULL after printing an error. */
source *open_stream(const options *options);
source *open_v4l2(const options *options);
source *open_gstreamer(const options *options);

/* ---- JPEG (jpeg.c) ---- */

typedef struct jpeg jpeg;

jpeg *jpeg_new(void);
void jpeg_free(jpeg *decoder);
/* Decodes to RGB; the image lives until the next call. Returns 0 if the bytes are no picture. */
int jpeg_decode(jpeg *decoder, const uint8_t *bytes, size_t size, lcr_image *image);

/* ---- Which frames are stepped (pace.c) ---- */

typedef struct pace {
    double fps;
    int begun;
    double start_s, last_s; /* of the first tick, of the frame before */
    double ticks;           /* since start_s */
    int width, height;      /* of the frame before */
    char reason[96];
} pace;

/* The longest time between two frames that a stream survives, seconds. */
#define MOST_GAP_S 1.0

/* How many ticks are due at a picture, 0 or more. *gap: why the stream is cut before it, else NULL. */
unsigned long pace_take(pace *pace, const picture *picture, const char **gap);

/* ---- What is said (report.c), and what a service manager is told (notify.c) ---- */

/* One line of JSON on stdout for an event. Returns ALL_WELL, or USAGE where it cannot be written. */
int report_event(const lcr_event *event, const char *label);

/* Says that everything is open, if a service manager wants to know. */
void notify_ready(void);
/* Feeds its watchdog where that is due. */
void notify_alive(unsigned long steps);
void notify_stopping(void);

/* ---- Time and signals (wait.c) ---- */

/* Lets SIGINT and SIGTERM end the program in order. */
void catch_signals(void);
int stop_asked(void);

/* Seconds of a clock that nobody sets. */
double now_s(void);

/* Called while waiting for a frame, many times a second: feeds the watchdog. Returns not 0 to stop. */
int still_waiting(void);

typedef enum readiness { READY, NOT_READY, STOP_ASKED } readiness;

/* Waits until there is something to read, for so many seconds at most; less than 0: for ever. */
readiness wait_readable(int file, double seconds);

#endif
