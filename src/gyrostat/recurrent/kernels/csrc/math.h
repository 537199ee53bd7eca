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

template <class T, int n> GY_INLINE Vec<T> polynomial(const T (&c)[n], Vec<T> x) {
  Vec<T> s = splat<T>(c[n - 1]);
#pragma GCC unroll 16
  for (int i = n - 2; i >= 0; --i) s = s * x + c[i];
  return s;
}

template <class T> struct Exponential {
  Vec<T> scale, p;  // e^y = scale (1 + p)
};

template <class T> GY_INLINE Exponential<T> exponential(Vec<T> y) {
  using C = Expm1<T>;
  using Int = typename Simd<T>::Int;
  const Vec<T> rounded = y * T(1.44269504088896340736) + C::magic;
  const Vec<T> n = rounded - C::magic;
  const Vec<T> r = (y - n * C::ln2_high) - n * C::ln2_low;
  const Int one = sizeof(T) == 4 ? Int(0x3f800000) : Int(0x3ff0000000000000LL);
  const Mask<T> bits = ((Mask<T>)rounded << C::shift) + one;
  return {(Vec<T>)bits, r + (r * r) * polynomial(C::q, r)};
}

template <class T> GY_INLINE Vec<T> clamp(Vec<T> x, T low, T high) {
  return at_least(splat<T>(low), at_most(splat<T>(high), x));
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

// (sin a - a) / a^3 and (cos a - 1 + a^2 / 2) / a^4 in powers of a^2, |a| <= pi/4: minimax (Cephes) and Taylor
template <class T> struct Turn;
template <> struct Turn<float> {
  static constexpr float sine[] = {-1.6666654611e-1f, 8.3321608736e-3f, -1.9515295891e-4f};
  static constexpr float cosine[] = {4.166664568298827e-2f, -1.388731625493765e-3f, 2.443315711809948e-5f};
};
template <> struct Turn<double> {
  static constexpr double sine[] = {-1. / 6, 1. / 120, -1. / 5040, 1. / 362880, -1. / 39916800, 1. / 6227020800.,
                                      -1. / 1307674368000., 1. / 355687428096000.};
  static constexpr double cosine[] = {1. / 24, -1. / 720, 1. / 40320, -1. / 3628800, 1. / 479001600, -1. / 87178291200.,
                                        1. / 20922789888000., -1. / 6402373705728000.};
};

// cos and sin of 2 pi u, u in (0, 1): whole quarters are taken away exactly
template <class T> GY_INLINE void cos_sin_turn(Vec<T> u, Vec<T>& cosine, Vec<T>& sine) {
  const Vec<T> rounded = u * T(4) + Expm1<T>::magic;
  const Vec<T> quarter = rounded - Expm1<T>::magic;
  const Vec<T> a = (u - quarter * T(0.25)) * T(6.28318530717958647693), a2 = a * a;
  const Vec<T> s = (a2 * a) * polynomial(Turn<T>::sine, a2) + a;
  const Vec<T> c = (a2 * a2) * polynomial(Turn<T>::cosine, a2) + (T(1) - a2 * T(0.5));
  const Mask<T> k = (Mask<T>)rounded;
  const Mask<T> odd = (k & 1) != 0;
  constexpr int sign = 8 * sizeof(T) - 2;  // from the second bit to the last
  cosine = (Vec<T>)((Mask<T>)(odd ? s : c) ^ (((k + 1) & 2) << sign));
  sine = (Vec<T>)((Mask<T>)(odd ? c : s) ^ ((k & 2) << sign));
}

}  // namespace gy
