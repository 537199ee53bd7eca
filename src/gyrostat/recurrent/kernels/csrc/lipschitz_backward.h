// The backward pass of class Lipschitz (included inside it). G is the gradient of h+, turned step by step into that of h;
// d are the gradients of the sums inside the products: parts [A W], and behind them u and v where there is a gate.

void backward_rows(Worker& w, int r0, int n) {
  const size_t at = size_t(r0) * H, step = size_t(g.B) * H, slot = step * g.T;
  w.G.zero(size_t(n) * wide);
  if (S > 1) w.E.zero(size_t(S) * n * wide);
  if (g.grad_last)
    for (int r = 0; r < n; ++r) std::memcpy(w.G.get() + size_t(r) * wide, in(g.grad_last) + at + size_t(r) * H, sizeof(T) * H);
  const T* stash = in(g.stash);
  if (g.save == LOW) {
    const int block = int(g.block), kept = S * each + S - 1;
    const size_t size = size_t(n) * H;
    w.own.resize(size * block * (kept + 1));
    for (int t1 = int(g.T); t1 > 0;) {
      const int t0 = (t1 - 1) / block * block;
      Tape tape;
      tape.h = w.own.get(), tape.slots = w.own.get() + size * block;
      tape.step = long(size), tape.slot = long(size * block), tape.t0 = t0;
      const T* h = stash + size_t(t0 / block) * step + at;
      run(w, r0, n, t0, t1, h, tape);
      unwind(w, r0, n, t0, t1, h, tape);
      t1 = t0;
    }
  } else {
    Tape tape;
    tape.step = long(step), tape.slot = long(slot);
    tape.slots = (T*)g.stash + at;
    tape.h = g.wanted ? (T*)g.sequence + at : (T*)g.stash + size_t(S * each + S - 1) * slot + at;
    unwind(w, r0, n, 0, int(g.T), in(g.h0) + at, tape);
  }
  flush(w);
  w.ring.clear();
  if (g.dh0)
    for (int r = 0; r < n; ++r) std::memcpy((T*)g.dh0 + at + size_t(r) * H, w.G.get() + size_t(r) * wide, sizeof(T) * H);
}

void flush(Worker& w) const {
  if (w.ring.empty()) return;
  if (w.sum_h.get()) w.ring.add(0, 0, P, w.sum_h.get());
  const int part = g.gated ? P : P - 1;
  if (w.sum_x.get()) w.ring.add(1, part, I, w.sum_x.get());
  if (w.sum_b.get()) w.ring.add_ones(part, I, w.sum_b.get());
}

void unwind(Worker& w, int r0, int n, int t0, int t1, const T* start, const Tape& tape) const {
  chosen([&](const auto& o) { unwind(o, w, r0, n, t0, t1, start, tape); });
}
template <class O>
void unwind(const O& o, Worker& w, int r0, int n, int t0, int t1, const T* start, const Tape& tape) const {
  for (int t = t1 - 1; t >= t0; --t) {
    if (g.grad_sequence)
      for (int r = 0; r < n; ++r)
        for (int c = 0; c < H; c += L) {
          T* to = w.G.get() + size_t(r) * wide + c;
          store(to, load(to) + load(in(g.grad_sequence) + (size_t(t) * g.B + r0 + r) * H + c, H - c));
        }
    if (g.noise) draw_noise(w, t, r0, n);
    if (g.ddt && g.dt_rows) w.row_dt.zero(n);
    const T* h = t > t0 ? tape.state(t - 1) : start;
    for (int i = S - 1; i >= 0; --i) {
      w.ring.next(n, [&] { flush(w); });
      inner_gradients(o, w, i, t, r0, n, tape);
      w.ring.input(0, i ? tape.at(S * each + i - 1, t) : h, H, n);
      w.ring.input(1, in(g.x) + (size_t(t) * g.B + r0) * F, F, n);
      Ahead ahead = i ? ahead_of(i - 1, t, t0, n, start, tape) : ahead_of(S - 1, t - 1, t0, n, start, tape);
      outer_gradients(w, i, t, r0, n, ahead);
    }
    if (g.ddt && g.dt_rows) std::memcpy((T*)g.ddt + size_t(t) * g.B + r0, w.row_dt.get(), sizeof(T) * n);
  }
}

// what stage i of step t reads
Ahead ahead_of(int i, int t, int t0, int n, const T* start, const Tape& tape) const {
  Ahead found(n, sizeof(T) * H);
  if (t < t0) return found;
  for (int e = 0; e < each; ++e) found.add(tape.at(i * each + e, t));
  found.add(i ? tape.at(S * each + i - 1, t) : t > t0 ? tape.state(t - 1) : start);
  found.spread(bh.turns(n));
  return found;
}

static GY_INLINE void add(T* to, V v) { store(to, load(to) + v); }

// d of all parts of stage i, from G and the gradients E of the inputs of the later stages
template <class O> void inner_gradients(const O o, Worker& w, int i, int t, int r0, int n, const Tape& tape) const {
  // copies: the compiler must not read them again after each store
  const int P = o.linear ? 2 : 1, H = this->H, wide = this->wide;
  const size_t room = noise_room(H);
  const T *const kept_phi = tape.at(i * each, t), *const kept_gate = o.gated ? tape.at(i * each + 1, t) : nullptr;
  const T *const kept_q = o.each_f ? tape.at(i * each + each - 1, t) : kept_phi, *const drawn = w.noise.get();
  const T *const outer = w.G.get(), *const later = w.E.get();
  T *const sum_inner = w.sum_inner.get(), *const sum_dt = w.sum_dt.get();
  T* const row_dt = g.ddt && g.dt_rows ? w.row_dt.get() : nullptr;
  const uint8_t* const moving = this->moving(t, r0);
  const V fixed = splat<T>(T(g.step)), root_fixed = root_of_step, one = splat<T>(1);
  const V sigma_a = splat<T>(T(g.sigma_a)), sigma_m = splat<T>(T(g.sigma_m));
  const long tile = w.ring.tile(), part = tile * w.ring.tiles_of_part();
  for (int r = 0; r < n; ++r) {
    const bool moves = !moving || moving[r];
    T* const ring = w.ring.at(0, 0, r);
    each_column<T>(H, [&](int column, auto m) GY_INLINED {
      const int c = column * L;
      const size_t at = size_t(r) * H + c;
      const V p = load(kept_phi + at, m), s = o.gated ? load(kept_gate + at, m) : one, q = o.each_f ? load(kept_q + at, m) : p;
      V weighted = load(outer + size_t(r) * wide + c);
      if (o.S > 1) {
        weighted *= T(g.b[i]);
        for (int l = i + 1; l < o.S; ++l)
          if (g.a[l * 4 + i] != 0) weighted += T(g.a[l * 4 + i]) * load(later + (size_t(l) * n + r) * wide + c);
      }
      V df = weighted, ddt{};
      if (o.residual) {
        const V d = o.steps ? dt(t, r0 + r, c, m) : fixed;
        const V f = q * s;
        if (!o.noise) {
          df = d * weighted;
          ddt = weighted * f;
        } else {
          const V z = load(drawn + r * room + c);
          if (o.noise == SDE || o.noise == SCALAR) {
            const V root_d = o.steps ? root(d) : root_fixed;
            df = weighted * (d + root_d * (sigma_m * z));
            if (o.steps) ddt = weighted * (f + T(0.5) / root_d * ((sigma_a + sigma_m * f) * z));
          } else {
            const V factor = load(drawn + size_t(n + r) * room + c);
            df = weighted * (d * factor);
            ddt = weighted * (factor * f);
          }
        }
      }
      if (!moves) df = V{}, ddt = V{};
      V dq = df, dv{};
      if (o.gated) {
        dq = df * s;
        dv = df * q * (s * (one - s));
      }
      const V du = dq * slope(o.phi, p);
      T* const to = ring + Ring<T>::within(column, tile);
      if (o.linear) store(to, dq);
      store(to + (P - 1) * part, o.gated ? du + dv : du);
      if (o.gated) {
        store(to + P * part, du);
        store(to + (P + 1) * part, dv);
      }
      if (sum_inner) add(sum_inner + c, p < T(0) ? -du : du);
      if (sum_dt) add(sum_dt + c, ddt);
      if (row_dt) row_dt[r] += sum<T>(m >= L ? ddt : load_some((const T*)&ddt, m));
    });
  }
}

// through the products: to the input of stage i, and to x
void outer_gradients(Worker& w, int i, int t, int r0, int n, Ahead& ahead) const {
  const int G = bh.G, S = this->S, wide = this->wide;
  const bool residual = g.residual;
  const size_t size = size_t(n) * wide;
  const uint8_t* const moving = this->moving(t, r0);
  T *const outer = w.G.get(), *const later = w.E.get();
  product(bh, w.ring.rows(0), n, [&](int j, int first, int R, V* acc) GY_INLINED {
    for (int r = first; r < first + R; ++r) {
      const bool adds = residual || (moving && !moving[r]);
      for (int k = 0; k < G; ++k) {
        const size_t at = size_t(r) * wide + (j * G + k) * L;
        V e = acc[(r - first) * G + k];
        if (i) {
          store(later + i * size + at, e);
          continue;
        }
        for (int l = 1; l < S; ++l) e += load(later + l * size + at);
        store(outer + at, adds ? load(outer + at) + e : e);
      }
    }
  }, &ahead);
  if (!g.dx) return;
  T* const dx = (T*)g.dx + (size_t(t) * g.B + r0) * F;
  const int Gx = bx.G, F = this->F;
  const bool adds = i + 1 < S;
  product(bx, w.ring.rows(g.gated ? P : P - 1), n, [&](int j, int first, int R, V* acc) GY_INLINED {
    each_vector<T>(Gx, F, j, first, R, [&](int r, int k, int c, auto m) GY_INLINED {
      T* to = dx + size_t(r) * F + c;
      const V e = acc[(r - first) * Gx + k];
      store(to, adds ? load(to, m) + e : e, m);
    });
  });
}

void reduce(const std::vector<Worker>& workers) const {
  if (!g.B) return;
  const Ring<T>& ring = workers[0].ring;
  const auto all = [&](auto member) { return sums<T>(workers, member); };
  if (g.dA || g.dW) {
    Buffer<T> both;
    both.resize(size_t(P) * H * H);
    ring.write(0, P, all(&Worker::sum_h), both.get());
    if (g.dA) std::memcpy(g.dA, both.get(), sizeof(T) * H * H);
    if (g.dW) std::memcpy(g.dW, both.get() + size_t(P - 1) * H * H, sizeof(T) * H * H);
  }
  if (g.dweight_ih) ring.write(1, I, all(&Worker::sum_x), (T*)g.dweight_ih);
  if (g.dbias) ring.write_ones(I, all(&Worker::sum_b), (T*)g.dbias);
  if (g.dinner_bias) add_up(all(&Worker::sum_inner), H, (T*)g.dinner_bias);
  if (g.ddt && !g.dt_rows) add_up(all(&Worker::sum_dt), H, (T*)g.ddt);
}
