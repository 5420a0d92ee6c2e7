// A frame's luma and its residual: see reference.py. The intra decisions code with it, too.
#pragma once

#include "../common/native/blocks.h"
#include "native.h"

namespace DC_ISA {
namespace {

constexpr float TIE = 1e-3f, LN2_6 = 0.11552453009332421f;  // log(2) / 6: what a QP is worth
constexpr float MIN_SCORE_REGION = 4, MIN_SCORE_LUMA = 6, MIN_SCORE_CHROMA = 7, BIG_SCORE = 9;

// Prediction and residual, rounded and clipped
DC_INLINE v4 decoded(v4 predicted, v4 residual) { return vmin(vmax(predicted + floor4(residual + TIE + 0.5f), v4{}), v4{} + 255.0f); }
DC_INLINE v4 clipped(v4 predicted) { return vmin(vmax(predicted, v4{}), v4{} + 255.0f); }

// What is the same for all blocks of a call
struct Call {
    Quant quant;
    StepTables tables;
    Cabac cabac;
    Call(const float* quant, const float* steps4, const float* steps8, const int64_t* places, const float* cabac, const float* qp, int64_t n, bool slopes)
        : quant(quant), tables(steps4, steps8, this->quant.noise_width, qp, n, slopes), cabac(places, cabac) {}

    float lambda(bool intra, int n) const {
        float own = intra ? quant.of_intra : quant.of_inter;
        return n < 64 ? quant.small * own : own;
    }
    float dead_zone(bool intra) const { return intra ? quant.intra : quant.inter; }
    template <int N>
    DC_INLINE void choose(int kind, const Lanes* y, const LaneBits& bits, const float* lam, const float* dead, Lanes* levels, Lanes* threshold) const {
        if (quant.trellis)
            choose_levels<N>(cabac, kind, y, bits, lam, quant, levels, threshold);
        else
            round_levels<N>(y, dead, levels, threshold);
    }
    // The levels that contexts are taken from, of coefficients in steps, and their places
    template <int N> DC_INLINE void guess(const Lanes* y, Lanes* levels, uint64_t* places) const {
        DC_EACH_VECTOR(l) for (int i = 0; i < N; i++) store(levels[i] + l, vfloor(vabs(load<vf>(y[i] + l))));
        nonzero<N>(levels, places);
    }
};

// Sixteen blocks of K x K, four of each of four groups with a quantiser and a kind of their own
template <int K> struct Batch {
    static constexpr int N = K * K;
    static constexpr const int* zigzag() { return K == 4 ? ZIGZAG4 : ZIGZAG8; }
    alignas(64) Lanes x[N], y[N], levels[N], threshold[N];
    alignas(64) float lam[LANES], dead[LANES], keep[LANES];
    const Steps<N>* steps[4];
    bool same;  // all four groups have one quantiser
    alignas(64) Lanes own[N];

    void group(int g, const Call& call, const Steps<N>* table, bool intra) {
        steps[g] = table;
        for (int l = 4 * g; l < 4 * g + 4; l++) lam[l] = call.lambda(intra, N), dead[l] = call.dead_zone(intra);
    }
    void grouped() { same = steps[0] == steps[1] && steps[0] == steps[2] && steps[0] == steps[3]; }
    // f(i, l, value): one of the numbers of Steps at place i for the vector of lanes from l on
    template <class F> DC_INLINE void with(float (Steps<N>::*of)[N], const F& f, int first = 0) {
        if (same) {
            const float* v = steps[0]->*of;
            DC_EACH_VECTOR(l) for (int i = first; i < N; i++) f(i, l, all(v[i]));
            return;
        }
        for (int i = first; i < N; i++) {
            for (int g = 0; g < 4; g++)
                for (int b = 0; b < 4; b++) own[i][4 * g + b] = (steps[g]->*of)[i];
            DC_EACH_VECTOR(l) f(i, l, load<vf>(own[i] + l));
        }
    }
    // Coefficients in steps, in scan order, from samples in x, which become coefficients of the integer transform
    DC_INLINE void scale() {
        transform<K>(x);
        with(&Steps<N>::scale, [&](int i, int l, vf s) { store(y[i] + l, load<vf>(x[zigzag()[i]] + l) * s); });
    }
    // Magnitudes in y; the signs stay in x
    DC_INLINE void magnitudes() {
        DC_EACH_VECTOR(l) for (int i = 0; i < N; i++) store(y[i] + l, vabs(load<vf>(y[i] + l)));
    }
    DC_INLINE vf sign(int i, int l) const { return load<vf>(x[zigzag()[i]] + l) < 0.0f ? all(-1.0f) : all(1.0f); }
    // Signed levels of the blocks that are kept; whether there is any
    DC_INLINE bool finish_levels(int first = 0) {
        vi any = {};
        DC_EACH_VECTOR(l) for (int i = first; i < N; i++) {
            vf v = load<vf>(levels[i] + l) * load<vf>(keep + l);
            any |= v > 0.5f;
            store(levels[i] + l, v * sign(i, l));
        }
        return any_lane(any);
    }
    // Samples from levels, in x
    DC_INLINE void reconstruct(int first = 0) {
        with(&Steps<N>::back, [&](int i, int l, vf s) { store(x[zigzag()[i]] + l, load<vf>(levels[i] + l) * s); }, first);
        transform_back<K>(x);
    }
};

// States before each macroblock of a frame [m][CONTEXTS]; null where no trellis asks for them
struct LumaStates {
    const float *four, *eight, *dc;
};

// Sixteen macroblocks' second transform of DCs (8.5.10), one a lane
struct DcBatch {
    alignas(64) Lanes x[16], y[16], levels[16], threshold[16];
    alignas(64) float step[LANES], inverse[LANES], lam[LANES], dead[LANES];
    int count = 0;
    int64_t mb[LANES];
    void add(const Call& call, int64_t i, const float* source, const float* predicted, int64_t w, float qp, bool intra) {
        for (int b = 0; b < 16; b++) {
            v4 sum = {};
            for (int r = 0; r < 4; r++) {
                int64_t at = (b / 4 * 4 + r) * w + b % 4 * 4;
                sum += load<v4>(source + at) - load<v4>(predicted + at);
            }
            x[b][count] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
        }
        step[count] = call.tables.four[StepTables::index(qp)].step[0], inverse[count] = (float)(1 / (16 * (double)step[count]));
        lam[count] = call.lambda(intra, 16), dead[count] = call.dead_zone(intra);
        mb[count++] = i;
    }
    void scale() {  // block sums to coefficients in steps: / 4 for the first transform, / 4 for the second
        for (int l = count; l < LANES; l++) {
            for (auto& row : x) row[l] = 0;
            step[l] = inverse[l] = 1, lam[l] = dead[l] = 1;
        }
        walsh(x);
        DC_EACH_VECTOR(l) for (int i = 0; i < 16; i++) store(y[i] + l, load<vf>(x[ZIGZAG4[i]] + l) * load<vf>(inverse + l));
    }
    void choose(const Call& call, const float* states, bool thresholds) {
        alignas(64) Lanes m[16];
        Scratch<LaneBits> bits(1);
        if (states)
            for (int l = 0; l < LANES; l++) bits->set(call.cabac, states + CONTEXTS * mb[l < count ? l : 0], l, 1);
        DC_EACH_VECTOR(l) for (int i = 0; i < 16; i++) store(m[i] + l, vabs(load<vf>(y[i] + l)));
        call.choose<16>(DC, m, *bits, lam, dead, levels, thresholds ? threshold : nullptr);
        DC_EACH_VECTOR(l) for (int i = 0; i < 16; i++) {
            vf v = load<vf>(levels[i] + l);
            store(levels[i] + l, load<vf>(y[i] + l) < 0.0f ? -v : v);
        }
    }
};

// A frame's luma
struct Luma {
    const Call& call;
    int64_t bh, bw, w;
    const float *source, *predicted, *qp;
    const uint8_t *intra, *is8, *is16;

    Luma(const Call& call, int64_t n, int64_t bh, int64_t bw, const float* source, const float* predicted, const float* qp, const uint8_t* intra,
         const uint8_t* is8, const uint8_t* is16)
        : call(call), bh(bh), bw(bw), w(16 * bw), source(source + n * bh * bw * 256), predicted(predicted + n * bh * bw * 256),
          qp(qp + n * bh * bw), intra(intra + n * bh * bw), is8(is8 + n * bh * bw), is16(is16 + n * bh * bw) {}

    template <int K> const Steps<K * K>* table(int64_t i) const {
        if constexpr (K == 4)
            return &call.tables.four[StepTables::index(qp[i])];
        else
            return &call.tables.eight[StepTables::index(qp[i])];
    }
    int64_t offset(int64_t i) const { return i / bw * 16 * w + i % bw * 16; }

    template <int K> DC_INLINE void load_mb(Batch<K>& b, int g, int64_t i) const {
        const float *s = source + offset(i), *p = predicted + offset(i);
        fetch<K>(b.x, 4 * g, w, [&](int64_t at) { return load<v4>(s + at) - load<v4>(p + at); });
        for (int k = g; k < (K == 4 ? 4 : g + 1); k++) b.group(k, call, table<K>(i), intra[i] != 0);
    }
    // The last group stands for those that are not there
    static void fill(Batch<8>& b, int count) {
        for (int g = count; g < 4; g++) {
            b.steps[g] = b.steps[0];
            for (int l = 4 * g; l < 4 * g + 4; l++) {
                b.lam[l] = b.dead[l] = 1;
                for (auto& row : b.x) row[l] = 0;
            }
        }
    }

    // What contexts see in each macroblock of a row, of the kinds of blocks that it has
    void count_row(int64_t row, Seen<CONTEXTS>* four, Seen<CONTEXTS>* eight, Seen<CONTEXTS>* dc) const {
        Scratch<Batch<4>> b4(1);
        Scratch<Batch<8>> b8(1);
        Scratch<DcBatch> dcs(1);
        dcs->count = 0;
        uint64_t places[LANES];
        int64_t eights[4];
        int count = 0;
        for (int64_t i = row * bw; i < (row + 1) * bw; i++) {
            if (is8[i])
                eights[count++] = i;
            else {
                load_mb(*b4, 0, i);
                b4->grouped();
                b4->scale();
                call.guess<16>(b4->y, b4->levels, places);
                for (int l = 0; l < LANES; l++) count_block<16>(call.cabac, LUMA, b4->levels, l, places[l], four[i]);
            }
            if (is16[i]) dcs->add(call, i, source + offset(i), predicted + offset(i), w, qp[i], intra[i] != 0);
            bool end = i + 1 == (row + 1) * bw;
            if (count && (count == 4 || end)) {
                for (int g = 0; g < count; g++) load_mb(*b8, g, eights[g]);
                fill(*b8, count);
                b8->grouped();
                b8->scale();
                call.guess<64>(b8->y, b8->levels, places);
                for (int l = 0; l < 4 * count; l++) count_block<64>(call.cabac, EIGHT, b8->levels, l, places[l], eight[eights[l / 4]]);
                count = 0;
            }
            if (dcs->count && (dcs->count == LANES || end)) {
                dcs->scale();
                call.guess<16>(dcs->y, dcs->levels, places);
                for (int l = 0; l < dcs->count; l++) count_block<16>(call.cabac, DC, dcs->levels, l, places[l], dc[dcs->mb[l]]);
                dcs->count = 0;
            }
        }
    }

    // Which 4x4 blocks of an inter macroblock are kept: those of a region with enough score, if the macroblock has enough
    void decimate4(Batch<4>& b, int64_t i) const {
        for (float& k : b.keep) k = 1;
        if (!call.quant.decimate || intra[i]) return;
        alignas(64) float s[LANES];
        decimation_scores<16>(b.levels, 0, BIG_SCORE, s);
        float total = 0, region[4] = {};
        for (int l = 0; l < 16; l++) total += s[l], region[l / 8 * 2 + l % 4 / 2] += s[l];
        for (int l = 0; l < 16; l++) b.keep[l] = region[l / 8 * 2 + l % 4 / 2] >= MIN_SCORE_REGION && total >= MIN_SCORE_LUMA;
    }
    void decimate8(Batch<8>& b, const int64_t* mb, int count) const {
        for (float& k : b.keep) k = 1;
        if (!call.quant.decimate || call.quant.trellis) return;
        alignas(64) float s[LANES];
        decimation_scores<64>(b.levels, 0, BIG_SCORE, s);
        for (int g = 0; g < count; g++) {
            if (intra[mb[g]]) continue;
            float total = 0;
            for (int l = 4 * g; l < 4 * g + 4; l++) total += s[l] >= MIN_SCORE_REGION ? s[l] : 0;
            for (int l = 4 * g; l < 4 * g + 4; l++) b.keep[l] = s[l] >= MIN_SCORE_REGION && total >= MIN_SCORE_LUMA;
        }
    }
    void decide4(Batch<4>& b, LaneBits& bits, int64_t i, const LumaStates& states, bool thresholds) const {
        load_mb(b, 0, i);
        b.grouped();
        b.scale();
        b.magnitudes();
        if (states.four) bits.set(call.cabac, states.four + CONTEXTS * i, 0, LANES);
        call.choose<16>(LUMA, b.y, bits, b.lam, b.dead, b.levels, thresholds ? b.threshold : nullptr);
        decimate4(b, i);
    }
    void decide8(Batch<8>& b, LaneBits& bits, const int64_t* mb, int count, const LumaStates& states, bool thresholds) const {
        for (int g = 0; g < count; g++) load_mb(b, g, mb[g]);
        fill(b, count);
        b.grouped();
        b.scale();
        b.magnitudes();
        if (states.eight)
            for (int g = 0; g < 4; g++) bits.set(call.cabac, states.eight + CONTEXTS * mb[g < count ? g : 0], 4 * g, 4);
        call.choose<64>(EIGHT, b.y, bits, b.lam, b.dead, b.levels, thresholds ? b.threshold : nullptr);
        decimate8(b, mb, count);
    }

    // f(batch of DCs) for the intra 16x16 macroblocks of a row
    template <class F> void each_dc(int64_t row, const LumaStates& states, bool thresholds, const F& f) const {
        Scratch<DcBatch> dc(1);
        dc->count = 0;
        for (int64_t i = row * bw; i < (row + 1) * bw; i++) {
            if (is16[i] && !is8[i]) dc->add(call, i, source + offset(i), predicted + offset(i), w, qp[i], intra[i] != 0);
            if (dc->count && (dc->count == LANES || i + 1 == (row + 1) * bw)) {
                dc->scale();
                dc->choose(call, states.dc, thresholds);
                f(*dc);
                dc->count = 0;
            }
        }
    }

    void copy_clipped(const float* from, float* to) const {  // a macroblock without residual
        for (int y = 0; y < 16; y++)
            for (int x = 0; x < 16; x += 4) store(to + y * w + x, clipped(load<v4>(from + y * w + x)));
    }

    // levels4, levels8, coded, out: of the frame; levels may be missing
    void code_row(int64_t row, const LumaStates& states, float* out, float* levels4, float* levels8, uint8_t* coded) const {
        Scratch<Batch<4>> b4(1);
        Scratch<Batch<8>> b8(1);
        Scratch<LaneBits> bits(1);
        Scratch<Lanes> dc_levels(bw), dc_back(bw);
        each_dc(row, states, false, [&](DcBatch& d) {
            alignas(64) Lanes back[16];
            for (int i = 0; i < 16; i++)
                for (int l = 0; l < LANES; l++) back[ZIGZAG4[i]][l] = d.levels[i][l] * d.step[l] / 16;  // / 4 of each transform
            walsh(back);
            for (int l = 0; l < d.count; l++)
                for (int b = 0; b < 16; b++) dc_levels[d.mb[l] % bw][b] = d.levels[b][l], dc_back[d.mb[l] % bw][b] = back[b][l];
        });
        int64_t eights[4];
        int count = 0;
        for (int64_t i = row * bw; i < (row + 1) * bw; i++) {
            int64_t x = i % bw;
            if (is8[i])
                eights[count++] = i;
            else {
                Batch<4>& b = *b4;
                decide4(b, *bits, i, states, false);
                bool any = b.finish_levels(is16[i]);
                uint8_t* flags = coded + row * 4 * 4 * bw + 4 * x;
                for (int l = 0; l < 16; l++) {
                    bool has = is16[i] && dc_levels[x][l] != 0;
                    for (int k = is16[i]; k < 16; k++) has |= b.levels[k][l] != 0;
                    flags[l / 4 * 4 * bw + l % 4] = has;
                    any |= has;
                }
                if (is16[i]) memcpy(b.levels[0], dc_levels[x], sizeof(Lanes)), memcpy(b.x[0], dc_back[x], sizeof(Lanes));
                if (levels4) {
                    for (int k = 0; k < 16; k++)
                        for (int l = 0; l < 16; l++) levels4[256 * i + 16 * l + k] = b.levels[k][l];
                    if (levels8) memset(levels8 + 256 * i, 0, 1024);
                }
                if (any) b.reconstruct(is16[i]);
                const float* p = predicted + offset(i);
                float* to = out + offset(i);
                if (any)
                    put<4>(b.x, 0, w, [&](int64_t at, v4 v) { store(to + at, decoded(load<v4>(p + at), v)); });
                else
                    copy_clipped(p, to);
            }
            if (count && (count == 4 || i + 1 == (row + 1) * bw)) {
                Batch<8>& b = *b8;
                decide8(b, *bits, eights, count, states, false);
                bool any = b.finish_levels();
                for (int g = 0; g < count; g++) {
                    int64_t e = eights[g];
                    uint8_t* flags = coded + row * 4 * 4 * bw + 4 * (e % bw);
                    for (int l = 0; l < 4; l++) {
                        bool has = false;
                        for (int k = 0; k < 64; k++) has |= b.levels[k][4 * g + l] != 0;
                        for (int k = 0; k < 4; k++) flags[(l / 2 * 2 + k / 2) * 4 * bw + l % 2 * 2 + k % 2] = has;
                    }
                    if (levels8) {
                        for (int l = 0; l < 4; l++)
                            for (int k = 0; k < 64; k++) levels8[256 * e + 64 * l + k] = b.levels[k][4 * g + l];
                        if (levels4) memset(levels4 + 256 * e, 0, 1024);
                    }
                }
                if (any) b.reconstruct();
                for (int g = 0; g < count; g++) {
                    const float* p = predicted + offset(eights[g]);
                    float* to = out + offset(eights[g]);
                    if (any)
                        put<8>(b.x, 4 * g, w, [&](int64_t at, v4 v) { store(to + at, decoded(load<v4>(p + at), v)); });
                    else
                        copy_clipped(p, to);
                }
                count = 0;
            }
        }
    }

    // Gradient of a batch: that of its samples in g, replaced by that of its residual. levels: gradient of the levels in scan order, or null.
    // qp: gradient of the QPs lane by lane, or null.
    template <int K> static void back(Batch<K>& b, Lanes* g, const Lanes* of_levels, float* of_qp, bool dc_apart) {
        constexpr int N = K * K;
        transform<K>(g);
        auto one = [&](int i, int l, vf rate, vf power, vf weight, vf scale, vf step) {
            float* at = g[b.zigzag()[i]] + l;
            vf y = load<vf>(b.y[i] + l), keep = load<vf>(b.keep + l);
            vf slope = mean_slope(y, load<vf>(b.threshold[i] + l), rate, power, weight) * keep;
            vf own = load<vf>(at) * (scale * step), all_of_it = own * step;  // of the coefficient, which is not to be scaled; of a level
            if (of_levels) all_of_it += load<vf>(of_levels[i] + l);
            if (of_qp)
                store(of_qp + l, load<vf>(of_qp + l) + b.sign(i, l) * (own * step * load<vf>(b.levels[i] + l) * keep - all_of_it * slope * y));
            store(at, all_of_it * slope * scale);  // / step, and / the norm of the transform
        };
        int first = dc_apart;
        if (b.same) {
            const Steps<N>& t = *b.steps[0];
            DC_EACH_VECTOR(l) for (int i = first; i < N; i++) one(i, l, all(t.rate[i]), all(t.power[i]), all(t.weight[i]), all(t.scale[i]), all(t.step[i]));
            return;
        }
        alignas(64) Lanes of[5];
        for (int i = first; i < N; i++) {
            for (int l = 0; l < LANES; l++) {
                const Steps<N>& t = *b.steps[l / 4];
                of[0][l] = t.rate[i], of[1][l] = t.power[i], of[2][l] = t.weight[i], of[3][l] = t.scale[i], of[4][l] = t.step[i];
            }
            DC_EACH_VECTOR(l) one(i, l, load<vf>(of[0] + l), load<vf>(of[1] + l), load<vf>(of[2] + l), load<vf>(of[3] + l), load<vf>(of[4] + l));
        }
    }

    // grad: of what was decoded; of_levels4, of_levels8 or null; source, predicted: where the gradients of both go; qp or null
    void back_row(int64_t row, const LumaStates& states, const float* grad, const float* of_levels4, const float* of_levels8, float* to_source,
                  float* to_predicted, float* to_qp) const {
        Scratch<Batch<4>> b4(1);
        Scratch<Batch<8>> b8(1);
        Scratch<LaneBits> bits(1);
        Scratch<Lanes> g(64), further(64), dc_grad(bw);
        if (to_qp) memset(to_qp + row * bw, 0, sizeof(float) * bw);
        each_dc(row, states, true, [&](DcBatch& d) {
            alignas(64) Lanes v[16];
            for (int b = 0; b < 16; b++)
                for (int l = 0; l < LANES; l++) {
                    v4 sum = {};
                    if (l < d.count) {
                        const float* from = grad + offset(d.mb[l]) + b / 4 * 4 * w + b % 4 * 4;
                        for (int r = 0; r < 4; r++) sum += load<v4>(from + r * w);
                    }
                    v[b][l] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
                }
            walsh(v);
            for (int i = 0; i < 16; i++) {
                float* at = v[ZIGZAG4[i]];
                DC_EACH_VECTOR(l) {
                    vf step = load<vf>(d.step + l), rate = step * (-1.4426950408889634f * 1.4142135623730951f / call.quant.noise_width), power = vexp2(rate);
                    vf magnitude = vabs(load<vf>(d.y[i] + l));
                    vf slope = mean_slope(magnitude, load<vf>(d.threshold[i] + l), rate, power, rate * (-0.5f / 1.4426950408889634f) / (1.0f - power));
                    vf own = load<vf>(at + l) * (1.0f / 16), more = {};
                    if (of_levels4)
                        for (int k = 0; k < LF; k++)
                            if (l + k < d.count) more[k] = of_levels4[256 * d.mb[l + k] + 16 * i];
                    vf all_of_it = own * step + more;
                    if (to_qp) {
                        vf part = own * step * load<vf>(d.levels[i] + l) - all_of_it * slope * load<vf>(d.y[i] + l);
                        for (int k = 0; k < LF; k++)
                            if (l + k < d.count) to_qp[d.mb[l + k]] += LN2_6 * part[k];
                    }
                    store(at + l, all_of_it * slope / step * (1.0f / 16));
                }
            }
            walsh(v);
            for (int l = 0; l < d.count; l++)
                for (int b = 0; b < 16; b++) dc_grad[d.mb[l] % bw][b] = v[b][l];
        });
        alignas(64) float of_qp[LANES];
        int64_t eights[4];
        int count = 0;
        for (int64_t i = row * bw; i < (row + 1) * bw; i++) {
            if (is8[i])
                eights[count++] = i;
            else {
                Batch<4>& b = *b4;
                decide4(b, *bits, i, states, true);
                const float* from = grad + offset(i);
                fetch<4>(g, 0, w, [&](int64_t at) { return load<v4>(from + at); });
                if (of_levels4)
                    for (int k = 0; k < 16; k++)
                        for (int l = 0; l < 16; l++) further[k][l] = of_levels4[256 * i + 16 * l + k];
                memset(of_qp, 0, sizeof of_qp);
                back<4>(b, g, of_levels4 ? further : (Lanes*)nullptr, to_qp ? of_qp : nullptr, is16[i] != 0);
                if (is16[i]) memcpy(g[0], dc_grad[i % bw], sizeof(Lanes));
                transform_back<4>(g);
                float *s = to_source + offset(i), *p = to_predicted + offset(i);
                put<4>(g, 0, w, [&](int64_t at, v4 v) { store(s + at, v), store(p + at, load<v4>(from + at) - v); });
                if (to_qp)
                    for (float v : of_qp) to_qp[i] += LN2_6 * v;
            }
            if (count && (count == 4 || i + 1 == (row + 1) * bw)) {
                Batch<8>& b = *b8;
                decide8(b, *bits, eights, count, states, true);
                memset((float*)*g, 0, sizeof(Lanes) * 64), memset((float*)*further, 0, sizeof(Lanes) * 64);
                for (int k = 0; k < count; k++) {
                    const float* from = grad + offset(eights[k]);
                    fetch<8>(g, 4 * k, w, [&](int64_t at) { return load<v4>(from + at); });
                    if (of_levels8)
                        for (int l = 0; l < 4; l++)
                            for (int j = 0; j < 64; j++) further[j][4 * k + l] = of_levels8[256 * eights[k] + 64 * l + j];
                }
                memset(of_qp, 0, sizeof of_qp);
                back<8>(b, g, of_levels8 ? further : (Lanes*)nullptr, to_qp ? of_qp : nullptr, false);
                transform_back<8>(g);
                for (int k = 0; k < count; k++) {
                    const float* from = grad + offset(eights[k]);
                    float *s = to_source + offset(eights[k]), *p = to_predicted + offset(eights[k]);
                    put<8>(g, 4 * k, w, [&](int64_t at, v4 v) { store(s + at, v), store(p + at, load<v4>(from + at) - v); });
                    if (to_qp)
                        for (int l = 4 * k; l < 4 * k + 4; l++) to_qp[eights[k]] += LN2_6 * of_qp[l];
                }
                count = 0;
            }
        }
    }
};

// States of all macroblocks of a call's frames by kind [KINDS][n * m][CONTEXTS], where levels are chosen by them
struct States {
    int64_t m;
    bool on;
    Scratch<float> four, eight, dc;
    States(int64_t n, int64_t m, bool on) : m(m), on(on), four(on ? n * m * CONTEXTS : 0), eight(on ? n * m * CONTEXTS : 0), dc(on ? n * m * CONTEXTS : 0) {}
    LumaStates of(int64_t i) const {
        if (!on) return {nullptr, nullptr, nullptr};
        int64_t first = i * m * CONTEXTS;
        return {four + first, eight + first, dc + first};
    }
};

void luma_states(int64_t threads, const Call& call, States& states, int64_t n, int64_t bh, int64_t bw, const float* source, const float* predicted,
                 const float* qp, const uint8_t* intra, const uint8_t* is8, const uint8_t* is16) {
    if (!call.quant.trellis) return;
    int64_t m = bh * bw;
    Scratch<Seen<CONTEXTS>> four(n * m, true), eight(n * m, true), dc(n * m, true);
    parallel(threads, n * bh, 3e3 * (double)bw, [&](int64_t task) {
        int64_t i = task / bh;
        Luma(call, i, bh, bw, source, predicted, qp, intra, is8, is16).count_row(task % bh, four + i * m, eight + i * m, dc + i * m);
    });
    parallel(threads, n, 300.0 * (double)m, [&](int64_t i) {
        Cabac::Slice slice(qp + i * m, intra + i * m, m);
        adapt<CONTEXTS>(call.cabac, four + i * m, call.cabac.first_of(LUMA, slice), m, states.four + i * m * CONTEXTS);
        adapt<CONTEXTS>(call.cabac, eight + i * m, call.cabac.first_of(EIGHT, slice), m, states.eight + i * m * CONTEXTS);
        adapt<CONTEXTS>(call.cabac, dc + i * m, call.cabac.first_of(DC, slice), m, states.dc + i * m * CONTEXTS);
    });
}

}  // namespace
}  // namespace DC_ISA
