// The leading eigenpairs of X' diag(w_b) X for bootstrap replicates b, where w_b counts how often each row of X was drawn, and
// what the error bars need of them. A vector holds the same entry of as many replicates as it has lanes.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <stdexcept>
#include <vector>

#include "eigen.h"
#include "lanes.h"
#include "pcg.h"
#include "team.h"

#define GY_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr int TILE = 12;  // pairs of columns whose sums stay in registers, for SIDE vectors of replicates
#if defined(__AVX512F__)
constexpr int SIDE = 2;
#else
constexpr int SIDE = 1;
#endif

constexpr size_t KEPT = size_t(4) << 20;  // bytes

struct Given {
  int64_t t, r, k, count;
  const double* X;  // (t, r)
  bool scattered;   // deviations are scaled, entry by entry, to what gaussian rows have
  double factor;    // else by this
  const int64_t* draws;      // (count, t), or null:
  const uint64_t* generator;  // what draws them
  const double* weights;
};

// kept from call to call by each thread, because fresh memory costs as much as what is done in it
struct Room {
  std::vector<HalfLanes> w;
  std::vector<Lanes> G;
  std::vector<double> products;
  Eigen eigen;

  static Room& own() {
    static thread_local Room room;
    return room;
  }
  // whatever is larger than most calls need goes back
  void leave() {
    if ((w.size() / 2 + G.size()) * sizeof(Lanes) > KEPT) *this = Room();
  }
};

struct Found {
  double *values, *overlap, *length, *excess, *vectors;
};

// the columns of X, scaled by a power of two to entries of at most 1, each beginning `stride` further
struct Columns {
  int64_t stride;
  double unit;
  std::vector<double> at, square;

  // an odd number of cache lines, so that the same row of many columns does not fall into one set
  explicit Columns(const Given& g) : stride(8 * ((g.t + 7) / 8 | 1)), unit(1), at(size_t(g.r * stride)), square(size_t(g.r)) {
    double top = 0;
    for (int64_t i = 0; i < g.t * g.r; ++i) top = std::max(top, std::abs(g.X[i]));
    if (top > 0) unit = std::ldexp(1.0, std::ilogb(top));
    for (int64_t i = 0; i < g.t; ++i)
      for (int64_t p = 0; p < g.r; ++p) at[size_t(p * stride + i)] = g.X[i * g.r + p] / unit;
    for (int64_t p = 0; p < g.r; ++p) {
      Lanes sum{};
      for (int64_t i = 0; i < g.t; i += LANES) sum += lanes(&at[size_t(p * stride + i)]) * lanes(&at[size_t(p * stride + i)]);
      square[size_t(p)] = total(sum);
    }
  }
};

// sums over the rows of products, each `stride` further, with weights w (SIDE, t)
template <int N> void weigh(int64_t t, int64_t stride, const double* product, const HalfLanes* w, Lanes (*out)[TILE]) {
  Lanes sum[N][TILE] = {};
  for (int64_t i = 0; i < t; ++i) {
    Lanes weight[N];
    for (int b = 0; b < N; ++b) weight[b] = __builtin_convertvector(w[b * t + i], Lanes);
    for (int u = 0; u < TILE; ++u)
      for (int b = 0; b < N; ++b) sum[b][u] += product[u * stride + i] * weight[b];
  }
  std::memcpy(out, sum, sizeof sum);
}

// the upper triangles of M + F (X' diag(w_b) X - M), M = X'X, for `batches` vectors of replicates; `fourth` (r, r) gets the
// sums of x_ip^2 x_iq^2
void gram(const Given& g, const Columns& X, int64_t batches, const HalfLanes* w, Room& room, double* fourth) {
  const int64_t r = g.r, stride = X.stride;
  Lanes* G = room.G.data();
  std::vector<double>& products = room.products;
  products.resize(size_t(TILE * stride));
  int64_t row[TILE], column[TILE], p = 0, q = 0;
  double middle[TILE], factor[TILE];
  while (p < r) {
    int width = 0;
    for (; width < TILE && p < r; ++width) {
      row[width] = p;
      column[width] = q;
      const double *a = &X.at[size_t(p * stride)], *b = &X.at[size_t(q * stride)];
      Lanes sum{}, squares{};
      for (int64_t i = 0; i < g.t; i += LANES) {
        const Lanes product = lanes(a + i) * lanes(b + i);
        keep(&products[size_t(width * stride + i)], product);
        sum += product;
        squares += product * product;
      }
      middle[width] = total(sum);
      factor[width] = g.factor;
      fourth[p * r + q] = fourth[q * r + p] = total(squares);
      if (g.scattered) {
        const double cross = middle[width] * middle[width], resampled = fourth[p * r + q] - cross / double(g.t);
        const double gaussian = (X.square[size_t(p)] * X.square[size_t(q)] + cross) / double(g.t);
        factor[width] = resampled > 0 ? std::sqrt(gaussian / resampled) : 0;
      }
      if (++q == r) q = ++p;
    }
    for (int64_t b = 0; b < batches; b += SIDE) {
      Lanes sum[SIDE][TILE];
      const int64_t several = std::min<int64_t>(SIDE, batches - b);
      if (several == SIDE)
        weigh<SIDE>(g.t, stride, products.data(), w + b * g.t, sum);
      else
        weigh<1>(g.t, stride, products.data(), w + b * g.t, sum);
      for (int64_t side = 0; side < several; ++side)
        for (int u = 0; u < width; ++u)
          G[(b + side) * r * r + row[u] * r + column[u]] = middle[u] + factor[u] * (sum[side][u] - middle[u]);
    }
  }
}

// the mean square of what couples component j to the others, over that of gaussian rows
double excess(const Given& g, const Columns& X, const double* fourth, int64_t j) {
  if (g.scattered) return 1;
  double coupled = 0, others = 0;
  for (int64_t l = 0; l < g.r; ++l) {
    if (l == j) continue;
    coupled += fourth[j * g.r + l];
    others += X.square[size_t(l)];
  }
  const double gaussian = X.square[size_t(j)] * others / double(g.t);
  return gaussian > 0 ? g.factor * g.factor * coupled / gaussian : 1;
}

// how often each row was drawn: (batches, t)
void counts(const Given& g, std::vector<HalfLanes>& w) {
  w.assign(size_t((g.count + LANES - 1) / LANES * g.t), HalfLanes{});
  if (g.draws) {
    for (int64_t c = 0; c < g.count; ++c)
      for (int64_t i = 0; i < g.t; ++i) w[size_t(c / LANES * g.t + g.draws[c * g.t + i])][c % LANES] += 1;
    return;
  }
  if (g.t == 1) {  // for which numpy draws nothing
    for (auto& each : w) each = HalfLanes{} + 1;
    return;
  }
  float* all = (float*)w.data();
  int64_t c = 0, left = g.t;
  float* own = all;
  Pcg(g.generator).integers(uint32_t(g.t), g.count * g.t, [&](int64_t, uint32_t place) {
    own[place * LANES] += 1;
    if (--left) return;
    left = g.t;
    ++c;
    own = all + c / LANES * g.t * LANES + c % LANES;
  });
}

void replicates(const Given& g, int threads, const Found& out) {
  const int64_t all = (g.count + LANES - 1) / LANES, t = g.t, r = g.r, k = g.k;
  const Columns X(g);
  auto& w = Room::own().w;
  counts(g, w);
  std::atomic<bool> lost{false};
  run(threads, [&](int part) {
    const int64_t begin = all * part / threads, batches = all * (part + 1) / threads - begin;
    Room& room = Room::own();
    room.G.resize(size_t(batches * r * r));
    std::vector<double> fourth(size_t(r * r));
    gram(g, X, batches, w.data() + begin * t, room, fourth.data());
    if (!part)
      for (int64_t j = 0; j < k; ++j) out.excess[j] = excess(g, X, fourth.data(), j);
    Eigen& eigen = room.eigen;
    eigen.begin(r, k, true);
    for (int64_t b = 0; b < batches; b += TOGETHER) {
      const int several = int(std::min<int64_t>(TOGETHER, batches - b));
      if (!eigen.solve(&room.G[size_t(b * r * r)], several)) lost = true;
      for (int m = 0; m < several; ++m) {
        const Lanes* z = &eigen.vectors[size_t(m * k * r)];
        const int64_t batch = begin + b + m;
        std::memcpy(out.vectors + batch * k * r * LANES, z, size_t(k * r) * sizeof(Lanes));
        for (int64_t j = 0; j < k; ++j, z += r) {
          Lanes length{};
          for (int64_t i = 0; i < r; ++i) length += g.weights[i] * z[i] * z[i];
          const Lanes overlap = z[j] * z[j], value = eigen.values[size_t(m * r + j)] * X.unit * X.unit;
          for (int64_t l = 0; l < std::min<int64_t>(LANES, g.count - batch * LANES); ++l) {
            const int64_t at = (batch * LANES + l) * k + j;
            out.values[at] = value[l];
            out.overlap[at] = overlap[l];
            out.length[at] = length[l];
          }
        }
      }
    }
  });
  Room::own().leave();
  if (lost) throw std::runtime_error("not a number");
}

// squared sine of the largest angle between the first m vectors and the first m unit vectors
void tilt(int64_t r, int64_t k, int64_t m, int64_t count, const double* vectors, const double* mass, double* square) {
  Room& room = Room::own();
  auto& S = room.G;
  S.resize(std::max(S.size(), size_t(TOGETHER * m * m)));
  room.eigen.begin(m, 1, false);
  const int64_t all = (count + LANES - 1) / LANES;
  for (int64_t b = 0; b < all; b += TOGETHER) {
    const int several = int(std::min<int64_t>(TOGETHER, all - b));
    for (int u = 0; u < several; ++u) {
      const double* z = vectors + (b + u) * k * r * LANES;
      for (int64_t i = 0; i < m; ++i)
        for (int64_t j = i; j < m; ++j) {
          Lanes sum = Lanes{} + (i == j ? mass[i] : 0.0);
          for (int64_t l = m; l < r; ++l) sum += lanes(z + (i * r + l) * LANES) * lanes(z + (j * r + l) * LANES);
          S[size_t((u * m + i) * m + j)] = sum / std::sqrt((1 + mass[i]) * (1 + mass[j]));
        }
    }
    if (!room.eigen.solve(S.data(), several)) throw std::runtime_error("not a number");
    for (int u = 0; u < several; ++u)
      for (int64_t l = 0; l < std::min<int64_t>(LANES, count - (b + u) * LANES); ++l)
        square[(b + u) * LANES + l] = room.eigen.values[size_t(u * m)][l];
  }
}

template <class Work> int guarded(const Work& work) {
  try {
    work();
  } catch (const std::runtime_error&) {
    return 2;
  } catch (const std::exception&) {
    return 1;
  }
  return 0;
}

}  // namespace

GY_EXPORT int gy_lanes() { return LANES; }

// X (t, r); draws (count, t): rows, or null, and then the state of the generator that draws them, see Pcg; weights (r).
// values, overlap = q_j[j]^2, length = sum weights q_j[l]^2: (count, k), values the largest first; excess (k); vectors q
// (batches, k, r, lanes), a batch being as many replicates as there are lanes.
// 1: no memory; 2: not a number
GY_EXPORT int gy_replicates(int64_t t, int64_t r, int64_t k, int64_t count, int threads, const double* X, int scattered,
                            double factor, const int64_t* draws, const uint64_t* generator, const double* weights,
                            double* values, double* overlap, double* length, double* excess, double* vectors) {
  return guarded([&] {
    replicates({t, r, k, count, X, bool(scattered), factor, draws, generator, weights}, threads, {values, overlap, length, excess, vectors});
  });
}

// square (count): of the sine of the largest angle, of vectors as above that have `mass` (m) outside the r directions
GY_EXPORT int gy_tilt(int64_t r, int64_t k, int64_t m, int64_t count, const double* vectors, const double* mass, double* square) {
  return guarded([&] { tilt(r, k, m, count, vectors, mass, square); });
}
