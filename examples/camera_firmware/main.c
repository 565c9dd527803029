/* A camera program: frames, fitted and stepped at the network's rate, and a line for each event that begins or ends. */

#define _POSIX_C_SOURCE 200809L

#include "camera.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct program {
    options options;
    lcr_model *model;
    lcr_info info;
    source *source;
    pace pace;
    void *rules_memory, *scratch, *state;
    size_t scratch_size;
    uint8_t *frame;
    float *logits; /* and, from them, probabilities */
    lcr_events *events;
    int begun; /* the state holds something */
    unsigned long resets, missed, event_count;
} program;

static unsigned long steps; /* of the network; what waits tells the watchdog about them */

int still_waiting(void) {
    notify_alive(steps);
    return stop_asked();
}

static int open_model(program *self) {
    const lcr_status status = lcr_open(self->options.model, NULL, &self->model);
    if (status != LCR_OK) {
        return complain(USAGE, "%s: %s", self->options.model, lcr_message(status));
    }
    self->info = lcr_about(self->model);
    self->pace.fps = (double)self->info.train_fps;
    const size_t classes = (size_t)self->info.classes;
    self->rules_memory = calloc(classes, sizeof(double) + 1);
    self->frame = malloc((size_t)self->info.height * (size_t)self->info.width * 3);
    self->state = malloc(lcr_state_size(self->model));
    self->logits = malloc(classes * sizeof *self->logits);
    self->events = malloc(lcr_events_size(self->info.classes));
    if (self->rules_memory == NULL || self->frame == NULL || self->state == NULL || self->logits == NULL ||
        self->events == NULL) {
        return complain(FAILED, "there is not enough memory");
    }
    lcr_event_rules rules;
    const int failed = make_rules(&self->options, self->model, self->rules_memory, &rules);
    if (failed == ALL_WELL && lcr_events_start(self->events, self->info.classes, &rules) == NULL) {
        return complain(USAGE, "these are no rules of events: see --help");
    }
    return failed;
}

static int is_camera(const char *source) {
    struct stat found;
    const char *digits = source + strspn(source, "0123456789");
    return *digits == '\0' || strncmp(source, "/dev/video", 10) == 0 || strncmp(source, "/dev/v4l/", 9) == 0 ||
           (stat(source, &found) == 0 && S_ISCHR(found.st_mode) && strcmp(source, "/dev/stdin") != 0);
}

static source *open_source(const options *options) {
    if (strncmp(options->source, "gst:", 4) == 0) {
#ifdef LCR_CAMERA_GSTREAMER
        return open_gstreamer(options);
#else
        complain(USAGE, "%s: this program was built without GStreamer; apt-get install "
                        "libgstreamer-plugins-base1.0-dev, then build it again", options->source);
        return NULL;
#endif
    }
    return is_camera(options->source) ? open_v4l2(options) : open_stream(options);
}

static int tell(program *self, const lcr_event *events, int count) {
    for (int i = 0; i < count; i++) {
        self->event_count += events[i].ended == 0;
        const int failed = report_event(&events[i], lcr_label(self->model, events[i].label));
        if (failed != ALL_WELL) {
            return failed;
        }
    }
    return ALL_WELL;
}

/* Ends the event that lasts, and lets the next step begin a stream. */
static int cut(program *self) {
    lcr_event event;
    self->begun = 0;
    return tell(self, &event, lcr_events_cut(self->events, &event));
}

static int fit(program *self, const lcr_image *image) {
    const size_t needed = lcr_fit_size(self->model, image);
    if (needed > self->scratch_size) {
        free(self->scratch);
        self->scratch = malloc(needed);
        self->scratch_size = self->scratch == NULL ? 0 : needed;
    }
    const lcr_status status = needed == 0 ? LCR_ARGUMENT : lcr_fit(self->model, image, self->frame, self->scratch);
    if (status != LCR_OK) {
        return complain(FAILED, "a picture of %d x %d cannot be fitted: %s", image->width, image->height,
            self->scratch_size == 0 && needed > 0 ? lcr_message(LCR_MEMORY) : lcr_message(status));
    }
    return ALL_WELL;
}

static int step(program *self, double time_s) {
    const lcr_status status =
        lcr_step(self->model, self->frame, self->begun ? self->state : NULL, self->state, self->logits);
    if (status != LCR_OK) {
        return complain(FAILED, "the step at %.3f s: %s", time_s, lcr_message(status));
    }
    self->begun = 1;
    steps++;
    lcr_event happened[2];
    lcr_probabilities(self->logits, self->info.classes, self->logits);
    const int count = lcr_events_step(self->events, time_s, self->logits, happened);
    notify_alive(steps);
    return tell(self, happened, count);
}

/* Steps a picture as often as it is due. */
static int take(program *self, const picture *picture) {
    const char *gap = NULL;
    unsigned long due = pace_take(&self->pace, picture, &gap);
    if (due > 1 && self->source->live) {
        self->missed += due - 1;
        due = 1;
    }
    if (gap != NULL) {
        self->resets++;
        const int failed = cut(self);
        if (failed != ALL_WELL) {
            return failed;
        }
        fprintf(stderr, "state reset at %.3f s: %s\n", picture->time_s, gap);
    }
    int failed = due > 0 ? fit(self, &picture->image) : ALL_WELL;
    if (self->options.steps != 0 && due > self->options.steps - steps) {
        due = self->options.steps - steps;
    }
    for (; due > 0 && failed == ALL_WELL; due--) {
        failed = step(self, picture->time_s);
    }
    return failed;
}

/* Until the source ends. Returns the exit code. */
static int follow(program *self) {
    for (;;) {
        picture picture;
        if (still_waiting()) {
            return ALL_WELL;
        }
        const outcome found = self->source->next(self->source, &picture);
        if (found != PICTURE) {
            return found == LOST ? FAILED : found == BROKEN ? USAGE : ALL_WELL;
        }
        const int failed = take(self, &picture);
        if (failed != ALL_WELL || (self->options.steps != 0 && steps == self->options.steps)) {
            return failed;
        }
    }
}

static void sum_up(const program *self) {
    const source *source = self->source;
    fprintf(stderr, "%lu frames seen, %lu stepped, %lu resets, %lu event%s, on %s", source->seen, steps, self->resets,
        self->event_count, self->event_count == 1 ? "" : "s", self->info.kernels);
    if (source->lost > 0 || source->damaged > 0) {
        fprintf(stderr, "; %lu lost by the driver, %lu damaged", source->lost, source->damaged);
    }
    if (self->missed > 0) {
        fprintf(stderr, "; %lu came too late for %g a second", self->missed, self->pace.fps);
    }
    fputc('\n', stderr);
}

int main(int count, char **arguments) {
    program self;
    memset(&self, 0, sizeof self);
    int code = read_options(count, arguments, &self.options);
    if (code != ALL_WELL) {
        return code < 0 ? ALL_WELL : code;
    }
    catch_signals();
    code = open_model(&self);
    if (code == ALL_WELL) {
        self.source = open_source(&self.options);
        code = self.source == NULL ? USAGE : ALL_WELL;
    }
    if (code == ALL_WELL) {
        notify_ready();
        code = follow(&self);
        notify_stopping();
        const int said = cut(&self);
        code = code == ALL_WELL ? said : code;
        sum_up(&self);
        self.source->close(self.source);
    }
    free(self.rules_memory);
    free(self.scratch);
    free(self.state);
    free(self.frame);
    free(self.logits);
    free(self.events);
    lcr_close(self.model);
    return code;
}
