// The backward pass of class Lem (included inside it). Gy and Gz are the gradients of y+ and z+, turned into those of y and
// z; the ring holds the gradients of the sums inside the products, parts 2, 1, z, y.

void backward_rows(Worker& w, int r0, int n) {
  const size_t at = size_t(r0) * H, step = size_t(g.B) * H, slot = step * g.T, size = size_t(n) * H;
  enter(w.Gy, in(g.grad_y), at, n);
  enter(w.Gz, in(g.grad_z), at, n);
  Tape tape;
  if (g.save == LOW) {
    const int block = int(g.block);
    const size_t blocks = (g.T + block - 1) / block;
    w.own.resize(size * block * (KEPT + 2));
    tape.slots = w.own.get(), tape.slot = long(size * block), tape.step = long(size);
    tape.z = tape.slots + KEPT * tape.slot, tape.y = tape.z + tape.slot;
    for (int t1 = int(g.T); t1 > 0; t1 = tape.t0) {
      tape.t0 = (t1 - 1) / block * block;
      const T* from = in(g.stash) + size_t(tape.t0 / block) * step + at;
      const State start = {from, from + blocks * step};
      run(w, r0, n, tape.t0, t1, start, tape);
      unwind(w, r0, n, tape.t0, t1, start, tape);
    }
  } else {
    tape.step = long(step), tape.slot = long(slot), tape.slots = (T*)g.stash + at;
    kept_states(tape, tape.slots, slot);
    if (g.wanted > 0) tape.y = (T*)g.ys + at;
    if (g.wanted > 1) tape.z = (T*)g.zs + at;
    unwind(w, r0, n, 0, int(g.T), {in(g.y0) + at, in(g.z0) + at}, tape);
  }
  flush(w);
  w.ring.clear();
  leave(w.Gy, (T*)g.dy0, at, n);
  leave(w.Gz, (T*)g.dz0, at, n);
}

void enter(Buffer<T>& to, const T* from, size_t at, int n) const {
  to.zero(size_t(n) * wide);
  for (int r = 0; from && r < n; ++r) std::memcpy(to.get() + size_t(r) * wide, from + at + size_t(r) * H, sizeof(T) * H);
}
void leave(const Buffer<T>& from, T* to, size_t at, int n) const {
  for (int r = 0; to && r < n; ++r) std::memcpy(to + at + size_t(r) * H, from.get() + size_t(r) * wide, sizeof(T) * H);
}
void add_sequence(const Buffer<T>& to, const T* from, int t, int r0, int n) const {
  if (!from) return;
  for (int r = 0; r < n; ++r)
    for (int c = 0; c < H; c += L) {
      T* p = to.get() + size_t(r) * wide + c;
      store(p, load(p) + load(from + (size_t(t) * g.B + r0 + r) * H + c, H - c));
    }
}

void flush(Worker& w) const {
  if (w.ring.empty()) return;
  if (w.sum_hh.get()) w.ring.add(0, 0, 3, w.sum_hh.get());
  if (w.sum_zy.get()) w.ring.add(1, 3, 1, w.sum_zy.get());
  if (w.sum_x.get()) w.ring.add(2, 0, 4, w.sum_x.get());
  if (w.sum_b.get()) w.ring.add_ones(0, 4, w.sum_b.get());
}

static State before(int t, int t0, const State& start, const Tape& tape) {
  return t > t0 ? State{tape.state(tape.y, t - 1), tape.state(tape.z, t - 1)} : start;
}
// what step t reads
Ahead ahead_of(int t, int t0, int n, const State& start, const Tape& tape) const {
  Ahead found(n, sizeof(T) * H);
  if (t < t0) return found;
  const State old = before(t, t0, start, tape);
  for (int s = 0; s < KEPT; ++s) found.add(tape.at(s, t));
  found.add(old.y), found.add(old.z);
  found.spread(by.turns(n) + bz.turns(n));
  return found;
}

void unwind(Worker& w, int r0, int n, int t0, int t1, const State& start, const Tape& tape) const {
  for (int t = t1 - 1; t >= t0; --t) {
    const State before = this->before(t, t0, start, tape);
    add_sequence(w.Gy, in(g.grad_ys), t, r0, n);
    add_sequence(w.Gz, in(g.grad_zs), t, r0, n);
    if (g.ddt && g.dt_rows) w.row_dt.zero(n);
    w.ring.next(n, [&] { flush(w); });
    Ahead ahead = ahead_of(t - 1, t0, n, start, tape);
    of_y(w, t, r0, n, before, tape);
    product(bz, w.ring.rows(3), n, [&](int j, int first, int R, V* acc) GY_INLINED { add_to(w.Gz, bz, j, first, R, acc); }, &ahead);
    of_z(w, t, r0, n, before, tape);
    product(by, w.ring.rows(0), n, [&](int j, int first, int R, V* acc) GY_INLINED { add_to(w.Gy, by, j, first, R, acc); }, &ahead);
    w.ring.input(0, before.y, H, n);
    w.ring.input(1, tape.state(tape.z, t), H, n);
    w.ring.input(2, in(g.x) + (size_t(t) * g.B + r0) * F, F, n);
    if (g.dx) {
      T* dx = (T*)g.dx + (size_t(t) * g.B + r0) * F;
      product(bx, w.ring.rows(0), n, [&](int j, int first, int R, V* acc) {
        for (int rr = 0; rr < R; ++rr)
          for (int k = 0; k < bx.G; ++k) {
            const int c = (j * bx.G + k) * L;
            store(dx + size_t(first + rr) * F + c, acc[rr * bx.V + k], F - c);
          }
      });
    }
    if (g.ddt && g.dt_rows) std::memcpy((T*)g.ddt + size_t(t) * g.B + r0, w.row_dt.get(), sizeof(T) * n);
  }
}

GY_INLINE void add_to(const Buffer<T>& G, const Panels<T>& b, int j, int first, int R, const V* acc) const {
  const int count = b.G, row = wide;
  T* const to = G.get();
  for (int rr = 0; rr < R; ++rr)
    for (int k = 0; k < count; ++k) {
      T* p = to + size_t(first + rr) * row + (j * count + k) * L;
      store(p, load(p) + acc[rr * count + k]);
    }
}

// s+ = s + d step (c - s): from G, the gradient of s+, those of s (in its place), of the sum in c and of the sum in step
template <bool usual>
GY_INLINE void of_state(Worker& w, Buffer<T>& gradient, int t, int r0, int n, Slot step, Slot candidate, const T* state,
                        int part_c, int part_step, const Tape& tape) const {
  // copies: the compiler must not read them again after each store
  const int H = this->H, wide = this->wide;
  const bool steps = !usual && g.dt, learns = !usual && g.ddt;
  const V fixed = splat<T>(T(g.step));
  const T *const s = tape.at(step, t), *const c = tape.at(candidate, t);
  const uint8_t* const moving = usual ? nullptr : this->moving(t, r0);
  T* const G = gradient.get();
  const long tile = w.ring.tile();
  for (int r = 0; r < n; ++r) {
    T *const to_c = w.ring.at(part_c, 0, r), *const to_step = w.ring.at(part_step, 0, r);
    const bool moves = !moving || moving[r];
    each_column<T>(H, [&](int column, auto m) GY_INLINED {
      const size_t at = size_t(r) * H + column * L, to = Ring<T>::within(column, tile);
      T* const p = G + size_t(r) * wide + column * L;
      V dc{}, ds{};
      if (moves) {
        const V sigma = load(s + at, m), e = load(c + at, m), moved = e - load(state + at, m);
        const V d = steps ? dt(t, r0 + r, column * L, m) : fixed, grad = load(p), pull = grad * d * sigma;
        dc = pull * (T(1) - e * e);
        ds = grad * d * moved * (sigma * (T(1) - sigma));
        store(p, grad - pull);
        if (learns) add_dt(w, r, column * L, grad * sigma * moved);
      }
      store(to_c + to, dc);
      store(to_step + to, ds);
    });
  }
}
void of_y(Worker& w, int t, int r0, int n, const State& before, const Tape& tape) const {
  usual() ? of_state<true>(w, w.Gy, t, r0, n, S2, E, before.y, 3, 0, tape)
          : of_state<false>(w, w.Gy, t, r0, n, S2, E, before.y, 3, 0, tape);
}
// with what came through y+
void of_z(Worker& w, int t, int r0, int n, const State& before, const Tape& tape) const {
  usual() ? of_state<true>(w, w.Gz, t, r0, n, S1, C, before.z, 2, 1, tape)
          : of_state<false>(w, w.Gz, t, r0, n, S1, C, before.z, 2, 1, tape);
}

void add_dt(Worker& w, int r, int c, V part) const {
  if (g.dt_rows)
    w.row_dt[r] += sum<T>(c + L <= H ? part : load_some((const T*)&part, H - c));
  else
    store(w.sum_dt.get() + c, load(w.sum_dt.get() + c) + part);
}

void reduce(const std::vector<Worker>& workers) const {
  if (!g.B) return;
  const Ring<T>& ring = workers[0].ring;
  const auto all = [&](auto member) { return sums<T>(workers, member); };
  if (g.dweight_hh) ring.write(0, 3, all(&Worker::sum_hh), (T*)g.dweight_hh);
  if (g.dweight_zy) ring.write(1, 1, all(&Worker::sum_zy), (T*)g.dweight_zy);
  if (g.dweight_ih) turn<T>((T*)g.dweight_ih, size_t(H) * F, [&](T* to) { ring.write(2, 4, all(&Worker::sum_x), to); });
  if (g.dbias) turn<T>((T*)g.dbias, H, [&](T* to) { ring.write_ones(4, all(&Worker::sum_b), to); });
  if (g.ddt && !g.dt_rows) add_up(all(&Worker::sum_dt), H, (T*)g.ddt);
}
// the ring has y last, weight_ih has it before z
template <class U, class Write> static void turn(U* to, size_t size, Write&& write) {
  write(to);
  std::swap_ranges(to + 2 * size, to + 3 * size, to + 3 * size);
}
