// A team of threads: torch's own OpenMP pool when it is there (found at run time, nothing is linked), std::thread otherwise.
// Two pools at once would fight for the same cores, since waiting OpenMP threads spin.
#pragma once
#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <exception>
#include <thread>
#include <vector>

#include "simd.h"

namespace gy {

// Denormals to zero while this lives: a vanishing gradient must not cost a hundred times a normal one. The caller's mode
// comes back.
class FlushDenormals {
 public:
#if defined(__x86_64__)
  FlushDenormals() : before(_mm_getcsr()) { _mm_setcsr(before | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(before); }

 private:
  unsigned before;
#elif defined(__aarch64__)
  FlushDenormals() {
    asm volatile("mrs %0, fpcr" : "=r"(before));
    asm volatile("msr fpcr, %0" ::"r"(before | (uint64_t(1) << 24)));
  }
  ~FlushDenormals() { asm volatile("msr fpcr, %0" ::"r"(before)); }

 private:
  uint64_t before;
#endif
};

class Team {
 public:
  // work(part) for part = 0..parts-1, each part by one thread
  template <class Work> static void run(int parts, const Work& work) {
    Job job{parts, &work, [](const void* w, int part) { (*(const Work*)w)(part); }};
    static const OpenMp omp;
    if (parts == 1)
      job.turn(0, 1);
    else if (omp.parallel && !forked())
      omp.parallel([](void* p) {
        Job& job = *(Job*)p;
        job.turn(omp.thread(), omp.threads());
      }, &job, unsigned(parts), 0);
    else {
      std::vector<std::thread> others;
      for (int i = 1; i < parts; ++i) others.emplace_back([&job, i, parts] { job.turn(i, parts); });
      job.turn(0, parts);
      for (auto& t : others) t.join();
    }
    if (job.failed) throw std::bad_alloc();
  }

 private:
  struct Job {
    int parts;
    const void* work;
    void (*call)(const void*, int);
    std::atomic<bool> failed{false};
    Job(int n, const void* w, void (*c)(const void*, int)) : parts(n), work(w), call(c) {}
    void turn(int thread, int threads) {
      const FlushDenormals flush;
      for (int part = thread; part < parts; part += threads) {
        try {
          call(work, part);
        } catch (const std::exception&) {
          failed = true;
        }
      }
    }
  };
  struct OpenMp {
    void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
    int (*thread)() = nullptr;
    int (*threads)() = nullptr;
    OpenMp() {
      thread = (int (*)())dlsym(RTLD_DEFAULT, "omp_get_thread_num");
      threads = (int (*)())dlsym(RTLD_DEFAULT, "omp_get_num_threads");
      if (thread && threads) parallel = (decltype(parallel))dlsym(RTLD_DEFAULT, "GOMP_parallel");
    }
  };
  // an OpenMP team does not survive fork: the child's first parallel region would wait for it for ever
  static bool forked() {
    static std::atomic<bool> child{false};
    static std::atomic<bool>* const flag = &child;
    static const int once = pthread_atfork(nullptr, nullptr, [] { *flag = true; });
    (void)once;
    return child;
  }
};

}  // namespace gy
