"""The report page: escapes what it is given, loads nothing, and fits a phone and a wide window in a real browser."""

import re
import shutil
import subprocess

import pytest

from gyrostat.report.figures import image_tag, new_figure, style
from gyrostat.report.page import Page, write_atomically
from gyrostat.train.compare_page import build_page


def sample():
    rows = [
        {"model": m, "score": 0.9 + i / 50, "spread": 0.01, "seeds": 3, "hidden_size": 64, "parameters": 18570,
         "seconds_per_epoch": 0.2, "white": {"0.1": 0.9, "0.2": 0.8, "0.3": 0.7},
         "salt_pepper": {"0.03": 0.9, "0.05": 0.85, "0.1": 0.8}} for i, m in enumerate(("lem", "lipschitz"))
    ]  # fmt: skip
    results = [
        {"model": {"model": r["model"]}, "history": [{"valid_score": 0.5}, {"valid_score": 0.9}],
         "eigenvalues": {"A": [[0.1, 1.0], [0.1, -1.0]]} if r["model"] == "lipschitz" else {}} for r in rows
    ]  # fmt: skip
    return build_page("Which?", "toy & <data>", ("Take lem.", "Because."), rows, results, "classify", {"command": "x"})


def test_nothing_leaves_the_page_and_everything_is_escaped():
    page = sample()
    page.text("<script>alert(1)</script>")
    page.images([(image_tag([[0.0, 1.0]], "two pixels"), "caption")])
    html = page.render()
    assert "<script" not in html
    assert "toy &amp; &lt;data&gt;" in html
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", html)
    assert "default-src 'none'" in html
    assert html.count("<svg") == 3
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    write_atomically(path, b"old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_series_can_be_told_apart():
    assert len({(style(i)["color"], style(i)["marker"]) for i in range(8)}) == 8
    figure, axes = new_figure(2, 2)
    assert len(axes) == 4
    assert figure.axes == axes


@pytest.mark.parametrize("width", [400, 1400])
def test_in_a_browser(width, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed")
    html = sample().render()
    # the page itself runs no script; a frame around it measures whether it is wider than the window
    probe = (
        "<script>onload=()=>{const d=document.documentElement;document.title=`${d.scrollWidth}/${innerWidth}`}</script>"
    )
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html).replace("</main>", probe + "</main>")
    path = Page("x").write(tmp_path / "page.html")
    path.write_text(html)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
             "--disable-background-networking", "--disable-component-update", f"--window-size={width},1200",
             f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--dump-dom"]  # fmt: skip
    done = subprocess.run([browser, *flags, path.as_uri()], capture_output=True, text=True, timeout=120)
    measured = re.search(r"<title>(\d+)/(\d+)</title>", done.stdout)
    assert measured, done.stderr[-500:]
    assert int(measured[1]) <= int(measured[2]), "the page is wider than the window"
    assert "CONSOLE" not in done.stderr
