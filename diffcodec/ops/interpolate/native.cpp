// Inter prediction: see reference.py, whose names these are.
#include "../common/native/blocks.h"

namespace DC_ISA {
namespace {

DC_INLINE uint8_t byte(int32_t x) { return (uint8_t)clip<int32_t>(x, 0, 255); }

// A plane of whole numbers as bytes, its outermost samples repeated `margin` times all around; rows y0..y1 - 1 of the result
void padded(const float* plane, int64_t h, int64_t w, int64_t margin, int64_t y0, int64_t y1, uint8_t* out) {
    int64_t wide = w + 2 * margin;
    for (int64_t y = y0; y < y1; y++, out += wide) {
        const float* row = plane + clip<int64_t>(y - margin, 0, h - 1) * w;
        to_bytes(row, out + margin, w);
        memset(out, out[margin], margin);
        memset(out + margin + w, out[margin + w - 1], margin);
    }
}

DC_INLINE void mean(const uint8_t* __restrict a, const uint8_t* __restrict b, uint8_t* __restrict out, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = (uint8_t)((a[i] + b[i] + 1) >> 1);
}

// A row of all sixteen phases from rows of whole and half samples, named as in 8.4.2.2.1; planes of `size` bytes
struct Half {
    const uint8_t *g, *b, *h, *j, *right, *below, *s, *m;
};
DC_INLINE void sixteen(const Half& p, uint8_t* out, int64_t size, int64_t n) {
    memcpy(out, p.g, n), mean(p.g, p.b, out + size, n), memcpy(out + 2 * size, p.b, n), mean(p.b, p.right, out + 3 * size, n);
    out += 4 * size;
    mean(p.g, p.h, out, n), mean(p.b, p.h, out + size, n), mean(p.b, p.j, out + 2 * size, n), mean(p.b, p.m, out + 3 * size, n);
    out += 4 * size;
    memcpy(out, p.h, n), mean(p.h, p.j, out + size, n), memcpy(out + 2 * size, p.j, n), mean(p.j, p.m, out + 3 * size, n);
    out += 4 * size;
    mean(p.h, p.below, out, n), mean(p.h, p.s, out + size, n), mean(p.j, p.s, out + 2 * size, n), mean(p.m, p.s, out + 3 * size, n);
}

typedef uint8_t vbytes __attribute__((vector_size(LS)));
DC_INLINE vs wide_load(const uint8_t* p) { return __builtin_convertvector(load<vbytes>(p), vs); }
DC_INLINE void narrow_store(uint8_t* p, vs x) { store(p, __builtin_convertvector(vmin(vmax(x, vs{}), (vs)(vs{} + 255)), vbytes)); }
DC_INLINE vs six(vs a, vs b, vs c, vs d, vs e, vs f) { return (a + f) - (b + e) * 5 + (c + d) * 20; }

constexpr int BAND = 32;  // rows that are computed together

// slots: where the planes belong among those of `out`, of one or of sixteen phases
void interpolate_planes(int64_t threads, const float* luma, const int64_t* slots, uint8_t* out, int64_t n, int64_t h, int64_t w, int64_t phases) {
    int64_t hp = h + 2 * MARGIN, wp = w + 2 * MARGIN, wide = wp + 6, bands = (hp + BAND - 1) / BAND;
    if (phases == 1) {
        parallel(threads, n, (double)(hp * wp), [&](int64_t i) { padded(luma + i * h * w, h, w, MARGIN, 0, hp, out + slots[i] * hp * wp); });
        return;
    }
    parallel(threads, n * bands, 10.0 * (double)(BAND * wp), [&](int64_t task) {
        int64_t i = task / bands, y0 = task % bands * BAND, y1 = lowest<int64_t>(y0 + BAND, hp), rows = y1 - y0 + 6;
        Scratch<uint8_t> x(rows * wide + VB), half_b(rows * wide + VB), half_h(wide + VB), half_j(wp + VB);
        Scratch<int16_t> raw(rows * wide + LS);
        padded(luma + i * h * w, h, w, MARGIN + 3, y0, y0 + rows, x);  // row r of x is row y0 + r - 3 of the result
        memset(x + rows * wide, 0, VB);
        for (int64_t r = 0; r < 2; r++) raw[r] = 0, half_b[r] = 0;
        for (int64_t r = 2; r < rows * wide; r += LS) {  // the six samples around a place and the one behind it; row ends are not used
            const uint8_t* p = x + r;
            vs v = six(wide_load(p - 2), wide_load(p - 1), wide_load(p), wide_load(p + 1), wide_load(p + 2), wide_load(p + 3));
            store(raw + r, v), narrow_store(half_b + r, (v + 16) >> 5);
        }
        for (int64_t y = y0; y < y1; y++) {
            const uint8_t* p = x + (y - y0 + 1) * wide;
            const int16_t* q = raw + (y - y0 + 1) * wide + 3;
            for (int64_t c = 0; c < wide; c += LS) {
                vs v = six(wide_load(p + c), wide_load(p + c + wide), wide_load(p + c + 2 * wide), wide_load(p + c + 3 * wide), wide_load(p + c + 4 * wide),
                           wide_load(p + c + 5 * wide));
                narrow_store(half_h + c, (v + 16) >> 5);
            }
            for (int64_t c = 0; c < wp; c += LS) {
                auto row = [&](int k) { return load<vs>(q + c + k * wide); };
                vs outer = row(0) + row(5), middle = row(1) + row(4), inner = row(2) + row(3);
                // (outer - 5 middle + 20 inner) / 16, rounded down, in 16 bits: ((outer - middle) / 4 + inner - middle) / 4 + inner
                vs a = (outer - middle) >> 2, b = inner - middle;
                vs sixteenth = (a >> 2) + (b >> 2) + (((a & 3) + (b & 3)) >> 2) + inner;
                narrow_store(half_j + c, (sixteenth + 32) >> 6);
            }
            const uint8_t *g = x + (y - y0 + 3) * wide + 3, *b = half_b + (y - y0 + 3) * wide + 3;
            sixteen({g, b, half_h + 3, half_j, g + 1, g + wide, b + wide, half_h + 4}, out + slots[i] * 16 * hp * wp + y * wp, hp * wp, wp);
        }
    });
}

void half_resolution(int64_t threads, const float* luma, float* half, uint8_t* out, int64_t n, int64_t h, int64_t w, int64_t phases) {
    int64_t hh = h / 2, wh = w / 2, hp = hh + 2 * MARGIN, wp = wh + 2 * MARGIN, m = MARGIN + 1, tall = hp + 2, wide = wp + 2;
    parallel(threads, n, 6.0 * (double)(h * w), [&](int64_t i) {
        Scratch<uint8_t> parts(4 * tall * wide);  // means of 2x2 samples by the parity of their places, margins around
        Scratch<int16_t> sums(w + 1);
        for (int64_t y = 0; y < h; y++) {
            const float *a = luma + (i * h + y) * w, *b = y + 1 < h ? a + w : a;
            uint8_t* to[2];
            for (int p = 0; p < 2; p++) to[p] = parts + (y % 2 * 2 + p) * tall * wide + (y / 2 + m) * wide + m;
            int16_t* __restrict s = sums;
            for (int64_t x = 0; x < w; x++) s[x] = (int16_t)(int32_t)(a[x] + b[x]);
            s[w] = s[w - 1];
            uint8_t *__restrict even = to[0], *__restrict odd = to[1];
            for (int64_t x = 0; x < wh; x++) even[x] = (uint8_t)((s[2 * x] + s[2 * x + 1] + 2) >> 2);
            for (int64_t x = 0; x < wh; x++) odd[x] = (uint8_t)((s[2 * x + 1] + s[2 * x + 2] + 2) >> 2);
            if (y % 2 == 0)
                for (int64_t x = 0; x < wh; x++) half[(i * hh + y / 2) * wh + x] = to[0][x];
        }
        for (int p = 0; p < 4; p++) {
            uint8_t* part = parts + p * tall * wide;
            for (int64_t y = m; y < m + hh; y++) {
                memset(part + y * wide, part[y * wide + m], m);
                memset(part + y * wide + m + wh, part[y * wide + m + wh - 1], m);
            }
            for (int64_t y = 0; y < m; y++) {
                memcpy(part + y * wide, part + m * wide, wide);
                memcpy(part + (m + hh + y) * wide, part + (m + hh - 1) * wide, wide);
            }
        }
        for (int64_t y = 0; y < hp; y++) {
            const uint8_t* p[4];
            for (int k = 0; k < 4; k++) p[k] = parts + k * tall * wide + (y + 1) * wide + 1;
            if (phases == 4) {
                for (int k = 0; k < 4; k++) memcpy(out + ((i * 4 + k) * hp + y) * wp, p[k], wp);
                continue;
            }
            sixteen({p[0], p[1], p[2], p[3], p[0] + 1, p[0] + wide, p[1] + wide, p[2] + 1}, out + i * 16 * hp * wp + y * wp, hp * wp, wp);
        }
    });
}

// slot, vectors: of n sets of bh x bw blocks
void fetch_luma(int64_t threads, const uint8_t* phases, int64_t count, int64_t hp, int64_t wp, const int64_t* slot, const int64_t* vectors, float* out, int64_t n,
                int64_t bh, int64_t bw, int64_t k) {
    Phases refs{phases, count, hp, wp};
    parallel(threads, n * bh, 0.5 * (double)(bw * k * k), [&](int64_t row) {
        for (int64_t x = 0; x < bw; x++) {
            int64_t i = row * bw + x;
            const uint8_t* p = refs.block(slot[i], vectors[2 * i], vectors[2 * i + 1], row % bh * k, x * k, (int)k);
            float* to = out + i * k * k;
            for (int64_t r = 0; r < k; r++)
                for (int64_t c = 0; c < k; c++) to[r * k + c] = p[r * wp + c];
        }
    });
}

// Adjoint of the prediction of blocks of 8 x 8: windows of 14 x 14 samples, of which the block's own begin at (2, 2)
constexpr int WINDOW = 14, PITCH = 16, TAPS[6] = {1, -5, 20, 20, -5, 1};
// what a phase is the mean of: g, b, h, j and their neighbours to the right (of g, h) and below (of g, b)
enum { G = 1, B = 2, H = 4, J = 8, RIGHT = 16, BELOW = 32, S = 64, M = 128 };
constexpr uint8_t MADE_OF[16] = {G, G | B, B, B | RIGHT, G | H, B | H, B | J, B | M, H, H | J, J, J | M, H | BELOW, H | S, J | S, M | S};

DC_INLINE bool kept(float x) { return x >= 0 && x <= 255; }  // what clamping does not cut

void spread(const float* __restrict x, const float* __restrict grad, int made_of, float* __restrict to) {
    bool two = made_of & (made_of - 1);
    alignas(64) float g[8][8];
    for (int y = 0; y < 8; y++)
        for (int c = 0; c < 8; c++) g[y][c] = two ? 0.5f * grad[8 * y + c] : grad[8 * y + c];
    auto add = [&](int dy, int dx) {
        for (int y = 0; y < 8; y++)
            for (int c = 0; c < 8; c++) to[(2 + y + dy) * PITCH + 2 + c + dx] += g[y][c];
    };
    auto across = [&](int dy) {  // b, and s one row below
        for (int y = 0; y < 8; y++) {
            const float* p = x + (2 + y + dy) * PITCH;
            alignas(64) float v[8];
            for (int c = 0; c < 8; c++) {
                float raw = 0;
                for (int t = 0; t < 6; t++) raw += (float)TAPS[t] * p[c + t];
                v[c] = kept(half_up(raw / 32)) ? g[y][c] / 32 : 0.0f;
            }
            for (int t = 0; t < 6; t++)
                for (int c = 0; c < 8; c++) to[(2 + y + dy) * PITCH + c + t] += (float)TAPS[t] * v[c];
        }
    };
    auto down = [&](int dx) {  // h, and m one column to the right
        for (int y = 0; y < 8; y++) {
            const float* p = x + y * PITCH + 2 + dx;
            alignas(64) float v[8];
            for (int c = 0; c < 8; c++) {
                float raw = 0;
                for (int t = 0; t < 6; t++) raw += (float)TAPS[t] * p[t * PITCH + c];
                v[c] = kept(half_up(raw / 32)) ? g[y][c] / 32 : 0.0f;
            }
            for (int t = 0; t < 6; t++)
                for (int c = 0; c < 8; c++) to[(y + t) * PITCH + 2 + c + dx] += (float)TAPS[t] * v[c];
        }
    };
    auto both = [&] {  // j
        alignas(64) float raw[13][8], back[13][8] = {};
        for (int y = 0; y < 13; y++)
            for (int c = 0; c < 8; c++) {
                float v = 0;
                for (int t = 0; t < 6; t++) v += (float)TAPS[t] * x[y * PITCH + c + t];
                raw[y][c] = v;
            }
        for (int y = 0; y < 8; y++) {
            alignas(64) float v[8];
            for (int c = 0; c < 8; c++) {
                float full = 0;
                for (int t = 0; t < 6; t++) full += (float)TAPS[t] * raw[y + t][c];
                v[c] = kept(half_up(full / 1024)) ? g[y][c] / 1024 : 0.0f;
            }
            for (int t = 0; t < 6; t++)
                for (int c = 0; c < 8; c++) back[y + t][c] += (float)TAPS[t] * v[c];
        }
        for (int y = 0; y < 13; y++)
            for (int t = 0; t < 6; t++)
                for (int c = 0; c < 8; c++) to[y * PITCH + c + t] += (float)TAPS[t] * back[y][c];
    };
    if (made_of & G) add(0, 0);
    if (made_of & RIGHT) add(0, 1);
    if (made_of & BELOW) add(1, 0);
    if (made_of & B) across(0);
    if (made_of & S) across(1);
    if (made_of & H) down(0);
    if (made_of & M) down(1);
    if (made_of & J) both();
}

// Adds windows of gradients to planes, a stripe of a plane at a time: what is added to a sample, and in which order, is the same for all threads
template <class F> DC_INLINE void stripes(int64_t threads, int64_t planes, int64_t h, double ns, const F& f) {
    int64_t each = threads > planes ? lowest((threads + planes - 1) / planes, (h + 63) / 64) : 1;
    parallel(threads, planes * each, ns / (double)(planes * each), [&](int64_t task) {
        int64_t s = task % each;
        f(task / each, h * s / each, h * (s + 1) / each);
    });
}

// Chroma blocks of 4 x 4: place of their window of 5 x 5 in the plane, and eighths of a sample
struct ChromaPlace {
    int64_t y, x;
    int32_t fy, fx;
    ChromaPlace(int64_t vy, int64_t vx, int64_t top, int64_t left, int64_t h, int64_t w)
        : y(clip<int64_t>(top + MARGIN + (vy >> 3), 0, h + 2 * MARGIN - 5) - MARGIN),
          x(clip<int64_t>(left + MARGIN + (vx >> 3), 0, w + 2 * MARGIN - 5) - MARGIN), fy((int32_t)(vy & 7)), fx((int32_t)(vx & 7)) {}
};

// Sixteen samples of a chroma block, to be divided by 64 (8.4.2.2.2)
DC_INLINE void chroma_block(const float* plane, int64_t h, int64_t w, const ChromaPlace& at, int32_t* out) {
    int32_t window[5][5];
    bool inside = at.y >= 0 && at.x >= 0 && at.y + 5 <= h && at.x + 5 <= w;
    for (int64_t y = 0; y < 5; y++) {
        const float* line = plane + (inside ? at.y + y : clip<int64_t>(at.y + y, 0, h - 1)) * w;
        for (int64_t x = 0; x < 5; x++) window[y][x] = (int32_t)line[inside ? at.x + x : clip<int64_t>(at.x + x, 0, w - 1)];
    }
    for (int y = 0; y < 4; y++)
        for (int x = 0; x < 4; x++)
            out[4 * y + x] = (8 - at.fy) * ((8 - at.fx) * window[y][x] + at.fx * window[y][x + 1]) +
                             at.fy * ((8 - at.fx) * window[y + 1][x] + at.fx * window[y + 1][x + 1]);
}

// slots, ref_idx, vectors: of list 0 and of list 1, which may be missing with the direction
void compensate_motion(int64_t threads, const float* chroma, const uint8_t* phases, int64_t count, int64_t hp, int64_t wp, const int64_t* slots0,
                       const int64_t* slots1, const int64_t* ref0, const int64_t* ref1, const int64_t* mv0, const int64_t* mv1,
                       const int64_t* direction, float* out, float* out_chroma, int64_t n, int64_t bh, int64_t bw) {
    Phases refs{phases, count, hp, wp};
    const int64_t *slots[2] = {slots0, slots1}, *ref[2] = {ref0, ref1}, *mv[2] = {mv0, mv1};
    int64_t w = 8 * bw, hc = 4 * bh, wc = 4 * bw;
    parallel(threads, n * bh, 100.0 * (double)bw, [&](int64_t row) {
        int64_t frame = row / bh, by = row % bh;
        for (int64_t bx = 0; bx < bw; bx++) {
            int64_t i = row * bw + bx, of = direction ? direction[i] : 0;
            float* to = out + row * 8 * w + 8 * bx;
            const uint8_t* from[2];
            ChromaPlace at[2] = {{mv[of == 1][2 * i], mv[of == 1][2 * i + 1], 4 * by, 4 * bx, hc, wc}, {mv[of != 0][2 * i], mv[of != 0][2 * i + 1], 4 * by, 4 * bx, hc, wc}};
            for (int k = of == 1; k <= (of != 0); k++) from[k] = refs.block(slots[k][i], mv[k][2 * i], mv[k][2 * i + 1], 8 * by, 8 * bx, 8);
            if (of == 2)
                for (int y = 0; y < 8; y++)
                    for (int x = 0; x < 8; x++) to[y * w + x] = (float)((from[0][y * wp + x] + from[1][y * wp + x] + 1) >> 1);
            else
                for (int y = 0; y < 8; y++)
                    for (int x = 0; x < 8; x++) to[y * w + x] = (float)from[of][y * wp + x];
            for (int c = 0; c < 2; c++) {
                int32_t block[2][16];
                float* place = out_chroma + ((2 * frame + c) * hc + 4 * by) * wc + 4 * bx;
                for (int k = 0; k < (of == 2 ? 2 : 1); k++) {
                    int list = of == 2 ? k : (int)of;
                    chroma_block(chroma + (2 * ref[list][i] + c) * hc * wc, hc, wc, at[k], block[k]);
                }
                for (int y = 0; y < 4; y++)
                    for (int x = 0; x < 4; x++) {
                        int32_t value = (block[0][4 * y + x] + 32) >> 6;
                        if (of == 2) value = (value + ((block[1][4 * y + x] + 32) >> 6) + 1) >> 1;
                        place[y * wc + x] = (float)value;
                    }
            }
        }
    });
}

void luma_back(int64_t threads, const float* grad, const float* planes, const int64_t* const* ref, const int64_t* const* mv, const int64_t* direction,
               float* out, int64_t r, int64_t h, int64_t w, int64_t n, int64_t bh, int64_t bw) {
    Phases at{nullptr, 16, h + 2 * MARGIN, w + 2 * MARGIN};
    stripes(threads, r, h, 1e3 * (double)(n * bh * bw), [&](int64_t plane, int64_t first, int64_t last) {
        const float* from = planes + plane * h * w;
        float* to = out + plane * h * w;
        for (int list = 0; list < (direction ? 2 : 1); list++)
            for (int64_t i = 0; i < n * bh * bw; i++) {
                if (ref[list][i] != plane || (direction && direction[i] == 1 - list)) continue;
                int64_t vy = mv[list][2 * i], vx = mv[list][2 * i + 1];
                int64_t y = at.row(i / bw % bh * 8, vy, 8) - MARGIN - 2, x = at.column(i % bw * 8, vx, 8) - MARGIN - 2;
                int64_t top = clip<int64_t>(y, 0, h - 1), bottom = clip<int64_t>(y + WINDOW - 1, 0, h - 1);
                if (bottom < first || top >= last) continue;
                const float* g = grad + i / bw * 8 * w + i % bw * 8;
                float share = direction && direction[i] == 2 ? 0.5f : 1.0f;
                int made_of = MADE_OF[4 * (vy & 3) + (vx & 3)];
                bool inside = x >= 0 && x + PITCH <= w && y >= first && y + WINDOW <= last;
                if (made_of == G && inside) {  // whole vectors
                    for (int64_t a = 0; a < 8; a++)
                        for (int64_t b = 0; b < 8; b++) to[(y + 2 + a) * w + x + 2 + b] += share * g[a * w + b];
                    continue;
                }
                alignas(64) float own[64], window[WINDOW * PITCH], added[WINDOW * PITCH] = {};
                for (int64_t a = 0; a < 8; a++)
                    for (int64_t b = 0; b < 8; b++) own[8 * a + b] = share * g[a * w + b];
                if (made_of & ~(G | RIGHT | BELOW))
                    for (int64_t a = 0; a < WINDOW; a++) {
                        const float* row = from + clip<int64_t>(y + a, 0, h - 1) * w;
                        if (x >= 0 && x + PITCH <= w)
                            memcpy(window + a * PITCH, row + x, sizeof(float) * PITCH);
                        else
                            for (int64_t b = 0; b < PITCH; b++) window[a * PITCH + b] = row[clip<int64_t>(x + b, 0, w - 1)];
                    }
                spread(window, own, made_of, added);
                for (int64_t a = 0; a < WINDOW; a++) {
                    int64_t line = clip<int64_t>(y + a, 0, h - 1);
                    if (line < first || line >= last) continue;
                    float* row = to + line * w;
                    if (x >= 0 && x + PITCH <= w)
                        for (int64_t b = 0; b < PITCH; b++) row[x + b] += added[a * PITCH + b];
                    else
                        for (int64_t b = 0; b < WINDOW; b++) row[clip<int64_t>(x + b, 0, w - 1)] += added[a * PITCH + b];
                }
            }
    });
}

void chroma_back(int64_t threads, const float* grad, const int64_t* const* ref, const int64_t* const* mv, const int64_t* direction, float* out, int64_t r,
                 int64_t h, int64_t w, int64_t n, int64_t bh, int64_t bw) {
    stripes(threads, 2 * r, h, 50.0 * (double)(n * bh * bw), [&](int64_t plane, int64_t first, int64_t last) {
        float* to = out + plane * h * w;
        for (int list = 0; list < (direction ? 2 : 1); list++)
            for (int64_t i = 0; i < n * bh * bw; i++) {
                if (ref[list][i] != plane / 2 || (direction && direction[i] == 1 - list)) continue;
                ChromaPlace at(mv[list][2 * i], mv[list][2 * i + 1], i / bw % bh * 4, i % bw * 4, h, w);
                if (clip<int64_t>(at.y + 4, 0, h - 1) < first || clip<int64_t>(at.y, 0, h - 1) >= last) continue;
                const float* g = grad + ((i / (bh * bw) * 2 + plane % 2) * h + i / bw % bh * 4) * w + i % bw * 4;
                float share = direction && direction[i] == 2 ? 0.5f : 1.0f, fx = (float)at.fx / 8, fy = share * (float)at.fy / 8, gy = share - fy;
                float window[5][5] = {};
                for (int y = 0; y < 4; y++) {
                    float mixed[5] = {};
                    for (int x = 0; x < 4; x++) mixed[x] += g[y * w + x] * (1 - fx), mixed[x + 1] += g[y * w + x] * fx;
                    for (int x = 0; x < 5; x++) window[y][x] += mixed[x] * gy, window[y + 1][x] += mixed[x] * fy;
                }
                bool inside = at.y >= first && at.y + 5 <= last && at.x >= 0 && at.x + 5 <= w;
                for (int64_t y = 0; y < 5; y++) {
                    int64_t line = inside ? at.y + y : clip<int64_t>(at.y + y, 0, h - 1);
                    if (line < first || line >= last) continue;
                    for (int64_t x = 0; x < 5; x++) to[line * w + (inside ? at.x + x : clip<int64_t>(at.x + x, 0, w - 1))] += window[y][x];
                }
            }
    });
}

void compensate_motion_backward(int64_t threads, const float* grad, const float* grad_chroma, const float* planes, const int64_t* ref0, const int64_t* ref1,
                                const int64_t* mv0, const int64_t* mv1, const int64_t* direction, float* out, float* out_chroma, int64_t r, int64_t h,
                                int64_t w, int64_t n, int64_t bh, int64_t bw) {
    const int64_t *ref[2] = {ref0, ref1}, *mv[2] = {mv0, mv1};
    memset(out, 0, sizeof(float) * r * h * w), memset(out_chroma, 0, sizeof(float) * r * h * w / 2);
    luma_back(threads, grad, planes, ref, mv, direction, out, r, h, w, n, bh, bw);
    chroma_back(threads, grad_chroma, ref, mv, direction, out_chroma, r, h / 2, w / 2, n, bh, bw);
}

}  // namespace

DC_EXPORT(interpolate_planes)
DC_EXPORT(half_resolution)
DC_EXPORT(fetch_luma)
DC_EXPORT(compensate_motion)
DC_EXPORT(compensate_motion_backward)

}  // namespace DC_ISA
