// Intra prediction and its decisions: see reference.py, whose names these are.
#include "../residual/rate.h"

namespace DC_ISA {
namespace {

// A plane of whole numbers as bytes with one sample of border above and on the left, all 128; in memory of size(h, w) bytes
struct Bordered {
    int64_t w, stride;
    const uint8_t* data;
    static int64_t size(int64_t h, int64_t w) { return (h + 1) * (w + 1) + 64; }
    Bordered(const float* plane, int64_t h, int64_t w, uint8_t* memory) : w(w), stride(w + 1), data(memory) { fill(plane, -1, h, memory); }
    // Rows first..last - 1 of the plane, -1 for the border
    void fill(const float* plane, int64_t first, int64_t last, uint8_t* memory) const {
        if (first < 0) memset(memory, 128, stride);
        for (int64_t y = highest<int64_t>(first, 0); y < last; y++) {
            memory[(y + 1) * stride] = 128;
            to_bytes(plane + y * w, memory + (y + 1) * stride + 1, w);
        }
    }
    Bordered(const uint8_t* data, int64_t w) : w(w), stride(w + 1), data(data) {}
    const uint8_t* at(int64_t y, int64_t x) const { return data + (y + 1) * stride + x + 1; }
};

// Where the samples above and to the right of a block are coded before it: else the last one above is repeated (reference.py: neighbour_positions)
DC_INLINE bool has_right(int k, int64_t by, int64_t bx, int64_t w) {
    if (k == 16 || by == 0 || bx * k + 2 * k > w) return false;
    if (k == 8) return by % 2 == 0 || bx % 2 == 0;
    static constexpr int8_t ORDER[4][4] = {{0, 1, 4, 5}, {2, 3, 6, 7}, {8, 9, 12, 13}, {10, 11, 14, 15}};
    int64_t iy = by % 4, ix = bx % 4;
    return iy == 0 || (ix < 3 && ORDER[iy - 1][ix + 1] < ORDER[iy][ix]);
}

// Blocks of 4x4 or 8x8: what modes are made of. A sample of a mode is one of VALUES numbers: neighbours, their mean, two or three of them smoothed.
template <int K> struct Modes {
    static constexpr int N = K * K, RAW = 3 * K + 1, DC = RAW;
    static constexpr int T2 = DC + 1, T3 = T2 + 2 * K - 1, E2 = T3 + 2 * K, E3 = E2 + 2 * K, L2 = E3 + 2 * K - 1, L3 = L2 + K - 1, END = L3 + K - 2,
                         VALUES = END + 1;
    struct Tap {
        uint8_t from[3], weight[3];  // weights in quarters, 0 behind the last one
    };
    uint8_t of[9][N];
    Tap taps[VALUES];

    static constexpr int top(int i) { return i < 0 ? 0 : 1 + (i < 2 * K ? i : 2 * K - 1); }
    static constexpr int left(int i) { return i < 0 ? 0 : 2 * K + 1 + (i < K ? i : K - 1); }
    static constexpr int edge(int i) { return i == 0 ? 0 : i > 0 ? top(i - 1) : left(-i - 1); }  // the border as one line: 0 is the corner
    constexpr void two(int v, int a, int b) { taps[v] = {{(uint8_t)a, (uint8_t)b, 0}, {2, 2, 0}}; }
    constexpr void three(int v, int a, int b, int c) { taps[v] = {{(uint8_t)a, (uint8_t)b, (uint8_t)c}, {1, 2, 1}}; }

    constexpr Modes() : of(), taps() {
        taps[DC] = {{0, 0, 0}, {0, 0, 0}};
        for (int i = 0; i < RAW; i++) taps[i] = {{(uint8_t)i, 0, 0}, {4, 0, 0}};
        for (int i = 0; i < 2 * K - 1; i++) two(T2 + i, top(i), top(i + 1));
        for (int i = 0; i < 2 * K - 1; i++) three(T3 + i, top(i - 1), top(i), top(i + 1));
        taps[T3 + 2 * K - 1] = {{(uint8_t)top(2 * K - 2), (uint8_t)top(2 * K - 1), 0}, {1, 3, 0}};
        for (int i = -K; i < K; i++) two(E2 + i + K, edge(i), edge(i + 1));
        for (int i = 1 - K; i < K; i++) three(E3 + i + K - 1, edge(i - 1), edge(i), edge(i + 1));
        for (int i = 0; i < K - 1; i++) two(L2 + i, left(i), left(i + 1));
        for (int i = 1; i < K - 1; i++) three(L3 + i - 1, left(i - 1), left(i), left(i + 1));
        taps[END] = {{(uint8_t)left(K - 2), (uint8_t)left(K - 1), 0}, {1, 3, 0}};
        for (int y = 0; y < K; y++)
            for (int x = 0; x < K; x++) {
                auto set = [&](int mode, int v) { of[mode][y * K + x] = (uint8_t)v; };
                auto e3 = [&](int i) { return E3 + i + K - 1; };
                auto e2 = [&](int i) { return E2 + i + K; };
                set(0, top(x)), set(1, left(y)), set(2, DC), set(3, T3 + x + y + 1), set(4, e3(x - y));
                int z = 2 * x - y, i = x - (y >> 1);
                set(5, z >= 0 ? z % 2 == 0 ? e2(i) : e3(i) : z == -1 ? e3(0) : e3(-(y - 2 * x - 1)));
                z = 2 * y - x, i = y - (x >> 1);
                set(6, z >= 0 ? z % 2 == 0 ? e2(-i - 1) : e3(-i) : z == -1 ? e3(0) : e3(x - 2 * y - 1));
                i = x + (y >> 1);
                set(7, y % 2 == 0 ? T2 + i : T3 + i + 1);
                z = x + 2 * y, i = y + (x >> 1);
                set(8, z > 2 * K - 3 ? left(K - 1) : z == 2 * K - 3 ? END : z % 2 == 0 ? L2 + i : L3 + i);
            }
    }
};
template <int K> constexpr Modes<K> MODES{};

// LS blocks side by side
template <int K> struct Lanes16 {
    static constexpr const Modes<K>& M = MODES<K>;
    static constexpr int RAW = Modes<K>::RAW;
    alignas(64) int16_t v[Modes<K>::VALUES][LS], has_top[LS], has_left[LS];

    // Neighbours of the block at (by, bx) into a lane
    DC_INLINE void gather(const Bordered& plane, int lane, int64_t by, int64_t bx) {
        const uint8_t* p = plane.at(by * K, bx * K);
        const uint8_t* above = p - plane.stride;
        v[0][lane] = above[-1];
        int64_t limit = has_right(K, by, bx, plane.w) ? 2 * K - 1 : K - 1;
#pragma GCC unroll 16
        for (int i = 0; i < 2 * K; i++) v[1 + i][lane] = above[i < K ? i : lowest<int64_t>(i, limit)];
#pragma GCC unroll 8
        for (int i = 0; i < K; i++) v[2 * K + 1 + i][lane] = p[i * plane.stride - 1];
        has_top[lane] = by > 0 ? -1 : 0, has_left[lane] = bx > 0 ? -1 : 0;
    }
    DC_INLINE vs get(int i) const { return load<vs>(v[i]); }
    DC_INLINE static vs smooth(vs a, vs b, vs c) { return (a + b + b + c + 2) >> 1 >> 1; }
    // All values
    DC_INLINE void compute() {
        vs top = load<vs>(has_top), left = load<vs>(has_left), both = top & left;
        auto put = [&](int i, vs x) { store(v[i], x); };
        if constexpr (K == 8) {  // the reference samples are smoothed first (8.3.2.2.1)
            vs corner = get(0), before = both ? corner : get(1), first_top = get(1), first_left = get(2 * K + 1);
            put(0, both ? smooth(first_top, corner, first_left) : corner);
            vs now = first_top;
            for (int i = 1; i <= 2 * K; i++) {
                vs next = i < 2 * K ? get(i + 1) : now;
                put(i, top ? smooth(before, now, next) : now);
                before = now, now = next;
            }
            before = both ? corner : first_left, now = first_left;
            for (int i = 2 * K + 1; i <= 3 * K; i++) {
                vs next = i < 3 * K ? get(i + 1) : now;
                put(i, left ? smooth(before, now, next) : now);
                before = now, now = next;
            }
        }
        vs of_top = {}, of_left = {};
        for (int i = 0; i < K; i++) of_top += get(1 + i), of_left += get(2 * K + 1 + i);
        constexpr int bits = K == 4 ? 2 : 3;
        vs one = ((top ? of_top : of_left) + (int16_t)(K / 2)) >> bits, two = (of_top + of_left + (int16_t)K) >> (bits + 1);
        put(Modes<K>::DC, both ? two : (top | left) ? one : (vs)(vs{} + 128));
#pragma GCC unroll 1
        for (int i = Modes<K>::T2; i < Modes<K>::VALUES; i++) {
            const auto& t = M.taps[i];
            vs a = get(t.from[0]), b = get(t.from[1]);
            put(i, t.weight[0] == 2   ? (a + b + 1) >> 1
                   : t.weight[1] == 3 ? (a + b + b + b + 2) >> 2
                                      : smooth(a, b, get(t.from[2])));
        }
    }
};

template <class V> DC_INLINE V absolute(V x) { return vmax(x, (V)-x); }

// Distortion of LS blocks whose samples are s from mode m of p; what is compared: 0 SAD, 1 SATD, 2 SA8D. In halves.
template <int K> DC_INLINE vu compare(const int16_t (*s)[LS], const Lanes16<K>& p, int mode, int how) {
    const uint8_t* of = MODES<K>.of[mode];
    if (how == 0) {
        vs total = {};
        for (int i = 0; i < K * K; i++) total += absolute<vs>(load<vs>(s[i]) - p.get(of[i]));
        return (vu)total << 1;
    }
    vu total = {};
    if (K == 4 || how == 1) {
#pragma GCC unroll 1
        for (int y = 0; y < K; y += 4)
#pragma GCC unroll 1
            for (int x = 0; x < K; x += 4) {
                vs d[16];
#pragma GCC unroll 4
                for (int r = 0; r < 4; r++) {
                    vs e[4];
#pragma GCC unroll 4
                    for (int c = 0; c < 4; c++) {
                        int i = (y + r) * K + x + c;
                        e[c] = load<vs>(s[i]) - p.get(of[i]);
                    }
                    vs a = e[0] + e[1], b = e[0] - e[1], c = e[2] + e[3], f = e[2] - e[3];
                    d[4 * r] = a + c, d[4 * r + 1] = a - c, d[4 * r + 2] = b + f, d[4 * r + 3] = b - f;
                }
#pragma GCC unroll 4
                for (int c = 0; c < 4; c++) {
                    vs a = d[c] + d[c + 4], b = d[c] - d[c + 4], e = d[c + 8] + d[c + 12], f = d[c + 8] - d[c + 12];
                    total += (vu)vmax(absolute(a), absolute(e)) + (vu)vmax(absolute(b), absolute(f));  // half of |a + e| + |a - e| and so on
                }
            }
        return total << 1;
    }
    alignas(64) int16_t d[64][LS];
#pragma GCC unroll 1
    for (int r = 0; r < 8; r++) {
        vs e[8];
#pragma GCC unroll 8
        for (int c = 0; c < 8; c++) e[c] = load<vs>(s[8 * r + c]) - p.get(of[8 * r + c]);
#pragma GCC unroll 3
        for (int step = 1; step < 8; step *= 2)
#pragma GCC unroll 8
            for (int c = 0; c < 8; c++)
                if (!(c & step)) {
                    vs a = e[c], b = e[c + step];
                    e[c] = a + b, e[c + step] = a - b;
                }
#pragma GCC unroll 8
        for (int c = 0; c < 8; c++) store(d[8 * r + c], e[c]);
    }
#pragma GCC unroll 1
    for (int c = 0; c < 8; c++) {
        vs e[8];
#pragma GCC unroll 8
        for (int r = 0; r < 8; r++) e[r] = load<vs>(d[8 * r + c]);
#pragma GCC unroll 2
        for (int step = 1; step < 4; step *= 2)
#pragma GCC unroll 8
            for (int r = 0; r < 8; r++)
                if (!(r & step)) {
                    vs a = e[r], b = e[r + step];
                    e[r] = a + b, e[r + step] = a - b;
                }
#pragma GCC unroll 4
        for (int r = 0; r < 4; r++) total += (vu)vmax(absolute(e[r]), absolute(e[r + 4]));
    }
    return total;
}

constexpr float FORBIDDEN = 1e9f;

DC_INLINE bool may_use(int mode, bool top, bool left) {
    return mode == 2 || ((mode == 0 || mode == 3 || mode == 7) ? top : (mode == 1 || mode == 8) ? left : top && left);
}

// Best modes of the blocks first..first + count - 1 of a frame; predicted: modes that cost nothing, or null. lambda(block): of its macroblock.
template <int K, class L>
void cheapest_small(const Bordered& around, const uint8_t* source, int64_t first, int count, const L& lambda, const float* mode_bits, int modes,
                    const int64_t* predicted, float not_predicted, int how, float* best, int64_t* mode) {
    int64_t w = around.w, wide = w / K;
    alignas(64) int16_t s[K * K][LS];
    Scratch<Lanes16<K>> p(1);
    for (int l = 0; l < LS; l++) {
        int64_t b = first + (l < count ? l : 0), by = b / wide, bx = b % wide;
        p->gather(around, l, by, bx);
        const uint8_t* from = source + by * K * w + bx * K;
        for (int r = 0; r < K; r++)
#pragma GCC unroll 8
            for (int c = 0; c < K; c++) s[r * K + c][l] = from[r * w + c];
    }
    p->compute();
    alignas(64) float lam[LS], least[LS];
    int32_t index[LS];
    for (int l = 0; l < count; l++) lam[l] = lambda(first + l), least[l] = 0, index[l] = -1;
    for (int m = 0; m < modes; m++) {
        alignas(64) uint16_t cost[LS];
        store(cost, compare<K>(s, *p, m, how));
        for (int l = 0; l < count; l++) {
            float c = 0.5f * (float)cost[l];
            if (!may_use(m, p->has_top[l], p->has_left[l])) c += FORBIDDEN;
            c += predicted ? (predicted[l] == m ? 0.0f : not_predicted * lam[l]) : lam[l] * mode_bits[m];
            if (index[l] < 0 || c < least[l]) least[l] = c, index[l] = m;
        }
    }
    for (int l = 0; l < count; l++) best[l] = least[l], mode[l] = index[l];
}

// Intra 16x16 and chroma: vertical, horizontal, DC, plane; chroma in its own order
struct Whole {
    // Sums that the plane mode is made of: h and v of 8.3.3.4, 8.3.4.4, and twice the mean
    template <int K> static void plane_sums(const uint8_t* p, int64_t stride, int32_t& a, int32_t& h, int32_t& v) {
        const uint8_t* above = p - stride;
        a = above[K - 1] + p[(K - 1) * stride - 1], h = v = 0;
        for (int i = 0; i < K / 2; i++) {
            h += (i + 1) * (above[K / 2 + i] - above[K / 2 - 2 - i]);
            v += (i + 1) * (p[(K / 2 + i) * stride - 1] - p[(K / 2 - 2 - i) * stride - 1]);
        }
    }
    template <int K> static constexpr int SLOPE = K == 16 ? 5 : 34;
    template <int K> DC_INLINE static int32_t plane_value(int32_t a, int32_t h, int32_t v, int y, int x) {  // not clipped
        return (a * 1024 + SLOPE<K> * (h * (x - K / 2 + 1) + v * (y - K / 2 + 1)) + 1024) >> 11;
    }
    template <int K> static void plane(const uint8_t* p, int64_t stride, uint8_t* out) {
        int32_t a, h, v;
        plane_sums<K>(p, stride, a, h, v);
        for (int y = 0; y < K; y++)
            for (int x = 0; x < K; x++) out[y * K + x] = (uint8_t)clip(plane_value<K>(a, h, v, y, x), 0, 255);
    }
    template <int K> static void vertical(const uint8_t* p, int64_t stride, uint8_t* out) {
        for (int y = 0; y < K; y++) memcpy(out + y * K, p - stride, K);
    }
    template <int K> static void horizontal(const uint8_t* p, int64_t stride, uint8_t* out) {
        for (int y = 0; y < K; y++) memset(out + y * K, p[y * stride - 1], K);
    }
    static void dc16(const uint8_t* p, int64_t stride, bool top, bool left, uint8_t* out) {
        int32_t sum = 0;
        for (int i = 0; i < 16; i++) sum += (top ? p[i - stride] : 0) + (left ? p[i * stride - 1] : 0);
        memset(out, top && left ? (sum + 16) >> 5 : top || left ? (sum + 8) >> 4 : 128, 256);
    }
    // which sides a quadrant's DC is the mean of: 1 top, 2 left
    static int sides(int y, int x, bool top, bool left) {
        if (x == y) return top * 1 + left * 2;
        if (x) return top ? 1 : left ? 2 : 0;
        return left ? 2 : top ? 1 : 0;
    }
    static void dc_chroma(const uint8_t* p, int64_t stride, bool top, bool left, uint8_t* out) {
        for (int y = 0; y < 2; y++)
            for (int x = 0; x < 2; x++) {
                int of = sides(y, x, top, left), sum = 0;
                for (int i = 0; i < 4; i++) sum += (of & 1 ? p[4 * x + i - stride] : 0) + (of & 2 ? p[(4 * y + i) * stride - 1] : 0);
                int mean = of == 3 ? (sum + 4) >> 3 : of ? (sum + 2) >> 2 : 128;
                for (int r = 0; r < 4; r++) memset(out + (4 * y + r) * 8 + 4 * x, mean, 4);
            }
    }
    // One mode of a 16x16 block (vertical, horizontal, DC, plane), or of a chroma block (DC, horizontal, vertical, plane)
    template <int K> static void predict(int64_t mode, const uint8_t* p, int64_t stride, bool top, bool left, uint8_t* out) {
        constexpr int v = K == 16 ? 0 : 2, dc = K == 16 ? 2 : 0;
        if (mode == v)
            vertical<K>(p, stride, out);
        else if (mode == 1)
            horizontal<K>(p, stride, out);
        else if (mode == dc)
            K == 16 ? dc16(p, stride, top, left, out) : dc_chroma(p, stride, top, left, out);
        else
            plane<K>(p, stride, out);
    }
    template <int K> static bool may_use(int mode, bool top, bool left) {
        constexpr int v = K == 16 ? 0 : 2, dc = K == 16 ? 2 : 0;
        return mode == dc || (mode == v ? top : mode == 1 ? left : top && left);
    }
};

DC_INLINE float compare16(const uint8_t* s, int64_t stride, const uint8_t* p, int how) {
    return how ? 0.5f * (float)satd2<16>(s, stride, p, 16) : (float)sad<16>(s, stride, p, 16);
}
DC_INLINE float compare8(const uint8_t* s, int64_t stride, const uint8_t* p, int how) {
    return how == 2 ? 0.25f * (float)sa8d4<8>(s, stride, p, 8) : how ? 0.5f * (float)satd2<8>(s, stride, p, 8) : (float)sad<8>(s, stride, p, 8);
}

void cheapest16(const Bordered& around, const uint8_t* source, int64_t by, int64_t bx, float lam, const float* mode_bits, int modes, int how,
                float& best, int64_t& mode) {
    alignas(64) uint8_t p[256];
    const uint8_t* from = around.at(16 * by, 16 * bx);
    mode = -1;
    for (int m = 0; m < modes; m++) {
        float c = FORBIDDEN;
        // a mode that may not be used costs that much and more: its distortion is computed where nothing else is left
        if (!Whole::may_use<16>(m, by > 0, bx > 0)) {
            if (mode >= 0) continue;
        } else
            c = 0;
        Whole::predict<16>(m, from, around.stride, by > 0, bx > 0, p);
        c = compare16(source + 16 * by * around.w + 16 * bx, around.w, p, how) + c;
        c += lam * mode_bits[m];
        if (mode < 0 || c < best) best = c, mode = m;
    }
}

// A frame's blocks in pieces: f(first, count) for LS blocks at most
template <class F> DC_INLINE void in_pieces(int64_t blocks, const F& f) {
    for (int64_t b = 0; b < blocks; b += LS) f(b, (int)lowest<int64_t>(LS, blocks - b));
}

int how_of(int64_t k, int64_t satd, int64_t transform8) { return !satd ? 0 : k == 8 && transform8 ? 2 : 1; }

void cheapest_mode(int64_t threads, const float* source, const float* constructed, const float* lam, const float* mode_bits, const int64_t* predicted,
                   float* best, int64_t* mode, int64_t n, int64_t h, int64_t w, int64_t k, int64_t modes, int64_t satd, int64_t transform8,
                   double not_predicted) {
    int64_t blocks = h / k * (w / k);
    int how = how_of(k, satd, transform8);
    parallel(threads, n, 30.0 * (double)(h * w), [&](int64_t i) {
        Scratch<uint8_t> memory(Bordered::size(h, w)), own(h * w);
        Bordered around(constructed + i * h * w, h, w, memory);
        to_bytes(source + i * h * w, own, h * w);
        const float* l = lam + i * blocks;
        float* to = best + i * blocks;
        int64_t* to_mode = mode + i * blocks;
        if (k == 16) {
            for (int64_t b = 0; b < blocks; b++) cheapest16(around, own, b / (w / 16), b % (w / 16), l[b], mode_bits, (int)modes, how, to[b], to_mode[b]);
            return;
        }
        const int64_t* named = predicted ? predicted + i * blocks : nullptr;
        in_pieces(blocks, [&](int64_t first, int count) {
            auto lambda = [&](int64_t b) { return l[b]; };
            const int64_t* some = named ? named + first : nullptr;
            if (k == 8)
                cheapest_small<8>(around, own, first, count, lambda, mode_bits, (int)modes, some, (float)not_predicted, how, to + first, to_mode + first);
            else
                cheapest_small<4>(around, own, first, count, lambda, mode_bits, (int)modes, some, (float)not_predicted, how, to + first, to_mode + first);
        });
    });
}

// Cb and Cr together; h, w of chroma
void cheapest_chroma_mode(int64_t threads, const float* source, const float* constructed, const float* lam, const float* mode_bits, float* best,
                          int64_t* mode, int64_t n, int64_t h, int64_t w, int64_t modes, int64_t satd, int64_t transform8) {
    int64_t bw = w / 8, blocks = h / 8 * bw;
    int how = how_of(8, satd, transform8);
    parallel(threads, n, 10.0 * (double)(h * w), [&](int64_t i) {
        Scratch<uint8_t> of_cb(Bordered::size(h, w)), of_cr(Bordered::size(h, w));
        Bordered cb(constructed + 2 * i * h * w, h, w, of_cb), cr(constructed + (2 * i + 1) * h * w, h, w, of_cr);
        const Bordered* around[2] = {&cb, &cr};
        Scratch<uint8_t> own(2 * h * w);
        to_bytes(source + 2 * i * h * w, own, 2 * h * w);
        for (int64_t b = 0; b < blocks; b++) {
            int64_t by = b / bw, bx = b % bw;
            float least = 0;
            int64_t chosen = -1;
            for (int m = 0; m < modes; m++) {
                float c = 0;
                for (int p = 0; p < 2; p++) {
                    alignas(64) uint8_t predicted[64];
                    Whole::predict<8>(m, around[p]->at(8 * by, 8 * bx), around[p]->stride, by > 0, bx > 0, predicted);
                    c += compare8(own + p * h * w + 8 * by * w + 8 * bx, w, predicted, how);
                }
                if (!Whole::may_use<8>(m, by > 0, bx > 0)) c += FORBIDDEN;
                c += lam[i * blocks + b] * mode_bits[m];
                if (chosen < 0 || c < least) least = c, chosen = m;
            }
            best[i * blocks + b] = least, mode[i * blocks + b] = chosen;
        }
    });
}

// The mode that a block's neighbours name (reference.py: predicted_modes)
struct Named {
    int64_t bw;  // macroblocks
    const int64_t *type, *modes8, *modes4;
    int64_t at(int k, int64_t y, int64_t x) const { return k == 8 ? modes8[y / 2 * 2 * bw + x / 2] : modes4[y * 4 * bw + x]; }
    int64_t actual(int64_t y, int64_t x) const {  // y, x: of 4x4 blocks
        int64_t t = type[y / 4 * bw + x / 4];
        return t == 2 ? at(4, y, x) : t == 1 ? at(8, y, x) : 2;
    }
    int64_t of(int k, int64_t y, int64_t x) const {
        if (y == 0 || x == 0) return 2;
        return lowest(x % 4 ? at(k, y, x - 1) : actual(y, x - 1), y % 4 ? at(k, y - 1, x) : actual(y - 1, x));
    }
};

// constants: BITS_UNKNOWN, BITS_PREDICTED, BITS_OTHER, MB_BITS_16X16, MB_BITS_SMALL, MB_COST_SMALL (2), NOT_PREDICTED
void choose_modes(int64_t threads, const float* source, const float* constructed, const float* lam, const int64_t* known_type, const int64_t* known8,
                  const int64_t* known4, int64_t* mb_type, float* cost, float* bits, float* of_types, int64_t* mode16, int64_t* mode8, int64_t* mode4,
                  int64_t n, int64_t bh, int64_t bw, int64_t satd, int64_t transform8, int64_t small, const float* bits16, const float* bits_small,
                  const float* constants) {
    int64_t h = 16 * bh, w = 16 * bw, m = bh * bw;
    // pieces of a frame: whole rows of macroblocks
    int64_t each = highest<int64_t>(1, 64 / bw), pieces = (bh + each - 1) / each;
    int64_t size = Bordered::size(h, w);
    Scratch<uint8_t> around(n * size), own(n * h * w);
    parallel(threads, n, 0.5 * (double)(h * w), [&](int64_t i) {
        Bordered(constructed + i * h * w, h, w, around + i * size);
        to_bytes(source + i * h * w, own + i * h * w, h * w);
    });
    parallel(threads, n * pieces, 1e4 * (double)(each * bw), [&](int64_t task) {
        int64_t i = task / pieces, first = task % pieces * each, last = lowest(first + each, bh);
        Bordered plane(around + i * size, w);
        const uint8_t* from = own + i * h * w;
        const float* l = lam + i * m;
        Named named{bw, known_type ? known_type + i * m : nullptr, known8 ? known8 + 4 * i * m : nullptr, known4 ? known4 + 16 * i * m : nullptr};
        Scratch<float> costs(3 * (last - first) * bw);
        for (int64_t b = first * bw; b < last * bw; b++) {
            cheapest16(plane, from, b / bw, b % bw, l[b], bits16, 4, satd ? 1 : 0, costs[b - first * bw], mode16[i * m + b]);
            of_types[i * m + b] = bits16[mode16[i * m + b]] + constants[3];
        }
        int64_t some = (last - first) * bw;
        if (small)
            for (int t = 1; t < 3; t++) {
                int k = t == 1 ? 8 : 4;
                int64_t per = 16 / k, wide = bw * per, begin = first * per * wide, blocks = (last - first) * per * wide;
                int64_t* modes = (t == 1 ? mode8 : mode4) + i * m * per * per + begin;
                Scratch<float> best(blocks);
                Scratch<int64_t> names(blocks);
                if (known_type)
                    for (int64_t b = 0; b < blocks; b++) names[b] = named.of(k, (begin + b) / wide * (k / 4), (begin + b) % wide * (k / 4));
                in_pieces(blocks, [&](int64_t b, int count) {
                    auto lambda = [&](int64_t j) { return l[j / wide / per * bw + j % wide / per]; };
                    const int64_t* expected = known_type ? names + b : nullptr;
                    if (k == 8)
                        cheapest_small<8>(plane, from, begin + b, count, lambda, bits_small, 9, expected, constants[7], how_of(8, satd, transform8), best + b, modes + b);
                    else
                        cheapest_small<4>(plane, from, begin + b, count, lambda, bits_small, 9, expected, constants[7], how_of(4, satd, transform8), best + b, modes + b);
                });
                for (int64_t b = 0; b < some; b++) {
                    float total = 0, side = 0;
                    for (int64_t y = 0; y < per; y++)
                        for (int64_t x = 0; x < per; x++) {
                            int64_t at = (b / bw * per + y) * wide + b % bw * per + x;
                            total += best[at];
                            side += !known_type ? constants[0] : modes[at] == names[at] ? constants[1] : constants[2];
                        }
                    float forbidden = t == 1 && !transform8 ? FORBIDDEN : 0.0f;
                    costs[t * some + b] = total + constants[4 + t] * l[first * bw + b] + forbidden;
                    of_types[(t * n + i) * m + first * bw + b] = side + constants[4] + forbidden;
                }
            }
        for (int64_t b = 0; b < some; b++) {
            int64_t at = i * m + first * bw + b, type = 0;
            for (int64_t t = 1; t < (small ? 3 : 1); t++)
                if (costs[t * some + b] < costs[type * some + b]) type = t;
            mb_type[at] = type, cost[at] = costs[type * some + b], bits[at] = of_types[type * n * m + at];
        }
    });
}

// Prediction as decided. Blocks of the macroblocks of rows first..last - 1 of a frame.
template <int K, class F> void each_small(int64_t bw, int64_t first, int64_t last, const int64_t* type, const F& f) {
    int64_t per = 16 / K, wide = bw * per;
    int64_t blocks[LS];
    int count = 0;
    for (int64_t b = first * per * wide; b < last * per * wide; b++) {
        if (type[b / wide / per * bw + b % wide / per] == (K == 8 ? 1 : 2)) blocks[count++] = b;
        if (count && (count == LS || b + 1 == last * per * wide)) f(blocks, count), count = 0;
    }
}

template <int K> struct Side {
    static constexpr int value = K;
};

void predict_rows(const Bordered& plane, int64_t bw, int64_t first, int64_t last, const int64_t* type, const int64_t* mode16, const int64_t* mode8,
                  const int64_t* mode4, float* out) {
    int64_t w = plane.w;
    for (int64_t b = first * bw; b < last * bw; b++) {
        if (type && type[b] != 0) continue;
        int64_t by = b / bw, bx = b % bw;
        uint8_t p[256];
        Whole::predict<16>(mode16[b], plane.at(16 * by, 16 * bx), plane.stride, by > 0, bx > 0, p);
        for (int y = 0; y < 16; y++)
            for (int x = 0; x < 16; x++) out[(16 * by + y) * w + 16 * bx + x] = p[16 * y + x];
    }
    if (!type || !mode8) return;
    auto small = [&](auto lanes, const int64_t* modes) {
        constexpr int K = decltype(lanes)::value;
        Scratch<Lanes16<K>> p(1);
        each_small<K>(bw, first, last, type, [&](const int64_t* blocks, int count) {
            int64_t wide = w / K;
            for (int l = 0; l < LS; l++) {
                int64_t b = blocks[l < count ? l : 0];
                p->gather(plane, l, b / wide, b % wide);
            }
            p->compute();
            for (int l = 0; l < count; l++) {
                int64_t b = blocks[l];
                const uint8_t* of = MODES<K>.of[modes[b]];
                float* to = out + b / wide * K * w + b % wide * K;
                for (int y = 0; y < K; y++)
                    for (int x = 0; x < K; x++) to[y * w + x] = p->v[of[y * K + x]][l];
            }
        });
    };
    small(Side<8>{}, mode8), small(Side<4>{}, mode4);
}

// only: the macroblocks that are predicted, the others are those of `inter`; both may be missing, and so may mb_type and the modes of small blocks
void predict_intra(int64_t threads, const float* inter, const uint8_t* only, const float* constructed, const int64_t* mode16, const int64_t* mode8,
                   const int64_t* mode4, const int64_t* mb_type, float* out, int64_t n, int64_t bh, int64_t bw) {
    int64_t m = bh * bw, samples = 256 * m;
    Scratch<int64_t> of(only ? n * m : 0);
    if (only) {
        for (int64_t i = 0; i < n * m; i++) of[i] = !only[i] ? -1 : mb_type ? mb_type[i] : 0;
        mb_type = of;
    }
    parallel(threads, n, 5.0 * (double)samples, [&](int64_t i) {
        if (inter) memcpy(out + i * samples, inter + i * samples, sizeof(float) * samples);
        Scratch<uint8_t> memory(Bordered::size(16 * bh, 16 * bw));
        Bordered plane(memory, 16 * bw);
        for (int64_t row = 0; row < bh; row++) {
            bool any = !only;
            for (int64_t b = row * bw; b < (row + 1) * bw && !any; b++) any = only[i * m + b] != 0;
            if (!any) continue;
            plane.fill(constructed + i * samples, 16 * row - 1, 16 * row + 16, memory);
            predict_rows(plane, bw, row, row + 1, mb_type ? mb_type + i * m : nullptr, mode16 + i * m, mode8 ? mode8 + 4 * i * m : nullptr,
                         mode4 ? mode4 + 16 * i * m : nullptr, out + i * samples);
        }
    });
}

void predict_intra_chroma(int64_t threads, const float* inter, const uint8_t* only, const float* constructed, const int64_t* mode, float* out, int64_t n,
                          int64_t bh, int64_t bw) {
    int64_t w = 8 * bw, samples = 64 * bh * bw;
    parallel(threads, 2 * n, 3.0 * (double)samples, [&](int64_t i) {
        if (inter) memcpy(out + i * samples, inter + i * samples, sizeof(float) * samples);
        Scratch<uint8_t> memory(Bordered::size(8 * bh, w));
        Bordered plane(memory, w);
        int64_t filled = -1;
        for (int64_t b = 0; b < bh * bw; b++) {
            if (only && !only[i / 2 * bh * bw + b]) continue;
            if (filled != b / bw) filled = b / bw, plane.fill(constructed + i * samples, 8 * filled - 1, 8 * filled + 8, memory);
            int64_t by = b / bw, bx = b % bw;
            uint8_t p[64];
            Whole::predict<8>(mode[i / 2 * bh * bw + b], plane.at(8 * by, 8 * bx), plane.stride, by > 0, bx > 0, p);
            for (int y = 0; y < 8; y++)
                for (int x = 0; x < 8; x++) out[i * samples + (8 * by + y) * w + 8 * bx + x] = p[8 * y + x];
        }
    });
}

// Adjoints: gradients of a block's samples to those of its neighbours. A place outside the plane takes none.
struct GradientPlane {
    float* p;
    int64_t w;
    DC_INLINE void add(int64_t y, int64_t x, float g) const {
        if (y >= 0 && x >= 0) p[y * w + x] += g;
    }
};

template <int K> void whole_back(int64_t mode, const uint8_t* p, int64_t stride, int64_t by, int64_t bx, const float* g, int64_t w, const GradientPlane& to) {
    constexpr int v = K == 16 ? 0 : 2, dc = K == 16 ? 2 : 0;
    int64_t y0 = by * K, x0 = bx * K;
    bool top = by > 0, left = bx > 0;
    if (mode == v || mode == 1) {
        for (int y = 0; y < K; y++)
            for (int x = 0; x < K; x++) mode == v ? to.add(y0 - 1, x0 + x, g[y * w + x]) : to.add(y0 + y, x0 - 1, g[y * w + x]);
    } else if (mode == dc && K == 16) {
        float sum = 0;
        for (int y = 0; y < K; y++)
            for (int x = 0; x < K; x++) sum += g[y * w + x];
        if (!top && !left) return;
        sum /= (float)(K * (top + left));
        for (int i = 0; i < K; i++) {
            if (top) to.add(y0 - 1, x0 + i, sum);
            if (left) to.add(y0 + i, x0 - 1, sum);
        }
    } else if (mode == dc) {
        for (int q = 0; q < 4; q++) {
            int y = q / 2, x = q % 2, of = Whole::sides(y, x, top, left);
            float sum = 0;
            for (int r = 0; r < 4; r++)
                for (int c = 0; c < 4; c++) sum += g[(4 * y + r) * w + 4 * x + c];
            sum /= of == 3 ? 8.0f : 4.0f;
            for (int i = 0; i < 4; i++) {
                if (of & 1) to.add(y0 - 1, x0 + 4 * x + i, sum);
                if (of & 2) to.add(y0 + 4 * y + i, x0 - 1, sum);
            }
        }
    } else {
        int32_t a, h, vv;
        Whole::plane_sums<K>(p, stride, a, h, vv);
        float of_a = 0, of_h = 0, of_v = 0;
        for (int y = 0; y < K; y++)
            for (int x = 0; x < K; x++) {
                int32_t value = Whole::plane_value<K>(a, h, vv, y, x);
                if (value < 0 || value > 255) continue;
                of_a += g[y * w + x], of_h += g[y * w + x] * (float)(x - K / 2 + 1), of_v += g[y * w + x] * (float)(y - K / 2 + 1);
            }
        of_a /= 2, of_h *= Whole::SLOPE<K> / 2048.0f, of_v *= Whole::SLOPE<K> / 2048.0f;
        to.add(y0 - 1, x0 + K - 1, of_a), to.add(y0 + K - 1, x0 - 1, of_a);
        for (int i = 0; i < K / 2; i++) {
            to.add(y0 - 1, x0 + K / 2 + i, (float)(i + 1) * of_h), to.add(y0 - 1, x0 + K / 2 - 2 - i, -(float)(i + 1) * of_h);
            to.add(y0 + K / 2 + i, x0 - 1, (float)(i + 1) * of_v), to.add(y0 + K / 2 - 2 - i, x0 - 1, -(float)(i + 1) * of_v);
        }
    }
}

template <int K> void small_back(int64_t mode, int64_t by, int64_t bx, const float* g, int64_t w, const GradientPlane& to) {
    constexpr const Modes<K>& M = MODES<K>;
    float raw[Modes<K>::RAW] = {};
    bool top = by > 0, left = bx > 0;
    if (mode == 2) {
        float sum = 0;
        for (int y = 0; y < K; y++)
            for (int x = 0; x < K; x++) sum += g[y * w + x];
        if (top || left) sum /= (float)(K * (top + left));
        for (int i = 0; i < K; i++) {
            if (top) raw[1 + i] = sum;
            if (left) raw[2 * K + 1 + i] = sum;
        }
    } else
        for (int y = 0; y < K; y++)
            for (int x = 0; x < K; x++) {
                const auto& t = M.taps[M.of[mode][y * K + x]];
                float q = 0.25f * g[y * w + x];
                raw[t.from[0]] += q * t.weight[0], raw[t.from[1]] += q * t.weight[1], raw[t.from[2]] += q * t.weight[2];
            }
    if (K == 8) {  // adjoint of the smoothing
        float s[Modes<K>::RAW] = {};
        auto three = [&](int a, int b, int c, float v) { s[a] += v / 4, s[b] += v / 2, s[c] += v / 4; };
        if (top && left)
            three(1, 0, 2 * K + 1, raw[0]);
        else
            s[0] += raw[0];
        for (int i = 1; i <= 2 * K; i++)
            if (top)
                three(i > 1 ? i - 1 : left ? 0 : 1, i, i < 2 * K ? i + 1 : i, raw[i]);
            else
                s[i] += raw[i];
        for (int i = 2 * K + 1; i <= 3 * K; i++)
            if (left)
                three(i > 2 * K + 1 ? i - 1 : top ? 0 : i, i, i < 3 * K ? i + 1 : i, raw[i]);
            else
                s[i] += raw[i];
        memcpy(raw, s, sizeof raw);
    }
    int64_t y0 = by * K, x0 = bx * K;
    int limit = has_right(K, by, bx, to.w) ? 2 * K - 1 : K - 1;
    to.add(y0 - 1, x0 - 1, raw[0]);
    for (int i = 0; i < 2 * K; i++) to.add(y0 - 1, x0 + (i < limit ? i : limit), raw[1 + i]);
    for (int i = 0; i < K; i++) to.add(y0 + i, x0 - 1, raw[2 * K + 1 + i]);
}

// Of a row of K x K blocks the gradients of those that are not marked, 0 for the others
template <int K> void of_others(const float* grad, const uint8_t* marked, float* out, int64_t bw) {
    memcpy(out, grad, sizeof(float) * K * K * bw);
    for (int64_t x = 0; x < bw; x++)
        if (marked[x])
            for (int64_t y = 0; y < K; y++) memset(out + y * K * bw + K * x, 0, sizeof(float) * K);
}

// A row of blocks also writes to the row of samples above it: even rows first, then odd ones
template <class F> DC_INLINE void alternating(int64_t threads, int64_t n, int64_t rows, double ns, const F& f) {
    for (int64_t odd = 0; odd < 2; odd++) {
        int64_t some = (rows + 1 - odd) / 2;
        parallel(threads, n * some, ns, [&](int64_t task) { f(task / some, task % some * 2 + odd); });
    }
}

// to_inter: gradient of what the other macroblocks are predicted from; missing without `only`
void predict_intra_backward(int64_t threads, const float* grad, const uint8_t* only, float* to_inter, const float* constructed, const int64_t* mode16, const int64_t* mode8,
                            const int64_t* mode4, const int64_t* mb_type, float* out, int64_t n, int64_t bh, int64_t bw) {
    int64_t m = bh * bw, w = 16 * bw, samples = 256 * m;
    memset(out, 0, sizeof(float) * n * samples);
    alternating(threads, n, bh, 2e3 * (double)bw, [&](int64_t i, int64_t row) {
        GradientPlane to{out + i * samples, w};
        if (only) of_others<16>(grad + i * samples + 16 * row * w, only + i * m + row * bw, to_inter + i * samples + 16 * row * w, bw);
        const float* g = grad + i * samples;
        for (int64_t b = row * bw; b < (row + 1) * bw; b++) {
            if (only && !only[i * m + b]) continue;
            int64_t bx = b % bw, type = mb_type && mode8 ? mb_type[i * m + b] : 0;
            if (type == 0) {
                uint8_t around[17][32];  // the plane mode looks whether it clips
                if (mode16[i * m + b] == 3)
                    for (int64_t y = -1; y < 16; y++)
                        for (int64_t x = -1; x < (y < 0 ? 16 : 0); x++)
                            around[y + 1][x + 1] = (uint8_t)(row + (y >= 0) > 0 && bx + (x >= 0) > 0 ? constructed[i * samples + (16 * row + y) * w + 16 * bx + x] : 128.0f);
                whole_back<16>(mode16[i * m + b], &around[1][1], 32, row, bx, g + 16 * row * w + 16 * bx, w, to);
            } else if (type == 1) {
                for (int k = 0; k < 4; k++) {
                    int64_t y = 2 * row + k / 2, x = 2 * bx + k % 2;
                    small_back<8>(mode8[4 * i * m + y * 2 * bw + x], y, x, g + 8 * y * w + 8 * x, w, to);
                }
            } else
                for (int k = 0; k < 16; k++) {
                    int64_t y = 4 * row + k / 4, x = 4 * bx + k % 4;
                    small_back<4>(mode4[16 * i * m + y * 4 * bw + x], y, x, g + 4 * y * w + 4 * x, w, to);
                }
        }
    });
}

void predict_intra_chroma_backward(int64_t threads, const float* grad, const uint8_t* only, float* to_inter, const float* constructed, const int64_t* mode, float* out, int64_t n, int64_t bh,
                                   int64_t bw) {
    int64_t w = 8 * bw, samples = 64 * bh * bw;
    memset(out, 0, sizeof(float) * 2 * n * samples);
    alternating(threads, 2 * n, bh, 300.0 * (double)bw, [&](int64_t i, int64_t row) {
        GradientPlane to{out + i * samples, w};
        if (only) of_others<8>(grad + i * samples + 8 * row * w, only + (i / 2 * bh + row) * bw, to_inter + i * samples + 8 * row * w, bw);
        for (int64_t bx = 0; bx < bw; bx++) {
            int64_t of = mode[i / 2 * bh * bw + row * bw + bx];
            if (only && !only[i / 2 * bh * bw + row * bw + bx]) continue;
            uint8_t around[9][16];
            if (of == 3)
                for (int64_t y = -1; y < 8; y++)
                    for (int64_t x = -1; x < (y < 0 ? 8 : 0); x++)
                        around[y + 1][x + 1] = (uint8_t)(row + (y >= 0) > 0 && bx + (x >= 0) > 0 ? constructed[i * samples + (8 * row + y) * w + 8 * bx + x] : 128.0f);
            whole_back<8>(of, &around[1][1], 16, row, bx, grad + i * samples + 8 * row * w + 8 * bx, w, to);
        }
    });
}

void choose_mb_type(int64_t threads, const float* source, const float* constructed, const int64_t* mode16, const int64_t* mode8, const int64_t* mode4,
                    const float* qp, const float* lam, const float* type_bits, int64_t* mb_type, float* bits, int64_t n, int64_t bh, int64_t bw,
                    double psy, const float* weights, const float* quant, const float* steps4, const float* steps8, const int64_t* places,
                    const float* cabac) {
    Call call(quant, steps4, steps8, places, cabac, qp, n * bh * bw, false);
    int64_t m = bh * bw, w = 16 * bw, samples = 256 * m;
    for (int64_t i = 0; i < n; i++) {
        Scratch<uint8_t> memory(Bordered::size(16 * bh, w));
        Bordered plane(constructed + i * samples, 16 * bh, w, memory);
        Deciding frame(threads, call, bh, bw, source + i * samples, qp + i * m, lam + i * m, true, (float)psy, weights);
        Way ways[3] = {{m, 0}, {m, 1}, {m, 2}};
        Scratch<float> predicted(samples);
        Scratch<int64_t> type(m);
        for (Way& way : ways) {
            for (int64_t b = 0; b < m; b++) type[b] = way.type;
            parallel(threads, bh, 2e3 * (double)bw, [&](int64_t row) {
                predict_rows(plane, bw, row, row + 1, type, mode16 + i * m, mode8 + 4 * i * m, mode4 + 16 * i * m, predicted);
            });
            frame.code(way, predicted);
        }
        int64_t* to = mb_type + i * m;
        for (int64_t b = 0; b < m; b++) to[b] = 1;
        for (int round = 0; round < (int)weights[3]; round++) {
            WayStates states(frame, ways, 3, to);
            for (Way& way : ways) frame.add_bits(way, states, [&](int64_t b) { return type_bits[(way.type * n + i) * m + b]; });
            for (int64_t b = 0; b < m; b++) {
                to[b] = 0;
                for (int t = 1; t < 3; t++)
                    if (ways[t].cost[b] < ways[to[b]].cost[b]) to[b] = t;
            }
        }
        for (int64_t b = 0; b < m; b++) bits[i * m + b] = type_bits[(to[b] * n + i) * m + b];
    }
}

// Modes of K x K blocks of a frame by rate and distortion
template <int K>
void refine(const Deciding& frame, const Bordered& plane, const int64_t* before, const int64_t* mb_type, const int64_t* predicted_mode, int64_t* out,
            const float* weights) {
    constexpr int M = 16 / K, N = K * K, KIND = K == 8 ? EIGHT : LUMA, TYPE = K == 8 ? 1 : 2;
    int64_t bw = frame.bw, m = frame.m, blocks = M * M * m, across = M * bw;
    Way guess(m, TYPE), way(m, TYPE);
    Scratch<float> predicted(256 * m), least(blocks), cost(blocks), states(m * CONTEXTS);
    Scratch<int64_t> type(m), modes(blocks);
    for (int64_t b = 0; b < m; b++) type[b] = TYPE;
    auto code = [&](const int64_t* of_blocks, Way& to) {
        parallel(frame.threads, frame.bh, 2e3 * (double)bw, [&](int64_t row) {
            predict_rows(plane, bw, row, row + 1, type, of_blocks, of_blocks, of_blocks, predicted);
        });
        frame.code_blocks<K>(to, predicted, cost);
    };
    code(before, guess);
    {
        Scratch<Seen<CONTEXTS>> seen(m, true);
        parallel(frame.threads, m, 500, [&](int64_t b) { if (mb_type[b] == TYPE) guess.count(frame.call.cabac, b, seen[b]); });
        adapt<CONTEXTS>(frame.call.cabac, seen, frame.call.cabac.first_of(KIND, frame.slice), m, states);
    }
    for (int mode = 0; mode < 9; mode++) {
        for (int64_t b = 0; b < blocks; b++) modes[b] = mode;
        code(modes, way);
        parallel(frame.threads, m, 1e3, [&](int64_t mb) {
            Scratch<Lanes> v(N);
            Scratch<LaneBits> bits(1);
            alignas(64) float of_blocks[LANES];
            way.lanes<N>(mb, v);
            bits->set(frame.call.cabac, states + CONTEXTS * mb, 0, LANES);
            level_bits<N>(frame.call.cabac, KIND, v, *bits, of_blocks);
            for (int l = 0; l < M * M; l++) {
                int64_t y = mb / bw * M + l / M, x = mb % bw * M + l % M, at = y * across + x;
                float more = predicted_mode ? (predicted_mode[at] == mode ? weights[5] : weights[6]) : weights[4];
                float lambda = frame.lam[mb], total = cost[at] + frame.rate_weight * (lambda * lambda) * more + frame.rate_weight * (lambda * lambda) * of_blocks[l];
                if (!may_use(mode, y > 0, x > 0)) total += FORBIDDEN;
                if (mode == 0 || total < least[at]) least[at] = total, out[at] = mode;
            }
        });
    }
}

void refine_modes(int64_t threads, const float* source, const float* constructed, const int64_t* mode8, const int64_t* mode4, const int64_t* mb_type,
                  const int64_t* predicted8, const int64_t* predicted4, const float* qp, const float* lam, int64_t* out8, int64_t* out4, int64_t n,
                  int64_t bh, int64_t bw, double psy, const float* weights, const float* quant, const float* steps4, const float* steps8,
                  const int64_t* places, const float* cabac) {
    Call call(quant, steps4, steps8, places, cabac, qp, n * bh * bw, false);
    int64_t m = bh * bw, samples = 256 * m;
    for (int64_t i = 0; i < n; i++) {
        Scratch<uint8_t> memory(Bordered::size(16 * bh, 16 * bw));
        Bordered plane(constructed + i * samples, 16 * bh, 16 * bw, memory);
        Deciding frame(threads, call, bh, bw, source + i * samples, qp + i * m, lam + i * m, true, (float)psy, weights);
        refine<8>(frame, plane, mode8 + 4 * i * m, mb_type + i * m, predicted8 ? predicted8 + 4 * i * m : nullptr, out8 + 4 * i * m, weights);
        refine<4>(frame, plane, mode4 + 16 * i * m, mb_type + i * m, predicted4 ? predicted4 + 16 * i * m : nullptr, out4 + 16 * i * m, weights);
    }
}

}  // namespace

DC_EXPORT(cheapest_mode)
DC_EXPORT(cheapest_chroma_mode)
DC_EXPORT(choose_modes)
DC_EXPORT(choose_mb_type)
DC_EXPORT(refine_modes)
DC_EXPORT(predict_intra)
DC_EXPORT(predict_intra_chroma)
DC_EXPORT(predict_intra_backward)
DC_EXPORT(predict_intra_chroma_backward)

}  // namespace DC_ISA
