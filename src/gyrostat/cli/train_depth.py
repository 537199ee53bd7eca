"""``gyrostat train-depth``: train a network of continuous depth, growing it on the way."""

from __future__ import annotations

from pathlib import Path


def train_depth(
    data: str,
    /,
    *,
    out: Path = Path("run"),
    basis: str = "piecewise_constant:1",
    solver: str = "rk4",
    n_steps: int | None = None,
    scale: float = 1.0,
    refine_at: str = "",
    project_at: str = "",
    epochs: int = 10,
    batch_size: int = 64,
    lr: float = 0.05,
    decay_at: str = "",
    decay: float = 0.1,
    optimizer: str = "sgd",
    weight_decay: float = 5e-4,
    clip: float = 0.0,
    accumulate: int = 1,
    mixed_precision: str = "no",
    channels: int = 16,
    segments: int = 3,
    variant: str = "v2",
    skip_init: bool = False,
    embed_dim: int = 64,
    num_heads: int = 1,
    dropout: float = 0.0,
    refine_noise: float = 0.0,
    carry_optimizer: bool = False,
    strategy: str = "plain",
    adversarial: str | None = None,
    seed: int = 0,
    device: str | None = None,
    tensorboard: bool = False,
    checkpoint_seconds: float = 30.0,
    json: bool = False,
    quiet: bool = False,
    force: bool = False,
) -> int:
    """Train a ContinuousNet on images or a continuous-depth tagger; the same line again goes on after an interruption.

    Example: gyrostat train-depth digits --refine-at 5,10 --epochs 15 --channels 8 --segments 2
    Takes seconds for the example, hours for full image sets on a CPU. Progress is shown, metrics go to
    OUT/metrics.jsonl, each finished level to OUT/level-NUMBER-kK.safetensors.

    Args:
        data: An image set (digits, mnist, fashion-mnist, cifar10), images as sequences of rows, or ud-english-ewt.
        out: Run directory.
        basis: Functions of depth at the start, such as piecewise_constant:1 or hat:3.
        solver: euler, midpoint, heun, ralston, kutta3, ssprk3, rk4 or rk4_38.
        n_steps: Steps at the start; one for each cell when left out.
        scale: Factor of the rates; the number of units gives a residual network's scaling.
        refine_at: Epochs (from 1) at whose start the basis is refined and the steps are doubled, as 10,20,30.
        project_at: Epochs at whose start the basis and the steps are halved.
        epochs: Passes over the training part.
        batch_size: Images or sentences per step.
        lr: Learning rate.
        decay_at: Epochs at whose start the learning rate is multiplied by decay.
        decay: That factor.
        optimizer: sgd (momentum 0.9) or adamw.
        weight_decay: Weight decay.
        clip: Largest norm of the gradient; 0 leaves it as it is.
        accumulate: Backward passes whose gradients make one step.
        mixed_precision: no, bf16 or fp16.
        channels: Width of the first segment of an image network.
        segments: Blocks of an image network.
        variant: v2, act_first or stateful.
        skip_init: End residual branches with gates that start closed.
        embed_dim: Width of a tagger.
        num_heads: Attention heads of a tagger.
        dropout: Dropout of a tagger.
        refine_noise: Relative noise on the weights at a refinement.
        carry_optimizer: Keep the optimiser's moments at a change of level.
        strategy: How a batch becomes a loss: plain, or another name with its settings, name:key=value,key=value.
        adversarial: Train on attacked batches, norm:eps:steps such as l2:0.5:3; inputs in [0, 1] stay there.
        seed: Seed of everything that is drawn.
        device: cpu, cuda or mps; by default what is there.
        tensorboard: Also write the metrics for TensorBoard, under OUT/tensorboard.
        checkpoint_seconds: Longest time between two checkpoints.
        json: Print the result as JSON.
        quiet: No progress.
        force: Replace a finished run.
    """
    from ..train.config import TrainConfig
    from ..train.levels import Levels, NetConfig, as_examples, open_depth_data, train_levels
    from ._depth import epochs as listed
    from ._shared import print_json
    from ._training import leave, open_run, rehearse, robust_words, strategy_of, watch

    config = TrainConfig(
        epochs=epochs, batch_size=batch_size, lr=lr, decay_at=listed(decay_at, "--decay-at"), decay=decay, clip=clip or None,
        momentum=0.9 if optimizer == "sgd" else 0.0, weight_decay=weight_decay, optimizer=optimizer, keep="last",
        accumulate=accumulate, mixed_precision=mixed_precision, seed=seed, checkpoint_seconds=checkpoint_seconds,
    )  # fmt: skip
    levels = Levels(
        config, listed(refine_at, "--refine-at"), listed(project_at, "--project-at"), refine_noise=refine_noise,
        carry_optimizer=carry_optimizer,
    )  # fmt: skip
    opened = open_depth_data(data, seed)
    net = NetConfig.for_data(
        opened, basis=basis, solver=solver, n_steps=n_steps, scale=scale, channels=channels, segments=segments,
        variant=variant, skip_init=skip_init, embed_dim=embed_dim, num_heads=num_heads, dropout=dropout,
    )  # fmt: skip
    levels.plan(net.basis)
    net.build()
    examples = as_examples(opened)
    how = strategy_of(strategy, adversarial, examples)
    rehearse(examples, net, how, seed)
    folder, first = open_run(out, force, device, mixed_precision, tensorboard, data)
    with watch(opened.name, epochs, quiet or not first) as seen:
        result = train_levels(
            opened, net, levels, folder, strategy=how, on_epoch=seen.epoch, on_step=seen.step, device=device,
            tensorboard=tensorboard, source=data,
        ).result  # fmt: skip
    leave()
    if not first:
        return 0
    if json:
        print_json({k: v for k, v in result.items() if k != "history"})
    else:
        print(
            f"test accuracy {result['test_score']:.4f}{robust_words(result)}, {result['parameters']} parameters, "
            f"{result['seconds']:.0f} s, run in {folder}"
        )
    return 0
