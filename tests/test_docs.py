"""docs/differences.md says what the settings are today; CITATION.cff and CHANGELOG.md are of this version."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from llm2rec_kit import paper
from llm2rec_kit.reproduction.report import brief
from llm2rec_kit.reproduction.runner import notebooks
from llm2rec_kit.settings import STAGES

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGES = ["README.md", "CHANGELOG.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
PAGE = (ROOT / "docs" / "differences.md").read_text()
NAMED = re.compile(rf"(?:{'|'.join(stage.prefix for stage in STAGES)})[_.]\w+")
DISPUTED = paper.read_disagreements()["parameter"].to_list()
FIELDS = {f"{stage.prefix}_{f.name}": (stage, f.name) for stage in STAGES for f in dataclasses.fields(stage)}


def spans(text):
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", text)


def given(text):
    """[(setting, value)] of what stands in backticks as `name: value`, in YAML as a profile has it."""
    pairs = [next(iter(yaml.safe_load(s).items())) for s in spans(text) if NAMED.match(s) and ": " in s]
    return [(name, value) for name, value in pairs if name in FIELDS]


def as_the_setting(name, value):
    """The value as the stage holds it; raises SettingsError for one that it refuses."""
    stage, field = FIELDS[name]
    return getattr(stage(**{field: value}), field)


def rows():
    """The table's rows as (what, paper, code, default, other), of all groups."""
    lines = [line for line in PAGE.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [c for c in cells if len(c) == 5 and c[0] != "what"]


def test_every_row_has_five_cells():
    assert len(rows()) > 25
    assert all(all(row) for row in rows())


def test_every_setting_named_exists():
    named = {found.replace(".", "_", 1) for span in spans(PAGE) for found in NAMED.findall(span)}
    assert len(named) > 40
    assert named - set(FIELDS) == set()


def test_the_defaults_are_those_of_the_settings():
    for what, *_, default, _ in rows():
        assert given(default) or NAMED.search(default), what
        for name, value in given(default):
            stage, field = FIELDS[name]
            assert as_the_setting(name, value) == getattr(stage(), field), f"{what}: {name}"


def test_the_other_values_are_others_that_the_settings_take():
    for what, *_, default, other in rows():
        pairs = given(other)
        assert pairs, what
        known = dict(given(default))
        for name, value in pairs:
            if name in known:
                assert as_the_setting(name, value) != as_the_setting(name, known[name]), f"{what}: {name}"
            else:
                as_the_setting(name, value)


@pytest.mark.parametrize("name", DISPUTED)
def test_every_disagreement_is_told_with_both_values(name):
    (row,) = [r for r in rows() if r[0].endswith("*") and name in dict(given(r[3]))]
    told = [value for cell in row[3:] for found, value in given(cell) if found == name]
    assert notebooks.load_profile("paper")[name] in told
    assert notebooks.load_profile("official")[name] in told


def test_only_disagreements_have_a_star():
    starred = [row for row in rows() if row[0].endswith("*")]
    assert len(starred) == len(DISPUTED)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text()):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target.read_text()), link


def anchors(text):
    """What a Markdown page's headings are linked by, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_the_readme_names_the_pages():
    readme = (ROOT / "README.md").read_text()
    own = [page for page in PAGES if page != "README.md"]
    for page in (*own, "CITATION.cff"):
        assert f"]({page})" in readme, page


def test_the_readmes_words_are_those_of_the_report():
    lines = (ROOT / "README.md").read_text().splitlines()
    at = lines.index("## Six words")
    told = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines[at + 4 : lines.index("## The notebooks") - 1]
    ]
    assert dict(told) == brief.GLOSSARY


def test_ci_runs_the_readmes_test_command():
    assert re.search(r"^make test\b", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("make test")


def test_citation_is_of_this_version_and_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert str(citation["version"]) == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    paper = citation["preferred-citation"]
    assert {"type", "title", "authors", "year", "doi"} <= set(paper)
    assert paper["title"].startswith("LLM2Rec: ")
    assert all({"family-names", "given-names"} <= set(person) for person in paper["authors"])
    assert re.fullmatch(r"10\.\d+/\S+", paper["doi"])
    assert {"type": "other", "value": "arXiv:2506.21579", "description": "the preprint"} in paper["identifiers"]


def test_the_changelog_has_this_version():
    lines = (ROOT / "CHANGELOG.md").read_text().splitlines()
    assert next(line for line in lines if line.startswith("## ")).startswith(f"## [{PROJECT['version']}] - ")
    assert {line for line in lines if line.startswith("### ")} <= {
        f"### {kind}" for kind in ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
    }


def test_every_profile_is_named_where_a_reader_chooses_one():
    told = (ROOT / "docs" / "running.md").read_text()
    assert all(f"`{name}`" in told for name in notebooks.list_profiles())
