// Long expressive memory: z+ = z + d s1 (c - z),  y+ = y + d s2 (e - y) with s1, s2 logistic, c, e tanh, and e from the new z.
// Panels: [W2 W1 Wz] of y, then [Wy] of z+; [V2 V1 Vy Vz] of x in two lots beside them.
#pragma once
#include "batch.h"
#include "math.h"
#include "ring.h"
#include "threads.h"

struct gy_lem {
  int64_t T, B, F, H, threads, block, wanted, save, dt_rows;
  double step;
  const void *x, *y0, *z0, *weight_ih, *bias, *weight_hh, *weight_zy, *dt, *active;
  void *y, *z, *ys, *zs, *stash;
  const void *grad_y, *grad_z, *grad_ys, *grad_zs;
  void *dx, *dy0, *dz0, *dweight_ih, *dbias, *dweight_hh, *dweight_zy, *ddt;
};

namespace gy {

// Hidden: as for Lipschitz
template <class T, class Hidden = Panels<T>> class Lem : Batch<gy_lem> {
  static constexpr int L = Simd<T>::lanes;
  using V = Vec<T>;
  enum Slot { S2, S1, C, E, KEPT };  // what the stash keeps of a step; the parts of the gradient have the same order but
  enum Part_ { P2, P1, PY, PZ };     // for the two candidates: the rows of weight_ih
  using Base = Batch<gy_lem>;
  using Base::g, Base::active, Base::chunk_of, Base::each_chunk, Base::parts_of, Base::rows_usual;
  const int H, F, columns, wide;
  Hidden wy, wz;
  Panels<T> xy, xz, by, bz, bx;

  struct Tape {
    T *y = nullptr, *z = nullptr, *slots = nullptr;
    long step = 0, slot = 0;
    int t0 = 0;
    bool away = false;  // read again only after everything else
    T* at(int s, int t) const { return slots + s * slot + (t - t0) * step; }
    T* state(T* base, int t) const { return base + (t - t0) * step; }
  };
  struct State {
    const T *y, *z;
  };
  struct Worker {
    Buffer<T> ping, gate, own, Gy, Gz, row_dt;
    Ring<T> ring;
    Buffer<T> sum_hh, sum_zy, sum_x, sum_b, sum_dt;
  };

 public:
  template <class... How>
  explicit Lem(const gy_lem& args, How... how)
      : Base(args), H(int(g.H)), F(int(g.F)), columns(Panels<T>::vectors(H)), wide(columns * L), wy(how...), wz(how...) {}

  void forward() {
    pack_forward();
    Team::run(parts_of(), [&](int part) {
      Worker w;
      each_chunk(part, [&](int r0, int n) {
        const typename Hidden::Session session(wy, n);
        forward_rows(w, r0, n);
      });
    });
  }

  void backward() {
    if (g.save == LOW) pack_forward();
    pack_backward();
    std::vector<Worker> workers(parts_of());
    Team::run(parts_of(), [&](int part) {
      Worker& w = workers[part];
      w.ring.shape(chunk_of(part), g.T, 4, H, {H, H, F});
      if (g.dweight_hh) w.sum_hh.zero(w.ring.room(0, 3));
      if (g.dweight_zy) w.sum_zy.zero(w.ring.room(1, 1));
      if (g.dweight_ih) w.sum_x.zero(w.ring.room(2, 4));
      if (g.dbias) w.sum_b.zero(w.ring.ones_room(4));
      if (g.ddt && !g.dt_rows) w.sum_dt.zero(wide);
      each_chunk(part, [&](int r0, int n) { backward_rows(w, r0, n); });
    });
    reduce(workers);
  }

 private:
  static const T* in(const void* p) { return (const T*)p; }
  const T* rows_of_x(int part) const { return in(g.weight_ih) + size_t(part) * H * F; }

  void pack_forward() {
    const T* hh = in(g.weight_hh);
    const size_t square = size_t(H) * H;
    const Part<T> hidden[] = {{hh, H, 1}, {hh + square, H, 1}, {hh + 2 * square, H, 1}};
    const Part<T> inputs[] = {{rows_of_x(P2), F, 1}, {rows_of_x(P1), F, 1}, {rows_of_x(PZ), F, 1}};
    const Part<T> zy = {in(g.weight_zy), H, 1}, input_y = {rows_of_x(PY), F, 1};
    wy.shape(3, H, H, rows_usual(), 3), wy.pack(hidden);
    xy.follow(wy, 3, F), xy.pack(inputs);
    wz.shape(1, H, H, rows_usual()), wz.pack(&zy);
    xz.follow(wz, 1, F), xz.pack(&input_y);
  }
  void pack_backward() {
    // the ring holds the parts 2, 1, z, y: three in a row for y, one for z, all for x
    const int padded = Ring<T>::padded_to(H);
    const Part<T> hh = {in(g.weight_hh), 1, H}, zy = {in(g.weight_zy), 1, H};
    by.shape(1, 3 * H, H, rows_usual()), by.pack(&hh, H, padded);
    bz.shape(1, H, H, rows_usual()), bz.pack(&zy, H, padded);
    if (!g.dx) return;
    Buffer<T> turned;
    turned.resize(size_t(4) * H * F);
    const int order[] = {P2, P1, PZ, PY};
    for (int p = 0; p < 4; ++p) std::memcpy(turned.get() + size_t(p) * H * F, rows_of_x(order[p]), sizeof(T) * H * F);
    const Part<T> x = {turned.get(), 1, F};
    bx.shape(1, 4 * H, F, rows_usual()), bx.pack(&x, H, padded);
  }

  V dt(int t, int row, int c, int n) const {
    if (!g.dt) return splat<T>(T(g.step));
    return g.dt_rows ? splat<T>(in(g.dt)[t * g.B + row]) : load(in(g.dt) + c, n);
  }

  const T* bias_of(int part) const { return g.bias ? in(g.bias) + size_t(part) * H : nullptr; }

  void forward_rows(Worker& w, int r0, int n) {
    Tape tape;
    const size_t at = size_t(r0) * H, step = size_t(g.B) * H, slot = step * g.T;
    T* stash = (T*)g.stash;
    tape.step = long(step);
    if (g.wanted > 0) tape.y = (T*)g.ys + at;
    if (g.wanted > 1) tape.z = (T*)g.zs + at;
    if (g.save == FULL) {
      tape.slots = stash + at, tape.slot = long(slot), tape.away = sizeof(T) * slot * (KEPT + 2) > NEAR;
      kept_states(tape, stash + at, slot);
    }
    State s = {in(g.y0) + at, in(g.z0) + at};
    if (g.save == LOW) {
      const size_t blocks = (g.T + g.block - 1) / g.block;
      w.own.resize(size_t(2) * n * H);
      for (int t = 0; t < g.T; t += int(g.block)) {
        T* to = stash + size_t(t / g.block) * step + at;
        std::memcpy(to, s.y, sizeof(T) * n * H);
        std::memcpy(to + blocks * step, s.z, sizeof(T) * n * H);
        s = run(w, r0, n, t, int(std::min<int64_t>(g.T, t + g.block)), s, tape);
        std::memcpy(w.own.get(), s.y, sizeof(T) * n * H);
        std::memcpy(w.own.get() + size_t(n) * H, s.z, sizeof(T) * n * H);
        s = {w.own.get(), w.own.get() + size_t(n) * H};
      }
    } else {
      s = run(w, r0, n, 0, int(g.T), s, tape);
    }
    std::memcpy((T*)g.y + at, s.y, sizeof(T) * n * H);
    std::memcpy((T*)g.z + at, s.z, sizeof(T) * n * H);
  }
  // states that are no sequence of the caller's stand behind the slots: z, then y
  void kept_states(Tape& tape, T* stash, size_t slot) const {
    if (g.wanted < 2) tape.z = stash + KEPT * slot;
    if (g.wanted < 1) tape.y = stash + (KEPT + 1) * slot;
  }

  static GY_INLINE void keep(bool away, T* p, V v, int n) { away ? store_away(p, v, n) : store(p, v, n); }

  bool usual() const { return !g.dt && !g.active; }  // every row moves at every step, and all by the same

  State run(Worker& w, int r0, int n, int t0, int t1, State s, const Tape& tape) const {
    if (!usual()) return run<false, false>(w, r0, n, t0, t1, s, tape);
    return tape.away ? run<true, true>(w, r0, n, t0, t1, s, tape) : run<true, false>(w, r0, n, t0, t1, s, tape);
  }
  template <bool usual, bool full>
  State run(Worker& w, int r0, int n, int t0, int t1, State s, const Tape& tape) const {
    const size_t size = size_t(n) * H;
    w.ping.resize(4 * size), w.gate.resize(size);
    const T *const of_y[] = {bias_of(P2), bias_of(P1), bias_of(PZ)}, *const of_z[] = {bias_of(PY)};
    // copies: the compiler must not read them again after each store
    const bool slots = full || tape.slots, away = full || tape.away, steps = !usual && g.dt;
    const int H = this->H, Gy = wy.G, Gz = wz.G;
    const V step = splat<T>(T(g.step));
    for (int t = t0; t < t1; ++t) {
      // the states that the next step reads stay where the cache has them; what is kept of them goes away like the rest
      T *const ny = w.ping.get() + (t & 1) * 2 * size, *const nz = ny + size, *const s2 = w.gate.get();
      T *const kept_y = tape.y ? tape.state(tape.y, t) : nullptr, *const kept_z = tape.z ? tape.state(tape.z, t) : nullptr;
      const T *const y = s.y, *const z = s.z;
      const Rows<T> x = {in(g.x) + (size_t(t) * g.B + r0) * F, F};
      T *const k2 = slots ? tape.at(S2, t) : nullptr, *const k1 = slots ? tape.at(S1, t) : nullptr;
      T *const cz = slots ? tape.at(C, t) : nullptr, *const ey = slots ? tape.at(E, t) : nullptr;
      const uint8_t* const moving = usual ? nullptr : this->moving(t, r0);
      product(
          wy, Rows<T>{y, H}, n,
          [&](int j, int first, int R, V* acc) GY_INLINED { affine(xy, of_y, x, j, first, R, acc); },
          [&](int j, int first, int R, V* acc) GY_INLINED {
            each_vector<T>(Gy, H, j, first, R, [&](int r, int k, int c, auto m) GY_INLINED {
              const size_t at = size_t(r) * H + c;
              const V* a = acc + (r - first) * 3 * Gy + k;
              const V gate2 = sigmoid<T>(a[0]), gate1 = sigmoid<T>(a[Gy]), candidate = tanh<T>(a[2 * Gy]);
              const V old = load(z + at, m), d = steps ? dt(t, r0 + r, c, m) : step;
              const V moved = old + d * gate1 * (candidate - old), now = !moving || moving[r] ? moved : old;
              store(nz + at, now, m);
              store(s2 + at, gate2, m);
              if (kept_z) keep(away, kept_z + at, now, m);
              if (slots) {
                keep(away, k1 + at, gate1, m);
                keep(away, cz + at, candidate, m);
              }
            });
          });
      product(
          wz, Rows<T>{nz, H}, n,
          [&](int j, int first, int R, V* acc) GY_INLINED { affine(xz, of_z, x, j, first, R, acc); },
          [&](int j, int first, int R, V* acc) GY_INLINED {
            each_vector<T>(Gz, H, j, first, R, [&](int r, int k, int c, auto m) GY_INLINED {
              const size_t at = size_t(r) * H + c;
              const V candidate = tanh<T>(acc[(r - first) * Gz + k]);
              const V old = load(y + at, m), d = steps ? dt(t, r0 + r, c, m) : step;
              const V gate2 = load(s2 + at, m);
              const V moved = old + d * gate2 * (candidate - old), now = !moving || moving[r] ? moved : old;
              store(ny + at, now, m);
              if (kept_y) keep(away, kept_y + at, now, m);
              if (slots) {
                keep(away, k2 + at, gate2, m);
                keep(away, ey + at, candidate, m);
              }
            });
          });
      s = {ny, nz};
    }
    return s;
  }

#include "lem_backward.h"
};

}  // namespace gy
