"""The report of an audit in the forms that people and machines read: HTML, Markdown, SARIF 2.1.0."""

from __future__ import annotations

from typing import Any

from .. import __version__
from .._errors import printable
from ..report.figures import new_figure, style
from ..report.page import Page
from .scan import LIMITS_IN_WORDS, Report

SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
RULES = {
    "GYR001": ("SuspiciousNoiseResponse", "The response to noise deviates from clean references as a backdoor's does."),
    "GYR002": ("InconclusiveNoiseResponse", "The response to noise deviates somewhat from clean references."),
    "GYR003": ("UnsafeFormat", "Loading the file could execute code, or its format is not supported."),
    "GYR004": ("Uncalibrated", "No clean references were given, so nothing can be said about the response to noise."),
    "GYR005": ("NotAnswered", "The model could not be asked."),
}
_RULE_OF = {
    "suspicious": ("GYR001", "error"),
    "inconclusive": ("GYR002", "warning"),
    "uncalibrated": ("GYR004", "note"),
}


def headline(report: Report) -> str:
    """The finding in one sentence."""
    if report.refused:
        return f"Refused: {report.refused}"
    if report.failed or report.verdict is None:
        return f"Not audited: {report.failed}"
    v = report.verdict
    if v.label == "suspicious":
        return f"Suspicious: {v.reason}."
    if v.label == "no finding":
        return f"No finding: {v.reason}."
    candidate = f"the candidate class is {v.target}"
    return f"{v.label.capitalize()}: {v.reason}; {candidate}."


def to_markdown(report: Report) -> str:
    """A few lines for a pull request or a ticket."""
    lines = [f"## {report.name}", "", headline(report), ""]
    lines += [
        f"- format: {report.format}",
        f"- sha256: `{report.sha256 or 'in memory'}`",
        f"- seconds: {report.seconds:.2f}",
    ]
    if report.would_call:
        lines.append("- would call: " + ", ".join(f"`{_plain(name)}`" for name in report.would_call))
    if report.verdict is not None and report.curve is not None:
        v = report.verdict
        if v.p_value is not None:
            lines.append(f"- conformal p-value: {v.p_value:.3f} ({v.references} references)")
        lines += ["", "| class | deviation |" if v.z is not None else "| class | share |", "|---|---|"]
        lines += [f"| {c} | {value:.3g} |" for c, value in v.ranked[:5]]
    lines += [
        "",
        *[
            f"> {_plain(w)}"
            for w in [*report.warnings, *(report.verdict.warnings if report.verdict else []), *LIMITS_IN_WORDS]
        ],
    ]
    return "\n".join(lines) + "\n"


def to_sarif(report: Report, uri: str) -> dict[str, Any]:
    """A SARIF 2.1.0 log with at most one result."""
    rule, level = "GYR003" if report.refused else "GYR005", "error"
    if report.verdict is not None:
        rule, level = _RULE_OF.get(report.verdict.label, ("", ""))
    order = list(RULES)
    results = []
    if rule:
        result: dict[str, Any] = {
            "ruleId": rule,
            "ruleIndex": order.index(rule),
            "level": level,
            "message": {"text": headline(report)},
            "locations": [{"physicalLocation": {"artifactLocation": {"uri": uri, "index": 0}}}],
            "partialFingerprints": {"modelSha256/v1": f"{report.sha256}:{rule}"},
        }
        if report.would_call:
            result["properties"] = {"wouldCall": list(report.would_call)}
        elif report.verdict is not None and report.verdict.D is not None:
            v = report.verdict
            result["properties"] = {"D": v.D, "limit": v.limit, "pValue": v.p_value, "references": v.references}
        results.append(result)
    artifact: dict[str, Any] = {"location": {"uri": uri}}
    if report.sha256:
        artifact["hashes"] = {"sha-256": report.sha256}
    rules = [{"id": i, "name": n, "shortDescription": {"text": t}} for i, (n, t) in RULES.items()]
    return {
        "$schema": SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "gyrostat", "version": __version__, "rules": rules}},
                "artifacts": [artifact],
                "results": results,
                "invocations": [{"executionSuccessful": not report.failed}],
            }
        ],
    }


def to_page(report: Report, facts: dict[str, Any]) -> Page:
    """One HTML page: the verdict, the curves, the classes, what limits it, how it was made."""
    page = Page(f"Audit of {report.name}", f"{report.format}, sha256 {report.sha256[:16] or '-'}")
    label = report.verdict.label if report.verdict else ""
    kind = {"no finding": "good", "suspicious": "bad", "": "bad"}.get(label, "")
    page.verdict(headline(report), "", kind=kind)
    for warning in [*report.warnings, *(report.verdict.warnings if report.verdict else [])]:
        page.text(warning[:1].upper() + warning[1:] + ".")
    if report.would_call:
        page.heading("What loading it would call")
        page.code("\n".join(_plain(name) for name in report.would_call))
    if report.curve is not None and report.verdict is not None:
        _curves(page, report)
        _classes(page, report)
    page.heading("What this cannot say")
    for sentence in LIMITS_IN_WORDS:
        page.text(sentence)
    settings = report.curve.settings if report.curve is not None else {}
    page.facts({**facts, "seconds": f"{report.seconds:.2f}", "sha256": report.sha256, **settings})
    return page


def _curves(page: Page, report: Report) -> None:
    curve = report.curve
    assert curve is not None
    figure, (left, right) = new_figure(1, 2, width=9.0)
    for ax, kind, title in ((left, "gated", "changed and confident"), (right, "raw", "confident")):
        curve.plot(ax, kind)
        ax.set(title=title, ylabel="share of noisy inputs")
    page.heading("Response to noise")
    page.figure(
        figure,
        f"Share of {curve.n} noisy inputs, by noise level, for each confidence cut-off γ. "
        f"At the largest level the most frequent class is {curve.modal_class()}.",
    )


def _classes(page: Page, report: Report) -> None:
    curve, verdict = report.curve, report.verdict
    assert curve is not None
    assert verdict is not None
    figure, (ax,) = new_figure(1, 1, width=9.0)
    share = curve.class_share("all")  # (S, K)
    shown = [c for c, _ in verdict.ranked[:4]]
    for i, c in enumerate(shown):
        ax.plot(curve.sigmas, share[:, c], label=f"class {c}", **style(i))
    ax.set(xlabel="noise level σ", ylabel="share of noisy inputs", ylim=(-0.02, 1.02))
    ax.legend()
    page.heading("Where the answers go")
    page.figure(figure, "Share of noisy inputs given each of the four classes that stand out most.")
    features = curve.features()
    mean = report.reference_mean
    columns = [
        "class",
        "deviation z" if verdict.z is not None else "share, changed and confident",
        "share of all",
        "of them, clean models",
    ]
    how = "the mean of several curves" if report.other_curves else "the largest of three conditions"
    rows = [[c, v, float(features[0, c]), None if mean is None else float(mean[0][c])] for c, v in verdict.ranked[:10]]
    page.table(columns, rows, caption=f"Means over the noise levels; the deviation is {how}.")


def _plain(text: str) -> str:
    """Names out of a hostile file, on one line and without control characters."""
    return "".join("?" if ch in "`|<>" else ch for ch in printable(text))[:200]
