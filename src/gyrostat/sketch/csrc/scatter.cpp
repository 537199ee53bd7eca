// sketch[place(i)] += sign(i) a_i for the rows a_i of a block, and |a_i|^2 on the way: A is read once.
//
// Places and signs of the 1024 rows of key block b come from numpy's Philox(counter b), so they are those of the slow twin in
// scatter.py. Even and odd key blocks have a sum each, and rows enter it in their order, one rounding each: neither the cut of
// A into blocks nor the number of threads, at most one for each sum, can change a bit of it. |a_i|^2 is added up in as many
// parts as four vectors have lanes. Complex rows are rows of twice as many reals.
#include <algorithm>
#include <cmath>
#include <exception>

#include "../../_native/cpu.h"
#include "lanes.h"
#include "philox.h"
#include "team.h"

namespace {

constexpr int64_t AHEAD = 8192;  // bytes: what is on its way from memory while a row is added
constexpr int NEAR = 32;         // numbers: the same from the second cache to the first
constexpr int LINES = 5;         // cache lines that memory brings while eight words are drawn

// 2 place + (sign > 0) for the rows of one key block, (1024, places); memory brings what lies at `next` meanwhile
void draw(Philox& random, uint64_t key, int64_t number, int64_t t, int64_t places, const char* next, int32_t* code) {
  const int64_t count = KEY_ROWS * places;
  random.begin(key, uint64_t(number));
  const uint32_t* word = random.first(size_t(2 * count), [&] {
    for (int line = 0; line < LINES; ++line) __builtin_prefetch(next + 64 * line, 0, 2);
    next += 64 * LINES;
  });
  uint32_t doubtful = t == 1;
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t product = uint64_t(word[i]) * uint64_t(t);
    doubtful |= uint32_t(product) < uint32_t(t);
    code[i] = int32_t((product >> 32) << 1 | word[count + i] >> 31);
  }
  if (!doubtful) return;
  // a word may have been refused, which moves all that follow
  size_t at = 0;
  for (int64_t i = 0; i < count; ++i) code[i] = int32_t(random.below(uint32_t(t), at) << 1);
  for (int64_t i = 0; i < count; ++i) code[i] |= int32_t(random.below(2, at));
}

// m += factor a, asking for the same columns of the row at `next`; |a|^2. m is as long as the next multiple of LANES.
template <bool ADDS, class T> GY_INLINE double pass(double* m, const T* a, const T* next, int64_t d, double factor) {
  Lanes sum[4] = {};
  auto step = [&](int64_t c, Lanes x, Lanes& sum) __attribute__((always_inline)) {
    if (ADDS) {
      // what is far off only as near as the sums are, or the two would push each other out
      __builtin_prefetch(next + c, 0, 2);
      __builtin_prefetch(a + c + NEAR);
      keep(m + c, lanes(m + c) + factor * x);
    } else {
      __builtin_prefetch(next + c);
    }
    sum += x * x;
  };
  int64_t c = 0;
  for (; c + 4 * LANES <= d; c += 4 * LANES)
    for (int u = 0; u < 4; ++u) step(c + u * LANES, lanes(a + c + u * LANES), sum[u]);
  for (; c + LANES <= d; c += LANES) step(c, lanes(a + c), sum[0]);
  if (c < d) step(c, lanes(a + c, d - c), sum[1]);
  return total((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

template <class T> int64_t distance(int64_t stride, int64_t d) {
  const int64_t elements = AHEAD / int64_t(sizeof(T));
  return stride <= d ? elements : std::max<int64_t>(1, (elements + d / 2) / d) * stride;
}

template <class T>
void scatter(const T* a, int64_t stride, int64_t rows, int64_t d, int64_t start, uint64_t key, int64_t t, int64_t places,
             int threads, double* sums, int64_t width, double* norms) {
  const int64_t first = start / KEY_ROWS, end = (start + rows - 1) / KEY_ROWS + 1, ahead = distance<T>(stride, d);
  // a table, because nobody can predict a sign
  const double scale = 1 / std::sqrt(double(places)), factor[2] = {-scale, scale};
  run(threads, [&](int part) {
    Philox random;
    std::vector<int32_t> code(size_t(KEY_ROWS * places));
    for (int64_t number = first; number < end; ++number) {
      if (threads > 1 && (number & 1) != part) continue;
      double* sum = sums + (number & 1) * t * width;
      const int64_t low = std::max<int64_t>(0, number * KEY_ROWS - start);
      const int64_t high = std::min(rows, (number + 1) * KEY_ROWS - start);
      draw(random, key, number, t, places, (const char*)(a + low * stride), code.data());
      double all = 0, largest = 0;
      for (int64_t i = low; i < high; ++i) {
        const int32_t* own = &code[size_t((start + i - number * KEY_ROWS) * places)];
        for (int64_t p = 0; p < places; ++p) {
          double* m = sum + int64_t(own[p] >> 1) * width;
          const double norm2 = pass<true>(m, a + i * stride, a + i * stride + ahead, d, factor[own[p] & 1]);
          if (p) continue;
          all += norm2;
          largest = std::max(largest, norm2);
        }
      }
      norms[2 * (number - first)] = all;
      norms[2 * (number - first) + 1] = largest;
    }
  });
}

// the same of the rows of a sparse matrix, stored entries only
template <class Index>
void scatter_sparse(const Index* begin, const Index* column, const double* a, int64_t rows, int64_t start, uint64_t key, int64_t t,
                    int64_t places, double* sums, int64_t width) {
  const double scale = 1 / std::sqrt(double(places)), factor[2] = {-scale, scale};
  Philox random;
  std::vector<int32_t> code(size_t(KEY_ROWS * places));
  for (int64_t number = start / KEY_ROWS; number * KEY_ROWS < start + rows; ++number) {
    double* sum = sums + (number & 1) * t * width;
    const int64_t low = std::max<int64_t>(0, number * KEY_ROWS - start), high = std::min(rows, (number + 1) * KEY_ROWS - start);
    draw(random, key, number, t, places, (const char*)(a + begin[low]), code.data());
    for (int64_t i = low; i < high; ++i) {
      const int32_t* own = &code[size_t((start + i - number * KEY_ROWS) * places)];
      for (int64_t p = 0; p < places; ++p) {
        double* m = sum + int64_t(own[p] >> 1) * width;
        for (int64_t e = begin[i]; e < begin[i + 1]; ++e) m[column[e]] += factor[own[p] & 1] * a[e];
      }
    }
  }
}

template <class T> void norms(const T* a, int64_t stride, int64_t rows, int64_t d, double* energy) {
  const int64_t ahead = distance<T>(stride, d);
  for (int64_t i = 0; i < rows; ++i) energy[i] = pass<false>(nullptr, a + i * stride, a + i * stride + ahead, d, 0.0);
}

}  // namespace

GY_EXPORT int gy_abi_version() { return 7; }

// a (rows, d) of float64 if `wide`, else float32, consecutive rows `stride` elements apart, the first being row `start` of A;
// sums (2, t, width), width a multiple of 8 and at least d; norms (key blocks, 2): sum and largest of |a_i|^2
GY_EXPORT int gy_scatter(int wide, const void* a, int64_t stride, int64_t rows, int64_t d, int64_t start, uint64_t key,
                         int64_t t, int64_t places, int threads, double* sums, int64_t width, double* norms) {
  try {
    if (wide)
      scatter((const double*)a, stride, rows, d, start, key, t, places, threads, sums, width, norms);
    else
      scatter((const float*)a, stride, rows, d, start, key, t, places, threads, sums, width, norms);
  } catch (const std::exception&) {
    return 1;
  }
  return 0;
}

// begin (rows + 1), column and a as scipy's CSR has them, indices of 64 bits if `wide`; sums as above
GY_EXPORT int gy_scatter_sparse(int wide, const void* begin, const void* column, const double* a, int64_t rows, int64_t start,
                                uint64_t key, int64_t t, int64_t places, double* sums, int64_t width) {
  try {
    if (wide)
      scatter_sparse((const int64_t*)begin, (const int64_t*)column, a, rows, start, key, t, places, sums, width);
    else
      scatter_sparse((const int32_t*)begin, (const int32_t*)column, a, rows, start, key, t, places, sums, width);
  } catch (const std::exception&) {
    return 1;
  }
  return 0;
}

GY_EXPORT void gy_norms(int wide, const void* a, int64_t stride, int64_t rows, int64_t d, double* energy) {
  if (wide)
    norms((const double*)a, stride, rows, d, energy);
  else
    norms((const float*)a, stride, rows, d, energy);
}
