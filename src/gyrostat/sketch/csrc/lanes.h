// Vectors of doubles as wide as the instruction set has them.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define GY_BYTES 64
#elif defined(__AVX2__)
#define GY_BYTES 32
#else
#define GY_BYTES 16
#endif
#define GY_INLINE inline __attribute__((always_inline))

constexpr int LANES = GY_BYTES / 8;
typedef double Lanes __attribute__((vector_size(GY_BYTES)));
typedef float HalfLanes __attribute__((vector_size(GY_BYTES / 2)));

GY_INLINE Lanes lanes(const double* p) {
  Lanes v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

GY_INLINE Lanes lanes(const float* p) {
  HalfLanes v;
  std::memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, Lanes);
}

GY_INLINE void keep(double* p, Lanes v) { std::memcpy(p, &v, sizeof v); }

// the first n < LANES, zeros after them
#if defined(__AVX512F__)
GY_INLINE Lanes lanes(const double* p, int64_t n) { return (Lanes)_mm512_maskz_loadu_pd((1u << n) - 1, p); }
GY_INLINE Lanes lanes(const float* p, int64_t n) {
  return (Lanes)_mm512_cvtps_pd(_mm256_maskz_loadu_ps((1u << n) - 1, p));
}
#else
template <class T> GY_INLINE Lanes lanes(const T* p, int64_t n) {
  Lanes v{};
  for (int64_t i = 0; i < n; ++i) v[i] = double(p[i]);
  return v;
}
#endif

GY_INLINE double total(Lanes v) {
  for (int half = LANES / 2; half; half /= 2)
    for (int l = 0; l < half; ++l) v[l] += v[l + half];
  return v[0];
}

GY_INLINE Lanes root(Lanes v) {
#if defined(__AVX512F__)
  return (Lanes)_mm512_sqrt_pd((__m512d)v);
#else
  for (int l = 0; l < LANES; ++l) v[l] = __builtin_sqrt(v[l]);
  return v;
#endif
}

GY_INLINE Lanes magnitude(Lanes v) { return v < 0 ? -v : v; }
GY_INLINE Lanes larger(Lanes a, Lanes b) { return a > b ? a : b; }
