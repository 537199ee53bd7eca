// How the rows of a batch are shared out, and what all cells do with their rows.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "mm.h"

namespace gy {

enum Save { NOTHING, FULL, LOW };
constexpr size_t NEAR = size_t(16) << 20;  // bytes of a stash that the caches still hold when it is read

template <class Arguments> class Batch {
 protected:
  const Arguments& g;
  explicit Batch(const Arguments& args) : g(args) {}

  // one part for each thread, but never an empty one
  int parts_of() const { return int(std::max<int64_t>(1, std::min(g.threads, g.B))); }
  int chunk_of(int part) const {
    const int n = int(end_of(part) - end_of(part - 1)), chunks = std::max(1, (n + 127) / 128);
    return (n + chunks - 1) / chunks;
  }
  // rows are independent: many of them are taken in chunks whose states stay in the cache
  template <class Work> void each_chunk(int part, Work&& work) const {
    const int most = chunk_of(part);
    for (int r = int(end_of(part - 1)), end = int(end_of(part)); r < end; r += most) work(r, std::min(most, end - r));
  }
  int rows_usual() const { return int(std::min<int64_t>(g.B / parts_of(), 32)); }
  bool active(int t, int row) const { return !g.active || ((const uint8_t*)g.active)[t * g.B + row]; }
  // for n rows from r0 on at step t, or null where every row moves
  const uint8_t* moving(int t, int r0) const { return g.active ? (const uint8_t*)g.active + t * g.B + r0 : nullptr; }

 private:
  int64_t end_of(int part) const { return g.B * (part + 1) / parts_of(); }
};

// sums of all threads, in the order of the threads
template <class T, class Worker, class Member> std::vector<const T*> sums(const std::vector<Worker>& workers, Member member) {
  std::vector<const T*> found;
  for (const Worker& w : workers) found.push_back((w.*member).get());
  return found;
}

template <class T> void add_up(const std::vector<const T*>& sums, int n, T* to) {
  for (int i = 0; i < n; ++i) {
    T total = 0;
    for (const T* sum : sums) total += sum[i];
    to[i] = total;
  }
}

}  // namespace gy
