"""What ``gyrostat influence`` reports, and its page; the picture of helpers is shared with ``gyrostat transfer``."""

from __future__ import annotations

from typing import Any


def numbers(found: Any, flipped: Any, accuracy: float, target: str) -> dict[str, Any]:
    """Everything measured, as plain values."""
    from ._shared import facts

    n = len(found.y_train)
    first = set(found.suspects(max(1, n // 10)).tolist())
    ranks = min(20, n)
    k = min(5, n)
    return {
        "target": target,
        "labels": n,
        "test_accuracy": accuracy,
        "influence": found.to_dict(),
        "same_class": found.same_class(ranks).tolist(),
        "same_class_3_of_5": found.at_least(min(3, k), k),
        "suspects": found.suspects(min(20, n)).tolist(),
        "wrong": sorted(flipped.tolist()),
        "wrong_found": len(first & set(flipped.tolist())) / len(flipped) if len(flipped) else None,
        "facts": facts(),
    }


def build_page(found: Any, result: dict[str, Any], train: Any, test: Any, images: Any, show: int) -> Any:
    """Helpers and harmers of some test images, same-class shares, suspects."""
    from ..report.figures import PALETTE, image_tag, new_figure
    from ..report.page import Page
    from ._shared import facts

    page = Page("Which labels decided?", f"{images.describe()}; {result['labels']} of them labelled")
    why = f" {found.message[0].upper()}{found.message[1:]}."
    page.verdict(f"{result['test_accuracy']:.1%} of {len(found.y_test)} test images are right.", why)
    page.heading("Images that helped and images that hurt")
    helpers(page, found, train[0], test[0], images.classes, show)
    figure, (ax,) = new_figure(width=6.4, height=2.8)
    same_class(ax, found, "", 0)
    page.figure(figure, "How often the most helpful labelled image, the second, ... shows the class of the test image.")
    page.heading("Labels that look wrong")
    if result["wrong_found"] is not None:
        page.text(
            f"{len(result['wrong'])} labels were replaced by wrong ones; {result['wrong_found']:.0%} of them stand in the "
            "first tenth of this ranking."
        )
    wrong = set(result["wrong"])
    page.images(
        (
            image_tag(_pixels(train[0][row]), f"labelled {images.classes[int(train[1][row])]}", scale=3),
            images.classes[int(train[1][row])] + (", replaced" if row in wrong else ""),
        )
        for row in result["suspects"]
    )
    page.text("The labelled images with the largest influence on their own loss, and their labels.")
    figure, (ax,) = new_figure(width=6.4, height=2.6)
    order = found.suspects()
    heights = found.self_scores[order].tolist()
    colours = [PALETTE[1] if int(row) in wrong else PALETTE[0] for row in order]
    ax.bar(range(1, len(order) + 1), heights, width=1.0, color=colours)
    ax.set(xlabel="rank", ylabel="self-influence", yscale="log")
    page.figure(figure, "Self-influence of every labelled image" + (", replaced labels in orange." if wrong else "."))
    page.facts({**facts(), **{k: v for k, v in found.to_dict().items() if k != "message"}})
    return page


def helpers(page: Any, found: Any, x_train: Any, x_test: Any, classes: Any, show: int, name: str = "") -> None:
    """The picture of helpful and harmful images, where there are enough of both."""
    k = min(4, len(found.y_train) // 2)
    if not k:
        return
    tests = range(min(show, len(found.y_test)))
    page.figure(
        found.plot(x_train, x_test, tests=tests, k=k, classes=classes),
        f"{name}Grey: test image; green: the labelled images that helped most; red: those that hurt most; numbers: predicted "
        "change of the test loss without them.",
    )


def same_class(ax: Any, found: Any, label: str, index: int) -> None:
    """Share of same-class helpers against rank."""
    from matplotlib.ticker import MaxNLocator

    from ..report.figures import style

    ranks = min(20, len(found.y_train))
    ax.plot(range(1, ranks + 1), found.same_class(ranks), label=label or None, **style(index))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="rank of the helpful image", ylabel="share of its class")


def _pixels(image: Any) -> Any:
    return image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()
