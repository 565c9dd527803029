// The arithmetic of the WKV kernel: one sweep over the tokens of a chunk, in both directions, for one head of one
// sequence. README.md beside this file derives it. The same code is compiled for a GPU (nvcc, NVRTC), where every lane
// is a thread, and by a C++ compiler, where a loop runs the lanes one after the other: see the two teams in wkv.cu.
//
// A line of the [D, D] state belongs to D / kWidth lanes, kWidth numbers x[m] each, which no other lane ever needs:
//
//     read[line] = sum_m query_i[m] x[m]           then   x[m] = w x[m] + vec_i[m] own_i[line]
//
// Columns: the line is a column of M = sum_j w^(..) k_j^T v_j, m a channel c, and the decay w[m] differs from m to m.
// Rows: the line is a row, that is a channel c, and has one decay w.
// Tangent (rows only): p[m] = d x[m] / d log w, from p' = w p + w x, read by the same query.
#pragma once

#include "wkv_numbers.h"

namespace wkv {

constexpr int kTile = 8;  // tokens staged at a time

// How many numbers of a line one lane keeps, how many lanes share a line, and how many lanes one direction and a block
// of two directions have.
template <int D>
struct Shape {
    static constexpr int kWidth = D < 64 ? 16 : 32;
    static constexpr int kParts = D / kWidth;
    static constexpr int kLanes = D * kParts;
    static constexpr int kBlock = 2 * kLanes;
    static_assert(D % kWidth == 0 && kTile % kParts == 0, "D is 16, 32 or 64");
};

struct Strides {
    int batch, head, token;  // in elements; the channels lie side by side
};

// All that one launch needs. Pointers that a mode does not use are never read.
template <class Raw>
struct Args {
    const Raw* vec;        // [B, h, N, D], broadcast: read along the line
    const Raw* own;        // [B, h, N, D], one number a line
    const Raw* query;      // [B, h, N, D], broadcast
    const Raw* partner;    // [B, h, N, D], tangent mode: what the sums are weighted with
    const float* log_w;    // [h, D]
    const float* bonus;    // [h, D], u
    float* states;         // [B h, 2, chunks, 1 or 2 (tangent), D, D], what each chunk alone leaves behind
    float* scratch;        // laid out as out: the sum of the direction that comes first
    Raw* out;              // [B, h, N, D]
    float* sums;           // [B h, chunks, 2, kParts, 2, D], tangent mode: parts of d log_w and of d u
    int heads, tokens, chunk_tokens, state_m, state_line;  // the last two: strides of a state, along and across lines
    Strides vec_at, own_at, query_at, partner_at, out_at;
};

struct alignas(16) Four {
    float at[4];
};

// Shared by the lanes of a block. Rows are padded so that lanes that read one row each meet different banks.
template <int D>
struct Shared {
    alignas(16) float vec[2][kTile][D + 4];
    alignas(16) float query[2][kTile][D + 4];
    float own[2][kTile][D];
    float partner[2][kTile][D];
    float read[2][Shape<D>::kParts][kTile][D];
    float dot[2][kTile];
    float decay[D], carry[D], bonus[D];
};

template <class IO, int D, bool kRows, bool kTangent>
struct Lane {
    float x[Shape<D>::kWidth];                         // its part of the state
    float p[kTangent ? Shape<D>::kWidth : 1];          // and of the tangent
    float w[kRows ? 1 : Shape<D>::kWidth];             // decays
    float sum_decay, sum_bonus;                        // tangent: parts of d log_w, d u
    typename IO::Raw next[4][kTile / Shape<D>::kParts];  // loaded for the next tile while this one is computed
};

// Which direction, part of a line and line a lane of a block works for.
template <int D>
struct Place {
    int direction, part, line;
    explicit WKV_FN Place(int index)
        : direction(index / Shape<D>::kLanes), part(index % Shape<D>::kLanes / D), line(index % D) {}
};

// The tokens that one direction visits in one tile. Forward takes the first half of the chunk, then the second;
// backward the other way round, so each token's first visit is over, behind a barrier, before its second.
struct Span {
    int first, count;  // steps, counted from the direction's own end of the chunk
    bool second;       // the other direction has been here
};

WKV_FN Span span_of(int tile, int tiles_per_half, int direction, int length) {
    const int half = direction == 0 ? (length + 1) / 2 : length / 2;
    const bool second = tile >= tiles_per_half;
    const int begin = second ? half : 0, end = second ? length : half;
    const int first = begin + (second ? tile - tiles_per_half : tile) * kTile;
    const int left = end - first;
    return Span{first, left < 0 ? 0 : (left < kTile ? left : kTile), second};
}

// One chunk of one head of one sequence. kRead: read the states and write `out` (and `sums`), starting from what the
// other chunks left in `states`; otherwise start from zero and write `states`. team.each(phase) runs a phase on all
// lanes and then lets each see what the others wrote.
template <class IO, int D, bool kRows, bool kTangent, bool kRead, class Team>
WKV_FN void sweep(Team& team, Shared<D>& shared, const Args<typename IO::Raw>& args, int stream, int chunk,
                  int chunks) {
    static_assert(kRows || !kTangent, "the tangent is local to a lane only where the line is a channel");
    using Raw = typename IO::Raw;
    using MyLane = Lane<IO, D, kRows, kTangent>;
    constexpr int kWidth = Shape<D>::kWidth, kParts = Shape<D>::kParts, kStates = kTangent ? 2 : 1;
    constexpr int kSources = kRead ? (kTangent ? 4 : 3) : 2;
    const int head = stream % args.heads;
    const long long batch = stream / args.heads;
    const int begin = chunk * args.chunk_tokens;
    const int length = args.tokens - begin < args.chunk_tokens ? args.tokens - begin : args.chunk_tokens;
    const int tiles_per_half = ((length + 1) / 2 + kTile - 1) / kTile;

    auto offset = [=](const Strides& at, int direction, int step) {
        const long long token = begin + (direction == 0 ? step : length - 1 - step);
        return batch * at.batch + static_cast<long long>(head) * at.head + token * at.token;
    };
    auto state_of = [=](const Place<D>& place, int of_chunk) {
        const long long number = (static_cast<long long>(stream) * 2 + place.direction) * chunks + of_chunk;
        return args.states + number * kStates * D * D + place.part * kWidth * args.state_m +
               place.line * args.state_line;
    };
    auto load = [&](MyLane& lane, const Place<D>& place, int tile) {
        const Span span = span_of(tile, tiles_per_half, place.direction, length);
        const Raw* sources[4] = {args.vec, args.own, args.query, args.partner};
        const Strides strides[4] = {args.vec_at, args.own_at, args.query_at, args.partner_at};
        WKV_UNROLL
        for (int a = 0; a < kSources; ++a) {
            WKV_UNROLL
            for (int n = 0; n < kTile / kParts; ++n) {
                const int t = n * kParts + place.part;
                lane.next[a][n] = 0;  // the bits of 0.0 in all three formats
                if (t < span.count)
                    lane.next[a][n] = sources[a][offset(strides[a], place.direction, span.first + t) + place.line];
            }
        }
    };

    team.each([&](MyLane& lane, int index) {
        const Place<D> place(index);
        if (index < D) {
            const double log_w = args.log_w[head * D + index];
            // In double: an error of w is raised to the power of the distance.
            shared.decay[index] = static_cast<float>(exp(log_w));
            shared.carry[index] = static_cast<float>(exp(log_w * args.chunk_tokens));
            shared.bonus[index] = kRead ? args.bonus[head * D + index] : 0.0f;
        }
        load(lane, place, 0);
    });

    team.each([&](MyLane& lane, int index) {
        const Place<D> place(index);
        lane.sum_decay = lane.sum_bonus = 0.0f;
        WKV_UNROLL
        for (int m = 0; m < kWidth; ++m) {
            lane.x[m] = 0.0f;
            if (kTangent) lane.p[m] = 0.0f;
            if (!kRows || m == 0) lane.w[m] = shared.decay[kRows ? place.line : place.part * kWidth + m];
        }
        if (!kRead) return;
        // The state on entry: what the chunks before this one, in this direction, left behind, each carried on.
        const int way = place.direction == 0 ? 1 : -1;
        for (int from = place.direction == 0 ? 0 : chunks - 1; from != chunk; from += way) {
            const float* state = state_of(place, from);
            WKV_UNROLL
            for (int m = 0; m < kWidth; ++m) {
                const float carry = shared.carry[kRows ? place.line : place.part * kWidth + m];
                const float moved = carry * lane.x[m];
                if (kTangent)
                    lane.p[m] = carry * lane.p[m] + static_cast<float>(args.chunk_tokens) * moved +
                                state[D * D + m * args.state_m];
                lane.x[m] = moved + state[m * args.state_m];
            }
        }
    });

    for (int tile = 0; tile < 2 * tiles_per_half; ++tile) {
        team.each([&](MyLane& lane, int index) {
            const Place<D> place(index);
            WKV_UNROLL
            for (int n = 0; n < kTile / kParts; ++n) {
                const int t = n * kParts + place.part;
                shared.vec[place.direction][t][place.line] = IO::decode(lane.next[0][n]);
                shared.own[place.direction][t][place.line] = IO::decode(lane.next[1][n]);
                if (kRead) shared.query[place.direction][t][place.line] = IO::decode(lane.next[2][n]);
                if (kRead && kTangent) shared.partner[place.direction][t][place.line] = IO::decode(lane.next[3][n]);
            }
        });

        team.each([&](MyLane& lane, int index) {
            const Place<D> place(index);
            const int direction = place.direction;
            const Span span = span_of(tile, tiles_per_half, direction, length);
            if (tile + 1 < 2 * tiles_per_half) load(lane, place, tile + 1);
            for (int t = 0; t < span.count; ++t) {
                const float own = shared.own[direction][t][place.line];
                float read[4] = {0.0f, 0.0f, 0.0f, 0.0f}, read_p[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                WKV_UNROLL
                for (int m = 0; m < kWidth; m += 4) {
                    const int at = place.part * kWidth + m;
                    const Four vec = *reinterpret_cast<const Four*>(&shared.vec[direction][t][at]);
                    Four query = {};
                    if (kRead) query = *reinterpret_cast<const Four*>(&shared.query[direction][t][at]);
                    WKV_UNROLL
                    for (int e = 0; e < 4; ++e) {
                        const float w = lane.w[kRows ? 0 : m + e], faded = w * lane.x[m + e];
                        if (kRead) read[e] += query.at[e] * lane.x[m + e];
                        if (kTangent) {
                            if (kRead) read_p[e] += query.at[e] * lane.p[m + e];
                            lane.p[m + e] = w * lane.p[m + e] + faded;
                        }
                        lane.x[m + e] = vec.at[e] * own + faded;
                    }
                }
                if (kRead)
                    shared.read[direction][place.part][t][place.line] = (read[0] + read[1]) + (read[2] + read[3]);
                if (kRead && kTangent)
                    lane.sum_decay += shared.partner[direction][t][place.line] *
                                      ((read_p[0] + read_p[1]) + (read_p[2] + read_p[3]));
            }
            // The token itself, on its second visit: query . vec, with u inside (columns) or outside (rows).
            const int t = index % Shape<D>::kLanes;
            if (kRead && span.second && t < span.count) {
                float dot = 0.0f;
                for (int m = 0; m < D; ++m) {
                    const float product = shared.query[direction][t][m] * shared.vec[direction][t][m];
                    dot += kRows ? product : shared.bonus[m] * product;
                }
                shared.dot[direction][t] = dot;
            }
        });

        if (kRead)
            team.each([&](MyLane& lane, int index) {
                const Place<D> place(index);
                const int direction = place.direction, line = place.line;
                const Span span = span_of(tile, tiles_per_half, direction, length);
                for (int t = place.part; t < span.count; t += kParts) {
                    float sum = 0.0f;
                    WKV_UNROLL
                    for (int part = 0; part < kParts; ++part) sum += shared.read[direction][part][t][line];
                    const long long at = offset(args.out_at, direction, span.first + t) + line;
                    if (!span.second) {
                        args.scratch[at] = sum;
                        continue;
                    }
                    const float itself = shared.own[direction][t][line] * shared.dot[direction][t];
                    if (kTangent) lane.sum_bonus += shared.partner[direction][t][line] * itself;
                    args.out[at] = IO::encode(sum + args.scratch[at] + (kRows ? shared.bonus[line] * itself : itself));
                }
            });
    }

    team.each([&](MyLane& lane, int index) {
        const Place<D> place(index);
        if (!kRead) {
            float* state = state_of(place, chunk);
            WKV_UNROLL
            for (int m = 0; m < kWidth; ++m) {
                state[m * args.state_m] = lane.x[m];
                if (kTangent) state[D * D + m * args.state_m] = lane.p[m];
            }
        } else if (kTangent) {
            const long long block = static_cast<long long>(stream) * chunks + chunk;
            float* sums = args.sums + ((block * 2 + place.direction) * kParts + place.part) * 2 * D + place.line;
            sums[0] = lane.sum_decay;
            sums[D] = lane.sum_bonus;
        }
    });
}

}  // namespace wkv
