// Vectors of one instruction set, and the few functions of them that the kernels need.
//
// GNU vector extensions, so that one source serves every width; GCC and Clang have them, and clang-cl on Windows.
// Nothing of the standard library is used here: its templates, compiled for a newer processor, could be what the
// linker keeps for all.
#pragma once

#include <stdint.h>
#include <string.h>

#include "mambino/scan.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#define MAMBINO_BYTES 64
#elif defined(__AVX2__)
#include <immintrin.h>
#define MAMBINO_BYTES 32
#else
#define MAMBINO_BYTES 16
#endif

#define MAMBINO_INLINE static inline __attribute__((always_inline))

namespace mambino {
namespace MAMBINO_TARGET {

template <class T> struct Lanes;
template <> struct Lanes<float> {
    typedef float Vec __attribute__((vector_size(MAMBINO_BYTES)));
    typedef int32_t Int __attribute__((vector_size(MAMBINO_BYTES)));
    typedef int32_t Whole;
    static constexpr int count = MAMBINO_BYTES / 4, mantissa = 23, most = 126;
    static constexpr float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
};
template <> struct Lanes<double> {
    typedef double Vec __attribute__((vector_size(MAMBINO_BYTES)));
    typedef int64_t Int __attribute__((vector_size(MAMBINO_BYTES)));
    typedef int64_t Whole;
    static constexpr int count = MAMBINO_BYTES / 8, mantissa = 52, most = 1022;
    static constexpr double magic = 6755399441055744.0;  // 1.5 * 2^52
};

template <class T> using Vec = typename Lanes<T>::Vec;

constexpr double LOG2E = 1.4426950408889634, LN2 = 0.6931471805599453;

template <class T> MAMBINO_INLINE Vec<T> splat(T x) { return x - Vec<T>{}; }

template <class T> MAMBINO_INLINE Vec<T> load(const T *from) {
    Vec<T> x;
    memcpy(&x, from, sizeof x);
    return x;
}

template <class T> MAMBINO_INLINE void store(T *to, Vec<T> x) { memcpy(to, &x, sizeof x); }

#if defined(__AVX512F__)
MAMBINO_INLINE Vec<float> load_part(const float *from, int count) {
    return (Vec<float>)_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), from);
}
MAMBINO_INLINE Vec<double> load_part(const double *from, int count) {
    return (Vec<double>)_mm512_maskz_loadu_pd(__mmask8((1u << count) - 1), from);
}
MAMBINO_INLINE void store_part(float *to, Vec<float> x, int count) {
    _mm512_mask_storeu_ps(to, __mmask16((1u << count) - 1), (__m512)x);
}
MAMBINO_INLINE void store_part(double *to, Vec<double> x, int count) {
    _mm512_mask_storeu_pd(to, __mmask8((1u << count) - 1), (__m512d)x);
}
#elif defined(__AVX2__)
MAMBINO_INLINE __m256i first_lanes(int count, float) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
MAMBINO_INLINE __m256i first_lanes(int count, double) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_setr_epi64x(0, 1, 2, 3));
}
MAMBINO_INLINE Vec<float> load_part(const float *from, int count) {
    return (Vec<float>)_mm256_maskload_ps(from, first_lanes(count, 0.0f));
}
MAMBINO_INLINE Vec<double> load_part(const double *from, int count) {
    return (Vec<double>)_mm256_maskload_pd(from, first_lanes(count, 0.0));
}
MAMBINO_INLINE void store_part(float *to, Vec<float> x, int count) {
    _mm256_maskstore_ps(to, first_lanes(count, 0.0f), (__m256)x);
}
MAMBINO_INLINE void store_part(double *to, Vec<double> x, int count) {
    _mm256_maskstore_pd(to, first_lanes(count, 0.0), (__m256d)x);
}
#else
template <class T> MAMBINO_INLINE Vec<T> load_part(const T *from, int count) {
    T lanes[Lanes<T>::count] = {};
    for (int i = 0; i < count; i++) lanes[i] = from[i];
    return load(lanes);
}
template <class T> MAMBINO_INLINE void store_part(T *to, Vec<T> x, int count) {
    T lanes[Lanes<T>::count];
    store(lanes, x);
    for (int i = 0; i < count; i++) to[i] = lanes[i];
}
#endif

// The first `count` lanes; the others are zero, and nothing beyond is read or written.
template <class T> MAMBINO_INLINE Vec<T> load_some(const T *from, int count) {
    return count == Lanes<T>::count ? load(from) : load_part(from, count);
}

template <class T> MAMBINO_INLINE void store_some(T *to, Vec<T> x, int count) {
    count == Lanes<T>::count ? store(to, x) : store_part(to, x, count);
}

template <class T> MAMBINO_INLINE T *row(const mambino_rows &rows, int64_t batch, int64_t token) {
    return (T *)rows.data + batch * rows.batch + token * rows.token;
}

// `width` runs of P numbers, a run every `stride`, and inside it a number every `apart`.
template <class T, int P = 1> MAMBINO_INLINE Vec<T> gathered(const T *from, int64_t stride, int width, int64_t apart = 1) {
    T lanes[Lanes<T>::count] = {};
    for (int i = 0; i < width * P; i++) lanes[i] = from[i / P * stride + i % P * apart];
    return load(lanes);
}

template <class T, int P = 1> MAMBINO_INLINE void scattered(T *to, int64_t stride, int width, Vec<T> x, int64_t apart = 1) {
    T lanes[Lanes<T>::count];
    store(lanes, x);
    for (int i = 0; i < width * P; i++) to[i / P * stride + i % P * apart] = lanes[i];
}

template <class T> MAMBINO_INLINE Vec<T> larger(Vec<T> a, Vec<T> b) { return a < b ? b : a; }  // a NaN in a stays
template <class T> MAMBINO_INLINE Vec<T> smaller(Vec<T> a, Vec<T> b) { return a > b ? b : a; }
template <class T> MAMBINO_INLINE Vec<T> magnitude(Vec<T> a) { return a < 0 ? -a : a; }

template <class T> MAMBINO_INLINE T largest(Vec<T> x) {
    T most = x[0];
    for (int i = 1; i < Lanes<T>::count; i++) most = x[i] > most || x[i] != x[i] ? x[i] : most;
    return most;
}

// 2^f for |f| <= 1/2. float: relative error 1.4e-7 at the ends, falling to none at 0, where decays of slow states
// lie and errors add up; double: Taylor's series.
MAMBINO_INLINE Vec<float> power(Vec<float> f) {
    Vec<float> p = splat(0.0013266517f);
    p = p * f + 0.0096663777f;
    p = p * f + 0.0555067250f;
    p = p * f + 0.2402234803f;
    p = p * f + 0.6931470821f;
    return p * f + 1.0f;
}

MAMBINO_INLINE Vec<double> power(Vec<double> f) {
    constexpr double series[] = {1.3691488853904129e-12, 2.5678435993488202e-11, 4.4455382718708114e-10,
                                 7.054911620801123e-09,  1.01780860092397e-07,   1.321548679014431e-06,
                                 1.525273380405984e-05,  0.0001540353039338161,  0.0013333558146428443,
                                 0.009618129107628477,   0.05550410866482158,    0.24022650695910072,
                                 0.6931471805599453,     1.0};
    Vec<double> p = splat(series[0]);
#pragma GCC unroll 16
    for (int i = 1; i < 14; i++) p = p * f + series[i];
    return p;
}

// p 2^n for whole n.
template <class T> MAMBINO_INLINE Vec<T> scaled(Vec<T> p, Vec<T> n, Vec<T> rounded) {
#if defined(__AVX512F__)
    (void)rounded;
    if constexpr (sizeof(T) == 4)
        return (Vec<T>)_mm512_maskz_scalef_ps(0xffff, (__m512)p, (__m512)n);
    else
        return (Vec<T>)_mm512_maskz_scalef_pd(0xff, (__m512d)p, (__m512d)n);
#else
    (void)n;
    typedef typename Lanes<T>::Int Int;
    return (Vec<T>)((Int)p + ((Int)rounded << Lanes<T>::mantissa));
#endif
}

#if defined(__AVX512F__)
constexpr bool NATIVE_SCALE = true;  // of any exponent, to zero and to infinity
#else
constexpr bool NATIVE_SCALE = false;
#endif

// 2^(a b). Unless SAFE, |a b| must be at most Lanes::most.
template <class T, bool SAFE> MAMBINO_INLINE Vec<T> exp2_of(Vec<T> a, Vec<T> b) {
    if constexpr (SAFE && !NATIVE_SCALE) {
        const Vec<T> most = splat<T>(Lanes<T>::most);
        const Vec<T> x = smaller<T>(larger<T>(a * b, -most), most);
        const Vec<T> rounded = x + Lanes<T>::magic, n = rounded - Lanes<T>::magic;
        return scaled<T>(power(x - n), n, rounded);
    } else {
        const Vec<T> rounded = a * b + Lanes<T>::magic, n = rounded - Lanes<T>::magic;
        return scaled<T>(power(a * b - n), n, rounded);
    }
}

template <class T> MAMBINO_INLINE Vec<T> exp_of(Vec<T> x) { return exp2_of<T, true>(x, splat<T>(T(LOG2E))); }

// log(1 + x) for 0 <= x <= 1: in float x times a polynomial through Chebyshev's nodes (1.6e-7 of the result at most, and
// no division, which takes as long as all of it), in double the series of the inverse hyperbolic tangent.
template <class T> MAMBINO_INLINE Vec<T> log1p_of(Vec<T> x) {
    if constexpr (sizeof(T) == 4) {
        constexpr T parts[] = {T(0.0051261018961668015), T(-0.029074065387248993), T(0.0775160863995552),  T(-0.13602247834205627),
                               T(0.19076880812644958),   T(-0.2483539879322052),   T(0.3331812024116516), T(-0.4999944567680359), T(1)};
        Vec<T> sum = splat<T>(parts[0]);
#pragma GCC unroll 8
        for (int i = 1; i < 9; i++) sum = sum * x + parts[i];
        return sum * x;
    } else {
        constexpr int terms = 17;
        const Vec<T> s = x / (x + 2), square = s * s;
        Vec<T> sum = splat<T>(T(1) / (2 * terms - 1));
#pragma GCC unroll 20
        for (int i = terms - 2; i >= 0; i--) sum = sum * square + T(1) / (2 * i + 1);
        return 2 * s * sum;
    }
}

template <class T> MAMBINO_INLINE Vec<T> softplus(Vec<T> x) {
    return larger<T>(x, Vec<T>{}) + log1p_of<T>(exp_of<T>(-magnitude<T>(x)));
}

// Softplus with its slope, which is the sigmoid.
template <class T> struct Sloped {
    Vec<T> value, slope;
};

template <class T> MAMBINO_INLINE Sloped<T> softplus_sloped(Vec<T> x) {
    const Vec<T> e = exp_of<T>(-magnitude<T>(x));
    return {larger<T>(x, Vec<T>{}) + log1p_of<T>(e), (x < 0 ? e : splat<T>(1)) / (e + 1)};
}

template <class T> MAMBINO_INLINE Vec<T> sigmoid(Vec<T> x) {
    const Vec<T> e = exp_of<T>(-magnitude<T>(x));
    return (x < 0 ? e : splat<T>(1)) / (e + 1);
}

template <int... I> struct Numbers {};
template <int N, int... I> struct Count : Count<N - 1, N - 1, I...> {};
template <int... I> struct Count<0, I...> {
    typedef Numbers<I...> Type;
};

template <int COUNT, int RUN, int HALF> constexpr int lane_from(int i) {
    return (i < COUNT / 2 ? 0 : COUNT) + i % (COUNT / 2) / RUN * 2 * RUN + i % RUN + HALF * RUN;
}

// Of each 2 RUN lanes of a, then of b, the first half or (HALF) the second.
template <class T, int RUN, int HALF, int... I> MAMBINO_INLINE Vec<T> halves(Vec<T> a, Vec<T> b, Numbers<I...>) {
    constexpr int count = Lanes<T>::count;
#if defined(__clang__)
    return __builtin_shufflevector(a, b, (lane_from<count, RUN, HALF>(I))...);
#else
    return __builtin_shuffle(a, b, (typename Lanes<T>::Int){lane_from<count, RUN, HALF>(I)...});
#endif
}

// The lanes that Order says.
template <class Order, class T, int... I> MAMBINO_INLINE Vec<T> arranged(Vec<T> x, Numbers<I...>) {
#if defined(__clang__)
    return __builtin_shufflevector(x, x, (Order::lane(I))...);
#else
    return __builtin_shuffle(x, (typename Lanes<T>::Int){Order::lane(I)...});
#endif
}
template <class Order, class T> MAMBINO_INLINE Vec<T> arranged(Vec<T> x) {
    return arranged<Order, T>(x, typename Count<Lanes<T>::count>::Type{});
}
template <int P> struct EachAgain {
    static constexpr int lane(int i) { return i / P; }
};
template <int P, int COUNT> struct EveryOther {
    static constexpr int lane(int i) { return i * P % COUNT; }
};
template <int DISTANCE> struct Swapped {
    static constexpr int lane(int i) { return i ^ DISTANCE; }
};

// Each of the first lanes P times: what all parts of a channel share.
template <class T, int P> MAMBINO_INLINE Vec<T> widened(Vec<T> x) {
    if constexpr (P == 1)
        return x;
    else
        return arranged<EachAgain<P>, T>(x);
}

// Of each run of P lanes the first.
template <class T, int P> MAMBINO_INLINE Vec<T> narrowed(Vec<T> x) {
    if constexpr (P == 1)
        return x;
    else
        return arranged<EveryOther<P, Lanes<T>::count>, T>(x);
}

// In each lane the sum of the run of P lanes that it is in; the same bits in all of them.
template <class T, int P> MAMBINO_INLINE Vec<T> joined(Vec<T> x) {
    if constexpr (P > 1) x += arranged<Swapped<1>, T>(x);
    if constexpr (P > 2) x += arranged<Swapped<2>, T>(x);
    static_assert(P == 1 || P == 2 || P == 4, "add a line");
    return x;
}

// P numbers, over and over.
template <class T, int P> MAMBINO_INLINE Vec<T> repeated(const T *from) {
    constexpr int bytes = P * int(sizeof(T));
    if constexpr (P == 1) {
        return splat(*from);
    } else if constexpr (bytes == MAMBINO_BYTES) {
        return load(from);
    } else if constexpr (bytes == 8) {
        typedef int64_t Pairs __attribute__((vector_size(MAMBINO_BYTES)));
        int64_t pair;
        memcpy(&pair, from, sizeof pair);
        return (Vec<T>)(pair - Pairs{});
#if defined(__AVX512F__)
    } else if constexpr (bytes == 16) {
        return (Vec<T>)_mm512_maskz_broadcast_f32x4(0xffff, _mm_loadu_ps((const float *)from));
    } else if constexpr (bytes == 32) {
        return (Vec<T>)_mm512_maskz_broadcast_f64x4(0xff, _mm256_loadu_pd((const double *)from));
#elif defined(__AVX2__)
    } else if constexpr (bytes == 16) {
        return (Vec<T>)_mm256_broadcast_ps((const __m128 *)from);
#endif
    }
}

// Sums of the lanes of N vectors: N runs of lanes, each with what is left to add up of one vector.
template <class T, int N> MAMBINO_INLINE Vec<T> row_sums(const Vec<T> *rows) {
    if constexpr (N == 1) {
        return rows[0];
    } else {
        constexpr int run = Lanes<T>::count / N;
        const Vec<T> a = row_sums<T, N / 2>(rows), b = row_sums<T, N / 2>(rows + N / 2);
        typedef typename Count<Lanes<T>::count>::Type All;
        return halves<T, run, 0>(a, b, All{}) + halves<T, run, 1>(a, b, All{});
    }
}

template <int P, int R, int COUNT> struct Packed {
    static constexpr int lane(int i) { return (i / P * R + i % P) % COUNT; }
};

// Of each run of R lanes the sums over those that are alike modulo P, P of them; those of all runs side by side.
template <class T, int P, int R, int LEFT = R> MAMBINO_INLINE Vec<T> folded(Vec<T> x) {
    if constexpr (LEFT > P)
        return folded<T, P, R, LEFT / 2>(x + arranged<Swapped<LEFT / 2>, T>(x));
    else if constexpr (R > P)
        return arranged<Packed<P, R, Lanes<T>::count>, T>(x);
    else
        return x;
}

// State and outputs that fade away become denormal numbers, which take many times longer; flush them to zero.
struct FlushDenormals {
#if defined(__x86_64__) || defined(_M_X64)
    unsigned before;
    FlushDenormals() : before(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(before | 0x8040); }
    ~FlushDenormals() { __builtin_ia32_ldmxcsr(before); }
#elif defined(__aarch64__)
    uint64_t before;
    FlushDenormals() {
        __asm__ volatile("mrs %0, fpcr" : "=r"(before));
        __asm__ volatile("msr fpcr, %0" : : "r"(before | (uint64_t(1) << 24)));
    }
    ~FlushDenormals() { __asm__ volatile("msr fpcr, %0" : : "r"(before)); }
#endif
};

}  // namespace MAMBINO_TARGET
}  // namespace mambino
