// JPEG: libjpeg's integer arithmetic, and the gradient of the real-valued operations; see exact.py, whose names these are.
//
// Samples lie around 0: 128 less. Forward they are 16-bit lanes, whose products are made in pairs, 32 bits wide: blocks side by side, eight lanes
// each, so that a block is turned within 128 bits. Backward they are floats.
#include "../common/native/simd.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace DC_ISA {
namespace {

typedef int16_t vhs __attribute__((vector_size(VB / 2)));  // 16-bit numbers, as many as there are floats
typedef int8_t vhb __attribute__((vector_size(VB / 2)));   // bytes, as many as there are 16-bit lanes

// Lanes. "Low" and "high" are halves of each 128 bits; packing undoes unpacking.
#if defined(__SSE2__)
#if defined(__AVX512BW__)
typedef __m512i raw;
typedef __m512 rawf;
#define DC_OP(name) _mm512_##name
#elif defined(__AVX2__)
typedef __m256i raw;
typedef __m256 rawf;
#define DC_OP(name) _mm256_##name
#else
typedef __m128i raw;
typedef __m128 rawf;
#define DC_OP(name) _mm_##name
#endif
DC_INLINE vs low16(vs a, vs b) { return (vs)DC_OP(unpacklo_epi16)((raw)a, (raw)b); }
DC_INLINE vs high16(vs a, vs b) { return (vs)DC_OP(unpackhi_epi16)((raw)a, (raw)b); }
DC_INLINE vs low32(vs a, vs b) { return (vs)DC_OP(unpacklo_epi32)((raw)a, (raw)b); }
DC_INLINE vs high32(vs a, vs b) { return (vs)DC_OP(unpackhi_epi32)((raw)a, (raw)b); }
DC_INLINE vs low64(vs a, vs b) { return (vs)DC_OP(unpacklo_epi64)((raw)a, (raw)b); }
DC_INLINE vs high64(vs a, vs b) { return (vs)DC_OP(unpackhi_epi64)((raw)a, (raw)b); }
DC_INLINE vs pack(vi a, vi b) { return (vs)DC_OP(packs_epi32)((raw)a, (raw)b); }
DC_INLINE vi pairs(vs a, vs b) { return (vi)DC_OP(madd_epi16)((raw)a, (raw)b); }  // a0 b0 + a1 b1
DC_INLINE vs upper(vs a, vs b) { return (vs)DC_OP(mulhi_epi16)((raw)a, (raw)b); }
#else
DC_INLINE vs low16(vs a, vs b) { return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
DC_INLINE vs high16(vs a, vs b) { return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
DC_INLINE vs low32(vs a, vs b) { return __builtin_shufflevector(a, b, 0, 1, 8, 9, 2, 3, 10, 11); }
DC_INLINE vs high32(vs a, vs b) { return __builtin_shufflevector(a, b, 4, 5, 12, 13, 6, 7, 14, 15); }
DC_INLINE vs low64(vs a, vs b) { return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11); }
DC_INLINE vs high64(vs a, vs b) { return __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15); }
DC_INLINE vs pack(vi a, vi b) { return __builtin_shufflevector((vs)a, (vs)b, 0, 2, 4, 6, 8, 10, 12, 14); }  // of numbers that fit
DC_INLINE vi even16(vs a) { return (vi)((vw)(vi)a << 16) >> 16; }
DC_INLINE vi odd16(vs a) { return (vi)a >> 16; }
DC_INLINE vi pairs(vs a, vs b) { return even16(a) * even16(b) + odd16(a) * odd16(b); }
DC_INLINE vs upper(vs a, vs b) {
    return (vs)((vi)((vw)(even16(a) * even16(b)) >> 16) | ((odd16(a) * odd16(b)) & alli((int32_t)0xffff0000)));
}
#endif

DC_INLINE vs alls(int x) { return (int16_t)x - vs{}; }
// (a, b) in turn
DC_INLINE vs two(int a, int b) { return (vs)alli((int32_t)((uint32_t)(uint16_t)b << 16 | (uint16_t)a)); }

// Wider numbers of bytes and of 16 bits: compilers take GCC's conversions apart
DC_INLINE vs bytes16(const int8_t* p) {
#if defined(__AVX512BW__)
    return (vs)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__AVX2__)
    return (vs)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p));
#elif defined(__SSE2__)
    return (vs)_mm_unpacklo_epi8(_mm_setzero_si128(), _mm_loadl_epi64((const __m128i*)p)) >> 8;
#else
    return __builtin_convertvector(load<vhb>(p), vs);
#endif
}
DC_INLINE vi bytes32(const int8_t* p) {
#if defined(__AVX512BW__)
    return (vi)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p));
#elif defined(__AVX2__)
    return (vi)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p));
#else
    return (vi)low16(vs{}, bytes16(p)) >> 16;
#endif
}
DC_INLINE vf floats(const int16_t* p) {
#if defined(__AVX512BW__)
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i*)p)));
#elif defined(__AVX2__)
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i*)p)));
#else
    vs x = {};
    memcpy(&x, p, VB / 2);
    return __builtin_convertvector((vi)low16(vs{}, x) >> 16, vf);
#endif
}
// Those of half a vector, in their order
DC_INLINE vf floats(vs x, int half) {
#if defined(__AVX512BW__)
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(half ? _mm512_extracti64x4_epi64((__m512i)x, 1) : _mm512_castsi512_si256((__m512i)x)));
#elif defined(__AVX2__)
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(half ? _mm256_extracti128_si256((__m256i)x, 1) : _mm256_castsi256_si128((__m256i)x)));
#else
    return __builtin_convertvector((vi)(half ? high16(vs{}, x) : low16(vs{}, x)) >> 16, vf);
#endif
}
DC_INLINE vf between(vf x, float low, float high) {
#if defined(__SSE2__)
    return (vf)DC_OP(min_ps)(DC_OP(max_ps)((rawf)x, (rawf)all(low)), (rawf)all(high));
#else
    return vmin(vmax(x, all(low)), all(high));
#endif
}

// Turn blocks: row i, lane j to row j, lane i
DC_INLINE void turn(vs* x) {
    vs a[8], b[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) a[i] = low16(x[i], x[i + 1]), a[i + 1] = high16(x[i], x[i + 1]);
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        b[i] = low32(a[i], a[i + 2]), b[i + 1] = high32(a[i], a[i + 2]);
        b[i + 2] = low32(a[i + 1], a[i + 3]), b[i + 3] = high32(a[i + 1], a[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) x[2 * i] = low64(b[i], b[i + 4]), x[2 * i + 1] = high64(b[i], b[i + 4]);
}

// The "islow" transform: eight points, 13-bit constants, then a rounding shift

struct Wide {  // 32-bit numbers of 16-bit lanes
    vi low, high;
};
struct Pairs {
    vs low, high;
    DC_INLINE Pairs(vs a, vs b) : low(low16(a, b)), high(high16(a, b)) {}
    DC_INLINE Wide dot(int a, int b) const { return {pairs(low, two(a, b)), pairs(high, two(a, b))}; }  // a first + b second
};
DC_INLINE Wide operator+(Wide a, Wide b) { return {a.low + b.low, a.high + b.high}; }
DC_INLINE Wide operator-(Wide a, Wide b) { return {a.low - b.low, a.high - b.high}; }
DC_INLINE Wide operator+(Wide a, int b) { return {a.low + b, a.high + b}; }
template <int SHIFT> DC_INLINE vs shifted(Wide a) { return pack(a.low >> SHIFT, a.high >> SHIFT); }

// The odd part of both directions: four differences to outputs 7, 5, 3, 1, or the other way round; `round` is added
DC_INLINE void odd_part(vs x0, vs x1, vs x2, vs x3, int round, Wide* out) {
    Pairs outer(x0, x3), inner(x1, x2), sums(x0 + x2, x1 + x3);
    Wide z3 = sums.dot(9633 - 16069, 9633) + round, z4 = sums.dot(9633, 9633 - 3196) + round;
    out[0] = outer.dot(2446 - 7373, -7373) + z3;
    out[1] = inner.dot(16819 - 20995, -20995) + z4;
    out[2] = inner.dot(-20995, 25172 - 20995) + z3;
    out[3] = outer.dot(-7373, 12299 - 7373) + z4;
}

template <int SHIFT> DC_INLINE void forward(vs* x) {
    constexpr int half = 1 << (SHIFT - 1);
    vs s0 = x[0] + x[7], s1 = x[1] + x[6], s2 = x[2] + x[5], s3 = x[3] + x[4];
    Wide odd[4];
    odd_part(x[3] - x[4], x[2] - x[5], x[1] - x[6], x[0] - x[7], half, odd);
    vs a = s0 + s3, b = s1 + s2;
    Pairs differences(s1 - s2, s0 - s3);
    if constexpr (SHIFT < 13)
        x[0] = (a + b) << (13 - SHIFT), x[4] = (a - b) << (13 - SHIFT);
    else
        x[0] = (a + b + alls(half >> 13)) >> (SHIFT - 13), x[4] = (a - b + alls(half >> 13)) >> (SHIFT - 13);
    x[2] = shifted<SHIFT>(differences.dot(4433, 4433 + 6270) + half), x[6] = shifted<SHIFT>(differences.dot(4433 - 15137, 4433) + half);
    x[7] = shifted<SHIFT>(odd[0]), x[5] = shifted<SHIFT>(odd[1]), x[3] = shifted<SHIFT>(odd[2]), x[1] = shifted<SHIFT>(odd[3]);
}

template <int SHIFT> DC_INLINE void inverse(vs* y) {
    constexpr int half = 1 << (SHIFT - 1);
    auto shifted_up = [&](vs x) {  // by 13, rounding added
        return Wide{((vi)low16(vs{}, x) >> 3) + half, ((vi)high16(vs{}, x) >> 3) + half};
    };
    Wide a = shifted_up(y[0] + y[4]), b = shifted_up(y[0] - y[4]), odd[4];
    Pairs even(y[2], y[6]);
    Wide c = even.dot(4433, 4433 - 15137), d = even.dot(4433 + 6270, 4433);
    odd_part(y[7], y[5], y[3], y[1], 0, odd);
    Wide t0 = a + d, t1 = b + c, t2 = b - c, t3 = a - d;
    y[0] = shifted<SHIFT>(t0 + odd[3]), y[7] = shifted<SHIFT>(t0 - odd[3]);
    y[1] = shifted<SHIFT>(t1 + odd[2]), y[6] = shifted<SHIFT>(t1 - odd[2]);
    y[2] = shifted<SHIFT>(t2 + odd[1]), y[5] = shifted<SHIFT>(t2 - odd[1]);
    y[3] = shifted<SHIFT>(t3 + odd[0]), y[4] = shifted<SHIFT>(t3 - odd[0]);
}

// Of the forward pass: a table's steps, repeated over lanes
struct alignas(64) Steps {
    int16_t step[8][LS], half[8][LS];  // half: of 8 steps
    float inverse[8][2][LF];           // of 8 steps, in the order of low16 and high16
    void set(const float* table) {
        for (int i = 0; i < 8; i++) {
            for (int j = 0; j < LS; j++) step[i][j] = (int16_t)table[8 * i + j % 8], half[i][j] = (int16_t)(4 * step[i][j]);
            for (int k = 0; k < 2; k++)
                for (int j = 0; j < LF; j++) inverse[i][k][j] = 1.0f / (8 * table[8 * i + 4 * k + j % 4]);
        }
    }
};

// One for each of `count` tables; those of a batch are often the same
template <class T, class... A> DC_INLINE void set_all(T* to, const float* tables, int64_t count, A... more) {
    for (int64_t i = 0; i < count; i++) {
        if (i >= 2 && !memcmp(tables + 64 * i, tables + 64 * (i - 2), 64 * sizeof(float)))
            memcpy((void*)(to + i), to + i - 2, sizeof(T));
        else
            to[i].set(tables + 64 * i, more...);
    }
}

// Outputs larger than the cache are written past it: a line that is written in part would be read first. `past`: whether, as bits of an address
// that have to be 0.
constexpr uint64_t PAST = VB - 1, CACHED = ~(uint64_t)0;
template <class T, class V> DC_INLINE void store_past(T* p, V x, uint64_t past) {
#if defined(__SSE2__)
    if (((uintptr_t)p & past) == 0) {
        DC_OP(stream_ps)((float*)p, (rawf)x);
        return;
    }
#endif
    (void)past;
    store(p, x);
}
// Before another thread may read what was written
DC_INLINE void written() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

// Blocks side by side, LS / 8 of them: transform, quantise, and back.
// kept: 8 times the coefficients, blocks turned (row: horizontal frequency).
DC_INLINE void code_blocks(const int16_t* from, int64_t stride, const Steps& steps, int16_t* kept, int8_t* to, int64_t to_stride, uint64_t past) {
    vs x[8], y[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) x[i] = load<vs>(from + i * stride);
    turn(x), forward<11>(x), turn(x), forward<15>(x);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        vs sign = x[i] >> 15, size = ((x[i] ^ sign) - sign) + load<vs>(steps.half[i]);
        auto level = [&](vs wide, int k) {  // of whole numbers: a half more never reaches the next level, and no rounding falls below one
            vf t = (__builtin_convertvector((vi)wide, vf) + 0.5f) * load<vf>(steps.inverse[i][k]);
            return __builtin_convertvector(t, vi);
        };
        y[i] = pack(level(low16(size, vs{}), 0), level(high16(size, vs{}), 1)) * load<vs>(steps.step[i]);
        y[i] = (y[i] ^ sign) - sign;
    }
    turn(x);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) store_past(kept + i * to_stride, x[i], past);
    inverse<11>(y), turn(y), inverse<18>(y), turn(y);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) store(to + i * to_stride, __builtin_convertvector(vmin(vmax(y[i], alls(-128)), alls(127)), vhb));
}

// Rows that the next band will read come into the cache while this one computes: prefetching in hardware ends with every page
struct Ahead {
    const float* from;  // null: there are none
    int64_t plane, n, planes, each;
    Ahead(const float* from, int64_t plane, int64_t n, int64_t planes, int64_t steps)
        : from(from), plane(plane), n(n), planes(planes), each((n * planes / 16 + steps - 1) / steps), at_(0), in_(0) {}
    DC_INLINE void step() {
        if (!from) return;
        for (int64_t i = 0; i < each; i++) {
            __builtin_prefetch(from + in_ * plane + at_, 0, 2);
            if ((at_ += 16) >= n && (at_ = 0, ++in_ >= planes)) {
                from = nullptr;
                return;
            }
        }
    }

private:
    int64_t at_, in_;
};

DC_INLINE int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

constexpr int64_t LARGE = 1 << 19;  // samples

// Sizes of a picture and of its planes. Planes of one picture lie one after the other, Y', Cb, Cr, in whole blocks and rows of whole vectors.
struct Picture {
    int64_t c, h, w, v, u, hc, wc;
    int64_t rows, bands;                    // rows of luma of a band of blocks
    int64_t wide[2], plane[2], size;        // of luma, chroma; of all
    bool small;                             // whether chroma is repeated, at most two samples wide
    uint64_t past;
    Picture(int64_t n, int64_t c, int64_t h, int64_t w, int64_t v, int64_t u)
        : c(c), h(h), w(w), v(c == 3 ? v : 1), u(c == 3 ? u : 1), hc((h + this->v - 1) / this->v), wc((w + this->u - 1) / this->u) {
        rows = 8 * this->v, bands = (h + rows - 1) / rows;
        wide[0] = round_up(w, 32), wide[1] = round_up(wc, 32);
        plane[0] = round_up(h, 8) * wide[0], plane[1] = round_up(hc, 8) * wide[1];
        size = plane[0] + (c == 3 ? 2 * plane[1] : 0);
        small = this->wc <= 2, past = n * c * h * w > LARGE ? PAST : CACHED;
    }
    // Vectors of rows of blocks in a band
    int64_t steps() const { return (v * wide[0] + (c == 3 ? 2 * wide[1] : 0)) / LS; }
    // Where a whole band behind this one begins in samples of several pictures; null where there is none
    const float* next(const float* x, int64_t i, int64_t band, int64_t n) const {
        if (++band == bands) band = 0, i++;
        return i < n && (band + 1) * rows <= h ? x + i * c * h * w + band * rows * w : nullptr;
    }
    int64_t full() const { return highest(wide[0], u * wide[1]); }  // samples of a row of any plane, before chroma is subsampled
    // First row of a band in plane k
    int64_t at(int k, int64_t band) const { return k ? plane[0] + (k - 1) * plane[1] + 8 * band * wide[1] : rows * band * wide[0]; }
};

// LF numbers, or the first n of them
DC_INLINE vf load_floats(const float* p, int64_t n) {
    if (n >= LF) return load<vf>(p);
    vf out = {};
    memcpy(&out, p, sizeof(float) * n);
    return out;
}
DC_INLINE void store_floats(float* p, vf x, int64_t n, uint64_t past) {
    if (n >= LF)
        store_past(p, x, past);
    else
        memcpy(p, &x, sizeof(float) * n);
}

DC_INLINE vf whole(vf x) {  // 0..255
    x = between(x * 255.0f + 0.5f, 0, 255);
    return __builtin_convertvector(__builtin_convertvector(x, vi), vf);
}
DC_INLINE void store16(int16_t* p, vf x) { store(p, __builtin_convertvector(__builtin_convertvector(x, vi) - 128, vhs)); }

// A row of RGB to samples. Every sum is a whole number of 2^-16 below 256: exact.
DC_INLINE void to_ycc(const float* __restrict from, int64_t plane, int64_t w, int16_t* __restrict y, int16_t* __restrict cb, int16_t* __restrict cr) {
    constexpr float k = 1 / 65536.0f;
    for (int64_t x = 0; x < w; x += LF) {
        vf r = whole(load_floats(from + x, w - x)), g = whole(load_floats(from + plane + x, w - x)), b = whole(load_floats(from + 2 * plane + x, w - x));
        store16(y + x, r * (19595 * k) + g * (38470 * k) + b * (7471 * k) + 32768 * k);
        store16(cb + x, b * (32768 * k) + 8421375 * k - r * (11059 * k) - g * (21709 * k));
        store16(cr + x, r * (32768 * k) + 8421375 * k - g * (27439 * k) - b * (5329 * k));
    }
}

DC_INLINE void repeat_last(int16_t* row, int64_t n, int64_t to) {
    for (int64_t x = n; x < to; x++) row[x] = row[n - 1];
}

// Two rows of chroma (the same twice with 4:2:2) to one, with the bias that alternates along a row
DC_INLINE void box(const int16_t* __restrict a, const int16_t* __restrict b, int v, int16_t* __restrict to, int64_t n) {
    vi bias;
    for (int j = 0; j < LF; j++) bias[j] = v - 1 + j % 2;
    for (int64_t x = 0; x < n; x += LF) {
        vs s = load<vs>(a + 2 * x);
        if (v == 2) s += load<vs>(b + 2 * x);
        store(to + x, __builtin_convertvector((pairs(s, alls(1)) + bias) >> v, vhs));
    }
}

// A band of blocks: from pictures to decoded planes and coefficients
DC_INLINE void code_band(const Picture& p, const float* x, const Steps* steps, int64_t band, int16_t* kept, int8_t* decoded, const float* next) {
    const int64_t full = p.full(), y0 = band * p.rows, height = lowest(p.rows, p.h - y0), size = p.h * p.w;
    Scratch<int16_t> all_rows((p.c == 3 ? 3 : 1) * p.rows * full), boxed(p.u == 2 ? 8 * p.wide[1] : 0);
    int16_t* planes[3] = {all_rows, all_rows + p.rows * full, all_rows + 2 * p.rows * full};
    const int colours = (int)p.c;
    Ahead ahead(next, size, p.rows * p.w, p.c, p.steps());
    for (int64_t y = 0; y < height; y++) {
        const float* row = x + (y0 + y) * p.w;
        if (colours == 3)
            to_ycc(row, size, p.w, planes[0] + y * full, planes[1] + y * full, planes[2] + y * full);
        else
            for (int64_t i = 0; i < p.w; i += LF) store16(planes[0] + y * full + i, whole(load_floats(row + i, p.w - i)));
        for (int k = 0; k < colours; k++) repeat_last(planes[k] + y * full, p.w, full);
    }
    for (int k = 0; k < colours; k++) {
        const int64_t wide = p.wide[k > 0];
        int16_t* from = planes[k];
        int64_t stride = full, there = height, blocks = k ? 1 : (height + 7) / 8;
        if (k && p.u == 2) {
            there = (height + p.v - 1) / p.v, stride = wide;
            for (int64_t y = 0; y < there; y++) {
                const int16_t *a = from + y * p.v * full, *b = y * p.v + 1 < height ? a + full : a;
                box(a, b, (int)p.v, boxed + y * wide, wide);
            }
            from = boxed;
        }
        for (int64_t y = there; y < 8 * blocks; y++) memcpy(from + y * stride, from + (there - 1) * stride, sizeof(int16_t) * wide);
        const int64_t at = p.at(k, band);
        for (int64_t j = 0; j < blocks; j++)
            for (int64_t i = 0; i < wide; i += LS) {
                ahead.step();
                code_blocks(from + 8 * j * stride + i, stride, steps[k > 0], kept + at + 8 * j * wide + i, decoded + at + 8 * j * wide + i, wide, p.past);
            }
    }
}

// x / 255 of whole numbers 0..255, to the bit: the first part of 1 / 255 has so few digits that its product is exact
DC_INLINE vf of_255(vf x) {
    constexpr float first = 32897.0f / 8388608;
    constexpr float second = (float)(1.0 / 255 - (double)first);
    return x * first + x * second;
}

DC_INLINE void store_channel(float* to, vs x, int64_t n, uint64_t past) {
    x = vmin(vmax(x, vs{}), alls(255));
    store_floats(to, of_255(floats(x, 0)), n, past);
    if (n > LF) store_floats(to + LF, of_255(floats(x, 1)), n - LF, past);
}
DC_INLINE void store_rgb(float* to, int64_t plane, vs y, vs cb, vs cr, int64_t n, uint64_t past) {
    y += 128;
    // (k c + 2^15) >> 16 from the upper half of 2 k c; constants are brought into 16 bits by whole multiples of c
    store_channel(to, y + cr + ((upper(cr + cr, alls(91881 - 65536)) + 1) >> 1), n, past);
    Pairs both(cb, cr);
    store_channel(to + plane, y - cr + shifted<16>(both.dot(-22554, 65536 - 46802) + 32768), n, past);
    store_channel(to + 2 * plane, y + cb + cb + ((upper(cb + cb, alls(116130 - 131072)) + 1) >> 1), n, past);
}

// A row of chroma, or 3 times one and once another, at numbers 0..n - 1 and one more at each end
DC_INLINE void mix_rows(const int8_t* a, const int8_t* b, int32_t* to, int64_t padded, int64_t n) {
    for (int64_t x = 0; x < padded; x += LF) {
        vi s = bytes32(a + x);
        if (b) s = 3 * s + bytes32(b + x);
        store(to + x, s);
    }
    to[-1] = to[0], to[n] = to[n - 1];
}

// Twice as many columns: one 16-bit lane after the other
template <int V, bool SMALL> DC_INLINE vs spread(const int32_t* row) {
    vi x = load<vi>(row), before = SMALL ? x : load<vi>(row - 1), after = SMALL ? x : load<vi>(row + 1);
    vi even, odd;
    if (V == 2)
        even = (3 * x + before + 8) >> 4, odd = (3 * x + after + 7) >> 4;
    else
        even = (3 * x + before + 1) >> 2, odd = (3 * x + after + 2) >> 2;
    return (vs)((even & 0xffff) | (vi)((vw)odd << 16));
}
template <int V, bool SMALL> DC_INLINE void rgb_row(const int8_t* y, const int32_t* cb, const int32_t* cr, float* to, int64_t plane, int64_t w,
                                                          uint64_t past) {
    for (int64_t x = 0; x < w; x += LS)
        store_rgb(to + x, plane, bytes16(y + x), spread<V, SMALL>(cb + x / 2), spread<V, SMALL>(cr + x / 2), w - x, past);
}

// A band of decoded planes to RGB
DC_INLINE void show_band(const Picture& p, const int8_t* decoded, int64_t band, float* out) {
    const int64_t y0 = band * p.rows, y1 = lowest(y0 + p.rows, p.h), plane = p.h * p.w;
    const int8_t *chroma[2] = {decoded + p.plane[0], decoded + p.plane[0] + p.plane[1]};
    Scratch<int32_t> mixed(p.u == 2 ? 2 * (p.wide[1] + 2 * LF) : 0);
    int32_t* rows[2] = {mixed + LF, mixed + p.wide[1] + 3 * LF};
    for (int64_t y = y0; y < y1; y++) {
        const int8_t* luma = decoded + y * p.wide[0];
        float* to = out + y * p.w;
        if (p.c == 1) {
            for (int64_t x = 0; x < p.w; x += LS) store_channel(to + x, bytes16(luma + x) + 128, p.w - x, p.past);
            continue;
        }
        const int64_t row = y / p.v;
        if (p.u == 1) {
            const int8_t *cb = chroma[0] + row * p.wide[1], *cr = chroma[1] + row * p.wide[1];
            for (int64_t x = 0; x < p.w; x += LS)
                store_rgb(to + x, plane, bytes16(luma + x), bytes16(cb + x),
                          bytes16(cr + x), p.w - x, p.past);
            continue;
        }
        const int64_t other = p.small ? row : clip<int64_t>(y % 2 ? row + 1 : row - 1, 0, p.hc - 1);
        for (int k = 0; k < 2; k++)
            mix_rows(chroma[k] + row * p.wide[1], p.v == 2 ? chroma[k] + other * p.wide[1] : nullptr, rows[k], p.wide[1], p.wc);
        if (p.v == 2)
            p.small ? rgb_row<2, true>(luma, rows[0], rows[1], to, plane, p.w, p.past) : rgb_row<2, false>(luma, rows[0], rows[1], to, plane, p.w, p.past);
        else
            p.small ? rgb_row<1, true>(luma, rows[0], rows[1], to, plane, p.w, p.past) : rgb_row<1, false>(luma, rows[0], rows[1], to, plane, p.w, p.past);
    }
}

void code_jpeg(int64_t threads, const float* x, const float* tables, int64_t several, float* out, int16_t* kept, int64_t n, int64_t c, int64_t h, int64_t w,
               int64_t v, int64_t u) {
    const Picture p(n, c, h, w, v, u);
    const int64_t count = several ? n : 1, samples = c * h * w;
    Scratch<Steps> steps(2 * count);
    set_all((Steps*)steps, tables, 2 * count);
    // as many pictures at once as leave decoded planes in the cache
    const int64_t together = lowest(n, highest<int64_t>(1, (threads << 18) / p.size));
    Scratch<int8_t> decoded(together * p.size + 64);  // vectors reach beyond the last row
    for (int64_t first = 0; first < n; first += together) {
        const int64_t tasks = lowest(together, n - first) * p.bands;
        parallel(threads, tasks, 3.0 * (double)(p.rows * w), [&](int64_t task) {
            int64_t i = task / p.bands;
            code_band(p, x + (first + i) * samples, steps + 2 * (several ? first + i : 0), task % p.bands, kept + (first + i) * p.size, decoded + i * p.size,
                      p.next(x, first + i, task % p.bands, n));
            written();
        });
        parallel(threads, tasks, 1.0 * (double)(p.rows * w), [&](int64_t task) {
            int64_t i = task / p.bands;
            show_band(p, decoded + i * p.size, task % p.bands, out + (first + i) * samples);
            written();
        });
    }
}

// Backward: the transform of Arai, Agui and Nakajima (1988) on floats. Its scale, a factor for each frequency, is the same there and back, where
// it cancels.

constexpr int P = LF < 8 ? 8 / LF : 1, LB = P * LF;  // vectors of a row of blocks side by side, and its lanes

DC_INLINE void forward(vf* x) {
#pragma GCC unroll 2
    for (int p = 0; p < P; p++) {
        vf *a = x + p;
        vf s0 = a[0] + a[7 * P], d0 = a[0] - a[7 * P], s1 = a[P] + a[6 * P], d1 = a[P] - a[6 * P];
        vf s2 = a[2 * P] + a[5 * P], d2 = a[2 * P] - a[5 * P], s3 = a[3 * P] + a[4 * P], d3 = a[3 * P] - a[4 * P];
        vf e0 = s0 + s3, e3 = s0 - s3, e1 = s1 + s2, e2 = s1 - s2, z1 = (e2 + e3) * 0.707106781f;
        a[0] = e0 + e1, a[4 * P] = e0 - e1, a[2 * P] = e3 + z1, a[6 * P] = e3 - z1;
        vf o0 = d3 + d2, o1 = d2 + d1, o2 = d1 + d0;
        vf z5 = (o0 - o2) * 0.382683433f, z2 = o0 * 0.541196100f + z5, z4 = o2 * 1.306562965f + z5, z3 = o1 * 0.707106781f;
        vf z11 = d0 + z3, z13 = d0 - z3;
        a[5 * P] = z13 + z2, a[3 * P] = z13 - z2, a[P] = z11 + z4, a[7 * P] = z11 - z4;
    }
}
DC_INLINE void inverse(vf* x) {
#pragma GCC unroll 2
    for (int p = 0; p < P; p++) {
        vf *a = x + p;
        vf e0 = a[0] + a[4 * P], e1 = a[0] - a[4 * P], e3 = a[2 * P] + a[6 * P], e2 = (a[2 * P] - a[6 * P]) * 1.414213562f - e3;
        vf t0 = e0 + e3, t3 = e0 - e3, t1 = e1 + e2, t2 = e1 - e2;
        vf z13 = a[5 * P] + a[3 * P], z10 = a[5 * P] - a[3 * P], z11 = a[P] + a[7 * P], z12 = a[P] - a[7 * P];
        vf z5 = (z10 + z12) * 1.847759065f, o7 = z11 + z13;
        vf o6 = z5 - z10 * 2.613125930f - o7, o5 = (z11 - z13) * 1.414213562f - o6, o4 = z5 - z12 * 1.082392200f - o5;
        a[0] = t0 + o7, a[7 * P] = t0 - o7, a[P] = t1 + o6, a[6 * P] = t1 - o6;
        a[2 * P] = t2 + o5, a[5 * P] = t2 - o5, a[3 * P] = t3 + o4, a[4 * P] = t3 - o4;
    }
}
constexpr double SCALE[8] = {1, 1.3870398453221475, 1.3065629648763766, 1.1758756024193588, 1, 0.7856949583871022, 0.5411961001461971, 0.27589937928294306};

// Four vectors to what has lanes 0, 1, 2, 3 of each 128 bits of all of them
DC_INLINE void turn4(vf& a, vf& b, vf& c, vf& d) {
#if defined(__SSE2__)
    rawf t0 = DC_OP(unpacklo_ps)((rawf)a, (rawf)b), t1 = DC_OP(unpackhi_ps)((rawf)a, (rawf)b);
    rawf t2 = DC_OP(unpacklo_ps)((rawf)c, (rawf)d), t3 = DC_OP(unpackhi_ps)((rawf)c, (rawf)d);
    a = (vf)DC_OP(shuffle_ps)(t0, t2, 0x44), b = (vf)DC_OP(shuffle_ps)(t0, t2, 0xEE);
    c = (vf)DC_OP(shuffle_ps)(t1, t3, 0x44), d = (vf)DC_OP(shuffle_ps)(t1, t3, 0xEE);
#else
    vf t0 = __builtin_shufflevector(a, b, 0, 4, 1, 5), t1 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    vf t2 = __builtin_shufflevector(c, d, 0, 4, 1, 5), t3 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    a = __builtin_shufflevector(t0, t2, 0, 1, 4, 5), b = __builtin_shufflevector(t0, t2, 2, 3, 6, 7);
    c = __builtin_shufflevector(t1, t3, 0, 1, 4, 5), d = __builtin_shufflevector(t1, t3, 2, 3, 6, 7);
#endif
}
DC_INLINE void turn(vf* x) {
#pragma GCC unroll 4
    for (int i = 0; i < 2 * P; i++) turn4(x[i % P + i / P * 4 * P], x[i % P + i / P * 4 * P + P], x[i % P + i / P * 4 * P + 2 * P], x[i % P + i / P * 4 * P + 3 * P]);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {  // the upper right quarter changes places with the lower left one
#if defined(__AVX512BW__)
        __m512d a = (__m512d)x[i], b = (__m512d)x[i + 4];
        x[i] = (vf)_mm512_permutex2var_pd(a, _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), b);
        x[i + 4] = (vf)_mm512_permutex2var_pd(a, _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15), b);
#elif defined(__AVX2__)
        __m256 a = (__m256)x[i], b = (__m256)x[i + 4];
        x[i] = (vf)_mm256_permute2f128_ps(a, b, 0x20), x[i + 4] = (vf)_mm256_permute2f128_ps(a, b, 0x31);
#else
        vf a = x[2 * i + 1];
        x[2 * i + 1] = x[2 * i + 8], x[2 * i + 8] = a;
#endif
    }
}

// Lanes 0, 2, ... and 1, 3, ... of two vectors, and each lane of a vector twice
DC_INLINE void part(vf a, vf b, vf& even, vf& odd) {
#if defined(__AVX512F__)
    even = (vf)_mm512_permutex2var_ps((__m512)a, _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30), (__m512)b);
    odd = (vf)_mm512_permutex2var_ps((__m512)a, _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31), (__m512)b);
#elif defined(__AVX2__)
    even = (vf)_mm256_permute4x64_pd((__m256d)_mm256_shuffle_ps((__m256)a, (__m256)b, 0x88), 0xD8);
    odd = (vf)_mm256_permute4x64_pd((__m256d)_mm256_shuffle_ps((__m256)a, (__m256)b, 0xDD), 0xD8);
#elif defined(__SSE2__)
    even = (vf)_mm_shuffle_ps((__m128)a, (__m128)b, 0x88), odd = (vf)_mm_shuffle_ps((__m128)a, (__m128)b, 0xDD);
#else
    even = __builtin_shufflevector(a, b, 0, 2, 4, 6), odd = __builtin_shufflevector(a, b, 1, 3, 5, 7);
#endif
}
DC_INLINE void twice(vf a, vf& first, vf& second) {
#if defined(__AVX512F__)
    first = (vf)_mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7), (__m512)a);
    second = (vf)_mm512_permutexvar_ps(_mm512_setr_epi32(8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15), (__m512)a);
#elif defined(__AVX2__)
    first = (vf)_mm256_permutevar8x32_ps((__m256)a, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
    second = (vf)_mm256_permutevar8x32_ps((__m256)a, _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7));
#elif defined(__SSE2__)
    first = (vf)_mm_unpacklo_ps((__m128)a, (__m128)a), second = (vf)_mm_unpackhi_ps((__m128)a, (__m128)a);
#else
    first = __builtin_shufflevector(a, a, 0, 0, 1, 1), second = __builtin_shufflevector(a, a, 2, 2, 3, 3);
#endif
}

// The quantiser's slope: see slopes.py

enum Mode { CUBIC, STRAIGHT, SOFT, LAPLACIAN, GAUSSIAN, UNIFORM };
constexpr float LOG2E = 1.4426950408889634f, PI = 3.14159265358979323846f, NEAREST = 12582912.0f;  // 1.5 * 2^23: added and taken away, it rounds

DC_INLINE vf nearest(vf x) { return (x + NEAREST) - NEAREST; }
DC_INLINE vf from_nearest(vf x) {
#if defined(__AVX512DQ__)
    return (vf)_mm512_reduce_ps((__m512)x, 0);
#else
    return x - nearest(x);
#endif
}
DC_INLINE vf vexp(vf x) { return vexp2(x * LOG2E); }
DC_INLINE vf vtanh(vf x) {
    vf e = vexp(vabs(x) * -2.0f), t = (1.0f - e) / (1.0f + e);
    return x < 0.0f ? -t : t;
}
// sin and cos of 2 pi x, x in -0.5..0.5, to 2e-7: of a quarter of the angle, doubled twice
DC_INLINE void sine_cosine(vf x, vf& s, vf& c) {
    vf a = x * (PI / 2), z = a * a;
    s = a * (1.0f + z * (-1.6666666667e-1f + z * (8.333333333e-3f + z * (-1.984126984e-4f + z * 2.755731922e-6f))));
    c = 1.0f + z * (-0.5f + z * (4.1666666667e-2f + z * (-1.388888889e-3f + z * 2.480158730e-5f)));
    for (int i = 0; i < 2; i++) {
        vf t = 2.0f * s * c;
        c = 1.0f - 2.0f * s * s, s = t;
    }
}
DC_INLINE vf normal(vf x, vf sigma) {  // density
    vf t = x / sigma;
    return vexp(t * t * -0.5f) / (sigma * 2.5066282746310002f);
}
DC_INLINE vf below(vf x) {  // its integral, to 1e-7: Abramowitz and Stegun 7.1.26
    vf a = vabs(x) * 0.70710678f, t = 1.0f / (1.0f + a * 0.3275911f);
    vf tail = 0.5f * t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f)))) * vexp(-(a * a));
    return x < 0.0f ? tail : 1.0f - tail;
}

// Of the backward pass: a table turned as coefficients are, a row of two blocks of eight
struct alignas(64) Slopes {
    float step[8][16], scale[8][16];  // scale: of the orthonormal transform
    // of the Laplacian: its width in steps, 1 - exp(-1 / b), log2(e) / b, exp(-1 / (2 b)) / (2 b (1 - exp(-1 / b))) / 64
    float inverse[8][16], b[8][16], rest[8][16], rate[8][16], gain[8][16];
    bool steep;  // whether exp(1 / (2 b)) is too large for a float
    float width;
    void set(const float* table, float noise) {
        width = noise, steep = false;
        for (int i = 0; i < 8; i++)
            for (int j = 0; j < 8; j++) {
                double s = table[8 * j + i], wide = noise * 0.7071067811865476 / s, beyond = -std::expm1(-1 / wide);
                put(step, i, j, s), put(scale, i, j, 1 / (8 * SCALE[i] * SCALE[j])), put(inverse, i, j, 1 / (8 * s));
                put(b, i, j, wide), put(rest, i, j, beyond), put(rate, i, j, 1.4426950408889634 / wide);
                put(gain, i, j, std::sqrt(1 - beyond) / (2 * wide * beyond) / 64);
                steep |= 1 / wide > 160;
            }
    }
    static void put(float (*to)[16], int i, int j, double x) { to[i][j] = to[i][j + 8] = (float)x; }
};
template <int M> DC_INLINE vf slope_at(vf y, vf step, float width, vf b, vf rest) {
    if (M == CUBIC) {
        vf r = y - nearest(y);
        return 3.0f * r * r;
    }
    if (M == SOFT) {
        vf t = vtanh((y - vfloor(y) - 0.5f) * 5.0f);
        return (1.0f - t * t) * (float)(5 / (2 * 0.98661429815143028));  // tanh(5 / 2)
    }
    if (M == LAPLACIAN) {
        vf r = vabs(y - vfloor(y) - 0.5f);
        return (vexp(-r / b) + vexp((r - 1.0f) / b)) / (2.0f * b * rest);
    }
    if (M == GAUSSIAN) {
        vf sigma = width / step, r = y - vfloor(y) - 0.5f, turn = sigma * PI, s, c;
        sine_cosine(r, s, c);
        vf narrow = normal(r + 1.0f, sigma) + normal(r, sigma) + normal(r - 1.0f, sigma);
        return sigma > 0.45f ? 1.0f + 2.0f * vexp(turn * turn * -2.0f) * c : narrow;
    }
    if (M == UNIFORM) {
        vf half = width * 1.7320508075688772f / step, r = vabs(y - vfloor(y) - 0.5f);
        return (vfloor(half - r) + vfloor(half + r) + 1.0f) / (2.0f * half);
    }
    return all(1.0f);
}

// d (level step) / d step, of the value that the slope stands for
template <int M> DC_INLINE vf by_step(vf y, vf slope, vf step, float width, vf b, vf rest) {
    if (M == LAPLACIAN) {
        vf near = vfloor(y) + 0.5f, r = y - near, side = 0.5f * (1.0f - vexp(-vabs(r) / b));
        vf sinh = (vexp((r - 1.0f) / b) - vexp((-r - 1.0f) / b)) * 0.5f;
        return near + (r < 0.0f ? -side : side) + sinh / rest - (near * slope + sinh / (b * rest * rest));
    }
    if (M == GAUSSIAN) {
        vf sigma = width / step, near = vfloor(y) + 0.5f, r = y - near, turn = sigma * PI, s, c;
        sine_cosine(r, s, c);
        vf narrow = near - 1.5f + below((r + 1.0f) / sigma) + below(r / sigma) + below((r - 1.0f) / sigma);
        narrow -= (near - 1.0f) * normal(r + 1.0f, sigma) + near * normal(r, sigma) + (near + 1.0f) * normal(r - 1.0f, sigma);
        s *= vexp(turn * turn * -2.0f) * (1 / PI);
        return sigma > 0.45f ? s + 4.0f * turn * turn * s - y * (slope - 1.0f) : narrow;
    }
    if (M == UNIFORM) {
        vf half = width * 1.7320508075688772f / step, low = nearest(y - half), high = nearest(y + half);
        return (high * (y + half) - low * (y - half) - (high * high - low * low)) / (2.0f * half);
    }
    return nearest(y) - slope * y;
}

// The Laplacian's slope / 64, cosh(d / b) / (2 b sinh(1 / (2 b))) with the distance d to the nearest whole number: e^x and e^-x share their halves
DC_INLINE vf laplacian(vf y, vf rate, vf gain) {
    vf x = from_nearest(y) * rate, shift = x + NEAREST, f = from_nearest(x), z = f * f;
    vf even = 1.000000073f + z * (0.240221145f + z * 9.675752413e-03f);
    vf odd = f * (6.931472028550421e-1f + z * (5.550332471162809e-2f + z * 1.339887440266574e-3f));
    vi n = (vi)((vw)(vi)shift << 23);  // the whole part lies in the last bits
    vf up = (vf)((vi)all(1.0f) + n), down = (vf)((vi)all(1.0f) - n);
    return gain * (up * (even + odd) + down * (even - odd));
}

// Gradient of blocks side by side, in place; that of the steps is added to `by_table` [8][16], blocks of even and odd number apart
template <int M, bool TABLES> DC_INLINE void back_blocks(float* g, int64_t stride, const int16_t* kept, int64_t kept_stride, const Slopes& t, float* by_table, int block) {
    vf x[8 * P];
#pragma GCC unroll 16
    for (int i = 0; i < 8 * P; i++) x[i] = load<vf>(g + i / P * stride + i % P * LF);
    forward(x), turn(x), forward(x);
#pragma GCC unroll 16
    for (int i = 0; i < 8 * P; i++) {
        const int row = i / P, lane = i % P * LF;
        vf c = floats(kept + row * kept_stride + lane);
        if (M == LAPLACIAN && !TABLES) {
            x[i] *= laplacian(c * load<vf>(t.inverse[row] + lane), load<vf>(t.rate[row] + lane), load<vf>(t.gain[row] + lane));
            continue;
        }
        vf step = load<vf>(t.step[row] + lane), b = load<vf>(t.b[row] + lane), rest = load<vf>(t.rest[row] + lane);
        vf y = c / (8.0f * step), slope = slope_at<M>(y, step, t.width, b, rest);
        if (TABLES) {
            float* to = by_table + 16 * row + (LF < 16 ? block % 2 * 8 : 0) + lane;
            store(to, load<vf>(to) + x[i] * load<vf>(t.scale[row] + lane) * by_step<M>(y, slope, step, t.width, b, rest));
        }
        x[i] *= slope * (1 / 64.0f);
    }
    inverse(x), turn(x), inverse(x);
#pragma GCC unroll 16
    for (int i = 0; i < 8 * P; i++) store(g + i / P * stride + i % P * LF, x[i]);
}

// A row of blocks
template <int M, bool TABLES> void back_row(float* g, int64_t wide, int64_t n, const int16_t* kept, int64_t kept_wide, const Slopes& t, float* by_table, Ahead& ahead) {
    for (int64_t x = 0; x < n; x += LB) {
        ahead.step();
        if (x % 32 == 0)  // of the next row of blocks
            for (int i = 8; i < 16; i++) __builtin_prefetch(kept + i * kept_wide + x, 0, 2);
        back_blocks<M, TABLES>(g + x, wide, kept + x, kept_wide, t, by_table, (int)(x / 8));
    }
}
typedef void (*BackRow)(float*, int64_t, int64_t, const int16_t*, int64_t, const Slopes&, float*, Ahead&);
template <bool TABLES> BackRow of_mode(int64_t mode) {
    constexpr BackRow all_modes[] = {back_row<CUBIC, TABLES>,     back_row<STRAIGHT, TABLES>, back_row<SOFT, TABLES>,
                                     back_row<LAPLACIAN, TABLES>, back_row<GAUSSIAN, TABLES>, back_row<UNIFORM, TABLES>};
    return all_modes[mode];
}
void back_row_steep(float* g, int64_t wide, int64_t n, const int16_t* kept, int64_t kept_wide, const Slopes& t, float*, Ahead& ahead) {
    alignas(64) float unused[128];
    memset(unused, 0, sizeof unused);
    back_row<LAPLACIAN, true>(g, wide, n, kept, kept_wide, t, unused, ahead);
}

// Gradient of Cb and Cr from that of RGB
constexpr float CB_G = (float)(-22554 / 65536.0 / 255), CB_B = (float)(116130 / 65536.0 / 255), CR_R = (float)(91881 / 65536.0 / 255), CR_G = (float)(-46802 / 65536.0 / 255);

// A row of the gradient of RGB to those of Y' (null: not wanted), Cb and Cr
DC_INLINE void ycc_gradient(const float* __restrict from, int64_t plane, int64_t w, float* __restrict y, float* __restrict cb, float* __restrict cr) {
    for (int64_t x = 0; x < w; x += LF) {
        vf r = load_floats(from + x, w - x), g = load_floats(from + plane + x, w - x), b = load_floats(from + 2 * plane + x, w - x);
        if (y) store(y + x, (r + g + b) * (1 / 255.0f));
        store(cb + x, g * CB_G + b * CB_B), store(cr + x, r * CR_R + g * CR_G);
    }
}
// The adjoint of spreading columns: `from` has one more at each end
DC_INLINE void gather(const float* from, float* to, int64_t n, float near, float far) {
    for (int64_t x = 0; x < n; x += LF) {
        vf before, even, odd, after;
        part(load<vf>(from + 2 * x - 1), load<vf>(from + 2 * x - 1 + LF), before, even);
        part(load<vf>(from + 2 * x + 1), load<vf>(from + 2 * x + 1 + LF), odd, after);
        store(to + x, (even + odd) * near + (before + after) * far);
    }
}

DC_INLINE void clear(float* p, int64_t from, int64_t to) {
    for (int64_t x = from; x < to; x++) p[x] = 0;
}
// The adjoint of repeating the last of n numbers
DC_INLINE void fold(float* p, int64_t n, int64_t to) {
    float sum = p[n - 1];
    for (int64_t x = n; x < to; x++) sum += p[x];
    p[n - 1] = sum;
}

// The gradient of decoded chroma, a band of it, from rows of the gradient of full chroma: row y at `fine + (y - first) * full`, 0 at `zero`.
DC_INLINE void chroma_gradient(const Picture& p, float* fine, int64_t first, int64_t full, const float* zero, int64_t band, float* to, float* mixed) {
    const float near = p.small ? 1.0f : 0.75f, far = p.small ? 0.0f : 0.25f;
    for (int64_t j = 0; j < 8; j++, to += p.wide[1]) {
        const int64_t row = 8 * band + j, y = p.v * row;
        if (row >= p.hc) {
            memset(to, 0, sizeof(float) * p.wide[1]);
            continue;
        }
        float* t = fine + (y - first) * full;
        if (p.v == 2) {
            auto at = [&](int64_t y) { return y < p.h ? (const float*)fine + (y - first) * full : zero; };
            const float *a = t, *b = at(y + 1), *c = row ? at(y - 1) : a, *d = row < p.hc - 1 ? at(y + 2) : b;
            for (int64_t x = 0; x < p.w; x += LF)
                store(mixed + x, (load<vf>(a + x) + load<vf>(b + x)) * near + (load<vf>(c + x) + load<vf>(d + x)) * far);
            t = mixed;
        }
        clear(t, p.w, full - LF);
        t[-1] = t[0], t[2 * p.wc] = t[2 * p.wc - 1];
        gather(t, to, p.wc, near, far);
        clear(to, p.wc, p.wide[1]);
    }
}

// RGB's share of Y', and of Cb and Cr
constexpr float Y_R = (float)(255 * 19595 / 65536.0), Y_G = (float)(255 * 38470 / 65536.0), Y_B = (float)(255 * 7471 / 65536.0), C_HALF = 127.5f;
constexpr float G_CB = (float)(-255 * 21709 / 65536.0), G_CR = (float)(-255 * 27439 / 65536.0), R_CB = (float)(-255 * 11059 / 65536.0), B_CR = (float)(-255 * 5329 / 65536.0);

// A row of the gradient of RGB. weight: of chroma, `edge` what is added to the last column of it
template <int U> DC_INLINE void rgb_gradient(const float* __restrict y, const float* __restrict cb, const float* __restrict cr, float weight, float* __restrict to,
                                             int64_t plane, int64_t w, uint64_t past) {
    for (int64_t x = 0; x < w; x += U * LF) {
        vf b = load<vf>(cb + x / U) * weight, r = load<vf>(cr + x / U) * weight, terms[3][2];
        vf red = r * C_HALF + b * R_CB, green = b * G_CB + r * G_CR, blue = b * C_HALF + r * B_CR;
        if (U == 2)
            twice(red, terms[0][0], terms[0][1]), twice(green, terms[1][0], terms[1][1]), twice(blue, terms[2][0], terms[2][1]);
        else
            terms[0][0] = red, terms[1][0] = green, terms[2][0] = blue;
#pragma GCC unroll 2
        for (int k = 0; k < U; k++) {
            const int64_t at = x + k * LF, left = w - at;
            if (left <= 0) break;
            vf luma = load<vf>(y + at);
            store_floats(to + at, luma * Y_R + terms[0][k], left, past);
            store_floats(to + plane + at, luma * Y_G + terms[1][k], left, past);
            store_floats(to + 2 * plane + at, luma * Y_B + terms[2][k], left, past);
        }
    }
}

DC_INLINE void back_band(const Picture& p, const float* grad, const Slopes* slopes, int64_t band, const int16_t* kept, float* out, float* by_tables, BackRow run,
                         const float* next) {
    const int64_t y0 = band * p.rows, height = lowest(p.rows, p.h - y0), plane = p.h * p.w, blocks = (height + 7) / 8;
    const int64_t wide = p.full(), columns = round_up(p.w, LB), columns_c = round_up(p.wc, LB);
    // rows of chroma as fine as luma: with 4:2:0 one more above and below, a row of zeros, and one to mix them in
    const int64_t full = 2 * p.wide[1] + 4 * LF, first = p.v == 2 && y0 ? y0 - 1 : y0, last = lowest(y0 + height + (p.v == 2), p.h), count = p.rows + 4;
    Scratch<float> luma(p.rows * wide), chroma(p.c == 3 ? 16 * p.wide[1] : 0), fines(p.u == 2 ? 2 * count * full : 0);
    float *of[2] = {chroma, chroma + 8 * p.wide[1]}, *fine[2] = {fines + LF, fines + count * full + LF};
    Ahead ahead(next, plane, p.rows * p.w, p.c, p.steps() * LS / LB);
    for (int64_t y = first; y < last; y++) {
        const float* g = grad + y * p.w;
        float* to = y >= y0 && y < y0 + height ? luma + (y - y0) * wide : nullptr;
        if (p.c == 1)
            for (int64_t x = 0; x < p.w; x += LF) store(to + x, load_floats(g + x, p.w - x) * (1 / 255.0f));
        else if (p.u == 2)
            ycc_gradient(g, plane, p.w, to, fine[0] + (y - first) * full, fine[1] + (y - first) * full);
        else
            ycc_gradient(g, plane, p.w, to, of[0] + (y - y0) * p.wide[1], of[1] + (y - y0) * p.wide[1]);
        if (to) clear(to, p.w, wide);
    }
    for (int64_t y = height; y < 8 * blocks; y++) memset(luma + y * wide, 0, sizeof(float) * wide);
    for (int k = 0; k < 2 && p.c == 3; k++) {
        if (p.u == 2) {
            memset(fine[k] + (count - 2) * full, 0, sizeof(float) * wide);
            chroma_gradient(p, fine[k], first, full, fine[k] + (count - 2) * full, band, of[k], fine[k] + (count - 1) * full);
            continue;
        }
        for (int64_t y = 0; y < 8; y++) clear(of[k] + y * p.wide[1], y < height ? p.w : 0, p.wide[1]);
    }
    for (int64_t j = 0; j < blocks; j++)
        run(luma + 8 * j * wide, wide, columns, kept + p.at(0, band) + 8 * j * p.wide[0], p.wide[0], slopes[0], by_tables, ahead);
    for (int64_t y = height; y < 8 * blocks; y++)
        for (int64_t x = 0; x < columns; x++) luma[(height - 1) * wide + x] += luma[y * wide + x];
    const int64_t whole = round_up(p.w, 8);
    if (p.c == 1) {
        for (int64_t y = 0; y < height; y++) {
            fold(luma + y * wide, p.w, whole);
            for (int64_t x = 0; x < p.w; x += LF) store_floats(out + (y0 + y) * p.w + x, load<vf>(luma + y * wide + x) * 255.0f, p.w - x, p.past);
        }
        return;
    }
    const int64_t there = (height + p.v - 1) / p.v, whole_c = round_up(p.w, 8 * p.u);
    for (int k = 0; k < 2; k++) {
        run(of[k], p.wide[1], columns_c, kept + p.at(1 + k, band), p.wide[1], slopes[1], by_tables ? by_tables + 128 : nullptr, ahead);
        for (int64_t y = there; y < 8; y++)
            for (int64_t x = 0; x < columns_c; x++) of[k][(there - 1) * p.wide[1] + x] += of[k][y * p.wide[1] + x];
    }
    for (int64_t y = 0; y < height; y++) {
        const float *cb = of[0] + y / p.v * p.wide[1], *cr = of[1] + y / p.v * p.wide[1];
        // the last of an odd number of rows stands for two
        const float weight = y % p.v == 0 && y + 1 == height && p.v == 2 ? 0.5f : 1.0f / (float)(p.u * p.v);
        float* to = out + (y0 + y) * p.w;
        fold(luma + y * wide, p.w, whole);
        if (p.u == 2)
            rgb_gradient<2>(luma + y * wide, cb, cr, weight, to, plane, p.w, p.past);
        else
            rgb_gradient<1>(luma + y * wide, cb, cr, weight, to, plane, p.w, p.past);
        if (whole_c > p.w) {  // the last column of samples stands for those beyond, whose chroma it gets, too
            float b = 0, r = 0;
            for (int64_t x = p.w; x < whole_c; x++) b += cb[x / p.u] * weight, r += cr[x / p.u] * weight;
            to += p.w - 1;
            to[0] += r * C_HALF + b * R_CB, to[plane] += b * G_CB + r * G_CR, to[2 * plane] += b * C_HALF + r * B_CR;
        }
    }
}

void code_jpeg_backward(int64_t threads, const float* grad, const int16_t* kept, const float* tables, int64_t several, float* out, float* by_tables, int64_t n,
                        int64_t c, int64_t h, int64_t w, int64_t v, int64_t u, int64_t mode, double width) {
    const Picture p(n, c, h, w, v, u);
    const int64_t count = several ? n : 1, samples = c * h * w;
    Scratch<Slopes> slopes(2 * count);
    bool steep = false;
    set_all((Slopes*)slopes, tables, 2 * count, (float)width);
    for (int64_t i = 0; i < 2 * count; i++) steep |= slopes[i].steep;
    const BackRow run = by_tables ? of_mode<true>(mode) : mode == LAPLACIAN && steep ? back_row_steep : of_mode<false>(mode);
    parallel(threads, n * p.bands, 5.0 * (double)(p.rows * w), [&](int64_t task) {
        const int64_t i = task / p.bands;
        alignas(64) float sums[2][8][16];
        if (by_tables) memset(sums, 0, sizeof sums);
        back_band(p, grad + i * samples, slopes + 2 * (several ? i : 0), task % p.bands, kept + i * p.size, out + i * samples, by_tables ? sums[0][0] : nullptr, run,
                  p.next(grad, i, task % p.bands, n));
        written();
        if (by_tables)
            for (int k = 0; k < 2; k++)
                for (int j = 0; j < 64; j++) by_tables[128 * task + 64 * k + j] = sums[k][j % 8][j / 8] + sums[k][j % 8][j / 8 + 8];
    });
}

}  // namespace

DC_EXPORT(code_jpeg)
DC_EXPORT(code_jpeg_backward)

}  // namespace DC_ISA
