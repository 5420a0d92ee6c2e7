// Residual coding: see reference.py and trellis.py, whose names these are.
#include "luma.h"

namespace DC_ISA {
namespace {

// Bits of all frames, where levels are chosen by them
void luma_bits(int64_t threads, const Call& call, LumaBits* bits, int64_t n, int64_t bh, int64_t bw, const float* source, const float* predicted,
               const float* qp, const uint8_t* intra, const uint8_t* is8, const uint8_t* is16) {
    if (!call.quant.trellis) return;
    Scratch<Luma::RowCounts> counts(n * bh);
    Scratch<uint8_t> has(3 * n, true);
    for (int64_t i = 0; i < n * bh * bw; i++) {
        uint8_t* of = has + 3 * (i / (bh * bw));
        of[0] |= !is8[i], of[1] |= is8[i] != 0, of[2] |= is16[i] && !is8[i];
    }
    parallel(threads, n * bh, 3e3 * (double)bw, [&](int64_t task) {
        int64_t i = task / bh;
        Luma(call, i, bh, bw, source, predicted, qp, intra, is8, is16).count_row(task % bh, has[3 * i], has[3 * i + 1], has[3 * i + 2], counts[task]);
    });
    for (int64_t i = 0; i < n; i++) {
        for (int64_t row = 1; row < bh; row++) {
            Luma::RowCounts &to = counts[i * bh], &from = counts[i * bh + row];
            to.four.add(from.four), to.dc.add(from.dc), to.eight.add(from.eight);
        }
        call.finish(counts[i * bh].four, bits[i].four), call.finish(counts[i * bh].dc, bits[i].dc), call.finish(counts[i * bh].eight, bits[i].eight);
    }
}

void code_luma(int64_t threads, const float* source, const float* predicted, const float* qp, const uint8_t* intra, const uint8_t* is8,
               const uint8_t* is16, float* out, float* levels4, float* levels8, uint8_t* coded, int64_t n, int64_t bh, int64_t bw,
               const float* quant, const float* trellis, const float* steps4, const float* steps8, const int64_t* contexts) {
    Call call(quant, trellis, steps4, steps8, contexts, qp, n * bh * bw, false);
    Scratch<LumaBits> bits(n, true);
    luma_bits(threads, call, bits, n, bh, bw, source, predicted, qp, intra, is8, is16);
    parallel(threads, n * bh, 4e3 * (double)bw, [&](int64_t task) {
        int64_t i = task / bh, samples = i * bh * bw * 256;
        Luma(call, i, bh, bw, source, predicted, qp, intra, is8, is16)
            .code_row(task % bh, bits[i], out + samples, levels4 ? levels4 + samples : nullptr, levels8 ? levels8 + samples : nullptr,
                      coded + samples / 16);
    });
}

void code_luma_backward(int64_t threads, const float* grad, const float* of_levels4, const float* of_levels8, const float* source,
                        const float* predicted, const float* qp, const uint8_t* intra, const uint8_t* is8, const uint8_t* is16, float* to_source,
                        float* to_predicted, float* to_qp, int64_t n, int64_t bh, int64_t bw, const float* quant, const float* trellis,
                        const float* steps4, const float* steps8, const int64_t* contexts) {
    Call call(quant, trellis, steps4, steps8, contexts, qp, n * bh * bw, true);
    Scratch<LumaBits> bits(n, true);
    luma_bits(threads, call, bits, n, bh, bw, source, predicted, qp, intra, is8, is16);
    parallel(threads, n * bh, 8e3 * (double)bw, [&](int64_t task) {
        int64_t i = task / bh, samples = i * bh * bw * 256;
        Luma(call, i, bh, bw, source, predicted, qp, intra, is8, is16)
            .back_row(task % bh, bits[i], grad + samples, of_levels4 ? of_levels4 + samples : nullptr, of_levels8 ? of_levels8 + samples : nullptr,
                      to_source + samples, to_predicted + samples, to_qp ? to_qp + i * bh * bw : nullptr);
    });
}

struct ChromaBits {
    ContextBits<4> dc;
    ContextBits<15> ac;
};
struct ChromaCounts {
    Counts<4> dc;
    Counts<15> ac;
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
    void tally(Tally<4>& of_dc, Tally<15>& of_ac) const {
        ::DC_ISA::count<4>(dc_y, of_dc);
        for (int k = 0; k < batches(); k++) ::DC_ISA::count<15>(ac[k].y + 1, of_ac);
    }
    void decide(const Call& call, const ChromaBits& bits, const uint8_t* intra, bool thresholds) {
        alignas(64) Lanes m[4];
        DC_EACH_VECTOR(l) for (int b = 0; b < 4; b++) store(m[b] + l, vabs(load<vf>(dc_y[b] + l)));
        call.choose<4>(m, bits.dc, lam, dead, dc_levels, thresholds ? dc_threshold : nullptr);
        DC_EACH_VECTOR(l) for (int b = 0; b < 4; b++) {
            vf v = load<vf>(dc_levels[b] + l);
            store(dc_levels[b] + l, load<vf>(dc_y[b] + l) < 0.0f ? -v : v);
        }
        for (int k = 0; k < batches(); k++) {
            Batch<4>& b = ac[k];
            b.magnitudes();
            call.choose<15>(b.y + 1, bits.ac, b.lam, b.dead, b.levels + 1, thresholds ? b.threshold + 1 : nullptr);
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

void chroma_bits(int64_t threads, const Call& call, ChromaBits* bits, int64_t n, int64_t bh, int64_t bw, const float* source,
                 const float* predicted, const float* qp, const uint8_t* intra) {
    if (!call.quant.trellis) return;
    Scratch<ChromaCounts> counts(n * 2 * bh, true);
    each_chroma(threads, call, n, bh, bw, source, predicted, qp, intra, 1e3, [&](Chroma& c, int64_t task, int64_t, int64_t, int64_t) {
        Scratch<Tally<4>> dc(1);
        Scratch<Tally<15>> ac(1);
        dc->clear(), ac->clear();
        c.tally(*dc, *ac);
        ChromaCounts now;
        dc->total(now.dc), ac->total(now.ac);
        counts[task].dc.add(now.dc), counts[task].ac.add(now.ac);
    });
    for (int64_t i = 0; i < n; i++) {
        ChromaCounts& to = counts[i * 2 * bh];
        for (int64_t k = 1; k < 2 * bh; k++) to.dc.add(counts[i * 2 * bh + k].dc), to.ac.add(counts[i * 2 * bh + k].ac);
        call.finish(to.dc, bits[i].dc), call.finish(to.ac, bits[i].ac);
    }
}

void code_chroma(int64_t threads, const float* source, const float* predicted, const float* qpc, const uint8_t* intra, float* out, float* levels,
                 int64_t n, int64_t bh, int64_t bw, const float* quant, const float* trellis, const float* steps4, const int64_t* contexts) {
    Call call(quant, trellis, steps4, nullptr, contexts, qpc, n * bh * bw, false);
    Scratch<ChromaBits> bits(n, true);
    chroma_bits(threads, call, bits, n, bh, bw, source, predicted, qpc, intra);
    each_chroma(threads, call, n, bh, bw, source, predicted, qpc, intra, 1.5e3, [&](Chroma& c, int64_t task, int64_t mb, int64_t samples, int64_t of_levels) {
        c.decide(call, bits[task / bh / 2], intra + mb, false);
        c.code(predicted + samples, out + samples, levels ? levels + of_levels : nullptr);
    });
}

// to_qp: of both planes, [n, 2, bh, bw], or null
void code_chroma_backward(int64_t threads, const float* grad, const float* of_levels, const float* source, const float* predicted, const float* qpc,
                          const uint8_t* intra, float* to_source, float* to_predicted, float* to_qp, int64_t n, int64_t bh, int64_t bw,
                          const float* quant, const float* trellis, const float* steps4, const int64_t* contexts) {
    Call call(quant, trellis, steps4, nullptr, contexts, qpc, n * bh * bw, true);
    Scratch<ChromaBits> bits(n, true);
    chroma_bits(threads, call, bits, n, bh, bw, source, predicted, qpc, intra);
    if (to_qp) memset(to_qp, 0, sizeof(float) * n * 2 * bh * bw);
    each_chroma(threads, call, n, bh, bw, source, predicted, qpc, intra, 3e3, [&](Chroma& c, int64_t task, int64_t mb, int64_t samples, int64_t at) {
        c.decide(call, bits[task / bh / 2], intra + mb, true);
        c.back(call, grad + samples, of_levels ? of_levels + at : nullptr, to_source + samples, to_predicted + samples,
               to_qp ? to_qp + at / 64 : nullptr);
    });
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
DC_EXPORT(choose_transform_8x8)
DC_EXPORT(merge_qp_delta)

}  // namespace DC_ISA
