// The bootstrap errors of singular values and vectors, with what the directions left out do to them on average: the formulas of
// beyond.py and errors.py, their slow twins.
#include <algorithm>
#include <cmath>
#include <exception>
#include <vector>

#include "lanes.h"

#define GY_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

struct Beyond {
  Lanes push, mass, weighted;
};

// sums over the directions from r on, and `extra` times the last once more, for as many components as a vector has lanes
Beyond beyond(Lanes own, Lanes excess, const double* s, const double* weights, int64_t r, int64_t full, double t, double extra) {
  const Lanes least = Lanes{} + 1e-300;
  const bool plain = total(excess == 1 ? Lanes{} : Lanes{} + 1) == 0;
  Beyond all{};
  for (int64_t l = r; l < full + (extra > 0); ++l) {
    const int64_t at = std::min(l, full - 1);
    const double lam = s[at] * s[at], count = l < full ? 1 : extra;
    const Lanes gap = own - lam, square = 4 / t * lam * own;
    const Lanes length = root(gap * gap + square), moved = square / larger(2 * (length + gap), least);
    all.push += count * moved;
    const Lanes wide = plain ? length : root(gap * gap + excess * square);
    const Lanes part = plain ? moved : excess * square / larger(2 * (wide + gap), least);
    const Lanes mass = count * part / larger(wide, least);
    all.mass += mass;
    all.weighted += weights[at] * mass;
  }
  return all;
}

double sine(double square) { return std::sqrt(std::max(0.0, 1 - square)); }

}  // namespace

// s, powered (full): singular values of the sketch, and their roots of order 2 power + 1; extra: how many times more the last
// one counts; excess (top); values, overlap, length (count, top): of gy_replicates. errors (3, k + 1, count): of values, left
// and right vectors, and the largest of each; mass (top): what each vector has beyond the r directions
GY_EXPORT int gy_errors(int64_t count, int64_t k, int64_t top, int64_t r, int64_t full, int64_t t, double extra, double factor,
                        int power, const double* s, const double* powered, const double* excess, const double* values,
                        const double* overlap, const double* length, double* errors, double* mass) try {
  std::vector<double> weights(powered, powered + full);
  for (double& w : weights) w *= w;
  std::fill(errors, errors + 3 * (k + 1) * count, 0.0);
  for (int64_t first = 0; first < top; first += LANES) {
    Lanes own{}, over = Lanes{} + 1;
    const int64_t several = std::min<int64_t>(LANES, top - first);
    for (int64_t u = 0; u < several; ++u) {
      own[u] = s[first + u] * s[first + u];
      over[u] = excess[first + u];
    }
    const Beyond out = beyond(own, over, s, weights.data(), r, full, double(t), extra);
    for (int64_t u = 0, j = first; u < several; ++u, ++j) {
      mass[j] = out.mass[u];
      if (j >= k) continue;
      const double push = out.push[u] * factor * factor, more = out.weighted[u], rest = 1 + out.mass[u];
      for (int64_t b = 0; b < count; ++b) {
        const int64_t at = b * top + j;
        const double lam = std::max(0.0, values[at] + push), size = length[at] + more;
        const double error[3] = {
            std::abs(powered[j] - (power ? std::pow(lam, 0.5 / (2 * power + 1)) : std::sqrt(lam))),
            std::min(1.0, sine(weights[size_t(j)] * overlap[at] / (size > 0 ? size : 1))),
            std::min(1.0, sine(overlap[at] / rest)),
        };
        for (int m = 0; m < 3; ++m) {
          double* row = errors + m * (k + 1) * count + b;
          row[j * count] = error[m];
          row[k * count] = std::max(row[k * count], error[m]);
        }
      }
    }
  }
  return 0;
} catch (const std::exception&) {
  return 1;
}
