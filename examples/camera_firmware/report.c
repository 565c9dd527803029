/* Events as JSON lines, as lcr-edge run --events --json - writes them. */

#include "camera.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

int complain(int code, const char *format, ...) {
    va_list arguments;
    fputs("error: ", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    return code;
}

/* A number with at most so many digits after the point, and at least one. */
static void print_number(double number, int digits) {
    char text[64];
    const int length = snprintf(text, sizeof text, "%.*f", digits, number);
    size_t end = length > 0 && (size_t)length < sizeof text ? (size_t)length : strlen(text);
    while (end > 2 && text[end - 1] == '0' && text[end - 2] != '.') {
        end--;
    }
    printf("%.*s", (int)end, text);
}

static void print_string(const char *text) {
    putchar('"');
    for (; *text != '\0'; text++) {
        const unsigned char byte = (unsigned char)*text;
        if (byte == '"' || byte == '\\') {
            printf("\\%c", byte);
        } else if (byte < 0x20) {
            printf("\\u%04x", byte);
        } else {
            putchar(byte);
        }
    }
    putchar('"');
}

int report_event(const lcr_event *event, const char *label) {
    if (ferror(stdout)) {
        return USAGE; /* it was said */
    }
    printf("{\"event\": \"%s\", \"number\": %lu, \"label\": ", event->ended ? "end" : "start",
        (unsigned long)event->number);
    print_string(label);
    printf(", \"start_s\": ");
    print_number(event->start_s, 4);
    printf(", \"end_s\": ");
    if (event->ended) {
        print_number(event->end_s, 4);
    } else {
        printf("null");
    }
    printf(", \"confidence\": ");
    print_number((double)event->confidence, 6);
    printf(", \"cut\": %s}\n", event->cut ? "true" : "false");
    errno = 0;
    if (fflush(stdout) != 0 || ferror(stdout)) {
        return complain(USAGE, "cannot write to stdout: %s", strerror(errno));
    }
    return ALL_WELL;
}
