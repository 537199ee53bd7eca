"""Two processes started by accelerate: half of the batches each, one set of weights, killed and continued exactly."""

import json
import socket
import subprocess
import sys
import time

import psutil
import pytest
import torch
import torch.distributed as dist

from gyrostat.train.state import load_state

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo"),
]
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
          "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "gyrostat.cli.app"]  # fmt: skip
LINE = ["train", "adding:length=12,n=400", "--model", "noisy", "--hidden-size", "6", "--batch-size", "8", "--accumulate", "2",
        "--device", "cpu", "--checkpoint-seconds", "0"]  # fmt: skip


def launch(out, *more):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    at = LAUNCH.index("-m", 3)
    command = [*LAUNCH[:at], "--main_process_port", str(port), *LAUNCH[at:], *LINE, "--out", str(out), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[:2000]
    return out, err


def weights(folder):
    return load_state(folder / "model.safetensors")[0]


def test_two_processes_share_the_work_and_are_resumed_exactly(tmp_path):
    out, err = finish(launch(tmp_path / "whole", "--epochs", "6"))
    assert out.count("\n") == 1  # the first process alone speaks
    assert err.count("epoch 1/6") == 1
    result = json.loads((tmp_path / "whole" / "result.json").read_text())
    assert result["processes"] == 2
    assert result["steps"] == 6 * 10  # 320 sequences, 2 processes of 2 batches of 8
    assert result["history"][-1]["train_loss"] < result["history"][0]["train_loss"]

    process = launch(tmp_path / "cut", "--epochs", "6")
    state = tmp_path / "cut" / "state.safetensors"
    until = time.monotonic() + 120
    while not state.is_file() and time.monotonic() < until:
        time.sleep(0.02)
    launcher = psutil.Process(process.pid)
    for one in [*launcher.children(recursive=True), launcher]:
        one.kill()
    process.communicate()
    assert not (tmp_path / "cut" / "result.json").is_file()
    finish(launch(tmp_path / "cut", "--epochs", "6"))
    theirs = weights(tmp_path / "whole")
    assert all(torch.equal(v, theirs[k]) for k, v in weights(tmp_path / "cut").items())
    assert (tmp_path / "cut" / "metrics.jsonl").read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()

    refused = launch(tmp_path / "cut", "--epochs", "6")
    _, err = refused.communicate(timeout=300)
    assert err.count("gyrostat: error: ") == 1
    assert "--force" in err
