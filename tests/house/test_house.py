"""The house rules: equations first, sizes, one list of public names, every name documented and exampled."""

import ast
import doctest
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gyrostat

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "gyrostat"
METHOD_FOLDERS = ("recurrent", "depth", "perturb", "transfer", "audit", "sketch")
PUBLIC = (Path(__file__).parent / "public_names.txt").read_text().split()


def python_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*.py") if "__pycache__" not in p.parts)


def method_files() -> list[Path]:
    """Files that hold a method: they say so with a ``Source:`` line or define a registered cell."""
    found = []
    for folder in METHOD_FOLDERS:
        for path in python_files(SOURCE / folder):
            text = path.read_text()
            if re.search(r"arXiv:\d{4}\.\d{4,5}", text) and "class " in text:
                found.append(path)
    return found


def identifier(path: Path) -> str:
    return str(path.relative_to(SOURCE))


@pytest.mark.parametrize("path", method_files(), ids=identifier)
def test_a_method_file_opens_with_its_equation_and_source(path):
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    head, found, _ = docstring.partition("Source:")
    assert found, f"{path.name}: the opening docstring has no 'Source:' line"
    assert re.search(r"[=←≤∈~≈]", head), f"{path.name}: no equation before the 'Source:' line"
    assert re.search(r"arXiv:\d{4}\.\d{4,5}", docstring), f"{path.name}: the source has no arXiv id"


@pytest.mark.parametrize("path", python_files(SOURCE), ids=identifier)
def test_files_stay_within_their_size(path):
    lines = len(path.read_text().splitlines())
    assert lines <= 400, f"{path.name} has {lines} lines: a missing idea, or a second method in one room"


def test_public_names_are_the_golden_list():
    # a new name is added to tests/house/public_names.txt on purpose, together with a line in the changelog
    assert sorted(gyrostat._PUBLIC) == sorted(PUBLIC)


def test_type_checkers_see_the_same_names():
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    seen = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        for inner in node.body
        if isinstance(inner, ast.ImportFrom)
        for alias in inner.names
    }
    assert seen == set(gyrostat._PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented_and_exampled(name):
    thing = getattr(gyrostat, name)
    text = inspect.getdoc(thing) or ""
    assert len(text) > 40, f"{name} has no docstring to speak of"
    if inspect.isclass(thing) and issubclass(thing, BaseException):
        return
    assert ">>>" in text, f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    module = sys.modules[thing.__module__]
    names = {"gyrostat": gyrostat, **vars(module)}
    for test in doctest.DocTestFinder(recurse=False).find(thing, name, module=module, globs=names):
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def test_import_costs_no_torch():
    code = (
        "import sys, time; t = time.perf_counter(); import gyrostat; dt = time.perf_counter() - t;"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules; print(dt)"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    # 100 ms is the promise on an idle core; ten times that still catches an accidental heavy import on a busy one
    assert float(out) < 1.0


def test_no_stub_no_unsafe_load_no_absolute_path():
    words = (
        "NotImplementedError",
        "TODO",
        "FIXME",
        r"pickle\.loads?\(",
        "weights_only=False",
        "import torch(vision|audio)",
    )
    pattern = re.compile("|".join(words))
    hits = [
        f"{identifier(path)}:{number}"
        for path in python_files(SOURCE)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    # the only door: loads what its user says to trust, in a process of its own
    assert [h.split(":")[0] for h in hits] == ["audit/load.py"]


def test_golden_arrays_stay_small():
    total = sum(p.stat().st_size for p in (ROOT / "tests" / "golden").glob("*"))
    assert total < 3_000_000


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_on_the_api_page(name):
    assert f"::: gyrostat.{gyrostat._PUBLIC[name]}.{name}\n" in (ROOT / "docs" / "api.md").read_text()
