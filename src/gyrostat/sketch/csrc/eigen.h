// Leading eigenpairs of symmetric matrices, as many at a time as TOGETHER vectors have lanes: the same entry of every matrix in a
// vector. Householder's reduction to a tridiagonal matrix, implicit QL steps whose rotations are kept, and only the wanted
// vectors taken back through them. Every lane has its own shifts and splits; ties need no care, since nothing is divided by
// a gap.
//
// Source: Golub and Van Loan, Matrix Computations, 8.3.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "lanes.h"

constexpr int TOGETHER = 4;         // matrices whose rotations are computed in turn, so that some wait while one divides
constexpr double NOTHING = 1e-290;  // squares below it have lost digits, and are of no account in matrices of order 1

class Eigen {
 public:
  std::vector<Lanes> values, vectors;  // (TOGETHER, n), the first k sorted; (TOGETHER, k, n)

  // matrices (n, n), of which k values and, if wanted, vectors are asked for
  void begin(int64_t n, int64_t k, bool wanted) {
    n_ = n, k_ = k, wanted_ = wanted;
    for (auto* each : {&values, &e_, &goal_, &d0_, &e0_, &scale_, &place_, &w_}) each->resize(size_t(TOGETHER * n));
    if (wanted) vectors.resize(size_t(TOGETHER * k * n));
  }

  // A: upper triangles of `count` matrices, 1 to TOGETHER, with entries of about 1 at most; it overwrites them
  // false: no end, of what is not a number
  bool solve(Lanes* A, int count) {
    for (int m = 0; m < count; ++m) reduce(A + m * n_ * n_, &values[size_t(m * n_)], &e_[size_t(m * n_)], &scale_[size_t(m * n_)]);
    if (!rotated(count)) return false;
    for (int m = 0; m < count; ++m) {
      sort(&values[size_t(m * n_)], &place_[size_t(m * n_)]);
      if (wanted_) back(A + m * n_ * n_, m, count);
    }
    return true;
  }

 private:
  struct Sweep {
    int64_t low;
    int64_t first;
  };
  int64_t n_ = 0, k_ = 0, done_ = 0;  // values are known up to done_
  bool wanted_ = false;
  std::vector<Lanes> e_, goal_, d0_, e0_, scale_, w_, place_, turns_;
  std::vector<Sweep> sweeps_;

  // A = H T H' with d and e the diagonals of T; row p of A then holds reflector p and scale its factor
  void reduce(Lanes* A, Lanes* d, Lanes* e, Lanes* scale) {
    const int64_t n = n_;
    for (int64_t p = 0; p + 2 < n; ++p) {
      Lanes *v = A + p * n, square{};
      d[p] = v[p];
      for (int64_t j = p + 2; j < n; ++j) square += v[j] * v[j];
      const Lanes x = v[p + 1], norm = root(square + x * x), sign = x < 0 ? Lanes{} - 1 : Lanes{} + 1;
      const auto flat = square < NOTHING;
      const Lanes inverse = flat ? Lanes{} : 1 / (flat ? Lanes{} + 1 : norm);
      e[p] = flat ? x : -sign * norm;
      v[p + 1] = sign + x * inverse;
      for (int64_t j = p + 2; j < n; ++j) v[j] *= inverse;
      const Lanes beta = flat ? Lanes{} : 1 / (1 + magnitude(x) * inverse);
      scale[p] = beta;
      product(A, v, p + 1);
      Lanes dot{};
      for (int64_t j = p + 1; j < n; ++j) dot += v[j] * w_[size_t(j)];
      const Lanes half = 0.5 * beta * beta * dot;
      for (int64_t j = p + 1; j < n; ++j) w_[size_t(j)] = beta * w_[size_t(j)] - half * v[j];
      update(A, v, p + 1);
    }
    if (n > 1) {
      d[n - 2] = A[(n - 2) * n + n - 2];
      e[n - 2] = A[(n - 2) * n + n - 1];
    }
    d[n - 1] = A[n * n - 1];
    e[n - 1] = Lanes{};
  }

  // w = A v for the rows and columns from `low` on
  void product(const Lanes* A, const Lanes* v, int64_t low) {
    const int64_t n = n_;
    Lanes* w = w_.data();
    for (int64_t j = low; j < n; ++j) w[j] = Lanes{};
    int64_t i = low;
    for (; i + 4 <= n; i += 4) {
      Lanes sum[4];
      for (int a = 0; a < 4; ++a) {
        sum[a] = A[(i + a) * n + i + a] * v[i + a];
        for (int b = 0; b < 4; ++b)
          if (b != a) sum[a] += A[(i + std::min(a, b)) * n + i + std::max(a, b)] * v[i + b];
      }
      for (int64_t j = i + 4; j < n; ++j) {
        Lanes own = w[j];
        for (int a = 0; a < 4; ++a) {
          const Lanes x = A[(i + a) * n + j];
          own += x * v[i + a];
          sum[a] += x * v[j];
        }
        w[j] = own;
      }
      for (int a = 0; a < 4; ++a) w[i + a] += sum[a];
    }
    for (; i < n; ++i) {
      Lanes sum = A[i * n + i] * v[i];
      for (int64_t j = i + 1; j < n; ++j) {
        sum += A[i * n + j] * v[j];
        w[j] += A[i * n + j] * v[i];
      }
      w[i] += sum;
    }
  }

  // A -= v w' + w v'
  void update(Lanes* A, const Lanes* v, int64_t low) {
    const int64_t n = n_;
    const Lanes* w = w_.data();
    int64_t i = low;
    for (; i + 2 <= n; i += 2) {
      Lanes *one = A + i * n, *two = one + n;
      const Lanes v1 = v[i], w1 = w[i], v2 = v[i + 1], w2 = w[i + 1];
      one[i] -= 2 * v1 * w1;
      for (int64_t j = i + 1; j < n; ++j) {
        const Lanes vj = v[j], wj = w[j];
        one[j] -= v1 * wj + w1 * vj;
        two[j] -= v2 * wj + w2 * vj;
      }
    }
    if (i < n) A[i * n + i] -= 2 * v[i] * w[i];
  }

  bool rotated(int count) {
    return count == 1 ? rotated<1>() : count == 2 ? rotated<2>() : count == 3 ? rotated<3>() : rotated<TOGETHER>();
  }

  // the values first; then, with them for shifts, one or two steps are enough for each, and those of the unwanted are left out
  template <int N> bool rotated() {
    if (!wanted_) return rotate<N, false>();
    d0_ = values;
    e0_ = e_;
    if (!rotate<N, false>()) return false;
    for (int m = 0; m < N; ++m) sort(&values[size_t(m * n_)], &place_[size_t(m * n_)]);
    goal_.swap(values);
    values.swap(d0_);
    e_.swap(e0_);
    return rotate<N, true>();
  }

  // QL steps until nothing is left off the diagonals of N matrices. With TAKEN the rotations are kept in turns_, the shifts are
  // goal_, and it ends where the first k values are those
  template <int N, bool TAKEN> bool rotate() {
    const int64_t n = n_;
    const Lanes* const goal = goal_.data();
    done_ = n;
    bool aimed = TAKEN;
    Lanes before[N], tries[N] = {};
    for (int m = 0; m < N; ++m) before[m] = Lanes{} - 1;
    Lanes* const d = values.data();
    Lanes* const e = e_.data();
    Lanes least[N];
    for (int m = 0; m < N; ++m) {
      Lanes top{};
      for (int64_t i = 0; i < n; ++i) top = larger(top, larger(magnitude(d[m * n + i]), magnitude(e[m * n + i])));
      least[m] = 1e-19 * top;
    }
    sweeps_.clear();
    int64_t used = 0;
    for (int64_t low = 0;;) {
      Lanes shift[N], first = Lanes{} + double(n - 1);
      for (int m = 0; m < N; ++m) {
        Lanes *const D = d + m * n, *const E = e + m * n, here{}, next{}, between{}, wanted{}, own = Lanes{} + double(n - 1);
        for (int64_t i = n - 2; i >= low; --i) {
          const auto small = magnitude(E[i]) <= 1.1e-16 * (magnitude(D[i]) + magnitude(D[i + 1])) + least[m];
          E[i] = small ? Lanes{} : E[i];
          between = small ? between : E[i];
          here = small ? here : D[i];
          next = small ? next : D[i + 1];
          if (TAKEN) wanted = small ? wanted : goal[m * n + i];
          own = small ? own : Lanes{} + double(i);
        }
        first = own < first ? own : first;
        const auto done = between == 0;
        const Lanes half = (next - here) / (done ? Lanes{} + 1 : 2 * between);
        const Lanes length = root(half * half + 1);
        shift[m] = here - between / (half + (half < 0 ? -length : length));
        if (TAKEN && aimed) {
          tries[m] = own == before[m] ? tries[m] + 1 : Lanes{};
          before[m] = own;
          shift[m] = tries[m] < 2 ? wanted : shift[m];
        }
      }
      double top = first[0];
      for (int l = 1; l < LANES; ++l) top = std::min(top, first[l]);
      low = int64_t(top);
      if (low >= n - 1) return true;
      if (TAKEN && aimed && low >= k_) {
        aimed = false;
        if (reached<N>()) {
          done_ = k_;
          return true;
        }
      }
      if (int64_t(sweeps_.size()) > 60 * n) return false;
      if (TAKEN) {
        used += 2 * N * (n - 1 - low);
        if (int64_t(turns_.size()) < used) turns_.resize(size_t(used + used / 2));
      }
      // where those of i = 0 would be
      sweeps_.push_back({low, used - 2 * N * (n - 1)});
      Lanes* const turn = turns_.data();
      const int64_t at = sweeps_.back().first;
      Lanes g[N] = {}, s[N] = {}, c[N] = {}, p[N] = {}, below[N] = {};
      for (int64_t i = n - 2; i >= low; --i)
        for (int m = 0; m < N; ++m) {
          Lanes *const D = d + m * n + i, *const E = e + m * n + i;
          const auto split = below[m] == 0;  // a lane begins anew beneath one
          const Lanes f0 = *E;
          g[m] = split ? D[1] - shift[m] : g[m];
          p[m] = split ? Lanes{} : p[m];
          const Lanes f = split ? f0 : s[m] * f0, b = split ? f0 : c[m] * f0;
          const Lanes square = f * f + g[m] * g[m], length = root(square);
          // above a split nothing may turn, not even a sign: it would not be seen there
          const auto still = f0 == 0 || square < NOTHING;
          const Lanes inverse = 1 / (still ? Lanes{} + 1 : length);
          s[m] = still ? Lanes{} : f * inverse;
          c[m] = still ? Lanes{} + 1 : g[m] * inverse;
          E[1] = split ? Lanes{} : (still ? g[m] : length);
          below[m] = f0;
          const Lanes now = D[1] - p[m], r = (D[0] - now) * s[m] + 2 * c[m] * b;
          p[m] = s[m] * r;
          D[1] = now + p[m];
          g[m] = c[m] * r - b;
          if (TAKEN) {
            turn[at + 2 * (N * i + m)] = c[m];
            turn[at + 2 * (N * i + m) + 1] = s[m];
          }
        }
      for (int m = 0; m < N; ++m) {
        d[m * n + low] -= p[m];
        e[m * n + low] = g[m];
      }
    }
  }

  // whether the first k are the goals, in their order
  template <int N> bool reached() const {
    Lanes far{};
    for (int m = 0; m < N; ++m)
      for (int64_t j = 0; j < k_; ++j)
        far = larger(far, magnitude(values[size_t(m * n_ + j)] - goal_[size_t(m * n_ + j)]) -
                              1e-13 * magnitude(goal_[size_t(m * n_)]));
    return total(far > 0 ? Lanes{} + 1 : Lanes{}) == 0;
  }

  // the k largest first, and where they came from
  void sort(Lanes* d, Lanes* place) const {
    for (int64_t i = 0; i < n_; ++i) place[i] = Lanes{} + double(i);
    for (int64_t j = 0; j < k_; ++j) {
      Lanes best = d[j], from = place[j];
      for (int64_t i = j + 1; i < done_; ++i) {
        const Lanes x = d[i], y = place[i];
        const auto swap = x > best;
        d[i] = swap ? best : x;
        place[i] = swap ? from : y;
        best = swap ? x : best;
        from = swap ? y : from;
      }
      d[j] = best;
      place[j] = from;
    }
  }

  // the wanted vectors: unit vectors through the rotations, last first, and then through the reflectors
  void back(const Lanes* A, int m, int count) {
    Lanes* z = &vectors[size_t(m * k_ * n_)];
    const Lanes* place = &place_[size_t(m * n_)];
    int64_t j = 0;
    for (; j + 4 <= k_; j += 4) through<4>(A, m, count, place + j, z + j * n_);
    for (; j < k_; ++j) through<1>(A, m, count, place + j, z + j * n_);
  }

  template <int W> void through(const Lanes* A, int m, int count, const Lanes* place, Lanes* z) const {
    const int64_t n = n_;
    Lanes furthest{};
    for (int u = 0; u < W; ++u) {
      furthest = larger(furthest, place[u]);
      for (int64_t i = 0; i < n; ++i) z[u * n + i] = place[u] == double(i) ? Lanes{} + 1 : Lanes{};
    }
    double most = furthest[0];
    for (int l = 1; l < LANES; ++l) most = std::max(most, furthest[l]);
    for (size_t sweep = sweeps_.size(); sweep--;) {
      const int64_t low = sweeps_[sweep].low;
      if (double(low) > most) continue;
      const Lanes* turn = turns_.data();
      const int64_t at = sweeps_[sweep].first + 2 * m;
      Lanes x[W];
      for (int u = 0; u < W; ++u) x[u] = z[u * n + low];
      for (int64_t i = low; i + 1 < n; ++i) {
        const Lanes c = turn[at + 2 * count * i], s = turn[at + 2 * count * i + 1];
        for (int u = 0; u < W; ++u) {
          const Lanes y = z[u * n + i + 1];
          z[u * n + i] = c * x[u] + s * y;
          x[u] = c * y - s * x[u];
        }
      }
      for (int u = 0; u < W; ++u) z[u * n + n - 1] = x[u];
    }
    for (int64_t p = n - 3; p >= 0; --p) {
      const Lanes *v = A + p * n, beta = scale_[size_t(m * n + p)];
      Lanes dot[W] = {};
      for (int64_t i = p + 1; i < n; ++i)
        for (int u = 0; u < W; ++u) dot[u] += v[i] * z[u * n + i];
      for (int u = 0; u < W; ++u) dot[u] *= beta;
      for (int64_t i = p + 1; i < n; ++i)
        for (int u = 0; u < W; ++u) z[u * n + i] -= dot[u] * v[i];
    }
  }
};
