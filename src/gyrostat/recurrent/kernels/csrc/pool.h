// Memory that keeps its pages: the first write to a fresh page costs more than the arithmetic on it. Blocks are aligned to
// huge pages and go back to a list of limited size. Safe between threads and across fork.
#pragma once
#include <pthread.h>
#include <sys/mman.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <vector>

#include "simd.h"

namespace gy {

class Pool {
 public:
  static Pool& get() {
    static Pool* pool = new Pool;  // never destroyed: tensors may outlive everything
    return *pool;
  }
  void* take(size_t size) {
    size = rounded(size);
    {
      std::lock_guard<std::mutex> lock(mutex);
      auto found = free_blocks.lower_bound(size);
      // a block half as large again would waste what others could use
      if (found != free_blocks.end() && found->first <= size + size / 2) {
        void* block = found->second;
        held -= found->first;
        sizes[block] = found->first;
        free_blocks.erase(found);
        return block;
      }
    }
    void* block = map(size);
    if (!block) {
      drop(0);
      block = map(size);
    }
    if (block) {
      std::lock_guard<std::mutex> lock(mutex);
      sizes[block] = size;
    }
    return block;
  }
  void give(void* block) {
    {
      std::lock_guard<std::mutex> lock(mutex);
      auto found = sizes.find(block);
      if (found == sizes.end()) return;
      free_blocks.emplace(found->second, block);
      held += found->second;
      sizes.erase(found);
    }
    drop(limit);
  }

 private:
  static constexpr size_t huge = size_t(2) << 20;
  std::mutex mutex;
  std::multimap<size_t, void*> free_blocks;
  std::map<void*, size_t> sizes;
  size_t held = 0, limit = size_t(1) << 30;

  Pool() {
    if (const char* megabytes = std::getenv("GYROSTAT_POOL_MB")) limit = size_t(std::strtoull(megabytes, nullptr, 10)) << 20;
    pthread_atfork([] { get().mutex.lock(); }, [] { get().mutex.unlock(); }, [] { get().mutex.unlock(); });
  }
  static size_t rounded(size_t size) {
    const size_t page = size >= huge ? huge : 4096;
    return (size + page - 1) / page * page;
  }
  static void* map(size_t size) {
    const size_t extra = size >= huge ? huge : 0;
    char* p = (char*)mmap(nullptr, size + extra, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == (char*)MAP_FAILED) return nullptr;
    if (!extra) return p;
    char* aligned = (char*)(((size_t)p + huge - 1) / huge * huge);
    if (aligned > p) munmap(p, aligned - p);
    if (aligned < p + extra) munmap(aligned + size, p + extra - aligned);
#ifdef MADV_HUGEPAGE
    madvise(aligned, size, MADV_HUGEPAGE);
#endif
    return aligned;
  }
  void drop(size_t keep) {
    std::lock_guard<std::mutex> lock(mutex);
    while (held > keep && !free_blocks.empty()) {
      auto largest = std::prev(free_blocks.end());
      munmap(largest->second, largest->first);
      held -= largest->first;
      free_blocks.erase(largest);
    }
  }
};

// Scratch of one call, from the pool.
template <class E> class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { release(); }
  void resize(size_t n) {
    if (n <= room) {
      count = n;
      return;
    }
    release();
    data = (E*)Pool::get().take(n * sizeof(E) + 64);  // vectors may be read a little beyond the end
    if (!data) throw std::bad_alloc();
    room = count = n;
  }
  void zero(size_t n) {
    resize(n);
    std::memset((void*)data, 0, bytes());
  }
  E* get() const { return data; }
  E& operator[](size_t i) const { return data[i]; }
  size_t bytes() const { return count * sizeof(E); }

 private:
  E* data = nullptr;
  size_t count = 0, room = 0;
  void release() {
    if (data) Pool::get().give(data);
    data = nullptr;
  }
};

}  // namespace gy
