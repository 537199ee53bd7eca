// Products in bfloat16 with float32 sums: the weights once rounded, or split into two bfloat16 numbers, in pairs of rows as
// the matrix units of processors read them; the rows of states are rounded when they come. Everything else stays float32.
// One term: a w.  Three: a = a1 + a2, w = w1 + w2, and a w = a2 w1 + a1 w2 + a1 w1 but for a2 w2.
// Two engines share the layout: TILES (AMX: 16 rows, 16 columns and 32 inner indices at once) and VECTORS (vdpbf16ps).
#pragma once
#include <stdexcept>

#include "mm.h"

#if defined(GY_EMULATED_TILES)
#include GY_EMULATED_TILES  // the tile instructions in plain C++, for tests on processors without them
#endif
#if defined(__AMX_BF16__) || defined(__AMXBF16__) || defined(GY_EMULATED_TILES)  // older clang has the second name
#define GY_TILES
#endif

namespace gy {

static_assert(Simd<float>::lanes == 16, "a tile has 16 columns");

struct Bf16 {
  const uint16_t *high, *low;  // low: none with one term
};

GY_INLINE uint16_t bf16_of(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  const uint32_t exponent = u & 0x7f800000u;
  if (!exponent) return uint16_t(u >> 16 & 0x8000);  // as the instructions do: denormals are zero
  if (exponent == 0x7f800000u) return uint16_t(u >> 16 | ((u & 0x7fffffu) ? 0x40 : 0));
  return uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

// n numbers rounded, zeros up to `room`; low gets what rounding took away, nothing where it is not finite
inline void split(const float* from, int n, int room, uint16_t* high, uint16_t* low) {
  for (int k = 0; k < room; k += 16) {
    const Vec<float> x = k < n ? load(from + k, n - k) : Vec<float>{};
#if defined(__AVX512BF16__)
    const __m256i h = (__m256i)_mm512_cvtneps_pbh((__m512)x);
    _mm256_storeu_si256((__m256i*)(high + k), h);
    if (!low) continue;
    const Vec<float> back = (Vec<float>)_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16);
    const Vec<float> rest = back - back == 0.f ? x - back : Vec<float>{};
    _mm256_storeu_si256((__m256i*)(low + k), (__m256i)_mm512_cvtneps_pbh((__m512)rest));
#else
    for (int i = 0; i < 16; ++i) {
      high[k + i] = bf16_of(x[i]);
      const uint32_t bits = uint32_t(high[k + i]) << 16;
      float back;
      std::memcpy(&back, &bits, 4);
      if (low) low[k + i] = back - back == 0.f ? bf16_of(x[i] - back) : 0;
    }
#endif
  }
}

enum Engine { VECTORS, TILES };

// Weights as Panels has them, two rows of the inner index in one vector: [panel][pair][V] vectors of 16 pairs.
struct Pairs : Panels<float> {
  static constexpr int tile = 16, inner = 32;  // rows or columns of a tile, and its inner indices
  const Engine engine;
  const int terms;
  int room = 0, block = 0;  // inner indices with their padding; rows of one call of a kernel
  Buffer<Vec<float>> words[2];

  Pairs(Engine e, int t) : engine(e), terms(t) {}

  void shape(int parts_, int K_, int N_, int usual, int beside = 1) {
    Panels<float>::shape(parts_, K_, N_, usual, beside);
    if (engine == TILES) {
      // four sums at once hide the latency of the unit: of two blocks of rows, or, with few rows, of more columns
      G = std::max(1, (usual > tile ? 2 : 4) / parts);
      while (vectors(N) % G) --G;
      V = parts * G, count = vectors(N) / G;
      rows = std::min(rows_of(V), rows_of(beside * G));
    }
    block = engine == VECTORS ? rows : V > 2 ? tile : 2 * tile;
    room = (K + inner - 1) / inner * inner;
  }

  void pack(const Part<float>* from) {
    Buffer<uint16_t> row[2];
    for (int s = 0; s < (terms > 1 ? 2 : 1); ++s) {
      row[s].resize(room);
      words[s].zero(size_t(count) * (room / 2) * V);
    }
    for (int p = 0; p < parts; ++p)
      for (int c = 0; c < N; ++c) {
        if (from[p].of_row != 1) throw std::logic_error("rows of weights are contiguous in a forward pass");
        split(from[p].data + c * from[p].of_column, K, room, row[0].get(), row[1].get());
        const int column = c / tile, v = p * G + column % G;
        for (int s = 0; s < (terms > 1 ? 2 : 1); ++s) {
          uint32_t* to = (uint32_t*)(words[s].get() + size_t(column / G) * (room / 2) * V + v) + c % tile;
          for (int k = 0; k < room / 2; ++k) std::memcpy(to + size_t(k) * V * tile, row[s].get() + 2 * k, 4);
        }
      }
  }
  const Vec<float>* panel(int j, bool low) const { return words[low].get() + size_t(j) * (room / 2) * V; }
  int padded(int n) const { return engine == TILES && n > tile ? (n + tile - 1) / tile * tile : n; }

  // what each term takes: the small ones first
  struct Term {
    const uint16_t* a;
    const Vec<float>* w;
  };
  int terms_of(const Bf16& a, int first, int j, Term* found) const {
    const size_t at = size_t(first) * room;
    if (terms > 1) found[0] = {a.low + at, panel(j, false)}, found[1] = {a.high + at, panel(j, true)};
    found[terms - 1] = {a.high + at, panel(j, false)};
    return terms;
  }

  // The mode of a thread while it multiplies n rows at a time.
  class Session {
#if defined(GY_TILES)
   public:
    Session(const Pairs& w, int n) : tiles(w.engine == TILES) {
      if (!tiles) return;
      struct alignas(64) {
        uint8_t palette = 1, start = 0, reserved[14] = {};
        uint16_t bytes[16] = {};
        uint8_t rows[16] = {};
      } config;
      const int m = std::min(n, tile);
      for (int t = 0; t < 8; ++t) config.bytes[t] = 64, config.rows[t] = uint8_t(t < 6 ? m : tile);
      asm volatile("" ::"r"(&config) : "memory");  // some compilers believe that only its first bytes are read
      _tile_loadconfig(&config);
    }
    ~Session() {
      if (tiles) _tile_release();
    }
    Session(const Session&) = delete;

   private:
    const bool tiles;
#else
   public:
    Session(const Pairs&, int) {}
#endif
  };
};

template <class F, size_t... i> GY_INLINE void unrolled(std::index_sequence<i...>, F&& f) {
  (f(std::integral_constant<int, int(i)>{}), ...);
}

#if defined(GY_TILES)
// Tiles 0..3 are sums, 4 and 5 rows, 6 and 7 weights. The names of tiles are part of an instruction.
#define GY_IF(t, n, call) \
  if constexpr (t == n) call
template <int t> GY_INLINE void tile_zero() {
  GY_IF(t, 0, _tile_zero(0));
  GY_IF(t, 1, _tile_zero(1));
  GY_IF(t, 2, _tile_zero(2));
  GY_IF(t, 3, _tile_zero(3));
}
template <int t> GY_INLINE void tile_store(void* to, long stride) {
  GY_IF(t, 0, _tile_stored(0, to, stride));
  GY_IF(t, 1, _tile_stored(1, to, stride));
  GY_IF(t, 2, _tile_stored(2, to, stride));
  GY_IF(t, 3, _tile_stored(3, to, stride));
}
template <int t> GY_INLINE void tile_load(const void* from, long stride) {
  GY_IF(t, 4, _tile_loadd(4, from, stride));
  GY_IF(t, 5, _tile_loadd(5, from, stride));
  GY_IF(t, 6, _tile_loadd(6, from, stride));
  GY_IF(t, 7, _tile_loadd(7, from, stride));
}
#define GY_PRODUCT(c)                                             \
  GY_IF(8 * a + b, 8 * 4 + 6, GY_IF(t, c, _tile_dpbf16ps(c, 4, 6))); \
  GY_IF(8 * a + b, 8 * 4 + 7, GY_IF(t, c, _tile_dpbf16ps(c, 4, 7))); \
  GY_IF(8 * a + b, 8 * 5 + 6, GY_IF(t, c, _tile_dpbf16ps(c, 5, 6))); \
  GY_IF(8 * a + b, 8 * 5 + 7, GY_IF(t, c, _tile_dpbf16ps(c, 5, 7)))
template <int t, int a, int b> GY_INLINE void tile_product() {
  GY_PRODUCT(0);
  GY_PRODUCT(1);
  GY_PRODUCT(2);
  GY_PRODUCT(3);
}
#undef GY_PRODUCT
#undef GY_IF

// M blocks of rows (the last may be short) against the V vectors of a panel
template <int M, int V> void tile_kernel(const Pairs& w, const Bf16& a, int first, int j, Vec<float>* acc) {
  using EachM = std::make_index_sequence<M>;
  using EachV = std::make_index_sequence<V>;
  Pairs::Term term[3];
  const int terms = w.terms_of(a, first, j, term);
  const long stride = long(w.room) * 2, of_weights = V * 64, of_sums = V * 64;
  asm volatile("" ::: "memory");  // compilers do not know that a tile is read from memory
  unrolled(std::make_index_sequence<M * V>{}, [](auto t) { tile_zero<t>(); });
  for (int s = 0; s < terms; ++s)
    for (int k = 0; k < w.room; k += Pairs::inner) {
      const uint16_t* rows = term[s].a + k;
      unrolled(EachM{}, [&](auto m) { tile_load<4 + m>(rows + size_t(m) * Pairs::tile * w.room, stride); });
      const Vec<float>* weights = term[s].w + size_t(k / 2) * V;
      unrolled(EachV{}, [&](auto v) {
        tile_load<6 + v % 2>(weights + v, of_weights);
        unrolled(EachM{}, [&](auto m) { tile_product<m * V + v, 4 + m, 6 + v % 2>(); });
      });
    }
  unrolled(EachM{}, [&](auto m) {
    unrolled(EachV{}, [&](auto v) { tile_store<m * V + v>(acc + size_t(m) * Pairs::tile * V + v, of_sums); });
  });
  asm volatile("" ::: "memory");
}

inline void tiles_of(const Pairs& w, const Bf16& a, int first, int R, int j, Vec<float>* acc) {
  const bool two = R > Pairs::tile;
  switch (w.V) {
    case 1: return two ? tile_kernel<2, 1>(w, a, first, j, acc) : tile_kernel<1, 1>(w, a, first, j, acc);
    case 2: return two ? tile_kernel<2, 2>(w, a, first, j, acc) : tile_kernel<1, 2>(w, a, first, j, acc);
    case 3: return tile_kernel<1, 3>(w, a, first, j, acc);
    default: return tile_kernel<1, 4>(w, a, first, j, acc);
  }
}
#else
inline void tiles_of(const Pairs&, const Bf16&, int, int, int, Vec<float>*) { throw std::logic_error("built without tiles"); }
#endif

#if defined(__AVX512BF16__)
template <int R, int V> void vector_kernel(const Pairs& w, const Bf16& a, int first, int j, Vec<float>* acc) {
  Vec<float> c[R][V] = {};
  Pairs::Term term[3];
  const int terms = w.terms_of(a, first, j, term);
  for (int s = 0; s < terms; ++s) {
    const uint16_t* rows = term[s].a;
    const Vec<float>* weights = term[s].w;
    for (int k = 0; k < (w.K + 1) / 2; ++k, rows += 2, weights += V) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        int pair;
        std::memcpy(&pair, rows + size_t(r) * w.room, 4);
        const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) c[r][v] = (Vec<float>)_mm512_dpbf16_ps((__m512)c[r][v], (__m512bh)weights[v], x);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) acc[r * V + v] = c[r][v];
}

template <int V, size_t... r>
void vectors_of(const Pairs& w, const Bf16& a, int first, int R, int j, Vec<float>* acc, std::index_sequence<r...>) {
  constexpr void (*table[])(const Pairs&, const Bf16&, int, int, Vec<float>*) = {vector_kernel<r + 1, V>...};
  table[R - 1](w, a, first, j, acc);
}
inline void vectors_of(const Pairs& w, const Bf16& a, int first, int R, int j, Vec<float>* acc) {
  switch (w.V) {
    case 1: return vectors_of<1>(w, a, first, R, j, acc, std::make_index_sequence<rows_of(1)>{});
    case 2: return vectors_of<2>(w, a, first, R, j, acc, std::make_index_sequence<rows_of(2)>{});
    case 3: return vectors_of<3>(w, a, first, R, j, acc, std::make_index_sequence<rows_of(3)>{});
    case 4: return vectors_of<4>(w, a, first, R, j, acc, std::make_index_sequence<rows_of(4)>{});
    case 6: return vectors_of<6>(w, a, first, R, j, acc, std::make_index_sequence<rows_of(6)>{});
    default: return vectors_of<8>(w, a, first, R, j, acc, std::make_index_sequence<rows_of(8)>{});
  }
}
#else
inline void vectors_of(const Pairs&, const Bf16&, int, int, int, Vec<float>*) { throw std::logic_error("built without vdpbf16ps"); }
#endif

// As for Panels, but what the sums start from is added at the end. The epilogue gets the sums of a block in pieces of as
// many rows as the product with the input takes.
template <class Start, class Epilogue>
GY_INLINE void product(const Pairs& w, const Rows<float>& a, int n, Start&& start, Epilogue&& epilogue) {
  static thread_local Buffer<uint16_t> scratch;
  const size_t size = size_t(w.padded(n)) * w.room;
  scratch.resize(2 * size);
  uint16_t *high = scratch.get(), *low = w.terms > 1 ? high + size : nullptr;
  for (int r = 0; r < n; ++r)
    split(a.data + r * a.stride, w.K, w.room, high + size_t(r) * w.room, low ? low + size_t(r) * w.room : nullptr);
  const Bf16 rows = {high, low};
  const int blocks = (n + w.block - 1) / w.block;
  alignas(64) Vec<float> acc[MOST], begin[MOST];
  for (int j = 0; j < w.count; ++j)
    for (int b = 0; b < blocks; ++b) {
      const bool tiles = w.engine == TILES;  // blocks of tiles are whole, those of vectors alike
      const int first = tiles ? b * w.block : int(long(n) * b / blocks);
      const int R = tiles ? std::min(w.block, n - first) : int(long(n) * (b + 1) / blocks) - first;
      tiles ? tiles_of(w, rows, first, R, j, acc) : vectors_of(w, rows, first, R, j, acc);
      for (int r = 0; r < R; r += w.rows) {
        const int rows_here = std::min(w.rows, R - r);
        Vec<float>* const sums = acc + size_t(r) * w.V;
        start(j, first + r, rows_here, begin);
        for (int i = 0; i < rows_here * w.V; ++i) sums[i] += begin[i];
        epilogue(j, first + r, rows_here, sums);
      }
    }
}

}  // namespace gy
