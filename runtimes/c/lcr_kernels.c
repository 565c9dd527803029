/* Which products and rows of numbers this processor computes with what: AVX-512 or AVX2 on x86-64, asked for at run
time; NEON where the compiler has it; plain C everywhere. */

#include "lcr_internal.h"

#include <math.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define LCR_X86 1
#elif defined(__aarch64__) && defined(__ARM_NEON)
#include <arm_neon.h>
#define LCR_NEON 1
#endif

#define LANES 16u
#define PIECE 128u

static float lcr_join(const float parts[LANES]) {
    float halves[LANES / 2];
    for (size_t i = 0; i < LANES / 2; i++) {
        halves[i] = parts[i] + parts[i + LANES / 2];
    }
    for (size_t half = LANES / 4; half > 0; half /= 2) {
        for (size_t i = 0; i < half; i++) {
            halves[i] += halves[i + half];
        }
    }
    return halves[0];
}

#ifdef __GNUC__
typedef float lcr_four __attribute__((vector_size(16), aligned(4), may_alias));
#define BLOCK lcr_four
#define BLOCKS 2
#define NOTHING ((lcr_four){0.0f})
#else
#define BLOCK float
#define BLOCKS 1
#define NOTHING 0.0f
#endif
#define NAME(function) function##_plain
#define TARGET
#include "lcr_rows.inc"

#ifdef LCR_X86
typedef float lcr_eight __attribute__((vector_size(32), aligned(4), may_alias));
#define BLOCK lcr_eight
#define BLOCKS 2
#define NOTHING ((lcr_eight){0.0f})
#define NAME(function) function##_avx2
#define TARGET __attribute__((target("avx2")))
#include "lcr_rows.inc"

typedef float lcr_sixteen __attribute__((vector_size(64), aligned(4), may_alias));
#define BLOCK lcr_sixteen
#define BLOCKS 2
#define NOTHING ((lcr_sixteen){0.0f})
#define NAME(function) function##_avx512
#ifdef __clang__
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#else /* GCC takes half of the registers' width unless it is told */
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")))
#endif
#include "lcr_rows.inc"
#endif

#undef LANES

#ifdef __GNUC__
/* Four lanes fit the smallest vector registers there are; without any, the compiler takes them apart. */
#define VECTOR lcr_four
#define LANES 4
#define ROWS 5
#define VECTORS 2
#define ZERO() ((lcr_four){0.0f, 0.0f, 0.0f, 0.0f})
#define LOAD(place) (*(const lcr_four *)(place))
#define STORE(place, value) (*(lcr_four *)(place) = (value))
#define SPREAD(value) ((lcr_four){(value), (value), (value), (value)})
#else
#define VECTOR float
#define LANES 1
#define ROWS 4
#define VECTORS 4
#define ZERO() 0.0f
#define LOAD(place) (*(place))
#define STORE(place, value) (*(place) = (value))
#define SPREAD(value) (value)
#endif
#define MULTIPLY_ADD(a, b, c) ((c) + (a) * (b))
#define ADD(a, b) ((a) + (b))
#define NAME(function) function##_plain
#define TARGET
#include "lcr_products.inc"

#ifdef LCR_X86
#define VECTOR __m256
#define LANES 8
#define ROWS 6
#define VECTORS 2
#define ZERO() _mm256_setzero_ps()
#define LOAD(place) _mm256_loadu_ps(place)
#define STORE(place, value) _mm256_storeu_ps(place, value)
#define SPREAD(value) _mm256_set1_ps(value)
#define MULTIPLY_ADD(a, b, c) _mm256_fmadd_ps(a, b, c)
#define ADD(a, b) _mm256_add_ps(a, b)
#define NAME(function) function##_avx2
#define TARGET __attribute__((target("avx2,fma")))
#include "lcr_products.inc"

#define VECTOR __m512
#define LANES 16
#define ROWS 10
#define VECTORS 2
#define ZERO() _mm512_setzero_ps()
#define LOAD(place) _mm512_loadu_ps(place)
#define STORE(place, value) _mm512_storeu_ps(place, value)
#define SPREAD(value) _mm512_set1_ps(value)
#define MULTIPLY_ADD(a, b, c) _mm512_fmadd_ps(a, b, c)
#define ADD(a, b) _mm512_add_ps(a, b)
#define NAME(function) function##_avx512
#define TARGET __attribute__((target("avx512f")))
#include "lcr_products.inc"
#endif

#ifdef LCR_NEON
#define VECTOR float32x4_t
#define LANES 4
#define ROWS 8
#define VECTORS 2
#define ZERO() vdupq_n_f32(0.0f)
#define LOAD(place) vld1q_f32(place)
#define STORE(place, value) vst1q_f32(place, value)
#define SPREAD(value) vdupq_n_f32(value)
#define MULTIPLY_ADD(a, b, c) vfmaq_f32(c, a, b)
#define ADD(a, b) vaddq_f32(a, b)
#define NAME(function) function##_neon
#define TARGET
#include "lcr_products.inc"
#endif

#define KERNELS(name, products, rows) \
    { name, product_##products, normalise_##rows, sigmoid_##rows, gated_##rows, squared_relu_##rows, \
      remember_##rows, wkv_##rows }

static const lcr_kernels plain_kernels = KERNELS("plain C", plain, plain);
#ifdef LCR_X86
static const lcr_kernels avx2_kernels = KERNELS("AVX2", avx2, avx2);
static const lcr_kernels avx512_kernels = KERNELS("AVX-512", avx512, avx512);
#endif
#ifdef LCR_NEON
static const lcr_kernels neon_kernels = KERNELS("NEON", neon, plain);
#endif

const lcr_kernels *lcr_choose_kernels(int plain) {
    if (plain) {
        return &plain_kernels;
    }
#ifdef LCR_X86
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
        return &avx512_kernels;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        return &avx2_kernels;
    }
#endif
#ifdef LCR_NEON
    return &neon_kernels;
#endif
    return &plain_kernels;
}
