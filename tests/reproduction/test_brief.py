"""The first lines of a report, from tests and means by hand: no word says more than a test does."""

from __future__ import annotations

import pytest

from llm2rec_kit.reproduction.report import brief


def compared(recommender, before, after, difference, p, verdict):
    row = {"recommender": recommender, "before": before, "after": after, "metric": "ndcg@10", "verdict": verdict}
    return row | {"difference": difference, "p_holm": p}


def ranked(recommender, embedding, mean, seeds=2):
    values = {"recall@10": 1 - mean, "ndcg@10": mean}
    return {
        "recommender": recommender,
        "embedding": embedding,
        "seeds": seeds,
        "mean": values,
        "std": dict.fromkeys(values, 0.0),
    }


GAMES = [
    ranked("SASRec", "raw", 0.1),
    ranked("SASRec", "csft", 0.2),
    ranked("nearest", "csft", 0.3, 1),
    ranked("itemknn", "none", 0.25, 1),
]
GAMES.append(ranked("oracle", "none", 0.9, 1))
NOTHING = "no detectable difference"


@pytest.fixture
def results():
    tests = [
        compared("SASRec", "raw", "csft", 0.1, 0.0006, "better"),
        compared("GRU4Rec", "raw", "csft", 0.01, 0.4, NOTHING),
    ]
    tests.append(compared("nearest / SASRec", "nearest-csft", "SASRec-csft", -0.1, 1e-20, "worse"))
    return {"results": {"games": GAMES}, "comparisons": {"games": tests}, "train_domains": ["games"], "seeds": [1, 2]}


def test_verdicts_that_differ_are_told_apart_with_sign_and_p(results):
    assert brief.describe_tests(results, "raw", "csft") == (
        "It depends: on games (seen by CSFT) better under SASRec (+0.1000, p 0.0006), "
        "no detectable difference under GRU4Rec (+0.0100, p 0.4) (ndcg@10)."
    )


@pytest.mark.parametrize(
    ("verdict", "head"), [("better", "Yes: "), ("worse", "No, it is worse: "), (NOTHING, "No detectable difference: ")]
)
def test_verdicts_that_agree_are_said_once(results, verdict, head):
    results["comparisons"]["games"] = [compared(r, "raw", "csft", 0.1, 1e-12, verdict) for r in brief.TRAINED]
    said = brief.describe_tests(results, "raw", "csft")
    assert (
        said
        == f"{head}on games (seen by CSFT) under SASRec (+0.1000, p below 1e-10) and GRU4Rec (+0.1000, p below 1e-10) (ndcg@10)."
    )


def test_what_was_not_tested_is_said_not_to_be(results):
    assert brief.describe_tests(results, "raw", "contrastive").startswith("Not tested in this run")


def test_where_csft_was_read_in_several_ways_the_answer_names_each(results):
    asked = "Does CSFT help?"
    before = {one["question"]: one["answer"] for one in brief.answer_questions(results, {})}
    assert before[asked] == brief.describe_tests(results, "raw", "csft")
    results["settings"] = {"encoding": {"pooling": "mean", "attention": "bidirectional"}}
    last = ("raw-last-causal", "csft-last-causal")
    results["comparisons"]["games"].append(compared("SASRec", *last, 0.2, 0.001, "better"))
    said = {one["question"]: one["answer"] for one in brief.answer_questions(results, {})}
    assert said[asked] == (
        f"Read as mean-bidirectional: {before[asked]} "
        "Read as last-causal (csft-last-causal): Yes: on games (seen by CSFT) under SASRec (+0.2000, p 0.001) (ndcg@10)."
    )
    assert {k: v for k, v in said.items() if k != asked} == {k: v for k, v in before.items() if k != asked}


def test_of_many_domains_verdicts_are_counted(results):
    rows = [compared("SASRec", "raw", "csft", 0.1, 0.01, "better")]
    results["comparisons"] = {f"d{k}": rows for k in range(4)} | {
        "d4": [compared("SASRec", "raw", "csft", 0.1, 1.0, NOTHING)]
    }
    results["results"] = dict.fromkeys(results["comparisons"], GAMES)
    said = brief.describe_tests(results, "raw", "csft")
    assert said == "It depends. Of 5 tests, one a domain and recommender: 4 better, 1 no detectable difference (ndcg@10)."


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        (["", "", "best", ""], "detectably above every other row"),
        (["", "tied for best", "tied for best", "tied for best"], "not detectably above itemknn and SASRec over csft"),
        (None, "which was not tested against the others"),
    ],
)
def test_the_highest_of_all_rows_is_best_only_by_a_test(results, marks, said):
    keys = [(r["recommender"], r["embedding"]) for r in GAMES]
    places = {} if marks is None else {"games": dict(zip(keys, marks, strict=False))}
    assert brief.name_winners(results, places) == f"On games, nearest over csft has the highest ndcg@10 (0.3000), {said}."


def test_the_compact_table_has_embeddings_by_recommenders_and_the_rest_below(results):
    places = {(r["recommender"], r["embedding"]): "" for r in GAMES} | {("nearest", "csft"): "best"}
    found = brief.make_compact(results, "games", places)
    assert (found["metric"], found["columns"]) == ("ndcg@10", ["SASRec", "nearest"])
    assert [(r["embedding"], [c and (c["mean"], c["place"]) for c in r["cells"]]) for r in found["rows"]] == [
        ("raw", [(0.1, ""), None]),
        ("csft", [(0.2, ""), (0.3, "best")]),
    ]
    assert [(o["name"], o["cell"]["place"]) for o in found["others"]] == [("itemknn", ""), ("oracle", "")]


def test_without_tests_the_highest_mean_but_the_ceiling_is_marked(results):
    found = brief.make_compact(results, "games", None)
    marked = [c["mean"] for r in found["rows"] for c in r["cells"] if c and c["place"]]
    assert marked == [0.3]


def test_a_row_that_lacks_a_seed_is_compared_with_none(results):
    rows = [*GAMES, ranked("SASRec", "mine", 0.5, seeds=1)]
    assert [r["embedding"] for r in brief.select_compared(rows, [1, 2])] == ["raw", "csft", "csft", "none"]
