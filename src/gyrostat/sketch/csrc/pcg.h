// numpy's PCG64 and its bounded integers (Lemire's method on halves of words, low half first), number for number.
#pragma once
#include <algorithm>
#include <cstdint>

class Pcg {
 public:
  // the state and the increment of a numpy.random.PCG64 that has not been asked for 32 bits, high words first
  explicit Pcg(const uint64_t* given) : state_{}, step_(1), shift_(0) {
    const Wide increment = Wide(given[2]) << 64 | given[3];
    Wide s = Wide(given[0]) << 64 | given[1];
    for (Wide& lane : state_) {
      lane = s = s * MULTIPLIER + increment;
      shift_ = shift_ * MULTIPLIER + increment;
      step_ *= MULTIPLIER;
    }
  }

  // put(i, place) for i = 0..count-1, places on 0..below-1
  template <class Put> void integers(uint32_t below, int64_t count, const Put& put) {
    const uint32_t least = (0u - below) % below;
    uint32_t word[BLOCK], place[BLOCK];
    for (int64_t i = 0; i < count;) {
      for (int at = 0; at < BLOCK; at += 2 * LINES)
        for (int lane = 0; lane < LINES; ++lane) {
          Wide& s = state_[lane];
          const uint64_t folded = uint64_t(s >> 64) ^ uint64_t(s);
          const int turn = int(uint64_t(s >> 122));
          const uint64_t out = folded >> turn | folded << (-turn & 63);
          word[at + 2 * lane] = uint32_t(out);
          word[at + 2 * lane + 1] = uint32_t(out >> 32);
          s = s * step_ + shift_;
        }
      uint32_t doubtful = 0;
      for (int at = 0; at < BLOCK; ++at) {
        const uint64_t product = uint64_t(word[at]) * below;
        place[at] = uint32_t(product >> 32);
        doubtful |= uint32_t(product) < least;
      }
      if (!doubtful) {
        const int64_t end = std::min<int64_t>(count, i + BLOCK);
        for (int at = 0; i < end; ++at) put(i++, place[at]);
        continue;
      }
      for (int at = 0; at < BLOCK && i < count; ++at)
        if (uint32_t(uint64_t(word[at]) * below) >= least) put(i++, place[at]);
    }
  }

 private:
  using Wide = unsigned __int128;
  static constexpr Wide MULTIPLIER = Wide(0x2360ED051FC65DA4u) << 64 | 0x4385DF649FCCF645u;
  static constexpr int LINES = 4, BLOCK = 512;  // generators that run side by side, and words at a time
  Wide state_[LINES], step_, shift_;
};
