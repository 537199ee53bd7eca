"""The recipes under examples/ run, where their package is installed, and learn."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "package"),
    [("mixup_plain_loop", "torch"), ("mixup_accelerate", "accelerate"), ("mixup_lightning", "lightning")],
)
def test_recipe(name, package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    code = (
        "import sys, torch; torch.set_num_threads(1); sys.path.insert(0, sys.argv[1]); "
        f"import {name} as recipe; assert recipe.main(4) > 0.8"
    )
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    # a process of its own: these packages warn, patch and keep state
    done = subprocess.run([sys.executable, "-c", code, str(EXAMPLES)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
