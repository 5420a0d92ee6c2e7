// Contexts of CABAC: see cabac.py, whose names these are.
#pragma once

#include "../common/native/simd.h"

namespace DC_ISA {

constexpr int LANES = 16;
typedef float Lanes[LANES];

#define DC_EACH_VECTOR(l) _Pragma("GCC unroll 4") for (int l = 0; l < LANES; l += LF)

constexpr int SIG = 0, LAST = 15, ABOVE = 30, MORE = 35, CONTEXTS = 40;
constexpr int QPS = 52, MOST_SEEN = 256, STEPS = 2048;
constexpr float LEAST = 0.01875f;
enum KindIndex { LUMA, DC, EIGHT, CHROMA_DC, CHROMA_AC, KINDS };
enum FlagIndex { PATTERN, FLAG_16X16, FLAG_4X4, FLAGS };

// Tables: native.py's TABLES
struct Cabac {
    const int64_t* places;  // of each kind, contexts of significance and of last flags by place, 64 numbers each
    const float *kept, *entropy, *first, *first_flags;
    uint64_t significant[KINDS][15], last[KINDS][15];  // places of each context

    Cabac(const int64_t* places, const float* tables)
        : places(places), kept(tables), entropy(kept + MOST_SEEN + 1), first(entropy + STEPS), first_flags(first + KINDS * 2 * QPS * CONTEXTS) {
        static constexpr int SIZES[KINDS] = {16, 16, 64, 4, 15};
        memset((void*)significant, 0, sizeof significant), memset((void*)last, 0, sizeof last);
        for (int k = 0; k < KINDS; k++)
            for (int i = 0; i + 1 < SIZES[k]; i++) significant[k][places[128 * k + i] - SIG] |= 1ull << i, last[k][places[128 * k + 64 + i] - LAST] |= 1ull << i;
    }
    const int64_t* of_significance(int kind) const { return places + 128 * kind; }
    const int64_t* of_last(int kind) const { return places + 128 * kind + 64; }

    // QP of a frame's slice, and whether it is one of intra macroblocks alone
    struct Slice {
        int qp, other;
        Slice(const float* qps, const uint8_t* intra, int64_t m) {
            double sum = 0;
            other = 0;
            for (int64_t i = 0; i < m; i++) sum += qps[i], other |= !intra[i];
            qp = (int)clip(std::floor((float)sum / (float)m + 0.5f), 0.0f, 51.0f);
        }
    };
    const float* first_of(int kind, const Slice& s) const { return first + ((kind * 2 + s.other) * QPS + s.qp) * CONTEXTS; }
    const float* first_of_flags(int which, const Slice& s) const { return first_flags + ((which * 2 + s.other) * QPS + s.qp) * 4; }
    float zero(float p) const { return entropy[STEPS - 1 - (int)(p * (float)STEPS)]; }
    float one(float p) const { return entropy[(int)(p * (float)STEPS)]; }
};

// What N contexts see in a macroblock
template <int N> struct Seen {
    int32_t hits[N], seen[N];
};

// States before each of m macroblocks [m][N], from what each sees and the slice's first ones
template <int N> void adapt(const Cabac& cabac, const Seen<N>* seen, const float* first, int64_t m, float* states) {
    float p[N];
    memcpy(p, first, sizeof p);
    for (int64_t i = 0; i < m; i++)
        for (int c = 0; c < N; c++) {
            states[i * N + c] = clip(p[c], LEAST, 1 - LEAST);
            int n = lowest<int32_t>(seen[i].seen[c], MOST_SEEN);
            if (!n) continue;
            float keep = cabac.kept[n];
            p[c] = keep * p[c] + (float)lowest<int32_t>(seen[i].hits[c], n) / (float)n * (1 - keep);
        }
}

// Bits of decisions that are 0 and that are 1, by context and lane
struct LaneBits {
    alignas(64) Lanes zero[CONTEXTS], one[CONTEXTS];
    void set(const Cabac& cabac, const float* states, int lane, int lanes) {
        for (int c = 0; c < CONTEXTS; c++) {
            float z = cabac.zero(states[c]), o = cabac.one(states[c]);
            for (int l = lane; l < lane + lanes; l++) zero[c][l] = z, one[c][l] = o;
        }
    }
};

// Places of levels of at least 1 in each lane
template <int N> DC_INLINE void nonzero(const Lanes* levels, uint64_t* places) {
    for (int l = 0; l < LANES; l++) places[l] = 0;
    for (int i = 0; i < N; i++)
        DC_EACH_VECTOR(l) {
            if (!any_lane(load<vf>(levels[i] + l) > 0.5f)) continue;
            for (int k = l; k < l + LF; k++) places[k] |= (uint64_t)(levels[i][k] > 0.5f) << i;
        }
}
// One block more: magnitudes in a lane, their places
template <int N> void count_block(const Cabac& cabac, int kind, const Lanes* levels, int lane, uint64_t places, Seen<CONTEXTS>& to) {
    if (!places) return;
    int end = 63 - __builtin_clzll(places);
    uint64_t upto = end == 63 ? ~0ull : (2ull << end) - 1;
    const uint64_t *s = cabac.significant[kind], *e = cabac.last[kind];
    for (int c = 0; c < 15; c++) {
        to.seen[SIG + c] += __builtin_popcountll(upto & s[c]), to.hits[SIG + c] += __builtin_popcountll(places & s[c]);
        to.seen[LAST + c] += __builtin_popcountll(places & e[c]), to.hits[LAST + c] += (int)(e[c] >> end & 1);
    }
    int ones = 0, larger = 0;
    for (uint64_t left = places; left;) {
        int i = 63 - __builtin_clzll(left);
        left ^= 1ull << i;
        int v = (int)levels[i][lane], above = ABOVE + (larger ? 0 : lowest(4, 1 + ones)), more = MORE + lowest(4, larger);
        to.seen[above]++;
        if (v > 1) to.hits[above]++, to.seen[more] += v - 1, to.hits[more] += v - 2, larger++;
        else ones++;
    }
}

// Which of five rows of lanes each lane takes
DC_INLINE vf pick5(const Lanes* rows, vi which, int l) {
    vf out = load<vf>(rows[0] + l);
    for (int c = 1; c < 5; c++) out = which == c ? load<vf>(rows[c] + l) : out;
    return out;
}
// Counts of what was coded before, from the end of blocks, as contexts of magnitudes
struct Before {
    vi ones = {}, larger = {};
    DC_INLINE vi above() const { return larger > 0 ? alli(0) : ones + 1 > 4 ? alli(4) : ones + 1; }
    DC_INLINE vi more() const { return larger > 4 ? alli(4) : larger; }
    DC_INLINE void add(vf level) {
        vi hit = level > 0.5f, more = level > 1.5f;
        ones -= hit & ~more, larger -= more;
    }
};

// Bits of the levels of 16 blocks, magnitudes [N][16]
template <int N> DC_INLINE void level_bits(const Cabac& cabac, int kind, const Lanes* levels, const LaneBits& bits, float* out) {
    const int64_t *s = cabac.of_significance(kind), *e = cabac.of_last(kind);
    DC_EACH_VECTOR(l) {
        vf total = {}, none = {};
        vi after = {};
        Before before;
        for (int i = N - 1; i >= 0; i--) {
            vf v = load<vf>(levels[i] + l), s0 = i + 1 < N ? load<vf>(bits.zero[s[i]] + l) : none;
            vi hit = v > 0.5f;
            if (!any_lane(hit)) {
                total += after ? s0 : none;
                continue;
            }
            vf s1 = none, l0 = none, l1 = none;
            if (i + 1 < N) s1 = load<vf>(bits.one[s[i]] + l), l0 = load<vf>(bits.zero[e[i]] + l), l1 = load<vf>(bits.one[e[i]] + l);
            vi above = before.above(), more = before.more();
            vf size = v > 1.5f ? pick5(bits.one + ABOVE, above, l) + pick5(bits.zero + MORE, more, l) + (v - 2.0f) * pick5(bits.one + MORE, more, l)
                               : pick5(bits.zero + ABOVE, above, l);
            total += hit ? s1 + (after ? l0 : l1) + size + 1.0f : after ? s0 : none;
            after |= hit;
            before.add(v);
        }
        store(out + l, total);
    }
}

// Flags of 4x4 blocks of a macroblock with the contexts of their neighbours: contexts and values go to f(context, flag)
struct FlagMap {
    const uint8_t* coded;  // of the frame, 4x4 blocks
    int64_t bh, bw;
    bool outside;
    bool at(int64_t y, int64_t x, bool beyond) const { return y < 0 || x < 0 ? beyond : coded[y * 4 * bw + x] != 0; }
    bool at8(int64_t y, int64_t x) const {
        return y < 0 || x < 0 || at(2 * y, 2 * x, true) || at(2 * y, 2 * x + 1, true) || at(2 * y + 1, 2 * x, true) || at(2 * y + 1, 2 * x + 1, true);
    }
    bool any(int64_t mb) const {
        for (int k = 0; k < 4; k++)
            if (at8(mb / bw * 2 + k / 2, mb % bw * 2 + k % 2)) return true;
        return false;
    }
    template <class F> void each(int which, int64_t mb, const F& f) const {
        int64_t y0 = mb / bw, x0 = mb % bw;
        if (which == PATTERN) {
            for (int k = 0; k < 4; k++) {
                int64_t y = 2 * y0 + k / 2, x = 2 * x0 + k % 2;
                f(!at8(y, x - 1) + 2 * !at8(y - 1, x), at8(y, x));
            }
            return;
        }
        if (which == FLAG_16X16 && !any(mb)) return;
        for (int k = 0; k < 16; k++) {
            int64_t y = 4 * y0 + k / 4, x = 4 * x0 + k % 4;
            if (which == FLAG_4X4 && !at8(y / 2, x / 2)) continue;
            f(at(y, x - 1, outside) + 2 * at(y - 1, x, outside), at(y, x, false));
        }
    }
    void count(int which, int64_t mb, Seen<4>& to) const {
        each(which, mb, [&](int context, bool flag) { to.seen[context]++, to.hits[context] += flag; });
    }
    float bits(const Cabac& cabac, int which, int64_t mb, const float* states) const {
        float total = 0;
        each(which, mb, [&](int context, bool flag) { total += flag ? cabac.one(states[context]) : cabac.zero(states[context]); });
        return total;
    }
};

}  // namespace DC_ISA
