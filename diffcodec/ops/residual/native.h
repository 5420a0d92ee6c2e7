// Transforms and quantisation of blocks, sixteen at a time: block b in lane b of every array [coefficient][16]. See reference.py and trellis.py.
#pragma once

#include "cabac.h"

namespace DC_ISA {

// What the encoder keeps: native.py's numbers()
struct Quant {
    float intra, inter, noise_width;  // intra, inter: thresholds of the dead zone
    bool decimate, trellis;
    float of_intra, of_inter, small;  // of_intra, of_inter: lambdas
    float further_lambda;             // a constant of trellis.py
    explicit Quant(const float* q)
        : intra(q[0]), inter(q[1]), noise_width(q[2]), decimate(q[3] != 0), trellis(q[4] != 0), of_intra(q[5]), of_inter(q[6]), small(q[7]),
          further_lambda(q[8]) {}
};

constexpr int ZIGZAG4[16] = {0, 1, 4, 8, 5, 2, 3, 6, 9, 12, 13, 10, 7, 11, 14, 15};
constexpr int ZIGZAG8[64] = {0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6,  7,  14, 21, 28,
                             35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

// Of each QP, by place in the scan: what the integer transform is multiplied by to be in steps; the step; what a level adds to the integer inverse;
// and of the quantiser's slope rate, 2^rate and weight
template <int N> struct Steps {
    float scale[N], step[N], back[N], rate[N], power[N], weight[N];
};
struct StepTables {
    Scratch<Steps<16>> four;
    Scratch<Steps<64>> eight;
    // steps: STEPS of 4x4 and of 8x8 blocks, [6, 16] and [6, 64]
    StepTables(const float* steps4, const float* steps8, float noise_width, const float* qp, int64_t n, bool slopes) : four(QPS), eight(QPS) {
        bool used[QPS] = {};
        for (int64_t i = 0; i < n; i++) used[index(qp[i])] = true;
        double norm4[4] = {2, std::sqrt(10.0), 2, std::sqrt(10.0)};
        double norm8[8];
        for (int i = 0; i < 8; i++) norm8[i] = i % 4 == 0 ? std::sqrt(512.0) : i % 2 ? std::sqrt(578.0) : std::sqrt(320.0);
        for (int q = 0; q < QPS; q++) {
            if (!used[q]) continue;
            fill<16>(four[q], steps4 + q % 6 * 16, q / 6, ZIGZAG4, norm4, noise_width, slopes);
            if (steps8) fill<64>(eight[q], steps8 + q % 6 * 64, q / 6, ZIGZAG8, norm8, noise_width, slopes);
        }
    }
    static int index(float qp) { return (int)clip(qp, 0.0f, 51.0f); }

private:
    template <int N>
    static void fill(Steps<N>& t, const float* table, int octave, const int* zigzag, const double* norm, float noise_width, bool slopes) {
        constexpr int k = N == 64 ? 8 : 4;
        for (int i = 0; i < N; i++) {
            float step = table[i] * (float)(1 << octave);
            double n = norm[zigzag[i] / k] * norm[zigzag[i] % k];
            t.step[i] = step, t.scale[i] = (float)(1 / (n * step)), t.back[i] = (float)(step / n);
            if (slopes) {
                constexpr double LOG2E = 1.4426950408889634;
                double rate = -LOG2E * std::sqrt(2.0) * step / noise_width, power = std::exp2(rate);
                t.rate[i] = (float)rate, t.power[i] = (float)power, t.weight[i] = (float)(-rate * (0.5 / LOG2E) / (1 - power));
            }
        }
    }
};

// How samples get into lanes and back: tiles of four by four, turned over
DC_INLINE v4 floor4(v4 x) {
    v4 t = __builtin_convertvector(__builtin_convertvector(x, i4), v4);
    return t - (v4)((t > x) & (i4)(v4{} + 1.0f));
}
// What lies in lanes lane..lane + 3 at the places i * side + j, j = 0..3 from `column` on, of four blocks whose rows begin at `at`
template <class F> DC_INLINE void fetch_tile(Lanes* x, int place, int lane, const int64_t (&at)[4], const F& value) {
    v4 a = value(at[0]), b = value(at[1]), c = value(at[2]), d = value(at[3]);
    turn4(a, b, c, d);
    store(x[place] + lane, a), store(x[place + 1] + lane, b), store(x[place + 2] + lane, c), store(x[place + 3] + lane, d);
}
template <class F> DC_INLINE void put_tile(const Lanes* x, int place, int lane, const int64_t (&at)[4], const F& put) {
    v4 a = load<v4>(x[place] + lane), b = load<v4>(x[place + 1] + lane), c = load<v4>(x[place + 2] + lane), d = load<v4>(x[place + 3] + lane);
    turn4(a, b, c, d);
    put(at[0], a), put(at[1], b), put(at[2], c), put(at[3], d);
}
// f(place, lane, offsets of four rows of four samples) for all samples of a macroblock of K x K blocks that begin at `lane`, or of a chroma one (K = 2)
template <int K, class F> DC_INLINE void each_tile(int lane, int64_t w, const F& f) {
    if constexpr (K == 4) {
        for (int by = 0; by < 4; by++)
            for (int i = 0; i < 4; i++) {
                int64_t row = (4 * by + i) * w;
                f(4 * i, lane + 4 * by, {row, row + 4, row + 8, row + 12});
            }
    } else if constexpr (K == 8) {
        for (int i = 0; i < 8; i++)
            for (int j = 0; j < 8; j += 4) {
                int64_t row = i * w + j, lower = row + 8 * w;
                f(8 * i + j, lane, {row, row + 8, lower, lower + 8});
            }
    } else {
        for (int i = 0; i < 4; i++) {
            int64_t row = i * w, lower = row + 4 * w;
            f(4 * i, lane, {row, row + 4, lower, lower + 4});
        }
    }
}
template <int K, class F> DC_INLINE void fetch(Lanes* x, int lane, int64_t w, const F& value) {
    each_tile<K>(lane, w, [&](int place, int l, const int64_t (&at)[4]) { fetch_tile(x, place, l, at, value); });
}
template <int K, class F> DC_INLINE void put(const Lanes* x, int lane, int64_t w, const F& f) {
    each_tile<K>(lane, w, [&](int place, int l, const int64_t (&at)[4]) { put_tile(x, place, l, at, f); });
}

// Transforms of columns of lanes; exact for whole numbers
DC_INLINE void core4(vf* v) {
    vf s0 = v[0] + v[3], s1 = v[1] + v[2], d0 = v[0] - v[3], d1 = v[1] - v[2];
    v[0] = s0 + s1, v[1] = d0 * 2.0f + d1, v[2] = s0 - s1, v[3] = d0 - d1 * 2.0f;
}
DC_INLINE void adjoint4(vf* c) {
    vf s0 = c[0] + c[2], s1 = c[0] - c[2], d0 = c[1] * 2.0f + c[3], d1 = c[1] - c[3] * 2.0f;
    c[0] = s0 + d0, c[1] = s1 + d1, c[2] = s1 - d1, c[3] = s0 - d0;
}
DC_INLINE void core8(vf* v) {
    vf s[4], d[4];
    for (int i = 0; i < 4; i++) s[i] = v[i] + v[7 - i], d[i] = v[i] - v[7 - i];
    vf a = s[0] + s[3], b = s[1] + s[2], c = s[0] - s[3], e = s[1] - s[2];
    v[0] = (a + b) * 8.0f, v[4] = (a - b) * 8.0f, v[2] = c * 8.0f + e * 4.0f, v[6] = c * 4.0f - e * 8.0f;
    v[1] = d[0] * 12.0f + d[1] * 10.0f + d[2] * 6.0f + d[3] * 3.0f;
    v[3] = d[0] * 10.0f - d[1] * 3.0f - d[2] * 12.0f - d[3] * 6.0f;
    v[5] = d[0] * 6.0f - d[1] * 12.0f + d[2] * 3.0f + d[3] * 10.0f;
    v[7] = d[0] * 3.0f - d[1] * 6.0f + d[2] * 10.0f - d[3] * 12.0f;
}
DC_INLINE void adjoint8(vf* c) {
    vf a = (c[0] + c[4]) * 8.0f, b = (c[0] - c[4]) * 8.0f, e = c[2] * 8.0f + c[6] * 4.0f, f = c[2] * 4.0f - c[6] * 8.0f;
    vf s[4] = {a + e, b + f, b - f, a - e}, d[4];
    d[0] = c[1] * 12.0f + c[3] * 10.0f + c[5] * 6.0f + c[7] * 3.0f;
    d[1] = c[1] * 10.0f - c[3] * 3.0f - c[5] * 12.0f - c[7] * 6.0f;
    d[2] = c[1] * 6.0f - c[3] * 12.0f + c[5] * 3.0f + c[7] * 10.0f;
    d[3] = c[1] * 3.0f - c[3] * 6.0f + c[5] * 10.0f - c[7] * 12.0f;
    for (int i = 0; i < 4; i++) c[i] = s[i] + d[i], c[7 - i] = s[i] - d[i];
}
// Two-dimensional, on [K * K][16] in raster order, in place
template <int K, class F> DC_INLINE void both_ways(Lanes* x, const F& f) {
    DC_EACH_VECTOR(l)
    for (int way = 0; way < 2; way++)
        for (int i = 0; i < K; i++) {
            vf v[K];
            for (int j = 0; j < K; j++) v[j] = load<vf>(x[way ? j * K + i : i * K + j] + l);
            f(v);
            for (int j = 0; j < K; j++) store(x[way ? j * K + i : i * K + j] + l, v[j]);
        }
}
template <int K> DC_INLINE void transform(Lanes* x) {
    if constexpr (K == 4)
        both_ways<4>(x, [](vf* v) { core4(v); });
    else
        both_ways<8>(x, [](vf* v) { core8(v); });
}
template <int K> DC_INLINE void transform_back(Lanes* x) {
    if constexpr (K == 4)
        both_ways<4>(x, [](vf* v) { adjoint4(v); });
    else
        both_ways<8>(x, [](vf* v) { adjoint8(v); });
}
// Hadamard transform of 4x4, its own inverse up to a factor of 16
DC_INLINE void walsh(Lanes* x) {
    both_ways<4>(x, [](vf* v) {
        vf a = v[0] + v[1], b = v[0] - v[1], c = v[2] + v[3], d = v[2] - v[3];
        v[0] = a + c, v[1] = a - c, v[2] = b - d, v[3] = b + d;
    });
}

// Magnitudes in steps [N][16] to magnitudes of levels; the thresholds in steps that were met, if asked for
template <int N>
DC_INLINE void choose_levels(const Cabac& cabac, int kind, const Lanes* y, const LaneBits& bits, const float* lam, const Quant& quant, Lanes* levels,
                             Lanes* threshold) {
    alignas(64) Lanes one[N], two[N], longer[N], behind[N];  // bits of magnitudes; behind: distortion of zeros for all that follow
    const int64_t *s = cabac.of_significance(kind), *e = cabac.of_last(kind);
    DC_EACH_VECTOR(l) {
        vf none = {};
        {
            vf most = {};
            for (int i = 0; i < N; i++) most = vmax(most, load<vf>(y[i] + l));
            if (!threshold && !any_lane(most >= 0.5f)) {
                for (int i = 0; i < N; i++) store(levels[i] + l, none);
                continue;
            }
        }
        vf lambda = load<vf>(lam + l), distortion = {};
        Before before;
        for (int i = N - 1; i >= 0; i--) {
            vf v = load<vf>(y[i] + l);
            store(behind[i] + l, distortion);
            distortion += v * v;
            if (threshold || any_lane(v >= 0.5f)) {
                vi above = before.above(), more = before.more();
                store(one[i] + l, pick5(bits.zero + ABOVE, above, l));
                if (any_lane(v >= 1.5f)) {
                    store(two[i] + l, pick5(bits.one + ABOVE, above, l) + pick5(bits.zero + MORE, more, l));
                    store(longer[i] + l, pick5(bits.one + MORE, more, l));
                }
            }
            before.add(vfloor(v));
        }
        vf cost = {}, best = all(1e30f);
        vi end = alli(-1);
        for (int i = 0; i < N; i++) {
            vf v = load<vf>(y[i] + l), s0 = none, coded = all(1.0f), last = none;
            if (i + 1 < N) {
                s0 = load<vf>(bits.zero[s[i]] + l);
                vf l0 = load<vf>(bits.zero[e[i]] + l);
                coded = load<vf>(bits.one[s[i]] + l) + l0 + 1.0f, last = load<vf>(bits.one[e[i]] + l) - l0;
            }
            if (!any_lane(v >= 0.5f)) {
                cost += v * v + lambda * s0;
                store(levels[i] + l, none);
                continue;
            }
            vf near = vfloor(v + 0.5f), below = vmax(near - 1.0f, none), b1 = load<vf>(one[i] + l), b2 = b1, bn = none;
            if (any_lane(v >= 1.5f)) b2 = load<vf>(two[i] + l), bn = load<vf>(longer[i] + l);
            auto of = [&](vf level) {
                vf size = level > 1.5f ? b2 + vmax(level - 2.0f, none) * bn : b1;
                vf d = v - level;
                return d * d + lambda * (level > 0.5f ? coded + size : s0);
            };
            vf cost_near = of(near), cost_below = of(below);
            vf chosen = cost_below > cost_near ? near : below;
            cost += vmin(cost_near, cost_below);
            vf total = cost + load<vf>(behind[i] + l) + lambda * last;
            vi better = (chosen > 0.5f) & (total < best);
            best = better ? total : best;
            end = better ? alli(i) : end;
            store(levels[i] + l, chosen);
        }
        vi worth = distortion - best > 0.0f;
        end = worth ? end : alli(-1);
        for (int i = 0; i < N; i++) {
            vf level = load<vf>(levels[i] + l);
            level = end >= i ? level : none;
            store(levels[i] + l, level);
            if (threshold) {
                vf v = load<vf>(y[i] + l), near = vfloor(v + 0.5f), s0 = none, coded = all(1.0f);
                if (i + 1 < N) s0 = load<vf>(bits.zero[s[i]] + l), coded = load<vf>(bits.one[s[i]] + l) + load<vf>(bits.zero[e[i]] + l) + 1.0f;
                vf first = vmin(vmax((coded + load<vf>(one[i] + l) - s0) * (lambda * 0.5f) + 0.5f, all(0.5f)), all(1.5f));
                vf t = near > 1.5f ? lambda * quant.further_lambda + 0.5f : first;
                vi cut = (near > 0.5f) & (near < 1.5f) & (level < 0.5f);
                store(threshold[i] + l, cut ? vmax(t, v + 0.1f) : t);
            }
        }
    }
}

// The same by dead zones; dead: threshold of each lane
template <int N> DC_INLINE void round_levels(const Lanes* y, const float* dead, Lanes* levels, Lanes* threshold) {
    DC_EACH_VECTOR(l) {
        vf t = load<vf>(dead + l);
        for (int i = 0; i < N; i++) {
            store(levels[i] + l, vfloor(load<vf>(y[i] + l) + (1.0f - t)));
            if (threshold) store(threshold[i] + l, t);
        }
    }
}

// Decimation score of each lane: big where any level is beyond +-1
template <int N> DC_INLINE void decimation_scores(const Lanes* levels, int first, float big, float* scores) {
    constexpr int three = N == 64 ? 4 : 1, two = N == 64 ? 12 : 3, one = N == 64 ? 24 : 6;  // zeros before a level below which it counts that much
    DC_EACH_VECTOR(l) {
        vf score = {};
        vi run = {}, beyond = {};
        for (int i = first; i < N; i++) {
            vf v = load<vf>(levels[i] + l);
            vi hit = v > 0.5f, worth = -((run < one) + (run < two) + (run < three));
            score += __builtin_convertvector(hit & worth, vf);
            run = hit ? alli(0) : run + 1;
            beyond |= v > 1.5f;
        }
        store(scores + l, score + (beyond ? all(big) : all(0.0f)));
    }
}

// d/dy of the mean of a quantiser under noise (reference.py: mean_slope)
DC_INLINE vf mean_slope(vf magnitude, vf threshold, vf rate, vf power, vf weight) {
    // In the dead zone two thresholds of either sign are near: the sum below is symmetrical there. Each lane takes its own formula, whatever its
    // neighbours are, so that the width of vectors changes nothing.
    vf e = vexp2(rate * magnitude), dead = vexp2(rate * threshold) * (e + 1.0f / e) * weight;
    vi passed = magnitude >= threshold;
    if (!any_lane(passed)) return dead;
    vf over = magnitude - threshold, m = vmax(vfloor(over), all(-1.0f));
    vf near = vmax(vexp2(rate * (over - m)), all(1e-30f));
    vf below = near * (1.0f - vexp2(rate * (m + 1.0f)));
    vf other_side = vexp2(rate * (over + threshold * 2.0f));
    return passed ? (power / near + below + other_side) * weight : dead;
}

}  // namespace DC_ISA
