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

#define GY_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr int SWEEPS = 40;
constexpr int TILE = 12;  // pairs of columns whose sums stay in registers

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

class Batch {
 public:
  Batch(int64_t t, int64_t r, int64_t k, const double* pairs, const double* middle, const double* factor)
      : t_(t), r_(r), k_(k), pairs_(pairs), middle_(middle), factor_(factor), G_(r * r), Q_(r * r), w_(t) {}

  // `count` replicates, at most LANES, from their draws (count, t)
  void solve(const int64_t* draws, int64_t count, double* values, double* vectors) {
    gram(draws, count);
    const Lanes zero{};
    std::fill(Q_.begin(), Q_.end(), zero);
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
  const int64_t t_, r_, k_;
  const double *pairs_, *middle_, *factor_;
  std::vector<Lanes> G_, Q_, w_;  // G: upper triangle; rows of Q are eigenvectors

  Lanes& at(int64_t i, int64_t j) { return G_[i * r_ + j]; }

  void gram(const int64_t* draws, int64_t count) {
    std::fill(w_.begin(), w_.end(), Lanes{});
    for (int64_t l = 0; l < count; ++l)
      for (int64_t i = 0; i < t_; ++i) w_[draws[l * t_ + i]][l] += 1;
    const int64_t m = r_ * (r_ + 1) / 2;
    int64_t p = 0, q = 0;
    for (int64_t c = 0; c < m; c += TILE) {
      Lanes sum[TILE] = {};
      const int width = int(std::min<int64_t>(TILE, m - c));
      // pairs are padded to whole tiles: (tiles, t, TILE)
      const double* tile = pairs_ + c * t_;
      for (int64_t i = 0; i < t_; ++i)
        for (int u = 0; u < TILE; ++u) sum[u] += tile[i * TILE + u] * w_[i];
      for (int u = 0; u < width; ++u) {
        const double mean = middle_[p * r_ + q], f = factor_[p * r_ + q];
        at(p, q) = mean + f * (sum[u] - mean);
        if (++q == r_) q = ++p;
      }
    }
  }

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
        if (!any(apq * apq > 1e-32 * magnitude(app * aqq) + least)) continue;
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

void replicates(int64_t t, int64_t r, int64_t k, int64_t count, const double* X, const double* middle, const double* factor,
                const int64_t* draws, double* values, double* vectors) {
  const int64_t m = r * (r + 1) / 2, tiles = (m + TILE - 1) / TILE;
  std::vector<double> pairs(size_t(tiles * TILE * t));
  int64_t c = 0;
  for (int64_t p = 0; p < r; ++p)
    for (int64_t q = p; q < r; ++q, ++c) {
      double* to = &pairs[size_t(c / TILE * TILE * t + c % TILE)];
      for (int64_t i = 0; i < t; ++i) to[i * TILE] = X[i * r + p] * X[i * r + q];
    }
  Batch batch(t, r, k, pairs.data(), middle, factor);
  for (int64_t first = 0; first < count; first += LANES)
    batch.solve(draws + first * t, std::min<int64_t>(LANES, count - first), values + first * k, vectors + first * r * k);
}

}  // namespace

// X (t, r), middle = X'X and factor (r, r): the replicate is middle + factor (X' diag(w) X - middle); draws (count, t);
// values (count, k), largest first; vectors (count, r, k)
GY_EXPORT int gy_replicates(int64_t t, int64_t r, int64_t k, int64_t count, const double* X, const double* middle,
                            const double* factor, const int64_t* draws, double* values, double* vectors) {
  try {
    replicates(t, r, k, count, X, middle, factor, draws, values, vectors);
  } catch (const std::exception&) {
    return 1;
  }
  return 0;
}
