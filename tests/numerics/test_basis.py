from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyrostat._errors import ArgumentError
from gyrostat.numerics import projection as pr
from gyrostat.numerics.basis import Basis, BSpline, DGLinear, Hat, PiecewiseConstant
from gyrostat.numerics.families import BASES, parse_basis
from gyrostat.numerics.modal import AffineInDepth, Chebyshev, Cosine, Fourier, Legendre
from tests.conftest import load_golden

# quadrature and small solves in float64: a few hundred roundings
TOL = 1e-12

NODAL = [
    PiecewiseConstant(1),
    PiecewiseConstant(5),
    Hat(1),
    Hat(2),
    Hat(5),
    DGLinear(2),
    DGLinear(6),
    BSpline(4),
    BSpline(7, 2),
]
MODAL = [AffineInDepth(), Legendre(1), Legendre(4), Chebyshev(4), Cosine(4), Fourier(5)]
ALL = NODAL + MODAL


def golden_basis(word: str) -> Basis:
    name, k, *degree = word.rsplit("_deg", 1)[0].rsplit("_", 1) + (
        [word.rsplit("_deg", 1)[1]] if "_deg" in word else []
    )
    if name == "bspline":
        return BSpline(int(k), int(degree[0]) if degree else 3)
    return parse_basis(f"{name}:{k}")


def test_values_and_mass_matrices_agree_with_golden():
    golden = load_golden("depth_math_basis")
    seen = 0
    for key, value in golden.items():
        if not key.startswith("phi/") or "monomial" in key:
            continue
        basis = golden_basis(key.removeprefix("phi/"))
        np.testing.assert_allclose(basis.rows(golden["t"].tolist()), value, atol=TOL, err_msg=key)
        np.testing.assert_allclose(pr.gram_matrix(basis), golden[key.replace("phi/", "mass/")], atol=TOL, err_msg=key)
        seen += 1
    assert seen > 15


def test_released_evaluation_refinement_and_interpolation():
    golden = load_golden("depth_jax_basis")
    for key, value in golden.items():
        parts = key.split("/")
        if key.endswith("/theta"):
            basis = parse_basis(f"{parts[0]}:{parts[1]}")
            nodes = golden[key.replace("theta", "nodes")]
            theta = np.tensordot(basis.rows(golden[key.replace("theta", "t")].tolist()), nodes, 1)
            np.testing.assert_allclose(theta, value, atol=TOL, err_msg=key)
        elif key.endswith("/refined"):
            basis = parse_basis(f"{parts[1]}:{parts[2]}")
            operator = basis.refine()[1]
            np.testing.assert_allclose(
                np.tensordot(operator, golden[key.replace("refined", "nodes")], 1), value, atol=TOL, err_msg=key
            )
        elif parts[0] == "interp":
            source = parse_basis(f"{parts[1]}:{parts[2]}")
            target = parse_basis(f"{parts[3].removeprefix('to_')}:{parts[4]}")
            nodes = golden[f"refine/{parts[1]}/{parts[2]}/nodes"]
            operator = pr.projection_matrix(source, target, "interpolate")
            np.testing.assert_allclose(np.tensordot(operator, nodes, 1), value, atol=TOL, err_msg=key)


def test_projection_agrees_with_golden():
    golden = load_golden("depth_math_projection")
    pairs = sorted({k.rsplit("/", 1)[0] for k in golden if "/to_" in k})
    assert pairs
    for pair in pairs:
        source, target = (golden_basis(w.removeprefix("to_")) for w in pair.split("/"))
        g = {k.rsplit("/", 1)[1]: v for k, v in golden.items() if k.startswith(pair + "/")}
        operator = pr.projection_matrix(source, target)
        np.testing.assert_allclose(operator, g["operator"], atol=TOL, err_msg=pair)
        np.testing.assert_allclose(operator @ g["source"], g["target"], atol=TOL)
        np.testing.assert_allclose(pr.projection_matrix(target, source) @ g["target"], g["back"], atol=TOL)
        np.testing.assert_allclose(pr.squared_norm(source, g["source"]), g["norm2_source"], rtol=TOL)
        np.testing.assert_allclose(pr.squared_norm(target, g["target"]), g["norm2_target"], rtol=TOL)
        e = pr.error_matrix(source, target)
        np.testing.assert_allclose(np.einsum("ip,ij,jp->p", g["source"], e, g["source"]), g["norm2_error"], atol=TOL)
        if "legacy_operator" in g and source.K + target.K > 2:
            legacy = pr.projection_matrix(source, target, "legacy_l2")
            np.testing.assert_allclose(legacy, g["legacy_operator"], atol=1e-9, err_msg=pair)  # normal equations
    for key, value in golden.items():
        if key.startswith("refine/"):
            np.testing.assert_allclose(
                golden_basis(key.removeprefix("refine/")).refine()[1], value, atol=TOL, err_msg=key
            )


def test_sample_projection_agrees_with_golden_also_where_samples_are_too_few():
    golden = load_golden("depth_math_projection")
    for key in [k.removesuffix("/new") for k in golden if k.startswith("state/") and k.endswith("/new")]:
        g = {name: golden[f"{key}/{name}"] for name in ("t", "left", "A", "old", "y", "new", "rank")}
        basis = golden_basis(key.split("/")[1])
        rows = np.array(
            [
                basis.row(Fraction(t).limit_denominator(512), "left" if left else "right")
                for t, left in zip(g["t"], g["left"])
            ]
        )
        np.testing.assert_allclose(rows, g["A"], atol=TOL)
        assert np.linalg.matrix_rank(rows) == g["rank"]
        np.testing.assert_allclose(pr.fit_samples(rows, g["old"], g["y"]), g["new"], atol=TOL, err_msg=key)


def test_released_projections():
    golden = load_golden("depth_jax_projection")
    for key in [k.removesuffix("/target") for k in golden if k.endswith("/target")]:
        _, source, target = key.split("/")
        operator = pr.projection_matrix(golden_basis(source), golden_basis(target.removeprefix("to_")), "legacy_l2")
        # the release solves normal equations
        np.testing.assert_allclose(operator @ golden[key + "/source"], golden[key + "/target"], atol=1e-9, err_msg=key)
    for key in [k.removesuffix("/nodes") for k in golden if k.endswith("/nodes")]:
        basis = golden_basis(key.split("/")[1])
        rows = basis.rows(golden[key + "/t"].tolist())
        nodes = golden[key + "/nodes"]
        found = pr.fit_samples(rows, np.zeros_like(nodes), golden[key + "/y"])
        np.testing.assert_allclose(found, nodes, atol=1e-9, err_msg=key)


@pytest.mark.parametrize("basis", NODAL, ids=Basis.spec)
def test_partition_of_unity(basis):
    for t in [Fraction(i, 60) for i in range(61)]:
        for side in ("left", "right"):
            assert abs(basis.row(t, side).sum() - 1) < TOL


@given(n=st.integers(1, 512), i=st.integers(0, 511), k=st.integers(1, 128))
@settings(deadline=None, max_examples=200)
def test_the_cell_of_a_rational_is_exact(n, i, k):
    i %= n
    found = int(PiecewiseConstant(k).row(Fraction(i, n)).argmax())
    assert found == min(i * k // n, k - 1)
    before = int(PiecewiseConstant(k).row(Fraction(i, n), "left").argmax())
    assert before == max(-(-i * k // n) - 1, 0)


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("basis", ALL, ids=Basis.spec)
def test_refinement_is_the_same_function_also_at_the_breaks(basis, factor):
    finer, operator = basis.refine(factor)
    assert operator.shape == (finer.K, basis.K)
    times = [Fraction(i, 240) for i in range(241)] + list(finer.breakpoints())
    for side in ("left", "right"):
        np.testing.assert_allclose(finer.rows(times, side) @ operator, basis.rows(times, side), atol=TOL)


@pytest.mark.parametrize("target", ALL, ids=Basis.spec)
@pytest.mark.parametrize("source", [PiecewiseConstant(8), Hat(5), Legendre(3), BSpline(6)], ids=Basis.spec)
def test_projection_laws(source, target):
    rng = np.random.default_rng(0)
    theta = rng.standard_normal((source.K, 3))
    p = pr.projection_matrix(source, target)
    back = pr.projection_matrix(target, source)
    # Pythagoras
    norm, part = pr.squared_norm(source, theta), pr.squared_norm(target, p @ theta)
    error = np.einsum("ip,ij,jp->p", theta, pr.error_matrix(source, target), theta)
    # trigonometric functions are integrated on panels
    np.testing.assert_allclose(norm, part + error, rtol=1e-10, atol=1e-12)
    # coming back loses nothing when the source lies in the target space
    if np.abs(pr.error_matrix(source, target)).max() < 1e-14:
        np.testing.assert_allclose(back @ p, np.eye(source.K), atol=1e-10)


@pytest.mark.parametrize("basis", ALL, ids=Basis.spec)
def test_projection_on_the_own_space_is_the_identity(basis):
    np.testing.assert_allclose(pr.projection_matrix(basis, basis), np.eye(basis.K), atol=TOL)
    # the same space under other names: each way is the inverse of the other
    twins = {2: [AffineInDepth(), Hat(2), DGLinear(2), Legendre(2), Chebyshev(2), BSpline(2, 1)],
             4: [BSpline(4), Legendre(4), Chebyshev(4)]}  # fmt: skip
    for twin in next((group for group in twins.values() if basis in group), []):
        there, back = pr.projection_matrix(basis, twin), pr.projection_matrix(twin, basis)
        np.testing.assert_allclose(back @ there, np.eye(basis.K), atol=1e-11)


@pytest.mark.parametrize("target", ALL, ids=Basis.spec)
def test_projecting_twice_is_projecting_once(target):
    source = target.refine(4)[0] if target.refine(4)[0] != target else Hat(5)
    back, p = pr.projection_matrix(target, source), pr.projection_matrix(source, target)
    once = back @ p
    np.testing.assert_allclose(once @ once, once, atol=1e-11)
    assert np.linalg.matrix_rank(once, tol=1e-8) == target.K


@pytest.mark.parametrize(
    "coarse",
    [PiecewiseConstant(2), PiecewiseConstant(3), Hat(3), DGLinear(4), Legendre(2), Chebyshev(2), Cosine(2), BSpline(4)],
    ids=Basis.spec,
)
def test_nested_projections_compose(coarse):
    middle = coarse.refine()[0]
    fine = middle.refine()[0]
    p = pr.projection_matrix
    np.testing.assert_allclose(p(middle, coarse) @ p(fine, middle), p(fine, coarse), atol=1e-11)
    np.testing.assert_allclose(p(middle, fine) @ p(coarse, middle), p(coarse, fine), atol=1e-11)
    np.testing.assert_allclose(p(coarse, middle), coarse.refine()[1], atol=1e-11)


@given(k=st.integers(1, 9), a=st.floats(-3, 3), b=st.floats(-3, 3), c=st.floats(0.5, 6))
@settings(deadline=None, max_examples=40)
def test_the_bound_on_what_steps_lose(k, a, b, c):
    fine = BSpline(40)  # stands for a smooth function: a cos(c t) + b t
    t = np.array([float(v) for v, _ in fine.nodes()])
    nodes = np.linalg.solve(fine.rows(t.tolist()), a * np.cos(c * t) + b * t)[:, None]
    lost = np.sqrt(max(float(np.sum(nodes * (pr.error_matrix(fine, PiecewiseConstant(k)) @ nodes))), 0.0))
    s = np.linspace(0, 1, 2001)
    slope = np.sqrt(np.trapezoid((b - a * c * np.sin(c * s)) ** 2, s))
    assert lost <= slope / (np.pi * k) * (1 + 1e-3) + 1e-6


def test_negative_variances_of_the_specification():
    # Euler with 4 steps never sees the end of the last hat: it is extrapolated with weight 2
    rows = Hat(3).rows([Fraction(i, 4) for i in range(4)])
    found = pr.fit_samples(rows, np.zeros(3), np.array([0.2, 1.0, 1.0, 0.1]))
    np.testing.assert_allclose(found, [1 / 3, 17 / 15, -14 / 15], atol=TOL)


def test_special_projections():
    p = pr.projection_matrix
    np.testing.assert_allclose(
        p(PiecewiseConstant(8), PiecewiseConstant(2)), np.kron(np.eye(2), np.full((1, 4), 0.25)), atol=TOL
    )
    np.testing.assert_allclose(
        p(PiecewiseConstant(2), PiecewiseConstant(6)), np.kron(np.eye(2), np.ones((3, 1))), atol=TOL
    )
    pc = PiecewiseConstant
    np.testing.assert_allclose(p(pc(8), pc(4)) @ p(pc(16), pc(8)), p(pc(16), pc(4)), atol=TOL)
    np.testing.assert_allclose(p(Legendre(5), Legendre(3)), np.eye(3, 5), atol=TOL)


@pytest.mark.parametrize(
    ("family", "sizes", "rate"),
    [
        (PiecewiseConstant, (8, 16, 32), 1),
        (DGLinear, (16, 32, 64), 2),
        (Hat, (9, 17, 33), 2),
        (BSpline, (11, 19, 35), 4),
    ],
)
def test_smooth_functions_are_approximated_at_the_theoretical_rate(family, sizes, rate):
    x, w = np.polynomial.legendre.leggauss(20)
    edges = np.linspace(0, 1, 129)
    half = 1 / 256
    t = ((edges[:-1] + half)[:, None] + half * x).ravel()
    weights = np.tile(w * half, 128)
    f = np.sin(2 * t) + np.exp(-t)
    errors = []
    for k in sizes:
        rows = family(k).rows(t.tolist())
        root = np.sqrt(weights)
        coefficients = np.linalg.lstsq(root[:, None] * rows, root * f, rcond=None)[0]
        errors.append(np.sqrt(np.sum(weights * (rows @ coefficients - f) ** 2)))
    cells = [len(family(k).breakpoints()) - 1 for k in sizes]
    slope = -np.polyfit(np.log(cells), np.log(errors), 1)[0]
    assert abs(slope - rate) < 0.1, (slope, errors)


def best_error(basis):
    x, w = np.polynomial.legendre.leggauss(200)
    t, root = (x + 1) / 2, np.sqrt(w / 2)
    f = np.sin(2 * t) + np.exp(-t)
    rows = basis.rows(t.tolist())
    c = np.linalg.lstsq(root[:, None] * rows, root * f, rcond=None)[0]
    return float(np.linalg.norm(root * (rows @ c - f)))


def test_polynomials_converge_spectrally_and_cosines_do_not():
    for family in (Legendre, Chebyshev):
        errors = [best_error(family(k)) for k in range(2, 7)]
        np.testing.assert_allclose(errors, [9.5e-2, 1.5e-2, 2.7e-3, 1.6e-4, 2.1e-5], rtol=0.05)
    sizes = (16, 32, 64)
    slope = -np.polyfit(np.log(sizes), np.log([best_error(Cosine(k)) for k in sizes]), 1)[0]
    # the derivatives at both ends do not match
    assert abs(slope - 1.5) < 0.1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DGLinear(3), "even"),
        (lambda: Fourier(4), "odd"),
        (lambda: BSpline(3, 3), "degree"),
        (lambda: Hat(0), ">= 1"),
        (lambda: AffineInDepth(3), "must be 2"),
        (lambda: parse_basis("hatt:3"), "did you mean 'hat'"),
        (lambda: parse_basis("hat"), "hat:4"),
        (lambda: parse_basis("hat:x"), "hat:4"),
        (lambda: PiecewiseConstant(2).row(1.5), "t must lie"),
        (lambda: pr.projection_matrix(Hat(2), Hat(3), "l3"), "method"),
    ],
)
def test_bad_input(make, words):
    with pytest.raises(ArgumentError, match=words):
        make()


def test_every_basis_has_a_name_that_reads_back():
    for basis in ALL:
        assert parse_basis(basis.spec()) == basis
    assert len(BASES) == 9


def test_conditioning_of_the_mass_matrices():
    cond = {
        b.spec(): np.linalg.cond(pr.gram_matrix(b)) for b in (Legendre(6), Cosine(5), Fourier(5), Hat(9), DGLinear(8))
    }
    assert cond["legendre:6"] < 1 + 1e-9
    assert cond["cosine:5"] < 1 + 1e-9
    assert cond["hat:9"] < 4.01
    assert cond["dg_linear:8"] < 3.01
