"""Agreement with the recorded runs: same draws, same errors, same quantiles."""

import numpy as np
import pytest

from gyrostat import bootstrap_error, sketched_svd
from tests.conftest import load_golden

METRIC = {"singular": "values", "left": "left", "right": "right"}
REPLAY = {"projection": None, "quantile": "linear", "quiet": True}
NAME = {"uniform": "uniform", "energy": "length", "gaussian": "gaussian"}


def fitted(method: str):
    A = load_golden("svd_matrix")["A"]
    g = load_golden(f"svd_{method}_pure_singular")
    draws = g["draw_sketch_normal"] if method == "gaussian" else g["draw_sketch_choice"]
    return g, sketched_svd(A, int(g["k"]), int(g["l"]), NAME[method], draws=draws)


@pytest.mark.parametrize("method", ["uniform", "energy", "gaussian"])
def test_sketch_and_factors(method):
    g, result = fitted(method)
    # 1e-8 absolute, the tolerance of the golden files
    np.testing.assert_allclose(result.sketch.matrix, g["sketch"], atol=1e-8)
    np.testing.assert_allclose(result.s, g["s_fit"], atol=1e-8)
    np.testing.assert_allclose(np.abs(np.sum(result.Vt * g["vt_fit"], axis=1)), 1, atol=1e-8)


@pytest.mark.parametrize("method", ["uniform", "energy", "gaussian"])
@pytest.mark.parametrize("mode_metric", ["pure_singular", "pure_left", "pure_right", "left_right"])
def test_bootstrap(method, mode_metric):
    _, result = fitted(method)
    g = load_golden(f"svd_{method}_{mode_metric}")
    metric = METRIC[mode_metric.split("_")[1]]
    k, alpha = int(g["topk"]), float(g["alpha"])
    bounds = bootstrap_error(
        result, k, alpha=alpha, boot_idx=g["boot_idx"], projection=None, quantile="linear", quiet=True
    )
    np.testing.assert_allclose(bounds.replicates[metric], g["error_estimates"], atol=1e-8)
    np.testing.assert_allclose(bounds.per_component[metric], g["quantile_1_minus_alpha"], atol=1e-8)
    np.testing.assert_allclose(bounds.simultaneous[metric], g["derived_max_quantile"], atol=1e-8)
    for t, curve in list(zip(g["extrap_t"], g["extrap_err"]))[::37]:
        np.testing.assert_allclose(bounds.extrapolate(int(t)).per_component[metric], curve, atol=1e-8)


def test_one_component():
    A, g = load_golden("svd_matrix")["A"], load_golden("svd_uniform_k1_left")
    result = sketched_svd(A, 1, int(g["l"]), "uniform", draws=g["draw_sketch_choice"])
    bounds = bootstrap_error(
        result, 1, alpha=float(g["alpha"]), boot_idx=g["boot_idx"], projection=None, quantile="linear", quiet=True
    )
    np.testing.assert_allclose(bounds.replicates["left"], g["error_estimates"], atol=1e-8)


@pytest.mark.parametrize("metric", ["singular", "left", "right"])
def test_simulation(metric):
    A, g = load_golden("svd_matrix")["A"], load_golden(f"svd_simulation_{metric}")
    k, runs, boots = int(g["k"]), int(g["runs"]), int(g["boots"])
    U, s, Vt = np.linalg.svd(A, full_matrices=False)
    for run in range(runs):
        result = sketched_svd(A, k, int(g["sample"]), "uniform", draws=g["draw_sketch"][run])
        truth = {
            "singular": abs(result.s[k - 1] - s[k - 1]),
            "left": np.sqrt(1 - (result.U[:, k - 1] @ U[:, k - 1]) ** 2),
            "right": np.sqrt(1 - (result.Vt[k - 1] @ Vt[k - 1]) ** 2),
        }[metric]
        assert truth == pytest.approx(float(g["true_error"][run]), abs=1e-8)
        rows = g["boot_idx"][run * boots : (run + 1) * boots]
        bounds = bootstrap_error(result, k, boot_idx=rows, **REPLAY)
        np.testing.assert_allclose(bounds.replicates[METRIC[metric]][:, k - 1], g["boot_error"][run], atol=1e-8)
