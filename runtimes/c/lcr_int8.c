/* Products of whole numbers: 16-bit rows times int8 weights or, where a processor multiplies bytes, 8-bit rows.

Four weights of a column lie side by side, in the order 0, 2, 1, 3. As 16-bit numbers the even bytes of such a word are
then the weights of values 0 and 1, and the odd ones those of 2 and 3, in the order in which the values lie.

Sums of whole numbers are exact, and all else is computed in one order and without fused products, so every processor
gets the same bits. */

#include "lcr_internal.h"

#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define LCR_X86 1
#elif defined(__aarch64__) && defined(__ARM_NEON) && defined(__GNUC__)
#include <arm_neon.h>
#define LCR_NEON 1
#ifdef __linux__
#include <sys/auxv.h>
#define LCR_DOT 1
#endif
#elif defined(__ARM_FEATURE_SIMD32) && defined(__GNUC__) /* not NEON of 32 bits: its floats lose small numbers */
#include <arm_acle.h>
#define LCR_DSP 1
#endif

#ifdef __GNUC__
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

/* Bytes of a panel's words of weights. */
#define LINE (LCR_WORD * LCR_PANEL)
/* Values of a row that its range is searched in side by side. */
#define LANES_OF_A_ROW 16u
/* No grid is finer than one of a row with this range. */
#define LEAST_RANGE 1e-6f

/* rint(x) for |x| < 2^22: the bits behind the point leave the sum. */
#define WHOLE(x) (((x) + 12582912.0f) - 12582912.0f)

INLINE int32_t load_pair(const int16_t *a) {
    int32_t pair;
    memcpy(&pair, a, sizeof pair);
    return pair;
}

/* ---- Plain C ---- */

#if defined(__GNUC__) && !defined(__SOFTFP__)

/* Four floats multiply faster than whole numbers where a compiler knows no better, and are as exact while the sums are
below 2^24: so many products of 255 or of 8191 with 128. */
#define WHOLE_SUMS 512u
#define WHOLE_SUMS_FINE 16u

typedef float lcr_four __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t lcr_four_words __attribute__((vector_size(16), aligned(4), may_alias));

#define PAIRS four_pairs
#define SUMS four_sums
#define NO_SUMS() ((four_sums){{0.0f}, {0}})
#define CHUNK(matrix) ((matrix)->rounding == LCR_FINE ? WHOLE_SUMS_FINE : WHOLE_SUMS)
#define KEEP(sums) keep_plain(sums)
#define FLOATS lcr_four
#define LANES 4
#define TO_FLOATS(sums) __builtin_convertvector((sums).kept, lcr_four)
#define LOAD(place) (*(const lcr_four *)(place))
#define STORE(place, value) (*(lcr_four *)(place) = (value))
#define SPREAD(value) ((lcr_four){(value), (value), (value), (value)})

typedef struct four_pairs {
    lcr_four first, second;
} four_pairs;

typedef struct four_sums {
    lcr_four sums;
    lcr_four_words kept;
} four_sums;

INLINE four_pairs even_plain(const int8_t *place) {
    const lcr_four_words words = *(const lcr_four_words *)(const void *)place;
    return (four_pairs){
        __builtin_convertvector(words << 24 >> 24, lcr_four), __builtin_convertvector(words << 8 >> 24, lcr_four)};
}

INLINE four_pairs odd_plain(const int8_t *place) {
    const lcr_four_words words = *(const lcr_four_words *)(const void *)place;
    return (four_pairs){
        __builtin_convertvector(words << 16 >> 24, lcr_four), __builtin_convertvector(words >> 24, lcr_four)};
}

INLINE four_pairs spread_plain(const int16_t *a) {
    return (four_pairs){SPREAD((float)a[0]), SPREAD((float)a[1])};
}

INLINE four_sums add_plain(four_sums sums, four_pairs weights, four_pairs a) {
    sums.sums += weights.first * a.first + weights.second * a.second;
    return sums;
}

INLINE four_sums keep_plain(four_sums sums) {
    sums.kept += __builtin_convertvector(sums.sums, lcr_four_words);
    sums.sums = SPREAD(0.0f);
    return sums;
}

#else

typedef struct pair_plain {
    int32_t first, second;
} pair_plain;

INLINE pair_plain even_plain(const int8_t *place) {
    return (pair_plain){place[0], place[2]};
}

INLINE pair_plain odd_plain(const int8_t *place) {
    return (pair_plain){place[1], place[3]};
}

INLINE pair_plain spread_plain(const int16_t *a) {
    return (pair_plain){a[0], a[1]};
}

/* Unsigned, because a file's wrong weights may overflow the sum. */
INLINE uint32_t add_plain(uint32_t sum, pair_plain weights, pair_plain a) {
    return sum + (uint32_t)(weights.first * a.first) + (uint32_t)(weights.second * a.second);
}

#define PAIRS pair_plain
#define SUMS uint32_t
#define NO_SUMS() 0u
#define FLOATS float
#define LANES 1
#define TO_FLOATS(sums) ((float)(int32_t)(sums))
#define LOAD(place) (*(place))
#define STORE(place, value) (*(place) = (value))
#define SPREAD(value) (value)
#endif
#define ROWS 5
#define VECTORS 2
#define TIMES(a, b) ((a) * (b))
#define PLUS(a, b) ((a) + (b))
#define NAME(function) function##_plain
#define TARGET
#include "lcr_int8.inc"

#ifdef LCR_DSP

/* ---- Cortex-M and 32-bit Cortex-A: two products of 16 bits at once ---- */

INLINE int16x2_t even_dsp(const int8_t *place) {
    uint32_t word;
    memcpy(&word, place, sizeof word);
    return __sxtb16((int8x4_t)word);
}

INLINE int16x2_t odd_dsp(const int8_t *place) {
    uint32_t word;
    memcpy(&word, place, sizeof word);
    return __sxtb16((int8x4_t)(word >> 8 | word << 24));
}

INLINE int16x2_t spread_dsp(const int16_t *a) {
    return load_pair(a);
}

INLINE int32_t add_dsp(int32_t sum, int16x2_t weights, int16x2_t a) {
    return __smlad(weights, a, sum);
}

#define NAME(function) function##_dsp
#define TARGET
#define PAIRS int16x2_t
#define SUMS int32_t
#define NO_SUMS() 0
#define FLOATS float
#define LANES 1
#define ROWS 2
#define VECTORS 2
#define TO_FLOATS(sums) ((float)(sums))
#define LOAD(place) (*(place))
#define STORE(place, value) (*(place) = (value))
#define SPREAD(value) (value)
#define TIMES(a, b) ((a) * (b))
#define PLUS(a, b) ((a) + (b))
#include "lcr_int8.inc"
#endif

#ifdef LCR_X86

/* GCC would add the products of two calls first, and run out of registers. */
#define IN_THIS_ORDER(sums) __asm__("" : "+v"(sums))

/* ---- SSE2, which every 64-bit processor has ---- */

INLINE __m128i even_sse2(const int8_t *place) {
    return _mm_srai_epi16(_mm_slli_epi16(_mm_loadu_si128((const __m128i *)(const void *)place), 8), 8);
}

INLINE __m128i odd_sse2(const int8_t *place) {
    return _mm_srai_epi16(_mm_loadu_si128((const __m128i *)(const void *)place), 8);
}

INLINE __m128i spread_sse2(const int16_t *a) {
    return _mm_set1_epi32(load_pair(a));
}

INLINE __m128i add_sse2(__m128i sums, __m128i weights, __m128i a) {
    sums = _mm_add_epi32(sums, _mm_madd_epi16(weights, a));
    IN_THIS_ORDER(sums);
    return sums;
}

#define NAME(function) function##_sse2
#define TARGET
#define PAIRS __m128i
#define SUMS __m128i
#define NO_SUMS() _mm_setzero_si128()
#define FLOATS __m128
#define LANES 4
#define ROWS 4
#define VECTORS 2
#define TO_FLOATS(sums) _mm_cvtepi32_ps(sums)
#define LOAD(place) _mm_loadu_ps(place)
#define STORE(place, value) _mm_storeu_ps(place, value)
#define SPREAD(value) _mm_set1_ps(value)
#define TIMES(a, b) _mm_mul_ps(a, b)
#define PLUS(a, b) _mm_add_ps(a, b)
#include "lcr_int8.inc"

/* ---- AVX2 ---- */

#define AVX2 __attribute__((target("avx2")))

AVX2 INLINE __m256i even_avx2(const int8_t *place) {
    return _mm256_srai_epi16(_mm256_slli_epi16(_mm256_loadu_si256((const __m256i *)(const void *)place), 8), 8);
}

AVX2 INLINE __m256i odd_avx2(const int8_t *place) {
    return _mm256_srai_epi16(_mm256_loadu_si256((const __m256i *)(const void *)place), 8);
}

AVX2 INLINE __m256i spread_avx2(const int16_t *a) {
    return _mm256_set1_epi32(load_pair(a));
}

AVX2 INLINE __m256i add_avx2(__m256i sums, __m256i weights, __m256i a) {
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(weights, a));
    IN_THIS_ORDER(sums);
    return sums;
}

#define NAME(function) function##_avx2
#define TARGET AVX2
#define PAIRS __m256i
#define SUMS __m256i
#define NO_SUMS() _mm256_setzero_si256()
#define FLOATS __m256
#define LANES 8
#define ROWS 5
#define VECTORS 2
#define TO_FLOATS(sums) _mm256_cvtepi32_ps(sums)
#define LOAD(place) _mm256_loadu_ps(place)
#define STORE(place, value) _mm256_storeu_ps(place, value)
#define SPREAD(value) _mm256_set1_ps(value)
#define TIMES(a, b) _mm256_mul_ps(a, b)
#define PLUS(a, b) _mm256_add_ps(a, b)
#include "lcr_int8.inc"

/* ---- AVX-512, without and with products of bytes ---- */

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

AVX512 INLINE __m512i even_avx512(const int8_t *place) {
    return _mm512_srai_epi16(_mm512_slli_epi16(_mm512_loadu_si512((const void *)place), 8), 8);
}

AVX512 INLINE __m512i odd_avx512(const int8_t *place) {
    return _mm512_srai_epi16(_mm512_loadu_si512((const void *)place), 8);
}

AVX512 INLINE __m512i spread_avx512(const int16_t *a) {
    return _mm512_set1_epi32(load_pair(a));
}

AVX512 INLINE __m512i add_avx512(__m512i sums, __m512i weights, __m512i a) {
    sums = _mm512_add_epi32(sums, _mm512_madd_epi16(weights, a));
    IN_THIS_ORDER(sums);
    return sums;
}

#define NAME(function) function##_avx512
#define TARGET AVX512
#define PAIRS __m512i
#define SUMS __m512i
#define NO_SUMS() _mm512_setzero_si512()
#define FLOATS __m512
#define LANES 16
#define ROWS 8
#define VECTORS 2
#define TO_FLOATS(sums) _mm512_cvtepi32_ps(sums)
#define LOAD(place) _mm512_loadu_ps(place)
#define STORE(place, value) _mm512_storeu_ps(place, value)
#define SPREAD(value) _mm512_set1_ps(value)
#define TIMES(a, b) _mm512_mul_ps(a, b)
#define PLUS(a, b) _mm512_add_ps(a, b)
#include "lcr_int8.inc"

#define VNNI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))

VNNI INLINE __m512i multiply_vnni(int32_t word, const int8_t *place, __m512i sums) {
    sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi32(word), _mm512_loadu_si512((const void *)place));
    IN_THIS_ORDER(sums);
    return sums;
}

#define NAME(function) function##_vnni
#define WIDER(function) function##_avx512
#define TARGET VNNI
#define FIRST_BYTE 0
#define SUMS __m512i
#define START(sums, low) _mm512_mullo_epi32(_mm512_loadu_si512((const void *)(sums)), _mm512_set1_epi32(low))
#define MULTIPLY(a, place, sums) multiply_vnni(a, place, sums)
#define FLOATS __m512
#define LANES 16
#define ROWS 10
#define VECTORS 2
#define TO_FLOATS(sums) _mm512_cvtepi32_ps(sums)
#define LOAD(place) _mm512_loadu_ps(place)
#define STORE(place, value) _mm512_storeu_ps(place, value)
#define SPREAD(value) _mm512_set1_ps(value)
#define TIMES(a, b) _mm512_mul_ps(a, b)
#define PLUS(a, b) _mm512_add_ps(a, b)
#include "lcr_int8_bytes.inc"
#endif

#ifdef LCR_NEON

/* ---- 64-bit ARM, without and with products of bytes ---- */

/* Of the first two columns and of the other two. */
typedef struct sums_neon {
    int32x4_t low, high;
} sums_neon;

INLINE int16x8_t even_neon(const int8_t *place) {
    return vshrq_n_s16(vshlq_n_s16(vreinterpretq_s16_s8(vld1q_s8(place)), 8), 8);
}

INLINE int16x8_t odd_neon(const int8_t *place) {
    return vshrq_n_s16(vreinterpretq_s16_s8(vld1q_s8(place)), 8);
}

INLINE int16x8_t spread_neon(const int16_t *a) {
    return vreinterpretq_s16_s32(vdupq_n_s32(load_pair(a)));
}

INLINE sums_neon add_neon(sums_neon sums, int16x8_t weights, int16x8_t a) {
    sums.low = vmlal_s16(sums.low, vget_low_s16(weights), vget_low_s16(a));
    sums.high = vmlal_high_s16(sums.high, weights, a);
    return sums;
}

#define NAME(function) function##_neon
#define TARGET
#define PAIRS int16x8_t
#define SUMS sums_neon
#define NO_SUMS() ((sums_neon){vdupq_n_s32(0), vdupq_n_s32(0)})
#define FLOATS float32x4_t
#define LANES 4
#define ROWS 4
#define VECTORS 2
#define TO_FLOATS(sums) vcvtq_f32_s32(vpaddq_s32((sums).low, (sums).high))
#define LOAD(place) vld1q_f32(place)
#define STORE(place, value) vst1q_f32(place, value)
#define SPREAD(value) vdupq_n_f32(value)
#define TIMES(a, b) vmulq_f32(a, b)
#define PLUS(a, b) vaddq_f32(a, b)
#include "lcr_int8.inc"

#ifdef LCR_DOT
#ifdef __clang__
#define DOT __attribute__((target("dotprod")))
#else
#define DOT __attribute__((target("arch=armv8.2-a+dotprod")))
#endif

#define NAME(function) function##_dot
#define WIDER(function) function##_neon
#define TARGET DOT
#define FIRST_BYTE (-128)
#define SUMS int32x4_t
#define START(sums, low) vmulq_n_s32(vld1q_s32(sums), low)
#define MULTIPLY(a, place, sums) vdotq_s32(sums, vld1q_s8(place), vreinterpretq_s8_s32(vdupq_n_s32(a)))
#define FLOATS float32x4_t
#define LANES 4
#define ROWS 8
#define VECTORS 2
#define TO_FLOATS(sums) vcvtq_f32_s32(sums)
#define LOAD(place) vld1q_f32(place)
#define STORE(place, value) vst1q_f32(place, value)
#define SPREAD(value) vdupq_n_f32(value)
#define TIMES(a, b) vmulq_f32(a, b)
#define PLUS(a, b) vaddq_f32(a, b)
#include "lcr_int8_bytes.inc"
#endif
#endif

#define KERNELS(name, suffix) \
    { name, round_##suffix, product_##suffix }

static const lcr_int8_kernels plain_kernels = KERNELS("plain C", plain);
#ifdef LCR_X86
static const lcr_int8_kernels sse2_kernels = KERNELS("SSE2", sse2);
static const lcr_int8_kernels avx2_kernels = KERNELS("AVX2", avx2);
static const lcr_int8_kernels avx512_kernels = KERNELS("AVX-512", avx512);
static const lcr_int8_kernels vnni_kernels = KERNELS("AVX-512 VNNI", vnni);
#endif
#ifdef LCR_NEON
static const lcr_int8_kernels neon_kernels = KERNELS("NEON", neon);
#ifdef LCR_DOT
static const lcr_int8_kernels dot_kernels = KERNELS("NEON with dot products", dot);
#endif
#endif
#ifdef LCR_DSP
static const lcr_int8_kernels dsp_kernels = KERNELS("DSP instructions", dsp);
#endif

const lcr_int8_kernels *lcr_choose_int8(int plain) {
    if (plain) {
        return &plain_kernels;
    }
#ifdef LCR_X86
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
        return __builtin_cpu_supports("avx512vnni") ? &vnni_kernels : &avx512_kernels;
    }
    return __builtin_cpu_supports("avx2") ? &avx2_kernels : &sse2_kernels;
#elif defined(LCR_DOT)
    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP ? &dot_kernels : &neon_kernels;
#elif defined(LCR_NEON)
    return &neon_kernels;
#elif defined(LCR_DSP)
    return &dsp_kernels;
#else
    return &plain_kernels;
#endif
}
