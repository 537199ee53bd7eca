// The native library: plain C functions over structures of sizes and addresses, see kernels/native.py.
#include "lem.h"
#include "lipschitz.h"

#include <new>

namespace {

template <class Cell, class Arguments> int call(const Arguments* arguments, int backward) {
  try {
    Cell cell(*arguments);
    if (backward)
      cell.backward();
    else
      cell.forward();
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}

}  // namespace

#define GY_EXPORT extern "C" __attribute__((visibility("default")))

GY_EXPORT int gy_abi_version() { return 1; }

// 0 generic, 1..3 x86-64-v2, v3, v4: what the processor and the system can run
GY_EXPORT int gy_cpu_level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return 3;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) return 2;
  return 1;
#else
  return 0;
#endif
}

GY_EXPORT void* gy_pool_get(size_t size) { return gy::Pool::get().take(size); }
GY_EXPORT void gy_pool_put(void* block, size_t) { gy::Pool::get().give(block); }

GY_EXPORT int gy_lipschitz_f32(const gy_lipschitz* a, int backward) { return call<gy::Lipschitz<float>>(a, backward); }
GY_EXPORT int gy_lipschitz_f64(const gy_lipschitz* a, int backward) { return call<gy::Lipschitz<double>>(a, backward); }
GY_EXPORT int gy_lem_f32(const gy_lem* a, int backward) { return call<gy::Lem<float>>(a, backward); }
GY_EXPORT int gy_lem_f64(const gy_lem* a, int backward) { return call<gy::Lem<double>>(a, backward); }
