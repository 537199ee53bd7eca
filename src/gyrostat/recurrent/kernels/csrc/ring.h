// Weight gradients: dW[out][in] = sum over rows of d[row][out] in[row][in]. The rows of some steps are collected while they
// are hot and multiplied at once; every thread has a sum of its own, and the sums are added in the order of the threads.
#pragma once
#include "mm.h"

namespace gy {

template <class T> class Ring {
 public:
  static constexpr int vectors = GY_REGISTERS == 32 ? 2 : 1, width = vectors * Simd<T>::lanes, strip = 8;

  void shape(int rows, int64_t steps, int parts_, int H_, std::initializer_list<int> sources) {
    step = rows, H = H_, parts = parts_;
    capacity = rows * int(std::min<int64_t>(steps, std::max(1, 192 / std::max(1, rows))));
    tiles = (Panels<T>::vectors(H) + vectors - 1) / vectors;
    out.zero(size_t(parts) * tiles * capacity * width);
    source_count = 0;
    for (int K : sources) {
      Source& s = source[source_count++];
      s.K = K, s.strips = (K + strip - 1) / strip;
      s.data.zero(size_t(s.strips) * capacity * strip);
    }
  }
  // room for one more step; `full` is called when there was none
  template <class Full> void next(int rows, Full&& full) {
    if (filled + rows > capacity) {
      full();
      filled = 0;
    }
    base = filled;
    filled += rows;
  }
  bool empty() const { return filled == 0; }
  void clear() { filled = 0; }

  // where the gradient of one vector of outputs of this step goes
  T* at(int part, int column, int row) const {
    const int tile = part * tiles + column / vectors;
    return out.get() + (size_t(tile) * capacity + base + row) * width + column % vectors * Simd<T>::lanes;
  }
  // from there on the other columns of the row stand at within(column, tile())
  long tile() const { return long(capacity) * width; }
  int tiles_of_part() const { return tiles; }
  static size_t within(int column, long tile) { return column / vectors * tile + column % vectors * Simd<T>::lanes; }
  // the outputs of this step from `part` on, as rows of a product
  Rows<T> rows(int part) const {
    return {out.get() + (size_t(part) * tiles * capacity + base) * width, width, width, long(capacity) * width};
  }
  int padded() const { return tiles * width; }
  static int padded_to(int H) { return (H + width - 1) / width * width; }

  void input(int s, const T* from, long stride, int rows) {
    const Source& to = source[s];
    for (int r = 0; r < rows; ++r, from += stride) {
      T* p = to.data.get() + size_t(base + r) * strip;
      int k = 0;
      for (; k + strip <= to.K; k += strip, p += size_t(capacity) * strip) std::memcpy(p, from + k, strip * sizeof(T));
      for (int i = 0; k + i < to.K; ++i) p[i] = from[k + i];
    }
  }

  size_t room(int s, int count) const { return size_t(count) * tiles * source[s].strips * strip * width; }

  // sum[tile][in][lane] += rows of parts p..p+count-1 against source s
  void add(int s, int p, int count, T* sum) const {
    const Source& in = source[s];
    for (int tile = p * tiles; tile < (p + count) * tiles; ++tile)
      for (int b = 0; b < in.strips; ++b, sum += strip * width) {
        const T* a = in.data.get() + size_t(b) * capacity * strip;
        const Vec<T>* d = (const Vec<T>*)(out.get() + size_t(tile) * capacity * width);
        const int live = in.K - b * strip;
        live > 4 ? update<strip>(a, d, sum) : live > 1 ? update<4>(a, d, sum) : update<1>(a, d, sum);
      }
  }
  void add_ones(int p, int count, T* sum) const {
    for (int tile = p * tiles; tile < (p + count) * tiles; ++tile, sum += width) {
      const Vec<T>* d = (const Vec<T>*)(out.get() + size_t(tile) * capacity * width);
      Vec<T> c[vectors] = {};
      for (int r = 0; r < filled; ++r, d += vectors)
        for (int v = 0; v < vectors; ++v) c[v] += d[v];
      for (int v = 0; v < vectors; ++v) store(sum + v * Simd<T>::lanes, load(sum + v * Simd<T>::lanes) + c[v]);
    }
  }
  size_t ones_room(int count) const { return size_t(count) * padded(); }

  // to[out][in] = the sums of all threads, in their order
  void write(int s, int count, const std::vector<const T*>& sums, T* to) const {
    const int K = source[s].K, inner = source[s].strips * strip;
    for (int p = 0; p < count; ++p)
      for (int tile = 0; tile < tiles; ++tile)
        for (int l = 0; l < width && tile * width + l < H; ++l) {
          T* row = to + (size_t(p) * H + tile * width + l) * K;
          const size_t from = (size_t(p) * tiles + tile) * inner * width + l;
          for (int k = 0; k < K; ++k) {
            T total = 0;
            for (const T* sum : sums) total += sum[from + size_t(k) * width];
            row[k] = total;
          }
        }
  }
  void write_ones(int count, const std::vector<const T*>& sums, T* to) const {
    for (int p = 0; p < count; ++p)
      for (int i = 0; i < H; ++i) {
        T total = 0;
        for (const T* sum : sums) total += sum[size_t(p) * padded() + i];
        to[size_t(p) * H + i] = total;
      }
  }

 private:
  struct Source {
    int K = 0, strips = 0;
    Buffer<T> data;  // [strip][capacity][8]
  };
  int step = 0, H = 0, parts = 0, capacity = 0, tiles = 0, filled = 0, base = 0, source_count = 0;
  Source source[3];
  Buffer<T> out;  // [part][tile][capacity][width]

  // inputs: those of the strip that exist, or a few more
  template <int inputs> GY_APART void update(const T* a, const Vec<T>* d, T* sum) const {
    Vec<T> c[inputs][vectors] = {};
    for (int r = 0; r < filled; ++r, a += strip, d += vectors)
#pragma GCC unroll 8
      for (int i = 0; i < inputs; ++i) {
        const Vec<T> s = splat<T>(a[i]);
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) c[i][v] += s * d[v];
      }
    for (int i = 0; i < inputs; ++i)
      for (int v = 0; v < vectors; ++v) {
        T* p = sum + i * width + v * Simd<T>::lanes;
        store(p, load(p) + c[i][v]);
      }
  }
};

}  // namespace gy
