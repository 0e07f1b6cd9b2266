"""Profiles: every key known and of its type, every line explained, faults named before anything runs."""

import re
from pathlib import Path

import pytest
import yaml

from llm2rec_kit import paper
from llm2rec_kit import settings as S
from llm2rec_kit.reproduction.runner import notebooks

FOLDER = Path(notebooks.__file__).parents[1] / "profiles"


def known():
    return sorted({name for book in notebooks.list_series() for name in notebooks.read_parameters(book)})


def test_the_profiles_are_found():
    assert {"demo", "games", "pretrained", "pretrained_small", "smoke", "paper", "official"} <= set(
        notebooks.list_profiles()
    )


@pytest.mark.parametrize("name", notebooks.list_profiles())
def test_a_profile_passes_its_own_check(name):
    values = notebooks.load_profile(name)
    notebooks.check(values, known())
    # papermill -f reads it with plain YAML: the same values, so no 1e-3 that YAML takes for text
    plain = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    assert values == {k: v for k, v in plain.items() if k != notebooks.CHOSEN}


@pytest.mark.parametrize("name", notebooks.list_profiles())
def test_every_line_of_a_profile_has_its_meaning(name):
    for line in (FOLDER / f"{name}.yaml").read_text().splitlines():
        assert re.fullmatch(r"#.*|\w+: .*\S  # .+|", line), line


def written(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_an_unknown_profile_lists_the_known(tmp_path):
    with pytest.raises(S.SettingsError, match=r"Unknown profile 'dmeo'.*'demo'"):
        notebooks.load_profile("dmeo")
    with pytest.raises(S.SettingsError, match="demo, games, official, paper, pretrained, pretrained_small, smoke"):
        notebooks.load_profile(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("csft_stesp: 3", "Did you mean 'csft_steps'"),
        ("csft_steps: 3.5", "csft_steps takes int"),
        ("csft_learning_rate: 1e-3", "csft_learning_rate takes float"),
        ("data_split: random", "data_split must be one of"),
        ("run: 5", "run takes str"),
        ("force: 'yes'", "force takes bool"),
    ],
)
def test_bad_values_are_named(tmp_path, text, says):
    with pytest.raises(S.SettingsError, match=says):
        notebooks.check(notebooks.load_profile(written(tmp_path, text)), known())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- a\n- b", "key: value"),
        ("a: [", "is not YAML"),
        ("csft_steps: 1\ncsft_steps: 2", "'csft_steps' is given twice"),
        ("a: !!python/object/apply:os.getcwd []", "is not YAML"),
    ],
)
def test_what_is_no_profile_is_refused(tmp_path, text, says):
    with pytest.raises(S.SettingsError, match=says):
        notebooks.load_profile(written(tmp_path, text))


def test_an_empty_profile_changes_nothing(tmp_path):
    assert notebooks.load_profile(written(tmp_path, "")) == {}


def test_paper_and_official_differ_in_exactly_the_documented_disagreements():
    printed, official = notebooks.load_profile("paper"), notebooks.load_profile("official")
    assert printed.keys() == official.keys()
    differ = {k: (str(printed[k]), str(official[k])) for k in printed if printed[k] != official[k]}
    table = paper.read_disagreements()
    assert differ == {row["parameter"]: (row["paper"], row["official"]) for row in table.iter_rows(named=True)}
    assert all(table[c].str.len_chars().min() > 3 for c in ("where", "what"))


def test_the_small_pretrained_profile_differs_in_sizes_and_budgets_alone():
    whole, small = notebooks.load_profile("pretrained"), notebooks.load_profile("pretrained_small")
    assert list(whole) == list(small)
    assert {k for k in whole if whole[k] != small[k]} == {
        "data_mix",
        "csft_steps",
        "csft_learning_rate",
        "csft_warmup_steps",
        "csft_evaluate_every",
        "csft_save_every",
        "mntp_steps",
        "contrastive_steps",
        "contrastive_warmup_steps",
        "maps_max_items",
    }


@pytest.mark.parametrize(("name", "other"), [("paper", "official"), ("official", "paper")])
def test_a_line_of_a_disagreement_names_the_others_value(name, other):
    """Whoever reads one profile sees where the other stands, and no other line claims so."""
    theirs = notebooks.load_profile(other)
    disputed = set(paper.read_disagreements()["parameter"])
    for line in (FOLDER / f"{name}.yaml").read_text().splitlines():
        if not line.startswith("#"):
            key, comment = line.split(":")[0], line.split("  # ")[1]
            if key in disputed:
                assert comment.endswith(f"; {other}: {str(theirs[key]).lower()}"), line
            else:
                assert f"{other}:" not in comment, line


def test_paper_is_the_paper_where_the_settings_say_so():
    """Defaults marked [P] are the paper's, so the profile `paper` may not depart from one."""
    values = notebooks.load_profile("paper")
    for book in notebooks.list_series():
        for p in notebooks.read_parameters(book).values():
            if (
                notebooks.cite_default(p).startswith("P")
                and p.name in values
                and p.name not in ("backbone_name", "evaluation_embeddings")
            ):
                assert values[p.name] == p.default, p.name


def test_a_profile_says_which_notebooks_it_runs(tmp_path):
    """A choice of the caller comes first; from a number on means all from there."""
    text = 'notebooks: ["01", "03"]\nrun: mine\n'
    name = str(written(tmp_path, text))
    assert notebooks.load_profile(name) == {"run": "mine"}

    def run(**asked):
        return [book.name[:2] for book in notebooks.prepare(name, look=False, **asked)[1]]

    assert run() == ["01", "03"]
    assert run(only=["02"]) == ["02"]
    assert run(start="04") == [book.name[:2] for book in notebooks.list_series()][3:]
    with pytest.raises(S.SettingsError, match="takes a list of texts"):
        notebooks.list_profile_notebooks(str(written(tmp_path, "notebooks: 3\n")))
