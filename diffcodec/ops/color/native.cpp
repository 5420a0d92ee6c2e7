// Colour: swscale's integer arithmetic, see reference.py.
#include "../common/native/simd.h"

namespace DC_ISA {
namespace {

constexpr int LUMA[3] = {8414, 16519, 3208}, CHROMA[2][3] = {{-4865, -9528, 14392}, {14392, -12061, -2332}};
constexpr int WEIGHTS[4] = {1, 3, 3, 1};
constexpr int BAND = 16;  // rows of luma that are converted together

// Rows of red, green and blue to whole numbers 0..255
DC_INLINE void whole(const float* __restrict from, int32_t* __restrict to, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float x = from[i] * 255.0f;
        x = x < 0.0f ? 0.0f : x > 255.0f ? 255.0f : x;
        to[i] = (int32_t)((x + 8388608.0f) - 8388608.0f);  // to even
    }
}

// Chroma of a row in units of 1/64, before rows are mixed
DC_INLINE void chroma_row(const int32_t* __restrict r, const int32_t* __restrict g, const int32_t* __restrict b, int32_t* __restrict u, int32_t* __restrict v,
                          int64_t half) {
    for (int64_t x = 0; x < half; x++) {
        int32_t rr = r[2 * x] + r[2 * x + 1], gg = g[2 * x] + g[2 * x + 1], bb = b[2 * x] + b[2 * x + 1];
        u[x] = 2 * ((CHROMA[0][0] * rr + CHROMA[0][1] * gg + CHROMA[0][2] * bb + (1 << 23) + (1 << 9)) >> 10);
        v[x] = 2 * ((CHROMA[1][0] * rr + CHROMA[1][1] * gg + CHROMA[1][2] * bb + (1 << 23) + (1 << 9)) >> 10);
    }
}

void rgb_to_yuv420(int64_t threads, const float* rgb, float* luma, float* chroma, int64_t n, int64_t h, int64_t w) {
    int64_t half = w / 2, bands = (h + BAND - 1) / BAND;
    parallel(threads, n * bands, 6.0 * (double)(BAND * w), [&](int64_t task) {
        int64_t i = task / bands, y0 = task % bands * BAND, y1 = lowest(y0 + BAND, h);
        const float* from = rgb + i * 3 * h * w;
        Scratch<int32_t> row(3 * w), mixed(2 * (BAND + 2) * half);
        for (int64_t y = y0 - 1; y <= y1; y++) {
            int64_t line = clip<int64_t>(y, 0, h - 1);
            for (int c = 0; c < 3; c++) whole(from + (c * h + line) * w, row + c * w, w);
            const int32_t *__restrict r = row, *__restrict g = row + w, *__restrict b = row + 2 * w;
            if (y >= y0 && y < y1) {
                float* __restrict to = luma + (i * h + y) * w;
                for (int64_t x = 0; x < w; x++)
                    to[x] = (float)((2 * ((LUMA[0] * r[x] + LUMA[1] * g[x] + LUMA[2] * b[x] + (1 << 19) + (1 << 8)) >> 9) + 64) >> 7);
            }
            chroma_row(r, g, b, mixed + (y - y0 + 1) * half, mixed + (BAND + 2 + y - y0 + 1) * half, half);
        }
        for (int c = 0; c < 2; c++)
            for (int64_t y = y0; y < y1; y += 2) {
                const int32_t* __restrict p = mixed + (c * (BAND + 2) + y - y0) * half;
                float* __restrict to = chroma + ((2 * i + c) * (h / 2) + y / 2) * half;
                for (int64_t x = 0; x < half; x++) {
                    int32_t sum = 5;
                    for (int k = 0; k < 4; k++) sum += (p[k * half + x] * WEIGHTS[k]) >> 7;
                    to[x] = (float)(sum >> 3);
                }
            }
    });
}

void rgb_to_yuv420_backward(int64_t threads, const float* luma, const float* chroma, float* out, int64_t n, int64_t h, int64_t w) {
    int64_t half = w / 2;
    parallel(threads, n * ((h + BAND - 1) / BAND), 4.0 * (double)(BAND * w), [&](int64_t task) {
        int64_t bands = (h + BAND - 1) / BAND, i = task / bands, y0 = task % bands * BAND, y1 = lowest(y0 + BAND, h);
        Scratch<float> of_chroma(2 * half);
        for (int64_t y = y0; y < y1; y++) {
            for (int c = 0; c < 2; c++) {  // of the chroma rows that this row is mixed into
                float* __restrict to = of_chroma + c * half;
                memset(to, 0, sizeof(float) * half);
                for (int64_t r = y / 2 - 1; r <= y / 2 + 1; r++) {
                    if (r < 0 || r >= h / 2) continue;
                    int weight = 0;
                    for (int k = 0; k < 4; k++)
                        if (clip<int64_t>(2 * r - 1 + k, 0, h - 1) == y) weight += WEIGHTS[k];
                    if (!weight) continue;
                    const float* __restrict g = chroma + ((2 * i + c) * (h / 2) + r) * half;
                    float share = (float)weight / 128 / 8 / 512 * 255;
                    for (int64_t x = 0; x < half; x++) to[x] += g[x] * share;
                }
            }
            const float *__restrict g = luma + (i * h + y) * w, *__restrict u = of_chroma, *__restrict v = of_chroma + half;
            for (int c = 0; c < 3; c++) {
                float* __restrict to = out + ((i * 3 + c) * h + y) * w;
                float k = (float)(LUMA[c] * 255.0 / 32768), ku = (float)CHROMA[0][c], kv = (float)CHROMA[1][c];
                for (int64_t x = 0; x < half; x++) {
                    float more = ku * u[x] + kv * v[x];
                    to[2 * x] = k * g[2 * x] + more, to[2 * x + 1] = k * g[2 * x + 1] + more;
                }
            }
        }
    });
}

void yuv420_to_rgb(int64_t threads, const float* luma, const float* chroma, float* out, int64_t n, int64_t h, int64_t w) {
    int64_t half = w / 2;
    parallel(threads, n * h / 2, 6.0 * (double)w, [&](int64_t task) {
        int64_t i = task / (h / 2), row = task % (h / 2);
        const float *__restrict cb = chroma + (2 * i * (h / 2) + row) * half, *__restrict cr = chroma + ((2 * i + 1) * (h / 2) + row) * half;
        Scratch<int32_t> terms(3 * half);
        int32_t *__restrict red = terms, *__restrict green = terms + half, *__restrict blue = terms + 2 * half;
        for (int64_t x = 0; x < half; x++) {
            int32_t u = (int32_t)(cb[x] + 0.5f) - 128, v = (int32_t)(cr[x] + 0.5f) - 128;
            red[x] = (v * 13075) >> 13, green[x] = ((u * -3209) >> 13) + ((v * -6660) >> 13), blue[x] = (u * 16525) >> 13;
        }
        for (int64_t y = 2 * row; y < 2 * row + 2; y++) {
            const float* __restrict l = luma + (i * h + y) * w;
            for (int c = 0; c < 3; c++) {
                const int32_t* __restrict t = terms + c * half;
                float* __restrict to = out + ((3 * i + c) * h + y) * w;
                for (int64_t x = 0; x < half; x++)
                    for (int k = 0; k < 2; k++) {
                        int32_t value = ((((int32_t)(l[2 * x + k] + 0.5f) - 16) * 9539) >> 13) + t[x];
                        value = value < 0 ? 0 : value > 255 ? 255 : value;
                        to[2 * x + k] = (float)value / 255.0f;
                    }
            }
        }
    });
}

void yuv420_to_rgb_backward(int64_t threads, const float* grad, float* luma, float* chroma, int64_t n, int64_t h, int64_t w) {
    int64_t half = w / 2;
    constexpr float gain = 1.0f / 8192 / 255;
    parallel(threads, n * h / 2, 5.0 * (double)w, [&](int64_t task) {
        int64_t i = task / (h / 2), row = task % (h / 2);
        float *__restrict u = chroma + (2 * i * (h / 2) + row) * half, *__restrict v = chroma + ((2 * i + 1) * (h / 2) + row) * half;
        for (int64_t y = 2 * row; y < 2 * row + 2; y++) {
            const float *__restrict r = grad + (3 * i * h + y) * w, *__restrict g = grad + ((3 * i + 1) * h + y) * w, *__restrict b = grad + ((3 * i + 2) * h + y) * w;
            float* __restrict l = luma + (i * h + y) * w;
            for (int64_t x = 0; x < w; x++) l[x] = (r[x] + g[x] + b[x]) * (9539 * gain);
            for (int64_t x = 0; x < half; x++) {
                float rr = r[2 * x] + r[2 * x + 1], gg = g[2 * x] + g[2 * x + 1], bb = b[2 * x] + b[2 * x + 1];
                float of_u = (gg * -3209 + bb * 16525) * gain, of_v = (rr * 13075 - gg * 6660) * gain;
                u[x] = y % 2 ? u[x] + of_u : of_u, v[x] = y % 2 ? v[x] + of_v : of_v;
            }
        }
    });
}

}  // namespace

DC_EXPORT(rgb_to_yuv420)
DC_EXPORT(rgb_to_yuv420_backward)
DC_EXPORT(yuv420_to_rgb)
DC_EXPORT(yuv420_to_rgb_backward)

}  // namespace DC_ISA
