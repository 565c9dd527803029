// Entry points of the WKV kernel. Compiled three ways, with WKV_IO (Float32, BFloat16, Float16) and WKV_DIM (16, 32,
// 64) defined:
//     NVRTC            the __global__ functions; torch launches them
//     nvcc             the same and wkv_launch, a C function that launches them
//     a C++ compiler   wkv_launch alone, in which loops take the place of the grid: what the tests without a GPU call
// WKV_ENTRY, where defined, leaves only the entry of that number: NVRTC compiles them one by one, when first used.
#include "wkv_scan.h"

namespace {

using IO = wkv::WKV_IO;
using Raw = IO::Raw;
using Args = wkv::Args<Raw>;
constexpr int kDim = WKV_DIM, kBlock = wkv::Shape<WKV_DIM>::kBlock;

}  // namespace

#define WKV_PARAMETERS                                                                                                \
    const Raw *vec, const Raw *own, const Raw *query, const Raw *partner, const float *log_w, const float *bonus,     \
        float *states, float *scratch, Raw *out, float *sums, int heads, int tokens, int chunk_tokens, int state_m,   \
        int state_line, int vec_b, int vec_h, int vec_n, int own_b, int own_h, int own_n, int query_b, int query_h,   \
        int query_n, int partner_b, int partner_h, int partner_n, int out_b, int out_h, int out_n
#define WKV_ARGS                                                                                                      \
    Args {                                                                                                            \
        vec, own, query, partner, log_w, bonus, states, scratch, out, sums, heads, tokens, chunk_tokens, state_m,     \
            state_line, {vec_b, vec_h, vec_n}, {own_b, own_h, own_n}, {query_b, query_h, query_n},                    \
            {partner_b, partner_h, partner_n}, {out_b, out_h, out_n}                                                  \
    }

// X(number, name, rows, tangent, read)
#define WKV_ENTRIES(X)                              \
    X(0, wkv_columns, false, false, true)           \
    X(1, wkv_rows, true, false, true)               \
    X(2, wkv_rows_tangent, true, true, true)        \
    X(3, wkv_columns_state, false, false, false)    \
    X(4, wkv_rows_tangent_state, true, true, false)

#if defined(__CUDACC__)

namespace {

// One thread a lane; every phase ends at a barrier.
template <class Lane>
struct Team {
    Lane lane;
    template <class Phase>
    __device__ __forceinline__ void each(Phase phase) {
        phase(lane, static_cast<int>(threadIdx.x));
        __syncthreads();
    }
};

}  // namespace

#define WKV_KERNEL(number, name, rows, tangent, read)                                                     \
    extern "C" __global__ void __launch_bounds__(kBlock) name(WKV_PARAMETERS) {                         \
        __shared__ wkv::Shared<kDim> shared;                                                              \
        Team<wkv::Lane<IO, kDim, rows, tangent>> team;                                                          \
        wkv::sweep<IO, kDim, rows, tangent, read>(team, shared, WKV_ARGS, static_cast<int>(blockIdx.x),   \
                                                  static_cast<int>(blockIdx.y), static_cast<int>(gridDim.y)); \
    }

#if defined(WKV_ENTRY)
#define WKV_ONE(number, name, rows, tangent, read) WKV_IF_##number(WKV_KERNEL(number, name, rows, tangent, read))
#define WKV_IF_0(...)
#define WKV_IF_1(...)
#define WKV_IF_2(...)
#define WKV_IF_3(...)
#define WKV_IF_4(...)
#if WKV_ENTRY == 0
#undef WKV_IF_0
#define WKV_IF_0(...) __VA_ARGS__
#elif WKV_ENTRY == 1
#undef WKV_IF_1
#define WKV_IF_1(...) __VA_ARGS__
#elif WKV_ENTRY == 2
#undef WKV_IF_2
#define WKV_IF_2(...) __VA_ARGS__
#elif WKV_ENTRY == 3
#undef WKV_IF_3
#define WKV_IF_3(...) __VA_ARGS__
#else
#undef WKV_IF_4
#define WKV_IF_4(...) __VA_ARGS__
#endif
WKV_ENTRIES(WKV_ONE)
#else
WKV_ENTRIES(WKV_KERNEL)
#endif

#if !defined(__CUDACC_RTC__)
#include <cuda_runtime.h>

// Returns a cudaError_t. arguments: pointers to the values of WKV_PARAMETERS, in that order.
extern "C" int wkv_launch(int entry, int streams, int chunks, void** arguments, int device, void* cuda_stream) {
    const cudaError_t set = cudaSetDevice(device);
    if (set != cudaSuccess) return set;
    const dim3 grid(streams, chunks), block(kBlock);
    const cudaStream_t stream = static_cast<cudaStream_t>(cuda_stream);
    switch (entry) {
#define WKV_CASE(number, name, rows, tangent, read) \
    case number:                                    \
        return cudaLaunchKernel(reinterpret_cast<const void*>(&name), grid, block, arguments, 0, stream);
        WKV_ENTRIES(WKV_CASE)
    }
    return cudaErrorInvalidValue;
}

extern "C" const char* wkv_error(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }
#endif

#else  // a C++ compiler

#include <vector>

namespace {

// All lanes of a block, one after the other, from the first to the last or from the last to the first: a result that
// depends on the order has a barrier missing.
template <class Lane>
struct Team {
    std::vector<Lane> lanes;
    bool descending;
    template <class Phase>
    void each(Phase phase) {
        const int count = static_cast<int>(lanes.size());
        for (int n = 0; n < count; ++n) {
            const int index = descending ? count - 1 - n : n;
            phase(lanes[static_cast<size_t>(index)], index);
        }
    }
};

template <bool kRows, bool kTangent, bool kRead>
void run(const Args& args, int streams, int chunks, bool descending) {
    using MyLane = wkv::Lane<IO, kDim, kRows, kTangent>;
    for (int stream = 0; stream < streams; ++stream)
        for (int chunk = 0; chunk < chunks; ++chunk) {
            wkv::Shared<kDim> shared;
            Team<MyLane> team{std::vector<MyLane>(kBlock), descending};
            std::memset(&shared, 0xff, sizeof shared);  // NaN: what is read before it is written shows
            std::memset(static_cast<void*>(team.lanes.data()), 0xff, sizeof(MyLane) * team.lanes.size());
            wkv::sweep<IO, kDim, kRows, kTangent, kRead>(team, shared, args, stream, chunk, chunks);
        }
}

template <bool kRows, bool kTangent, bool kRead>
void unpack(int streams, int chunks, void** at, bool descending) {
    int n[20];
    for (int i = 0; i < 20; ++i) n[i] = *static_cast<int*>(at[10 + i]);
    auto raw = [at](int i) { return *static_cast<Raw**>(at[i]); };
    auto real = [at](int i) { return *static_cast<float**>(at[i]); };
    const Args args{raw(0), raw(1), raw(2), raw(3), real(4), real(5), real(6), real(7), raw(8), real(9),
                    n[0],   n[1],   n[2],   n[3],   n[4],    {n[5], n[6], n[7]},        {n[8], n[9], n[10]},
                    {n[11], n[12], n[13]},          {n[14], n[15], n[16]},              {n[17], n[18], n[19]}};
    run<kRows, kTangent, kRead>(args, streams, chunks, descending);
}

}  // namespace

extern "C" int wkv_launch(int entry, int streams, int chunks, void** arguments, int descending, void*) {
    switch (entry) {
#define WKV_CASE(number, name, rows, tangent, read)                               \
    case number:                                                                  \
        unpack<rows, tangent, read>(streams, chunks, arguments, descending != 0); \
        return 0;
        WKV_ENTRIES(WKV_CASE)
    }
    return 1;
}

extern "C" const char* wkv_error(int) { return "no such entry"; }

#endif
