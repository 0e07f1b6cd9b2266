"""Is the explorer smooth at 200,000 points? Pan, zoom and hover, measured in headless Chromium without a GPU.

    python benchmarks/explorer_smoothness.py [--items 200000] [--lab]

The page that `llm2rec explore` writes, over made-up maps, is driven by real pointer events. For each event: the time from
its arrival in the page to the end of the frame that shows its effect (main thread, raster of points and overlay included).
On a busy machine that is also how long the page waited for a processor: `work ms` is the main thread's own time an event.
First picture: from the beginning of the navigation to the frame in which the points of all maps shown stand, fully drawn.
With `--lab` the widget instead of the page, in a JupyterLab of its own: first picture from the call of the cell that makes it.
Neighbours in the page are drawn by seed (of the right number and size): exact search among 200,000 takes minutes and is
another benchmark's.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import polars as pl
from playwright.sync_api import Browser, Page, sync_playwright

from llm2rec_kit.corpus import TRAIN, Corpus
from llm2rec_kit.maps.atlas import Atlas
from llm2rec_kit.widgets import explorer_page

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
WINDOW = {"width": 1920, "height": 1080}
STAGES = ("raw", "csft", "mntp", "contrastive")
# Records, for each pointer or wheel event on a map, milliseconds until the frame after it has been made.
WATCH = """() => { window.waits = []; for (const kind of ['pointermove', 'wheel']) document.addEventListener(kind, () => {
  const began = performance.now(); requestAnimationFrame(() => { const c = new MessageChannel();
  c.port1.onmessage = () => window.waits.push(performance.now() - began); c.port2.postMessage(0); }); }, { capture: true }); }"""


def made_up(n: int) -> Atlas:
    """An atlas of n items in 60 blobs, four stages that drift, no real corpus behind it."""
    rng = np.random.default_rng(0)
    blob = rng.integers(60, size=n)
    middles = rng.normal(size=(60, 2)) * 6
    aligned = {s: (middles[blob] + k + rng.normal(size=(n, 2))).astype(np.float32) for k, s in enumerate(STAGES)}
    items = pl.DataFrame(
        {
            "item": np.arange(1, n + 1, dtype=np.int32),
            "title": [f"Made-up item number {i} of blob {b}, a title of usual length" for i, b in enumerate(blob)],
            "domain": "bench",
            "popularity": rng.zipf(1.6, n).clip(max=9999),
            "cluster": (blob % 8).astype(np.int32),
            "community": (blob % 7).astype(np.int32),
        }
    )
    corpus = Corpus(
        items=items.select("item", pl.lit("").alias("source_id"), "title", "domain"),
        users=pl.DataFrame({"user": np.arange(2, dtype=np.int32), "source_id": ["a", "b"], "domain": "bench"}),
        offsets=np.array([0, 3, 6]), sequence=np.array([1, 2, 3, 4, 5, 6], np.int32), times=None,
        targets=np.array([2, 5]), splits=np.full(2, TRAIN, np.uint8), max_history=10,
    )  # fmt: skip
    tables = {s: np.concatenate([np.zeros((1, 2), np.float32), plane]) for s, plane in aligned.items()}
    words = {c: {g: f"{c} {g}" for g in range(8)} for c in ("cluster", "community")}
    rows = [{"stage": s, "kept_aligned": 0.5} for s in STAGES]
    return Atlas(items, aligned, aligned, tables, corpus, words, {"stages": rows, "clusters_of": "contrastive"})


def any_neighbours(table: np.ndarray) -> dict[str, object]:
    """Neighbours drawn by seed, as many and as large as a page's own."""
    rng, n, k = np.random.default_rng(0), len(table) - 1, explorer_page.PAGE_NEIGHBOURS
    ids, cosines = rng.integers(1, n + 1, (n, k), np.int32), rng.integers(200, 255, (n, k), np.uint8)
    return {"k": k, "ids": zlib.compress(ids.tobytes(), 1), "cosines": zlib.compress(cosines.tobytes(), 1)}


def measure(page: Page, panels: int) -> dict[str, tuple[np.ndarray, float]]:
    """Of hovering, panning and zooming with this many stages side by side: waits in ms, and the main thread's work an event."""
    clock = page.context.new_cdp_session(page)
    clock.send("Performance.enable", {"timeDomain": "threadTicks"})

    def worked() -> float:
        return next(m["value"] for m in clock.send("Performance.getMetrics")["metrics"] if m["name"] == "TaskDuration")

    shown = page.locator(".lx-panel").count()
    for name in STAGES[1:-1][: panels - shown] if panels > shown else []:
        page.locator(".lx-buttons").first.get_by_role("button", name=name, exact=True).click()
    for _ in range(shown - panels):
        page.locator(".lx-buttons button[aria-pressed=true]").nth(1).click()
    box = page.locator(".lx-over").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    found = {}
    for what in ("hover", "pan", "zoom"):
        page.mouse.move(x - 90, y - 60)
        page.wait_for_timeout(300)
        page.evaluate("window.waits.length = 0")
        before = worked()
        if what == "pan":
            page.mouse.down()
        for k in range(60):
            if what == "zoom":
                page.mouse.wheel(0, -40 if k < 30 else 40)
            else:
                page.mouse.move(x - 90 + 3 * k, y - 60 + 2 * k)
            page.wait_for_timeout(16)
        after = worked()
        page.mouse.up()
        page.wait_for_timeout(200)
        waits = np.array(page.evaluate("window.waits"))
        found[what] = waits, 1000 * (after - before) / len(waits)
    return found


def report(page: Page, ratio: int) -> None:
    """Print a line for each number of panels and each action."""
    page.evaluate(WATCH)
    for panels in (1, 2, 4):
        for what, (ms, work) in measure(page, panels).items():
            told = (np.median(ms), np.percentile(ms, 95), ms.max(), work)
            cells = [str(ratio), str(panels), what, str(len(ms)), *(f"{value:.1f}" for value in told)]
            print(" ".join(f"{cell:>11}" for cell in cells), flush=True)


def of_the_page(browser: Browser, folder: Path, items: int) -> None:
    """Measure the page that `llm2rec explore` writes, at one and at two pixels to a CSS pixel."""
    path = folder / "explorer.html"
    path.write_text(explorer_page.render_page(made_up(items), "benchmark"))
    print(f"a page of {path.stat().st_size / 1e6:.1f} MB")
    for ratio in (1, 2):
        context = browser.new_context(viewport=WINDOW, device_scale_factor=ratio)
        page = context.new_page()
        page.goto(path.as_uri())
        page.wait_for_selector(".lx[data-drawn]", timeout=120_000)
        first = float(page.locator(".lx").get_attribute("data-drawn"))
        page.wait_for_function("document.readyState === 'complete'")
        whole = page.evaluate("performance.getEntriesByType('navigation')[0].domComplete")
        print(
            f"pixel ratio {ratio}: first picture after {first / 1000:.2f} s, the page read whole after {whole / 1000:.2f} s"
        )
        report(page, ratio)
        context.close()


def of_the_widget(browser: Browser, folder: Path, items: int) -> None:
    """Measure the widget in a JupyterLab, with the atlas made in a cell before."""
    sys.path.append(str(Path(__file__).parents[1] / "tests" / "browser"))
    import in_the_lab
    import nbformat

    for lab in in_the_lab.lab(folder):
        first = f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nimport explorer_smoothness\n"
        first += f"from llm2rec_kit.widgets import explorer\natlas = explorer_smoothness.made_up({items})\nprint('ready')"
        cells = [nbformat.v4.new_code_cell(source) for source in (first, "explorer.Explorer(atlas)")]
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), lab.folder / "many.ipynb")
        page = browser.new_context(viewport=WINDOW).new_page()
        page.set_default_timeout(120_000)
        page.goto(f"{lab.url}lab/tree/many.ipynb?token={lab.token}&reset")
        page.locator(".jp-CodeCell .cm-content").first.click()
        page.get_by_text("ipykernel) | Idle").wait_for()
        page.keyboard.press("Shift+Enter")
        page.locator(".jp-OutputArea-output", has_text="ready").wait_for()
        began = time.monotonic()
        page.keyboard.press("Shift+Enter")
        page.wait_for_selector(".lx[data-drawn]")
        print(f"first picture {time.monotonic() - began:.2f} s after the call of its cell")
        page.locator(".lx-over").first.scroll_into_view_if_needed()
        report(page, 1)


def main() -> None:
    """Print a table: median, 95th percentile and longest wait of each action."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--lab", action="store_true", help="the widget in JupyterLab instead of the page")
    args = parser.parse_args()
    explorer_page._all_neighbours = any_neighbours
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        print(f"{args.items:,} points, window 1920 x 1080, load of the machine {os.getloadavg()[0]:.1f} at the start")
        columns = ("pixel ratio", "panels", "action", "events", "median ms", "95% ms", "max ms", "work ms")
        print(" ".join(f"{name:>11}" for name in columns))
        (of_the_widget if args.lab else of_the_page)(browser, Path(folder), args.items)
        print(f"load at the end {os.getloadavg()[0]:.1f}")
        browser.close()


if __name__ == "__main__":
    main()
