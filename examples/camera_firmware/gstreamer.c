/* Frames of a GStreamer pipeline, as Jetson's and NXP's cameras and decoders give them: "gst:" and what gst-launch-1.0
takes.

A pipeline without an appsink gets a conversion to RGB or BGR and an appsink. One that has its own is taken as it is:
its frames may be RGB, BGR, GRAY8, NV12 or YUY2, and YUV counts as BT.601.

Of a live pipeline the newest frame counts. Of one that is not, such as a file, every frame does, as fast as it can. */

#include "camera.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <gst/app/gstappsink.h>
#include <gst/gst.h>
#include <gst/video/video.h>

#define WAIT_NS (50 * GST_MSECOND)
#define FORMATS "video/x-raw, format=(string){ RGB, BGR, GRAY8, NV12, YUY2 }"

typedef struct pipeline {
    source base;
    double patience_s;
    GstElement *whole;
    GstAppSink *sink;
    GstSample *sample; /* that the caller reads */
    GstVideoFrame mapped;
    int is_mapped;
    double first_s, last_s;
} pipeline;

/* Complains about what the pipeline says went wrong. Returns 0 if it says nothing. */
static int blame(const pipeline *self, int code, GstClockTime wait) {
    GstBus *bus = gst_element_get_bus(self->whole);
    GstMessage *message = gst_bus_timed_pop_filtered(bus, wait, GST_MESSAGE_ERROR);
    gst_object_unref(bus);
    if (message == NULL) {
        return 0;
    }
    GError *error = NULL;
    gst_message_parse_error(message, &error, NULL);
    complain(code, "the pipeline failed in %s: %s; gst-launch-1.0 says more", GST_OBJECT_NAME(message->src),
        error->message);
    g_error_free(error);
    gst_message_unref(message);
    return 1;
}

static void let_go(pipeline *self) {
    if (self->is_mapped) {
        gst_video_frame_unmap(&self->mapped);
        self->is_mapped = 0;
    }
    if (self->sample != NULL) {
        gst_sample_unref(self->sample);
        self->sample = NULL;
    }
}

/* Maps the frame of a sample. Returns 0 if it is none that can be read. */
static int describe(pipeline *self, lcr_image *image) {
    GstVideoInfo info;
    GstCaps *caps = gst_sample_get_caps(self->sample);
    GstBuffer *buffer = gst_sample_get_buffer(self->sample);
    if (caps == NULL || buffer == NULL || !gst_video_info_from_caps(&info, caps) ||
        !gst_video_frame_map(&self->mapped, &info, buffer, GST_MAP_READ)) {
        return 0;
    }
    self->is_mapped = 1;
    *image = (lcr_image){
        .planes = {GST_VIDEO_FRAME_PLANE_DATA(&self->mapped, 0), NULL},
        .strides = {(size_t)GST_VIDEO_FRAME_PLANE_STRIDE(&self->mapped, 0), 0},
        .width = GST_VIDEO_FRAME_WIDTH(&self->mapped),
        .height = GST_VIDEO_FRAME_HEIGHT(&self->mapped),
    };
    switch (GST_VIDEO_INFO_FORMAT(&info)) {
    case GST_VIDEO_FORMAT_RGB:
        image->format = LCR_RGB;
        return 1;
    case GST_VIDEO_FORMAT_BGR:
        image->format = LCR_BGR;
        return 1;
    case GST_VIDEO_FORMAT_GRAY8:
        image->format = LCR_GRAY8;
        return 1;
    case GST_VIDEO_FORMAT_YUY2:
        image->format = LCR_YUYV;
        return 1;
    case GST_VIDEO_FORMAT_NV12:
        image->format = LCR_NV12;
        image->planes[1] = GST_VIDEO_FRAME_PLANE_DATA(&self->mapped, 1);
        image->strides[1] = (size_t)GST_VIDEO_FRAME_PLANE_STRIDE(&self->mapped, 1);
        return 1;
    default:
        return 0;
    }
}

/* When the frame in hand was taken, by the pipeline's clock, or else when it arrived. */
static double time_of(const pipeline *self) {
    const GstBuffer *buffer = gst_sample_get_buffer(self->sample);
    const GstClockTime time =
        gst_segment_to_running_time(gst_sample_get_segment(self->sample), GST_FORMAT_TIME, GST_BUFFER_PTS(buffer));
    return GST_CLOCK_TIME_IS_VALID(time) ? (double)time * 1e-9 : now_s();
}

static outcome next(source *base, picture *picture) {
    pipeline *self = (pipeline *)(void *)base;
    const double until_s = now_s() + self->patience_s;
    let_go(self);
    while ((self->sample = gst_app_sink_try_pull_sample(self->sink, WAIT_NS)) == NULL) {
        if (still_waiting()) {
            return STOPPED;
        }
        if (blame(self, FAILED, 0)) {
            return LOST;
        }
        if (gst_app_sink_is_eos(self->sink)) {
            if (!self->base.live && self->base.seen > 0) {
                return OVER;
            }
            complain(FAILED, "the pipeline gives no more frames");
            return LOST;
        }
        if (now_s() >= until_s) {
            complain(FAILED, "the pipeline gave no picture for %g s: try it with gst-launch-1.0, or give --patience",
                self->patience_s);
            return LOST;
        }
    }
    if (!describe(self, &picture->image)) {
        complain(USAGE, "the pipeline's frames cannot be read: let its appsink have " FORMATS);
        return BROKEN;
    }
    const double time_s = time_of(self);
    self->first_s = self->base.seen == 0 ? time_s : self->first_s;
    picture->time_s = time_s - self->first_s;
    /* Those that the appsink dropped are not known: time passed without a frame, as far as anyone can tell. */
    picture->pause_s = -1.0;
    self->base.seen++;
    return PICTURE;
}

static void close_pipeline(source *base) {
    pipeline *self = (pipeline *)(void *)base;
    let_go(self);
    if (self->whole != NULL) {
        gst_element_set_state(self->whole, GST_STATE_NULL);
    }
    if (self->sink != NULL) {
        gst_object_unref(self->sink);
    }
    if (self->whole != NULL) {
        gst_object_unref(self->whole);
    }
    free(self);
}

/* The first appsink of a pipeline, or NULL. */
static GstAppSink *find_sink(GstElement *whole) {
    if (GST_IS_APP_SINK(whole)) {
        return GST_APP_SINK(gst_object_ref(whole));
    }
    if (!GST_IS_BIN(whole)) {
        return NULL;
    }
    GstIterator *all = gst_bin_iterate_recurse(GST_BIN(whole));
    GValue item = G_VALUE_INIT;
    GstAppSink *found = NULL;
    while (found == NULL && gst_iterator_next(all, &item) == GST_ITERATOR_OK) {
        GstElement *element = g_value_get_object(&item);
        if (GST_IS_APP_SINK(element)) {
            found = GST_APP_SINK(gst_object_ref(element));
        }
        g_value_reset(&item);
    }
    g_value_unset(&item);
    gst_iterator_free(all);
    return found;
}

static int has_sink(const char *text) {
    for (const char *found = text; (found = strstr(found, "appsink")) != NULL; found++) {
        const char *before = found;
        while (before > text && (before[-1] == ' ' || before[-1] == '\t')) {
            before--;
        }
        if (before > text && before[-1] == '!') {
            return 1;
        }
    }
    return 0;
}

static GstElement *parse(const char *text) {
    GError *error = NULL;
    gchar *all = has_sink(text)
                     ? g_strdup(text)
                     : g_strconcat(text, " ! videoconvert ! video/x-raw, format=(string){ RGB, BGR } ! appsink", NULL);
    GstElement *whole = gst_parse_launch(all, &error);
    g_free(all);
    if (error != NULL) { /* also where a pipeline was made: something was left out of it */
        complain(USAGE, "gst:%s: %s; write it as for gst-launch-1.0", text, error->message);
        g_error_free(error);
        if (whole != NULL) {
            gst_object_unref(whole);
        }
        return NULL;
    }
    return whole;
}

/* Starts the pipeline; whether it is live shows when it is paused. Returns 0 after complaining. */
static int start(pipeline *self) {
    GstCaps *caps = gst_caps_from_string(FORMATS);
    gst_app_sink_set_caps(self->sink, caps);
    gst_caps_unref(caps);
    gst_app_sink_set_max_buffers(self->sink, 1);
    gst_app_sink_set_drop(self->sink, FALSE);
    g_object_set(self->sink, "sync", FALSE, NULL); /* when a frame is stepped is not its time */
    GstStateChangeReturn paused = gst_element_set_state(self->whole, GST_STATE_PAUSED);
    if (paused == GST_STATE_CHANGE_ASYNC) {
        const GstClockTime patience = (GstClockTime)(fmin(self->patience_s, 1e9) * 1e9);
        paused = gst_element_get_state(self->whole, NULL, NULL, patience);
    }
    self->base.live = paused == GST_STATE_CHANGE_NO_PREROLL;
    gst_app_sink_set_drop(self->sink, self->base.live);
    if (paused == GST_STATE_CHANGE_FAILURE ||
        gst_element_set_state(self->whole, GST_STATE_PLAYING) == GST_STATE_CHANGE_FAILURE) {
        if (!blame(self, USAGE, GST_SECOND)) {
            complain(USAGE, "the pipeline cannot be started; gst-launch-1.0 says why");
        }
        return 0;
    }
    return 1;
}

source *open_gstreamer(const options *options) {
    const char *text = options->source + strlen("gst:");
    GError *error = NULL;
    if (!gst_init_check(NULL, NULL, &error)) {
        complain(USAGE, "GStreamer cannot be used: %s", error->message);
        g_error_free(error);
        return NULL;
    }
    if (text[strspn(text, " !")] == '\0') {
        complain(USAGE, "gst: names no pipeline; write it as for gst-launch-1.0: gst:v4l2src ! videoconvert");
        return NULL;
    }
    pipeline *self = calloc(1, sizeof *self);
    if (self == NULL) {
        complain(FAILED, "there is not enough memory");
        return NULL;
    }
    self->patience_s = options->patience_s;
    self->base.next = next;
    self->base.close = close_pipeline;
    self->whole = parse(text);
    self->sink = self->whole == NULL ? NULL : find_sink(self->whole);
    if (self->whole != NULL && self->sink == NULL) {
        complain(USAGE, "%s has no appsink; leave its sink out, and it gets one", options->source);
    }
    if (self->sink == NULL || !start(self)) {
        close_pipeline(&self->base);
        return NULL;
    }
    return &self->base;
}
