// Vectors as wide as the instruction set that a file is compiled for (DC_ISA names it, and the namespace). GCC's vector types, which Clang has too.
//
// Every source is compiled once for each instruction set; nothing that is not in that namespace may be instantiated here, or the linker would pick
// one instruction set's copy for all. Without contraction to fused multiply-adds all of them give the same bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "native.h"

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#define DC_INLINE inline __attribute__((always_inline))

namespace DC_ISA {

#if defined(__AVX512BW__)
constexpr int VB = 64;  // bytes of a vector
#elif defined(__AVX2__)
constexpr int VB = 32;
#else
constexpr int VB = 16;
#endif
constexpr int LF = VB / 4, LS = VB / 2;  // floats and 16-bit numbers of a vector

typedef float vf __attribute__((vector_size(VB)));
typedef int32_t vi __attribute__((vector_size(VB)));
typedef int16_t vs __attribute__((vector_size(VB)));
typedef uint16_t vu __attribute__((vector_size(VB)));
typedef uint32_t vw __attribute__((vector_size(VB)));

template <class V, class T> DC_INLINE V load(const T* p) { V v; memcpy(&v, p, sizeof v); return v; }
template <class V, class T> DC_INLINE void store(T* p, V v) { memcpy(p, &v, sizeof v); }
DC_INLINE vf all(float x) { return x - vf{}; }
DC_INLINE vi alli(int32_t x) { return x - vi{}; }

template <class V> DC_INLINE V vmin(V a, V b) { return a < b ? a : b; }
template <class V> DC_INLINE V vmax(V a, V b) { return a > b ? a : b; }
DC_INLINE vf vabs(vf x) { return (vf)((vi)x & alli(0x7fffffff)); }
DC_INLINE vs vabs(vs x) { return vmax(x, (vs)-x); }
DC_INLINE vf one_where(vi mask) { return (vf)(mask & (vi)all(1.0f)); }
DC_INLINE vf vfloor(vf x) {  // of numbers that fit 32 bits
#if defined(__AVX512F__)
    return (vf)_mm512_roundscale_ps((__m512)x, 9);
#elif defined(__AVX2__)
    return (vf)_mm256_floor_ps((__m256)x);
#else
    vf t = __builtin_convertvector(__builtin_convertvector(x, vi), vf);
    return t - one_where(t > x);
#endif
}
// 2^x to 2 units in the last place, x in -126..126
DC_INLINE vf vexp2(vf x) {
    x = vmax(vmin(x, all(126.0f)), all(-126.0f));
    vf n = vfloor(x + 0.5f), f = x - n;  // f in -0.5..0.5
    vf p = all(1.535336188319500e-4f);
    p = p * f + 1.339887440266574e-3f;
    p = p * f + 9.618437357674640e-3f;
    p = p * f + 5.550332471162809e-2f;
    p = p * f + 2.402264791363012e-1f;
    p = p * f + 6.931472028550421e-1f;
    p = p * f + 1.0f;
    vi e = (__builtin_convertvector(n, vi) + 127) << 23;
    return p * (vf)e;
}
// Whether a comparison holds in any lane
DC_INLINE bool any_lane(vi mask) {
#if defined(__AVX512F__)
    return _mm512_movepi32_mask((__m512i)mask) != 0;
#elif defined(__AVX2__)
    return _mm256_movemask_ps((__m256)mask) != 0;
#else
    uint64_t q[VB / 8], out = 0;
    memcpy(q, &mask, sizeof q);
    for (uint64_t x : q) out |= x;
    return out != 0;
#endif
}
template <class V> DC_INLINE auto sum(V v) {  // of all lanes, pairwise: the order is the same for every width
    auto t = v[0] - v[0];
    constexpr int n = sizeof(V) / sizeof(t);
    decltype(t) a[n];
    memcpy(a, &v, sizeof v);
    for (int s = 1; s < n; s *= 2)
        for (int i = 0; i + s < n; i += 2 * s) a[i] += a[i + s];
    return a[0];
}

// Four numbers side by side in memory, and four such rows turned over
typedef float v4 __attribute__((vector_size(16)));
typedef int32_t i4 __attribute__((vector_size(16)));
DC_INLINE void turn4(v4& a, v4& b, v4& c, v4& d) {
    v4 p = __builtin_shufflevector(a, b, 0, 4, 1, 5), q = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    v4 r = __builtin_shufflevector(c, d, 0, 4, 1, 5), s = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    a = __builtin_shufflevector(p, r, 0, 1, 4, 5), b = __builtin_shufflevector(p, r, 2, 3, 6, 7);
    c = __builtin_shufflevector(q, s, 0, 1, 4, 5), d = __builtin_shufflevector(q, s, 2, 3, 6, 7);
}

// Numbers of C's float functions that must be the same everywhere
DC_INLINE float half_up(float x) { return std::floor(x + 0.5f); }
template <class T> DC_INLINE T lowest(T a, T b) { return a < b ? a : b; }
template <class T> DC_INLINE T highest(T a, T b) { return a > b ? a : b; }
template <class T> DC_INLINE T clip(T x, T low, T high) { return x < low ? low : x > high ? high : x; }

// Memory of a call. Not std::vector: see above.
template <class T> class Scratch {
public:
    explicit Scratch(int64_t n, bool zero = false) : p_((T*)dc_allocate(sizeof(T) * (n > 0 ? n : 1))) { if (zero) memset((void*)p_, 0, sizeof(T) * n); }
    ~Scratch() { dc_free(p_); }
    Scratch(const Scratch&) = delete;
    operator T*() const { return p_; }
    T* operator->() const { return p_; }

private:
    T* p_;
};

// f(i) for i in 0..n - 1, on threads where that pays. `ns`: what one of them takes, roughly.
template <class F> DC_INLINE void parallel(int64_t threads, int64_t n, double ns, const F& f) {
    if (threads < 2 || n < 2 || n * ns < 50e3) {
        for (int64_t i = 0; i < n; i++) f(i);
        return;
    }
    dc_parallel(threads, n, [](const void* p, int64_t i) { (*(const F*)p)(i); }, &f);
}

}  // namespace DC_ISA
