// Products of rows with packed weights: acc[R][V] += a[R][K] w[K][V], the accumulators in registers for all of K.
// Each output is one chain of additions in the order of K, so a result depends neither on the rows that share a block,
// nor on the width of the vectors, nor on who computes it.
#pragma once
#include <algorithm>
#include <utility>

#include "pool.h"
#include "simd.h"

namespace gy {

// Rows as one matrix, or as column blocks of `width` that lie `next` apart: the layout of the gradient ring.
template <class T> struct Rows {
  const T* data;
  long stride;    // from row to row
  int width = 0;  // columns of a block; 0: all columns in one
  long next = 0;
};

// What will be read after a product, fetched while it computes and leaves the memory alone: so many bytes of each area, a
// few with each turn of the inner loops of these products. Few rows come in time by themselves.
class Ahead {
 public:
  Ahead(int rows, size_t bytes) : few(rows < 16), each(rows * bytes) {}
  void add(const void* area) { areas[count++] = (const char*)area; }
  // over so many turns; a quarter more in each, since no call of a product goes on to the next area
  void spread(size_t turns) { pace = int(std::min<size_t>(64, count * each * 5 / 4 / std::max<size_t>(1, turns) + 1)); }
  // where the next K turns fetch, `pace` bytes apart; nullptr when everything is on its way
  const char* next(int K) {
    if (few || now == count) return nullptr;
    const char* from = areas[now] + done;
    done += size_t(K) * pace;
    if (done >= each) ++now, done = 0;
    return from;
  }
  int pace = 0;

 private:
  const bool few;
  const char* areas[8];
  int count = 0, now = 0;
  size_t each, done = 0;
};

// fresh: from zero, otherwise from what `out` holds. fetches: an address in each turn, `pace` bytes apart.
template <class T, bool fresh, bool fetches, int R, int V>
GY_APART void mm(const Rows<T>& a, int first, int K, const Vec<T>* w, Vec<T>* out, const char* ahead, int pace) {
  Vec<T> c[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) c[r][v] = fresh ? Vec<T>{} : out[r * V + v];
  const int width = a.width ? a.width : K;
  const long lda = a.stride;
  const T* block = a.data + first * lda;
  for (int done = 0; done < K; done += width, block += a.next) {
    const int n = std::min(width, K - done);
    for (int k = 0; k < n; ++k, w += V) {
      if (fetches) __builtin_prefetch(ahead), ahead += pace;
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Vec<T> s = splat<T>(block[r * lda + k]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) c[r][v] += s * w[v];
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) out[r * V + v] = c[r][v];
}

// Rows of a block for V vectors: as many accumulators as registers, less the weights and one broadcast.
constexpr int rows_of(int V) { return std::max(1, std::min(8, (GY_REGISTERS - 1 - V) / V)); }

template <class T> using Mm = void (*)(const Rows<T>&, int, int, const Vec<T>*, Vec<T>*, const char*, int);

template <class T, bool fresh, bool fetches, int V, size_t... r> constexpr Mm<T> pick(int R, std::index_sequence<r...>) {
  constexpr Mm<T> table[] = {mm<T, fresh, fetches, r + 1, V>...};
  return table[R - 1];
}

template <class T, bool fresh, bool fetches = false> Mm<T> mm_of(int R, int V) {
  switch (V) {
    case 1: return pick<T, fresh, fetches, 1>(R, std::make_index_sequence<rows_of(1)>{});
    case 2: return pick<T, fresh, fetches, 2>(R, std::make_index_sequence<rows_of(2)>{});
    case 3: return pick<T, fresh, fetches, 3>(R, std::make_index_sequence<rows_of(3)>{});
    case 4: return pick<T, fresh, fetches, 4>(R, std::make_index_sequence<rows_of(4)>{});
    case 6: return pick<T, fresh, fetches, 6>(R, std::make_index_sequence<rows_of(6)>{});
    default: return pick<T, fresh, fetches, 8>(R, std::make_index_sequence<rows_of(8)>{});
  }
}

constexpr int MOST = 8 * 8;  // accumulators of the largest block

// Where the weights of one part of a product stand: element (column c, row k) at data[c * of_column + k * of_row].
template <class T> struct Part {
  const T* data;
  long of_column, of_row;
};

// The weights of `parts` products of the same rows, so packed that G vectors of each part are one panel.
template <class T> struct Panels {
  int parts = 0, G = 1, V = 0, K = 0, N = 0, count = 0, rows = 1;
  Buffer<Vec<T>> data;

  // usual: how many rows a product has; few rows need more vectors to keep the arithmetic units busy. beside: parts of
  // another product that is computed for the same block.
  void shape(int parts_, int K_, int N_, int usual, int beside = 1) {
    parts = parts_, K = K_, N = N_;
    const int columns = vectors(N), widest = std::max(parts, beside);
    const auto fits = [](int v) { return v <= 4 || v == 6 || v == 8; };
    G = std::max(1, (usual <= 2 ? 8 : usual <= 4 ? 4 : GY_REGISTERS == 32 ? 3 : 2) / widest);
    while (columns % G || !fits(parts * G) || !fits(beside * G)) --G;
    V = parts * G;
    count = columns / G;
    rows = std::min(rows_of(V), rows_of(beside * G));
  }
  // the other product: the same columns in the same panels
  void follow(const Panels& first, int parts_, int K_) {
    parts = parts_, K = K_, N = first.N, G = first.G, V = parts * G, count = first.count, rows = first.rows;
  }
  static int vectors(int N) { return (N + Simd<T>::lanes - 1) / Simd<T>::lanes; }

  // the rows of the weights may come in blocks of `width`, filled up to `padded` with zeros (see Rows)
  void pack(const Part<T>* from, int width = 0, int padded = 0) {
    constexpr int L = Simd<T>::lanes;
    if (!width) width = padded = K;
    const int blocks = (K + width - 1) / width;
    data.resize(size_t(count) * blocks * padded * V);
    std::memset(data.get(), 0, data.bytes());
    for (int j = 0; j < count; ++j)
      for (int p = 0; p < parts; ++p)
        for (int g = 0; g < G; ++g) {
          const int c0 = (j * G + g) * L, n = std::min(L, N - c0);
          for (int b = 0; b < blocks; ++b) {
            T* to = (T*)(data.get() + (size_t(j) * blocks + b) * padded * V + p * G + g);
            const int k1 = std::min(width, K - b * width);
            const T* w = from[p].data + c0 * from[p].of_column + long(b) * width * from[p].of_row;
            for (int k = 0; k < k1; ++k)
              for (int l = 0; l < n; ++l) to[size_t(k) * V * L + l] = w[l * from[p].of_column + k * from[p].of_row];
          }
        }
    K = blocks * padded;
  }
  struct Session {
    Session(const Panels&, int) {}  // a thread needs no mode for these products
  };
  const Vec<T>* panel(int j) const { return data.get() + size_t(j) * K * V; }
  int blocks(int n) const { return (n + rows - 1) / rows; }
  size_t turns(int n) const { return size_t(count) * blocks(n) * K; }  // of the inner loop for n rows
};

// All rows against all panels; a panel stays in the first cache while the rows pass. `start` fills the accumulators
// [row][part * G + g] of (panel, first row, rows) where they do not begin at zero; the epilogue reads them.
template <class T, class Start, class Epilogue>
GY_INLINE void product(const Panels<T>& w, const Rows<T>& a, int n, Start&& start, Epilogue&& epilogue, Ahead* ahead = nullptr) {
  constexpr bool fresh = std::is_same<std::decay_t<Start>, std::nullptr_t>::value;
  const int blocks = w.blocks(n), count = w.count, K = w.K, V = w.V;
  alignas(64) Vec<T> acc[MOST];
  for (int j = 0; j < count; ++j)
    for (int b = 0; b < blocks; ++b) {
      const int first = int(long(n) * b / blocks), R = int(long(n) * (b + 1) / blocks) - first;
      if constexpr (!fresh) start(j, first, R, acc);
      const char* const from = ahead ? ahead->next(K) : nullptr;
      // where it was measured; the others do without, because each variant has to be compiled
      constexpr bool can = fresh && sizeof(T) == 4 && GY_REGISTERS == 32;
      (from ? mm_of<T, fresh, can>(R, V) : mm_of<T, fresh>(R, V))(a, first, K, w.panel(j), acc, from, from ? ahead->pace : 0);
      epilogue(j, first, R, acc);
    }
}

template <class T, class Epilogue>
GY_INLINE void product(const Panels<T>& w, const Rows<T>& a, int n, Epilogue&& epilogue, Ahead* ahead = nullptr) {
  product(w, a, n, nullptr, epilogue, ahead);
}

// body(column of vectors, live lanes) for all N outputs of a row; the type of the last says where all lanes live, so that the
// usual case has no branches.
template <class T, class Body> GY_INLINE void each_column(int N, Body&& body) {
  constexpr int L = Simd<T>::lanes;
  const int whole = N / L;
  for (int column = 0; column < whole; ++column) body(column, std::integral_constant<int, L>{});
  if (N % L) body(whole, N % L);
}

// The same for a block of a product: body(row, g, first lane's output, live lanes).
template <class T, class Body> GY_INLINE void each_vector(int G, int N, int j, int first, int R, Body&& body) {
  constexpr int L = Simd<T>::lanes;
  for (int r = first; r < first + R; ++r)
    for (int k = 0; k < G; ++k) {
      const int c = (j * G + k) * L;
      if (c + L <= N)
        body(r, k, c, std::integral_constant<int, L>{});
      else
        body(r, k, c, N - c);
    }
}

// What the accumulators of a block start from: the bias of each part (or null), then the features in order. A row of `to`
// has `lead` vectors before these, of parts that x does not enter: they start at zero.
template <class T>
GY_INLINE void affine(const Panels<T>& w, const T* const* bias, const Rows<T>& x, int j, int first, int R, Vec<T>* to,
                      int lead = 0) {
  const int K = w.K, V = w.V, G = w.G, N = w.N, row = lead + V;
  const long stride = x.stride;
  const Vec<T>* panel = w.panel(j);
  const T* from = x.data + first * stride;
  alignas(64) Vec<T> many[MOST];
  const bool few = K <= 4;  // not worth a call
  Vec<T>* out = few ? to + lead : many;
  const int next = few ? row : V;
  for (int v = 0; v < V; ++v) {
    const int c = (j * G + v % G) * Simd<T>::lanes;
    const T* b = bias[v / G];
    const Vec<T> s = b ? load(b + c, N - c) : Vec<T>{};
    if (few && K) {
      const Vec<T> first_weight = panel[v];
      for (int r = 0; r < R; ++r) out[r * next + v] = s + splat<T>(from[r * stride]) * first_weight;
      for (int k = 1; k < K; ++k)
        for (int r = 0; r < R; ++r) out[r * next + v] += splat<T>(from[r * stride + k]) * panel[k * V + v];
    } else {
      for (int r = 0; r < R; ++r) out[r * next + v] = s;
    }
  }
  if (!few) mm_of<T, false>(R, V)(x, first, K, panel, many, nullptr, 0);
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < lead; ++v) to[r * row + v] = Vec<T>{};
    for (int v = 0; !few && v < V; ++v) to[r * row + lead + v] = many[r * V + v];
  }
}

}  // namespace gy
