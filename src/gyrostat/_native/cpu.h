// What every native library of the package answers before anything else is asked of it.
#pragma once

#define GY_EXPORT extern "C" __attribute__((visibility("default")))

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
