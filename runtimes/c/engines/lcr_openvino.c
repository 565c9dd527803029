/* lcr_edge.h over OpenVINO: a compiled model, and for each place a request whose tensors wrap the caller's memory. */

#include "lcr_openvino.h"
#include "lcr_engine.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_PROPERTIES 7

const char lcr_engine_target[] = "openvino";

/* A request, its tensors, and where the memory is that they wrap. */
typedef struct seat {
    ov_infer_request_t *request;
    ov_tensor_t *values[LCR_TENSORS];
    void *data[LCR_TENSORS];
} seat;

struct lcr_engine {
    ov_tensor_t *weights;
    ov_model_t *model;
    ov_compiled_model_t *compiled;
    ov_output_const_port_t *ports[LCR_TENSORS];
    ov_shape_t shapes[LCR_TENSORS];
    const lcr_tensor *tensors;
    int threads;
    seat *seats;
    char name[64];
};

/* The one core of this process, which is never freed: the CPU device puts a signal stack of its own in place and frees
it when it goes, and two that go in the order in which they came leave the process with a stack that is gone. */
static ov_core_t *the_core;
static int core_saturates = -1; /* not known yet */
static pthread_mutex_t core_lock = PTHREAD_MUTEX_INITIALIZER;

/* Returns the core, and whether int8 products are wrong on this processor where that is asked. */
static ov_core_t *find_core(int *saturates) {
    pthread_mutex_lock(&core_lock);
    if (the_core == NULL && ov_core_create(&the_core) != OK) {
        the_core = NULL;
    }
    if (the_core != NULL && saturates != NULL) {
        core_saturates = core_saturates < 0 ? lcr_openvino_saturates(the_core) : core_saturates;
        *saturates = core_saturates;
    }
    ov_core_t *found = the_core;
    pthread_mutex_unlock(&core_lock);
    return found;
}

/* The cause comes last in OpenVINO's messages, after positions in its source. */
static lcr_status checked(const lcr_engine *engine, ov_status_e error, const lcr_why *why, const char *what) {
    if (error == OK) {
        return LCR_OK;
    }
    const char *last = ov_get_last_err_msg(), *message = last == NULL ? "" : last;
    size_t end = strlen(message);
    while (end > 0 && (message[end - 1] == '\n' || message[end - 1] == ' ')) {
        end--;
    }
    size_t start = end;
    while (start > 0 && message[start - 1] != '\n') {
        start--;
    }
    const int length = end - start < 300 ? (int)(end - start) : 300;
    lcr_say(why, LCR_ENGINE, "%s cannot %s: %s: %.*s", engine->name, what, ov_get_error_info(error), length,
        message + start);
    ov_free(last);
    return LCR_ENGINE;
}

static void name_engine(lcr_engine *engine) {
    ov_version_t version = {NULL, NULL};
    if (ov_get_openvino_version(&version) == OK) {
        const char *number = version.buildNumber == NULL ? "" : version.buildNumber;
        const size_t length = strcspn(number, "-"); /* behind it the build */
        snprintf(engine->name, sizeof engine->name, "openvino %.*s", length < 32 ? (int)length : 32, number);
        ov_version_free(&version);
    } else {
        snprintf(engine->name, sizeof engine->name, "openvino");
    }
}

/* As runtimes/openvino_engine.py sets them, and for its reasons. */
static lcr_status compile(lcr_engine *engine, const lcr_bundle *bundle, const lcr_why *why) {
    int saturates = 0;
    ov_core_t *core = find_core(bundle->info.int8 ? &saturates : NULL);
    char threads[16], group[24];
    const char *given[2 * MOST_PROPERTIES] = {"INFERENCE_PRECISION_HINT", "f32", "PERFORMANCE_HINT", "LATENCY",
        "INFERENCE_NUM_THREADS", threads, "NUM_STREAMS", threads};
    size_t count = 8;
    if (core == NULL) {
        return checked(engine, UNKNOWN_C_ERROR, why, "start");
    }
    snprintf(threads, sizeof threads, "%d", engine->threads);
    if (bundle->group_size >= 0) {
        snprintf(group, sizeof group, "%ld", (long)bundle->group_size);
        given[count++] = "DYNAMIC_QUANTIZATION_GROUP_SIZE";
        given[count++] = group;
    }
    if (saturates) {
        const size_t length = strlen(engine->name);
        snprintf(engine->name + length, sizeof engine->name - length, ", int8 in float");
        given[count++] = "LP_TRANSFORMS_MODE";
        given[count++] = "NO";
    }
    const int64_t bytes = (int64_t)bundle->sizes[1];
    ov_shape_t shape = {0, NULL};
    ov_status_e error = ov_shape_create(1, &bytes, &shape);
    if (error == OK) {
        error = ov_tensor_create_from_host_ptr(U8, shape, bundle->content[1], &engine->weights);
        ov_shape_free(&shape);
    }
    error = error == OK ? ov_core_read_model_from_memory_buffer(
                              core, bundle->content[0], bundle->sizes[0], engine->weights, &engine->model)
                        : error;
    /* The function reads as many of these as count says. */
    if (error == OK) {
        error = ov_core_compile_model(core, engine->model, "CPU", count, &engine->compiled, given[0], given[1],
            given[2], given[3], given[4], given[5], given[6], given[7], given[8], given[9], given[10], given[11],
            given[12], given[13]);
    }
    return checked(engine, error, why, "load the model (a newer one may, or export the bundle again)");
}

/* Whether the port of a tensor is there and has its shape and type. */
static int find_port(lcr_engine *engine, size_t i) {
    const lcr_tensor *tensor = &engine->tensors[i];
    ov_shape_t shape = {0, NULL};
    ov_element_type_e type = DYNAMIC;
    ov_status_e error = i < LCR_INPUTS
                            ? ov_compiled_model_input_by_name(engine->compiled, tensor->name, &engine->ports[i])
                            : ov_compiled_model_output_by_name(engine->compiled, tensor->name, &engine->ports[i]);
    if (error != OK || ov_port_get_element_type(engine->ports[i], &type) != OK ||
        ov_const_port_get_shape(engine->ports[i], &shape) != OK) {
        return 0;
    }
    const int same = type == (tensor->is_float ? F32 : U8) && shape.rank == (int64_t)tensor->rank &&
                     memcmp(shape.dims, tensor->shape, tensor->rank * sizeof *tensor->shape) == 0;
    ov_shape_free(&shape);
    return same && ov_shape_create((int64_t)tensor->rank, tensor->shape, &engine->shapes[i]) == OK;
}

static lcr_status find_ports(lcr_engine *engine, const lcr_why *why) {
    size_t inputs = 0, outputs = 0, wanted = 0;
    for (size_t i = 0; i < LCR_TENSORS; i++) {
        wanted += engine->tensors[i].rank > 0;
        if (engine->tensors[i].rank > 0 && !find_port(engine, i)) {
            return lcr_say(why, LCR_FORMAT, "the model's %s is not that of its manifest; export the bundle again",
                engine->tensors[i].name);
        }
    }
    if (ov_compiled_model_inputs_size(engine->compiled, &inputs) != OK ||
        ov_compiled_model_outputs_size(engine->compiled, &outputs) != OK || inputs + outputs != wanted) {
        return lcr_say(why, LCR_FORMAT, "the model has other tensors than its manifest; export the bundle again");
    }
    return LCR_OK;
}

lcr_status lcr_engine_open(
    lcr_bundle *bundle, const lcr_tensor tensors[LCR_TENSORS], int threads, lcr_engine **engine, const lcr_why *why) {
    lcr_engine *made = calloc(1, sizeof *made);
    if (made == NULL) {
        return lcr_say(why, LCR_MEMORY, "there is no memory for a model");
    }
    *engine = made;
    made->tensors = tensors;
    made->threads = threads;
    name_engine(made);
    made->seats = calloc((size_t)threads, sizeof(seat));
    if (made->seats == NULL) {
        return lcr_say(why, LCR_MEMORY, "there is no memory for %d steps at the same time", threads);
    }
    if (bundle->files != 2) {
        return lcr_say(why, LCR_FORMAT, "a bundle for openvino has two model files; export it again");
    }
    lcr_status status = compile(made, bundle, why);
    status = status == LCR_OK ? find_ports(made, why) : status;
    for (int i = 0; i < threads && status == LCR_OK; i++) {
        status = checked(made, ov_compiled_model_create_infer_request(made->compiled, &made->seats[i].request), why,
            "make a request");
    }
    return status;
}

/* Makes the place's tensor wrap this memory, and its request use it. */
static ov_status_e wrap(lcr_engine *engine, seat *mine, size_t i, void *data) {
    if (mine->values[i] != NULL && mine->data[i] == data) {
        return OK;
    }
    ov_tensor_free(mine->values[i]);
    mine->values[i] = NULL;
    mine->data[i] = data;
    ov_status_e error = ov_tensor_create_from_host_ptr(
        engine->tensors[i].is_float ? F32 : U8, engine->shapes[i], data, &mine->values[i]);
    if (error == OK) {
        error = ov_infer_request_set_tensor_by_const_port(mine->request, engine->ports[i], mine->values[i]);
    }
    if (error != OK) {
        ov_tensor_free(mine->values[i]);
        mine->values[i] = NULL;
    }
    return error;
}

lcr_status lcr_engine_step(lcr_engine *engine, int place, void *const data[LCR_TENSORS]) {
    seat *mine = &engine->seats[place];
    ov_status_e error = OK;
    for (size_t i = 0; i < LCR_TENSORS && error == OK; i++) {
        error = engine->tensors[i].rank > 0 ? wrap(engine, mine, i, data[i]) : OK;
    }
    error = error == OK ? ov_infer_request_infer(mine->request) : error;
    return error == OK ? LCR_OK : LCR_ENGINE;
}

const char *lcr_engine_name(const lcr_engine *engine) {
    return engine->name;
}

void lcr_engine_close(lcr_engine *engine) {
    if (engine == NULL) {
        return;
    }
    for (int place = 0; engine->seats != NULL && place < engine->threads; place++) {
        ov_infer_request_free(engine->seats[place].request);
        for (size_t i = 0; i < LCR_TENSORS; i++) {
            ov_tensor_free(engine->seats[place].values[i]);
        }
    }
    for (size_t i = 0; i < LCR_TENSORS; i++) {
        ov_output_const_port_free(engine->ports[i]);
        if (engine->shapes[i].dims != NULL) {
            ov_shape_free(&engine->shapes[i]);
        }
    }
    ov_compiled_model_free(engine->compiled);
    ov_model_free(engine->model);
    ov_tensor_free(engine->weights);
    free(engine->seats);
    free(engine);
}
