// Philox4x32-10 and the numbers made from it; numerics/philox.py is the slow twin and says which place has which counter.
#pragma once
#include "math.h"

namespace gy {

// words of 32 bits in lanes of 64
typedef uint64_t Words __attribute__((vector_size(GY_BYTES)));
constexpr int WORDS = GY_BYTES / 8;

GY_INLINE Words multiply(Words a, uint64_t constant) {
  const Words b = constant - Words{};
#if defined(__AVX512F__)
  return (Words)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__) && GY_BYTES == 32
  return (Words)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__x86_64__) && GY_BYTES == 16
  return (Words)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xffffffffu) * b;
#endif
}

// Words of 16 blocks, the even and the odd ones in two vectors at once so that they lie in order when these are put together.
// The upper halves of the lanes hold rubbish between the rounds; a product does not see them.
GY_INLINE void philox(uint64_t seed, uint32_t block, uint32_t row, uint32_t law, uint32_t out[4][16]) {
  for (int first = 0; first < 16; first += 2 * WORDS) {
    Words c[2][4];
    for (int odd = 0; odd < 2; ++odd) {
      for (int i = 0; i < WORDS; ++i) c[odd][0][i] = 2 * i + odd;
      c[odd][0] += uint64_t(block + first);
      c[odd][1] = uint64_t(row) - Words{}, c[odd][2] = uint64_t(law) - Words{}, c[odd][3] = Words{};
    }
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
#pragma GCC unroll 2
      for (int odd = 0; odd < 2; ++odd) {
        Words* const w = c[odd];
        const Words p0 = multiply(w[0], 0xD2511F53u), p1 = multiply(w[2], 0xCD9E8D57u);
        w[0] = (p1 >> 32) ^ w[1] ^ uint64_t(k0);
        w[1] = p1;
        w[2] = (p0 >> 32) ^ w[3] ^ uint64_t(k1);
        w[3] = p0;
      }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const Words both = (c[0][i] & uint64_t(0xffffffff)) | (c[1][i] << 32);
      std::memcpy(&out[i][first], &both, sizeof both);
    }
  }
}

template <class T> GY_INLINE Vec<T> open_uniform(const uint32_t* words) {
  typedef uint32_t Some __attribute__((vector_size(GY_BYTES / sizeof(T) * 4)));
  Some w;
  std::memcpy(&w, words, sizeof w);
  typedef int32_t Signed __attribute__((vector_size(GY_BYTES / sizeof(T) * 4)));
  return __builtin_convertvector((Signed)(w >> 9), Vec<T>) * T(1.0 / 8388608) + T(0.5 / 8388608);  // exact
}

constexpr int noise_room(int H) { return (H + 63) / 64 * 64; }

// H numbers of one row at one step, out has noise_room(H); law 0 is normal, 1 uniform
template <class T> void draw(uint64_t seed, uint32_t row, int H, int law, T* out) {
  alignas(64) uint32_t words[4][16];
  for (int group = 0; group * 64 < H; ++group) {
    philox(seed, group * 16, row, law, words);
    T* to = out + group * 64;
    for (int lane = 0; lane < 16; lane += Simd<T>::lanes) {
      Vec<T> u[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) u[i] = open_uniform<T>(&words[i][lane]);
      if (law == 0)
#pragma GCC unroll 2
        for (int i = 0; i < 4; i += 2) {
          const Vec<T> radius = root(T(-2) * log_of_uniform<T>(u[i]));
          Vec<T> cosine, sine;
          cos_sin_turn<T>(u[i + 1], cosine, sine);
          u[i] = radius * cosine, u[i + 1] = radius * sine;
        }
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) store(to + 16 * i + lane, u[i]);
    }
  }
}

}  // namespace gy
