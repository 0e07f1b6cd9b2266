"""The notebooks in JupyterLab, as a person opens and runs them, and the explorer at the end of them, in a real browser."""

from __future__ import annotations

import re
from pathlib import Path

import in_the_lab
import nbformat
import pytest

from llm2rec_kit import cli
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.maps.atlas import Atlas
from llm2rec_kit.reproduction.runner import notebooks
from llm2rec_kit.runs import Run

SERIES = [b.name for b in notebooks.list_series()]
# What JupyterLab itself says on the console of a headless browser; all else is ours.
NOT_OURS = re.compile(r"favicon|ResizeObserver loop|Deprecat|LSP|lsp|translations|404 \(Not Found\)")
DONE = """() => { const prompts = [...document.querySelectorAll('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell')]
  .filter((c) => c.querySelector('.jp-InputArea-editor').textContent.trim())
  .map((c) => c.querySelector('.jp-InputArea-prompt').textContent); return prompts.length && prompts.every((p) => /\\d/.test(p)); }"""


@pytest.fixture(scope="module")
def chromium():
    yield from in_the_lab.chromium()


@pytest.fixture(scope="module")
def lab(chromium, toy_run, tmp_path_factory):
    yield from in_the_lab.lab(tmp_path_factory.mktemp("lab"), toy_run)


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory):
    return in_the_lab.screenshots(tmp_path_factory.mktemp("screenshots"))


@pytest.fixture(scope="module")
def page(chromium, lab):
    context = chromium.new_context(viewport={"width": 1280, "height": 1000})
    page = context.new_page()
    page.said = []
    page.set_default_timeout(60_000)  # a limit, not a pace: machines may be busy
    page.on("console", lambda m: page.said.append(m.text) if m.type == "error" and not NOT_OURS.search(m.text) else None)
    page.on("pageerror", lambda e: page.said.append(str(e)))
    yield page
    context.close()


def open_notebook(page, lab, name):
    page.goto(f"{lab.url}lab/workspaces/{name[:2]}/tree/{name}?token={lab.token}&reset")
    page.wait_for_selector(".jp-NotebookPanel .jp-CodeCell", timeout=60_000)
    page.get_by_text(re.compile(r"ipykernel\) \| Idle")).wait_for(timeout=60_000)


def run_all(page):
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(DONE, timeout=240_000)


def save_and_close(page, lab, name):
    """Save, end the kernel, and return the notebook as it lies on disk."""
    before = (lab.folder / name).stat().st_mtime_ns
    page.keyboard.press("Control+s")
    page.wait_for_function("() => !document.querySelector('.jp-mod-dirty')")
    assert (lab.folder / name).stat().st_mtime_ns > before
    page.evaluate(
        """async (token) => { const all = await (await fetch('/api/sessions', {headers: {Authorization: `token ${token}`}})).json();
        for (const s of all) await fetch(`/api/sessions/${s.id}`, {method: 'DELETE', headers: {Authorization: `token ${token}`,
          'X-XSRFToken': document.cookie.match(/_xsrf=([^;]*)/)?.[1] ?? ''}}); }""",
        lab.token,
    )
    return nbformat.read(lab.folder / name, as_version=4)


def test_the_series_runs_in_the_lab_and_its_explorer_answers(page, lab, screenshots):
    for name in SERIES:  # in one test, since each stands on what the one before made
        open_notebook(page, lab, name)
        run_all(page)
        page.screenshot(path=screenshots / f"{name[:2]}.png")
        assert page.get_by_text("Error displaying widget").count() == 0, name
        assert page.get_by_text("Loading widget").count() == 0, name
        if name.startswith("05"):
            use_the_explorer(page, lab, screenshots)
        saved = save_and_close(page, lab, name)
        outputs = [o for c in saved.cells if c.cell_type == "code" for o in c.outputs]
        assert not [o for o in outputs if o.output_type == "error"], name
        check_reuse(name[:2], "".join(o.get("text", "") for o in outputs))
        assert page.said == [], name
    use_the_page(page, lab, screenshots)


def check_reuse(number, said):
    """Each notebook made what the finished run no longer had, and that alone."""
    gone = in_the_lab.MADE.get(number, "").partition("/")[0]
    made = re.findall(r"^(\S+): (?:making|redoing)", said, re.MULTILINE)
    assert made == ([gone] if number in ("02", "03", "05") else [])
    assert (" 1 trainings to do, 19 reused" in said) == (number == "04")
    assert set(re.findall(r"(\d+) recommenders to train", said)) == ({"0"} if number in ("06", "07") else set())


MANY = """import sys
sys.path.insert(0, {benchmarks!r})
import explorer_smoothness
from llm2rec_kit.widgets import explorer
view = explorer.Explorer(explorer_smoothness.made_up(200_000))
view"""


def test_two_hundred_thousand_items_in_the_lab(page, lab, screenshots):
    """The widget draws them all, and answers to a click and a lasso."""
    source = MANY.format(benchmarks=str(Path(__file__).parents[2] / "benchmarks"))
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source), nbformat.v4.new_code_cell("")])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, lab.folder / "many.ipynb")
    open_notebook(page, lab, "many.ipynb")
    run_all(page)
    view = page.locator(".lx")
    page.wait_for_selector(".lx-panel[data-drawn='200000']")
    click_on(page, view, item=12345)
    view.locator(".lx-columns h4").nth(3).wait_for()
    chosen = int(ask(page, "view.item"))
    assert view.locator(".lx-chosen b").inner_text() == ask(page, f"view.atlas.items['title'][{chosen - 1}]").strip("'")
    view.locator(".lx-over").first.scroll_into_view_if_needed()
    before = view.evaluate("(el) => el.spotOf(1)")
    view.locator(".lx-over").first.focus()
    page.keyboard.press("ArrowLeft")
    assert view.evaluate("(el) => el.spotOf(1)")[0] > before[0]
    page.keyboard.press("0")
    view.locator(".lx-lasso").click()
    drag_around_everything(page, view)
    view.locator(".lx-picked b", has_text="200,000 items selected").wait_for()
    told = (ask(page, "view.selection.height") for _ in range(10))  # so many ids are on their way for a while
    assert "200000" in told
    view.evaluate("(el) => el.scrollIntoView()")
    page.screenshot(path=screenshots / "explorer-many-lab.png")
    assert page.said == []


def use_the_explorer(page, lab, screenshots):
    """Search, click, stage switch, recolour, lasso, text, user: each as a person does it, and what the kernel then knows."""
    corpus = Corpus.load(Run("toy", lab.outputs).require("corpus"))
    view = page.locator(".lx")
    view.scroll_into_view_if_needed()
    page.screenshot(path=screenshots / "explorer-opened.png")

    title = corpus.titles[7]
    view.locator(".lx-search").fill(" ".join(reversed(title.lower().split())))
    view.locator(".lx-hits [role=option]", has_text=title).first.dispatch_event("mousedown")
    view.locator(".lx-chosen", has_text=title).wait_for()
    view.locator(".lx-columns h4").nth(1).wait_for()
    assert ask(page, "view.item, view.nearest['stage'].n_unique()") == f"(8, {len(stages(view))})"

    for name in stages(view):  # all side by side
        button = view.get_by_role("button", name=name, exact=True).first
        if button.get_attribute("aria-pressed") == "false":
            button.click()
    assert view.locator(".lx-panel").count() == len(stages(view))
    assert ask(page, "view.shown == list(view.atlas.stages)") == "True"

    before = view.locator(".lx-points").first.screenshot()
    view.locator(".lx-colour").select_option("popularity")
    view.locator(".lx-ramp").wait_for()
    assert view.locator(".lx-points").first.screenshot() != before
    assert ask(page, "view.colour") == "'popularity'"

    click_on(page, view, item=3)
    view.locator(".lx-chosen", has_text=corpus.titles[2]).wait_for()
    assert ask(page, "view.item") == "3"

    view.locator(".lx-lasso").click()
    drag_around_everything(page, view)
    view.locator(".lx-picked b").wait_for()
    assert (
        ask(page, "view.selection.height, view.selection.columns[:3]")
        == f"({corpus.n_items}, ['item', 'source_id', 'title'])"
    )
    view.locator(".lx-picked .lx-clear").click()

    view.locator(".lx-text").fill(title)
    view.locator(".lx-text").press("Enter")
    view.locator(".lx-status", has_text=re.compile("is nearest to")).wait_for()
    assert ask(page, "view.placed['near']['csft']") == "8"  # an item's own title lands on the item
    assert "No encoder for adapted (" in view.locator(".lx-status").inner_text()
    assert view.locator(".lx-placed [data-stage=csft] li").first.inner_text() == f"{title} 1.00"

    own_id = corpus.users["source_id"][1]
    view.locator(".lx-user").fill(own_id)
    view.locator(".lx-user").press("Enter")
    view.locator(".lx-status", has_text=f"User {own_id}: ").wait_for()
    assert ask(page, "view.user") == "1"
    history = corpus.history(int(corpus.targets[(corpus.owners(corpus.targets) == 1) & (corpus.splits == 2)][-1])).tolist()
    assert ask(page, "view.path['history']") == str(history)
    view.locator(".lx-compare").click()
    view.locator(".lx-changed h4").first.wait_for()
    most = ask(page, "view.changed['title'][0], round(view.changed['changed'][0], 2)")
    assert view.locator(".lx-changed li small").first.inner_text() == most.rstrip(")").split(", ")[-1].ljust(4, "0")
    view.locator(".lx-measure").select_option("way on the map")
    view.locator(".lx-colour option", has_text="moved, ").wait_for(state="attached")
    view.locator(".lx-measure").select_option("new neighbours")  # the same two again: a kernel has told nothing new
    view.locator(".lx-colour option", has_text="changed, ").wait_for(state="attached")
    view.locator(".lx-user").fill("nobody")
    view.locator(".lx-user").press("Enter")
    view.locator(".lx-status", has_text="There is no user “nobody”").wait_for()
    assert ask(page, "view.user") == "-1"
    view.evaluate("(el) => el.scrollIntoView()")
    page.screenshot(path=screenshots / "explorer-used.png")
    in_the_dark(page, view, screenshots)


def use_the_page(page, lab, screenshots):
    """What `llm2rec explore` writes: search, neighbours, hover, stage switch and users with no kernel behind them."""
    assert cli.main(["explore", "toy", "--outputs", str(lab.outputs)]) == 0
    atlas = Atlas.load(Run("toy", lab.outputs))
    titles = atlas.corpus.titles
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto((lab.outputs / "toy" / "explorer.html").as_uri())
    view = page.locator(".lx")
    search_with_the_keyboard(view, titles)
    view.locator(".lx-search").fill(titles[4])
    view.locator(".lx-search").press("Enter")
    view.locator(".lx-chosen", has_text=titles[4]).wait_for()
    near = atlas.nearest(5, 8)
    for stage in stages(view):
        told = view.locator(f".lx-columns [data-stage={stage}] li [role=button]").all_inner_texts()
        assert told == near.filter(stage=stage)["title"].to_list()
    view.get_by_role("button", name="csft", exact=True).first.click()
    assert view.locator(".lx-panel").count() == 3
    x, y = view.evaluate("(el) => el.spotOf(5)")
    page.mouse.move(x, y)
    view.locator(".lx-tip").wait_for()
    assert view.locator(".lx-tip b").inner_text() in titles
    assert view.locator(".lx-text").count() == 0  # placing a text takes the encoders
    choose_a_user(view, atlas.corpus.n_users)
    page.screenshot(path=screenshots / "page.png")
    move_with_the_keyboard(page, view)
    rearrange(page, view, screenshots)
    assert page.said == []


def search_with_the_keyboard(view, titles):
    """Arrow keys walk through the titles found, those out of sight too; Enter takes one, Escape takes none."""
    search, hits = view.locator(".lx-search"), view.locator(".lx-hits")
    search.fill("edition")
    assert hits.locator("[role=option]").count() == 12
    for _ in range(12):
        search.press("ArrowDown")
    last = hits.locator("[aria-selected=true]")
    box, within = last.bounding_box(), hits.bounding_box()
    assert within["y"] <= box["y"]
    assert box["y"] + box["height"] <= within["y"] + within["height"] + 1
    wanted = last.inner_text()
    search.press("Enter")
    view.locator(".lx-chosen", has_text=wanted).wait_for()
    search.fill(titles[4])
    search.press("Escape")
    assert hits.is_hidden()
    assert wanted in view.locator(".lx-chosen").inner_text()


def choose_a_user(view, users):
    """The page carries some of the users, under the source's ids, and says how many of how many."""
    carried = [o.get_attribute("value") for o in view.locator("datalist option").all()]
    assert view.get_by_text(f"User, {len(carried)} of {users} are in this page").count() == 1
    assert len(carried) == 200 < users
    view.locator(".lx-user").fill(carried[-1])
    view.locator(".lx-user").press("Enter")
    view.locator(".lx-status", has_text=f"User {carried[-1]}: ").wait_for()


def move_with_the_keyboard(page, view):
    """On a map, arrow keys pan and plus zooms; all maps move as one."""
    page.mouse.move(2, 2)
    view.locator(".lx-over").first.focus()
    places = [view.evaluate("(el) => el.spotOf(5)")]
    for key in ("ArrowRight", "+"):
        page.keyboard.press(key)
        places.append(view.evaluate("(el) => el.spotOf(5)"))
    assert places[1][0] < places[0][0]
    assert places[1][1] == places[0][1]
    assert places[2] != places[1]
    view.locator(".lx-reset").click()
    assert view.evaluate("(el) => el.spotOf(5)") == places[0]


def rearrange(page, view, screenshots):
    """All stages in even rows and nothing cut off, in both widths and themes; on a wide screen beside the lists."""
    buttons = view.locator(".lx-buttons").first.get_by_role("button").all()
    for button in buttons:
        if button.get_attribute("aria-pressed") == "false":
            button.click()
    for width, height in ((1280, 900), (1920, 1080)):
        page.set_viewport_size({"width": width, "height": height})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.wait_for_function("(w) => document.querySelector('.lx').clientWidth > w - 100", arg=width)
            page.screenshot(path=screenshots / f"page-{width}-{scheme}.png", full_page=True)
            assert page.evaluate("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")
            sizes = {
                (round(p["width"]), round(p["height"])) for p in (q.bounding_box() for q in view.locator(".lx-panel").all())
            }
            assert len(sizes) == 1  # even rows
    for button in buttons[1:]:
        button.click()
    view.locator(".lx-beside").wait_for()
    panel, told = view.locator(".lx-panel").bounding_box(), view.locator(".lx-told").bounding_box()
    assert panel["x"] + panel["width"] <= told["x"]
    assert abs(panel["y"] - told["y"]) < 20
    page.screenshot(path=screenshots / "page-one.png", full_page=True)


def in_the_dark(page, view, screenshots):
    """JupyterLab's dark theme on a large screen: the explorer follows, points and all."""
    page.set_viewport_size({"width": 1920, "height": 1080})
    page.get_by_role("menuitem", name="Settings", exact=True).click()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Theme$")).hover()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile("^JupyterLab Dark$")).click()
    corner = """() => document.querySelector('.lx-points').getContext('2d').getImageData(2, 2, 1, 1).data[0]"""
    page.wait_for_function(f"() => ({corner})() < 60")
    view.evaluate("(el) => el.scrollIntoView()")
    page.screenshot(path=screenshots / "explorer-dark.png")


def stages(view):
    return view.locator(".lx-buttons").first.get_by_role("button").all_inner_texts()


def click_on(page, view, item):
    """Click where the first panel has drawn an item, by its own arithmetic, wherever no other item lies above."""
    over = view.locator(".lx-over").first
    over.scroll_into_view_if_needed()
    x, y = view.evaluate("(el, id) => el.spotOf(id)", item)
    page.mouse.click(x, y)


def drag_around_everything(page, view):
    box = view.locator(".lx-over").first.bounding_box()
    left, top, right, bottom = box["x"] + 2, box["y"] + 2, box["x"] + box["width"] - 3, box["y"] + box["height"] - 3
    page.mouse.move(left, top)
    page.mouse.down()
    for x, y in ((right, top), (right, bottom), (left, bottom)):
        page.mouse.move(x, y, steps=3)
    page.mouse.up()


def ask(page, expression):
    """What the kernel says of an expression, typed into the empty cell under the last one and run there."""
    page.evaluate("() => document.querySelector('.jp-Notebook').scrollTo(0, 1e9)")
    cells = page.locator(".jp-CodeCell")
    if cells.last.locator(".cm-content").inner_text().strip():
        page.locator(".jp-Notebook-footer").click()
    cell = cells.nth(cells.count() - 1)  # not `last`: running it puts a new one under it
    cell.locator(".cm-content").fill(expression)
    page.keyboard.press("Shift+Enter")
    output = cell.locator(".jp-OutputArea-executeResult .jp-OutputArea-output")
    output.wait_for(timeout=30_000)
    return output.inner_text().strip()
