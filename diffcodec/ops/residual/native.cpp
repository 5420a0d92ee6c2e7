// Residual coding: see reference.py and trellis.py, whose names these are.
#include "rate.h"

namespace DC_ISA {
namespace {

void code_luma(int64_t threads, const float* source, const float* predicted, const float* qp, const uint8_t* intra, const uint8_t* is8,
               const uint8_t* is16, float* out, float* levels4, float* levels8, uint8_t* coded, int64_t n, int64_t bh, int64_t bw,
               const float* quant, const float* steps4, const float* steps8, const int64_t* places, const float* cabac) {
    Call call(quant, steps4, steps8, places, cabac, qp, n * bh * bw, false);
    States states(n, bh * bw, call.quant.trellis);
    luma_states(threads, call, states, n, bh, bw, source, predicted, qp, intra, is8, is16);
    parallel(threads, n * bh, 4e3 * (double)bw, [&](int64_t task) {
        int64_t i = task / bh, samples = i * bh * bw * 256;
        Luma(call, i, bh, bw, source, predicted, qp, intra, is8, is16)
            .code_row(task % bh, states.of(i), out + samples, levels4 ? levels4 + samples : nullptr, levels8 ? levels8 + samples : nullptr,
                      coded + samples / 16);
    });
}

void code_luma_backward(int64_t threads, const float* grad, const float* of_levels4, const float* of_levels8, const float* source,
                        const float* predicted, const float* qp, const uint8_t* intra, const uint8_t* is8, const uint8_t* is16, float* to_source,
                        float* to_predicted, float* to_qp, int64_t n, int64_t bh, int64_t bw, const float* quant, const float* steps4,
                        const float* steps8, const int64_t* places, const float* cabac) {
    Call call(quant, steps4, steps8, places, cabac, qp, n * bh * bw, true);
    States states(n, bh * bw, call.quant.trellis);
    luma_states(threads, call, states, n, bh, bw, source, predicted, qp, intra, is8, is16);
    parallel(threads, n * bh, 8e3 * (double)bw, [&](int64_t task) {
        int64_t i = task / bh, samples = i * bh * bw * 256;
        Luma(call, i, bh, bw, source, predicted, qp, intra, is8, is16)
            .back_row(task % bh, states.of(i), grad + samples, of_levels4 ? of_levels4 + samples : nullptr, of_levels8 ? of_levels8 + samples : nullptr,
                      to_source + samples, to_predicted + samples, to_qp ? to_qp + i * bh * bw : nullptr);
    });
}

// States before each macroblock of a frame [m][CONTEXTS]; null where no trellis asks for them
struct ChromaStates {
    const float *dc, *ac;
};

// Up to sixteen chroma macroblocks of a row of a plane: DCs one macroblock a lane, other coefficients one block a lane
struct Chroma {
    Batch<4> ac[4];
    alignas(64) Lanes dc[4], dc_y[4], dc_levels[4], dc_threshold[4];
    alignas(64) float step[LANES], inverse[LANES], lam[LANES], dead[LANES];
    int count;
    int64_t w;

    static DC_INLINE void hadamard(Lanes* x, float factor) {
        DC_EACH_VECTOR(l) {
            vf a = load<vf>(x[0] + l), b = load<vf>(x[1] + l), c = load<vf>(x[2] + l), d = load<vf>(x[3] + l);
            vf s = a + b, t = a - b, u = c + d, v = c - d;
            store(x[0] + l, (s + u) * factor), store(x[1] + l, (t + v) * factor), store(x[2] + l, (s - u) * factor), store(x[3] + l, (t - v) * factor);
        }
    }
    void load_row(const Call& call, const float* source, const float* predicted, int64_t width, const float* qp, const uint8_t* intra, int macroblocks) {
        count = macroblocks, w = width;
        for (int m = 0; m < LANES; m++) {
            int i = m < count ? m : 0;
            Batch<4>& b = ac[m / 4];
            b.group(m % 4, call, &call.tables.four[StepTables::index(qp[i])], intra[i] != 0);
            step[m] = call.tables.four[StepTables::index(qp[i])].step[0], inverse[m] = (float)(1 / (8 * (double)step[m]));
            lam[m] = call.lambda(intra[i] != 0, 4), dead[m] = call.dead_zone(intra[i] != 0);
            if (m < count)
                fetch<2>(b.x, m % 4 * 4, w, [&](int64_t at) { return load<v4>(source + 8 * m + at) - load<v4>(predicted + 8 * m + at); });
            else
                for (auto& row : b.x)
                    for (int l = 0; l < 4; l++) row[m % 4 * 4 + l] = 0;
        }
        for (int k = 0; k < batches(); k++) ac[k].grouped(), ac[k].scale();
        for (int m = 0; m < LANES; m++)
            for (int b = 0; b < 4; b++) dc[b][m] = m < 4 * batches() ? ac[m / 4].x[0][m % 4 * 4 + b] : 0.0f;
        hadamard(dc, 1.0f);
        DC_EACH_VECTOR(l) for (int b = 0; b < 4; b++) store(dc_y[b] + l, load<vf>(dc[b] + l) * load<vf>(inverse + l));
    }
    int batches() const { return (count + 3) / 4; }
    // What the contexts of the macroblocks from mb on see
    void count_levels(const Call& call, Seen<CONTEXTS>* of_dc, Seen<CONTEXTS>* of_ac) {
        alignas(64) Lanes v[16];
        uint64_t places[LANES];
        call.guess<4>(dc_y, v, places);
        for (int l = 0; l < count; l++) count_block<4>(call.cabac, CHROMA_DC, v, l, places[l], of_dc[l]);
        for (int k = 0; k < batches(); k++) {
            call.guess<15>(ac[k].y + 1, v, places);
            for (int l = 0; l < LANES && 4 * k + l / 4 < count; l++) count_block<15>(call.cabac, CHROMA_AC, v, l, places[l], of_ac[4 * k + l / 4]);
        }
    }
    // states: of the macroblocks from the first one on
    void decide(const Call& call, const ChromaStates& states, const uint8_t* intra, bool thresholds) {
        Scratch<LaneBits> bits(1);
        if (states.dc)
            for (int l = 0; l < LANES; l++) bits->set(call.cabac, states.dc + CONTEXTS * (l < count ? l : 0), l, 1);
        alignas(64) Lanes m[4];
        DC_EACH_VECTOR(l) for (int b = 0; b < 4; b++) store(m[b] + l, vabs(load<vf>(dc_y[b] + l)));
        call.choose<4>(CHROMA_DC, m, *bits, lam, dead, dc_levels, thresholds ? dc_threshold : nullptr);
        DC_EACH_VECTOR(l) for (int b = 0; b < 4; b++) {
            vf v = load<vf>(dc_levels[b] + l);
            store(dc_levels[b] + l, load<vf>(dc_y[b] + l) < 0.0f ? -v : v);
        }
        for (int k = 0; k < batches(); k++) {
            Batch<4>& b = ac[k];
            b.magnitudes();
            if (states.ac)
                for (int g = 0; g < 4; g++) bits->set(call.cabac, states.ac + CONTEXTS * (4 * k + g < count ? 4 * k + g : 0), 4 * g, 4);
            call.choose<15>(CHROMA_AC, b.y + 1, *bits, b.lam, b.dead, b.levels + 1, thresholds ? b.threshold + 1 : nullptr);
            for (float& v : b.keep) v = 1;
            if (!call.quant.decimate) continue;
            alignas(64) float s[LANES];
            decimation_scores<16>(b.levels, 1, BIG_SCORE, s);
            for (int g = 0; g < 4; g++) {
                int i = 4 * k + g;
                if (i >= count || intra[i]) continue;
                float total = s[4 * g] + s[4 * g + 1] + s[4 * g + 2] + s[4 * g + 3];
                for (int l = 4 * g; l < 4 * g + 4; l++) b.keep[l] = total >= MIN_SCORE_CHROMA;
            }
        }
    }
    // out: of the row; levels: of its macroblocks or null
    void code(const float* predicted, float* out, float* levels) {
        alignas(64) Lanes back[4];
        DC_EACH_VECTOR(l) for (int b = 0; b < 4; b++) store(back[b] + l, load<vf>(dc_levels[b] + l) * load<vf>(step + l));
        hadamard(back, 0.125f);  // / 2, and / 4 of the first transform
        for (int k = 0; k < batches(); k++) {
            Batch<4>& b = ac[k];
            b.finish_levels(1);
            for (int l = 0; l < LANES; l++) {
                int m = 4 * k + l / 4;
                b.x[0][l] = back[l % 4][m], b.levels[0][l] = dc_levels[l % 4][m];
                if (levels && m < count)
                    for (int i = 0; i < 16; i++) levels[64 * m + 16 * (l % 4) + i] = b.levels[i][l];
            }
            b.reconstruct(1);
        }
        for (int m = 0; m < count; m++)
            put<2>(ac[m / 4].x, m % 4 * 4, w, [&](int64_t at, v4 v) { store(out + 8 * m + at, decoded(load<v4>(predicted + 8 * m + at), v)); });
    }
    // of_levels: gradient of the levels, or null; to_qp: added to, or null
    void back(const Call& call, const float* grad, const float* of_levels, float* to_source, float* to_predicted, float* to_qp) {
        Scratch<Lanes> g(64), further(16);
        memset((float*)*g, 0, sizeof(Lanes) * 64);
        for (int m = 0; m < count; m++)
            fetch<2>(g + m / 4 * 16, m % 4 * 4, w, [&](int64_t at) { return load<v4>(grad + 8 * m + at); });
        alignas(64) float of_qp[LANES];
        alignas(64) Lanes v[4];
        for (int k = 0; k < batches(); k++) {
            if (of_levels)
                for (int l = 0; l < LANES; l++)
                    for (int i = 0; i < 16; i++) further[i][l] = 4 * k + l / 4 < count ? of_levels[64 * (4 * k + l / 4) + 16 * (l % 4) + i] : 0;
            memset(of_qp, 0, sizeof of_qp);
            for (auto& t : ac[k].threshold[0]) t = 1;
            Luma::back<4>(ac[k], g + 16 * k, of_levels ? further : (Lanes*)nullptr, to_qp ? of_qp : nullptr, true);
            if (to_qp)
                for (int l = 0; l < LANES; l++)
                    if (4 * k + l / 4 < count) to_qp[4 * k + l / 4] += LN2_6 * of_qp[l];
        }
        for (int m = 0; m < LANES; m++)
            for (int b = 0; b < 4; b++) v[b][m] = m < 4 * batches() ? g[16 * (m / 4)][m % 4 * 4 + b] : 0.0f;
        hadamard(v, 0.125f);  // of orthonormal DCs
        for (int b = 0; b < 4; b++)
            DC_EACH_VECTOR(l) {
                vf s = load<vf>(step + l), rate = s * (-1.4426950408889634f * 1.4142135623730951f / call.quant.noise_width), power = vexp2(rate);
                vf slope = mean_slope(vabs(load<vf>(dc_y[b] + l)), load<vf>(dc_threshold[b] + l), rate, power,
                                      rate * (-0.5f / 1.4426950408889634f) / (1.0f - power));
                vf own = load<vf>(v[b] + l), more = {};
                if (of_levels)
                    for (int k = 0; k < LF; k++)
                        if (l + k < count) more[k] = of_levels[64 * (l + k) + 16 * b];
                vf all_of_it = own * s + more;
                if (to_qp) {
                    vf part = own * s * load<vf>(dc_levels[b] + l) - all_of_it * slope * load<vf>(dc_y[b] + l);
                    for (int k = 0; k < LF; k++)
                        if (l + k < count) to_qp[l + k] += LN2_6 * part[k];
                }
                store(v[b] + l, all_of_it * slope / s);
            }
        hadamard(v, 0.125f);
        for (int m = 0; m < 4 * batches(); m++)
            for (int b = 0; b < 4; b++) g[16 * (m / 4)][m % 4 * 4 + b] = v[b][m];
        for (int k = 0; k < batches(); k++) transform_back<4>(g + 16 * k);
        for (int m = 0; m < count; m++)
            put<2>(g + m / 4 * 16, m % 4 * 4, w, [&](int64_t at, v4 v) {
                store(to_source + 8 * m + at, v), store(to_predicted + 8 * m + at, load<v4>(grad + 8 * m + at) - v);
            });
    }
};

// f(chroma, frame, plane, first macroblock, offset of its samples, of its levels) for pieces of rows
template <class F>
void each_chroma(int64_t threads, const Call& call, int64_t n, int64_t bh, int64_t bw, const float* source, const float* predicted, const float* qp,
                 const uint8_t* intra, double ns, const F& f) {
    parallel(threads, n * 2 * bh, ns * (double)bw, [&](int64_t task) {
        int64_t row = task % bh, frame = task / bh / 2;
        Scratch<Chroma> c(1);
        for (int64_t x = 0; x < bw; x += LANES) {
            int64_t mb = (frame * bh + row) * bw + x, samples = task * 64 * bw + 8 * x;
            c->load_row(call, source + samples, predicted + samples, 8 * bw, qp + mb, intra + mb, (int)lowest<int64_t>(LANES, bw - x));
            f(*c, task, mb, samples, (task * bw + x) * 64);
        }
    });
}

// States of the chroma of all frames [n * m][CONTEXTS], Cb and Cr together
struct AllChromaStates {
    bool on;
    Scratch<float> dc, ac;
    AllChromaStates(int64_t threads, const Call& call, int64_t n, int64_t bh, int64_t bw, const float* source, const float* predicted, const float* qp,
                    const uint8_t* intra)
        : on(call.quant.trellis), dc(on ? n * bh * bw * CONTEXTS : 0), ac(on ? n * bh * bw * CONTEXTS : 0) {
        if (!on) return;
        int64_t m = bh * bw;
        Scratch<Seen<CONTEXTS>> of_dc(2 * n * m, true), of_ac(2 * n * m, true);  // of each plane
        each_chroma(threads, call, n, bh, bw, source, predicted, qp, intra, 1e3, [&](Chroma& c, int64_t task, int64_t mb, int64_t, int64_t) {
            int64_t at = task / bh % 2 * n * m + mb;
            c.count_levels(call, of_dc + at, of_ac + at);
        });
        parallel(threads, n, 300.0 * (double)m, [&](int64_t i) {
            Cabac::Slice slice(qp + i * m, intra + i * m, m);
            auto add = [&](Seen<CONTEXTS>* cb, const Seen<CONTEXTS>* cr) {
                for (int64_t k = 0; k < m; k++)
                    for (int c = 0; c < CONTEXTS; c++) cb[k].hits[c] += cr[k].hits[c], cb[k].seen[c] += cr[k].seen[c];
            };
            add(of_dc + i * m, of_dc + (n + i) * m), add(of_ac + i * m, of_ac + (n + i) * m);
            adapt<CONTEXTS>(call.cabac, of_dc + i * m, call.cabac.first_of(CHROMA_DC, slice), m, dc + i * m * CONTEXTS);
            adapt<CONTEXTS>(call.cabac, of_ac + i * m, call.cabac.first_of(CHROMA_AC, slice), m, ac + i * m * CONTEXTS);
        });
    }
    ChromaStates of(int64_t mb) const {
        if (!on) return {nullptr, nullptr};
        return {dc + mb * CONTEXTS, ac + mb * CONTEXTS};
    }
};

void code_chroma(int64_t threads, const float* source, const float* predicted, const float* qpc, const uint8_t* intra, float* out, float* levels,
                 int64_t n, int64_t bh, int64_t bw, const float* quant, const float* steps4, const int64_t* places, const float* cabac) {
    Call call(quant, steps4, nullptr, places, cabac, qpc, n * bh * bw, false);
    AllChromaStates states(threads, call, n, bh, bw, source, predicted, qpc, intra);
    each_chroma(threads, call, n, bh, bw, source, predicted, qpc, intra, 1.5e3, [&](Chroma& c, int64_t, int64_t mb, int64_t samples, int64_t of_levels) {
        c.decide(call, states.of(mb), intra + mb, false);
        c.code(predicted + samples, out + samples, levels ? levels + of_levels : nullptr);
    });
}

// to_qp: of both planes, [n, 2, bh, bw], or null
void code_chroma_backward(int64_t threads, const float* grad, const float* of_levels, const float* source, const float* predicted, const float* qpc,
                          const uint8_t* intra, float* to_source, float* to_predicted, float* to_qp, int64_t n, int64_t bh, int64_t bw,
                          const float* quant, const float* steps4, const int64_t* places, const float* cabac) {
    Call call(quant, steps4, nullptr, places, cabac, qpc, n * bh * bw, true);
    AllChromaStates states(threads, call, n, bh, bw, source, predicted, qpc, intra);
    if (to_qp) memset(to_qp, 0, sizeof(float) * n * 2 * bh * bw);
    each_chroma(threads, call, n, bh, bw, source, predicted, qpc, intra, 3e3, [&](Chroma& c, int64_t, int64_t mb, int64_t samples, int64_t at) {
        c.decide(call, states.of(mb), intra + mb, true);
        c.back(call, grad + samples, of_levels ? of_levels + at : nullptr, to_source + samples, to_predicted + samples,
               to_qp ? to_qp + at / 64 : nullptr);
    });
}

// Bits of the chroma levels of a frame's macroblocks, of Cb and Cr [2][m][64], by the contexts that they leave behind; and whether there are any
void chroma_bits(const Deciding& frame, const float* cb, const float* cr, const Cabac::Slice& slice, float* bits, uint8_t* any) {
    const Cabac& cabac = frame.call.cabac;
    int64_t m = frame.m;
    Scratch<Seen<CONTEXTS>> of_dc(m, true), of_ac(m, true);
    Scratch<float> dc(m * CONTEXTS), ac(m * CONTEXTS);
    auto lanes = [&](int64_t b, Lanes* of_dc, Lanes* of_ac) {  // DCs: a plane a lane; the others: a block a lane
        for (int p = 0; p < 2; p++)
            for (int k = 0; k < 4; k++) {
                const float* from = (p ? cr : cb) + 64 * b + 16 * k;
                of_dc[k][p] = std::fabs(from[0]);
                for (int i = 1; i < 16; i++) of_ac[i - 1][4 * p + k] = std::fabs(from[i]);
            }
    };
    parallel(frame.threads, m, 500, [&](int64_t b) {
        alignas(64) Lanes d[4] = {}, a[15] = {};
        uint64_t places[LANES];
        lanes(b, d, a);
        any[b] = 0;
        nonzero<4>(d, places);
        for (int l = 0; l < 2; l++) count_block<4>(cabac, CHROMA_DC, d, l, places[l], of_dc[b]), any[b] |= places[l] != 0;
        nonzero<15>(a, places);
        for (int l = 0; l < 8; l++) count_block<15>(cabac, CHROMA_AC, a, l, places[l], of_ac[b]), any[b] |= places[l] != 0;
    });
    adapt<CONTEXTS>(cabac, of_dc, cabac.first_of(CHROMA_DC, slice), m, dc);
    adapt<CONTEXTS>(cabac, of_ac, cabac.first_of(CHROMA_AC, slice), m, ac);
    parallel(frame.threads, m, 500, [&](int64_t b) {
        bits[b] = 0;
        if (!any[b]) return;
        alignas(64) Lanes d[4] = {}, a[15] = {};
        alignas(64) float of_dcs[LANES], of_acs[LANES];
        Scratch<LaneBits> table(1);
        lanes(b, d, a);
        table->set(cabac, dc + b * CONTEXTS, 0, LANES);
        level_bits<4>(cabac, CHROMA_DC, d, *table, of_dcs);
        table->set(cabac, ac + b * CONTEXTS, 0, LANES);
        level_bits<15>(cabac, CHROMA_AC, a, *table, of_acs);
        float total = of_dcs[0] + of_dcs[1], more = 0;
        for (int l = 0; l < 8; l++) more += of_acs[l];
        bits[b] = total + more;
    });
}

// Squared error of a macroblock's chroma, both planes [2][8 bh][8 bw]
float chroma_error(const float* a, const float* b, int64_t mb, int64_t bh, int64_t bw) {
    int64_t w = 8 * bw;
    float total = 0;
    for (int p = 0; p < 2; p++) {
        int64_t at = p * 8 * bh * w + mb / bw * 8 * w + mb % bw * 8;
        for (int y = 0; y < 8; y++)
            for (int x = 0; x < 8; x++) total += (a[at + y * w + x] - b[at + y * w + x]) * (a[at + y * w + x] - b[at + y * w + x]);
    }
    return total;
}

// The second candidate may be missing
void choose_coding(int64_t threads, const float* source, const float* chroma, const float* predicted0, const float* predicted1, const float* chroma0,
                   const float* chroma1, const float* side0, const float* side1, const uint8_t* may_skip, const float* qp, const float* qpc,
                   const float* lam, int64_t* best, uint8_t* skipped, uint8_t* eight, int64_t n, int64_t bh, int64_t bw, double psy,
                   int64_t transform_8x8, const float* weights, const float* quant, const float* steps4, const float* steps8, const int64_t* places,
                   const float* cabac) {
    Call call(quant, steps4, steps8, places, cabac, qp, n * bh * bw, false);
    int64_t m = bh * bw;
    int candidates = predicted1 ? 2 : 1, transforms = transform_8x8 ? 2 : 1;
    const float *luma[2] = {predicted0, predicted1}, *of_chroma[2] = {chroma0, chroma1}, *side[2] = {side0, side1};
    Scratch<uint8_t> no(n * m, true);
    Scratch<float> decoded(n * 128 * m), levels(n * 128 * m), chroma_cost(2 * n * m), bits(2 * n * m);
    Scratch<uint8_t> any(2 * n * m);
    auto chroma_weight = [&](int64_t at) { return psy != 0 ? std::exp2((qp[at] - qpc[at]) / 3) : 1.0f; };
    for (int c = 0; c < candidates; c++) {
        code_chroma(threads, chroma, of_chroma[c], qpc, no, decoded, levels, n, bh, bw, quant, steps4, places, cabac);
        for (int64_t i = 0; i < n; i++) {
            int64_t to = (c * n + i) * m;
            Cabac::Slice slice(qpc + i * m, no, m);
            Deciding frame(threads, call, bh, bw, source + i * 256 * m, qp + i * m, lam + i * m, false, 0, weights);
            chroma_bits(frame, levels + i * 128 * m, levels + i * 128 * m + 64 * m, slice, bits + to, any + to);
            parallel(threads, m, 100, [&](int64_t b) {
                chroma_cost[to + b] = chroma_weight(i * m + b) * chroma_error(chroma + i * 128 * m, decoded + i * 128 * m, b, bh, bw);
            });
        }
    }
    for (int64_t i = 0; i < n; i++) {
        Deciding frame(threads, call, bh, bw, source + i * 256 * m, qp + i * m, lam + i * m, false, (float)psy, weights);
        // the contexts of all are those that the first candidate leaves behind, by the 8x8 transform where there is one
        Way first(m, transform_8x8 ? 1 : 2);
        frame.code(first, luma[0] + i * 256 * m);
        WayStates states(frame, &first, 1, no + 0);
        Scratch<float> least(m), others(2 * m);
        auto weigh = [&](Way& way, int c) {
            frame.add_bits(way, states, [&](int64_t b) {
                int64_t at = (c * n + i) * m + b;
                bool coded = any[at] || frame.flags(way).any(b);
                return side[c][i * m + b] + (bits[at] + any[at] + weights[2] * coded);
            });
            for (int64_t b = 0; b < m; b++) way.cost[b] += chroma_cost[(c * n + i) * m + b];
        };
        for (int c = 0; c < candidates; c++) {
            Way way(m, 2);
            if (transforms == 2 || c) frame.code(way, luma[c] + i * 256 * m);
            Way& four = transforms == 2 || c ? way : first;
            weigh(four, c);
            for (int64_t b = 0; b < m; b++)
                if (c == 0 || four.cost[b] < least[b]) least[b] = four.cost[b], best[i * m + b] = c;
            if (transforms == 1) continue;
            Way other(m, 1);
            if (c) frame.code(other, luma[c] + i * 256 * m);
            Way& eights = c ? other : first;
            weigh(eights, c);
            for (int64_t b = 0; b < m; b++) others[c * m + b] = eights.cost[b];
        }
        int last = candidates - 1;
        parallel(threads, m, 300, [&](int64_t b) {
            int64_t at = i * m + b;
            skipped[at] = 0;
            if (may_skip && may_skip[at]) {
                float without = frame.distortion_of(luma[last] + i * 256 * m, b) +
                                chroma_weight(at) * chroma_error(chroma + i * 128 * m, of_chroma[last] + i * 128 * m, b, bh, bw);
                skipped[at] = without <= least[b];
            }
            if (skipped[at]) best[at] = last;
            eight[at] = transforms == 2 && !skipped[at] && others[best[at] * m + b] <= least[b];
        });
    }
}

void choose_transform_8x8(int64_t threads, const float* source, const float* predicted, float* cost, uint8_t* eight, int64_t n, int64_t bh, int64_t bw,
                          int64_t satd, int64_t allowed) {
    int64_t w = 16 * bw;
    parallel(threads, n * bh, 300.0 * (double)bw, [&](int64_t row) {
        alignas(64) uint8_t s[256], p[256];
        for (int64_t x = 0; x < bw; x++) {
            block_bytes(source + row * 16 * w + 16 * x, w, s, 16, 16);
            block_bytes(predicted + row * 16 * w + 16 * x, w, p, 16, 16);
            int32_t fours = satd || allowed ? satd2<16>(s, 16, p, 16) : 0;
            cost[row * bw + x] = satd ? 0.5f * (float)fours : (float)sad<16>(s, 16, p, 16);
            eight[row * bw + x] = allowed && sa8d4<16>(s, 16, p, 16) < 2 * fours;
        }
    });
}

void merge_qp_delta(int64_t threads, const float* qp, const float* frame_qp, float* out, int64_t f, int64_t m) {
    (void)threads;
    for (int64_t i = 0; i < f; i++) {
        float before = frame_qp[i];
        for (int64_t k = i * m; k < (i + 1) * m; k++) before = out[k] = std::fabs(qp[k] - before) == 1 ? before : qp[k];
    }
}

}  // namespace

DC_EXPORT(code_luma)
DC_EXPORT(code_luma_backward)
DC_EXPORT(code_chroma)
DC_EXPORT(code_chroma_backward)
DC_EXPORT(choose_coding)
DC_EXPORT(choose_transform_8x8)
DC_EXPORT(merge_qp_delta)

}  // namespace DC_ISA
