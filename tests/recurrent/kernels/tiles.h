// The tile instructions of AMX in plain C++, so that the code that uses them runs in tests on any processor. Written from the
// operation sections of Intel's manual: palette 1, eight tiles of 16 rows of 64 bytes; a product outside the configured
// shapes is an invalid operation there and an exception here. Two sums for each number, one for even and one for odd inner
// indices; fused multiply-add, rounded to nearest even, denormals are zero before and after.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>

namespace emulated {

struct Machine {
  bool on = false;
  struct {
    int rows = 0, bytes = 0;
    alignas(64) unsigned char data[16][64] = {};
  } tile[8];
};
inline Machine& machine() {
  static thread_local Machine m;
  return m;
}
inline auto& used(int t) {
  auto& m = machine();
  if (!m.on || t < 0 || t > 7 || !m.tile[t].rows) throw std::logic_error("a tile that is not configured");
  return m.tile[t];
}

inline void load_config(const void* p) {
  const auto* c = (const unsigned char*)p;
  if ((size_t)p % 64 || c[0] != 1 || c[1]) throw std::logic_error("a configuration that is not of palette 1");
  auto& m = machine();
  m = Machine();
  for (int t = 0; t < 16; ++t) {
    uint16_t bytes;
    std::memcpy(&bytes, c + 16 + 2 * t, 2);
    const int rows = c[48 + t];
    if (t > 7 ? bytes || rows : bytes > 64 || rows > 16 || !bytes != !rows) throw std::logic_error("no such tile");
    if (t < 8) m.tile[t].rows = rows, m.tile[t].bytes = bytes;
  }
  m.on = true;
}
inline void release() { machine() = Machine(); }
inline void zero(int t) { std::memset(used(t).data, 0, sizeof used(t).data); }
inline void load(int t, const void* base, long stride) {
  zero(t);
  for (int r = 0; r < used(t).rows; ++r) std::memcpy(used(t).data[r], (const char*)base + r * stride, used(t).bytes);
}
inline void store(int t, void* base, long stride) {
  for (int r = 0; r < used(t).rows; ++r) std::memcpy((char*)base + r * stride, used(t).data[r], used(t).bytes);
}

inline float flushed(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.f, x) : x; }
inline float number(const unsigned char* row, int i) {
  uint16_t half;
  std::memcpy(&half, row + 2 * i, 2);
  const uint32_t bits = uint32_t(half) << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return flushed(x);
}
inline void product(int c, int a, int b) {
  auto &C = used(c), &A = used(a), &B = used(b);
  if (C.rows != A.rows || C.bytes != B.bytes || A.bytes != 4 * B.rows || c == a || c == b || a == b)
    throw std::logic_error("tiles whose shapes do not fit");
  for (int m = 0; m < C.rows; ++m)
    for (int n = 0; n < C.bytes / 4; ++n) {
      float sum[2] = {}, old;
      for (int k = 0; k < A.bytes / 4; ++k)
        for (int i = 0; i < 2; ++i)
          sum[i] = flushed(std::fma(number(A.data[m], 2 * k + i), number(B.data[k], 2 * n + i), sum[i]));
      std::memcpy(&old, C.data[m] + 4 * n, 4);
      const float now = flushed(flushed(old) + flushed(sum[0] + sum[1]));
      std::memcpy(C.data[m] + 4 * n, &now, 4);
    }
}

}  // namespace emulated

#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig emulated::load_config
#define _tile_release emulated::release
#define _tile_zero(t) emulated::zero(t)
#define _tile_loadd(t, base, stride) emulated::load(t, base, stride)
#define _tile_stored(t, base, stride) emulated::store(t, base, stride)
#define _tile_dpbf16ps(c, a, b) emulated::product(c, a, b)
