"""The page of ``gyrostat analyse``."""

from __future__ import annotations

from typing import Any


def build(run: dict[str, Any], found: dict[str, Any], facts: dict[str, Any]) -> Any:
    """One page: certificate in words, spectra, exponents, Jacobians, Hessian, robustness, phase portrait."""
    from ..report.page import Page

    config, data = run["config"], run["data"]
    name = config["model"]["model"]
    page = Page(f"What the {name} model does", f"{data.describe()}; {run['result']['parameters']} parameters")
    _certificates(page, found)
    _numbers(page, run, found)
    if found["matrices"]:
        _eigenvalues(page, run, found)
    if "exponents" in found:
        _exponents(page, found)
    _sensitivity(page, found)
    _hessian(page, found)
    if found.get("curves"):
        _curves(page, found)
    if "portrait" in found:
        _portrait(page, found)
    page.facts({**facts, "data": data.name, "seed of the run": config["train"]["seed"]})
    return page


def _certificates(page: Any, found: dict[str, Any]) -> None:
    if "certificates" in found:
        for layer, c in found["certificates"].items():
            page.verdict(
                f"Layer {layer}: {'stable, proved' if c.certified else 'no proof of stability'}.", f" {c.reason}."
            )
        page.text(
            "A certificate is a proof for all inputs and all pairs of states. Without one the model may still be stable "
            "on your data: see the exponents."
        )
    elif "lem_bounds" in found:
        for layer, b in found["lem_bounds"].items():
            page.verdict(
                f"Layer {layer}: states are bounded by 1, proved.",
                f" One step stretches differences by at most {b.jacobian:.4g} (bound, in the largest-entry norm).",
                kind="good",
            )
    elif "gain" in found:
        for layer, (low, high) in found["gain"].items():
            kept = high - low < 1e-5
            page.verdict(
                f"Layer {layer}: {'the recurrent matrix keeps lengths' if kept else 'the recurrent matrix is bounded'}.",
                f" Before the nonlinearity, one step stretches states by {low:.4g} at least and {high:.4g} at most (bounds, in "
                "the norm of the masses).",
                kind="good" if kept else "note",
            )
    else:
        page.verdict("No certificate is known for this kind of layer.", " What follows is measured, not proved.")


def _numbers(page: Any, run: dict[str, Any], found: dict[str, Any]) -> None:
    import torch

    H = found["hessian"]
    score = "test accuracy" if run["data"].labels else "test RMSE"
    rows: list[list[Any]] = [[score, run["result"]["test_score"], "measured"]]
    for name, M in found["matrices"].items():
        value = float(torch.linalg.eigvals(M.detach().double()).real.max())
        rows.append([f"largest real part of the eigenvalues of {name}", value, "computed"])
    for layer, c in found.get("certificates", {}).items():
        rows += [
            [f"growth bound from small gain, {layer}", c.mu_small_gain, "bound"],
            [f"growth bound from slopes, {layer}", c.mu_slope, "bound"],
            [f"largest proved Euler step, {layer}", c.dt_max, "bound"],
        ]
    if "exponents" in found:
        unit = "per unit of time" if found["per_time"] else "per step"
        rows.append([f"largest Lyapunov exponent, {unit}", float(found["exponents"].exponents[0]), "estimate"])
    if "condition" in found:
        rows.append(["condition number of the input Jacobian, median", found["condition"]["median"], "measured"])
        rows.append(["largest gain from input to logits, median", found["condition"]["largest_gain"], "measured"])
    rows.append(["largest Hessian eigenvalue", float(H.largest[0]), f"within {float(H.residuals[0, 0]):.1e}"])
    rows.append(["smallest Hessian eigenvalue", float(H.smallest[0]), f"within {float(H.residuals[1, 0]):.1e}"])
    rows.append(["Hessian trace", H.trace.value, f"estimate ± {H.trace.standard_error:.2g}"])
    for curve in found.get("curves", []):
        last = f"accuracy at {curve.perturbation} {curve.levels[-1]:g}"
        rows.append(
            [last, curve.accuracy[-1], f"± {curve.spread[-1]:.3f} over draws" if curve.spread[-1] else "one run"]
        )
        rows.append([f"area under the {curve.perturbation} curve", curve.area, "measured"])
    page.heading("In numbers")
    page.table(["quantity", "value", "kind"], rows, text_columns=(0, 2))


def _eigenvalues(page: Any, run: dict[str, Any], found: dict[str, Any]) -> None:
    import torch

    from ..report.figures import new_figure, style

    page.heading("Eigenvalues of the matrices")
    figure, axes = new_figure(1, 2, width=9.0)
    for i, (name, M) in enumerate(found["matrices"].items()):
        values = torch.linalg.eigvals(M.detach().double())
        axes[0].plot(values.real, values.imag, linestyle="", markersize=4, label=name, alpha=0.8, **style(i))
        track = [(row["epoch"], row[f"max_re_{name}"]) for row in run["history"] if f"max_re_{name}" in row]
        if track:
            look = {**style(i), "marker": None}
            axes[1].plot([e for e, _ in track], [v for _, v in track], label=name, **look)
    maps = "gain" in found
    if maps:
        turn = torch.linspace(0, 2 * torch.pi, 200)
        axes[0].plot(turn.cos(), turn.sin(), linewidth=0.8, color="#888888")
        axes[0].set_aspect("equal", adjustable="datalim")
    else:
        axes[0].axvline(0, linewidth=0.8, color="#888888")
    axes[0].set(xlabel="real part", ylabel="imaginary part", title="after training")
    axes[1].set(xlabel="epoch", ylabel="largest real part", title="over training")
    axes[1].ticklabel_format(useOffset=False)
    axes[0].legend()
    words = "Left of zero, the linear part alone damps; right of it, it amplifies."
    page.figure(figure, "W maps a state to the next one: inside the unit circle it damps." if maps else words)


def _exponents(page: Any, found: dict[str, Any]) -> None:
    from matplotlib.ticker import MaxNLocator

    from ..report.figures import PALETTE, new_figure

    page.heading("How nearby states separate along the data")
    figure, axes = new_figure(1, 2, width=9.0)
    e = found["exponents"]
    axes[0].errorbar(
        range(1, len(e.exponents) + 1), e.exponents.tolist(), yerr=e.spread.nan_to_num(0).tolist(), fmt="o",
        markersize=3, color=PALETTE[0], elinewidth=0.7,
    )  # fmt: skip
    axes[0].axhline(0, linewidth=0.8, color="#888888")
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    unit = "unit of time" if found["per_time"] else "step"
    axes[0].set(xlabel="index", ylabel=f"exponent per {unit}", title="finite-time Lyapunov exponents (estimates)")
    steps = range(1, len(found["growth"]) + 1)
    axes[1].semilogy(steps, [g for g, _ in found["growth"]], color=PALETTE[0], label="largest singular value")
    axes[1].semilogy(steps, [c for _, c in found["growth"]], color=PALETTE[1], label="condition number")
    axes[1].set(xlabel="time step", title="product of the state Jacobians")
    axes[1].legend()
    many = f"Up to eight test sequences, {found['steps_seen']} steps of each"
    page.figure(figure, f"{many}; bars and medians over them. Above zero, small differences grow.")


def _sensitivity(page: Any, found: dict[str, Any]) -> None:
    if "sensitivity" not in found:
        return
    from ..report.figures import PALETTE, new_figure

    page.heading("Which moments the output feels")
    figure, (ax,) = new_figure(height=2.6)
    ax.plot(range(1, len(found["sensitivity"]) + 1), found["sensitivity"], color=PALETTE[0])
    ax.set(xlabel="time step of the input", ylabel="size of the derivative")
    page.figure(
        figure, "Norm of the derivative of the outputs by the input of each step, median over 16 test sequences."
    )


def _hessian(page: Any, found: dict[str, Any]) -> None:
    from ..report.figures import new_figure

    H = found["hessian"]
    page.heading("Curvature of the training loss")
    figure, (ax,) = new_figure(height=2.8)
    H.plot(ax)
    page.figure(figure, f"Spectral density of the Hessian (estimate); ticks: its ends. Lanczos {H.message}.")


def _curves(page: Any, found: dict[str, Any]) -> None:
    from ..report.figures import new_figure, style

    page.heading("Accuracy under perturbation")
    figure, axes = new_figure(2, 3, width=10.0, height=5.2, sharey=True)
    for i, (curve, ax) in enumerate(zip(found["curves"], axes)):
        curve.plot(ax, **style(i))
        ax.set(title=curve.perturbation.replace("_", " "), xlabel="level", ylim=(0, 1.02))
        if i % 3:
            ax.set_ylabel("")
    for ax in axes[len(found["curves"]) :]:
        ax.set_visible(False)
    page.figure(
        figure, "Test part; bands are one standard deviation over draws. FGSM and PGD are measured, not bounds."
    )


def _portrait(page: Any, found: dict[str, Any]) -> None:
    import torch

    from ..report.figures import INK, new_figure

    p = found["portrait"]
    axis = p["axis"].numpy()
    page.heading("The whole state space (two hidden units)")
    figure, axes = new_figure(1, 2, width=9.0, height=4.2)
    move = p["move"].transpose(0, 1).numpy()
    axes[0].streamplot(axis, axis, move[..., 0], move[..., 1], density=1.1, linewidth=0.8, arrowsize=0.8, color=INK)
    ends = p["end"].reshape(-1, 2)
    stays = torch.isfinite(ends).all(1) & (ends.abs().max(1).values < 50)
    groups = torch.where(stays[:, None], (ends / 0.1).round(), torch.full_like(ends, 1e6))
    _, label = torch.unique(groups, dim=0, return_inverse=True)
    settled = int(label.max()) < 10
    label = label if settled else stays.long()
    # what leaves stays blank
    shown = torch.where(stays, label.double(), torch.nan).view(41, 41).T.numpy()
    axes[1].pcolormesh(axis, axis, shown, cmap="tab10", vmin=0, vmax=9, rasterized=True)
    if settled:
        axes[1].plot(ends[stays, 0], ends[stays, 1], ".", color=INK, markersize=5)
    leaving = float((~stays).double().mean())
    if leaving == 1:
        words = "Every state shown leaves for good."
    else:
        words = (
            "States of one colour end at the same dot." if settled else "The states that stay settle at no few points."
        )
        words += f" {leaving:.0%} of the states shown, left blank, leave for good." if leaving else ""
    outside = torch.unique(ends[stays & (ends.abs().max(1).values > 3)].round(decimals=1), dim=0)
    if settled and len(outside):
        where = ", ".join(f"({a:.1f}, {b:.1f})" for a, b in outside[:3].tolist())
        words += f" Outside the picture there is an end near {where}{' and more' if len(outside) > 3 else ''}."
    first, *others = p["states"]
    words += f" {' and '.join(others)} starts at zero." if others else ""
    for ax, title in zip(axes, ("displacement of one step", "where each state ends (2,000 steps)")):
        ax.set(xlim=(-3, 3), ylim=(-3, 3), xlabel=f"{first}₁", ylabel=f"{first}₂", title=title)
    page.figure(figure, f"At the mean input, held constant. {words}")
