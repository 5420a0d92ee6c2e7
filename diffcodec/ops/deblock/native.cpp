// Deblocking: see reference.py, whose names these are. Edges are filtered with LH samples along the edge side by side; vertical edges in strips of as many
// rows, turned over.
#include "../common/native/blocks.h"

namespace DC_ISA {
namespace {

// vectors, used: of one or two lists; used may be missing for the second one
void motion_info(int64_t threads, const int64_t* mv0, const uint8_t* used0, const int64_t* ref0, const int64_t* mv1, const uint8_t* used1,
                 const int64_t* ref1, float* out, int64_t n) {
    (void)threads;
    const int64_t *mv[2] = {mv0, mv1}, *ref[2] = {ref0, ref1};
    const uint8_t* used[2] = {used0, used1};
    for (int64_t i = 0; i < n; i++)
        for (int j = 0; j < 2; j++) {
            bool in_use = mv[j] && used[j][i];
            out[6 * i + 3 * j] = in_use ? (float)mv[j][2 * i] : 0.0f;
            out[6 * i + 3 * j + 1] = in_use ? (float)mv[j][2 * i + 1] : 0.0f;
            out[6 * i + 3 * j + 2] = in_use ? (float)ref[j][i] : -1.0f;
        }
}

DC_INLINE bool far_apart(const float* a, const float* b, bool crossed) {
    const float *p = crossed ? a + 3 : a, *q = crossed ? a : a + 3;
    return std::fabs(p[0] - b[0]) >= 4 || std::fabs(p[1] - b[1]) >= 4 || std::fabs(q[0] - b[3]) >= 4 || std::fabs(q[1] - b[4]) >= 4 || p[2] != b[2] ||
           q[2] != b[5];
}

void boundary_strengths(int64_t threads, const uint8_t* intra, const uint8_t* coded, const float* motion, const uint8_t* eight, float* left, float* upper,
                        int64_t n, int64_t bh, int64_t bw) {
    int64_t h4 = 4 * bh, w4 = 4 * bw;
    parallel(threads, n * h4, 8.0 * (double)w4, [&](int64_t row) {
        int64_t i = row / h4, y = row % h4;
        for (int64_t x = 0; x < w4; x++) {
            int64_t mb = (i * bh + y / 4) * bw + x / 4, at = row * w4 + x;
            const float* own = motion + ((i * 2 * bh + y / 2) * 2 * bw + x / 2) * 6;
            for (int down = 0; down < 2; down++) {
                int64_t index = down ? y : x, y1 = y - down, x1 = x - !down;
                float bs = 0;
                if (index > 0 && !(eight[mb] && index % 2)) {
                    if (intra[mb] || intra[(i * bh + y1 / 4) * bw + x1 / 4])
                        bs = index % 4 ? 3.0f : 4.0f;
                    else if (coded[at] || coded[(i * h4 + y1) * w4 + x1])
                        bs = 2;
                    else if (index % 2 == 0) {  // inside an 8x8 block nothing moves otherwise
                        const float* other = motion + ((i * 2 * bh + y1 / 2) * 2 * bw + x1 / 2) * 6;
                        bs = far_apart(own, other, false) && far_apart(own, other, true);
                    }
                }
                (down ? upper : left)[at] = bs;
            }
        }
    });
}

// Tables 8-16 and 8-17: alpha, beta, tc0 of bS 1, 2, 3; [5, 52]
struct Tables {
    const float* t;
    float alpha(int i) const { return t[i]; }
    float beta(int i) const { return t[52 + i]; }
    float tc0(int bs, int i) const { return t[52 * (1 + bs) + i]; }
};

// What the edges above (of a turned plane: to the left of) the 4x4 blocks of a frame are filtered with. `along`, `across`: 4x4 blocks in both directions.
struct Strengths {
    const float *bs, *qp;
    int64_t along, across;
    bool turned;
    Tables tables;
    // The edge in front of block `e` across, for lanes from block b along on, `per` lanes a block; false where nothing is filtered
    bool at(int64_t e, int64_t b, int per, int lanes, int16_t* alpha, int16_t* beta, int16_t* tc0, int16_t* strong) const {
        bool any = false;
        for (int l = 0; l < LH; l += per, b++) {
            float strength = 0;
            int64_t mb0 = 0, mb1 = 0;
            if (l < lanes) {
                int64_t w = turned ? across : along;
                strength = bs[turned ? b * w + e : e * w + b];
                mb1 = turned ? b / 4 * (w / 4) + e / 4 : e / 4 * (w / 4) + b / 4, mb0 = turned ? b / 4 * (w / 4) + (e - 1) / 4 : (e - 1) / 4 * (w / 4) + b / 4;
            }
            int s = (int)strength, index = (int)clip(std::floor((qp[mb0] + qp[mb1] + 1) / 2), 0.0f, 51.0f);
            int16_t v[4] = {(int16_t)(s ? tables.alpha(index) : 0), (int16_t)tables.beta(index), (int16_t)tables.tc0(clip(s, 1, 3), index), (int16_t)-(s == 4)};
            any |= v[0] != 0;
            for (int k = l; k < l + per; k++) alpha[k] = v[0], beta[k] = v[1], tc0[k] = v[2], strong[k] = v[3];
        }
        return any;
    }
};

DC_INLINE vh size_of(vh x) { return vmax(x, (vh)-x); }
DC_INLINE vh bound(vh x, vh limit) { return vmax(vmin(x, limit), (vh)-limit); }
DC_INLINE vh to_byte(vh x) { return vmax(vmin(x, (vh)(vh{} + 255)), vh{}); }
DC_INLINE bool none(vh x) {
    vhq q = (vhq)x;
    uint64_t out = 0;
    for (int i = 0; i < HB / 8; i++) out |= q[i];
    return !out;
}

// What the gradient is masked by at an edge: changes of both sides, of p1, of q1 that no clip cut; strong; strong with all taps on either side
struct Masks {
    vh free, free_p, free_q, hard, mp, mq;
};

// Samples s[-4..3] across an edge, `pitch` apart
DC_INLINE Masks luma_edge(int16_t* s, int64_t pitch, vh alpha, vh beta, vh tc0, vh strong, bool may_be_strong) {
    vh p3 = load<vh>(s - 4 * pitch), p2 = load<vh>(s - 3 * pitch), p1 = load<vh>(s - 2 * pitch), p0 = load<vh>(s - pitch);
    vh q0 = load<vh>(s), q1 = load<vh>(s + pitch), q2 = load<vh>(s + 2 * pitch), q3 = load<vh>(s + 3 * pitch);
    vh step = q0 - p0, gap = size_of(step), on = (gap < alpha) & (size_of(p1 - p0) < beta) & (size_of(q1 - q0) < beta);
    vh ap = size_of(p2 - p0) < beta, aq = size_of(q2 - q0) < beta, normal = on & ~strong;
    vh raw = (step * 4 + (p1 - q1) + 4) >> 3, tc = tc0 - ap - aq, delta = bound(raw, tc);
    vh average = (p0 + q0 + 1) >> 1, raw_p = (p2 + average - p1 * 2) >> 1, raw_q = (q2 + average - q1 * 2) >> 1;
    vh delta_p = bound(raw_p, tc0), delta_q = bound(raw_q, tc0), np = normal & ap, nq = normal & aq;
    Masks m = {normal & (raw == delta), np & (raw_p == delta_p), nq & (raw_q == delta_q), vh{}, vh{}, vh{}};
    vh new_p0 = normal ? to_byte(p0 + delta) : p0, new_q0 = normal ? to_byte(q0 - delta) : q0, new_p1 = p1 + (delta_p & np), new_q1 = q1 + (delta_q & nq);
    if (may_be_strong) {
        vh hard = on & strong, much = hard & (gap < (alpha >> 2) + 2), mp = much & ap, mq = much & aq;
        m.hard = hard, m.mp = mp, m.mq = mq;
        vh middle = p0 + q0;
        new_p0 = mp ? (p2 + p1 * 2 + middle * 2 + q1 + 4) >> 3 : hard ? (p1 * 2 + p0 + q1 + 2) >> 2 : new_p0;
        new_q0 = mq ? (q2 + q1 * 2 + middle * 2 + p1 + 4) >> 3 : hard ? (q1 * 2 + q0 + p1 + 2) >> 2 : new_q0;
        new_p1 = mp ? (p2 + p1 + middle + 2) >> 2 : new_p1;
        new_q1 = mq ? (q2 + q1 + middle + 2) >> 2 : new_q1;
        store(s - 3 * pitch, mp ? (p3 * 2 + p2 * 3 + p1 + middle + 4) >> 3 : p2);
        store(s + 2 * pitch, mq ? (q3 * 2 + q2 * 3 + q1 + middle + 4) >> 3 : q2);
    }
    store(s - 2 * pitch, new_p1), store(s - pitch, new_p0), store(s, new_q0), store(s + pitch, new_q1);
    return m;
}

DC_INLINE Masks chroma_edge(int16_t* s, int64_t pitch, vh alpha, vh beta, vh tc0, vh strong) {
    vh p1 = load<vh>(s - 2 * pitch), p0 = load<vh>(s - pitch), q0 = load<vh>(s), q1 = load<vh>(s + pitch);
    vh step = q0 - p0, on = (size_of(step) < alpha) & (size_of(p1 - p0) < beta) & (size_of(q1 - q0) < beta);
    vh normal = on & ~strong, hard = on & strong, raw = (step * 4 + (p1 - q1) + 4) >> 3, delta = bound(raw, tc0 + 1);
    store(s - pitch, hard ? (p1 * 2 + p0 + q1 + 2) >> 2 : normal ? to_byte(p0 + delta) : p0);
    store(s, hard ? (q1 * 2 + q0 + p1 + 2) >> 2 : normal ? to_byte(q0 - delta) : q0);
    return {normal & (raw == delta), vh{}, vh{}, hard, vh{}, vh{}};
}

// A mask of the lanes from l on as 0 and 1
DC_INLINE vf marked(vh mask, int l) {
    typedef int16_t part __attribute__((vector_size(VB / 2)));
    alignas(64) int16_t t[LH < LF ? LF : LH];
    store(t, mask);
    return -__builtin_convertvector(load<part>(t + l), vf);
}

// Adjoint of luma_edge on gradients g of LH lanes, rows of LH; the floors of the standard's arithmetic pass the gradient
DC_INLINE void luma_back(float* g, const Masks& m) {
    bool strong = !none(m.hard);
#pragma GCC unroll 4
    for (int l = 0; l < LH; l += LF) {
        auto at = [&](int k) { return g + k * LH + l; };
        auto share = [&](vh mask) { return marked(mask, l); };
        vf p3 = load<vf>(at(-4)), p2 = load<vf>(at(-3)), p1 = load<vf>(at(-2)), p0 = load<vf>(at(-1)), q0 = load<vf>(at(0)), q1 = load<vf>(at(1)),
           q2 = load<vf>(at(2)), q3 = load<vf>(at(3));
        vf d = share(m.free) * (p0 - q0), dp = share(m.free_p) * p1, dq = share(m.free_q) * q1;
        if (strong) {
            vf hard = share(m.hard), mp = share(m.mp), mq = share(m.mq);
            vf a = mp * p2 * 0.125f, b = mp * p1 * 0.25f, c = mp * p0 * 0.125f, x = mq * q0 * 0.125f, y = mq * q1 * 0.25f, z = mq * q2 * 0.125f;
            vf wp = (hard - mp) * p0 * 0.25f, wq = (hard - mq) * q0 * 0.25f;
            p2 -= mp * p2, p1 -= mp * p1, p0 -= hard * p0, q0 -= hard * q0, q1 -= mq * q1, q2 -= mq * q2;
            p3 += a * 2.0f;
            p2 += a * 3.0f + b + c;
            p1 += a + b + c * 2.0f + x + wp * 2.0f + wq;
            p0 += a + b + c * 2.0f + x * 2.0f + y + z + wp;
            q0 += a + b + c * 2.0f + x * 2.0f + y + z + wq;
            q1 += c + x * 2.0f + y + z + wp + wq * 2.0f;
            q2 += x + y + z * 3.0f;
            q3 += z * 2.0f;
            store(at(-4), p3), store(at(3), q3);
        }
        vf side = (dp + dq) * 0.25f;
        store(at(-3), p2 + dp * 0.5f), store(at(2), q2 + dq * 0.5f);
        store(at(-2), p1 + d * 0.125f - dp), store(at(1), q1 - d * 0.125f - dq);
        store(at(-1), p0 + side - d * 0.5f), store(at(0), q0 + side + d * 0.5f);
    }
}

DC_INLINE void chroma_back(float* g, const Masks& m) {
#pragma GCC unroll 4
    for (int l = 0; l < LH; l += LF) {
        auto at = [&](int k) { return g + k * LH + l; };
        auto share = [&](vh mask) { return marked(mask, l); };
        vf p1 = load<vf>(at(-2)), p0 = load<vf>(at(-1)), q0 = load<vf>(at(0)), q1 = load<vf>(at(1));
        vf d = share(m.free) * (p0 - q0), hp = share(m.hard) * p0, hq = share(m.hard) * q0;
        store(at(-2), p1 + hp * 0.5f + hq * 0.25f + d * 0.125f), store(at(1), q1 + hq * 0.5f + hp * 0.25f - d * 0.125f);
        store(at(-1), p0 - hp * 0.75f - d * 0.5f), store(at(0), q0 - hq * 0.75f + d * 0.5f);
    }
}

// LH columns of a plane (of a turned one: rows) and all edges across them
struct Strip {
    bool chroma;
    int64_t length;  // samples across
    int16_t* samples;  // [length][LH]
    // edges of each place in the macroblock one after the other, as the reference does; f(edge, 4x4 block across)
    template <class F> void each(bool backwards, const F& f) const {
        int64_t period = chroma ? 8 : 16, blocks = length / period;
        int places = chroma ? 2 : 4;
        for (int k = 0; k < places; k++) {
            int place = backwards ? places - 1 - k : k;
            for (int64_t b = place ? 0 : 1; b < blocks; b++) f(b * period + 4 * place, chroma ? 4 * b + 2 * place : 4 * b + place);
        }
    }
    // masks: of each edge by 4x4 block across, or null; used: whether anything is filtered there
    void filter(const Strengths& of, int64_t first, int lanes, Masks* masks, uint8_t* used) const {
        alignas(64) int16_t alpha[LH], beta[LH], tc0[LH], strong[LH];
        int per = chroma ? 2 : 4;
        each(false, [&](int64_t at, int64_t e) {
            bool any = of.at(e, first / per, per, lanes, alpha, beta, tc0, strong);
            if (used) used[e] = any;
            if (!any) return;
            vh a = load<vh>(alpha), b = load<vh>(beta), t = load<vh>(tc0), s = load<vh>(strong);
            Masks m = chroma ? chroma_edge(samples + at * LH, LH, a, b, t, s) : luma_edge(samples + at * LH, LH, a, b, t, s, at % 16 == 0);
            if (masks) masks[e] = m, used[e] = !(none(m.free | m.free_p | m.free_q | m.hard));
        });
    }
    void back(float* g, const Masks* masks, const uint8_t* used) const {
        each(true, [&](int64_t at, int64_t e) {
            if (!used[e]) return;
            chroma ? chroma_back(g + at * LH, masks[e]) : luma_back(g + at * LH, masks[e]);
        });
    }
};

// Copies of strips: of rows y0.. turned over, or of columns x0..
typedef int16_t h4 __attribute__((vector_size(8)));
template <class T> struct Four;
template <> struct Four<float> { typedef v4 type; };
template <> struct Four<int16_t> { typedef h4 type; };
// 4 x 4 numbers turned over, `from` and `to` so far apart from row to row
template <class A, class B> DC_INLINE void turn_tile(const A* from, int64_t stride, B* to, int64_t pitch) {
    auto row = [&](int k) { return __builtin_convertvector(load<typename Four<A>::type>(from + k * stride), v4); };
    v4 a = row(0), b = row(1), c = row(2), d = row(3);
    turn4(a, b, c, d);
    auto put = [&](int k, v4 v) { store(to + k * pitch, __builtin_convertvector(v, typename Four<B>::type)); };
    put(0, a), put(1, b), put(2, c), put(3, d);
}
// `rows` and `length` are multiples of 4
template <class A, class B> DC_INLINE void turn(const A* from, int64_t stride, int rows, int64_t length, B* to) {
    for (int64_t x = 0; x < length; x += 4) {
        for (int y = 0; y < rows; y += 4) turn_tile(from + y * stride + x, stride, to + x * LH + y, LH);
        for (int k = 0; k < 4; k++)
            for (int y = rows; y < LH; y++) to[(x + k) * LH + y] = 0;
    }
}
template <class A, class B> DC_INLINE void turn_back(const A* from, B* to, int64_t stride, int rows, int64_t length) {
    for (int64_t x = 0; x < length; x += 4)
        for (int y = 0; y < rows; y += 4) turn_tile(from + x * LH + y, LH, to + y * stride + x, stride);
}
template <class A, class B> DC_INLINE void columns(const A* from, int64_t stride, int lanes, int64_t length, B* to) {
    for (int64_t y = 0; y < length; y++) {
        if (lanes == LH)
            for (int k = 0; k < LH; k++) to[y * LH + k] = (B)from[y * stride + k];
        else
            for (int k = 0; k < LH; k++) to[y * LH + k] = k < lanes ? (B)from[y * stride + k] : (B)0;
    }
}
template <class A, class B> DC_INLINE void columns_back(const A* from, B* to, int64_t stride, int lanes, int64_t length) {
    for (int64_t y = 0; y < length; y++)
        for (int k = 0; k < lanes; k++) to[y * stride + k] = (B)from[y * LH + k];
}

// n planes, `each` of them a frame (chroma has two)
struct Planes {
    int64_t threads, n, each, h, w;
    bool chroma;
    const float *left, *upper, *qp;
    Tables tables;

    Strengths strengths(int64_t plane, bool turned) const {
        int64_t k = chroma ? 2 : 4, blocks = (h / k) * (w / k), frame = plane / each;
        return {(turned ? left : upper) + frame * blocks, qp + frame * (blocks / 16), turned ? h / k : w / k, turned ? w / k : h / k, turned, tables};
    }
    // Vertical edges of float planes, into 16-bit ones
    void vertical(const float* in, int16_t* out) const {
        int64_t strips = (h + LH - 1) / LH;
        parallel(threads, n * strips, 2.0 * (double)(LH * w), [&](int64_t task) {
            int64_t plane = task / strips, y = task % strips * LH;
            int lanes = (int)lowest<int64_t>(LH, h - y);
            Scratch<int16_t> samples(w * LH);
            turn(in + (plane * h + y) * w, w, lanes, w, (int16_t*)samples);
            Strip{chroma, w, samples}.filter(strengths(plane, true), y, lanes, nullptr, nullptr);
            turn_back((const int16_t*)samples, out + (plane * h + y) * w, w, lanes, w);
        });
    }
    void forward(const float* in, float* out) const {
        Scratch<int16_t> between(n * h * w);
        vertical(in, between);
        int64_t strips = (w + LH - 1) / LH;
        parallel(threads, n * strips, 2.0 * (double)(LH * h), [&](int64_t task) {
            int64_t plane = task / strips, x = task % strips * LH;
            int lanes = (int)lowest<int64_t>(LH, w - x);
            Scratch<int16_t> samples(h * LH);
            columns((const int16_t*)between + plane * h * w + x, w, lanes, h, (int16_t*)samples);
            Strip{chroma, h, samples}.filter(strengths(plane, false), x, lanes, nullptr, nullptr);
            columns_back((const int16_t*)samples, out + plane * h * w + x, w, lanes, h);
        });
    }
    void backward(const float* grad, const float* in, float* out) const {
        Scratch<int16_t> between(n * h * w);
        vertical(in, between);
        int64_t k = chroma ? 2 : 4, strips = (w + LH - 1) / LH;
        parallel(threads, n * strips, 6.0 * (double)(LH * h), [&](int64_t task) {
            int64_t plane = task / strips, x = task % strips * LH;
            int lanes = (int)lowest<int64_t>(LH, w - x);
            Scratch<int16_t> samples(h * LH);
            Scratch<Masks> masks(h / k);
            Scratch<uint8_t> used(h / k);
            Scratch<float> g(h * LH);
            columns((const int16_t*)between + plane * h * w + x, w, lanes, h, (int16_t*)samples);
            columns(grad + plane * h * w + x, w, lanes, h, (float*)g);
            Strip strip{chroma, h, samples};
            strip.filter(strengths(plane, false), x, lanes, masks, used);
            strip.back(g, masks, used);
            columns_back((const float*)g, out + plane * h * w + x, w, lanes, h);
        });
        strips = (h + LH - 1) / LH;
        parallel(threads, n * strips, 6.0 * (double)(LH * w), [&](int64_t task) {
            int64_t plane = task / strips, y = task % strips * LH;
            int lanes = (int)lowest<int64_t>(LH, h - y);
            Scratch<int16_t> samples(w * LH);
            Scratch<Masks> masks(w / k);
            Scratch<uint8_t> used(w / k);
            Scratch<float> g(w * LH);
            turn(in + (plane * h + y) * w, w, lanes, w, (int16_t*)samples);
            turn((const float*)out + (plane * h + y) * w, w, lanes, w, (float*)g);
            Strip strip{chroma, w, samples};
            strip.filter(strengths(plane, true), y, lanes, masks, used);
            strip.back(g, masks, used);
            turn_back((const float*)g, out + (plane * h + y) * w, w, lanes, w);
        });
    }
};

void deblock(int64_t threads, const float* luma, const float* chroma, const float* left, const float* upper, const float* qp, const float* qpc, float* out,
             float* out_chroma, int64_t n, int64_t h, int64_t w, const float* tables) {
    Planes{threads, n, 1, h, w, false, left, upper, qp, {tables}}.forward(luma, out);
    Planes{threads, 2 * n, 2, h / 2, w / 2, true, left, upper, qpc, {tables}}.forward(chroma, out_chroma);
}

void deblock_backward(int64_t threads, const float* grad, const float* grad_chroma, const float* luma, const float* chroma, const float* left,
                      const float* upper, const float* qp, const float* qpc, float* out, float* out_chroma, int64_t n, int64_t h, int64_t w,
                      const float* tables) {
    Planes{threads, n, 1, h, w, false, left, upper, qp, {tables}}.backward(grad, luma, out);
    Planes{threads, 2 * n, 2, h / 2, w / 2, true, left, upper, qpc, {tables}}.backward(grad_chroma, chroma, out_chroma);
}

}  // namespace

DC_EXPORT(motion_info)
DC_EXPORT(boundary_strengths)
DC_EXPORT(deblock)
DC_EXPORT(deblock_backward)

}  // namespace DC_ISA
