// tanh, logistic, and what Box-Muller needs, on vectors. NaN goes through: every clamp keeps the argument when the
// comparison is false.
#pragma once
#include "simd.h"

namespace gy {

// (e^r - 1 - r) / r^2 on |r| <= ln2/2, minimax; relative error of expm1 below one unit in the last place
template <class T> struct Expm1;
template <> struct Expm1<float> {
  static constexpr int shift = 23;
  static constexpr float magic = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float q[] = {0.5f, 0.16666577f, 0.0416665546f, 0.00836317905f, 0.00139261836f};
};
template <> struct Expm1<double> {
  static constexpr int shift = 52;
  static constexpr double magic = 6755399441055744.;
  static constexpr double ln2_high = 6.93147180369123816490e-01, ln2_low = 1.90821492927058770002e-10;
  static constexpr double q[] = {0.5, 0.16666666666666671, 0.041666666666666671, 0.0083333333333261358, 0.0013888888888883748, 0.00019841269874820627, 2.4801587325547743e-05, 2.7557255400206422e-06, 2.7557273643110297e-07, 2.5105217004720745e-08, 2.0914686968086876e-09};
};

template <class T> struct Exponential {
  Vec<T> scale, p;  // e^y = scale (1 + p)
};

template <class T> GY_INLINE Exponential<T> exponential(Vec<T> y) {
  using C = Expm1<T>;
  using Int = typename Simd<T>::Int;
  const Vec<T> rounded = y * T(1.44269504088896340736) + C::magic;
  const Vec<T> n = rounded - C::magic;
  const Vec<T> r = (y - n * C::ln2_high) - n * C::ln2_low;
  constexpr int degree = sizeof(C::q) / sizeof(T) - 1;
  Vec<T> q = splat<T>(C::q[degree]);
#pragma GCC unroll 16
  for (int i = degree - 1; i >= 0; --i) q = q * r + C::q[i];
  const Int one = sizeof(T) == 4 ? Int(0x3f800000) : Int(0x3ff0000000000000LL);
  const Mask<T> bits = ((Mask<T>)rounded << C::shift) + one;
  return {(Vec<T>)bits, r + (r * r) * q};
}

template <class T> GY_INLINE Vec<T> clamp(Vec<T> x, T low, T high) {
  x = x > high ? splat<T>(high) : x;
  return x < low ? splat<T>(low) : x;
}

// e/(e+2), e = expm1(2x): exact to rounding near 0, and +-1 beyond the bound
template <class T> GY_INLINE Vec<T> tanh(Vec<T> x) {
  constexpr T bound = sizeof(T) == 4 ? T(9.1) : T(19.2);
  const Exponential<T> a = exponential<T>(T(2) * clamp<T>(x, -bound, bound));
  const Vec<T> e = a.scale * a.p + (a.scale - T(1));
  return e / (e + T(2));
}

template <class T> GY_INLINE Vec<T> sigmoid(Vec<T> x) {
  constexpr T bound = sizeof(T) == 4 ? T(87) : T(708);
  const Exponential<T> a = exponential<T>(-clamp<T>(x, -bound, bound));
  return T(1) / (T(1) + (a.scale + a.scale * a.p));
}

// u in (0, 1): u = 2^k m, sqrt(1/2) <= m < sqrt(2); log m = 2 artanh((m-1)/(m+1))
template <class T> GY_INLINE Vec<T> log_of_uniform(Vec<T> u) {
  using Int = typename Simd<T>::Int;
  constexpr int shift = Expm1<T>::shift;
  const Int half = sizeof(T) == 4 ? Int(0x3f3504f3) : Int(0x3fe6a09e667f3bcdLL);  // sqrt(1/2)
  const Mask<T> k = ((Mask<T>)u - half) >> shift;
  const Vec<T> m = (Vec<T>)((Mask<T>)u - (k << shift));
  const Vec<T> z = (m - T(1)) / (m + T(1)), z2 = z * z;
  constexpr int terms = sizeof(T) == 4 ? 5 : 11;
  Vec<T> s = splat<T>(T(1) / (2 * terms - 1));
#pragma GCC unroll 16
  for (int i = terms - 1; i > 0; --i) s = s * z2 + T(1) / (2 * i - 1);
  return T(2) * z * s + __builtin_convertvector(k, Vec<T>) * T(0.693147180559945309417);
}

// cos and sin of 2 pi u, u in (0, 1): whole quarters are taken away exactly
template <class T> GY_INLINE void cos_sin_turn(Vec<T> u, Vec<T>& cosine, Vec<T>& sine) {
  const Vec<T> rounded = u * T(4) + Expm1<T>::magic;
  const Vec<T> quarter = rounded - Expm1<T>::magic;
  const Vec<T> angle = (u - quarter * T(0.25)) * T(6.28318530717958647693), a2 = angle * angle;
  constexpr int terms = sizeof(T) == 4 ? 5 : 9;
  Vec<T> s = splat<T>(1), c = splat<T>(1);
#pragma GCC unroll 16
  for (int i = terms; i > 0; --i) {
    s = T(1) - s * a2 * (T(1) / ((2 * i) * (2 * i + 1)));
    c = T(1) - c * a2 * (T(1) / ((2 * i - 1) * (2 * i)));
  }
  s *= angle;
  const Mask<T> k = (Mask<T>)rounded & 3;
  const Mask<T> odd = (k & 1) != 0, low = (k == 1) | (k == 2), back = k >= 2;
  cosine = odd ? s : c;
  sine = odd ? c : s;
  cosine = low ? -cosine : cosine;
  sine = back ? -sine : sine;
}

}  // namespace gy
