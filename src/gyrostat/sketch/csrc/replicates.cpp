// The leading eigenpairs of X' diag(w_b) X for bootstrap replicates b, where w_b counts how often each row of X was drawn.
//
// A vector holds the same entry of as many replicates as it has lanes. Cyclic Jacobi rotations: two sweeps over all pairs,
// then over those with a wanted row, for as long as the wanted rows are not zero off the diagonal; where the rest cannot be
// shown to hold only smaller eigenvalues, sweeps over all pairs to the end.
#include <algorithm>
#include <cmath>
#include <exception>
#include <vector>

#include "lanes.h"
#include "team.h"

#define GY_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr int SWEEPS = 40;
constexpr int TILE = 12;  // pairs of columns whose sums stay in registers, for SIDE vectors of replicates
#if defined(__AVX512F__)
constexpr int SIDE = 2;
#else
constexpr int SIDE = 1;
#endif

GY_INLINE Lanes root(Lanes v) {
#if defined(__AVX512F__)
  return (Lanes)_mm512_sqrt_pd((__m512d)v);
#else
  for (int l = 0; l < LANES; ++l) v[l] = __builtin_sqrt(v[l]);
  return v;
#endif
}

GY_INLINE Lanes magnitude(Lanes v) { return v < 0 ? -v : v; }

template <class Mask> GY_INLINE bool any(Mask mask) {
  bool found = false;
  for (int l = 0; l < LANES; ++l) found |= mask[l] != 0;
  return found;
}

// as many replicates as a vector has lanes
class Batch {
 public:
  // G (r, r): the upper triangles, which it turns; Q (r, r): room for the vectors
  Batch(int64_t r, int64_t k, Lanes* G, Lanes* Q) : r_(r), k_(k), G_(G), Q_(Q) {}

  void solve(int64_t count, double* values, double* vectors) {
    const Lanes zero{};
    std::fill(Q_, Q_ + r_ * r_, zero);
    for (int64_t i = 0; i < r_; ++i) Q_[i * r_ + i] = zero + 1;
    for (int sweep = 0; sweep < SWEEPS && rotate(sweep < 2 ? r_ : k_); ++sweep) {
    }
    if (!leads())
      for (int sweep = 0; sweep < SWEEPS && rotate(r_); ++sweep) {
      }
    const bool whole = !leads();
    std::vector<int64_t> order(whole ? r_ : k_);
    for (int64_t l = 0; l < count; ++l) {
      for (size_t i = 0; i < order.size(); ++i) order[i] = int64_t(i);
      std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return at(a, a)[l] > at(b, b)[l]; });
      for (int64_t j = 0; j < k_; ++j) {
        values[l * k_ + j] = at(order[j], order[j])[l];
        for (int64_t i = 0; i < r_; ++i) vectors[(l * r_ + i) * k_ + j] = Q_[order[j] * r_ + i][l];
      }
    }
  }

 private:
  const int64_t r_, k_;
  Lanes *G_, *Q_;  // rows of Q are eigenvectors

  Lanes& at(int64_t i, int64_t j) { return G_[i * r_ + j]; }

  // one sweep over the pairs (p, q), p < q and p < rows; whether any was turned
  bool rotate(int64_t rows) {
    bool turned = false;
    Lanes top{};
    for (int64_t i = 0; i < r_; ++i) {
      const Lanes x = magnitude(at(i, i));
      top = x > top ? x : top;
    }
    const Lanes least = 1e-36 * top * top;
    for (int64_t p = 0; p < std::min(rows, r_ - 1); ++p)
      for (int64_t q = p + 1; q < r_; ++q) {
        const Lanes app = at(p, p), aqq = at(q, q), apq = at(p, q);
        if (!any(apq * apq > 1e-28 * magnitude(app * aqq) + least)) continue;
        turned = true;
        const Lanes gap = aqq - app, twice = 2 * apq;
        const Lanes t = (gap < 0 ? -twice : twice) / (magnitude(gap) + root(gap * gap + twice * twice) + 1e-300);
        const Lanes c = 1 / root(1 + t * t), s = t * c;
        at(p, p) = app - t * apq;
        at(q, q) = aqq + t * apq;
        at(p, q) = Lanes{};
        auto turn = [&](Lanes& x, Lanes& y) __attribute__((always_inline)) {
          const Lanes a = x, b = y;
          x = c * a - s * b;
          y = s * a + c * b;
        };
        for (int64_t i = 0; i < p; ++i) turn(at(i, p), at(i, q));
        for (int64_t i = p + 1; i < q; ++i) turn(at(p, i), at(i, q));
        for (int64_t i = q + 1; i < r_; ++i) turn(at(p, i), at(q, i));
        for (int64_t i = 0; i < r_; ++i) turn(Q_[p * r_ + i], Q_[q * r_ + i]);
      }
    return turned;
  }

  // whether the first k are the k largest: by Gershgorin's circles of the rest
  bool leads() {
    if (k_ == r_) return true;
    Lanes lowest = at(0, 0);
    for (int64_t j = 1; j < k_; ++j) lowest = at(j, j) < lowest ? at(j, j) : lowest;
    for (int64_t i = k_; i < r_; ++i) {
      Lanes reach = at(i, i);
      for (int64_t j = k_; j < i; ++j) reach += magnitude(at(j, i));
      for (int64_t j = i + 1; j < r_; ++j) reach += magnitude(at(i, j));
      if (any(reach > lowest)) return false;
    }
    return true;
  }
};

// sums over the rows of products of columns, tile (t, TILE), with weights w (SIDE, t)
template <int N> void weigh(int64_t t, const double* tile, const Lanes* w, Lanes (*out)[TILE]) {
  Lanes sum[N][TILE] = {};
  for (int64_t i = 0; i < t; ++i)
    for (int u = 0; u < TILE; ++u)
      for (int b = 0; b < N; ++b) sum[b][u] += tile[i * TILE + u] * w[b * t + i];
  std::memcpy(out, sum, sizeof sum);
}

// the upper triangles of middle + factor (X' diag(w_b) X - middle) for `batches` vectors of replicates, weights w (batches, t)
void gram(int64_t t, int64_t r, int64_t batches, const double* X, const double* middle, const double* factor, const Lanes* w,
          Lanes* G) {
  std::vector<double> tile(size_t(t * TILE));
  int64_t row[TILE], column[TILE], p = 0, q = 0;
  while (p < r) {
    int width = 0;
    for (; width < TILE && p < r; ++width) {
      row[width] = p;
      column[width] = q;
      if (++q == r) q = ++p;
    }
    for (int u = width; u < TILE; ++u) row[u] = column[u] = r - 1;
    for (int64_t i = 0; i < t; ++i)
      for (int u = 0; u < TILE; ++u) tile[size_t(i * TILE + u)] = X[i * r + row[u]] * X[i * r + column[u]];
    for (int64_t b = 0; b < batches; b += SIDE) {
      Lanes sum[SIDE][TILE];
      const int64_t several = std::min<int64_t>(SIDE, batches - b);
      if (several == SIDE)
        weigh<SIDE>(t, tile.data(), w + b * t, sum);
      else
        weigh<1>(t, tile.data(), w + b * t, sum);
      for (int64_t side = 0; side < several; ++side)
        for (int u = 0; u < width; ++u) {
          const int64_t at = row[u] * r + column[u];
          G[(b + side) * r * r + at] = middle[at] + factor[at] * (sum[side][u] - middle[at]);
        }
    }
  }
}

void replicates(int64_t t, int64_t r, int64_t k, int64_t count, int threads, const double* X, const double* middle,
                const double* factor, const int64_t* draws, double* values, double* vectors) {
  const int64_t all = (count + LANES - 1) / LANES;
  run(threads, [&](int part) {
    const int64_t first = all * part / threads, batches = all * (part + 1) / threads - first;
    std::vector<Lanes> w(size_t(batches * t)), G(size_t(batches * r * r)), Q(size_t(r * r));
    const int64_t low = first * LANES, high = std::min(count, low + batches * LANES);
    for (int64_t c = low; c < high; ++c)
      for (int64_t i = 0; i < t; ++i) w[size_t((c - low) / LANES * t + draws[c * t + i])][(c - low) % LANES] += 1;
    gram(t, r, batches, X, middle, factor, w.data(), G.data());
    for (int64_t b = 0; b < batches; ++b) {
      const int64_t c = low + b * LANES;
      Batch(r, k, &G[size_t(b * r * r)], Q.data()).solve(std::min<int64_t>(LANES, high - c), values + c * k, vectors + c * r * k);
    }
  });
}

}  // namespace

// X (t, r), middle = X'X and factor (r, r): the replicate is middle + factor (X' diag(w) X - middle); draws (count, t);
// values (count, k), largest first; vectors (count, r, k)
GY_EXPORT int gy_replicates(int64_t t, int64_t r, int64_t k, int64_t count, int threads, const double* X, const double* middle,
                            const double* factor, const int64_t* draws, double* values, double* vectors) {
  try {
    replicates(t, r, k, count, threads, X, middle, factor, draws, values, vectors);
  } catch (const std::exception&) {
    return 1;
  }
  return 0;
}
