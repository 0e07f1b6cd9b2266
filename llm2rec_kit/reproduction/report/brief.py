"""How a report begins: three answers in words, made from the tests, and the table that says who is best of all rows.

"Better" and "worse" are a paired test's verdict across users, corrected for the number of tests (Holm), and nothing else is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm2rec_kit.results import evaluations, significance
from llm2rec_kit.results.evaluations import TRAINED
from llm2rec_kit.results.significance import NOTHING, Row
from llm2rec_kit.runs import Run

GLOSSARY = {
    "raw": "the language model as it came (of a backbone made from nothing: untrained), read as an encoder of titles",
    "csft": "after collaborative supervised fine-tuning: from what a user consumed it has learned to write the next title",
    "mntp": "csft, then masked next-token prediction with the causal mask lifted",
    "contrastive": "mntp, then item contrast: two views of a title attract, other titles repel. The whole chain of LLM2Rec",
    "id": "no text at all: a vector an item, trained together with the recommender",
    "adapted": "an embedding as a trained recommender reads it, behind its adapter",
}
BESIDE = (
    "SASRec and GRU4Rec are trained over an embedding. What else stands in a table trains nothing: nearest and nearestmean rank by "
    "closeness to the last item or to the mean of the history; lastitem, itemknn, bm25, popularity and recent read no embedding; "
    "oracle is the most that anybody could reach, known only of data that was made from a seed."
)
CEILING = "oracle"
FEW = 3  # domains that a sentence goes through one by one; of more it counts


def judge_standings(run: Run, results: dict[str, Any], held: evaluations.Evaluations) -> dict[str, dict[Row, str]]:
    """Judge which of all rows but the ceiling is best, domain by domain, as `significance.judge_standing` does.

    Returns {domain: {(recommender, embedding): "best", "tied for best" or ""}}. A domain without tests of notebook 04 is
    left out: whoever kept none, or an earlier version, kept nothing to test.
    """
    found = {}
    for name, made in held.tests.items():
        domain = name.split("/")[1]
        compared = select_compared(results["results"].get(domain, []), results["seeds"])
        rows = [(r["recommender"], r["embedding"]) for r in compared]
        if "pairs" in made["settings"] and rows:
            metric = choose_metric(results, domain)
            found[domain] = significance.judge_standing(run, domain, rows, seeds=results["seeds"], metric=metric)
    return found


def select_compared(rows: Sequence[dict[str, Any]], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Select the rows that may be best: all but the ceiling, and those of trained recommenders with all of the seeds."""
    return [r for r in rows if r["recommender"] != CEILING and (r["recommender"] not in TRAINED or r["seeds"] == len(seeds))]


def choose_metric(results: dict[str, Any], domain: str) -> str:
    """Choose the metric by which a domain's rows are compared: the tests' own or, where the rows lack that, their first."""
    has: list[str] = list(results["results"][domain][0]["mean"])
    tested: str = next((row["metric"] for row in results["comparisons"].get(domain, [])), has[0])
    return tested if tested in has else has[0]


def make_brief(results: dict[str, Any], places: dict[str, dict[Row, str]]) -> dict[str, Any]:
    """Collect what the templates need to begin a report, by name.

    `answers` [{"question", "answer"}], `tables` (`make_compact`) by domain, `glossary`, `beside`.
    """
    return {
        "answers": answer_questions(results, places),
        "tables": {domain: make_compact(results, domain, places.get(domain)) for domain in results["results"]},
        "glossary": GLOSSARY,
        "beside": BESIDE,
    }


def answer_questions(results: dict[str, Any], places: dict[str, dict[Row, str]]) -> list[dict[str, str]]:
    """Answer three questions: does CSFT help, does the whole chain, what is best? A question and an answer each."""
    chain = describe_tests(results, "raw", "contrastive")
    versus = describe_tests(results, "id", "contrastive")
    return [
        {"question": "Does CSFT help?", "answer": describe_csft(results)},
        {
            "question": "Does the whole chain (CSFT, MNTP, contrast) help?",
            "answer": f"{chain} Is it better than trained ids? {versus}",
        },
        {"question": "What is best, of all that was ranked?", "answer": name_winners(results, places)},
    ]


def describe_csft(results: dict[str, Any]) -> str:
    """Say what the tests of csft against raw found (`describe_tests`), by name of each way in which both were read, where
    there are several: what CSFT learns may be at the last token, and the mean over tokens not show it."""
    tested = {
        (r["before"], r["after"]) for rows in results["comparisons"].values() for r in rows if significance.is_within(r)
    }
    other = [name for name in significance.READINGS if (f"raw-{name}", f"csft-{name}") in tested]
    if not other:
        return describe_tests(results, "raw", "csft")
    how = results["settings"]["encoding"]
    pairs = {f"{how['pooling']}-{how['attention']}": ("raw", "csft")} if ("raw", "csft") in tested else {}
    pairs |= {f"{name} (csft-{name})": (f"raw-{name}", f"csft-{name}") for name in other}
    return " ".join(f"Read as {name}: {describe_tests(results, *pair)}" for name, pair in pairs.items())


def describe_tests(results: dict[str, Any], before: str, after: str) -> str:
    """Say what the tests of `after` against `before` found, by domain and recommender, with differences and corrected p."""
    rows = {}
    for domain in results["results"]:
        tests = [r for r in results["comparisons"].get(domain, []) if (r["before"], r["after"]) == (before, after)]
        if tests := [r for r in tests if significance.is_within(r)]:
            rows[domain] = tests
    if not rows:
        return f"Not tested in this run: it takes {before} and {after} among evaluation_embeddings."
    every = [r for tests in rows.values() for r in tests]
    verdicts, metric = {r["verdict"] for r in every}, every[0]["metric"]
    heads = {"better": "Yes", "worse": "No, it is worse", NOTHING: NOTHING.capitalize()}
    head = heads[every[0]["verdict"]] if len(verdicts) == 1 else "It depends"
    if len(rows) > FEW:
        counts = [f"{n} {v}" for v in ("better", "worse", NOTHING) if (n := sum(r["verdict"] == v for r in every))]
        return f"{head}. Of {len(every)} tests, one a domain and recommender: {', '.join(counts)} ({metric})."
    told = [f"on {d} ({_seen(results, d)}) {_verdicts(tests, alike=len(verdicts) == 1)}" for d, tests in rows.items()]
    return f"{head}: {'; '.join(told)} ({metric})."


def name_winners(results: dict[str, Any], places: dict[str, dict[Row, str]]) -> str:
    """Name the best row of each domain, where the tests let one be called so; else those that cannot be told apart."""
    told: list[str] = []
    for domain, rows in list(results["results"].items())[: 2 * FEW]:
        metric = choose_metric(results, domain)
        ranked = sorted(select_compared(rows, results["seeds"]), key=lambda r: -r["mean"][metric])
        if not ranked:
            told.append(f"{'on' if told else 'On'} {domain}, nothing was evaluated with all seeds")
            continue
        top, marks = ranked[0], places.get(domain)
        first = f"{'on' if told else 'On'} {domain}, {_name(top)} has the highest {metric} ({top['mean'][metric]:.4f})"
        tied = [r for r in ranked[1:] if marks and marks[r["recommender"], r["embedding"]]]
        if marks is None:
            told.append(f"{first}, which was not tested against the others")
        elif tied:
            names = [_name(r) for r in tied[:FEW]] + ([f"{len(tied) - FEW} more"] if len(tied) > FEW else [])
            told.append(f"{first}, not detectably above {_listed(names)}")
        else:
            told.append(f"{first}, detectably above every other row")
    more = len(results["results"]) - len(told)
    return f"{'; '.join(told)}{f'; {more} more domains stand in the tables' if more else ''}."


def make_compact(results: dict[str, Any], domain: str, places: dict[Row, str] | None) -> dict[str, Any]:
    """Arrange the domain's rows by embedding and recommender, in one metric.

    metric, columns (recommenders that read an embedding), rows [{"embedding", "cells": [cell or None a column]}], others
    [{"name", "cell"}] that read none, best first and the ceiling last. A cell has mean, std, seeds and place ("best",
    "tied for best", ""); without `places` the highest mean is the "highest", which no test says more of.
    """
    rows, metric = results["results"][domain], choose_metric(results, domain)
    most = max((r["mean"][metric] for r in select_compared(rows, results["seeds"])), default=None)

    def cell(r: dict[str, Any]) -> dict[str, Any]:
        untested = "highest" if r["mean"][metric] == most and r["recommender"] != CEILING else ""
        place = untested if places is None else places.get((r["recommender"], r["embedding"]), "")
        return {"mean": r["mean"][metric], "std": r["std"][metric], "seeds": r["seeds"], "place": place}

    reading = [r for r in rows if r["embedding"] != "none"]
    names = dict.fromkeys(r["recommender"] for r in reading)
    columns = [*(n for n in TRAINED if n in names), *(n for n in names if n not in TRAINED)]
    by = {(r["recommender"], r["embedding"]): cell(r) for r in reading}
    embeddings = sorted(dict.fromkeys(r["embedding"] for r in reading), key=significance.place)
    others = sorted(
        (r for r in rows if r["embedding"] == "none"), key=lambda r: (r["recommender"] == CEILING, -r["mean"][metric])
    )
    return {
        "metric": metric,
        "columns": columns,
        "rows": [{"embedding": name, "cells": [by.get((c, name)) for c in columns]} for name in embeddings],
        "others": [{"name": r["recommender"], "cell": cell(r)} for r in others],
        "tested": places is not None,
    }


def _seen(results: dict[str, Any], domain: str) -> str:
    return "seen by CSFT" if domain in results["train_domains"] else "no training saw it"


def _verdicts(tests: Sequence[dict[str, Any]], *, alike: bool) -> str:
    """Say "better under SASRec (+0.0075, p 0.0006), worse under GRU4Rec (...)"; without verdicts where all are alike."""
    parts = []
    for verdict in ("better", "worse", NOTHING):
        named = [f"{r['recommender']} ({r['difference']:+.4f}, {_p(r['p_holm'])})" for r in tests if r["verdict"] == verdict]
        parts += [f"{'' if alike else f'{verdict} '}under {_listed(named)}"] if named else []
    return ", ".join(parts)


def _p(value: float) -> str:
    return "p below 1e-10" if value < 1e-10 else f"p {value:.2g}"


def _name(row: dict[str, Any]) -> str:
    return row["recommender"] if row["embedding"] == "none" else f"{row['recommender']} over {row['embedding']}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
