// The number formats of the WKV kernel's inputs and outputs, without any header of CUDA: NVRTC then needs none.
#pragma once

#if defined(__CUDACC__)
#define WKV_FN __device__ __forceinline__
#define WKV_UNROLL _Pragma("unroll")
#else
#include <cmath>
#include <cstring>
#define WKV_FN inline
#define WKV_UNROLL
#endif

namespace wkv {

// Input and output numbers. Arithmetic is float always; these two functions are all that knows of other formats.
WKV_FN float bits_to_float(unsigned bits) {
#if defined(__CUDACC__)
    return __uint_as_float(bits);
#else
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
#endif
}

WKV_FN unsigned float_to_bits(float value) {
#if defined(__CUDACC__)
    return __float_as_uint(value);
#else
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
#endif
}

struct Float32 {
    using Raw = float;
    static WKV_FN float decode(Raw raw) { return raw; }
    static WKV_FN Raw encode(float value) { return value; }
};

struct BFloat16 {
    using Raw = unsigned short;
    static WKV_FN float decode(Raw raw) { return bits_to_float(static_cast<unsigned>(raw) << 16); }
    static WKV_FN Raw encode(float value) {  // to nearest, ties to even
        const unsigned bits = float_to_bits(value);
        if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<Raw>((bits >> 16) | 0x40u);
        return static_cast<Raw>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
    }
};

struct Float16 {
    using Raw = unsigned short;
#if defined(__CUDACC__)
    static WKV_FN float decode(Raw raw) {
        float value;
        asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(raw));
        return value;
    }
    static WKV_FN Raw encode(float value) {
        Raw raw;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(raw) : "f"(value));
        return raw;
    }
#else
    static WKV_FN float decode(Raw raw) {
        const unsigned sign = (raw & 0x8000u) << 16, exponent = (raw >> 10) & 31u, mantissa = raw & 0x3ffu;
        if (exponent == 31u) return bits_to_float(sign | 0x7f800000u | (mantissa << 13));
        const float size = exponent == 0u ? std::ldexp(static_cast<float>(mantissa), -24)
                                          : bits_to_float(((exponent + 112u) << 23) | (mantissa << 13));
        return bits_to_float(float_to_bits(size) | sign);
    }
    static WKV_FN Raw encode(float value) {  // to nearest, ties to even
        const unsigned bits = float_to_bits(value), sign = (bits >> 16) & 0x8000u, size = bits & 0x7fffffffu;
        if (size > 0x7f800000u) return static_cast<Raw>(sign | 0x7e00u);
        if (size >= 0x477ff000u) return static_cast<Raw>(sign | 0x7c00u);  // 65520 and more
        if (size < 0x38800000u)  // below 2^-14: a whole number of 2^-24
            return static_cast<Raw>(sign | static_cast<unsigned>(std::nearbyint(std::ldexp(bits_to_float(size), 24))));
        return static_cast<Raw>(sign | ((size - 0x38000000u + 0xfffu + ((size >> 13) & 1u)) >> 13));
    }
#endif
};

}  // namespace wkv
