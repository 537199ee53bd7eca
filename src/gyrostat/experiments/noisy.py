"""The experiments of the Noisy RNN, with the settings of its released code.

Source: arXiv:2102.04877. Published numbers: the paper's, as public benchmark pages quote them.
"""

from .lipschitz import _OPTIONS, _TRAIN, _digits
from .recipe import Reference
from .training import Arm, Scale, Training

_NOISY = {**_OPTIONS, "dt": 0.01, "learn_dt": True, "noise_form": "released"}


def _pixels(name: str, title: str, data: str, lipschitz_lr: float, published: dict[str, float]) -> Training:
    joint = "," if ":" in data else ":"

    def arm(label: str, model: str, options: dict, lr: float) -> Arm:
        beside = {"test accuracy": Reference(published[label], "paper")} if label in published else {}
        return Arm(label, model, options, {"lr": lr}, beside)

    return Training(
        name, title, "2102.04877", data=data, hidden_size=128,
        note="The step of each unit is learned in the released code with noise and fixed without: a comparison of the two "
        "changes both.",
        quantities=("test accuracy", "accuracy, white noise 0.1", "accuracy, white noise 0.2", "accuracy, white noise 0.3"),
        train={**_TRAIN, "lr": 1e-3},
        arms=(
            arm("Noisy RNN, high noise", "noisy", {**_NOISY, "additive_noise": 0.05, "multiplicative_noise": 0.02}, 1e-3),
            arm("Noisy RNN, low noise", "noisy", {**_NOISY, "additive_noise": 0.02, "multiplicative_noise": 0.02}, 1e-3),
            arm("Lipschitz RNN", "lipschitz", _OPTIONS, lipschitz_lr),
            arm("Antisymmetric RNN", "antisymmetric", {"dt": 0.01, "gamma": 1e-4}, 2e-3),
        ),
        scales={
            "smoke": Scale("8 minutes", f"{data}{joint}limit=1000", 32, train={"epochs": 2}),
            "paper": Scale("months; days on a GPU"),
        },
    )  # fmt: skip


_SHORT = {**_NOISY, "dt": 0.1}


def _short(additive: float, multiplicative: float) -> dict:
    return {**_SHORT, "additive_noise": additive, "multiplicative_noise": multiplicative}


RECIPES = [
    _pixels(
        "noisy-smnist", "Noise in training buys robustness: digits pixel by pixel", "mnist:split=lipschitz", 3e-3,
        {"Noisy RNN, high noise": 0.991, "Lipschitz RNN": 0.992, "Antisymmetric RNN": 0.975},
    ),
    _pixels(
        "noisy-psmnist", "Noise in training buys robustness: digits pixel by pixel in a shuffled order",
        "mnist:permute=lipschitz,scale=255,split=lipschitz", 3.5e-3,
        {"Noisy RNN, high noise": 0.949, "Antisymmetric RNN": 0.928},
    ),
    Training(
        "noisy-digits", "Noise in training buys robustness and calms the dynamics, on small digits", "2102.04877",
        note="Not an experiment of the paper: its cells on the digits that scikit-learn brings. The numbers beside ours were "
        "measured with the released cells on another split (1,437 / 360), means of three seeds (high noise: one).",
        data="digits:layout=16x4", hidden_size=64,
        quantities=("test accuracy", "accuracy, white noise 0.1", "accuracy, white noise 0.2", "accuracy, white noise 0.3",
                    "max Re λ(A)", "λmax(A sym)", "σmax(W)"),
        train={"batch_size": 64, "lr": 5e-3, "epochs": 40, "decay_after": 36, "clip": None, "keep": "last"},
        arms=(
            _digits("no noise, learned steps", "noisy", _short(0.0, 0.0), 0.966, 0.938, 0.833, 0.684,
                    re=0.192, sym=0.662, sigma=3.31),
            _digits("additive 0.05, multiplicative 0.02", "noisy", _short(0.05, 0.02), 0.965, 0.954, 0.873, 0.742,
                    re=-0.002, sym=0.425, sigma=2.54),
            _digits("additive 0.10, multiplicative 0.02", "noisy", _short(0.1, 0.02), 0.969, 0.963, 0.895, 0.778,
                    re=-0.059, sym=0.367, sigma=2.29),
        ),
        scales={"smoke": Scale("20 seconds"), "small": Scale("1 minute", seeds=3)},
    ),
]  # fmt: skip
