"""What ``gyrostat transfer`` measures beside the curves, and its page."""

from __future__ import annotations

from typing import Any


def look_closer(found: Any, target: Any, study: Any) -> dict[str, Any]:
    """The first network of each source, fine-tuned on the most labels: shape against texture, features, influence."""
    from .._errors import GyrostatError
    from ..train.transfer import tensors
    from ..transfer.curve import stratified_subsets
    from ..transfer.fine_tune import fine_tune
    from ..transfer.influence import influence_scores
    from ..transfer.texture import shape_texture
    from ..transfer.visualise import visualise_features

    x, y = tensors(target, "train")
    xt, yt = tensors(target, "test", min(study.test_limit, 1000))
    rows = stratified_subsets(y, [max(study.labels)], seed=study.seed)[0]
    closer: dict[str, Any] = {"images": (x[rows], y[rows], xt, yt)}
    side = min(xt.shape[2:])
    steps = [k for k in (1, 2, 4) if k <= side // 2]
    for name, models in found.models.items():
        settings = dict(study.fine_tuning)
        tuned = fine_tune(models[0], (x[rows], y[rows]), num_classes=target.n_classes, seed=study.seed, **settings)
        entry: dict[str, Any] = {"texture": shape_texture(tuned.model, (xt, yt), factors=steps, grids=steps)}
        entry["pictures"] = visualise_features(
            models[0], _alive(models[0], x[:200], 8), shape=tuple(x.shape[1:]), steps=100
        )
        try:
            decay = settings.get("weight_decay", 5e-4)
            entry["influence"] = influence_scores(tuned.model, (x[rows], y[rows]), (xt[:500], yt[:500]), l2=decay)
        except GyrostatError as error:
            entry["no influence"] = str(error)
        closer[name] = entry
    return closer


def _alive(model: Any, x: Any, count: int) -> list[int]:
    """Features that vary most over some images; a dead one would show its start."""
    from ..transfer.parts import head_inputs, head_name

    features, _ = head_inputs(model, head_name(model, None, "transfer"), x, 256, "transfer")
    return sorted(features.std(0).argsort(descending=True)[:count].tolist())


def numbers(found: Any, closer: dict[str, Any], study: Any, target: str) -> dict[str, Any]:
    """Everything measured, as plain values."""
    from dataclasses import asdict

    from .._results import to_plain
    from ._shared import facts

    curve = found.curve
    return {
        "target": target,
        "study": to_plain(asdict(study)),
        "sources": to_plain(found.sources),
        "curve": curve.to_dict(),
        "mean": {name: curve.mean(name) for name in curve.sources},
        "gain": to_plain(_gains(curve)),
        "texture": {name: closer[name]["texture"].to_dict() for name in curve.sources},
        "same_class": {
            name: {"top1": float(i.same_class(1)[0]), "3 of 5": i.at_least(3, 5)}
            for name in curve.sources
            if (i := closer[name].get("influence")) is not None and len(i.y_train) >= 5
        },
        "facts": facts(),
    }


def _gains(curve: Any) -> dict[str, Any]:
    first, *others = curve.sources
    return {f"{name} over {first}": curve.gain(name, first) for name in others}


def build_page(found: Any, closer: dict[str, Any], study: Any, target: Any, attack: Any) -> Any:
    """Curves, gains, the sources, shape against texture, features, the images that decided."""
    from ..report.figures import new_figure
    from ..report.page import Page
    from ._shared import facts

    curve = found.curve
    page = Page("Fewer labels from a better source?", f"target {target.describe()}")
    _verdict(page, curve)
    figure, (ax,) = new_figure(width=6.4, height=3.6)
    curve.plot(ax)
    repeats = len(next(iter(curve.accuracy[curve.sources[0]].values())))
    page.figure(
        figure, f"Test accuracy on {curve.n_test} images; mean and standard deviation of {repeats} fine-tunings."
    )
    gains = _gains(curve)
    rows = []
    for i, n in enumerate(curve.labels):
        row: list[Any] = [n, *(curve.mean(name)[i] for name in curve.sources)]
        row += [f"{100 * gain[i][0]:+.1f} ± {100 * gain[i][1]:.1f}" for gain in gains.values()]
        rows.append(row)
    page.table(["labels", *curve.sources, *(f"{name}, points" for name in gains)], rows,
               caption="Gains are means of paired differences on the same label subsets, ± their standard error.")  # fmt: skip
    page.heading("The sources")
    page.table(
        ["source", "seed", "data", "accuracy on its own test part", f"robust: {attack.norm} {attack.eps:g}, 20 steps"],
        [[r["source"], r["seed"], r["data"], r["accuracy"], r["robust"]] for r in found.sources], text_columns=(0, 2),
    )  # fmt: skip
    page.heading("Shape or texture")
    figure, axes = new_figure(1, 2, width=8.0, sharey=True)
    for i, name in enumerate(curve.sources):
        closer[name]["texture"].plot(axes, name, i)
    axes[0].legend(loc="lower left")
    page.figure(
        figure,
        f"Fine-tuned on {max(curve.labels)} labels: left, test images lose their fine detail; right, their patches change "
        "places.",
    )
    page.heading("What features look for")
    for name in curve.sources:
        page.figure(
            closer[name]["pictures"].plot(), f"{name} source: images that excite single features, from grey noise."
        )
    _influence(page, closer, curve, target)
    page.facts({**facts(), **{k: v for k, v in vars(study).items() if k != "fine_tuning"}, **dict(study.fine_tuning)})
    return page


def _verdict(page: Any, curve: Any) -> None:
    first, *others = curve.sources
    for name in others:
        gain = list(zip(curve.labels, curve.gain(name, first)))
        better = [str(n) for n, (g, e) in gain if g > 2 * e]
        worse = [str(n) for n, (g, e) in gain if g < -2 * e]
        n, (most, _) = max(gain, key=lambda item: item[1][0])
        if better and not worse:
            page.verdict(
                f"The {name} source transferred better.",
                f" Most with {n} labels, {100 * most:+.1f} points; beyond two standard errors with {', '.join(better)}.",
                kind="good",
            )
        elif worse and not better:
            why = f" Beyond two standard errors with {', '.join(worse)} labels."
            page.verdict(f"The {name} source transferred worse.", why, kind="bad")
        else:
            why = " It depends on the number of labels, or on the subset; see the table."
            page.verdict(f"No clear difference between the {name} and the {first} source.", why)


def _influence(page: Any, closer: dict[str, Any], curve: Any, target: Any) -> None:
    from ..report.figures import new_figure
    from ._influence import helpers, same_class

    images = closer["images"]
    held = {name: closer[name]["influence"] for name in curve.sources if "influence" in closer[name]}
    if not held:
        return
    page.heading("Which labelled images decided")
    figure, (ax,) = new_figure(width=6.4, height=2.8)
    for i, (name, found) in enumerate(held.items()):
        same_class(ax, found, name, i)
    ax.legend()
    page.figure(figure, "How often the most helpful labelled image, the second, ... shows the class of the test image.")
    for name, found in held.items():
        helpers(page, found, images[0], images[2], target.classes, 3, f"{name} source. ")
        page.text(f"{name}: {found.message}.")
