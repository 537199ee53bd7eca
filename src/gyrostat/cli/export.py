"""``gyrostat export``: a trained network of continuous depth as a torch.export archive or an ONNX file."""

from __future__ import annotations

from pathlib import Path


def export(
    run: Path,
    /,
    *,
    out: Path = Path("model.onnx"),
    solver: str | None = None,
    image_size: int | None = None,
    json: bool = False,
    force: bool = False,
) -> int:
    """Export a network with a dynamic batch size, and compare what the file says with the network.

    Example: gyrostat export run --out model.onnx
    Takes up to a minute. The ending decides: .onnx for ONNX (needs the extra [onnx]), .pt2 for torch.export.

    Args:
        run: Run directory of gyrostat train-depth, or one of its model files (gyrostat compress writes one too).
        out: File to write, ending in .onnx or .pt2.
        solver: Scheme and steps of the exported network, such as euler:4; as trained when left out.
        image_size: Height and width of the images; as in the run's data when left out.
        json: Print the result as JSON.
        force: Replace an existing file.
    """
    from .._checks import Integer
    from .._errors import ArgumentError
    from ..depth.change import set_solver
    from ..train.export import export_model
    from ..train.levels import load_levels
    from ._depth import example_input, solver_and_steps
    from ._shared import out_file, print_json

    Integer(low=1, optional=True).check("image_size", image_size, "export")
    if out.suffix not in (".onnx", ".pt2"):
        raise ArgumentError(f"--out {out}: the name must end in .onnx (ONNX) or .pt2 (torch.export)")
    out_file(out, force)
    model, facts = load_levels(run)
    scheme, steps = solver_and_steps(solver)
    if scheme or steps:
        set_solver(model, scheme, steps)
    x = example_input(facts, image_size)
    result = export_model(model, x, out)
    if json:
        print_json(result)
    else:
        print(
            f"{out}: {result['bytes'] / 1e6:.2f} MB, weights of the network {result['weight_bytes'] / 1e6:.2f} MB, "
            f"largest difference {result['largest_difference']:.1e} over batches of {result['batches']}"
        )
    return 0
