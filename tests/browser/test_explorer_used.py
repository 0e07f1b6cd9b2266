"""The explorer's page in a real browser: by keyboard alone, what is found and carried away, its look, and 200,000 items."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import in_the_lab
import numpy as np
import polars as pl
import pytest

from llm2rec_kit.maps import projection
from llm2rec_kit.widgets import explorer_answers, explorer_page

sys.path += [str(Path(__file__).parents[1] / "maps"), str(Path(__file__).parents[2] / "benchmarks")]

import explorer_smoothness
import small_atlas

MANY = 200_000


@pytest.fixture(scope="module")
def chromium():
    yield from in_the_lab.chromium()


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory):
    return in_the_lab.screenshots(tmp_path_factory.mktemp("screenshots"))


@pytest.fixture(scope="module")
def atlas():
    """The small atlas with a price that is not known of every item, and users with ids of their own."""
    small = small_atlas.atlas()
    prices = pl.Series("price", [None, *np.linspace(1, 20, 39).round(2)])
    users = small.corpus.users.with_columns(source_id=pl.Series([f"A{k:03}" for k in range(40)]))
    return dataclasses.replace(
        small, items=small.items.with_columns(prices), corpus=dataclasses.replace(small.corpus, users=users)
    )


@pytest.fixture(scope="module")
def file(atlas, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "explorer.html"
    path.write_text(explorer_page.render_page(atlas, "toy"), encoding="utf-8")
    return path


@pytest.fixture
def page(chromium):
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.said = []
    page.set_default_timeout(60_000)  # a limit, not a pace: machines may be busy
    page.on("console", lambda m: page.said.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: page.said.append(str(e)))
    yield page
    assert page.said == []
    context.close()


@pytest.fixture
def view(page, file):
    page.goto(file.as_uri())
    page.wait_for_selector(".lx[data-drawn]")
    return page.locator(".lx")


def focused(page):
    """Class and text of the element in focus; nothing of the page itself."""
    return page.evaluate(
        "() => { const e = document.activeElement; return e === document.body ? '' : `${e.className} ${e.textContent}`; }"
    )


def tab_to(page, name, most=90):
    """Press Tab until the element in focus has this class or text."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if name in focused(page):
            return
    raise AssertionError(f"{name} is not reached by Tab")


def shows(view, item, panel=0):
    """Whether an item's place lies within the first map."""
    x, y = view.evaluate("(el, id) => el.spotOf(id)", item)
    box = view.locator(".lx-over").nth(panel).bounding_box()
    return box["x"] < x < box["x"] + box["width"] and box["y"] < y < box["y"] + box["height"]


def apart(view, a=1, b=2):
    (x0, y0), (x1, y1) = (view.evaluate("(el, id) => el.spotOf(id)", item) for item in (a, b))
    return float(np.hypot(x1 - x0, y1 - y0))


def test_by_keyboard_alone(page, view, atlas):
    """Search, choose, go on through the lists, filter, select, compare: no pointer is touched."""
    titles = atlas.corpus.titles
    tab_to(page, "lx-search")
    field = view.locator(".lx-search")
    assert (field.get_attribute("role"), field.get_attribute("aria-expanded")) == ("combobox", "false")
    page.keyboard.type("pc")
    hits = [t for t in titles if "pc" in t.lower()]
    assert field.get_attribute("aria-expanded") == "true"
    listed = page.locator(f"#{field.get_attribute('aria-controls')} [role=option]")
    assert listed.all_inner_texts() == hits[:12]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    active = page.locator(f"#{field.get_attribute('aria-activedescendant')}")
    assert (active.inner_text(), active.get_attribute("aria-selected")) == (hits[1], "true")
    page.keyboard.press("Enter")
    view.locator(".lx-chosen", has_text=hits[1]).wait_for()
    assert field.get_attribute("aria-expanded") == "false"
    assert "lx-search" in focused(page)  # focus stays where the next hit is an arrow away

    for key in (" ", "Enter"):
        entry = view.locator(".lx-columns [data-stage=csft] li [role=button]").nth(2)
        wanted = entry.inner_text()
        entry.focus()
        page.keyboard.press(key)
        view.locator(".lx-chosen b", has_text=re.compile(f"^{re.escape(wanted)}$")).wait_for()
        assert "lx-chosen" in focused(page)
        view.locator(".lx-columns h4").nth(2).wait_for()

    tab_to(page, "lx-filter")
    for _ in range(4):
        page.keyboard.press("ArrowDown")
    assert view.locator(".lx-filter").input_value() == "price"
    tab_to(page, "lx-filter-add")
    page.keyboard.press("Enter")
    view.locator(".lx-kept[data-column=price]").wait_for()
    page.keyboard.type("10")  # focus is in the first field already
    passed = atlas.items.filter(pl.col("price") >= 10)
    assert view.locator(".lx-passed").inner_text().startswith(f"{len(passed)} of 40 items pass")
    tab_to(page, "select these")
    page.keyboard.press("Enter")
    assert view.locator(".lx-picked b").inner_text() == f"{len(passed)} items selected"
    tab_to(page, "lx-over")
    page.keyboard.press("0")
    before = apart(view)
    for _ in range(60):
        page.keyboard.press("+")
    assert apart(view) <= 201 * before
    for _ in range(60):
        page.keyboard.press("ArrowLeft")
    for _ in range(120):
        page.keyboard.press("-")
    assert apart(view) >= 0.49 * before
    page.keyboard.press("0")
    assert apart(view) == pytest.approx(before)


def test_what_lies_in_the_middle_of_a_map_in_focus_is_told_chosen_and_selected(page, view, atlas):
    view.locator(".lx-search").fill(atlas.corpus.titles[11])
    view.locator(".lx-search").press("Enter")
    view.get_by_role("button", name="find on the maps").click()
    view.get_by_role("button", name="contrastive", exact=True).first.click()
    view.get_by_role("button", name="find on the maps").click()  # one map now: the item is in its very middle
    view.locator(".lx-clear").first.click()
    view.locator(".lx-over").focus()
    page.keyboard.press("+")
    view.locator(".lx-tip b", has_text=atlas.corpus.titles[11]).wait_for()
    page.keyboard.press("s")
    assert view.locator(".lx-picked b").inner_text() == "1 item selected"
    page.keyboard.press("s")
    assert view.locator(".lx-picked b").count() == 0
    page.keyboard.press("Enter")
    view.locator(".lx-chosen b", has_text=atlas.corpus.titles[11]).wait_for()


def test_a_chosen_item_comes_into_view(page, view, atlas):
    view.locator(".lx-over").first.focus()
    for _ in range(14):
        page.keyboard.press("+")
    away = next(i for i in range(1, 41) if not shows(view, i))
    view.locator(".lx-search").fill(atlas.corpus.titles[away - 1])
    view.locator(".lx-search").press("Enter")
    assert shows(view, away)


def test_all_hits_are_lit_and_numbered(view, atlas):
    hits = [t for t in atlas.corpus.titles if "pc" in t.lower()]
    before = view.locator(".lx-points").first.screenshot()
    view.locator(".lx-search").fill("PC")
    assert view.locator(".lx-found").inner_text() == f"{len(hits)} of 40 lit"
    assert view.locator(".lx-hits .lx-none").inner_text() == f"and {len(hits) - 12} more"
    assert view.locator(".lx-points").first.screenshot() != before
    view.get_by_role("button", name="select all hits").click()
    assert view.locator(".lx-picked b").inner_text() == f"{len(hits)} items selected"
    view.locator(".lx-clear").first.click()
    view.locator(".lx-search").fill("")
    view.locator(".lx-search").press("Escape")
    assert view.locator(".lx-points").first.screenshot() == before
    view.locator(".lx-search").fill("no such words")
    assert view.locator(".lx-found").inner_text() == "0 of 40 lit"


def test_a_selection_is_a_table_and_a_csv_and_the_maps_a_picture(page, view, atlas, screenshots):
    around_all(page, view)
    assert view.locator(".lx-picked b").inner_text() == "40 items selected"
    view.locator(".lx-remove").click()
    around_all(page, view, share=0.5)  # the left half leaves
    left = int(view.locator(".lx-picked b").inner_text().split()[0])
    assert 0 < left < 40
    view.locator(".lx-add").click()
    around_all(page, view)
    assert view.locator(".lx-picked b").inner_text() == "40 items selected"
    view.get_by_role("button", name="table").click()
    view.get_by_role("button", name="price", exact=True).click()
    view.get_by_role("button", name="price", exact=True).click()
    assert view.locator("th[aria-sort=descending]").inner_text().startswith("price")
    first = view.locator(".lx-table tbody tr").first.locator("td").all_inner_texts()
    assert first[0] in atlas.corpus.titles
    with page.expect_download() as download:
        view.get_by_role("button", name="CSV").click()
    table = pl.read_csv(download.value.path())
    assert table.columns[:4] == ["item", "source_id", "title", "cluster"]
    assert table["source_id"].to_list() == atlas.corpus.items["source_id"].to_list()
    assert table["title"].to_list() == atlas.corpus.titles
    assert table["price"].to_list() == ["none", *[str(float(p)).removesuffix(".0") for p in atlas.items["price"][1:]]]
    with page.expect_download() as download:
        view.locator(".lx-png").click()
    assert download.value.suggested_filename == "map-raw-contrastive-cluster.png"
    saved = screenshots / "explorer-saved.png"
    download.value.save_as(saved)
    assert saved.read_bytes().startswith(b"\x89PNG")


def test_two_stages_are_compared(view, atlas):
    view.locator(".lx-first").select_option("csft")
    view.locator(".lx-compare").click()
    view.locator(".lx-colour option", has_text="changed, csft → contrastive").wait_for(state="attached")
    near = [projection.find_neighbours(atlas.tables[s][1:], 10) for s in ("csft", "contrastive")]
    lost = explorer_answers.count_lost(*near) / 10
    listed = view.locator(".lx-changed ol").first.locator("li")
    titles = {title: lost[k] for k, title in enumerate(atlas.corpus.titles)}
    told = [text.rsplit(" ", 1) for text in listed.all_inner_texts()]
    assert [titles[title] for title, _ in told] == pytest.approx([float(share) for _, share in told])
    assert [float(share) for _, share in told] == pytest.approx(np.sort(lost)[::-1][:10])
    view.locator(".lx-measure").select_option("way on the map")
    view.locator(".lx-colour option", has_text="moved, csft → contrastive").wait_for(state="attached")
    steps = np.linalg.norm(atlas.aligned["contrastive"] - atlas.aligned["csft"], axis=1)
    assert view.locator(".lx-changed li").first.inner_text().startswith(atlas.corpus.titles[steps.argmax()])
    assert view.locator(".lx-colour option", has_text="changed").count() == 0


def test_a_user_by_the_source_s_own_id(view, atlas):
    expected = explorer_answers.find_path(atlas, 7)
    titles = atlas.corpus.titles
    view.locator(".lx-user").fill("A007")
    view.locator(".lx-user").press("Enter")
    path = view.locator(".lx-path")
    path.get_by_text("User A007 (number 7)").wait_for()
    assert path.locator(".lx-titles li").all_inner_texts() == [titles[i - 1] for i in expected["history"]]
    assert path.locator("p", has_text="came next: ").inner_text() == f"□ came next: {titles[expected['target'] - 1]}"
    ranks = path.locator("[data-stage] > p").all_inner_texts()
    assert ranks == [f"rank {r}" if r else "in the history already" for r in expected["ranks"].values()]
    view.locator(".lx-user").fill("A999")
    view.locator(".lx-user").press("Enter")
    view.locator(".lx-status", has_text="There is no user “A999”.").wait_for()
    assert path.inner_text() == ""
    assert view.locator(".lx-user").input_value() == "A999"  # and is not replaced by another


def test_numbers_are_no_names_of_other_users_and_stages_keep_their_order(page, atlas, tmp_path, monkeypatch):
    """Ids that read as numbers, of which the page carries a few, and a stage named as a year."""
    monkeypatch.setattr(explorer_page, "PAGE_USERS", 7)
    users = atlas.corpus.users.with_columns(source_id=pl.Series([str(k + 1) for k in range(40)]))
    parts = {
        name: dict(zip(("raw", "2024", "csft"), getattr(atlas, name).values(), strict=True))
        for name in ("own", "aligned", "tables")
    }
    stages = [row | {"stage": name} for row, name in zip(atlas.quality["stages"], parts["own"], strict=True)]
    quality = atlas.quality | {"stages": stages, "clusters_of": "csft"}
    other = dataclasses.replace(atlas, corpus=dataclasses.replace(atlas.corpus, users=users), quality=quality, **parts)
    (tmp_path / "page.html").write_text(explorer_page.render_page(other, "toy"), encoding="utf-8")
    page.goto((tmp_path / "page.html").as_uri())
    view = page.locator(".lx")
    carried = np.random.default_rng(0).permutation(40)[:7].tolist()  # as the page draws them
    number = next(n for n in carried if n and n - 1 not in carried)  # the id of a user who is not carried
    view.locator(".lx-user").fill(str(number))
    view.locator(".lx-user").press("Enter")
    view.locator(".lx-status", has_text=f"User “{number}” is not among the 7 of 40 users").wait_for()
    view.locator(".lx-user").fill(str(number + 1))
    view.locator(".lx-user").press("Enter")
    view.locator(".lx-path").get_by_text(f"User {number + 1} (number {number})").wait_for()
    view.locator(".lx-user").fill("")
    view.locator(".lx-user").press("Enter")
    view.locator(".lx-search").fill(atlas.corpus.titles[2])
    view.locator(".lx-search").press("Enter")
    view.locator("[data-stage=csft] li").first.wait_for()
    near = explorer_answers.find_neighbours(other, 3, 8)["stages"]
    for stage in near:
        told = view.locator(f'.lx-columns [data-stage="{stage}"] li').all_inner_texts()
        assert ["new" in text.split() for text in told[:8]] == [
            stage != "raw" and not 1 <= rank <= explorer_page.PAGE_NEIGHBOURS for _, _, rank in near[stage]
        ]


def test_no_more_neighbours_than_the_page_holds(view, atlas):
    view.locator(".lx-search").fill(atlas.corpus.titles[2])
    view.locator(".lx-search").press("Enter")
    view.locator(".lx-count").fill("25")
    view.locator(".lx-count").press("Enter")
    view.locator(".lx-status", has_text="This page holds 15 neighbours of each item.").wait_for()
    assert view.locator(".lx-count").input_value() == "15"
    assert view.locator("[data-stage=raw] li").count() == 15


def test_the_page_speaks_of_no_program(page, view, atlas):
    view.locator(".lx-search").fill(atlas.corpus.titles[2])
    view.locator(".lx-search").press("Enter")
    view.get_by_role("button", name="select all hits").click()
    text = page.inner_text("body")
    assert not re.search(r"kernel|python|dataframe|\.selection|notebook 05", text, re.IGNORECASE)


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (1920, 1080)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_window_is_used_and_nothing_is_cut(page, file, atlas, screenshots, width, height, scheme):
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme=scheme)
    page.goto(file.as_uri())
    page.wait_for_selector(".lx[data-drawn]")
    view = page.locator(".lx")
    if width > 1500:  # nothing chosen, and the maps reach the window's end
        bottom = max(p.bounding_box()["y"] + p.bounding_box()["height"] for p in view.locator(".lx-panel").all())
        assert bottom > height - 60
    view.locator(".lx-search").fill(atlas.corpus.titles[5])
    view.locator(".lx-search").press("Enter")
    view.locator(".lx-search").fill("")
    page.screenshot(path=screenshots / f"explorer-{width}-{scheme}.png", full_page=True)
    assert page.evaluate("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert (view.locator(".lx-beside").count() == 1) == (width > 1500)


def test_two_hundred_thousand_items(page, tmp_path, monkeypatch, screenshots):
    """Drawn whole, pointed at, moved, searched, chosen; how fast, measures benchmarks/explorer_smoothness.py."""
    monkeypatch.setattr(explorer_page, "_all_neighbours", explorer_smoothness.any_neighbours)
    atlas = explorer_smoothness.made_up(MANY)
    file = tmp_path / "many.html"
    file.write_text(explorer_page.render_page(atlas, "many"), encoding="utf-8")
    page.goto(file.as_uri(), wait_until="commit")
    page.wait_for_selector(".lx[data-drawn]")
    view = page.locator(".lx")
    assert view.locator(f".lx-panel[data-drawn='{MANY}']").count() == 2
    page.mouse.move(*view.evaluate("(el) => el.spotOf(12345)"))
    view.locator(".lx-tip b", has_text="Made-up item number").wait_for()
    before = view.evaluate("(el) => el.spotOf(1)")
    drag(page, view, 80, 40)
    assert view.evaluate("(el) => el.spotOf(1)") == pytest.approx([before[0] + 80, before[1] + 40], abs=1)
    page.wait_for_selector(f".lx-panel[data-drawn='{MANY}']")
    view.locator(".lx-search").fill("blob 17")
    hits = sum("17" in title for title in atlas.items["title"])  # all hold "blob"
    assert view.locator(".lx-found").inner_text() == f"{hits:,} of 200,000 lit"
    view.locator(".lx-search").press("Enter")
    view.locator(".lx-columns h4").nth(3).wait_for()
    assert view.locator("[data-stage=mntp] li").count() == 8
    page.screenshot(path=screenshots / "explorer-many.png", full_page=True)


def around_all(page, view, share=1.0):
    """Draw around the left `share` of the first map; with the lasso unless another mode is on."""
    if view.locator(".lx-pan[aria-pressed=true]").count():
        view.locator(".lx-lasso").click()
    box = view.locator(".lx-over").first.bounding_box()
    left, top, bottom = box["x"] + 2, box["y"] + 2, box["y"] + box["height"] - 3
    right = left + share * (box["width"] - 5)
    page.mouse.move(left, top)
    page.mouse.down()
    for x, y in ((right, top), (right, bottom), (left, bottom)):
        page.mouse.move(x, y, steps=3)
    page.mouse.up()


def drag(page, view, dx, dy):
    box = view.locator(".lx-over").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx, y + dy, steps=5)
    page.mouse.up()
