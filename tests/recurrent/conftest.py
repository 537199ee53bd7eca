"""Counts of the derivative checks, printed at the end of the suite."""

import collections

import pytest

_COUNTS: collections.Counter = collections.Counter()


@pytest.fixture(scope="session")
def tally():
    return _COUNTS


def pytest_sessionfinish(session):
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["derivative_checks"] = dict(_COUNTS)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    _COUNTS.update(getattr(node, "workeroutput", {}).get("derivative_checks", {}))


def pytest_terminal_summary(terminalreporter):
    if _COUNTS:
        terminalreporter.write_line(", ".join(f"{n} {name}" for name, n in sorted(_COUNTS.items())) + " passed")
