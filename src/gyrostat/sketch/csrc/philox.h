// numpy's Philox4x64-10 and its bounded integers (Lemire's method on halves of words, low half first), number for number.
#pragma once
#include <cstdint>
#include <vector>

class Philox {
 public:
  // the stream of numpy.random.Philox(counter=[0, 0, 0, number], key=[key, 0])
  void begin(uint64_t key, uint64_t number) {
    key_ = key;
    number_ = number;
    counter_ = made_ = 0;
  }

  // the first `count` words of 32 bits, calling `meanwhile` about every eighth
  template <class Call> const uint32_t* first(size_t count, const Call& meanwhile) {
    if (words_.size() < count + 8) words_.resize(count + 8);
    while (made_ < count) {
      more();
      meanwhile();
    }
    return words_.data();
  }

  // integer on 0..count-1 from the words at `at` on
  uint32_t below(uint32_t count, size_t& at) {
    if (count == 1) return 0;
    const uint32_t least = (0u - count) % count;
    uint64_t product;
    do {
      first(at + 1, [] {});
      product = uint64_t(words_[at++]) * count;
    } while (uint32_t(product) < least);
    return uint32_t(product >> 32);
  }

 private:
  uint64_t key_, number_, counter_;
  size_t made_;
  std::vector<uint32_t> words_;

  void more() {
    uint64_t c[4] = {++counter_, 0, 0, number_}, k[2] = {key_, 0};
    for (int round = 0; round < 10; ++round) {
      const unsigned __int128 a = (unsigned __int128)0xD2E7470EE14C6C93u * c[0];
      const unsigned __int128 b = (unsigned __int128)0xCA5A826395121157u * c[2];
      c[0] = uint64_t(b >> 64) ^ c[1] ^ k[0];
      c[1] = uint64_t(b);
      c[2] = uint64_t(a >> 64) ^ c[3] ^ k[1];
      c[3] = uint64_t(a);
      k[0] += 0x9E3779B97F4A7C15u;
      k[1] += 0xBB67AE8584CAA73Bu;
    }
    for (int i = 0; i < 4; ++i) {
      words_[made_++] = uint32_t(c[i]);
      words_[made_++] = uint32_t(c[i] >> 32);
    }
  }
};
