/* Events of a stream, as in lcr_edge/runtimes/live/events.py. Thresholds and times are double and computed in the same
order, so that a probability on a threshold is on the same side of it. */

#include "lcr_edge.h"

#include <math.h>

#define NOBODY (-1)

/* What is kept of a class. */
typedef struct lcr_class {
    double enter, leave; /* enter is infinite for a class that is never an event */
    double ended_s;      /* of its last event; minus infinity without one */
} lcr_class;

/* The candidate: the class whose probability is high; an event once its number is not 0. */
struct lcr_events {
    double min_s, pause_s;
    double start_s, last_s; /* the candidate's first and last step */
    float confidence;       /* its largest probability */
    int32_t label;          /* NOBODY if there is none */
    uint32_t number;
    uint32_t count; /* events that began */
    int32_t classes;
    lcr_class each[];
};

lcr_event_rules lcr_usual_rules(void) {
    return (lcr_event_rules){.enter = 0.8, .leave = 0.53, .min_s = 0.375, .pause_s = 1.0};
}

size_t lcr_events_size(int classes) {
    if (classes < 1 || classes > LCR_MOST_CLASSES) {
        return 0;
    }
    return sizeof(lcr_events) + (size_t)classes * sizeof(lcr_class);
}

static int is_probability(double value) {
    return value > 0.0 && value <= 1.0;
}

static int is_duration(double value) {
    return value >= 0.0 && value < HUGE_VAL;
}

static int make_sense(const lcr_event_rules *rules, int classes) {
    if (!is_probability(rules->enter) || !is_probability(rules->leave) || rules->leave > rules->enter) {
        return 0;
    }
    for (int i = 0; rules->enters != NULL && i < classes; i++) {
        if (rules->enters[i] != 0.0 && !is_probability(rules->enters[i])) {
            return 0;
        }
    }
    return is_duration(rules->min_s) && is_duration(rules->pause_s);
}

lcr_events *lcr_events_start(void *memory, int classes, const lcr_event_rules *rules) {
    const lcr_event_rules usual = lcr_usual_rules();
    lcr_events *events = memory;
    if (rules == NULL) {
        rules = &usual;
    }
    if (events == NULL || lcr_events_size(classes) == 0 || !make_sense(rules, classes)) {
        return NULL;
    }
    *events = (lcr_events){.min_s = rules->min_s, .pause_s = rules->pause_s, .label = NOBODY, .classes = classes};
    for (int i = 0; i < classes; i++) {
        const int own = rules->enters != NULL && rules->enters[i] != 0.0;
        const int never = rules->ignore != NULL && rules->ignore[i] != 0;
        const double enter = own ? rules->enters[i] : rules->enter;
        /* Not simply rules->leave without one of its own: this may differ in the last bit, and Python does it so. */
        const double leave = enter * rules->leave / rules->enter;
        events->each[i] = (lcr_class){.enter = never ? HUGE_VAL : enter, .leave = leave, .ended_s = -HUGE_VAL};
    }
    return events;
}

void lcr_probabilities(const float *logits, int classes, float *probabilities) {
    float most = logits[0], sum = 0.0f;
    for (int i = 1; i < classes; i++) {
        most = fmaxf(most, logits[i]);
    }
    for (int i = 0; i < classes; i++) {
        probabilities[i] = expf(logits[i] - most);
        sum += probabilities[i];
    }
    for (int i = 0; i < classes; i++) {
        probabilities[i] /= sum;
    }
}

/* The most probable of the classes that may begin, the first one of several. */
static void find_candidate(lcr_events *events, double time_s, const float *probabilities) {
    for (int32_t i = 0; i < events->classes; i++) {
        const lcr_class *each = &events->each[i];
        const int rested = time_s - each->ended_s >= events->pause_s;
        const int high = (double)probabilities[i] >= each->enter;
        if (rested && high && (events->label == NOBODY || probabilities[i] > events->confidence)) {
            events->label = i;
            events->confidence = probabilities[i];
            events->start_s = time_s;
        }
    }
}

static lcr_event describe(const lcr_events *events) {
    return (lcr_event){
        .number = events->number,
        .label = events->label,
        .start_s = events->start_s,
        .confidence = events->confidence,
    };
}

/* Drops the candidate. Returns 1, and its end, if it was an event. */
static int end(lcr_events *events, int cut, lcr_event *happened) {
    const int was_event = events->number != 0;
    if (was_event) {
        *happened = describe(events);
        happened->ended = 1;
        happened->cut = cut;
        happened->end_s = events->last_s;
        events->each[events->label].ended_s = events->last_s;
    }
    events->label = NOBODY;
    events->number = 0;
    return was_event;
}

int lcr_events_step(lcr_events *events, double time_s, const float *probabilities, lcr_event happened[2]) {
    int count = 0;
    if (events->label != NOBODY && (double)probabilities[events->label] < events->each[events->label].leave) {
        count += end(events, 0, &happened[0]);
    }
    if (events->label == NOBODY) {
        find_candidate(events, time_s, probabilities);
    }
    if (events->label == NOBODY) {
        return count;
    }
    events->last_s = time_s;
    events->confidence = fmaxf(events->confidence, probabilities[events->label]);
    if (events->number == 0 && time_s - events->start_s >= events->min_s) {
        events->number = ++events->count;
        happened[count++] = describe(events);
    }
    return count;
}

int lcr_events_cut(lcr_events *events, lcr_event *happened) {
    const int count = end(events, 1, happened);
    for (int32_t i = 0; i < events->classes; i++) {
        events->each[i].ended_s = -HUGE_VAL;
    }
    return count;
}

int lcr_events_busy(const lcr_events *events) {
    return events->label != NOBODY;
}
