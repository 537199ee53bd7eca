// work(part) for part = 0..parts-1, each by one thread. Threads live for one call: nothing is left for a fork to lose.
#pragma once
#include <atomic>
#include <cstdint>
#include <new>
#include <thread>
#include <vector>

// rows of a key block: even and odd ones have a sum each, so that one thread or two make the same sums
constexpr int64_t KEY_ROWS = 1024;

template <class Work> void run(int parts, const Work& work) {
  std::atomic<bool> failed{false};
  auto turn = [&](int part) {
    try {
      work(part);
    } catch (...) {
      failed = true;
    }
  };
  std::vector<std::thread> others;
  int begun = 1;
  try {
    for (; begun < parts; ++begun) others.emplace_back(turn, begun);
  } catch (...) {
    // no more threads are to be had: the parts that have none are done here
  }
  turn(0);
  for (; begun < parts; ++begun) turn(begun);
  for (auto& t : others) t.join();
  if (failed) throw std::bad_alloc();
}
