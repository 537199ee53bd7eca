"""``gyrostat transfer``: does an adversarially trained source need fewer labels?"""

from __future__ import annotations

from pathlib import Path


def transfer(
    source: str,
    target: str,
    /,
    *,
    labels: str = "10,20,50,100",
    adversarial: str = "l2:0.5:3",
    out: Path = Path("transfer"),
    size: int | None = None,
    last_blocks: int = 0,
    trainable: str | None = None,
    batch_norm: str = "freeze",
    head_init: str = "default",
    epochs: int = 8,
    source_lr: float = 0.05,
    width: int = 16,
    seeds: int = 1,
    subsets: int = 4,
    tune_epochs: int = 60,
    tune_lr: float = 0.05,
    test_limit: int = 2000,
    robust_limit: int = 500,
    seed: int = 0,
    device: str | None = None,
    json: bool = False,
    quiet: bool = False,
    force: bool = False,
) -> int:
    """Train a natural and an adversarial source, fine-tune both on few labels of a target; the same line goes on.

    Example: gyrostat transfer letters digits --size 16 --labels 10,20,50,100
    Takes a few minutes for the example on one core. Writes report.html, report.json, and the trained sources.

    Args:
        source: Images to learn from: letters, digits, mnist, fashion-mnist, cifar10, with options after a colon such as
            fashion-mnist:limit=6000; or trained run directories with commas between (./letters for one called letters).
        target: Images that have few labels.
        labels: Numbers of labels, with commas between.
        adversarial: Attack of the adversarial source, norm:eps:steps, on images in [0, 1].
        out: Folder for the study.
        size: Resize all images to this side; the target to the source's when left out.
        last_blocks: How many of the source's last blocks move beside the new head.
        trainable: Or the names of the parts that move, with commas between; all for everything.
        batch_norm: freeze or adapt (to the target).
        head_init: default, normal (the paper's) or zero.
        epochs: Epochs of a source.
        source_lr: Learning rate of a source.
        width: Channels of the first convolution of a source.
        seeds: Sources of each kind.
        subsets: Label subsets for each number.
        tune_epochs: Epochs of a fine-tuning.
        tune_lr: Learning rate of a fine-tuning.
        test_limit: Most test images of the target.
        robust_limit: Most test images for the robust accuracy of the sources.
        seed: Seed of everything that is drawn.
        device: Where sources are trained: cpu, cuda or mps.
        json: Print the result as JSON.
        quiet: No progress.
        force: Replace a finished study.
    """
    import json as json_module

    from .._errors import ArgumentError
    from ..data.catalogue import open_images, sources
    from ..report.page import write_atomically
    from ..train.devices import open_accelerator
    from ..train.sources import SIDE, fitted, load_source
    from ..train.transfer import Study, run_study, tensors
    from ..transfer.fine_tune import fine_tune
    from ..transfer.network import ConvNet
    from ._shared import out_folder, print_json, stderr
    from ._transfer import build_page, look_closer, numbers

    names = tuple(w.strip() for w in trainable.split(",") if w.strip()) if trainable else None
    tuning = {
        "last_blocks": last_blocks, "trainable": "all" if names == ("all",) else names, "batch_norm": batch_norm,
        "head_init": head_init, "epochs": tune_epochs, "lr": tune_lr,
    }  # fmt: skip
    if size is not None:
        SIDE.check("size", size, "transfer")  # before any image is drawn
    study = Study(
        _counts(labels), adversarial, epochs, source_lr, width, seeds, subsets, test_limit, robust_limit, seed,
        tuple(tuning.items()),
    )  # fmt: skip
    attack = study.strategy
    opened = open_images(target, seed=seed)
    if max(study.labels) > len(opened.split["train"]):
        raise ArgumentError(
            f"--labels: asks for {max(study.labels)}; {opened.name} has {len(opened.split['train'])} training images"
        )
    # a folder that is called like a data set is not meant; ./letters is
    words = source.split(",") if source.partition(":")[0] not in sources() else []
    runs = {Path(word).name: Path(word) for word in words if Path(word).is_dir()}
    if runs and len(runs) < len(words):
        odd = next((w for w in words if not Path(w).is_dir()), words[-1])
        raise ArgumentError(f"{odd}: is no run directory, or another has its name; name runs with commas between")
    if runs:
        models = {name: load_source(path)[0] for name, path in runs.items()}
        channels = {next(m.parameters()).shape[1] for m in models.values()}
        if len(channels) > 1:
            raise ArgumentError("the source runs take images with different numbers of channels; give one at a time")
        given, probe = runs, next(iter(models.values()))
        opened = fitted(opened, size, channels.pop())
    else:
        given = fitted(open_images(source, seed=seed), size)
        channels_of_source, side = given.pixels.shape[1], given.pixels.shape[2]
        opened = fitted(opened, size if size is not None else side, channels_of_source)
        probe = ConvNet(channels_of_source, given.n_classes, width)
    # every setting of the fine-tuning is tried before anything is trained or written
    x, y = tensors(opened, "train", 2)
    fine_tune(probe, (x, y), num_classes=opened.n_classes, **{**tuning, "epochs": min(tune_epochs, 0)})
    open_accelerator(device, "no")
    folder = out_folder(out, force, "report.json", source, target)
    tell = None if quiet else lambda words: stderr.print(words, markup=False)
    found = run_study(given, opened, study, folder, tell=tell, device=device)
    closer = look_closer(found, opened, study)
    result = numbers(found, closer, study, opened.name)
    build_page(found, closer, study, opened, attack).write(folder / "report.html")
    write_atomically(folder / "report.json", json_module.dumps(result, indent=1, allow_nan=False).encode())
    if json:
        print_json(result)
        return 0
    print("labels  " + "  ".join(f"{name:>12}" for name in found.curve.sources))
    for i, n in enumerate(found.curve.labels):
        print(f"{n:>6}  " + "  ".join(f"{found.curve.mean(name)[i]:12.3f}" for name in found.curve.sources))
    print(f"page: {folder / 'report.html'}")
    return 0


def _counts(text: str) -> tuple[int, ...]:
    from .._errors import ArgumentError

    try:
        found = tuple(sorted({int(word) for word in text.split(",") if word.strip()}))
    except ValueError:
        found = ()
    if not found or found[0] < 1:
        raise ArgumentError(f"--labels: must be numbers from 1 with commas between, such as 10,20,50,100, got {text!r}")
    return found
