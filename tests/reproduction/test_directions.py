"""Which way the paper's comparisons point, and whether ours point the same way."""

from __future__ import annotations

from types import SimpleNamespace

import polars as pl
import pytest

from llm2rec_kit import paper
from llm2rec_kit.reproduction.studies import directions, paper_arms, printed_gaps
from llm2rec_kit.results.significance import NOTHING
from llm2rec_kit.settings import Encoding, Evaluation, Tables


def pair(metric="ndcg@10", **which):
    (row,) = directions.read_printed().filter(metric=metric, **which).to_dicts()
    return row


def test_printed_pairs_are_counted_over_the_data_sets_by_hand():
    # NDCG@10 of Table 3, SASRec, Sports, Baby, Goodreads: LLM2Vec 0.0854, 0.0339, 0.0790; LLMEmb 0.0936, 0.0439, 0.0778.
    row = pair(table="Table 3", recommender="SASRec", before="LLM2Vec", after="LLMEmb", where="out-of-domain")
    assert (row["data sets"], row["higher in"], row["paper"]) == (3, 2, "both")
    assert row["percent"] == pytest.approx(100 * (0.0936 / 0.0854 + 0.0439 / 0.0339 + 0.0778 / 0.0790 - 3) / 3)
    # Table 5: CSFT on six sets is worse on Games than CSFT on Games alone, 0.0472 against 0.0500.
    assert pair(table="Table 5", before="single", after="mix-6", where="in-domain")["paper"] == "lower"
    # Table 4: contrast lowers Goodreads and raises Sports.
    assert pair(table="Table 4", before="mntp", after="contrastive", where="out-of-domain")["higher in"] == 1
    # on Games and Arts it is better than on Games alone, 0.0517, and by Recall@10 worse, 0.0856 against 0.0857.
    mix = {"table": "Table 5", "before": "single", "after": "mix-2", "where": "in-domain"}
    assert (pair(**mix)["paper"], pair("recall@10", **mix)["paper"]) == ("higher", "lower")
    # Figure 4: four backbones, one data set of each kind.
    assert pair("recall@10", table="Figure 4", before="LLM2Vec", after="csft", where="in-domain")["data sets"] == 4


def test_every_table_is_there_in_the_metrics_that_it_prints():
    four = ["recall@10", "ndcg@10", "recall@20", "ndcg@20"]
    found = {table: directions.list_metrics(table) for table in ("Table 3", "Table 4", "Table 5", "Figure 4")}
    assert found == {"Table 3": four, "Table 4": four[:2], "Table 5": four[:2], "Figure 4": four[:1]}


def test_llm2rec_is_above_every_rival_in_table_3():
    rows = directions.read_printed().filter(table="Table 3", after="LLM2Rec")
    assert len(rows) == 4 * 2 * 7 * 2  # metrics, recommenders, rivals, kinds
    assert set(rows["paper"]) == {"higher"}


@pytest.mark.parametrize(
    ("way", "verdict", "says"),
    [
        ("higher", "better", directions.SAME),
        ("higher", "worse", directions.OTHER),
        ("lower", "worse", directions.SAME),
        ("lower", "better", directions.OTHER),
        ("both", "better", directions.OPEN),
        ("higher", NOTHING, NOTHING),
        ("both", NOTHING, NOTHING),
    ],
)
def test_agreement(way, verdict, says):
    assert directions.judge_agreement(way, verdict) == says


def verdicts(*rows, metric="ndcg@10"):
    columns = ("recommender", "before", "after", "verdict")
    return pl.DataFrame([dict(zip(columns, row, strict=True)) | {"metric": metric} for row in rows])


def test_verdicts_stand_beside_what_is_printed_and_the_rest_stays_empty():
    found = directions.put_beside_paper(
        verdicts(
            ("SASRec", "raw", "contrastive", "better"),
            ("GRU4Rec", "mine", "contrastive", "worse"),
            ("SASRec", "raw", "raw-unit", "better"),
            ("SASRec / GRU4Rec", "raw", "contrastive", "better"),
        ),
        "Table 3",
        "in-domain",
        {"raw": "LLM2Vec", "raw-unit": "LLM2Vec", "mine": "LLM2Vec", "contrastive": "LLM2Rec"},
    )
    assert found["agreement"].to_list() == [directions.SAME, directions.OTHER, None, None]
    assert found["paper"][0] == "LLM2Vec to LLM2Rec: +21.9%, higher in 3 of 3"
    printed = found.drop_nulls("agreement")
    assert directions.count_agreements([printed, printed]) == {
        directions.SAME: 2,
        directions.OTHER: 2,
        NOTHING: 0,
        directions.OPEN: 0,
    }


@pytest.mark.parametrize(("metric", "says"), [("recall@20", True), ("ndcg@5", None), ("mrr", None)])
def test_a_verdict_stands_beside_what_is_printed_in_its_own_metric(metric, says):
    # Recall@20 of Table 3, SASRec, Games, Arts, Movies: LLM2Vec 0.1029, 0.1007, 0.0874; LLM2Rec 0.1157, 0.1142, 0.0895.
    names = {"raw": "LLM2Vec", "contrastive": "LLM2Rec"}
    found = directions.put_beside_paper(
        verdicts(("SASRec", "raw", "contrastive", "better"), metric=metric), "Table 3", "in-domain", names
    )
    change = 100 * (0.1157 / 0.1029 + 0.1142 / 0.1007 + 0.0895 / 0.0874 - 3) / 3
    assert found["paper"][0] == (says and f"LLM2Vec to LLM2Rec: {change:+.1f}%, higher in 3 of 3")
    assert found["agreement"][0] == (says and directions.SAME)
    table_4 = verdicts(("SASRec", "raw", "csft", "better"), metric=metric)
    assert (
        directions.put_beside_paper(table_4, "Table 4", "in-domain", {"raw": "bidirectional", "csft": "csft"})["paper"][0]
        is None
    )


def test_what_is_tested_is_comparable_where_the_paper_prints_it():
    found = directions.compare_metrics("recall@20").select("in the paper", "tested here by", "comparable").rows()
    no = "no: it prints no recall@20"
    assert found == [
        ("Table 3", "recall@20", "yes"),
        ("Table 4", "recall@20", no),
        ("Table 5", "recall@20", no),
        ("Figure 4", "recall@10", "yes"),
    ]


def test_pairs_of_models_by_hand():
    tables = ["raw", "raw-unit", "llmemb", "llmemb-unit", "contrastive", "contrastive-unit"]
    found = directions.pair_models(tables, ["S"])
    assert {tuple(recommender for recommender, _ in pair) for pair in found} == {("S", "S")}
    assert [(before, after) for (_, before), (_, after) in found] == [
        ("raw", "contrastive"),
        ("llmemb", "contrastive"),
        ("raw-unit", "contrastive-unit"),
        ("llmemb-unit", "contrastive-unit"),
        ("raw", "llmemb"),
        ("raw", "raw-unit"),
        ("llmemb", "llmemb-unit"),
        ("contrastive", "contrastive-unit"),
    ]
    assert directions.pair_models(["raw", "contrastive"], ["S"]) == [(("S", "raw"), ("S", "contrastive"))]
    assert len(directions.pair_models(tables, ["S", "G"])) == 2 * len(found)


def labels_of(arms, lengths=("none", "unit"), encoding=None, **evaluation):
    """Rows of Table 3 as notebook 06 labels them, each with how its table was `embedded`."""
    asked = Tables(encoders=[arm.encoder for arm in arms if "/" in arm.encoder], normalised="unit" in lengths)
    embedded = []
    do = SimpleNamespace(embed=lambda study, encoder, name, **how: embedded.append(how))
    study = SimpleNamespace(settings={"encoding": Encoding(**encoding or {}), "evaluation": Evaluation(**evaluation)})
    labels = paper_arms.make_at_lengths(do, study, arms, asked)
    return [row | {"how": how} for row, how in zip(labels, embedded, strict=True)]


LLM2VEC, LLMEMB = paper_arms.Arm("llm2vec", "llm2vec", "LLM2Vec"), paper_arms.Arm("llmemb", "llmemb", "LLMEmb")
BERT = [paper_arms.Arm(f"bert{k}", f"{k}/bert-base-uncased", "BERT") for k in (1, 2)]
MINE = paper_arms.Arm("mine", "models/LLM2Rec", "LLM2Rec")


def test_a_model_has_the_papers_name_in_the_form_that_the_paper_prints():
    """The backbone as it comes is its LLM2Vec; its encoders stand at length one, its models on Qwen2 as they come."""
    arms = [paper_arms.BACKBONE, LLM2VEC, LLMEMB, *BERT, MINE, paper_arms.OURS]
    qwen = {"raw": "LLM2Vec", "llmemb": "LLMEmb", "contrastive": "LLM2Rec"}
    assert directions.name_models(labels_of(arms)) == qwen | {"bert1-unit": "BERT"}
    assert directions.name_models(labels_of(arms, ["none"])) == qwen


def test_a_run_that_gives_another_form_has_each_row_once_and_says_which():
    def rows(**form):
        return [(row["embedding"], row["length"], row["how"]) for row in labels_of([BERT[0], paper_arms.OURS], **form)]

    none, unit = {"normalise": "none"}, {"normalise": "unit"}
    plain = [
        ("bert1", "none", none),
        ("bert1-unit", "unit", unit),
        ("contrastive", "none", {}),
        ("contrastive-unit", "unit", unit),
    ]
    assert rows() == rows(encoding={"normalise": "as_saved"}) == plain
    assert rows(normalise="unit") == [("bert1", "unit", none), ("contrastive", "unit", {})]
    assert rows(normalise="whitened", scale=10.0)[1] == ("contrastive", "whitened, times 10", {})
    assert rows(encoding=unit) == [("bert1", "unit", unit), ("contrastive", "unit", {})]
    assert rows(encoding=unit, scale=2.0)[0] == ("bert1", "unit, times 2", unit)
    assert [length for _, length, _ in rows(scale=100.0)] == ["none, times 100"] * 2
    values = {f"{m} {kind}": [0.1] for m in paper.METRICS for kind in ("mean", "std")}
    results = pl.DataFrame({"embedding": ["contrastive"], "domain": ["d"], "recommender": ["SASRec"]} | values)
    for form, cells in (({}, len(paper.METRICS)), ({"normalise": "unit"}, 0)):  # the paper's is as it comes
        names = directions.name_models(labels_of([paper_arms.OURS], **form))
        assert len(printed_gaps.compare_table(results, names, {"d": "Games"})) == cells
    arms = [BERT[0], paper_arms.OURS]
    assert directions.name_models(labels_of(arms, normalise="unit")) == {"bert1": "BERT"}  # that one is as the paper has it


def test_a_printed_comparison_of_table_3_is_counted_once_a_recommender_and_domain():
    labels = labels_of([paper_arms.BACKBONE, LLM2VEC, LLMEMB, *BERT, MINE, paper_arms.OURS])
    names, tables = directions.name_models(labels), [row["embedding"] for row in labels]
    pairs = directions.pair_models(tables, ["SASRec", "GRU4Rec"], names)
    assert len(pairs) == len({*pairs})
    tested = verdicts(*((recommender, a, b, "better") for (recommender, a), (_, b) in pairs))
    found = directions.put_beside_paper(tested, "Table 3", "in-domain", names).drop_nulls("agreement")
    printed = [("LLM2Vec", "LLM2Rec"), ("LLMEmb", "LLM2Rec"), ("LLM2Vec", "LLMEmb"), ("BERT", "LLM2Rec")]
    once = [(recommender, *pair) for recommender in ("SASRec", "GRU4Rec") for pair in printed]
    counted = [(r["recommender"], names[r["before"]], names[r["after"]]) for r in found.iter_rows(named=True)]
    assert sorted(counted) == sorted(once)


def test_pairs_of_cells_change_both_then_one_thing_at_a_time():
    cells = {("raw", p, a): f"{p} {a}" for p in ("last", "mean") for a in ("causal", "bidirectional")}
    found = [(before, after) for (_, before), (_, after) in directions.pair_cells(cells, "S")]
    assert found == [
        ("last causal", "mean bidirectional"),
        ("last causal", "last bidirectional"),
        ("mean causal", "mean bidirectional"),
        ("last causal", "mean causal"),
        ("last bidirectional", "mean bidirectional"),
    ]
    assert directions.name_cells(cells) == {"last causal": "causal", "mean bidirectional": "bidirectional"}
    trained = {("csft", *where): table for (_, *where), table in cells.items()}
    assert directions.name_cells(trained) == {}
    assert len(directions.pair_cells(cells | trained, "S")) == 10
