/* Events with any rules, times and probabilities: whatever comes in, each event begins once and ends once. */

#include "fuzz.h"

#include <math.h>

#define MOST_OF_CLASSES 40

/* Of a stream: the event that lasts, if there is one, and how many began. */
typedef struct story {
    uint32_t count;
    int lasts, label;
    float confidence;
} story;

static void follow(story *so_far, const lcr_event *event, int classes, int cut) {
    EXPECT(event->label >= 0 && event->label < classes);
    EXPECT(so_far->lasts == event->ended);
    if (event->ended) {
        EXPECT(event->number == so_far->count && event->label == so_far->label && event->cut == cut);
        EXPECT(!(event->confidence < so_far->confidence));
    } else {
        EXPECT(event->number == ++so_far->count && event->cut == 0 && event->end_s == 0.0);
        so_far->label = event->label;
        so_far->confidence = event->confidence;
    }
    so_far->lasts = !event->ended;
}

/* A number that is mostly one of a rule's: in tenths, else any. */
static double draw_rule(input *from) {
    const int kind = (int)draw(from, 1);
    return kind < 250 ? kind / 10.0 : draw_double(from);
}

static void check_probabilities(input *from, int classes) {
    float *logits = exactly((size_t)classes * sizeof(float)), *shares = exactly((size_t)classes * sizeof(float));
    double sum = 0.0;
    int finite = 1;
    draw_floats(from, logits, (size_t)classes, 30.0f);
    UNWRITTEN(shares, (size_t)classes * sizeof(float));
    lcr_probabilities(logits, classes, shares);
    for (int i = 0; i < classes; i++) {
        finite = finite && isfinite(logits[i]);
        sum += (double)shares[i];
    }
    for (int i = 0; finite && i < classes; i++) {
        EXPECT(shares[i] >= 0.0f && shares[i] <= 1.0f);
    }
    EXPECT(!finite || fabs(sum - 1.0) < 1e-5);
    free(logits);
    free(shares);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    input from = {bytes, size, 0};
    const int32_t classes = draw_number(&from, MOST_OF_CLASSES);
    const int kind = (int)draw(&from, 1);
    lcr_event_rules rules = lcr_usual_rules();
    if (classes < 1 || classes > 2 * MOST_OF_CLASSES) {
        EXPECT((lcr_events_size(classes) == 0) == (classes < 1 || classes > LCR_MOST_CLASSES));
        EXPECT(classes > 0 || lcr_events_start(bytes == NULL ? NULL : &rules, classes, NULL) == NULL);
        return 0;
    }
    if (kind & 1) {
        rules = (lcr_event_rules){draw_rule(&from), draw_rule(&from), draw_rule(&from), draw_rule(&from), NULL, NULL};
    }
    double *enters = exactly((size_t)classes * sizeof *enters);
    uint8_t *ignore = exactly((size_t)classes);
    float *probabilities = exactly((size_t)classes * sizeof *probabilities);
    void *memory = exactly(lcr_events_size(classes));
    for (int i = 0; i < classes; i++) {
        enters[i] = kind & 2 ? draw_rule(&from) : 0.0;
        ignore[i] = kind & 4 ? (uint8_t)draw(&from, 1) & 1 : 0;
    }
    rules.enters = kind & 2 ? enters : NULL;
    rules.ignore = kind & 4 ? ignore : NULL;
    check_probabilities(&from, classes);
    UNWRITTEN(memory, lcr_events_size(classes));
    lcr_events *events = lcr_events_start(memory, classes, &rules);
    story so_far = {0, 0, 0, 0.0f};
    double time_s = 0.0;
    while (events != NULL && from.place < from.size) {
        const int what = (int)draw(&from, 1);
        lcr_event happened[2];
        if (what % 16 == 0) {
            const int count = lcr_events_cut(events, happened);
            EXPECT(count == so_far.lasts);
            for (int i = 0; i < count; i++) {
                follow(&so_far, &happened[i], classes, 1);
            }
            EXPECT(!lcr_events_busy(events));
            continue;
        }
        time_s = what % 16 == 1 ? draw_double(&from) : time_s + what / 64.0;
        for (int i = 0; i < classes; i++) {
            probabilities[i] = what % 16 == 2 ? draw_float(&from) : (float)draw(&from, 1) / 255.0f;
        }
        const int count = lcr_events_step(events, time_s, probabilities, happened);
        EXPECT(count >= 0 && count <= 2);
        for (int i = 0; i < count; i++) {
            follow(&so_far, &happened[i], classes, 0);
            EXPECT(happened[i].ended || ignore[happened[i].label] == 0);
        }
        EXPECT(!so_far.lasts || lcr_events_busy(events));
    }
    free(enters);
    free(ignore);
    free(probabilities);
    free(memory);
    return 0;
}
