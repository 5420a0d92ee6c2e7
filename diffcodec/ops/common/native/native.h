// What native code of every instruction set shares: threads, memory, and how functions are exported.
#pragma once

#include <cstdint>

extern "C" {
// run(p, i) for i in 0..n - 1 on up to so many threads, the caller's among them; in any order. Throws nothing.
void dc_parallel(int64_t threads, int64_t n, void (*run)(const void*, int64_t), const void* p);
// 64-byte aligned. Fails by an exception that the exported function turns into a status.
void* dc_allocate(int64_t bytes);
void dc_free(void* p);
// Exported functions by name and instruction set, with the types of their parameters.
void dc_register(const char* name, const char* isa, const char* signature, void* function);
}

namespace dc {

struct OutOfMemory {};

// A letter a parameter: I integer, D real; pointers to f float, b byte, l 64 bits, h 16 bits, upper case where they are written to.
template <class T> struct Letter;
template <> struct Letter<int64_t> { static constexpr char value = 'I'; };
template <> struct Letter<double> { static constexpr char value = 'D'; };
template <> struct Letter<const float*> { static constexpr char value = 'f'; };
template <> struct Letter<float*> { static constexpr char value = 'F'; };
template <> struct Letter<const uint8_t*> { static constexpr char value = 'b'; };
template <> struct Letter<uint8_t*> { static constexpr char value = 'B'; };
template <> struct Letter<const int64_t*> { static constexpr char value = 'l'; };
template <> struct Letter<int64_t*> { static constexpr char value = 'L'; };
template <> struct Letter<const int16_t*> { static constexpr char value = 'h'; };
template <> struct Letter<int16_t*> { static constexpr char value = 'H'; };

template <auto function> struct Export;
template <class... A, void (*function)(A...)> struct Export<function> {
    static constexpr char letters[] = {Letter<A>::value..., 0};
    static int32_t call(A... args) noexcept {  // 0: done
        try {
            function(args...);
            return 0;
        } catch (const OutOfMemory&) {
            return 1;
        } catch (...) {
            return 2;
        }
    }
    Export(const char* name, const char* isa) { dc_register(name, isa, letters, (void*)&call); }
};

}  // namespace dc

#define DC_TEXT_(x) #x
#define DC_TEXT(x) DC_TEXT_(x)
#define DC_EXPORT(name) static const dc::Export<&name> export_##name(#name, DC_TEXT(DC_ISA));
