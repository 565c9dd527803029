/* What systemd is told: ready, alive, stopping, by datagrams to the socket that it names (the protocol of sd_notify).

The watchdog is fed where frames are stepped and where they are waited for, in one thread. So a step that does not
return, or an output that nobody reads, stops the feeding. */

#define _POSIX_C_SOURCE 200809L

#include "camera.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int channel = -1;
static double period_s; /* between two feedings; 0: there is no watchdog */
static double fed_s;

static void tell(const char *message) {
    if (channel >= 0) {
        send(channel, message, strlen(message), MSG_DONTWAIT | MSG_NOSIGNAL); /* nobody listens: no worse for it */
    }
}

/* Seconds of the service's watchdog; 0 where it has none, or where it watches another process. */
static double watchdog_s(void) {
    const char *period = getenv("WATCHDOG_USEC"), *process = getenv("WATCHDOG_PID");
    if (period == NULL || (process != NULL && strtol(process, NULL, 10) != (long)getpid())) {
        return 0.0;
    }
    char *end = NULL;
    errno = 0;
    const unsigned long long microseconds = strtoull(period, &end, 10);
    return errno == 0 && end != period && *end == '\0' ? (double)microseconds * 1e-6 : 0.0;
}

void notify_ready(void) {
    const char *name = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address;
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    const size_t length = name == NULL ? 0 : strlen(name);
    if (length < 2 || (name[0] != '/' && name[0] != '@') || length >= sizeof address.sun_path) {
        return;
    }
    memcpy(address.sun_path, name, length);
    if (name[0] == '@') {
        address.sun_path[0] = '\0'; /* a name that is not in the file system */
    }
    channel = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    if (channel >= 0 && connect(channel, (const struct sockaddr *)&address, size) != 0) {
        close(channel);
        channel = -1;
    }
    period_s = watchdog_s() / 2.0; /* as systemd advises */
    fed_s = now_s();
    tell("READY=1");
}

void notify_alive(unsigned long steps) {
    if (channel < 0 || period_s <= 0.0 || now_s() - fed_s < period_s) {
        return;
    }
    char message[64];
    snprintf(message, sizeof message, "WATCHDOG=1\nSTATUS=%lu steps", steps);
    tell(message);
    fed_s = now_s();
}

void notify_stopping(void) {
    tell("STOPPING=1");
    if (channel >= 0) {
        close(channel);
        channel = -1;
    }
}
