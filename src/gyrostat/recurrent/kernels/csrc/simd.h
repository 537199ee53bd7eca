// Vectors as the compiler knows them: one type for every instruction set, chosen when the file is compiled.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__) || defined(GY_WIDE)  // GY_WIDE: vectors of this width as the compiler makes them, for tests
#define GY_BYTES 64
#define GY_REGISTERS 32
#elif defined(__AVX2__)
#define GY_BYTES 32
#define GY_REGISTERS 16
#elif defined(__x86_64__)
#define GY_BYTES 16
#define GY_REGISTERS 16
#else
#define GY_BYTES 16
#define GY_REGISTERS 32
#endif
#define GY_INLINE inline __attribute__((always_inline))
#define GY_APART __attribute__((noinline))  // of an inner loop, which is compiled worse inside another function
#define GY_INLINED __attribute__((always_inline))  // of a lambda, so that what it captures can stay in registers

namespace gy {

template <class T> struct Simd {
  static constexpr int lanes = GY_BYTES / sizeof(T);
  using Int = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef T Vec __attribute__((vector_size(GY_BYTES)));
  typedef Int Mask __attribute__((vector_size(GY_BYTES)));
};
template <class T> using Vec = typename Simd<T>::Vec;
template <class T> using Mask = typename Simd<T>::Mask;

template <class T> GY_INLINE Vec<T> splat(T s) { return s - Vec<T>{}; }  // s - 0 keeps the sign of zero

template <class T> GY_INLINE Vec<T> load(const T* p) {
  Vec<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <class T> GY_INLINE void store(T* p, Vec<T> v) { std::memcpy(p, &v, sizeof v); }

#if defined(__AVX512F__)
GY_INLINE Vec<float> load_some(const float* p, int n) { return (Vec<float>)_mm512_maskz_loadu_ps((1u << n) - 1, p); }
GY_INLINE Vec<double> load_some(const double* p, int n) { return (Vec<double>)_mm512_maskz_loadu_pd((1u << n) - 1, p); }
GY_INLINE void store_some(float* p, Vec<float> v, int n) { _mm512_mask_storeu_ps(p, (1u << n) - 1, (__m512)v); }
GY_INLINE void store_some(double* p, Vec<double> v, int n) { _mm512_mask_storeu_pd(p, (1u << n) - 1, (__m512d)v); }
#else
template <class T> GY_INLINE Vec<T> load_some(const T* p, int n) {
  Vec<T> v{};
  for (int i = 0; i < n; ++i) v[i] = p[i];
  return v;
}
template <class T> GY_INLINE void store_some(T* p, Vec<T> v, int n) {
  for (int i = 0; i < n; ++i) p[i] = v[i];
}
#endif

// n < lanes only in the last column of a row
template <class T> GY_INLINE Vec<T> load(const T* p, int n) { return n >= Simd<T>::lanes ? load(p) : load_some(p, n); }
template <class T> GY_INLINE void store(T* p, Vec<T> v, int n) { n >= Simd<T>::lanes ? store(p, v) : store_some(p, v, n); }

#if defined(__AVX512F__)
GY_INLINE Vec<float> root(Vec<float> v) { return (Vec<float>)_mm512_sqrt_ps((__m512)v); }
GY_INLINE Vec<double> root(Vec<double> v) { return (Vec<double>)_mm512_sqrt_pd((__m512d)v); }
#elif defined(__AVX2__) && GY_BYTES == 32
GY_INLINE Vec<float> root(Vec<float> v) { return (Vec<float>)_mm256_sqrt_ps((__m256)v); }
GY_INLINE Vec<double> root(Vec<double> v) { return (Vec<double>)_mm256_sqrt_pd((__m256d)v); }
#else
GY_INLINE Vec<float> root(Vec<float> v) {
  for (int i = 0; i < Simd<float>::lanes; ++i) v[i] = __builtin_sqrtf(v[i]);
  return v;
}
GY_INLINE Vec<double> root(Vec<double> v) {
  for (int i = 0; i < Simd<double>::lanes; ++i) v[i] = __builtin_sqrt(v[i]);
  return v;
}
#endif

// The smaller of both and the larger of both; where x is no number the answer is x.
#if defined(__AVX512F__)
GY_INLINE Vec<float> at_most(Vec<float> bound, Vec<float> x) { return (Vec<float>)_mm512_min_ps((__m512)bound, (__m512)x); }
GY_INLINE Vec<float> at_least(Vec<float> bound, Vec<float> x) { return (Vec<float>)_mm512_max_ps((__m512)bound, (__m512)x); }
GY_INLINE Vec<double> at_most(Vec<double> bound, Vec<double> x) { return (Vec<double>)_mm512_min_pd((__m512d)bound, (__m512d)x); }
GY_INLINE Vec<double> at_least(Vec<double> bound, Vec<double> x) { return (Vec<double>)_mm512_max_pd((__m512d)bound, (__m512d)x); }
#elif defined(__AVX2__)
GY_INLINE Vec<float> at_most(Vec<float> bound, Vec<float> x) { return (Vec<float>)_mm256_min_ps((__m256)bound, (__m256)x); }
GY_INLINE Vec<float> at_least(Vec<float> bound, Vec<float> x) { return (Vec<float>)_mm256_max_ps((__m256)bound, (__m256)x); }
GY_INLINE Vec<double> at_most(Vec<double> bound, Vec<double> x) { return (Vec<double>)_mm256_min_pd((__m256d)bound, (__m256d)x); }
GY_INLINE Vec<double> at_least(Vec<double> bound, Vec<double> x) { return (Vec<double>)_mm256_max_pd((__m256d)bound, (__m256d)x); }
#else
template <class V> GY_INLINE V at_most(V bound, V x) { return x > bound ? bound : x; }
template <class V> GY_INLINE V at_least(V bound, V x) { return x < bound ? bound : x; }
#endif

// For what is read much later: past the caches where the instruction set can, so that no line is fetched only to be
// overwritten.
template <class T> GY_INLINE void store_away(T* p, Vec<T> v, int n) {
#if defined(__AVX512F__)
  if (n >= Simd<T>::lanes && (size_t)p % GY_BYTES == 0) {
    _mm512_stream_si512((__m512i*)p, (__m512i)v);
    return;
  }
#endif
  store(p, v, n);
}

template <class T> GY_INLINE T sum(Vec<T> v) {
  T s = 0;
  for (int i = 0; i < Simd<T>::lanes; ++i) s += v[i];
  return s;
}

}  // namespace gy
