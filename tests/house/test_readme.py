"""Each Python block of the README runs, in order, in one namespace; each `gyrostat` line names a verb that exists."""

import re
from pathlib import Path

from gyrostat.cli.app import verbs

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_python_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    namespace: dict = {"__name__": "readme"}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)


def test_commands_name_verbs_that_exist():
    named = set(re.findall(r"^(?:\$ )?gyrostat ([a-z]+)", README, flags=re.MULTILINE))
    named |= set(re.findall(r"`gyrostat ([a-z]+)", README))
    assert named
    assert named <= set(verbs())
