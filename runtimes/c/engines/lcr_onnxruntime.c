/* lcr_edge.h over onnxruntime: a session, and for each place the values that wrap the caller's memory. */

#define _POSIX_C_SOURCE 200112L /* setenv */

#include "lcr_engine.h"

#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Everything used here is in this version, so libraries back to it will do. */
#define API_VERSION 11
#if ORT_API_VERSION < API_VERSION
#error "these onnxruntime headers are older than 1.11: take those of the library that you link"
#endif

const char lcr_engine_target[] = "onnx";

/* Tensors of a place, and where the memory is that they wrap. */
typedef struct seat {
    OrtValue *values[LCR_TENSORS];
    void *data[LCR_TENSORS];
} seat;

struct lcr_engine {
    const OrtApi *api;
    OrtEnv *env;
    OrtSession *session;
    OrtMemoryInfo *memory;
    const lcr_tensor *tensors;
    int threads;
    seat *seats;
    char name[64];
};

/* Frees an onnxruntime status after saying what it says. */
static lcr_status checked(const lcr_engine *engine, OrtStatus *error, const lcr_why *why, const char *what) {
    if (error == NULL) {
        return LCR_OK;
    }
    lcr_say(why, LCR_ENGINE, "%s cannot %s: %.300s", engine->name, what, engine->api->GetErrorMessage(error));
    engine->api->ReleaseStatus(error);
    return LCR_ENGINE;
}

/* As runtimes/onnx_engine.py sets them, and for its reasons. */
static OrtStatus *set_options(const OrtApi *api, OrtSessionOptions *options) {
    OrtStatus *error = api->SetIntraOpNumThreads(options, 1);
    error = error == NULL ? api->SetInterOpNumThreads(options, 1) : error;
    error = error == NULL ? api->SetSessionExecutionMode(options, ORT_SEQUENTIAL) : error;
    error = error == NULL ? api->SetSessionLogSeverityLevel(options, ORT_LOGGING_LEVEL_ERROR) : error;
    /* x86 processors without VNNI add two int8 products in 16 bits, which saturates; with this it takes others. */
    return error == NULL ? api->AddSessionConfigEntry(options, "session.x64quantprecision", "1") : error;
}

static lcr_status make_session(lcr_engine *engine, const lcr_bundle *bundle, const lcr_why *why) {
    const OrtApi *api = engine->api;
    OrtSessionOptions *options = NULL;
    OrtStatus *error = api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "lcr_edge", &engine->env);
    error = error == NULL ? api->DisableTelemetryEvents(engine->env) : error;
    error = error == NULL ? api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &engine->memory) : error;
    error = error == NULL ? api->CreateSessionOptions(&options) : error;
    error = error == NULL ? set_options(api, options) : error;
    lcr_status status = checked(engine, error, why, "be set up");
    if (status == LCR_OK) {
        error = api->CreateSessionFromArray(
            engine->env, bundle->content[0], bundle->sizes[0], options, &engine->session);
        status = checked(engine, error, why, "load the model (a newer one may, or export the bundle again)");
    }
    if (options != NULL) {
        api->ReleaseSessionOptions(options);
    }
    return status;
}

/* Whether a tensor of the session is this one. */
static OrtStatus *same_tensor(const lcr_engine *engine, const OrtTypeInfo *type, const lcr_tensor *tensor, int *same) {
    const OrtApi *api = engine->api;
    const OrtTensorTypeAndShapeInfo *info = NULL;
    ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    int64_t shape[LCR_MOST_RANK] = {0};
    const ONNXTensorElementDataType wanted =
        tensor->is_float ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    size_t rank = 0;
    *same = 0;
    OrtStatus *error = api->CastTypeInfoToTensorInfo(type, &info);
    if (error != NULL || info == NULL) {
        return error;
    }
    error = api->GetTensorElementType(info, &element);
    error = error == NULL ? api->GetDimensionsCount(info, &rank) : error;
    if (error == NULL && rank == tensor->rank) {
        error = api->GetDimensions(info, shape, rank);
        *same = error == NULL && element == wanted && memcmp(shape, tensor->shape, rank * sizeof *shape) == 0;
    }
    return error;
}

/* Whether the session has these inputs, or outputs, and no others. */
static lcr_status check_side(const lcr_engine *engine, int inputs, const lcr_why *why) {
    const OrtApi *api = engine->api;
    const size_t first = inputs ? 0 : LCR_INPUTS, behind = inputs ? LCR_INPUTS : LCR_TENSORS;
    OrtAllocator *allocator = NULL;
    size_t count = 0, wanted = 0, matched = 0;
    for (size_t i = first; i < behind; i++) {
        wanted += engine->tensors[i].rank > 0;
    }
    OrtStatus *error = api->GetAllocatorWithDefaultOptions(&allocator);
    if (error == NULL) {
        error = inputs ? api->SessionGetInputCount(engine->session, &count)
                       : api->SessionGetOutputCount(engine->session, &count);
    }
    for (size_t i = 0; error == NULL && i < count; i++) {
        OrtTypeInfo *type = NULL;
        char *name = NULL;
        error = inputs ? api->SessionGetInputName(engine->session, i, allocator, &name)
                       : api->SessionGetOutputName(engine->session, i, allocator, &name);
        if (error == NULL) {
            error = inputs ? api->SessionGetInputTypeInfo(engine->session, i, &type)
                           : api->SessionGetOutputTypeInfo(engine->session, i, &type);
        }
        for (size_t t = first; error == NULL && t < behind; t++) {
            int same = 0;
            if (engine->tensors[t].rank > 0 && strcmp(name, engine->tensors[t].name) == 0) {
                error = same_tensor(engine, type, &engine->tensors[t], &same);
                matched += same != 0;
            }
        }
        if (type != NULL) {
            api->ReleaseTypeInfo(type);
        }
        if (name != NULL) {
            OrtStatus *freed = api->AllocatorFree(allocator, name);
            if (freed != NULL) {
                api->ReleaseStatus(freed);
            }
        }
    }
    if (error != NULL) {
        return checked(engine, error, why, "say what the model's tensors are");
    }
    return count == wanted && matched == wanted
               ? LCR_OK
               : lcr_say(why, LCR_FORMAT, "the %s of the model are not those of its manifest; export the bundle again",
                     inputs ? "inputs" : "outputs");
}

lcr_status lcr_engine_open(
    lcr_bundle *bundle, const lcr_tensor tensors[LCR_TENSORS], int threads, lcr_engine **engine, const lcr_why *why) {
    if (getenv("ORT_DISABLE_TELEMETRY") == NULL) {
        setenv("ORT_DISABLE_TELEMETRY", "1", 0);
    }
    const OrtApiBase *base = OrtGetApiBase();
    lcr_engine *made = calloc(1, sizeof *made);
    if (made == NULL) {
        return lcr_say(why, LCR_MEMORY, "there is no memory for a model");
    }
    *engine = made;
    snprintf(made->name, sizeof made->name, "onnxruntime %.40s", base->GetVersionString());
    made->tensors = tensors;
    made->threads = threads;
    made->api = base->GetApi(API_VERSION);
    if (made->api == NULL) {
        return lcr_say(why, LCR_ENGINE, "%s is older than 1.11: install a newer one", made->name);
    }
    made->seats = calloc((size_t)threads, sizeof(seat));
    if (made->seats == NULL) {
        return lcr_say(why, LCR_MEMORY, "there is no memory for %d steps at the same time", threads);
    }
    lcr_status status = make_session(made, bundle, why);
    status = status == LCR_OK ? check_side(made, 1, why) : status;
    status = status == LCR_OK ? check_side(made, 0, why) : status;
    free(bundle->content[0]); /* the session has a copy of its own */
    bundle->content[0] = NULL;
    return status;
}

/* Makes the place's value of a tensor wrap this memory. */
static OrtStatus *wrap(const lcr_engine *engine, seat *mine, size_t i, void *data) {
    const lcr_tensor *tensor = &engine->tensors[i];
    if (mine->values[i] != NULL && mine->data[i] == data) {
        return NULL;
    }
    if (mine->values[i] != NULL) {
        engine->api->ReleaseValue(mine->values[i]);
        mine->values[i] = NULL;
    }
    mine->data[i] = data;
    return engine->api->CreateTensorWithDataAsOrtValue(engine->memory, data, tensor->bytes, tensor->shape, tensor->rank,
        tensor->is_float ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, &mine->values[i]);
}

lcr_status lcr_engine_step(lcr_engine *engine, int place, void *const data[LCR_TENSORS]) {
    seat *mine = &engine->seats[place];
    const char *names[LCR_TENSORS] = {NULL};
    OrtValue *values[LCR_TENSORS] = {NULL};
    OrtStatus *error = NULL;
    size_t count = 0, inputs = 0;
    for (size_t i = 0; i < LCR_TENSORS && error == NULL; i++) {
        inputs = i == LCR_INPUTS ? count : inputs;
        if (engine->tensors[i].rank > 0) {
            error = wrap(engine, mine, i, data[i]);
            names[count] = engine->tensors[i].name;
            values[count++] = mine->values[i];
        }
    }
    if (error == NULL) {
        error = engine->api->Run(engine->session, NULL, names, (const OrtValue *const *)values, inputs, names + inputs,
            count - inputs, values + inputs);
    }
    if (error != NULL) {
        engine->api->ReleaseStatus(error);
        return LCR_ENGINE;
    }
    return LCR_OK;
}

const char *lcr_engine_name(const lcr_engine *engine) {
    return engine->name;
}

void lcr_engine_close(lcr_engine *engine) {
    if (engine == NULL) {
        return;
    }
    for (int place = 0; engine->seats != NULL && place < engine->threads; place++) {
        for (size_t i = 0; i < LCR_TENSORS; i++) {
            if (engine->seats[place].values[i] != NULL) {
                engine->api->ReleaseValue(engine->seats[place].values[i]);
            }
        }
    }
    if (engine->memory != NULL) {
        engine->api->ReleaseMemoryInfo(engine->memory);
    }
    if (engine->session != NULL) {
        engine->api->ReleaseSession(engine->session);
    }
    if (engine->env != NULL) {
        engine->api->ReleaseEnv(engine->env);
    }
    free(engine->seats);
    free(engine);
}
