/* Instructions of x86-64 in plain C by SIMDe, for kernels that the machine of a test cannot run. */

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include <string.h>

/* SIMDe gives this name the arguments of another function. */
#undef _mm512_madd_epi16
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16(a, b)

/* SIMDe lacks it. */
static inline simde__m512 _mm512_cvtepi32_ps(simde__m512i a) {
    int32_t whole[16];
    float values[16];
    memcpy(whole, &a, sizeof whole);
    for (int i = 0; i < 16; i++) {
        values[i] = (float)whole[i];
    }
    return simde_mm512_loadu_ps(values);
}

/* The compiler must not use the real instructions either, and has no registers for these. */
#define target(...)
#define __asm__(...)
