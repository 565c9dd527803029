/* lcr_edge: one step of an LCR network in C99, and what a camera program needs around it.

Ownership, in four rules:

1. A model belongs to whoever opened it, until lcr_close. It does not change while it is used.
2. A state belongs to the caller: lcr_state_size() bytes for each camera, aligned for float. The library keeps no
   pointer to it. A NULL state_in means the initial state, all zeros. state_out may be the same memory as state_in.
3. Frames, edges and logits are the caller's too. Nothing is read or written after a call returns.
4. Every string that is returned belongs to the library and lives as long as the model, or for ever (lcr_message).

Nothing is allocated after opening. With lcr_open_memory nothing is allocated at all, and no file is read.

Threads: one model may step many states from several threads at once, as many as it was opened for
(lcr_options.threads); one more gets LCR_BUSY and may try again. Two threads must not use one state at the same time.
lcr_open and lcr_close of one model belong to one thread. Everything else may be called from any thread at any time.

Errors are returned, never printed. Whatever is wrong, nothing was written to state_out and logits (but see LCR_ENGINE).

The same calls exist over onnxruntime and OpenVINO: what differs is in the last section. */

#ifndef LCR_EDGE_H
#define LCR_EDGE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Changes when a program has to be compiled again. */
#define LCR_ABI_VERSION 1
/* The step contract of docs/export.md: what a frame, a state and logits are. */
#define LCR_CONTRACT_VERSION 1

typedef enum lcr_status {
    LCR_OK = 0,
    LCR_ARGUMENT, /* a NULL where something is needed, or a number out of range */
    LCR_FILE,     /* the file cannot be opened or read */
    LCR_FORMAT,   /* not a weights file, or truncated, or its sizes contradict each other */
    LCR_VERSION,  /* of another version of the format or of the contract */
    LCR_ENDIAN,   /* written for a processor of the other byte order */
    LCR_DIGEST,   /* a byte is not what it was when the file was written */
    LCR_MEMORY,   /* memory is missing, or the arena is too small or not aligned */
    LCR_STATE,    /* the state has a value that is NaN or infinite: this stream is lost, start again from NULL */
    LCR_OVERLAP,  /* buffers overlap that must not */
    LCR_BUSY,     /* all of the model's threads are in a step */
    LCR_PARITY,   /* a selftest found answers that are not the reference's */

    LCR_UNSUPPORTED, /* the bundle is whole, but this implementation cannot run it */
    LCR_ENGINE       /* the engine below refused or failed; of a step, state_out and logits are undefined */
} lcr_status;

/* One sentence in English for a status. Never NULL. */
const char *lcr_message(lcr_status status);

/* LCR_ABI_VERSION of the library, to compare with that of the header. */
int lcr_abi_version(void);

typedef struct lcr_model lcr_model;

typedef struct lcr_options {
    int threads; /* steps that may run at the same time, 1 to 64; with compilers other than GCC and clang 1 */
    int plain;   /* not 0: plain C, whatever the processor can do */
} lcr_options;

/* Reads a weights file, model.bin of a C bundle, into memory of its own. Over an engine (last section) it takes the
bundle's folder or manifest.json. options: NULL for one thread. A folder or a pipe in the place of model.bin is
LCR_FILE. */
lcr_status lcr_open(const char *path, const lcr_options *options, lcr_model **model);

/* The bytes that lcr_open_memory needs for these weights; 0 if they are not weights. */
size_t lcr_arena_size(const void *weights, size_t size, const lcr_options *options);

/* Uses weights where they are, such as a const array in flash, and an arena of the caller's. Both must be aligned to 64
bytes and live, unchanged but by the library, until lcr_close. */
lcr_status lcr_open_memory(
    const void *weights, size_t size, const lcr_options *options, void *arena, size_t arena_size, lcr_model **model);

/* Closes a model; NULL is allowed. No step may be running. */
void lcr_close(lcr_model *model);

typedef struct lcr_info {
    int height, width; /* of a frame, pixels */
    int classes;
    int layers, tokens, dim; /* a state has two parts of layers x tokens x dim float */
    int fit;                 /* how camera frames are fitted: 0 letterbox, 1 crop */
    int int8;                /* 1: products of int8 numbers */
    float train_fps;         /* frames a second that the network was trained on */
    const char *kernels;     /* what the products are computed with: "plain C", "AVX2", ... */
} lcr_info;

/* What the model is. Never fails for an open model. */
lcr_info lcr_about(const lcr_model *model);

/* The name of a class, UTF-8; NULL for a number that is none. */
const char *lcr_label(const lcr_model *model, int number);

/* Bytes of one state. */
size_t lcr_state_size(const lcr_model *model);

/* One step. frame: height x width x 3 bytes, RGB. state_in: the state before, or NULL. state_out: the state after it.
logits: classes floats. */
lcr_status lcr_step(
    lcr_model *model, const uint8_t *frame, const void *state_in, void *state_out, float *logits);

/* The same with the edges given: height x width bytes, 0 or 1; NULL to have them found. */
lcr_status lcr_step_edges(
    lcr_model *model, const uint8_t *frame, const uint8_t *edges, const void *state_in, void *state_out,
    float *logits);

/* What a selftest measured: the largest absolute error of logits and states. */
typedef struct lcr_errors {
    int frames;     /* of the golden clip */
    float one_step; /* each step from the reference's state */
    float stream;   /* with the model's own state fed back */
} lcr_errors;

/* Bytes of memory that lcr_selftest needs. */
size_t lcr_selftest_size(const lcr_model *model);

/* Steps the golden clip of the model's bundle, the bytes of golden.bin, and compares with the reference's answers.
golden: aligned to 64 bytes. memory: lcr_selftest_size bytes, aligned for float. LCR_OK: within what was promised at the
export. LCR_PARITY: not; errors says by how much. Any other status is that of a clip that is damaged or of another network, or
of a step that could not be done. */
lcr_status lcr_selftest(lcr_model *model, const void *golden, size_t size, void *memory, lcr_errors *errors);

/* ---- Are the answers of two processors the same? ---- */

/* lcr_selftest, and then the first 8 bytes of a hash of all logits and states of the golden clip, with the model's own
state fed back: a chain of SHA-256. Of an int8 model it is the same on every processor; of a float model it may differ
in the last bits that each of them rounds. Status, errors and memory are those of lcr_selftest. hash is written for
LCR_OK and LCR_PARITY only. */
lcr_status lcr_selftest_hash(
    lcr_model *model, const void *golden, size_t size, void *memory, lcr_errors *errors, uint8_t hash[8]);

/* ---- From a camera's frame to what the network takes ----

Images, results and scratch memory are the caller's. Nothing is allocated, and nothing is read or written after a call
returns. Scratch memory must be aligned for int64_t; what it holds before a call does not matter. Calls with different
memory may run at the same time. */

/* The most pixels along a side of any image here. */
#define LCR_MOST_SIDE 8192

typedef enum lcr_format {
    LCR_RGB = 0, /* 3 bytes a pixel: red, green, blue */
    LCR_BGR,     /* 3 bytes a pixel: blue, green, red */
    LCR_GRAY8,   /* 1 byte a pixel */
    LCR_NV12,    /* luma in the first plane; in the second U and V in turn, a pair for every 2 x 2 pixels */
    LCR_YUYV     /* luma, U, luma, V: 4 bytes for every 2 pixels of a row */
} lcr_format;

/* An image as a camera gives it. YUV means BT.601 with luma from 16 to 235, as cameras do. */
typedef struct lcr_image {
    const uint8_t *planes[2]; /* the second for NV12 only */
    size_t strides[2];        /* bytes from the start of a row to that of the next, for each plane */
    int width, height;        /* pixels; both even for NV12, an even width for YUYV */
    lcr_format format;
} lcr_image;

/* Bytes of scratch memory that lcr_fit_image needs for images of this size and format; 0 if the image, but for the
planes, or the wanted size is wrong. */
size_t lcr_fit_scratch(const lcr_image *image, int height, int width, int crop);

/* Fits an image to the network's frame, height x width x 3 bytes, RGB. crop: 0 for the whole image on black, not 0 for
the largest centred part that fills the frame (lcr_info.fit says what a model wants). scratch: lcr_fit_scratch bytes.

The result is that of lcr_edge.frames with OpenCV, bit for bit; YUV is converted first, also as OpenCV does. Where
OpenCV was compiled with fused products and sums, as compilers for ARM like to, its own result may differ by one level
if both sides shrink and one of them not by a whole number.

LCR_ARGUMENT: a NULL, a side below 1 or above LCR_MOST_SIDE or odd where it must be even, an unknown format, or a stride
that is shorter than a row. Then frame is as it was. */
lcr_status lcr_fit_image(const lcr_image *image, int height, int width, int crop, uint8_t *frame, void *scratch);

/* Bytes of scratch memory that lcr_fit needs for images of this size and format; 0 if the image, but for the planes, is
wrong or the model is NULL. */
size_t lcr_fit_size(const lcr_model *model, const lcr_image *image);

/* lcr_fit_image with the size and the fit of a model. frame: as lcr_step takes it. scratch: lcr_fit_size bytes. */
lcr_status lcr_fit(const lcr_model *model, const lcr_image *image, uint8_t *frame, void *scratch);

/* Bytes of scratch memory that lcr_find_edges needs; 0 if a side is below 1 or above LCR_MOST_SIDE. */
size_t lcr_edges_scratch(int height, int width);

/* The edges of a frame, as lcr_edge.edges.host finds them, bit for bit. rgb: height x width x 3 bytes. edges: height x
width bytes, each set to 0 or 1. scratch: lcr_edges_scratch(height, width) bytes, which must not be 0. */
void lcr_find_edges(const uint8_t *rgb, int height, int width, uint8_t *edges, void *scratch);

/* ---- What begins and ends in a stream, from the logits of its steps ----

A class becomes an event when its probability has been ``enter`` or more, and then ``leave`` or more, for min_s seconds;
the event began where that did. It ends with the last step before the probability is below ``leave``. For pause_s
seconds after that the same class cannot begin again. There is one event at a time.

The memory is the caller's: lcr_events_size() bytes for each stream, aligned for double. It holds no pointers and may be
copied. Nothing is allocated. Two threads must not use one stream at the same time. Everything is as in
lcr_edge.runtimes.live.events, but that classes are numbers. */

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

/* ---- The same calls over onnxruntime and OpenVINO ----

A program that is linked with liblcr_edge_onnxruntime or liblcr_edge_openvino instead of liblcr_edge runs bundles of
that target, float or int8, with explicit float32 states and one stream a call; others get LCR_UNSUPPORTED. Differences:

- lcr_open takes the bundle's folder, or the path of its manifest.json. Manifest and model files are checked against
  their digests, and what was checked is what the engine is given.
- Nothing is allocated by this library in a step; the engines allocate as they like. A step is computed by the thread
  that calls it, but with OpenVINO and more than one of lcr_options.threads by a thread of OpenVINO.
- A step reads state_in and writes state_out where they are; if they are the same memory, the state is copied first.
- lcr_options.plain has no meaning. lcr_arena_size is 0, lcr_open_memory returns LCR_UNSUPPORTED.
- lcr_step_edges with edges returns LCR_UNSUPPORTED if the model finds its edges itself (--edges graph).
- lcr_info.kernels names the engine and its version.
- lcr_selftest takes the golden.bin of the C bundle of the same network and precision.
- onnxruntime reports to its maker unless the environment says ORT_DISABLE_TELEMETRY=1. lcr_open sets that where the
  variable is not set, so open before other threads read the environment. */

/* lcr_open that also says why, in one sentence with the name of what is wrong, or "all is well". why: why_size bytes,
always ended with a zero, or NULL. */
lcr_status lcr_open_explained(
    const char *path, const lcr_options *options, lcr_model **model, char *why, size_t why_size);

#ifdef __cplusplus
}
#endif

#endif
