"""Expected numbers: kept from a run, compared with later ones, tolerance by hand."""

from __future__ import annotations

import copy
import math

import pytest
import yaml
from conftest import held, no_room

from llm2rec_kit.reproduction.report import expected
from llm2rec_kit.runs import places

METRICS = ("recall@10", "ndcg@10")


def row(recommender, embedding, mean, std, seeds):
    return {
        "recommender": recommender,
        "embedding": embedding,
        "seeds": seeds,
        "mean": dict.fromkeys(METRICS, mean),
        "std": dict.fromkeys(METRICS, std),
    }


@pytest.fixture
def results():
    return {
        "run": "toy",
        "left_out": [],
        "missing": [],
        "statistics": [{"domain": "games", "test": 500}],
        "settings": {"csft": {"steps": 300, "seed": 42}, "corpus": {"files": {}}},
        "results": {
            "games": [
                row("SASRec", "raw", 0.14, 0.003, 3),
                row("SASRec", "csft", 0.15, 0.004, 3),
                row("nearest", "csft", 0.1, 0.0, 1),
                row("nearestmean", "csft", 0.08, 0.0, 1),
                row("nearest", "raw", 0.06, 0.0, 1),
                row("popularity", "none", 0.05, 0.0, 1),
            ]
        },
    }


@pytest.fixture
def about():
    return {
        "asked": {"profile": "toy"},
        "git": {"commit": "abc", "dirty": False},
        "machine": {"processor": "CPU", "cores": 2},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "stages": {"corpus": {"finished": "2026-11-24T10:00:00+00:00"}},
        "notebooks": {"01": {"seconds": 10.4}, "02": {"seconds": 20.0}},
    }


@pytest.fixture
def kept(results, about, tmp_path):
    path = tmp_path / "expected" / "toy.yaml"
    expected.keep(results, about, path)
    return yaml.safe_load(path.read_text())


def test_a_full_disk_leaves_the_numbers_that_were_kept(kept, results, about, tmp_path):
    before = held(tmp_path)
    with no_room(), pytest.raises(OSError, match="File too large"):
        expected.keep(results, about, tmp_path / "expected" / "toy.yaml")
    assert held(tmp_path) == before


def test_what_is_kept_says_where_it_is_from(kept, results):
    assert str(kept["date"]) == "2026-11-24"
    assert (kept["commit"], kept["machine"], kept["seconds"]) == ("abc", "CPU, 2 cores", 30)
    assert kept["settings"] == results["settings"]
    assert next(iter(kept["results"])) == "games SASRec raw"


def test_the_tolerance_is_four_std_of_the_difference_of_two_means(kept):
    pooled = math.sqrt((0.003**2 + 0.004**2) / 2 * 3 / 2)
    for name in ("games SASRec raw", "games SASRec csft"):
        assert kept["results"][name]["recall@10"][1] == pytest.approx(4 * pooled * math.sqrt(2 / 3), abs=1e-6)
    # one draw of a trained embedding, no seeds of its own
    for name in ("games nearest csft", "games nearestmean csft"):
        assert kept["results"][name]["recall@10"][1] == pytest.approx(4 * pooled * math.sqrt(2), abs=1e-6)
    for name in ("games nearest raw", "games popularity none"):
        assert kept["results"][name]["recall@10"] == [pytest.approx(0.06 if "raw" in name else 0.05), 1 / 500]


def verdicts(results, kept):
    return {x["line"]: x["verdict"] for x in expected.compare(results, kept)[0]}


def test_the_same_run_is_reproduced_to_the_last_digit(results, kept):
    lines, changed = expected.compare(results, kept)
    assert changed == []
    assert {x["verdict"] for x in lines} == {"reproduced"}
    assert expected.count_verdicts(lines) == "6 lines: 6 reproduced; 6 equal to the last digit kept."


@pytest.mark.parametrize(
    ("shift", "verdict"), [(0.9, "reproduced"), (-0.9, "reproduced"), (1.1, "differs"), (-1.1, "differs")]
)
def test_the_line_is_drawn_at_the_tolerance(results, kept, shift, verdict):
    other = copy.deepcopy(results)
    other["results"]["games"][0]["mean"]["ndcg@10"] += shift * kept["results"]["games SASRec raw"]["ndcg@10"][1]
    found = verdicts(other, kept)
    assert found.pop("games SASRec raw") == verdict
    assert set(found.values()) == {"reproduced"}


def test_a_number_that_is_none_differs(results, kept):
    results["results"]["games"][0]["mean"]["ndcg@10"] = math.nan
    assert verdicts(results, kept)["games SASRec raw"] == "differs"


def test_a_missing_row_is_told_not_dropped(results, kept):
    del results["results"]["games"][1]
    assert verdicts(results, kept)["games SASRec csft"] == "missing"
    text = expected.render_text(results, "toy", kept)
    assert "6 lines: 5 reproduced, 1 missing" in text
    assert max(map(len, text.splitlines())) <= 125


def test_other_settings_are_not_compared_as_if_they_were_the_same(results, kept):
    results["settings"]["csft"]["steps"] = 100
    results["settings"]["mntp"] = {"steps": 5}
    lines, changed = expected.compare(results, kept)
    assert lines == []
    assert changed == [
        {"name": "csft.steps", "values": [300, 100]},
        {"name": "mntp.steps", "values": ["none", 5]},
    ]
    text = expected.render_text(results, "toy", kept)
    assert "settings differ" in text
    assert "csft.steps: 300 there, 100 here" in text


@pytest.mark.parametrize("spoil", ["left_out", "dirty"])
def test_only_a_clean_run_is_kept(results, about, tmp_path, spoil):
    if spoil == "dirty":
        about["git"]["dirty"] = True
    else:
        results["left_out"] = ["evaluation/games/x"]
    with pytest.raises(ValueError, match=r"take a fresh run|commit, and run again"):
        expected.keep(results, about, tmp_path / "x.yaml")
    assert not (tmp_path / "x.yaml").exists()


def test_a_profile_of_ones_own_has_its_expected_numbers_beside_it(tmp_path):
    assert expected.locate(str(tmp_path / "mine.yaml")) == tmp_path / "expected" / "mine.yaml"
    assert expected.load(str(tmp_path / "mine.yaml")) is None
    assert expected.locate("demo").parts[-3:] == ("profiles", "expected", "demo.yaml")


def test_a_run_at_other_cutoffs_is_kept_and_compared_by_its_own(results, about, tmp_path):
    for r in results["results"]["games"]:
        r["mean"] = {"recall@5": r["mean"]["recall@10"], "ndcg@5": r["mean"]["ndcg@10"], "mrr": 0.5}
        r["std"] = {"recall@5": r["std"]["recall@10"], "ndcg@5": r["std"]["ndcg@10"], "mrr": 0.0}
    expected.keep(results, about, tmp_path / "five.yaml")
    kept = yaml.safe_load((tmp_path / "five.yaml").read_text())
    assert set(kept["results"]["games SASRec raw"]) == {"recall@5", "ndcg@5"}
    assert "recall@5 0.1400 (0.1400 +- " in expected.render_text(results, "five", kept)
    results["results"]["games"][0]["mean"]["ndcg@5"] += 0.1
    lines, _ = expected.compare(results, kept)
    assert [line["verdict"] for line in lines] == ["differs"] + ["reproduced"] * 5
    assert expected.count_verdicts(lines) == "6 lines: 5 reproduced, 1 differs; 5 equal to the last digit kept."


@pytest.mark.parametrize("profile", ["demo", "games"])
def test_the_kept_numbers_of_rankings_by_one_trained_embedding_have_the_tolerance_of_its_spread(profile):
    lines = expected.load(profile)["results"]
    alike = {name: [v[1] for v in line.values()] for name, line in lines.items() if " nearest " in name}
    for name, tolerances in alike.items():
        assert [v[1] for v in lines[name.replace("nearest", "nearestmean")].values()] == tolerances


@pytest.mark.parametrize("profile", sorted(path.stem for path in (places.PROFILES / "expected").glob("*.yaml")))
def test_the_kits_own_numbers_are_of_a_run_to_its_end(profile):
    """Kept before the last notebook has run, the settings would lack a stage, and every later run's would differ."""
    stages = {"corpus", "backbone", "csft", "mntp", "contrastive", "encoding", "evaluation", "maps"}
    assert {*expected.load(profile)["settings"]} == stages
