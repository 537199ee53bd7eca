"""``gyrostat influence``: which labelled images decided, and which labels look wrong."""

from __future__ import annotations

from pathlib import Path


def influence(
    source: Path,
    target: str,
    /,
    *,
    labels: int = 200,
    wrong: float = 0.0,
    l2: float = 1e-3,
    damping: float = 0.0,
    solver: str = "auto",
    tests: int = 500,
    show: int = 5,
    size: int | None = None,
    out: Path = Path("influence.html"),
    seed: int = 0,
    json: bool = False,
    quiet: bool = False,
    force: bool = False,
) -> int:
    """Fit a new head to a trained network on some labels, then ask which of them helped, hurt, or look wrong.

    Example: gyrostat influence transfer/source-adversarial-0 digits --labels 200 --wrong 0.05 --out influence.html
    Takes seconds. The head is fitted to convergence, which is what influence functions ask for. Writes the page and,
    beside it, .numbers.json.

    Args:
        source: Run directory of an image classifier, of gyrostat transfer or gyrostat train-depth.
        target: Images with labels: digits, mnist, fashion-mnist, cifar10, letters, with options after a colon.
        labels: Training images, drawn from all classes.
        wrong: Share of the labels to replace by wrong ones, to see whether they are found.
        l2: Weight decay of the head; smaller where features are small, which a low test accuracy shows.
        damping: Added to the curvature.
        solver: auto, woodbury, cholesky, cg or pinv.
        tests: Most test images.
        show: Test images on the page.
        size: Resize the images to this side.
        out: The HTML page.
        seed: Seed of the draws.
        json: Print the result as JSON.
        quiet: No progress.
        force: Replace an existing page.
    """
    import json as json_module

    import torch

    from .._checks import Integer, Real, check
    from .._errors import ArgumentError
    from .._rng import torch_stream
    from ..data.catalogue import open_images
    from ..report.page import write_atomically
    from ..train.sources import fitted, load_source
    from ..train.transfer import tensors
    from ..transfer.curve import accuracy_of, stratified_subsets
    from ..transfer.head import fit_head
    from ..transfer.influence import influence_scores
    from ..transfer.parts import head_inputs, head_name
    from ._influence import build_page, numbers
    from ._shared import page_file, print_json, stderr

    rules = {
        "labels": Integer(low=2), "wrong": Real(low=0, high=0.5), "l2": Real(low=0, closed="neither"),
        "tests": Integer(low=1), "show": Integer(low=1, high=20),
    }  # fmt: skip
    check(rules, locals(), "influence")
    page_path = page_file(out, force, source)
    model, _ = load_source(source)
    channels = next(p for p in model.parameters() if p.ndim == 4).shape[1]
    images = fitted(open_images(target, seed=seed), size, channels)
    x, y = tensors(images, "train")
    test = tensors(images, "test", tests)
    if labels > len(y):
        raise ArgumentError(f"--labels: asks for {labels}; {images.name} has {len(y)} training images")
    rows = stratified_subsets(y, [labels], seed=seed)[0]
    x, y = x[rows], y[rows]
    flipped = torch.randperm(labels, generator=torch_stream(seed, "flip"))[: round(wrong * labels)]
    shift = torch.randint(1, images.n_classes, (len(flipped),), generator=torch_stream(seed, "label"))
    y[flipped] = (y[flipped] + shift) % images.n_classes
    if not quiet:
        stderr.print(f"fitting a head to {labels} images of {images.name}")
    name = head_name(model, None, "influence")
    features, _ = head_inputs(model, name, x, 256, "influence")
    held, _ = head_inputs(model, name, test[0], 256, "influence")
    features, held = features.double(), held.double()
    head = fit_head(features, y, images.n_classes, l2=l2)
    found = influence_scores(head, (features, y), (held, test[1]), l2=l2, damping=damping, solver=solver)
    accuracy = accuracy_of(head, held, test[1])
    result = numbers(found, flipped, accuracy, images.name)
    build_page(found, result, (x, y), test, images, show).write(page_path)
    text = json_module.dumps(result, indent=1, allow_nan=False).encode()
    write_atomically(page_path.with_suffix(".numbers.json"), text)
    if json:
        print_json(result)
        return 0
    print(f"test accuracy {accuracy:.3f} with {labels} labels; {found.message}")
    if len(flipped):
        print(f"{result['wrong_found']:.0%} of the wrong labels are in the first tenth of the self-influence ranking")
    print(f"page: {page_path}")
    return 0
