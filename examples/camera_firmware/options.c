/* The command line. Options of events are those of lcr-edge run. */

#include "camera.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const help =
    "lcr_camera MODEL SOURCE [options]\n"
    "\n"
    "Steps a network over the frames of a camera and prints a line of JSON for each event that begins or ends.\n"
    "\n"
    "MODEL   model.bin of a bundle of lcr-edge export --target c\n"
    "SOURCE  /dev/video0, or 0; gst:PIPELINE; a file of PPM pictures, or - for stdin\n"
    "\n"
    "  --format F         of a V4L2 camera: yuyv, nv12, rgb, bgr, gray or mjpeg (default: the first that it has)\n"
    "  --size WxH         asked of a V4L2 camera (default: 640x480)\n"
    "  --patience S       seconds without a frame after which a camera is lost (default: 5)\n"
    "  --fps N            frames a second of pictures that do not say their time\n"
    "  --frames N         stop after N steps\n"
    "  --enter P, --leave P, --min-seconds S, --pause-seconds S, --ignore LABEL, --enters LABEL=P\n"
    "                     what an event is, as in lcr-edge run\n"
    "\n"
    "Exit code 0: the source ended, or SIGTERM or SIGINT came. 1: a camera was lost, or a step failed. 2: something\n"
    "that you can mend: arguments, files, no such camera.\n";

/* A number of the command line in [least, most]. Returns 0 if it is none. */
static int read_double(const char *text, double least, double most, double *number) {
    char *end = NULL;
    *number = strtod(text, &end);
    return end != text && *end == '\0' && *number >= least && *number <= most;
}

static int read_size(const char *text, int *width, int *height) {
    char *end = NULL;
    const long across = strtol(text, &end, 10);
    if (end == text || *end != 'x') {
        return 0;
    }
    const char *rest = end + 1;
    const long down = strtol(rest, &end, 10);
    if (end == rest || *end != '\0' || across < 1 || across > LCR_MOST_SIDE || down < 1 || down > LCR_MOST_SIDE) {
        return 0;
    }
    *width = (int)across;
    *height = (int)down;
    return 1;
}

static int read_count(const char *text, unsigned long *count) {
    double number = 0.0;
    if (!read_double(text, 1.0, 4e9, &number) || floor(number) < number) {
        return 0;
    }
    *count = (unsigned long)number;
    return 1;
}

static int add(const char *text, const char **names, int *count) {
    if (*count == MOST_NAMES) {
        return 0;
    }
    names[(*count)++] = text;
    return 1;
}

/* Takes an option and its value. Returns 1, 0 if the value is wrong, -1 if there is no such option. */
static int take(const char *name, const char *value, options *options) {
    const double smallest = 1e-12, longest = 1e9;
    if (strcmp(name, "--format") == 0) {
        options->format = value;
        return 1; /* v4l2.c knows which there are */
    }
    if (strcmp(name, "--size") == 0) {
        return read_size(value, &options->width, &options->height);
    }
    if (strcmp(name, "--patience") == 0) {
        return read_double(value, 0.01, longest, &options->patience_s);
    }
    if (strcmp(name, "--fps") == 0) {
        return read_double(value, 0.001, 1e4, &options->fps);
    }
    if (strcmp(name, "--frames") == 0) {
        return read_count(value, &options->steps);
    }
    if (strcmp(name, "--enter") == 0) {
        return read_double(value, smallest, 1.0, &options->enter);
    }
    if (strcmp(name, "--leave") == 0) {
        return read_double(value, smallest, 1.0, &options->leave);
    }
    if (strcmp(name, "--min-seconds") == 0) {
        return read_double(value, 0.0, longest, &options->min_s);
    }
    if (strcmp(name, "--pause-seconds") == 0) {
        return read_double(value, 0.0, longest, &options->pause_s);
    }
    if (strcmp(name, "--ignore") == 0) {
        return add(value, options->ignored, &options->ignored_count);
    }
    if (strcmp(name, "--enters") == 0) {
        return add(value, options->entered, &options->entered_count);
    }
    return -1;
}

int read_options(int count, char **arguments, options *options) {
    memset(options, 0, sizeof *options);
    options->width = 640;
    options->height = 480;
    options->patience_s = 5.0;
    options->enter = options->leave = options->min_s = options->pause_s = -1.0;
    for (int i = 1; i < count; i++) {
        const char *word = arguments[i];
        if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
            fputs(help, stdout);
            return -1;
        }
        if (word[0] != '-' || word[1] == '\0') {
            if (options->model == NULL) {
                options->model = word;
            } else if (options->source == NULL) {
                options->source = word;
            } else {
                return complain(USAGE, "%s is one argument too many: give a model and a source; see --help", word);
            }
            continue;
        }
        const char *value = i + 1 < count ? arguments[++i] : NULL;
        const int taken = value == NULL ? -1 : take(word, value, options);
        if (taken < 0) {
            return complain(USAGE, "%s is no option, or its value is missing: see --help", word);
        }
        if (taken == 0) {
            return complain(USAGE, "%s %s: it is out of range or not of the right form; see --help", word, value);
        }
    }
    if (options->model == NULL || options->source == NULL) {
        return complain(USAGE, "give a model and a source: lcr_camera model.bin /dev/video0; see --help");
    }
    return ALL_WELL;
}

/* The number of the class with this name, of so many bytes; -1 if there is none. */
static int class_of(const lcr_model *model, const char *name, size_t length) {
    for (int i = 0; i < lcr_about(model).classes; i++) {
        const char *label = lcr_label(model, i);
        if (strlen(label) == length && memcmp(label, name, length) == 0) {
            return i;
        }
    }
    return -1;
}

int make_rules(const options *options, const lcr_model *model, void *memory, lcr_event_rules *rules) {
    /* Of the gestures of Jester these say that there is none. */
    static const char *const background[] = {"No gesture", "Doing other things"};
    const size_t classes = (size_t)lcr_about(model).classes;
    double *enters = memory;
    uint8_t *ignore = (uint8_t *)(enters + classes);
    memset(memory, 0, classes * (sizeof *enters + sizeof *ignore));
    *rules = lcr_usual_rules();
    if (options->enter >= 0.0) {
        rules->leave = options->enter * rules->leave / rules->enter;
        rules->enter = options->enter;
    }
    rules->leave = options->leave >= 0.0 ? options->leave : rules->leave;
    rules->min_s = options->min_s >= 0.0 ? options->min_s : rules->min_s;
    rules->pause_s = options->pause_s >= 0.0 ? options->pause_s : rules->pause_s;
    if (rules->leave > rules->enter) {
        return complain(USAGE, "--leave is %g, above --enter, %g: give a smaller one", rules->leave, rules->enter);
    }
    for (int i = 0; options->ignored_count == 0 && i < 2; i++) {
        const int found = class_of(model, background[i], strlen(background[i]));
        if (found >= 0) {
            ignore[found] = 1;
        }
    }
    for (int i = 0; i < options->ignored_count; i++) {
        const int found = class_of(model, options->ignored[i], strlen(options->ignored[i]));
        if (found < 0) {
            return complain(USAGE, "--ignore %s: the network has no such class", options->ignored[i]);
        }
        ignore[found] = 1;
    }
    for (int i = 0; i < options->entered_count; i++) {
        const char *equals = strrchr(options->entered[i], '=');
        const int found = equals == NULL ? -1 : class_of(model, options->entered[i], (size_t)(equals - options->entered[i]));
        if (found < 0 || !read_double(equals + 1, 1e-12, 1.0, &enters[found])) {
            return complain(
                USAGE, "--enters %s: give a class of the network and a probability, such as 'Thumb Up=0.8'",
                options->entered[i]);
        }
    }
    rules->enters = enters;
    rules->ignore = ignore;
    return ALL_WELL;
}
