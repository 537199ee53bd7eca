"""The experiments of the Lipschitz RNN, with the settings of its released code.

Source: arXiv:2006.12070. Published numbers: the paper's, as public benchmark pages and later papers' tables quote them.
"""

from .recipe import Reference
from .training import Arm, Scale, Training

_OPTIONS = {"dt": 0.03, "beta_a": 0.75, "beta_w": 0.75, "gamma_a": 1e-3, "gamma_w": 1e-3, "init_std": 0.1}
_TRAIN = {"batch_size": 128, "epochs": 100, "decay_after": 90, "clip": None, "keep": "last"}
_ORIGINAL = "run of the released cells"


def _pixels(name: str, title: str, data: str, lr: float, published: float, note: str = "") -> Training:
    joint = "," if ":" in data else ":"
    return Training(
        name, title, "2006.12070", note=note, data=data, hidden_size=128, quantities=("test accuracy",),
        train={**_TRAIN, "lr": lr},
        arms=(Arm("Lipschitz RNN", "lipschitz", _OPTIONS,
                  references={"test accuracy": Reference(published, "paper, best of its solvers")}),),
        scales={
            "smoke": Scale("2 minutes", f"{data}{joint}limit=1000", 32, train={"epochs": 2}),
            "small": Scale("1 hour", f"{data}{joint}limit=6000", 64, train={"epochs": 10, "decay_after": 8}),
            "paper": Scale("weeks; a day on a GPU"),
        },
    )  # fmt: skip


def _digits(label: str, model: str, options: dict, clean: float, *noisy: float, **more: float) -> Arm:
    names = {"re": "max Re λ(A)", "sym": "λmax(A sym)", "sigma": "σmax(W)"}
    references = {"test accuracy": Reference(clean, _ORIGINAL)}
    references |= {f"accuracy, white noise 0.{i}": Reference(v, _ORIGINAL) for i, v in enumerate(noisy, 1)}
    return Arm(
        label, model, options, references=references | {names[k]: Reference(v, _ORIGINAL) for k, v in more.items()}
    )


_SHORT = {**_OPTIONS, "dt": 0.1}
RECIPES = [
    _pixels(
        "lipschitz-smnist", "The Lipschitz RNN reads handwritten digits pixel by pixel", "mnist:split=lipschitz", 3e-3, 0.994
    ),
    _pixels(
        "lipschitz-psmnist", "The Lipschitz RNN reads handwritten digits pixel by pixel in a shuffled order",
        "mnist:permute=lipschitz,scale=255,split=lipschitz", 3.5e-3, 0.963,
        "The released code leaves the pixels of the shuffled task at 0 to 255; so do we.",
    ),
    Training(
        "lipschitz-digits", "The Lipschitz RNN and its baselines on small digits, clean and under noise", "2006.12070",
        note="Not an experiment of the paper: its cells on the digits that scikit-learn brings. The numbers beside ours were "
        "measured with the released cells on another split (1,437 / 360), one to two seeds.",
        data="digits:layout=16x4", hidden_size=64,
        quantities=("test accuracy", "accuracy, white noise 0.1", "accuracy, white noise 0.2", "accuracy, white noise 0.3",
                    "max Re λ(A)", "λmax(A sym)", "σmax(W)"),
        train={"batch_size": 64, "lr": 5e-3, "epochs": 40, "decay_after": 36, "clip": None, "keep": "last"},
        arms=(
            _digits("Lipschitz RNN, Euler", "lipschitz", _SHORT, 0.939, 0.907, 0.793, 0.640, re=0.738, sym=1.68, sigma=4.92),
            _digits("Lipschitz RNN, midpoint", "lipschitz", {**_SHORT, "solver": "midpoint"}, 0.911, 0.882, 0.772, 0.615),
            _digits("Antisymmetric RNN", "antisymmetric", {"dt": 0.1, "gamma": 1e-3}, 0.953, 0.920, 0.822, 0.663),
            _digits("Elman RNN", "elman", {}, 0.969, 0.939, 0.826, 0.651),
        ),
        scales={"smoke": Scale("20 seconds"), "small": Scale("1 minute", seeds=3)},
    ),
]  # fmt: skip
