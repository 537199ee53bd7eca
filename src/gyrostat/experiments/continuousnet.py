"""The experiments of ContinuousNet, with the settings of its released code.

Source: arXiv:2008.02389. Published numbers: the table of the released code's page.
"""

from .depth_training import Arm, DepthTraining, Scale
from .recipe import Reference

_PAGE = "page of the released code"
_TRAIN = {
    "epochs": 120, "batch_size": 128, "lr": 0.1, "decay_at": (31, 61, 91), "optimizer": "sgd", "momentum": 0.9,
    "weight_decay": 5e-4, "clip": None, "keep": "last",
}  # fmt: skip


def _arm(label: str, solver: str, published: float, grow_at: tuple[int, ...] = ()) -> Arm:
    net = {"solver": solver, "channels": 16, "segments": 3, "variant": "v2", "scale": 1.0 if grow_at else "units"}
    # the released runs with RK4 decay the weights less
    train = {"weight_decay": 1e-4} if solver == "rk4" else {}
    return Arm(label, net, grow_at, train, {"test accuracy": Reference(published, _PAGE)})


_SHORT = {"lr": 0.05, "batch_size": 64, "decay_at": (7,)}

RECIPES = [
    DepthTraining(
        "continuousnet-cifar10", "A network that grows in depth while it is trained, and runs with other step sizes",
        "2008.02389", data="cifar10", units=8, train=_TRAIN,
        note="The published runs shift and mirror the training images, ours do not; they report the best test epoch, ours "
        "the last. N / 2 and N x 2 are the same weights with half and twice the steps.",
        quantities=("test accuracy", "test accuracy, N / 2", "test accuracy, N x 2", "parameters"),
        arms=(
            _arm("Euler from the start", "euler", 0.9311),
            _arm("RK4 from the start", "rk4", 0.9329),
            _arm("RK4, grown from one unit", "rk4", 0.9306, (31, 51, 71)),
        ),
        scales={
            "smoke": Scale("1 minute", "digits", 4, 8, {"channels": 6, "segments": 2}, _SHORT),
            "small": Scale("20 minutes", "fashion-mnist:limit=3000", 8, 8, {"channels": 8, "segments": 2},
                           _SHORT),
            "paper": Scale("weeks; a day on a GPU"),
        },
    ),
]  # fmt: skip
