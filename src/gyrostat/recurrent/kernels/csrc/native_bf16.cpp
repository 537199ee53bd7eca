// The second native library: forward passes whose recurrent products are in bfloat16, see pairs.h and kernels/bf16.py.
// It is opened only where the processor has AVX-512; which engines it may use there, it finds out itself.
#include "lem.h"
#include "lipschitz.h"
#include "pairs.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

template <class Cell, class Arguments> int call(const Arguments* arguments, int engine, int terms) {
  try {
    Cell cell(*arguments, gy::Engine(engine), terms);
    cell.forward();
    return 0;
  } catch (const std::logic_error&) {
    return 2;
  } catch (const std::exception&) {
    return 1;
  }
}

#if defined(__x86_64__)
bool has(unsigned subleaf, int reg, int bit) {
  unsigned r[4] = {};
  return __get_cpuid_count(7, subleaf, &r[0], &r[1], &r[2], &r[3]) && (r[reg] >> bit & 1);
}
#endif

// the registers of tiles are large: a process asks for them once, and the system may refuse
bool permitted() {
#if defined(__linux__) && defined(__x86_64__)
  constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18;
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0;
#else
  return false;
#endif
}

}  // namespace

#define GY_EXPORT extern "C" __attribute__((visibility("default")))

GY_EXPORT int gy_bf16_abi_version() { return 1; }

// bits: 1 vectors (AVX512-BF16), 2 tiles (AMX), 4 a processor with tiles that the system does not let us use
GY_EXPORT int gy_bf16_engines() {
#if defined(GY_EMULATED_TILES)
  return 2;
#elif defined(__x86_64__) && defined(GY_TILES)
  const int vectors = has(1, 0, 5) ? 1 : 0;
  if (!vectors || !has(0, 3, 22) || !has(0, 3, 24)) return vectors;
  return vectors | (permitted() ? 2 : 4);
#else
  return 0;
#endif
}

GY_EXPORT int gy_bf16_lipschitz(const gy_lipschitz* a, int engine, int terms) {
  return call<gy::Lipschitz<float, gy::Pairs>>(a, engine, terms);
}
GY_EXPORT int gy_bf16_lem(const gy_lem* a, int engine, int terms) { return call<gy::Lem<float, gy::Pairs>>(a, engine, terms); }
