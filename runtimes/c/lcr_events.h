/* lcr_edge: what begins and ends in a stream, from the logits of its steps, in C99.

A class becomes an event when its probability has been ``enter`` or more, and then ``leave`` or more, for min_s seconds;
the event began where that did. It ends with the last step before the probability is below ``leave``. For pause_s
seconds after that the same class cannot begin again. There is one event at a time.

The memory is the caller's: lcr_events_size() bytes for each stream, aligned for double. It holds no pointers and may be
copied. Nothing is allocated. Two threads must not use one stream at the same time. Everything is as in
lcr_edge.runtimes.live.events, but that classes are numbers. */

#ifndef LCR_EVENTS_H
#define LCR_EVENTS_H

#include "lcr_edge.h"

#ifdef __cplusplus
extern "C" {
#endif

#define LCR_MOST_CLASSES 65536

typedef struct lcr_event_rules {
    double enter, leave;   /* probabilities in (0, 1], leave at most enter */
    double min_s, pause_s; /* seconds, 0 or more */
    const double *enters;  /* ``enter`` of each class, 0 for that of all; its ``leave`` keeps its share. Or NULL */
    const uint8_t *ignore; /* for each class, not 0 if it is never an event. Or NULL */
} lcr_event_rules;

/* An event that begins or ends. */
typedef struct lcr_event {
    uint32_t number;  /* counts the events of the stream, from 1 */
    int label;        /* the number of its class, as lcr_label takes it */
    int ended;        /* 0: it begins, and end_s is 0 */
    int cut;          /* 1: the stream was cut while it lasted, so that its end is not known */
    double start_s;   /* time of its first step */
    double end_s;     /* time of its last step */
    float confidence; /* the largest probability so far */
} lcr_event;

typedef struct lcr_events lcr_events;

/* The rules where nothing else was tuned. They ignore no class. */
lcr_event_rules lcr_usual_rules(void);

/* Bytes of memory for one stream; 0 if classes is below 1 or above LCR_MOST_CLASSES. */
size_t lcr_events_size(int classes);

/* Makes a new stream in the caller's memory and returns its address. rules: NULL for the usual ones; not needed
afterwards. Returns NULL if memory is NULL, and for a wrong number of classes or wrong rules. */
lcr_events *lcr_events_start(void *memory, int classes, const lcr_event_rules *rules);

/* Probabilities [classes] of logits [classes]: from 0 to 1, their sum 1. They may be the same memory. */
void lcr_probabilities(const float *logits, int classes, float *probabilities);

/* Takes a step: its time in seconds, later than that of the step before, and its probabilities [classes]. Returns how
many things happened: 0, 1 or 2, the end of an event before the start of one. A NaN neither begins nor ends an event. */
int lcr_events_step(lcr_events *events, double time_s, const float *probabilities, lcr_event happened[2]);

/* The stream was cut or is over. Returns 1 if an event lasted, and its end, else 0. Pauses are forgotten. */
int lcr_events_cut(lcr_events *events, lcr_event *happened);

/* Whether an event lasts, or something may become one: then the next step counts. */
int lcr_events_busy(const lcr_events *events);

#ifdef __cplusplus
}
#endif

#endif
