// A V for few columns of V, row by row as A lies in memory: a product that reads A once and little else.
#include <algorithm>
#include <exception>
#include <vector>

#include "lanes.h"
#include "team.h"

#define GY_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr int64_t AHEAD = 8192;  // bytes on their way from memory
constexpr int COLUMNS = 5;       // of V at a time

// ROWS rows times `count` rows of V' from `v` on, each `width` long with zeros after d
template <int ROWS, class T>
void tile(const T* a, int64_t stride, int64_t d, const double* v, int64_t width, int count, bool first, double* out, int64_t k) {
  Lanes sum[ROWS][COLUMNS] = {};
  auto step = [&](int64_t c, auto read) __attribute__((always_inline)) {
    Lanes y[COLUMNS];
    for (int j = 0; j < COLUMNS; ++j) y[j] = lanes(v + (j < count ? j : 0) * width + c);
    for (int i = 0; i < ROWS; ++i) {
      if (first) __builtin_prefetch((const char*)(a + i * stride + c) + AHEAD);
      const Lanes x = read(a + i * stride + c);
      for (int j = 0; j < COLUMNS; ++j) sum[i][j] += x * y[j];
    }
  };
  int64_t c = 0;
  for (; c + LANES <= d; c += LANES) step(c, [](const T* p) __attribute__((always_inline)) { return lanes(p); });
  if (c < d) step(c, [&](const T* p) __attribute__((always_inline)) { return lanes(p, d - c); });
  for (int i = 0; i < ROWS; ++i)
    for (int j = 0; j < count; ++j) out[i * k + j] = total(sum[i][j]);
}

template <class T>
void times(const T* a, int64_t stride, int64_t rows, int64_t d, const double* V, int64_t k, int threads, double* out) {
  const int64_t width = (d + LANES - 1) / LANES * LANES;
  std::vector<double> turned(size_t(k * width), 0.0);
  for (int64_t c = 0; c < d; ++c)
    for (int64_t j = 0; j < k; ++j) turned[size_t(j * width + c)] = V[c * k + j];
  run(threads, [&](int part) {
    const int64_t end = rows * (part + 1) / threads;
    int64_t i = rows * part / threads;
    auto all = [&](auto one) {
      for (int64_t j = 0; j < k; j += COLUMNS) one(j, int(std::min<int64_t>(COLUMNS, k - j)), &turned[size_t(j * width)]);
    };
    for (; i + 4 <= end; i += 4)
      all([&](int64_t j, int n, const double* v) { tile<4>(a + i * stride, stride, d, v, width, n, j == 0, out + i * k + j, k); });
    for (; i < end; ++i)
      all([&](int64_t j, int n, const double* v) { tile<1>(a + i * stride, stride, d, v, width, n, j == 0, out + i * k + j, k); });
  });
}

}  // namespace

// a as for gy_scatter; V (d, k); out (rows, k)
GY_EXPORT int gy_times(int wide, const void* a, int64_t stride, int64_t rows, int64_t d, const double* V, int64_t k, int threads,
                       double* out) {
  try {
    if (wide)
      times((const double*)a, stride, rows, d, V, k, threads, out);
    else
      times((const float*)a, stride, rows, d, V, k, threads, out);
  } catch (const std::exception&) {
    return 1;
  }
  return 0;
}
