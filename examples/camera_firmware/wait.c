/* Waiting for frames so that signals and the watchdog are not forgotten. */

#define _POSIX_C_SOURCE 200809L

#include "camera.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <time.h>

enum { LOOK_MS = 50 }; /* between two looks at signals and watchdog; a signal just before poll waits so long */

static volatile sig_atomic_t asked;

static void ask(int number) {
    (void)number;
    asked = 1;
}

void catch_signals(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    sigemptyset(&action.sa_mask);
    action.sa_handler = ask;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    action.sa_handler = SIG_IGN; /* a reader that is gone is an error of the write */
    sigaction(SIGPIPE, &action, NULL);
}

int stop_asked(void) {
    return asked != 0;
}

double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

readiness wait_readable(int file, double seconds) {
    const double until = now_s() + seconds;
    for (;;) {
        struct pollfd one = {file, POLLIN, 0};
        const int ready = poll(&one, 1, LOOK_MS);
        if (still_waiting()) {
            return STOP_ASKED;
        }
        if (ready > 0 || (ready < 0 && errno != EINTR)) {
            return READY; /* the read has the error */
        }
        if (seconds >= 0.0 && now_s() >= until) {
            return NOT_READY;
        }
    }
}
