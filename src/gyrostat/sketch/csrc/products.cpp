// A V and A'(A V) for few columns of V, in one pass: a few rows of A times V and, while they are near, their transpose times that.
//
// A number of A V is one chain of sums over the columns of A, and a number of A'(A V) one over rows, so that neither the cut of A
// into blocks nor the number of threads, at most one for each of two sums by the parity of the key block, can change a bit.
#include <algorithm>
#include <exception>
#include <vector>

#include "lanes.h"
#include "team.h"

#define GY_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

#if defined(__AVX512F__)
constexpr int ROWS = 8, WIDE = 3;  // rows and vectors of V at a time: their products stay in registers
#else
constexpr int ROWS = 4, WIDE = 2;
#endif

// V (d, k) as rows of whole vectors, zeros after k
struct Right {
  int64_t k, width;
  std::vector<double> rows;

  Right(const double* V, int64_t d, int64_t k) : k(k), width((k + LANES - 1) / LANES * LANES), rows(size_t(d * width), 0.0) {
    for (int64_t c = 0; c < d; ++c) std::copy(V + c * k, V + (c + 1) * k, &rows[size_t(c * width)]);
  }
};

// what memory shall bring meanwhile, `step` bytes for each column; nothing where `at` is null
struct Next {
  const char* at = nullptr;
  int64_t step = 0;
};

// y = a v for R rows and the G vectors of V from column m on
template <int R, int G>
GY_INLINE void forth(const double* a, int64_t stride, int64_t d, const Right& V, int64_t m, Next next, Lanes (&y)[R][G]) {
  const double* v = V.rows.data() + m;
  for (int64_t c = 0; c < d; ++c, v += V.width) {
    Lanes x[G];
    for (int g = 0; g < G; ++g) x[g] = lanes(v + g * LANES);
    for (int i = 0; i < R; ++i)
      for (int g = 0; g < G; ++g) y[i][g] += a[i * stride + c] * x[g];
    if (next.at) __builtin_prefetch(next.at + next.step * c, 0, 2);
  }
}

// z += a'y
template <int R, int G>
GY_INLINE void back(const double* a, int64_t stride, int64_t d, const Lanes (&y)[R][G], double* z, int64_t width) {
  for (int64_t c = 0; c < d; ++c, z += width) {
    Lanes x[G];
    for (int g = 0; g < G; ++g) x[g] = lanes(z + g * LANES);
    for (int i = 0; i < R; ++i)
      for (int g = 0; g < G; ++g) x[g] += a[i * stride + c] * y[i][g];
    for (int g = 0; g < G; ++g) keep(z + g * LANES, x[g]);
  }
}

// R rows: with z they are multiplied back, else A V goes to out (R, k); the square of a v
template <int R, int G>
double tile(const double* a, int64_t stride, int64_t d, const Right& V, int64_t m, Next next, double* z, double* out) {
  Lanes y[R][G] = {};
  forth<R, G>(a, stride, d, V, m, next, y);
  if (z) {
    back<R, G>(a, stride, d, y, z + m, V.width);
    Lanes sum{};
    for (int i = 0; i < R; ++i)
      for (int g = 0; g < G; ++g) sum += y[i][g] * y[i][g];
    return total(sum);
  }
  for (int i = 0; i < R; ++i) {
    double one[G * LANES];
    for (int g = 0; g < G; ++g) keep(one + g * LANES, y[i][g]);
    std::copy(one, one + std::min<int64_t>(G * LANES, V.k - m), out + i * V.k + m);
  }
  return 0;
}

template <int R>
double across(const double* a, int64_t stride, int64_t d, const Right& V, Next next, double* z, double* out) {
  double sum = 0;
  int64_t m = 0;
  for (; m + WIDE * LANES <= V.width; m += WIDE * LANES, next = {}) sum += tile<R, WIDE>(a, stride, d, V, m, next, z, out);
  if (WIDE == 3 && m + 2 * LANES <= V.width) {
    sum += tile<R, 2>(a, stride, d, V, m, next, z, out);
    m += 2 * LANES;
    next = {};
  }
  if (m < V.width) sum += tile<R, 1>(a, stride, d, V, m, next, z, out);
  return sum;
}

// rows [low, high) of a
template <class T>
double each(const T* a, int64_t stride, int64_t low, int64_t high, int64_t d, const Right& V, double* z, double* out,
            std::vector<double>& copy) {
  double sum = 0;
  auto take = [&](auto some, int64_t i) {
    constexpr int R = decltype(some)::value;
    const T* p = a + i * stride;
    double* to = out ? out + i * V.k : nullptr;
    Next next;
    if (R > 1 && stride == d && i + 2 * R <= high) next = {(const char*)(p + R * d), int64_t(R * sizeof(T))};
    if constexpr (sizeof(T) == sizeof(double)) {
      sum += across<R>(p, stride, d, V, next, z, to);
    } else {
      copy.resize(size_t(ROWS * d));
      for (int r = 0; r < R; ++r)
        for (int64_t c = 0; c < d; ++c) copy[size_t(r * d + c)] = double(p[r * stride + c]);
      sum += across<R>(copy.data(), d, d, V, next, z, to);
    }
  };
  int64_t i = low;
  for (; i + ROWS <= high; i += ROWS) take(std::integral_constant<int, ROWS>(), i);
  for (; i < high; ++i) take(std::integral_constant<int, 1>(), i);
  return sum;
}

template <class T>
void times(const T* a, int64_t stride, int64_t rows, int64_t d, const Right& V, int threads, double* out) {
  run(threads, [&](int part) {
    std::vector<double> copy;
    each(a, stride, rows * part / threads, rows * (part + 1) / threads, d, V, nullptr, out, copy);
  });
}

template <class T>
double normal(const T* a, int64_t stride, int64_t rows, int64_t d, int64_t start, const Right& V, int threads, double* sums) {
  const int64_t first = start / KEY_ROWS, end = (start + rows - 1) / KEY_ROWS + 1;
  std::vector<double> square(size_t(threads), 0.0);
  run(threads, [&](int part) {
    std::vector<double> copy;
    for (int64_t number = first; number < end; ++number) {
      if (threads > 1 && (number & 1) != part) continue;
      const int64_t low = std::max<int64_t>(0, number * KEY_ROWS - start), high = std::min(rows, (number + 1) * KEY_ROWS - start);
      square[size_t(part)] += each(a, stride, low, high, d, V, sums + (number & 1) * d * V.width, nullptr, copy);
    }
  });
  double all = 0;
  for (double one : square) all += one;
  return all;
}

}  // namespace

// a as for gy_scatter; V (d, k); out (rows, k)
GY_EXPORT int gy_times(int wide, const void* a, int64_t stride, int64_t rows, int64_t d, const double* V, int64_t k, int threads,
                       double* out) {
  try {
    const Right right(V, d, k);
    if (wide)
      times((const double*)a, stride, rows, d, right, threads, out);
    else
      times((const float*)a, stride, rows, d, right, threads, out);
  } catch (const std::exception&) {
    return 1;
  }
  return 0;
}

// row 0 of a is row `start` of A; sums (2, d, k up to a whole vector); square: |a V|^2
GY_EXPORT int gy_normal(int wide, const void* a, int64_t stride, int64_t rows, int64_t d, int64_t start, const double* V, int64_t k,
                        int threads, double* sums, double* square) {
  try {
    const Right right(V, d, k);
    if (wide)
      *square = normal((const double*)a, stride, rows, d, start, right, threads, sums);
    else
      *square = normal((const float*)a, stride, rows, d, start, right, threads, sums);
  } catch (const std::exception&) {
    return 1;
  }
  return 0;
}
