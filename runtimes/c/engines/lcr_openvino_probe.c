/* x86 processors with AVX2 or AVX-512 but without VNNI add two products of a uint8 and an int8 in 16 bits, where large
ones stop at 32767. The model here multiplies ones, rounded to uint8, with a matrix of ones, stored as int8: each sum
must be the number of columns. It is the one of ``saturates`` in runtimes/openvino_engine.py. */

#include "lcr_openvino.h"

#include <string.h>

#define SIZE 64

/* Parts of OpenVINO's model format: a port of numbers in a shape, a constant, and what leads from where to where. */
#define PORT(id, type, dims) "<port id=\"" id "\" precision=\"" type "\">" dims "</port>"
#define ROW "<dim>1</dim><dim>64</dim>"
#define SQUARE "<dim>64</dim><dim>64</dim>"
#define LAYER(id, type) "<layer id=\"" id "\" name=\"" type id "\" type=\"" type "\" version=\"opset1\">"
#define CONSTANT(id, type, shape, offset, size, port)                                                                  \
    LAYER(id, "Const") "<data element_type=\"" type "\" shape=\"" shape "\" offset=\"" offset "\" size=\"" size "\"/>" \
                       "<output>" port "</output></layer>"
#define EDGE(from, from_port, to, to_port)                                                                        \
    "<edge from-layer=\"" from "\" from-port=\"" from_port "\" to-layer=\"" to "\" to-port=\"" to_port "\"/>"

static const char network[] =
    "<?xml version=\"1.0\"?><net name=\"saturates\" version=\"11\"><layers>"
    LAYER("0", "Parameter") "<data shape=\"1,64\" element_type=\"f32\"/><output>" PORT("0", "FP32", ROW)
    "</output></layer>"
    CONSTANT("1", "f32", "", "0", "4", PORT("0", "FP32", ""))
    CONSTANT("2", "f32", "", "4", "4", PORT("0", "FP32", ""))
    LAYER("3", "FakeQuantize") "<data levels=\"256\" auto_broadcast=\"numpy\"/><input>" PORT("0", "FP32", ROW)
    PORT("1", "FP32", "") PORT("2", "FP32", "") PORT("3", "FP32", "") PORT("4", "FP32", "") "</input><output>"
    PORT("5", "FP32", ROW) "</output></layer>"
    CONSTANT("4", "i8", "64,64", "12", "4096", PORT("0", "I8", SQUARE))
    LAYER("5", "Convert") "<data destination_type=\"f32\"/><input>" PORT("0", "I8", SQUARE) "</input><output>"
    PORT("1", "FP32", SQUARE) "</output></layer>"
    CONSTANT("6", "f32", "", "8", "4", PORT("0", "FP32", ""))
    LAYER("7", "Multiply") "<data auto_broadcast=\"numpy\"/><input>" PORT("0", "FP32", SQUARE) PORT("1", "FP32", "")
    "</input><output>" PORT("2", "FP32", SQUARE) "</output></layer>"
    LAYER("8", "MatMul") "<data transpose_a=\"false\" transpose_b=\"true\"/><input>" PORT("0", "FP32", ROW)
    PORT("1", "FP32", SQUARE) "</input><output>" PORT("2", "FP32", ROW) "</output></layer>"
    LAYER("9", "Result") "<input>" PORT("0", "FP32", ROW) "</input></layer></layers><edges>"
    EDGE("0", "0", "3", "0") EDGE("1", "0", "3", "1") EDGE("2", "0", "3", "2") EDGE("1", "0", "3", "3")
    EDGE("2", "0", "3", "4") EDGE("3", "5", "8", "0") EDGE("4", "0", "5", "0") EDGE("5", "1", "7", "0")
    EDGE("6", "0", "7", "1") EDGE("7", "2", "8", "1") EDGE("8", "2", "9", "0")
    "</edges></net>";

/* A tensor over this memory; with one axis if rows is 0. */
static ov_status_e wrap(ov_element_type_e type, int64_t rows, int64_t columns, void *data, ov_tensor_t **tensor) {
    const int64_t both[] = {rows, columns};
    ov_shape_t shape = {0, NULL};
    ov_status_e error = ov_shape_create(rows == 0 ? 1 : 2, rows == 0 ? both + 1 : both, &shape);
    if (error == OK) {
        error = ov_tensor_create_from_host_ptr(type, shape, data, tensor);
        ov_shape_free(&shape);
    }
    return error;
}

int lcr_openvino_saturates(ov_core_t *core) {
    const float scalars[] = {0.0f, 1.0f, 1.0f / 127.0f};
    unsigned char weights[sizeof scalars + (size_t)SIZE * SIZE];
    float ones[SIZE], sums[SIZE] = {0.0f};
    ov_tensor_t *stored = NULL, *given = NULL, *made = NULL;
    ov_model_t *model = NULL;
    ov_compiled_model_t *compiled = NULL;
    ov_infer_request_t *request = NULL;
    memcpy(weights, scalars, sizeof scalars);
    memset(weights + sizeof scalars, 127, (size_t)SIZE * SIZE);
    for (size_t i = 0; i < SIZE; i++) {
        ones[i] = 1.0f;
    }
    ov_status_e error = wrap(U8, 0, (int64_t)sizeof weights, weights, &stored);
    error = error == OK ? wrap(F32, 1, SIZE, ones, &given) : error;
    error = error == OK ? wrap(F32, 1, SIZE, sums, &made) : error;
    error = error == OK ? ov_core_read_model_from_memory_buffer(core, network, sizeof network - 1, stored, &model)
                        : error;
    error = error == OK ? ov_core_compile_model(core, model, "CPU", 4, &compiled, "INFERENCE_PRECISION_HINT", "f32",
                              "INFERENCE_NUM_THREADS", "1")
                        : error;
    error = error == OK ? ov_compiled_model_create_infer_request(compiled, &request) : error;
    error = error == OK ? ov_infer_request_set_input_tensor_by_index(request, 0, given) : error;
    error = error == OK ? ov_infer_request_set_output_tensor_by_index(request, 0, made) : error;
    error = error == OK ? ov_infer_request_infer(request) : error;
    ov_infer_request_free(request);
    ov_compiled_model_free(compiled);
    ov_model_free(model);
    ov_tensor_free(made);
    ov_tensor_free(given);
    ov_tensor_free(stored);
    for (size_t i = 0; i < SIZE && error == OK; i++) {
        if (!(sums[i] > 0.99f * SIZE && sums[i] < 1.01f * SIZE)) {
            return 1;
        }
    }
    return error != OK;
}
