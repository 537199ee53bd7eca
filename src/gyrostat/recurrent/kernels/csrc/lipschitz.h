// Every cell with one state:  h+ = h + dt f  (or f),   f = (A h + phi(W h + u)) * sigmoid(W h + v),   u, v = U x + b,
// explicit Runge-Kutta with u held, noise from a counter. Panels: [A W] of h, [u v] of x.
#pragma once
#include "batch.h"
#include "philox.h"
#include "ring.h"
#include "threads.h"

struct gy_lipschitz {
  int64_t T, B, F, H, threads, block, wanted, save, stages, phi, gated, residual, noise, dt_rows, learns_dt;
  double step, sigma_a, sigma_m, a[16], b[4];
  const void *x, *h0, *weight_ih, *bias, *A, *W, *inner_bias, *dt, *active, *seeds, *additive, *factor;
  void *last, *sequence, *stash;
  const void *grad_last, *grad_sequence;
  void *dx, *dh0, *dweight_ih, *dbias, *dA, *dW, *dinner_bias, *ddt;
};

namespace gy {

enum Phi { TANH, RELU, SIGMOID, IDENTITY, MODRELU };
enum Noise { NONE, SDE, SCALAR, RELEASED, GIVEN };

// What the inner loops branch on: read once for a call, or, for the cells that are usual, known to the compiler.
struct Choices {
  int phi, noise, S;
  bool gated, residual, linear, each_f, steps;
};
template <bool is_linear, Noise its_noise = NONE, int stages = 1> struct Usual {
  static constexpr int phi = TANH, noise = its_noise, S = stages;
  static constexpr bool gated = false, residual = true, linear = is_linear, each_f = false, steps = false;
};

// Hidden: how the weights of the states are kept and multiplied with (Panels, or Pairs for the forward pass alone)
template <class T, class Hidden = Panels<T>> class Lipschitz : Batch<gy_lipschitz> {
  static constexpr int L = Simd<T>::lanes;
  using V = Vec<T>;
  using Base = Batch<gy_lipschitz>;
  using Base::g, Base::active, Base::chunk_of, Base::each_chunk, Base::parts_of, Base::rows_usual;
  const int H, F, S, P, I;  // stages; parts of the product with h, and with x
  const bool linear, each_f;
  const int each;  // kept per stage: phi, gate, f before the gate
  const int columns, wide;
  const V root_of_step;
  Hidden wh;
  Panels<T> wx, bh, bx;

  // Where the states and what the backward pass reads are kept: the stash, or one block of a thread.
  struct Tape {
    T *h = nullptr, *slots = nullptr;
    long step = 0, slot = 0;  // from step to step and from slot to slot
    int t0 = 0;
    bool away = false;  // read again only after everything else
    T* state(int t) const { return h + (t - t0) * step; }
    T* at(int s, int t) const { return slots + s * slot + (t - t0) * step; }
  };
  // What one thread works with.
  struct Worker {
    Buffer<T> ping, k, stage, noise, G, E, own, scratch, row_dt;
    Ring<T> ring;
    Buffer<T> sum_h, sum_x, sum_b, sum_inner, sum_dt;
  };

 public:
  template <class... How>
  explicit Lipschitz(const gy_lipschitz& args, How... how)
      : Base(args), H(int(g.H)), F(int(g.F)), S(int(g.stages)), P(g.A ? 2 : 1), I(g.gated ? 2 : 1), linear(g.A),
        each_f(linear && (g.gated || g.learns_dt)), each(1 + int(g.gated) + each_f), columns(Panels<T>::vectors(H)),
        wide(columns * L), root_of_step(root(splat<T>(T(g.step)))), wh(how...) {}

  void forward() {
    pack_forward();
    Team::run(parts_of(), [&](int part) {
      Worker w;
      each_chunk(part, [&](int r0, int n) {
        const typename Hidden::Session session(wh, n);
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
      w.ring.shape(chunk_of(part), g.T * S, P + (g.gated ? 2 : 0), H, {H, F});
      if (g.dW || g.dA) w.sum_h.zero(w.ring.room(0, P));
      if (g.dweight_ih) w.sum_x.zero(w.ring.room(1, I));
      if (g.dbias) w.sum_b.zero(w.ring.ones_room(I));
      if (g.dinner_bias) w.sum_inner.zero(wide);
      if (g.ddt && !g.dt_rows) w.sum_dt.zero(wide);
      each_chunk(part, [&](int r0, int n) { backward_rows(w, r0, n); });
    });
    reduce(workers);
  }

 private:
  static const T* in(const void* p) { return (const T*)p; }

  void pack_forward() {
    const Part<T> hidden[] = {{in(g.A), H, 1}, {in(g.W), H, 1}};
    wh.shape(P, H, H, rows_usual(), I);
    wh.pack(linear ? hidden : hidden + 1);
    const Part<T> input[] = {{in(g.weight_ih), F, 1}, {in(g.weight_ih) + size_t(H) * F, F, 1}};
    wx.follow(wh, I, F);
    wx.pack(input);
  }

  void pack_backward() {
    // one product whose inner index runs over the outputs of all parts, each filled up to whole tiles
    const int padded = Ring<T>::padded_to(H);
    stacked(bh, linear ? in(g.A) : in(g.W), linear ? in(g.W) : nullptr, H, padded, P);
    if (g.dx) stacked(bx, in(g.weight_ih), in(g.weight_ih) + size_t(H) * F, F, padded, I);
  }
  void stacked(Panels<T>& to, const T* first, const T* second, int N, int padded, int count) {
    Buffer<T> both;
    both.resize(size_t(2) * H * N);
    std::memcpy(both.get(), first, sizeof(T) * H * N);
    if (count == 2) std::memcpy(both.get() + size_t(H) * N, second, sizeof(T) * H * N);
    const Part<T> part = {both.get(), 1, N};
    to.shape(1, count * H, N, rows_usual());
    to.pack(&part, H, padded);
  }

  GY_INLINE V phi(int kind, V a, int c, int n) const {
    switch (kind) {
      case TANH: return tanh<T>(a);
      case RELU: return a < T(0) ? V{} : a;
      case SIGMOID: return sigmoid<T>(a);
      case IDENTITY: return a;
      default: {
        const V low = a < T(0) ? -a : a, lifted = low + load(in(g.inner_bias) + c, n);
        const V grown = lifted < T(0) ? V{} : lifted;
        return a == T(0) ? a : (a < T(0) ? -grown : grown);
      }
    }
  }
  static GY_INLINE V slope(int kind, V t) {
    switch (kind) {
      case TANH: return T(1) - t * t;
      case RELU: return t > T(0) ? splat<T>(1) : V{};
      case SIGMOID: return t * (T(1) - t);
      case IDENTITY: return splat<T>(1);
      default: return t != T(0) ? splat<T>(1) : V{};
    }
  }
  V dt(int t, int row, int c, int n) const {
    if (!g.dt) return splat<T>(T(g.step));
    return g.dt_rows ? splat<T>(in(g.dt)[t * g.B + row]) : load(in(g.dt) + c, n);
  }
  // Noise of a step: Gaussians (sde), or what is added and what multiplies the drift; rows of noise_room(H) each.
  void draw_noise(Worker& w, int t, int r0, int n) const {
    const int room = noise_room(H);
    w.noise.resize(size_t(2) * n * room);
    const uint64_t seed = g.seeds ? ((const uint64_t*)g.seeds)[t] : 0;
    for (int r = 0; r < n; ++r) {
      T *first = w.noise.get() + size_t(r) * room, *second = first + size_t(n) * room;
      if (g.noise == GIVEN) {
        const size_t from = (size_t(t) * g.B + r0 + r) * H;
        std::memcpy(first, in(g.additive) + from, sizeof(T) * H);
        std::memcpy(second, in(g.factor) + from, sizeof(T) * H);
      } else if (g.noise == SCALAR) {
        draw<T>(seed, r0 + r, 1, 0, first);
        const T one = first[0];
        for (int i = 0; i < room; ++i) first[i] = one;
      } else {
        draw<T>(seed, r0 + r, H, 0, first);
        if (g.noise == RELEASED) {
          draw<T>(seed, r0 + r, H, 1, second);
          for (int i = 0; i < room; ++i) {
            first[i] *= T(g.sigma_a);
            second[i] = T(g.sigma_m) * second[i] + T(1 - g.sigma_m);
          }
        }
      }
    }
  }

  void forward_rows(Worker& w, int r0, int n) {
    Tape tape;
    const size_t at = size_t(r0) * H, step = size_t(g.B) * H, slot = step * g.T;
    tape.step = long(step);
    T* stash = (T*)g.stash;
    if (g.wanted) tape.h = (T*)g.sequence + at;
    if (g.save == FULL) {
      tape.slots = stash + at, tape.slot = long(slot), tape.away = sizeof(T) * slot * (S * each + S) > NEAR;
      if (!g.wanted) tape.h = stash + size_t(S * each + S - 1) * slot + at;
    }
    const T* h = in(g.h0) + at;
    if (g.save == LOW)
      for (int t = 0; t < g.T; t += int(g.block)) {
        std::memcpy(stash + size_t(t / g.block) * step + at, h, sizeof(T) * n * H);
        h = run(w, r0, n, t, int(std::min<int64_t>(g.T, t + g.block)), h, tape);
        w.own.resize(size_t(n) * H);  // the ping-pong buffers are used again
        std::memcpy(w.own.get(), h, sizeof(T) * n * H);
        h = w.own.get();
      }
    else
      h = run(w, r0, n, 0, int(g.T), h, tape);
    std::memcpy((T*)g.last + at, h, sizeof(T) * n * H);
  }

  static GY_INLINE void keep(bool away, T* p, V v, int n) { away ? store_away(p, v, n) : store(p, v, n); }

  // Steps t0..t1-1 of n rows from r0 on; the states go to the tape, or only the last one survives.
  const T* run(Worker& w, int r0, int n, int t0, int t1, const T* h, const Tape& tape) const {
    return chosen([&](const auto& o) { return run(o, w, r0, n, t0, t1, h, tape); });
  }
  // work(choices), the usual ones as a type
  template <class Work> auto chosen(Work&& work) const {
    const Choices o = {int(g.phi), int(g.noise), S, bool(g.gated), bool(g.residual), linear, each_f, g.dt != nullptr};
    const bool usual = o.phi == TANH && !o.gated && o.residual && !o.each_f && !o.steps;
    if (usual && o.S == 1 && linear && o.noise == SDE) return work(Usual<true, SDE>{});
    if (!usual || o.noise || o.S > 2 || (o.S == 2 && !linear)) return work(o);
    return o.S == 2 ? work(Usual<true, NONE, 2>{}) : linear ? work(Usual<true>{}) : work(Usual<false>{});
  }
  template <class O>
  const T* run(const O& o, Worker& w, int r0, int n, int t0, int t1, const T* h, const Tape& tape) const {
    const size_t size = size_t(n) * H;
    w.ping.resize(2 * size);
    if (S > 1) w.k.resize(size * S), w.stage.resize(2 * size);
    for (int t = t0; t < t1; ++t) {
      // the state that the next step reads stays where the cache has it; what is kept of it goes away like the rest
      T* next = w.ping.get() + (t & 1) * size;
      if (g.noise) draw_noise(w, t, r0, n);
      const T* from = h;
      for (int i = 0; i < S; ++i) {
        // the input of the next stage
        T* to = i + 1 == S ? nullptr : tape.slots ? tape.at(S * each + i, t) : w.stage.get() + (i & 1) * size;
        stage(o, w, i, t, r0, n, from, to, h, next, tape);
        from = to;
      }
      h = next;
    }
    return h;
  }

  // whether the slope of stage i is read after the input of stage i + 1 is made
  bool kept(int i) const {
    bool found = g.b[i] != 0;
    for (int l = i + 2; l < S; ++l) found |= g.a[l * 4 + i] != 0;
    return found;
  }

  template <class O>
  void stage(const O o, const Worker& w, int i, int t, int r0, int n, const T* from, T* to, const T* h, T* next,
             const Tape& tape) const {
    const Rows<T> x = {in(g.x) + (size_t(t) * g.B + r0) * F, F};
    const T* const bias[] = {in(g.bias), g.bias ? in(g.bias) + H : nullptr};
    // copies: the compiler must not read them again after each store
    const int P = o.linear ? 2 : 1, G = wh.G, H = this->H;
    const size_t room = noise_room(H), size = size_t(n) * H;
    const bool slots = tape.slots, away = tape.away, keeps_f = to && kept(i);
    T *const kept_phi = slots ? tape.at(i * each, t) : nullptr, *const kept_h = tape.h ? tape.state(t) : nullptr;
    T *const kept_gate = slots && o.gated ? tape.at(i * each + 1, t) : nullptr;
    T *const kept_q = slots && o.each_f ? tape.at(i * each + each - 1, t) : nullptr, *const slopes = w.k.get();
    const T* const drawn = w.noise.get();
    const uint8_t* const moving = this->moving(t, r0);
    const V fixed = splat<T>(T(g.step)), root_fixed = root_of_step;
    const V sigma_a = splat<T>(T(g.sigma_a)), sigma_m = splat<T>(T(g.sigma_m));
    alignas(64) V inputs[MOST];
    product(
        wh, Rows<T>{from, H}, n,
        [&](int j, int first, int R, V* acc) GY_INLINED {
          // the gate has a sum of its own, so that W h is needed without any input
          if (!o.gated) return affine(wx, bias, x, j, first, R, acc, (P - 1) * G);
          affine(wx, bias, x, j, first, R, inputs);
          std::fill(acc, acc + R * P * G, V{});
        },
        [&](int j, int first, int R, V* acc) GY_INLINED {
          each_vector<T>(G, H, j, first, R, [&](int r, int k, int c, auto m) GY_INLINED {
            const size_t at = size_t(r) * H + c;
            const V *a = acc + (r - first) * P * G + k, *u = inputs + (r - first) * 2 * G + k;
            const V Wh = a[(P - 1) * G];
            const V p = phi(o.phi, o.gated ? Wh + u[0] : Wh, c, m);
            V f = o.linear ? a[0] + p : p;
            if (slots) keep(away, kept_phi + at, p, m);
            if (o.each_f && kept_q) store(kept_q + at, f, m);
            if (o.gated) {
              const V s = sigmoid<T>(Wh + u[G]);
              f *= s;
              if (slots) store(kept_gate + at, s, m);
            }
            const V old = load(h + at, m), d = o.steps ? dt(t, r0 + r, c, m) : fixed;
            if (o.S > 1 && to) {
              if (keeps_f) store(slopes + i * size + at, f, m);
              V s = T(g.a[(i + 1) * 4 + i]) * f;
              for (int l = 0; l < i; ++l)
                if (g.a[(i + 1) * 4 + l] != 0) s += T(g.a[(i + 1) * 4 + l]) * load(slopes + l * size + at, m);
              store(to + at, old + d * s, m);
              return;
            }
            V move = f;
            if (o.noise) {
              const T* z = drawn + r * room + c;
              if (o.noise == SDE || o.noise == SCALAR)
                move = d * f + (o.steps ? root(d) : root_fixed) * ((sigma_a + sigma_m * f) * load(z));
              else
                move = d * (load(z + n * room) * f) + load(z);
            } else if (o.residual) {
              if (o.S > 1) {
                move = T(g.b[o.S - 1]) * f;
                for (int l = 0; l + 1 < o.S; ++l)
                  if (g.b[l] != 0) move += T(g.b[l]) * load(slopes + l * size + at, m);
              }
              move = d * move;
            }
            const V now = moving && !moving[r] ? old : o.residual ? old + move : move;
            store(next + at, now, m);
            if (kept_h) keep(away, kept_h + at, now, m);
          });
        });
  }

#include "lipschitz_backward.h"
};

}  // namespace gy
