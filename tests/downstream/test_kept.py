"""A number that is read back is that of the ranks beside it, or is refused with the file's name."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from conftest import make_corpus
from test_downstream_comparison import keep, of_corpus

from llm2rec_kit import storage
from llm2rec_kit.results import kept, metrics, significance, slices
from llm2rec_kit.runs import ArtefactError

NAME = "evaluation/toy/SASRec-raw-seed1"
ROWS = [("SASRec", "raw"), ("SASRec", "csft")]
SEEDS = [1, 2]


@pytest.fixture
def run(tmp_path):
    """A run with two rows of two seeds, and the tests between them as notebook 04 keeps them."""
    run, rng = of_corpus(tmp_path, make_corpus(users=80)), np.random.default_rng(0)
    for seed in SEEDS:
        for k, (recommender, embedding) in enumerate(ROWS):
            keep(run, "toy", recommender, embedding, seed, rng.integers(1, 40, 80) // (k + 1) + 1)
    verdicts = significance.compare(run, "toy", [tuple(ROWS), tuple(ROWS[::-1])], seeds=SEEDS, metric="ndcg@10")
    settings = {"pairs": [[*ROWS], [*ROWS[::-1]]], "tested": "ndcg@10"}
    record = {"domain": "toy", "rows": verdicts.to_dicts()}
    names = run.names("evaluation")
    run.make("evaluation/toy/comparisons", lambda folder: record, settings=settings, inputs=names, quiet=True)
    return run


def forged(run, name, change):
    """Change a manifest as somebody would who knows of its seal."""
    path = run.path / f"{name}.json"
    made = json.loads(path.read_text())
    change(made)
    path.write_text(json.dumps(storage.seal(made)))


READERS = {
    "table": lambda run: significance.tabulate(run),
    "lists": lambda run: significance.tabulate_lists(run, [NAME]),
    "values": lambda run: significance.read_sample_values(run, "toy", ROWS[0], "mrr", SEEDS),
    "compare": lambda run: significance.compare(run, "toy", [tuple(ROWS)], seeds=SEEDS),
    "gains": lambda run: slices.tabulate_gains(run, "toy", make_corpus(users=80), *ROWS, seeds=SEEDS),
    "extremes": lambda run: slices.find_extremes(run, "toy", make_corpus(users=80), *ROWS, seeds=SEEDS),
    "recorded": lambda run: significance.read_recorded(run, "evaluation/toy/comparisons"),
}


@pytest.mark.parametrize("reader", READERS)
def test_ranks_of_two_places_are_read_by_everything_that_reads_ranks(tmp_path, run, reader):
    """The same numbers where both places are one, as in a run without ties."""
    twice = of_corpus(tmp_path / "twice", make_corpus(users=80))
    for name in run.names("evaluation"):
        if name.endswith("comparisons"):
            made = run.manifest(name)
            inputs, kept_settings = twice.names("evaluation"), made["settings"]
            twice.make(name, lambda folder, m=made: m["record"], settings=kept_settings, inputs=inputs, quiet=True)
            continue
        record, ranks = kept.read(run, name)
        keep(twice, "toy", record["recommender"], record["embedding"], record["seed"], np.stack([ranks, ranks], 1))
    one, other = READERS[reader](run), READERS[reader](twice)
    assert one.equals(other) if hasattr(one, "equals") else np.array_equal(one, other)


@pytest.mark.parametrize("reader", READERS)
def test_a_digit_that_was_changed_is_found_by_whoever_reads(run, reader):
    READERS[reader](run)

    def change(made):
        made["record"]["metrics"]["ndcg@10"] += 1e-6

    forged(run, NAME, change)
    with pytest.raises(ArtefactError, match=rf"{NAME}\.json was changed .*ndcg@10 is .*04_downstream_eval"):
        READERS[reader](run)


def test_what_is_read_are_the_ranks_and_their_metrics_to_the_bit(run):
    record, ranks = kept.read(run, NAME)
    assert record["metrics"] == run.record(NAME)["metrics"] == metrics.summarise(ranks, [10])
    assert {k: v for k, v in record.items() if k != "metrics"} == {
        k: v for k, v in run.record(NAME).items() if k != "metrics"
    }
    forged(run, NAME, lambda made: made["record"]["metrics"].update(mrr=record["metrics"]["mrr"] * (1 + 1e-14)))
    assert kept.read_record(run, NAME)["metrics"]["mrr"] == record["metrics"]["mrr"]  # as another machine may round


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["record"].update(samples=79), "tells of 79 samples and has 80 ranks"),
        (lambda m: m["record"]["metrics"].update({"hit@3": 0.5}), "metrics are none .*'hit@3'"),
        (lambda m: m["record"]["metrics"].update(mrr="high"), "metrics are none"),
        (lambda m: m["record"]["metrics"].update(mrr=float(2)), r"mrr is 2\.0, and its ranks give 0\."),
        (lambda m: m["files"].pop("SASRec-raw-seed1.npy"), "names no ranks"),
        (lambda m: m["record"].update(seed=3), "not what its name says.*SASRec-raw-seed3"),
        (lambda m: m["record"].update(embedding="csft"), "not what its name says.*SASRec-csft-seed1"),
        (lambda m: m["record"].update(recommender="GRU4Rec"), "not what its name says.*GRU4Rec-raw-seed1"),
        (lambda m: m["record"].update(domain="other"), "not what its name says.*evaluation/other/SASRec"),
    ],
)
def test_a_record_that_is_not_of_its_ranks_or_name_is_refused(run, change, words):
    forged(run, NAME, change)
    with pytest.raises(ArtefactError, match=f"{NAME}.json.*{words}.*Delete it and run notebooks/04"):
        kept.read(run, NAME)


def test_ranks_that_were_changed_are_refused_though_the_record_would_fit(run):
    np.save(run.path / f"{NAME}.npy", np.ones(80, dtype=np.int32))
    forged(run, NAME, lambda made: made["record"].update(metrics=metrics.summarise(np.ones(80), [10])))
    with pytest.raises(ArtefactError, match=r"SASRec-raw-seed1\.npy is damaged"):
        kept.read(run, NAME)


def test_the_tests_that_were_kept_are_those_of_the_ranks(run):
    name = "evaluation/toy/comparisons"
    assert significance.read_recorded(run, name) == run.record(name)["rows"]
    verdict = run.record(name)["rows"][0]["verdict"]
    assert verdict == "better"


@pytest.mark.parametrize(
    ("column", "value"),
    [("verdict", "no detectable difference"), ("p_holm", 0.2), ("low", -0.1), ("after", "mntp"), ("p", 1)],
)
def test_a_verdict_that_was_changed_is_refused(run, column, value):
    name = "evaluation/toy/comparisons"
    forged(run, name, lambda made: made["record"]["rows"][0].update({column: value}))
    with pytest.raises(
        ArtefactError, match=re.escape(f"{name}.json") + ".*not those that the ranks give.*04_downstream_eval"
    ):
        significance.read_recorded(run, name)
    forged(run, name, lambda made: made["record"]["rows"].pop())
    with pytest.raises(ArtefactError, match="not those that the ranks give"):
        significance.read_recorded(run, name)
