// Rate and distortion of macroblocks as mode decisions weigh them: see rate.py.
#pragma once

#include "luma.h"

namespace DC_ISA {
namespace {

// Texture: sums of absolute Hadamard coefficients without DCs, of 4x4 and of 8x8 blocks, of a block of W x W; 4x4 has no 8x8 transform
template <int W> void texture(const uint8_t* p, float& fours, float& eights) {
    if constexpr (W == 4) {
        int32_t v[16], total = 0;
        for (int y = 0; y < 4; y++) {
            const uint8_t* r = p + 4 * y;
            int32_t a = r[0] + r[1], b = r[0] - r[1], c = r[2] + r[3], d = r[2] - r[3];
            v[4 * y] = a + c, v[4 * y + 1] = a - c, v[4 * y + 2] = b + d, v[4 * y + 3] = b - d;
        }
        for (int x = 0; x < 4; x++) {
            int32_t a = v[x] + v[4 + x], b = v[x] - v[4 + x], c = v[8 + x] + v[12 + x], d = v[8 + x] - v[12 + x];
            total += std::abs(a + c) + std::abs(a - c) + std::abs(b + d) + std::abs(b - d);
            if (x == 0) total -= std::abs(a + c);
        }
        fours = 0.5f * (float)total, eights = 0;
    } else {
        static const uint8_t NOTHING[W * W] = {};
        constexpr int B = W / 4;
        int32_t dc[B * B] = {}, sum4 = 0, sum8 = 0;
        for (int y = 0; y < W; y++)
            for (int x = 0; x < W; x++) dc[y / 4 * B + x / 4] += p[W * y + x];
        for (int b = 0; b < B * B; b++) sum4 += dc[b];
        for (int y = 0; y < B; y += 2)
            for (int x = 0; x < B; x += 2) sum8 += dc[B * y + x] + dc[B * y + x + 1] + dc[B * y + x + B] + dc[B * y + x + B + 1];
        fours = 0.5f * (float)(satd2<W>(p, W, NOTHING, W) - sum4), eights = 0.25f * (float)(sa8d4<W>(p, W, NOTHING, W) - sum8);
    }
}

template <int W> DC_INLINE int32_t squared_error(const uint8_t* a, const uint8_t* b) {
    int32_t error = 0;
    for (int k = 0; k < W * W; k++) error += ((int32_t)a[k] - b[k]) * ((int32_t)a[k] - b[k]);
    return error;
}

// A frame's luma coded in one way: type 0: intra 16x16, 1: 8x8 blocks, 2: 4x4 blocks
struct Way {
    int64_t m;
    int type;
    Scratch<float> levels, distortion, cost;  // [m][256], [m], [m]
    Scratch<uint8_t> coded;                   // 4x4 blocks of the frame
    Way(int64_t m, int type) : m(m), type(type), levels(256 * m), distortion(m), cost(m), coded(16 * m) {}

    int kind() const { return type == 1 ? EIGHT : LUMA; }
    // Magnitudes of a macroblock's blocks
    template <int N> DC_INLINE void lanes(int64_t mb, Lanes* v, int lane = 0) const {
        const float* from = levels + 256 * mb;
        for (int b = 0; b < 256 / N; b++)
            for (int i = 0; i < N; i++) v[i][lane + b] = std::fabs(from[N * b + i]);
    }
    void count(const Cabac& cabac, int64_t mb, Seen<CONTEXTS>& to) const {
        const float* from = levels + 256 * mb;
        const int n = type == 1 ? 64 : 16;
        for (int b = 0; b < 256 / n; b++) {
            uint64_t at = 0;
            Lanes v[64];
            for (int i = 0; i < n; i++) at |= (uint64_t)(from[n * b + i] != 0) << i;
            if (!at) continue;
            for (int i = 0; i < n; i++) v[i][0] = std::fabs(from[n * b + i]);
            if (type == 1)
                count_block<64>(cabac, EIGHT, v, 0, at, to);
            else
                count_block<16>(cabac, LUMA, v, 0, at, to);
        }
    }
    // Flags that it has
    bool has(int which) const { return which == PATTERN ? type != 0 : which == FLAG_16X16 ? type == 0 : type == 2; }
};

// What decisions about a frame's macroblocks share
struct Deciding {
    int64_t threads;
    const Call& call;
    int64_t bh, bw, m, w;
    const float *source, *qp, *lam;
    float texture_weight, rate_weight;
    Scratch<uint8_t> yes, no;
    Cabac::Slice slice;
    bool intra;
    Scratch<float> of_source;  // texture of the source [m][2]

    Deciding(int64_t threads, const Call& call, int64_t bh, int64_t bw, const float* source, const float* qp, const float* lam, bool intra, float psy,
             const float* weights)
        : threads(threads), call(call), bh(bh), bw(bw), m(bh * bw), w(16 * bw), source(source), qp(qp), lam(lam), texture_weight(psy * weights[0]),
          rate_weight(weights[1]), yes(bh * bw), no(bh * bw), slice(qp, filled(yes, no, bh * bw, intra), bh * bw), intra(intra), of_source(2 * bh * bw) {
        if (texture_weight != 0)
            parallel(threads, m, 100, [&](int64_t b) {
                alignas(64) uint8_t own[256];
                block_bytes(source + offset(b), w, own, 16, 16);
                texture<16>(own, of_source[2 * b], of_source[2 * b + 1]);
            });
    }
    static const uint8_t* filled(uint8_t* yes, uint8_t* no, int64_t m, bool intra) {
        memset(yes, 1, m), memset(no, 0, m);
        return intra ? yes : no;
    }
    int64_t offset(int64_t i) const { return i / bw * 16 * w + i % bw * 16; }
    FlagMap flags(const Way& way) const { return {way.coded, bh, bw, intra}; }

    void decode(Way& way, const float* predicted, float* decoded) const {
        const uint8_t *is8 = way.type == 1 ? yes : no, *is16 = way.type == 0 ? yes : no, *is_intra = intra ? yes : no;
        Luma luma(call, 0, bh, bw, source, predicted, qp, is_intra, is8, is16);
        States states(1, m, call.quant.trellis);
        luma_states(threads, call, states, 1, bh, bw, source, predicted, qp, is_intra, is8, is16);
        float* levels = way.levels;
        parallel(threads, bh, 4e3 * (double)bw, [&](int64_t row) {
            luma.code_row(row, states.of(0), decoded, way.type == 1 ? nullptr : levels, way.type == 1 ? levels : nullptr, way.coded);
        });
    }
    float lost(const uint8_t* own, int64_t b) const {
        float t[2];
        texture<16>(own, t[0], t[1]);
        return std::fabs(of_source[2 * b] - t[0]) + std::fabs(of_source[2 * b + 1] - t[1]);
    }
    // Squared error and lost texture of a macroblock
    float distortion_of(const float* decoded, int64_t b) const {
        alignas(64) uint8_t own[256], other[256];
        block_bytes(source + offset(b), w, own, 16, 16);
        block_bytes(decoded + offset(b), w, other, 16, 16);
        float out = (float)squared_error<16>(own, other);
        return texture_weight != 0 ? out + texture_weight * lam[b] * lost(other, b) : out;
    }
    // Code, and weigh the distortion of macroblocks
    void code(Way& way, const float* predicted) const {
        Scratch<float> decoded(256 * m);
        decode(way, predicted, decoded);
        parallel(threads, m, 300, [&](int64_t b) { way.distortion[b] = distortion_of(decoded, b); });
    }
    // The same of blocks of K x K, in raster order into cost
    template <int K> void code_blocks(Way& way, const float* predicted, float* cost) const {
        constexpr int M = 16 / K;
        Scratch<float> decoded(256 * m);
        decode(way, predicted, decoded);
        parallel(threads, m, 300, [&](int64_t mb) {
            for (int k = 0; k < M * M; k++) {
                int64_t y = mb / bw * M + k / M, x = mb % bw * M + k % M;
                alignas(64) uint8_t own[K * K], other[K * K];
                bytes<K>(source + y * K * w + x * K, own), bytes<K>(decoded + y * K * w + x * K, other);
                float t[4];
                texture<K>(own, t[0], t[1]), texture<K>(other, t[2], t[3]);
                cost[y * M * bw + x] = (float)squared_error<K>(own, other) + texture_weight * lam[mb] * (std::fabs(t[0] - t[2]) + std::fabs(t[1] - t[3]));
            }
        });
    }
    template <int K> void bytes(const float* from, uint8_t* to) const {
        for (int y = 0; y < K; y++)
            for (int x = 0; x < K; x++) to[K * y + x] = (uint8_t)from[y * w + x];
    }
    // Cost of macroblocks: distortion and bits, side(mb) more than those of levels and flags
    template <class S, class F> void add_bits(Way& way, const S& states, const F& side) const {
        constexpr int AT_ONCE = 4;
        int together = way.type == 1 ? AT_ONCE : 1;
        parallel(threads, (m + together - 1) / together, 2e3, [&](int64_t task) {
            Scratch<Lanes> v(64);
            Scratch<LaneBits> bits(1);
            alignas(64) float of_blocks[LANES];
            int64_t first = task * together;
            int count = (int)lowest<int64_t>(together, m - first);
            if (way.type == 1) {
                for (int g = 0; g < AT_ONCE; g++) {
                    way.lanes<64>(first + (g < count ? g : 0), v, 4 * g);
                    bits->set(call.cabac, states.levels(EIGHT, first + (g < count ? g : 0)), 4 * g, 4);
                }
                level_bits<64>(call.cabac, EIGHT, v, *bits, of_blocks);
            } else {
                way.lanes<16>(first, v);
                bits->set(call.cabac, states.levels(LUMA, first), 0, LANES);
                level_bits<16>(call.cabac, LUMA, v, *bits, of_blocks);
            }
            FlagMap map = flags(way);
            for (int g = 0; g < count; g++) {
                int64_t b = first + g;
                int blocks = way.type == 1 ? 4 : 16;
                float total = 0;
                for (int l = 0; l < blocks; l++) total += of_blocks[blocks * g + l];
                for (int which = 0; which < FLAGS; which++)
                    if (way.has(which)) total += map.bits(call.cabac, which, b, states.flags(which, b));
                way.cost[b] = way.distortion[b] + rate_weight * (lam[b] * lam[b]) * (side(b) + total);
            }
        });
    }
};

// Contexts that a choice of ways leaves behind
struct WayStates {
    int64_t m;
    Scratch<float> of_levels, of_flags;  // [2][m][CONTEXTS]: of 4x4 and 8x8 blocks; [FLAGS][m][4]
    const float* levels(int kind, int64_t mb) const { return of_levels + ((kind == EIGHT) * m + mb) * CONTEXTS; }
    const float* flags(int which, int64_t mb) const { return of_flags + (which * m + mb) * 4; }

    template <class C> WayStates(const Deciding& frame, const Way* ways, int count, const C* choice) : m(frame.m), of_levels(2 * m * CONTEXTS), of_flags(FLAGS * m * 4) {
        Scratch<Seen<CONTEXTS>> seen(2 * m, true);
        Scratch<Seen<4>> seen_flags(FLAGS * m, true);
        const Cabac& cabac = frame.call.cabac;
        parallel(frame.threads, m, 500, [&](int64_t b) {
            const Way& way = ways[lowest<int64_t>(choice[b], count - 1)];
            way.count(cabac, b, seen[(way.kind() == EIGHT) * m + b]);
            for (int which = 0; which < FLAGS; which++)
                if (way.has(which)) frame.flags(way).count(which, b, seen_flags[which * m + b]);
        });
        for (int eight = 0; eight < 2; eight++)
            adapt<CONTEXTS>(cabac, seen + eight * m, cabac.first_of(eight ? EIGHT : LUMA, frame.slice), m, of_levels + eight * m * CONTEXTS);
        for (int which = 0; which < FLAGS; which++)
            adapt<4>(cabac, seen_flags + which * m, cabac.first_of_flags(which, frame.slice), m, of_flags + which * m * 4);
    }
};

}  // namespace
}  // namespace DC_ISA
