/* Tells the properties with which a model is compiled for OpenVINO, key and value a line, before it is. Linked with
--wrap=ov_core_compile_model by test_engines.py. */

#include <openvino/c/openvino.h>
#include <stdarg.h>
#include <stdio.h>

#define MOST 14

ov_status_e __real_ov_core_compile_model(
    const ov_core_t *core, const ov_model_t *model, const char *device, size_t count,
    ov_compiled_model_t **compiled, ...);
ov_status_e __wrap_ov_core_compile_model(
    const ov_core_t *core, const ov_model_t *model, const char *device, size_t count,
    ov_compiled_model_t **compiled, ...);

ov_status_e __wrap_ov_core_compile_model(
    const ov_core_t *core, const ov_model_t *model, const char *device, size_t count,
    ov_compiled_model_t **compiled, ...) {
    const char *given[MOST] = {NULL};
    va_list rest;
    va_start(rest, compiled);
    for (size_t i = 0; i < count && i < MOST; i++) {
        given[i] = va_arg(rest, const char *);
    }
    va_end(rest);
    for (size_t i = 0; i + 1 < count; i += 2) {
        printf("%s=%s\n", given[i], given[i + 1]);
    }
    return __real_ov_core_compile_model(core, model, device, count, compiled, given[0], given[1], given[2], given[3],
        given[4], given[5], given[6], given[7], given[8], given[9], given[10], given[11], given[12], given[13]);
}
