// The native library: plain C functions over structures of sizes and addresses, see kernels/native.py.
#include "../../../_native/cpu.h"
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

GY_EXPORT int gy_abi_version() { return 1; }

GY_EXPORT void* gy_pool_get(size_t size) { return gy::Pool::get().take(size); }
GY_EXPORT void gy_pool_put(void* block, size_t) { gy::Pool::get().give(block); }

GY_EXPORT int gy_lipschitz_f32(const gy_lipschitz* a, int backward) { return call<gy::Lipschitz<float>>(a, backward); }
GY_EXPORT int gy_lipschitz_f64(const gy_lipschitz* a, int backward) { return call<gy::Lipschitz<double>>(a, backward); }
GY_EXPORT int gy_lem_f32(const gy_lem* a, int backward) { return call<gy::Lem<float>>(a, backward); }
GY_EXPORT int gy_lem_f64(const gy_lem* a, int backward) { return call<gy::Lem<double>>(a, backward); }
