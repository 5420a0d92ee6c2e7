// Blocks of bytes, and what encoders compare them by (x264's pixel.c): SAD, SATD, SA8D.
#pragma once

#include "simd.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace DC_ISA {

// Vectors of 256 bits at most: blocks fill no wider ones
constexpr int HB = VB < 32 ? VB : 32, LH = HB / 2;
typedef int16_t vh __attribute__((vector_size(HB)));
typedef uint32_t vhw __attribute__((vector_size(HB)));
typedef int32_t vhi __attribute__((vector_size(HB)));
typedef uint64_t vhq __attribute__((vector_size(HB)));
typedef uint8_t vhalf __attribute__((vector_size(LH)));  // as many bytes as there are 16-bit lanes

// Rows i and i + 4 of blocks of W columns, as 16-bit numbers side by side; W 8 or 16. Put together in registers: what is stored in parts and loaded
// as a whole waits for the stores.
template <int W> DC_INLINE vh spread_rows(const uint8_t* p, int64_t stride, int row) {
    p += row * stride;
#if defined(__AVX2__)
    if constexpr (W == 8)
        return (vh)_mm256_cvtepu8_epi16(_mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i*)p), _mm_loadl_epi64((const __m128i*)(p + 4 * stride))));
#endif
    return __builtin_convertvector(load<vhalf>(p), vh);
}

DC_INLINE vh swap_neighbours(vh x) {
    vhw w = (vhw)x;
    return (vh)((w >> 16) | (w << 16));
}
DC_INLINE vh swap_pairs(vh x) {
#if defined(__AVX2__)
    return (vh)_mm256_shuffle_epi32((__m256i)x, 0xB1);
#else
    vhq q = (vhq)x;
    return (vh)((q >> 32) | (q << 32));
#endif
}

// Sums and differences of neighbours of two vectors, in no order that matters
DC_INLINE void add_neighbours(vh& a, vh& b) {
#if defined(__AVX2__)
    vh u = (vh)_mm256_blend_epi16((__m256i)a, _mm256_slli_epi32((__m256i)b, 16), 0xAA);
    vh v = (vh)_mm256_blend_epi16(_mm256_srli_epi32((__m256i)a, 16), (__m256i)b, 0xAA);
#else
    vhw p = (vhw)a, q = (vhw)b;
    vh u = (vh)((p & 0x0000ffffu) | (q << 16)), v = (vh)((p >> 16) | (q & 0xffff0000u));
#endif
    a = u + v, b = u - v;
}

DC_INLINE vhi pairs(vh x) {  // sums of two neighbours
#if defined(__AVX2__)
    return (vhi)_mm256_madd_epi16((__m256i)x, _mm256_set1_epi16(1));
#elif defined(__SSE2__)
    return (vhi)_mm_madd_epi16((__m128i)x, _mm_set1_epi16(1));
#else
    return (vhi)((vhi)((vhw)x << 16) >> 16) + ((vhi)x >> 16);
#endif
}
DC_INLINE int32_t total_of(vhi x) {
#if defined(__SSE2__)
#if defined(__AVX2__)
    __m128i y = _mm_add_epi32(_mm256_castsi256_si128((__m256i)x), _mm256_extracti128_si256((__m256i)x, 1));
#else
    __m128i y = (__m128i)x;
#endif
    y = _mm_add_epi32(y, _mm_shuffle_epi32(y, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(y, _mm_shuffle_epi32(y, 0xB1)));
#else
    return sum(x);
#endif
}
DC_INLINE int32_t sum_pairs(vh x) { return total_of(pairs(x)); }  // of all lanes, in 32 bits

// Of the 4x4 blocks that four vectors hold the rows of: numbers whose sum over lanes is the sum of absolute Hadamard coefficients
DC_INLINE vh hadamard_sums(vh d0, vh d1, vh d2, vh d3) {
    vh a = d0 + d1, b = d0 - d1, c = d2 + d3, d = d2 - d3;
    d0 = a + c, d1 = a - c, d2 = b + d, d3 = b - d;
    add_neighbours(d0, d1), add_neighbours(d2, d3);
    auto last = [&](vh x) {  // |x + y| + |x - y| is twice the larger of |x| and |y|
        x = vmax(x, (vh)-x);
        return vmax(x, swap_pairs(x));
    };
    return last(d0) + last(d1) + (last(d2) + last(d3));
}

// Sum of absolute Hadamard coefficients of 4x4 blocks: twice the SATD
template <int W> DC_INLINE int32_t satd2(const uint8_t* a, int64_t sa, const uint8_t* b, int64_t sb) {
    constexpr int V = LH == 8 ? 8 : W, rows = LH == 16 && W == 8 ? 8 : 4;  // columns and rows at once
    int32_t out = 0;
    vh total = {};
#pragma GCC unroll 4
    for (int y = 0; y < W; y += rows) {
#pragma GCC unroll 2
        for (int x = 0; x < W; x += V) {
            const uint8_t *p = a + y * sa + x, *q = b + y * sb + x;
            vh d[4];
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) d[i] = spread_rows<V>(p, sa, i) - spread_rows<V>(q, sb, i);
            total += hadamard_sums(d[0], d[1], d[2], d[3]);
            if (LH == 8) out += sum_pairs(total), total = vh{};
        }
    }
    return LH == 8 ? out : sum_pairs(total);
}

DC_INLINE vh swap_halves(vh x) {  // of eight
#if defined(__AVX2__)
    return (vh)_mm256_shuffle_epi32((__m256i)x, 0x4E);
#elif defined(__SSE2__)
    return (vh)_mm_shuffle_epi32((__m128i)x, 0x4E);
#else
    return (vh)__builtin_shufflevector((vhq)x, (vhq)x, 1, 0);
#endif
}

// Eight rows of 8x8 blocks side by side: sum of absolute coefficients of their Hadamard transforms
DC_INLINE int32_t hadamard8(vh* d) {
    const vh odd = (vh)((vhw{} + 0xffff0000u)), upper = (vh)((vhq{} + 0xffffffff00000000ull));
    for (int i = 0; i < 8; i++) {
        vh x = d[i];
        x = swap_neighbours(x) + ((x ^ odd) - odd);
        d[i] = swap_pairs(x) + ((x ^ upper) - upper);
    }
    for (int s = 1; s < 8; s *= 2)
        for (int i = 0; i < 8; i++)
            if (!(i & s)) {
                vh a = d[i], b = d[i + s];
                d[i] = a + b, d[i + s] = a - b;
            }
    vhi total = {};
    for (int i = 0; i < 8; i += 2) {
        vh t = {};
        for (int k = 0; k < 2; k++) {
            vh x = vmax(d[i + k], (vh)-d[i + k]);
            t += vmax(x, swap_halves(x));
        }
        total += pairs(t);
    }
    return total_of(total);
}

// Sum of absolute coefficients of 8x8 Hadamard transforms, of W x W samples: four times SA8D
template <int W> DC_INLINE int32_t sa8d4(const uint8_t* a, int64_t sa, const uint8_t* b, int64_t sb) {
    int32_t out = 0;
    for (int y = 0; y < W; y += 8)
        for (int x = 0; x < W; x += LH) {
            vh d[8];
            for (int i = 0; i < 8; i++) {
                vhalf p = {}, q = {};
                memcpy(&p, a + (y + i) * sa + x, W < LH ? W : LH), memcpy(&q, b + (y + i) * sb + x, W < LH ? W : LH);
                d[i] = __builtin_convertvector(p, vh) - __builtin_convertvector(q, vh);
            }
            out += hadamard8(d);
        }
    return out;
}

template <int W> DC_INLINE int32_t sad(const uint8_t* a, int64_t sa, const uint8_t* b, int64_t sb) {
#if defined(__SSE2__)
    __m128i total = _mm_setzero_si128();
#pragma GCC unroll 16
    for (int y = 0; y < W; y++) {
        if (W == 16)
            total = _mm_add_epi64(total, _mm_sad_epu8(_mm_loadu_si128((const __m128i*)(a + y * sa)), _mm_loadu_si128((const __m128i*)(b + y * sb))));
        else
            total = _mm_add_epi64(total, _mm_sad_epu8(_mm_loadl_epi64((const __m128i*)(a + y * sa)), _mm_loadl_epi64((const __m128i*)(b + y * sb))));
    }
    return _mm_cvtsi128_si32(_mm_add_epi64(total, _mm_srli_si128(total, 8)));
#else
    int32_t out = 0;
    for (int y = 0; y < W; y++)
        for (int x = 0; x < W; x++) out += abs((int)a[y * sa + x] - (int)b[y * sb + x]);
    return out;
#endif
}

// Planes of whole numbers as bytes
DC_INLINE void to_bytes(const float* from, uint8_t* to, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = (uint8_t)(int32_t)from[i];
}
DC_INLINE void block_bytes(const float* from, int64_t stride, uint8_t* to, int64_t to_stride, int k) {
    for (int y = 0; y < k; y++)
        for (int x = 0; x < k; x++) to[y * to_stride + x] = (uint8_t)(int32_t)from[y * stride + x];
}

// Sixteen quarter-pel planes, or four half-pel ones, or one where vectors are whole, each with a margin
constexpr int MARGIN = 24;
struct Phases {
    const uint8_t* base;
    int64_t count, hp, wp;
    DC_INLINE int64_t phase(int64_t vy, int64_t vx) const { return count == 16 ? 4 * (vy & 3) + (vx & 3) : count == 4 ? (vy & 2) + ((vx & 2) >> 1) : 0; }
    DC_INLINE const uint8_t* plane(int64_t slot, int64_t vy, int64_t vx) const { return base + (slot * count + phase(vy, vx)) * hp * wp; }
    DC_INLINE int64_t row(int64_t top, int64_t vy, int k) const { return clip<int64_t>((vy >> 2) + top + MARGIN, 0, hp - k); }
    DC_INLINE int64_t column(int64_t left, int64_t vx, int k) const { return clip<int64_t>((vx >> 2) + left + MARGIN, 0, wp - k); }
    // The k x k block at (top, left) moved by a vector, in rows of wp
    DC_INLINE const uint8_t* block(int64_t slot, int64_t vy, int64_t vx, int64_t top, int64_t left, int k) const {
        return plane(slot, vy, vx) + row(top, vy, k) * wp + column(left, vx, k);
    }
    DC_INLINE bool inside(int64_t vy, int64_t vx, int64_t top, int64_t left, int k) const {
        int64_t y = (vy >> 2) + top + MARGIN, x = (vx >> 2) + left + MARGIN;
        return y >= 0 && x >= 0 && y <= hp - k && x <= wp - k;
    }
};

}  // namespace DC_ISA
