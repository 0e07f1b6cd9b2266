"""The report and the explorer's page, opened from disk: nothing that came with the data or the run acts or asks anybody."""

from __future__ import annotations

import dataclasses
import http.server
import re
import sys
import threading
from pathlib import Path

import in_the_lab
import polars as pl
import pytest

from llm2rec_kit.reproduction.report import document
from llm2rec_kit.widgets import explorer_page

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("maps", "reproduction")]

import small_atlas
from test_report_faults import made

MARK = '<script>document.title = "acted"</script><img src="no" onerror="document.title = \'acted\'">'


@pytest.fixture(scope="module")
def chromium():
    yield from in_the_lab.chromium()


@pytest.fixture
def page(chromium):
    page = chromium.new_context(viewport={"width": 1280, "height": 900}).new_page()
    yield page
    page.context.close()


@pytest.fixture
def server():
    """A server on the loopback that notes what it is asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}", asked
        listening.shutdown()


def test_nothing_in_a_report_acts_or_asks(page, server, tmp_path):
    address, asked = server
    run = made(tmp_path, source=MARK)
    (run.path / "figures" / "by_kind.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20"><script>document.title = "acted"</script>'
        f'<image href="{address}/from-svg" onload="document.title = \'acted\'"/><rect width="40" height="20" fill="#0072B2"/></svg>'
    )
    document.write(run)
    page.goto((run.path / "report.html").as_uri())
    assert page.title() == "LLM2Rec run toy"
    assert MARK in page.inner_text("body")
    drawn = page.locator("figure img")
    assert drawn.evaluate_all("all => all.map((i) => i.complete && i.naturalWidth)")[-1] == 40  # the figure itself is seen
    blocked = page.evaluate(
        """async (address) => {
        const seen = [];
        document.addEventListener("securitypolicyviolation", (e) => seen.push(e.effectiveDirective));
        const script = document.createElement("script"); script.textContent = "document.title = 'acted'";
        document.body.append(script);
        const image = new Image(); image.src = address + "/image"; document.body.append(image);
        try { await fetch(address + "/fetch"); } catch {}
        const loaded = await new Promise((done) => { image.onload = () => done(true); image.onerror = () => done(false); });
        return [loaded, ...seen];
    }""",
        address,
    )
    assert blocked[0] is False
    assert {"script-src-elem", "img-src", "connect-src"} <= set(blocked)
    assert page.title() == "LLM2Rec run toy"
    assert asked == []


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (1920, 1080)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_is_read_within_three_screens(page, tmp_path, width, height, scheme):
    """Up to what it was made by; long tables are folded and open on a click, and nothing is wider than the screen."""
    run = made(tmp_path)
    document.write(run)
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme=scheme)
    page.goto((run.path / "report.html").as_uri())
    assert page.locator("#made").bounding_box()["y"] < 3 * height
    assert page.locator(".answers li").count() == 3
    assert page.locator(".answers").bounding_box()["y"] < page.locator("h2").first.bounding_box()["y"]
    assert page.evaluate("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    tests = page.get_by_role("columnheader", name="p (Holm)")
    assert tests.count() == 0
    page.get_by_text("Every metric, every test").last.click()
    assert tests.first.is_visible()
    ink, paper = page.evaluate("() => { const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]; }")
    assert (sum(map(int, re.findall(r"\d+", ink)[:3])) > sum(map(int, re.findall(r"\d+", paper)[:3]))) == (scheme == "dark")


def test_the_explorer_s_page_shows_odd_words_as_words(page, tmp_path):
    atlas = small_atlas.atlas()
    odd = atlas.items.with_columns(domain=pl.Series([MARK, "<!-- <script>", "/*EXPLORER*/", "base64,no"] * 10))
    said = []
    page.on("pageerror", lambda error: said.append(str(error)))
    file = tmp_path / "explorer.html"
    file.write_text(explorer_page.render_page(dataclasses.replace(atlas, items=odd), MARK), encoding="utf-8")
    page.goto(file.as_uri())
    page.locator("#explorer canvas").first.wait_for()
    page.get_by_label("Colour").select_option("domain")
    legend = page.inner_text("#explorer")
    assert all(word in legend for word in (MARK, "<!-- <script>", "/*EXPLORER*/", "base64,no"))
    assert page.title() == MARK
    assert said == []
