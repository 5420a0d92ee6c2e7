// Motion search: see reference.py, whose names these are.
#include "../common/native/blocks.h"

namespace DC_ISA {
namespace {

struct Vector {
    int64_t y, x;
    bool operator!=(const Vector& o) const { return y != o.y || x != o.x; }
};

// Bits of vector differences
class MvdBits {
public:
    MvdBits(double equal, double other, double octave) : equal_((float)equal), other_((float)other), octave_((float)octave) {
        for (int d = 0; d < SIZE; d++) table_[SIZE - d] = table_[SIZE + d] = slow(d);
        table_[0] = slow(SIZE);
    }
    DC_INLINE float operator()(Vector v, Vector p) const { return one(v.y - p.y) + one(v.x - p.x); }

    DC_INLINE float one(int64_t d) const { return (uint64_t)(d + SIZE) < 2 * SIZE ? table_[d + SIZE] : slow(d); }  // of a component

private:
    static constexpr int SIZE = 256;
    float slow(int64_t d) const { return d ? other_ + octave_ * std::log2((float)((d < 0 ? -d : d) + 1)) : equal_; }
    float equal_, other_, octave_, table_[2 * SIZE];
};

const Vector* vectors(const int64_t* p) { return (const Vector*)p; }
Vector* vectors(int64_t* p) { return (Vector*)p; }

int64_t median(int64_t a, int64_t b, int64_t c) { return highest(lowest(a, b), lowest(highest(a, b), c)); }

// Median of the left, upper and upper right neighbours' vectors (8.4.1.3); zero where there is none
Vector median_of(const Vector* v, int64_t y, int64_t x, int64_t bw) {
    Vector zero{0, 0}, l = x ? v[y * bw + x - 1] : zero, u = y ? v[(y - 1) * bw + x] : zero, r = y && x + 1 < bw ? v[(y - 1) * bw + x + 1] : zero;
    return {median(l.y, u.y, r.y), median(l.x, u.x, r.x)};
}

constexpr int MOST = 16;  // vectors that a search begins with

// A block that is searched for: what it costs to predict it by a vector
template <int K> struct Search {
    Phases refs;
    int64_t slot, top, left;
    const uint8_t* target;
    int64_t stride;
    float lam;
    Vector predictor;
    const MvdBits* bits;
    const uint8_t* origin;  // of the reference, where a zero vector points at
    int64_t lowest_y, lowest_x, span_y, span_x;  // whole vectors that stay inside the planes

    Search() = default;
    DC_INLINE Search(const Phases& refs, int64_t slot, int64_t top, int64_t left, const uint8_t* target, int64_t stride, float lam, Vector predictor,
                     const MvdBits* bits)
        : refs(refs), slot(slot), top(top), left(left), target(target), stride(stride), lam(lam), predictor(predictor), bits(bits),
          origin(refs.base + slot * refs.count * refs.hp * refs.wp + (top + MARGIN) * refs.wp + left + MARGIN), lowest_y(-top - MARGIN),
          lowest_x(-left - MARGIN), span_y(refs.hp - K), span_x(refs.wp - K) {}

    // Whether vectors of up to `reach` quarter samples around point at blocks inside the planes
    DC_INLINE bool inside(Vector v, int64_t reach = 0) const {
        int64_t y = (v.y - reach) >> 2, x = (v.x - reach) >> 2, more = (reach + 3) / 4 + (reach + 3) / 4;
        return y >= lowest_y && x >= lowest_x && y + more - lowest_y <= span_y && x + more - lowest_x <= span_x;
    }
    template <bool SATD> DC_INLINE float near(Vector v) const {  // of a vector that is inside
        const uint8_t* p = origin + (v.y >> 2) * refs.wp + (v.x >> 2) + refs.phase(v.y, v.x) * (refs.hp * refs.wp);
        return SATD ? 0.5f * (float)satd2<K>(p, refs.wp, target, stride) : (float)sad<K>(p, refs.wp, target, stride);
    }
    DC_INLINE float distortion(Vector v, bool satd) const {
        if (inside(v)) return satd ? near<true>(v) : near<false>(v);
        return beyond(v, satd);
    }
    __attribute__((noinline)) float beyond(Vector v, bool satd) const {
        if (!satd) return (float)sad<K>(refs.block(slot, v.y, v.x, top, left, K), refs.wp, target, stride);
        int32_t total = 0;  // every 8x8 block is clamped by itself
        for (int y = 0; y < K; y += 8)
            for (int x = 0; x < K; x += 8)
                total += satd2<8>(refs.block(slot, v.y, v.x, top + y, left + x, 8), refs.wp, target + y * stride + x, stride);
        return 0.5f * (float)total;
    }
    DC_INLINE float cost(Vector v, bool satd) const { return distortion(v, satd) + lam * (*bits)(v, predictor); }

    // The best of `best` and its eight neighbours. All are computed before any is compared: nothing waits for a branch that cannot be foreseen.
    template <bool SATD> void look_around(Vector& best, float& least, int64_t stride) const {
        static constexpr int8_t RING[8][2] = {{-1, -1}, {-1, 0}, {-1, 1}, {0, -1}, {0, 1}, {1, -1}, {1, 0}, {1, 1}};
        float cost[8];
        Vector v[8];
        for (int k = 0; k < 8; k++) v[k] = {best.y + stride * RING[k][0], best.x + stride * RING[k][1]};
        if (inside(best, stride))
            for (int k = 0; k < 8; k++) cost[k] = near<SATD>(v[k]);
        else
            for (int k = 0; k < 8; k++) cost[k] = distortion(v[k], SATD);
        float bits_y[3], bits_x[3];
        for (int k = 0; k < 3; k++) bits_y[k] = bits->one(best.y + stride * (k - 1) - predictor.y), bits_x[k] = bits->one(best.x + stride * (k - 1) - predictor.x);
        int chosen = -1;
        for (int k = 0; k < 8; k++) {
            float c = cost[k] + lam * (bits_y[RING[k][0] + 1] + bits_x[RING[k][1] + 1]);
            chosen = c < least ? k : chosen;
            least = c < least ? c : least;
        }
        if (chosen >= 0) best = v[chosen];
    }

    float refine(const Vector* start, int64_t count, int64_t apart, Vector& best, int64_t subpel, bool satd, int64_t rounds) const {
        Vector some[MOST];
        int64_t different = 0;
        for (int64_t i = 0; i < count; i++) {  // a vector that is looked at again wins nothing
            Vector v = start[i * apart];
            bool known = false;
            for (int64_t j = 0; j < different; j++) known |= some[j].y == v.y && some[j].x == v.x;
            some[different] = v;
            different += !known;
        }
        float costs[MOST], least = 0;
        for (int64_t i = 0; i < different; i++) costs[i] = cost(some[i], false);
        for (int64_t i = 0; i < different; i++)
            if (!i || costs[i] < least) least = costs[i], best = some[i];
        for (int64_t i = 0; i < rounds; i++) {
            Vector before = best;
            look_around<false>(best, least, 4);
            if (!(best != before)) break;
        }
        if (subpel > 1) {
            if (satd) least = cost(best, true);
            for (int64_t stride = 2; stride >= (subpel > 2 ? 1 : 2); stride--) satd ? look_around<true>(best, least, stride) : look_around<false>(best, least, stride);
        }
        return least;
    }
};

void median_predictor(int64_t threads, const int64_t* v, int64_t* out, int64_t n, int64_t bh, int64_t bw) {
    (void)threads;
    for (int64_t i = 0; i < n; i++)
        for (int64_t y = 0; y < bh; y++)
            for (int64_t x = 0; x < bw; x++) vectors(out)[(i * bh + y) * bw + x] = median_of(vectors(v) + i * bh * bw, y, x, bw);
}

template <int K>
void refine(int64_t threads, Phases refs, const int64_t* slot, const float* source, const int64_t* start, const int64_t* predictor,
            const float* lam, int64_t* out, float* cost, int64_t c, int64_t n, int64_t bh, int64_t bw, int64_t subpel, bool satd, int64_t rounds,
            const MvdBits& bits) {
    int64_t w = bw * K;
    parallel(threads, n * bh, 2e3 * (double)bw, [&](int64_t row) {
        Scratch<uint8_t> bytes(K * w);
        to_bytes(source + row * K * w, bytes, K * w);
        for (int64_t x = 0; x < bw; x++) {
            int64_t i = row * bw + x;
            Search<K> s(refs, slot[i], row % bh * K, x * K, bytes + x * K, w, lam[i], vectors(predictor)[i], &bits);
            cost[i] = s.refine(vectors(start) + i, c, n * bh * bw, vectors(out)[i], subpel, satd, rounds);
        }
    });
}

void refine_vectors(int64_t threads, const uint8_t* phases, int64_t count, int64_t hp, int64_t wp, const int64_t* slot, const float* source,
                    const int64_t* start, const int64_t* predictor, const float* lam, int64_t* out, float* cost, int64_t c, int64_t n,
                    int64_t bh, int64_t bw, int64_t k, int64_t subpel, int64_t satd, int64_t rounds, double equal, double other, double octave) {
    MvdBits bits(equal, other, octave);
    Phases refs{phases, count, hp, wp};
    if (k == 16)
        refine<16>(threads, refs, slot, source, start, predictor, lam, out, cost, c, n, bh, bw, subpel, satd != 0, rounds, bits);
    else
        refine<8>(threads, refs, slot, source, start, predictor, lam, out, cost, c, n, bh, bw, subpel, satd != 0, rounds, bits);
}

// type_bits: of 16x16, 16x8, 8x16, 8x8
void search_partitions(int64_t threads, const float* source, const uint8_t* phases, int64_t count, int64_t hp, int64_t wp, const int64_t* slot,
                       const int64_t* coarse, const float* lam, int64_t* out, int64_t n, int64_t bh, int64_t bw, int64_t subpel, int64_t satd,
                       int64_t partitions, double equal, double other, double octave, const float* type_bits) {
    MvdBits bits(equal, other, octave);
    Phases refs{phases, count, hp, wp};
    int64_t w = bw * 16;
    Scratch<Vector> whole(n * bh * bw);
    parallel(threads, n * bh, 2e4 * (double)bw, [&](int64_t row) {
        const Vector* from = vectors(coarse) + row / bh * bh * bw;
        alignas(64) uint8_t target[256];
        for (int64_t x = 0; x < bw; x++) {
            int64_t i = row * bw + x;
            block_bytes(source + row * 16 * w + x * 16, w, target, 16, 16);
            Vector predictor = median_of(from, row % bh, x, bw), start[3] = {predictor, {0, 0}, vectors(coarse)[i]};
            Search<16> s(refs, slot[i], row % bh * 16, x * 16, target, 16, lam[i], predictor, &bits);
            s.refine(start, 3, 1, whole[i], subpel, satd != 0, 1);
            if (!partitions)
                for (int k = 0; k < 4; k++) vectors(out)[(row * 2 + k / 2) * 2 * bw + 2 * x + k % 2] = whole[i];
        }
    });
    if (!partitions) return;
    parallel(threads, n * bh, 3e4 * (double)bw, [&](int64_t row) {
        const Vector* around = whole + row / bh * bh * bw;
        int64_t y = row % bh;
        alignas(64) uint8_t target[256];
        for (int64_t x = 0; x < bw; x++) {
            int64_t i = row * bw + x;
            block_bytes(source + row * 16 * w + x * 16, w, target, 16, 16);
            Vector own = whole[i], predictor = median_of(around, y, x, bw);
            Vector start[5] = {own, around[y * bw + highest<int64_t>(x - 1, 0)], around[y * bw + lowest(x + 1, bw - 1)],
                               around[highest<int64_t>(y - 1, 0) * bw + x], around[lowest(y + 1, bh - 1) * bw + x]};
            Vector candidate[5] = {own};
            float cost[5][4], of_vector[5];
            Search<8> part[4];
            for (int k = 0; k < 4; k++) {
                part[k] = Search<8>(refs, slot[i], y * 16 + k / 2 * 8, x * 16 + k % 2 * 8, target + k / 2 * 128 + k % 2 * 8, 16, lam[i], own, &bits);
                part[k].refine(start, 5, 1, candidate[1 + k], subpel, satd != 0, 0);
            }
            for (int c = 0; c < 5; c++) {
                int same = 0;
                while (candidate[same] != candidate[c]) same++;
                for (int k = 0; k < 4; k++) cost[c][k] = same < c ? cost[same][k] : part[k].distortion(candidate[c], satd != 0);
                of_vector[c] = bits(candidate[c], predictor) * lam[i];
            }
            // of each part the best candidate
            float total[4];
            int pick[4][4];
            auto part_of = [&](int kind, int first, int second, int third, int fourth) {
                float best = 0;
                int index = -1;
                for (int c = 0; c < 5; c++) {
                    float sum = cost[c][first];
                    if (second >= 0) sum += cost[c][second];
                    if (third >= 0) sum += cost[c][third] + cost[c][fourth];
                    sum += of_vector[c];
                    if (index < 0 || sum < best) best = sum, index = c;
                }
                total[kind] += best;
                pick[kind][first] = index;
                if (second >= 0) pick[kind][second] = index;
                if (third >= 0) pick[kind][third] = pick[kind][fourth] = index;
            };
            for (int kind = 0; kind < 4; kind++) total[kind] = type_bits[kind] * lam[i];
            part_of(0, 0, 1, 2, 3);
            part_of(1, 0, 1, -1, -1), part_of(1, 2, 3, -1, -1);
            part_of(2, 0, 2, -1, -1), part_of(2, 1, 3, -1, -1);
            for (int k = 0; k < 4; k++) part_of(3, k, -1, -1, -1);
            int kind = 0;
            for (int k = 1; k < 4; k++)
                if (total[k] < total[kind]) kind = k;
            const int* chosen = pick[kind];
            for (int k = 0; k < 4; k++) vectors(out)[(row * 2 + k / 2) * 2 * bw + 2 * x + k % 2] = candidate[chosen[k]];
        }
    });
}

// The best displacement of every block of S x S samples of planes of half the size (sums of four samples). Every column modulo S is a plane of its
// own there: neighbouring blocks lie in neighbouring lanes.
template <int S>
void search_all(const float* current, const float* reference, int64_t h, int64_t w, int64_t r, double distance_cost, Vector* out) {
    int64_t hs = h / 2, ws = w / 2, bh = hs / S, bw = ws / S, pad = (r + S - 1) / S + 1, lanes = (bw + LS - 1) / LS * LS + 2 * pad + LS;
    auto fold = [&](const float* p, int16_t* to, int64_t margin) {  // [rows][S][lanes]
        for (int64_t y = -margin; y < hs + margin; y++) {
            const float* a = p + 2 * clip<int64_t>(y, 0, hs - 1) * w;
            const float* b = a + w;
            int16_t* row = to + (y + margin) * S * lanes;
            for (int64_t x = -pad * S; x < (bw + pad) * S; x++) {
                int64_t c = 2 * clip<int64_t>(x, 0, ws - 1);
                int64_t q = x + pad * S;
                row[q % S * lanes + q / S] = (int16_t)(a[c] + a[c + 1] + (b[c] + b[c + 1]));
            }
        }
    };
    Scratch<int16_t> cur(hs * S * lanes, true), ref((hs + 2 * r) * S * lanes, true);
    fold(current, cur, 0);
    fold(reference, ref, r);
    Scratch<float> bias((2 * r + 1) * (2 * r + 1));
    for (int64_t dy = -r; dy <= r; dy++)
        for (int64_t dx = -r; dx <= r; dx++)
            bias[(dy + r) * (2 * r + 1) + dx + r] = (float)distance_cost * std::log2((float)(1 + 2 * (std::abs((int)dx) + std::abs((int)dy))));
    const float scale = 1.0f / (4 * S * S);
    for (int64_t by = 0; by < bh; by++) {
        for (int64_t x = 0; x < bw; x += LS) {
            vf least[2] = {};
            vi index[2] = {};
            for (int64_t dy = 0; dy <= 2 * r; dy++)
                for (int64_t dx = 0; dx <= 2 * r; dx++) {
                    vs total = {};
#pragma GCC unroll 8
                    for (int64_t i = 0; i < S; i++) {
                        const int16_t *c = cur + (by * S + i) * S * lanes + pad + x, *p = ref + (by * S + i + dy) * S * lanes + x;
#pragma GCC unroll 8
                        for (int64_t j = 0; j < S; j++) {
                            int64_t q = j + dx - r + pad * S;
                            total += vabs(load<vs>(c + j * lanes) - load<vs>(p + q % S * lanes + q / S));
                        }
                    }
                    int64_t number = dy * (2 * r + 1) + dx;
                    alignas(64) int16_t sums[LS];
                    store(sums, total);
#pragma GCC unroll 2
                    for (int half = 0; half < 2; half++) {
                        typedef int16_t vhs __attribute__((vector_size(VB / 2)));
                        vf cost = __builtin_convertvector(load<vhs>(sums + half * LF), vf) * scale + bias[number];
                        vi better = cost < least[half];
                        if (!number) better = alli(-1);
                        least[half] = better ? cost : least[half];
                        index[half] = better ? alli((int32_t)number) : index[half];
                    }
                }
            for (int64_t k = 0; k < LS && x + k < bw; k++) {
                int64_t number = index[k / LF][k % LF];
                out[by * bw + x + k] = {8 * (number / (2 * r + 1) - r), 8 * (number % (2 * r + 1) - r)};
            }
        }
    }
}

void full_search(int64_t threads, const float* current, const float* reference, int64_t* out, int64_t n, int64_t h, int64_t w, int64_t reach,
                 int64_t k, double distance_cost) {
    int64_t r = (reach + 1) / 2, blocks = h / k * (w / k);
    parallel(threads, n, 5.0 * (double)(h * w), [&](int64_t i) {
        const float *c = current + i * h * w, *p = reference + i * h * w;
        Vector* v = vectors(out) + i * blocks;
        if (k == 4)
            search_all<2>(c, p, h, w, r, distance_cost, v);
        else if (k == 8)
            search_all<4>(c, p, h, w, r, distance_cost, v);
        else
            search_all<8>(c, p, h, w, r, distance_cost, v);
    });
}

void estimate_motion(int64_t threads, const float* current, const float* reference, const uint8_t* phases, int64_t count, int64_t hp, int64_t wp,
                     const int64_t* slot, int64_t* out, float* cost, int64_t n, int64_t h, int64_t w, int64_t reach, int64_t subpel,
                     int64_t satd, double distance_cost, double inter_cost, double motion_cost, double equal, double other, double octave) {
    MvdBits bits(equal, other, octave);
    Phases refs{phases, count, hp, wp};
    int64_t bh = h / 8, bw = w / 8, r = (reach + 1) / 2;
    parallel(threads, n, 12.0 * (double)(h * w), [&](int64_t i) {
        Scratch<Vector> coarse(bh * bw);
        Scratch<uint8_t> bytes(8 * w);
        Vector* v = vectors(out) + i * bh * bw;
        search_all<4>(current + i * h * w, reference + i * h * w, h, w, r, distance_cost, coarse);
        for (int64_t y = 0; y < bh; y++) {
            to_bytes(current + i * h * w + y * 8 * w, bytes, 8 * w);
            for (int64_t x = 0; x < bw; x++) {
                Vector predictor = median_of(coarse, y, x, bw), start[3] = {{0, 0}, predictor, coarse[y * bw + x]};
                Search<8> s(refs, slot[i], y * 8, x * 8, bytes + x * 8, w, 1.0f, predictor, &bits);
                s.refine(start, 3, 1, v[y * bw + x], subpel, satd != 0, 2);
                cost[(i * bh + y) * bw + x] = s.distortion(v[y * bw + x], satd != 0);
            }
        }
        for (int64_t y = 0; y < bh; y++)
            for (int64_t x = 0; x < bw; x++) {
                Vector own = v[y * bw + x];
                float moves = own.y || own.x ? (float)motion_cost : 0.0f;
                cost[(i * bh + y) * bw + x] += (float)inter_cost + moves + bits(own, median_of(v, y, x, bw));
            }
    });
}

// Costs of the 8x8 blocks of a B frame: `slots`, `mv` of past and future
void choose_bipred(int64_t threads, const float* source, const uint8_t* phases, int64_t count, int64_t hp, int64_t wp, const int64_t* slots0,
                   const int64_t* slots1, const int64_t* mv0, const int64_t* mv1, const float* lam, int64_t* out, int64_t n, int64_t bh, int64_t bw,
                   int64_t satd, double equal, double other, double octave, const float* direction_bits, double split_bits) {
    MvdBits bits(equal, other, octave);
    Phases refs{phases, count, hp, wp};
    int64_t w = 16 * bw, w8 = 2 * bw;
    auto cost = [&](const uint8_t* a, const uint8_t* b, int64_t pitch) { return satd ? 0.5f * (float)satd2<8>(a, 16, b, pitch) : (float)sad<8>(a, 16, b, pitch); };
    parallel(threads, n * bh, 1e3 * (double)bw, [&](int64_t row) {
        const Vector* of[2] = {vectors(mv0) + row / bh * 4 * bh * bw, vectors(mv1) + row / bh * 4 * bh * bw};
        alignas(64) uint8_t target[256], mean[64];
        for (int64_t x = 0; x < bw; x++) {
            block_bytes(source + row * 16 * w + x * 16, w, target, 16, 16);
            float l = lam[row * bw + x] / 4, whole[3] = {}, divided = 0;
            int64_t block[4];
            for (int k = 0; k < 4; k++) {
                int64_t y8 = row % bh * 2 + k / 2, x8 = 2 * x + k % 2, at = y8 * w8 + x8, i = row / bh * 2 * bh * w8 + at;
                const uint8_t *t = target + k / 2 * 128 + k % 2 * 8, *p = refs.block(slots0[i], of[0][at].y, of[0][at].x, 8 * y8, 8 * x8, 8),
                              *q = refs.block(slots1[i], of[1][at].y, of[1][at].x, 8 * y8, 8 * x8, 8);
                for (int r = 0; r < 8; r++)
                    for (int c = 0; c < 8; c++) mean[8 * r + c] = (uint8_t)((p[r * wp + c] + q[r * wp + c] + 1) >> 1);
                float b0 = bits(of[0][at], median_of(of[0], y8, x8, w8)), b1 = bits(of[1][at], median_of(of[1], y8, x8, w8));
                float c[3] = {cost(t, p, wp) + l * (b0 + direction_bits[0]), cost(t, q, wp) + l * (b1 + direction_bits[1]),
                              cost(t, mean, 8) + l * (b0 + b1 + direction_bits[2])};
                block[k] = c[1] < c[0] ? c[2] < c[1] ? 2 : 1 : c[2] < c[0] ? 2 : 0;
                divided += c[block[k]];
                for (int d = 0; d < 3; d++) whole[d] += c[d];
            }
            int64_t all = whole[1] < whole[0] ? whole[2] < whole[1] ? 2 : 1 : whole[2] < whole[0] ? 2 : 0;
            bool split = divided + (float)split_bits * lam[row * bw + x] < whole[all];
            for (int k = 0; k < 4; k++) out[(row * 2 + k / 2) * w8 + 2 * x + k % 2] = split ? block[k] : all;
        }
    });
}

void choose_reference(int64_t threads, const float* source, const uint8_t* phases, int64_t planes, int64_t hp, int64_t wp, const int64_t* slots,
                      const int64_t* mv, int64_t* out, int64_t count, int64_t n, int64_t bh, int64_t bw) {
    Phases refs{phases, planes, hp, wp};
    parallel(threads, n * bh, 300.0 * (double)(count * bw), [&](int64_t row) {
        alignas(64) uint8_t target[256];
        for (int64_t x = 0; x < bw; x++) {
            block_bytes(source + row * 256 * bw + x * 16, 16 * bw, target, 16, 16);
            int32_t least = 0;
            for (int64_t c = 0; c < count; c++) {
                int32_t total = 0;
                for (int k = 0; k < 4; k++) {
                    int64_t y8 = row % bh * 2 + k / 2, x8 = 2 * x + k % 2;
                    Vector v = vectors(mv)[(row / bh * 2 * bh + y8) * 2 * bw + x8];
                    total += satd2<8>(target + k / 2 * 128 + k % 2 * 8, 16, refs.block(slots[(c * n * bh + row) * bw + x], v.y, v.x, 8 * y8, 8 * x8, 8), wp);
                }
                if (!c || total < least) least = total, out[row * bw + x] = c;
            }
        }
    });
}

// An 8x8 block against the mean of two predictions, which is not rounded
DC_INLINE float mean_cost(const uint8_t* t, int64_t st, const uint8_t* p, int64_t sp, const uint8_t* q, int64_t sq, bool satd) {
    constexpr int side = LH;  // lanes: of one row, or of rows y and y + 4
    alignas(64) int16_t d[64 / side][side];
    for (int y = 0; y < 8; y++)
        for (int x = 0; x < 8; x++)
            d[side == 8 ? y : y % 4][side == 8 ? x : y / 4 * 8 + x] = (int16_t)(2 * t[y * st + x] - p[y * sp + x] - q[y * sq + x]);
    int32_t total = 0;
    if (!satd) {
        for (auto& row : d)
            for (int x : row) total += x < 0 ? -x : x;
        return 0.5f * (float)total;
    }
    for (int i = 0; i < 64 / side; i += 4) total += sum_pairs(hadamard_sums(load<vh>(d[i]), load<vh>(d[i + 1]), load<vh>(d[i + 2]), load<vh>(d[i + 3])));
    return 0.25f * (float)total;
}

// Half-resolution planes of S frames and their motion: the cost of B frames
void estimate_bipred(int64_t threads, const float* half, const uint8_t* phases, int64_t count, int64_t hp, int64_t wp, const int64_t* frames, const int64_t* mv0,
                     const int64_t* mv1, const float* cost0, const float* cost1, float* cost, float* share, int64_t n, int64_t bh, int64_t bw,
                     int64_t satd, double bipred_cost, double still_cost) {
    Phases refs{phases, count, hp, wp};
    int64_t w = 8 * bw, size = 64 * bh * bw;
    parallel(threads, n * bh, 300.0 * (double)bw, [&](int64_t row) {
        int64_t t = row / bh, y = row % bh;
        alignas(64) uint8_t planes[3][64];
        for (int64_t x = 0; x < bw; x++) {
            int64_t i = row * bw + x;
            Vector v[2] = {vectors(mv0)[i], vectors(mv1)[i]};
            const uint8_t* moved[2];
            for (int k = 0; k < 3; k++) block_bytes(half + frames[3 * t + k] * size + y * 8 * w + 8 * x, w, planes[k], 8, 8);
            for (int k = 0; k < 2; k++) moved[k] = refs.block(frames[3 * t + 1 + k], v[k].y, v[k].x, y * 8, x * 8, 8);
            float c[4] = {cost0[i], cost1[i], mean_cost(planes[0], 8, moved[0], wp, moved[1], wp, satd != 0) + (float)bipred_cost,
                          mean_cost(planes[0], 8, planes[1], 8, planes[2], 8, satd != 0) + (float)still_cost};
            int best = 0;
            for (int k = 1; k < 4; k++)
                if (c[k] < c[best]) best = k;
            cost[i] = c[best];
            share[i] = best == 0 ? 1.0f : best == 1 ? 0.0f : 0.5f;
        }
    });
}

}  // namespace

DC_EXPORT(median_predictor)
DC_EXPORT(estimate_bipred)
DC_EXPORT(refine_vectors)
DC_EXPORT(search_partitions)
DC_EXPORT(full_search)
DC_EXPORT(estimate_motion)
DC_EXPORT(choose_bipred)
DC_EXPORT(choose_reference)

}  // namespace DC_ISA
