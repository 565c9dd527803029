/* A reader of JSON for a bundle's manifest.json. Strict, bounded, without recursion. Not for programs.

A text becomes a list of nodes in the order in which they begin; an object's children are key, value, key, value. */

#ifndef LCR_JSON_H
#define LCR_JSON_H

#include <stddef.h>
#include <stdint.h>

/* Arrays and objects in each other. */
#define LCR_JSON_MOST_DEPTH 32
#define LCR_JSON_NONE SIZE_MAX

typedef enum lcr_json_kind {
    LCR_JSON_NULL,
    LCR_JSON_TRUE,
    LCR_JSON_FALSE,
    LCR_JSON_NUMBER,
    LCR_JSON_STRING,
    LCR_JSON_ARRAY,
    LCR_JSON_OBJECT
} lcr_json_kind;

typedef struct lcr_json_node {
    lcr_json_kind kind;
    size_t start, end; /* its text; of a string, what stands between the quotes */
    size_t next;       /* the node behind this one and all that is in it */
} lcr_json_node;

typedef struct lcr_json {
    const char *text;
    size_t size;
    lcr_json_node *nodes;
    size_t count;
} lcr_json;

/* Reads text[0..size). nodes: room for ``most``; NULL to count only. Returns how many nodes there are, 0 if the text is
not JSON in UTF-8, or deeper than LCR_JSON_MOST_DEPTH, or more than ``most``. */
size_t lcr_json_read(const char *text, size_t size, lcr_json_node *nodes, size_t most);

/* The value of a key of an object; LCR_JSON_NONE if it is not there, or twice, or this is no object. */
size_t lcr_json_find(const lcr_json *json, size_t object, const char *key);

/* Whether a node is this string. None of these functions minds LCR_JSON_NONE. */
int lcr_json_is(const lcr_json *json, size_t node, const char *text);

/* A string without its escapes, ended with a zero. Returns its bytes without the zero; LCR_JSON_NONE if this is no
string, or it has a zero inside or does not fit. */
size_t lcr_json_string(const lcr_json *json, size_t node, char *out, size_t room);

/* A whole number from least to most. Returns 0 if this is none. */
int lcr_json_whole(const lcr_json *json, size_t node, int64_t least, int64_t most, int64_t *value);

/* A number with an absolute value of 1e-22 to 1e22, or 0. Returns 0 if this is none. */
int lcr_json_real(const lcr_json *json, size_t node, double *value);

#endif
