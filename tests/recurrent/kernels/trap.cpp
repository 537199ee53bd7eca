// Runs the machine code for AMX on a processor without it: each tile instruction is invalid there, and the signal that this
// raises does what the instruction would have done, by tiles.h, and goes on behind it. For x86-64 Linux.
#include <signal.h>
#include <ucontext.h>

#include "tiles.h"

namespace {

struct sigaction before;

struct Decoded {
  const unsigned char* next;
  char* address = nullptr;  // of memory, without the index
  long index = 0;
};

// ModRM, SIB and displacement behind a VEX prefix of three bytes
Decoded memory(const unsigned char* p, const greg_t* regs, int vex) {
  static const int order[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                              REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  const int mod = p[0] >> 6, rm = p[0] & 7, more_base = vex & 0x20 ? 0 : 8, more_index = vex & 0x40 ? 0 : 8;
  Decoded d{p + 1};
  long address = 0;
  bool bare = false;
  if (rm == 4) {
    const int sib = *d.next++, index = (sib >> 3 & 7) + more_index;
    if (index != 4) d.index = long(regs[order[index]]) << (sib >> 6);
    bare = (sib & 7) == 5 && mod == 0;
    if (!bare) address = long(regs[order[(sib & 7) + more_base]]);
  } else if (rm == 5 && mod == 0) {
    bare = true;
    address = long(d.next + 4);  // relative to the next instruction
  } else {
    address = long(regs[order[rm + more_base]]);
  }
  if (mod == 1) address += (signed char)*d.next++;
  if (mod == 2 || bare) {
    int displacement;
    std::memcpy(&displacement, d.next, 4);
    address += displacement, d.next += 4;
  }
  d.address = (char*)address;
  return d;
}

void on_signal(int number, siginfo_t*, void* context) {
  greg_t* regs = ((ucontext_t*)context)->uc_mcontext.gregs;
  const auto* p = (const unsigned char*)regs[REG_RIP];
  const bool tile = p[0] == 0xc4 && (p[1] & 31) == 2 && (p[3] == 0x49 || p[3] == 0x4b || p[3] == 0x5c);
  if (!tile) {
    sigaction(number, &before, nullptr);  // somebody else's: it comes again
    return;
  }
  const int prefix = p[2] & 3, modrm = p[4], reg = modrm >> 3 & 7;
  const unsigned char* next = p + 5;
  if (p[3] == 0x5c && prefix == 2 && modrm >> 6 == 3)
    emulated::product(reg, modrm & 7, ~(p[2] >> 3) & 7);
  else if (p[3] == 0x49 && prefix == 3 && modrm >> 6 == 3)
    emulated::zero(reg);
  else if (p[3] == 0x49 && prefix == 0 && modrm == 0xc0)
    emulated::release();
  else {
    const Decoded d = memory(p + 4, regs, p[1]);
    next = d.next;
    if (p[3] == 0x49 && prefix == 0)
      emulated::load_config(d.address);
    else if (p[3] == 0x4b && prefix == 3)
      emulated::load(reg, d.address, d.index);
    else if (p[3] == 0x4b && prefix == 2)
      emulated::store(reg, d.address, d.index);
    else
      throw std::logic_error("a tile instruction that nobody wrote");
  }
  regs[REG_RIP] = greg_t(next);
}

}  // namespace

extern "C" int trap_install() {
  struct sigaction action = {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  return sigaction(SIGILL, &action, &before);
}
extern "C" int trap_remove() { return sigaction(SIGILL, &before, nullptr); }
