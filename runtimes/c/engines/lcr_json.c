#include "lcr_json.h"

#include <string.h>

/* Where the reader is. ``open`` are the arrays and objects around it, from outside. */
typedef struct reader {
    const char *text;
    size_t size, place;
    lcr_json_node *nodes;
    size_t count, most;
    size_t open[LCR_JSON_MOST_DEPTH];
    lcr_json_kind kinds[LCR_JSON_MOST_DEPTH];
    size_t depth;
} reader;

static int peek(const reader *file) {
    return file->place < file->size ? (unsigned char)file->text[file->place] : -1;
}

static void skip_space(reader *file) {
    while (peek(file) == ' ' || peek(file) == '\n' || peek(file) == '\r' || peek(file) == '\t') {
        file->place++;
    }
}

/* A node that begins here, or LCR_JSON_NONE where there is no room. */
static size_t add(reader *file, lcr_json_kind kind, size_t start) {
    if (file->count >= file->most) {
        return LCR_JSON_NONE;
    }
    if (file->nodes != NULL) {
        file->nodes[file->count] = (lcr_json_node){kind, start, start, file->count + 1};
    }
    return file->count++;
}

static void end(const reader *file, size_t node, size_t place) {
    if (file->nodes != NULL) {
        file->nodes[node].end = place;
        file->nodes[node].next = file->count;
    }
}

static int hex(int c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Four hex digits at ``at``; -1 if they are none. */
static long unit(const char *text, size_t size, size_t at) {
    long value = 0;
    if (size < 4 || at > size - 4) {
        return -1;
    }
    for (size_t i = 0; i < 4; i++) {
        const int digit = hex((unsigned char)text[at + i]);
        if (digit < 0) {
            return -1;
        }
        value = 16 * value + digit;
    }
    return value;
}

/* The code point of an escape whose ``u`` stands before ``at``, and the bytes behind the u that it takes: 4, or 10 for
a pair of surrogates; 0 if it is wrong. */
static size_t code_point(const char *text, size_t size, size_t at, unsigned long *value) {
    const long first = unit(text, size, at);
    if (first < 0 || (first >= 0xDC00 && first <= 0xDFFF)) {
        return 0;
    }
    if (first < 0xD800 || first > 0xDBFF) {
        *value = (unsigned long)first;
        return 4;
    }
    const int paired = size >= 6 && at + 4 <= size - 2 && text[at + 4] == '\\' && text[at + 5] == 'u';
    const long second = paired ? unit(text, size, at + 6) : -1;
    if (second < 0xDC00 || second > 0xDFFF) {
        return 0;
    }
    *value = 0x10000ul + (((unsigned long)first - 0xD800ul) << 10) + ((unsigned long)second - 0xDC00ul);
    return 10;
}

/* The bytes of the UTF-8 sequence at ``place``, 0 if it is wrong: too long a form, a surrogate, above U+10FFFF. */
static size_t utf8(const reader *file) {
    const unsigned char *c = (const unsigned char *)file->text + file->place;
    const size_t left = file->size - file->place, length = c[0] < 0x80 ? 1 : c[0] < 0xE0 ? 2 : c[0] < 0xF0 ? 3 : 4;
    if (length == 1) {
        return 1;
    }
    if (c[0] < 0xC2 || c[0] > 0xF4 || left < length) {
        return 0;
    }
    for (size_t i = 1; i < length; i++) {
        if ((c[i] & 0xC0) != 0x80) {
            return 0;
        }
    }
    const int wrong = (c[0] == 0xE0 && c[1] < 0xA0) || (c[0] == 0xED && c[1] > 0x9F) || (c[0] == 0xF0 && c[1] < 0x90) ||
                      (c[0] == 0xF4 && c[1] > 0x8F);
    return wrong ? 0 : length;
}

/* From behind the opening quote to behind the closing one. */
static int pass_string(reader *file) {
    unsigned long value;
    for (;;) {
        const int c = peek(file);
        if (c < 0x20) { /* the end, too */
            return 0;
        }
        if (c == '"') {
            file->place++;
            return 1;
        }
        if (c != '\\') {
            const size_t length = utf8(file);
            if (length == 0) {
                return 0;
            }
            file->place += length;
            continue;
        }
        file->place++;
        const int escaped = peek(file);
        if (escaped < 0 || memchr("\"\\/bfnrtu", escaped, 9) == NULL) {
            return 0;
        }
        file->place++;
        if (escaped == 'u') {
            const size_t taken = code_point(file->text, file->size, file->place, &value);
            if (taken == 0) {
                return 0;
            }
            file->place += taken;
        }
    }
}

static size_t pass_digits(reader *file) {
    const size_t start = file->place;
    while (peek(file) >= '0' && peek(file) <= '9') {
        file->place++;
    }
    return file->place - start;
}

static int pass_number(reader *file) {
    if (peek(file) == '-') {
        file->place++;
    }
    const int first = peek(file);
    const size_t digits = pass_digits(file);
    if (digits == 0 || (first == '0' && digits > 1)) {
        return 0;
    }
    if (peek(file) == '.') {
        file->place++;
        if (pass_digits(file) == 0) {
            return 0;
        }
    }
    if (peek(file) == 'e' || peek(file) == 'E') {
        file->place++;
        if (peek(file) == '+' || peek(file) == '-') {
            file->place++;
        }
        return pass_digits(file) > 0;
    }
    return 1;
}

static int pass_word(reader *file, const char *word) {
    const size_t length = strlen(word);
    if (file->size - file->place < length || memcmp(file->text + file->place, word, length) != 0) {
        return 0;
    }
    file->place += length;
    return 1;
}

static int read_string(reader *file) {
    const size_t node = add(file, LCR_JSON_STRING, file->place + 1);
    file->place++;
    if (node == LCR_JSON_NONE || !pass_string(file)) {
        return 0;
    }
    end(file, node, file->place - 1);
    return 1;
}

/* A value that has no others inside, or the beginning of one that has. */
static int read_value(reader *file) {
    const int c = peek(file);
    const size_t start = file->place;
    if (c == '"') {
        return read_string(file);
    }
    const int opens = c == '{' || c == '[';
    const lcr_json_kind kind = c == '{'   ? LCR_JSON_OBJECT
                               : c == '[' ? LCR_JSON_ARRAY
                               : c == 'n' ? LCR_JSON_NULL
                               : c == 't' ? LCR_JSON_TRUE
                               : c == 'f' ? LCR_JSON_FALSE
                                          : LCR_JSON_NUMBER;
    const size_t node = add(file, kind, start);
    if (node == LCR_JSON_NONE || (opens && file->depth == LCR_JSON_MOST_DEPTH)) {
        return 0;
    }
    if (opens) {
        file->open[file->depth] = node;
        file->kinds[file->depth++] = kind;
        file->place++;
        return 1;
    }
    const int passed = kind == LCR_JSON_NUMBER  ? pass_number(file)
                       : kind == LCR_JSON_NULL  ? pass_word(file, "null")
                       : kind == LCR_JSON_TRUE  ? pass_word(file, "true")
                                                : pass_word(file, "false");
    end(file, node, file->place);
    return passed;
}

/* A key of an object with its colon. */
static int read_key(reader *file) {
    if (peek(file) != '"' || !read_string(file)) {
        return 0;
    }
    skip_space(file);
    if (peek(file) != ':') {
        return 0;
    }
    file->place++;
    skip_space(file);
    return 1;
}

size_t lcr_json_read(const char *text, size_t size, lcr_json_node *nodes, size_t most) {
    reader file = {.text = text, .size = size, .nodes = nodes, .most = most};
    int fresh = 1; /* nothing stands in the innermost array or object yet */
    skip_space(&file);
    if (!read_value(&file)) {
        return 0;
    }
    while (file.depth > 0) {
        const lcr_json_kind kind = file.kinds[file.depth - 1];
        skip_space(&file);
        if (peek(&file) == (kind == LCR_JSON_OBJECT ? '}' : ']')) {
            file.place++;
            file.depth--;
            end(&file, file.open[file.depth], file.place);
            fresh = 0;
            continue;
        }
        if (!fresh) {
            if (peek(&file) != ',') {
                return 0;
            }
            file.place++;
            skip_space(&file);
        }
        const size_t before = file.depth;
        if ((kind == LCR_JSON_OBJECT && !read_key(&file)) || !read_value(&file)) {
            return 0;
        }
        fresh = file.depth > before;
    }
    skip_space(&file);
    return file.place == size ? file.count : 0;
}

size_t lcr_json_find(const lcr_json *json, size_t object, const char *key) {
    size_t found = LCR_JSON_NONE;
    if (object >= json->count || json->nodes[object].kind != LCR_JSON_OBJECT) {
        return LCR_JSON_NONE;
    }
    for (size_t i = object + 1; i < json->nodes[object].next; i = json->nodes[i + 1].next) {
        if (lcr_json_is(json, i, key)) {
            if (found != LCR_JSON_NONE) {
                return LCR_JSON_NONE;
            }
            found = i + 1;
        }
    }
    return found;
}

int lcr_json_is(const lcr_json *json, size_t node, const char *text) {
    if (node >= json->count || json->nodes[node].kind != LCR_JSON_STRING) {
        return 0;
    }
    const lcr_json_node *found = &json->nodes[node];
    const size_t length = strlen(text);
    return found->end - found->start == length && memcmp(json->text + found->start, text, length) == 0;
}

/* A code point as UTF-8; returns its bytes. */
static size_t encode(unsigned long value, char out[4]) {
    if (value < 0x80) {
        out[0] = (char)value;
        return 1;
    }
    const size_t length = value < 0x800 ? 2 : value < 0x10000 ? 3 : 4;
    const unsigned long marks[] = {0xC0, 0xE0, 0xF0};
    for (size_t i = length - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (value & 0x3F));
        value >>= 6;
    }
    out[0] = (char)(marks[length - 2] | value);
    return length;
}

size_t lcr_json_string(const lcr_json *json, size_t node, char *out, size_t room) {
    if (node >= json->count || json->nodes[node].kind != LCR_JSON_STRING) {
        return LCR_JSON_NONE;
    }
    const size_t stop = json->nodes[node].end;
    size_t size = 0;
    for (size_t i = json->nodes[node].start; i < stop; i++) {
        static const char names[] = "bfnrt", values[] = "\b\f\n\r\t";
        char bytes[4] = {json->text[i]};
        size_t length = 1;
        if (json->text[i] == '\\') {
            const char escaped = json->text[++i];
            const char *name = strchr(names, escaped);
            unsigned long value = 0;
            bytes[0] = name == NULL ? escaped : values[name - names];
            if (escaped == 'u') {
                i += code_point(json->text, stop, i + 1, &value);
                length = encode(value, bytes);
            }
        }
        if (bytes[0] == '\0' || size + length >= room) {
            return LCR_JSON_NONE;
        }
        memcpy(out + size, bytes, length);
        size += length;
    }
    if (size >= room) {
        return LCR_JSON_NONE;
    }
    out[size] = '\0';
    return size;
}

int lcr_json_whole(const lcr_json *json, size_t node, int64_t least, int64_t most, int64_t *value) {
    if (node >= json->count || json->nodes[node].kind != LCR_JSON_NUMBER) {
        return 0;
    }
    const char *text = json->text + json->nodes[node].start;
    const size_t size = json->nodes[node].end - json->nodes[node].start, sign = text[0] == '-';
    int64_t found = 0;
    if (size - sign > 18) { /* so that no product below overflows */
        return 0;
    }
    for (size_t i = sign; i < size; i++) {
        if (text[i] < '0' || text[i] > '9') {
            return 0;
        }
        found = 10 * found + (text[i] - '0');
    }
    *value = sign ? -found : found;
    return *value >= least && *value <= most;
}

/* Not strtod, whose decimal point is that of the program's locale. */
int lcr_json_real(const lcr_json *json, size_t node, double *value) {
    if (node >= json->count || json->nodes[node].kind != LCR_JSON_NUMBER) {
        return 0;
    }
    const char *text = json->text + json->nodes[node].start;
    const size_t size = json->nodes[node].end - json->nodes[node].start;
    size_t i = text[0] == '-';
    uint64_t digits = 0;
    int power = 0, behind = 0, given = 0;
    for (; i < size && text[i] != 'e' && text[i] != 'E'; i++) {
        if (text[i] == '.') {
            behind = 1;
        } else if (digits < UINT64_MAX / 10 - 9) {
            digits = 10 * digits + (uint64_t)(text[i] - '0');
            power -= behind;
        } else { /* more digits than a double holds */
            power += !behind;
        }
        if (power < -400 || power > 400) {
            return 0;
        }
    }
    if (i < size) {
        const size_t sign = text[i + 1] == '-' || text[i + 1] == '+';
        const int down = text[i + 1] == '-';
        for (i += 1 + sign; i < size; i++) {
            given = 10 * given + (text[i] - '0');
            if (given > 400) {
                return 0;
            }
        }
        power += down ? -given : given;
    }
    double found = (double)digits, scale = 1.0;
    for (int left = power < 0 ? -power : power; left > 0 && scale < 1e300; left--) {
        scale *= 10.0;
    }
    found = power < 0 ? found / scale : found * scale;
    *value = text[0] == '-' ? -found : found;
    return digits == 0 || (found >= 1e-22 && found <= 1e22);
}
