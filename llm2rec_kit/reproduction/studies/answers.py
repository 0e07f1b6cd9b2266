"""Answers: from the arms of an experiment to what may be said about them.

An arm is a table of items in some study, with a recommender over it. Arms of one question rank the same test targets, so any
two are compared target by target; tests and intervals are across users, whose targets stay together, or, where an arm was
trained several times, over users and trainings. The tests of an answer are one family, corrected together (Holm), and it has
one sentence, written by code from their verdicts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from llm2rec_kit.corpus import Corpus
from llm2rec_kit.reproduction.studies.study import Study
from llm2rec_kit.results import metrics, significance
from llm2rec_kit.results.significance import NOTHING
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import item_tables

PAIR = ("recommender", "before", "after")


@dataclass(frozen=True)
class Arm:
    """What a reader calls it, the study that it is trained in, its item table as `item_tables.parse_name` names it."""

    name: str
    study: Study
    embedding: str


@dataclass(frozen=True)
class Answer:
    """What came out of one question.

    arms    recommender, arm, trained (what its table had), mean of the metric, std over seeds (population), low, high (95%
            bootstrap interval over users).
    tests   recommender, before, after, difference, low, high (of the paired difference), p, effect, p_holm, verdict.
    users   how many were tested, on how many samples: one each in leave-one-out, several in a split by time.
    seeds, trainings   recommenders a table, and language models an arm. With more than one the tests are over trainings:
            arms then have neither trained nor an interval, and std is over language models, of an arm of one over
            recommenders; tests have df and the shares of the variance (`metrics.test_over_trainings`) and no effect.
    """

    question: str
    metric: str
    users: int
    samples: int
    seeds: int
    arms: pl.DataFrame
    tests: pl.DataFrame
    trainings: int = 1

    @property
    def counted(self) -> str:
        """Metric, n and seeds, as they stand behind every statement."""
        samples = f" with {self.samples:,} test samples" if self.samples != self.users else ""
        trainings = f", {self.trainings} trainings" if self.trainings > 1 else ""
        return f"{self.metric}, n = {self.users:,} users{samples}{trainings}, {self.seeds} seed{'s' * (self.seeds != 1)}"

    @property
    def sentence(self) -> str:
        """The answer in one line: what is better or worse, then what cannot be told apart."""
        told = sorted(self.tests.iter_rows(named=True), key=lambda row: row["verdict"] == NOTHING)
        parts = [_of(row["recommender"], self.tests) + _told(row) for row in told]
        return f"{'; '.join(parts)} ({self.counted})"

    def record(self) -> dict[str, Any]:
        """Collect the numbers worth keeping: the sentence, n, each arm's mean, each corrected p, and of tests over trainings
        their degrees of freedom and shares of the variance."""
        means = {f"{row['recommender']} {row['arm']}": row["mean"] for row in self.arms.iter_rows(named=True)}
        p = {"p {recommender} {before} to {after}".format(**row): row["p_holm"] for row in self.tests.iter_rows(named=True)}
        shares = {
            f"{row['recommender']} {row['before']} to {row['after']} {part}": row[part]
            for row in self.tests.iter_rows(named=True)
            for part in ("df", *metrics.TRAINING_PARTS)
            if part in row
        }
        counts = {"users": self.users, "seeds": self.seeds} | ({"trainings": self.trainings} if shares else {})
        return {"answer": self.sentence} | counts | means | p | shares


def _of(recommender: str, tests: pl.DataFrame) -> str:
    """The recommender as it stands before a statement, where `tests` are of several."""
    return f"{recommender}: " if tests["recommender"].n_unique() > 1 else ""


def _told(row: dict[str, Any]) -> str:
    size = f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
    if row["verdict"] == NOTHING:
        return f"{NOTHING} between {row['after']} and {row['before']}, {size}"
    return f"{row['after']} is {row['verdict']} than {row['before']}, {size}"


def answer(
    question: str,
    arms: Sequence[Arm],
    pairs: Sequence[tuple[str, str]],
    *,
    domain: str,
    recommenders: Sequence[str],
    seeds: Sequence[int],
    metric: str = "ndcg@10",
    among: np.ndarray | None = None,
) -> Answer:
    """Compare `pairs` (before, after) of arms by name, for each recommender; all p of the answer are corrected together.
    `among` bool (n_test,) keeps some of the test samples. ValueError for arms with other test targets, or without a pair."""
    if not pairs:
        raise ValueError(f"The question {question!r} compares no pair of arms.")
    require_same_targets(arms, domain)
    keys = [(r, a.name) for r in recommenders for a in arms]
    each = [_values(a, domain, r, metric, seeds) for r in recommenders for a in arms]  # (seeds, samples) a row
    users = significance.read_users(arms[0].study.run, domain)
    if among is not None:
        each, users = [v[:, among] for v in each], users[among]
    budgets = {a.name: describe_budget(a.study.run, a.embedding) for a in arms}
    return make_answer(question, metric, keys, each, users, budgets, pairs)


def answer_over_trainings(
    question: str,
    arms: Sequence[Arm],
    drawn: Mapping[str, Sequence[str]],
    *,
    domain: str,
    recommenders: Sequence[str],
    seeds: Sequence[int],
    metric: str = "ndcg@10",
) -> Answer:
    """Compare the first of `arms` with each row of `drawn`, {name: arms of it, one a training}, as
    `metrics.test_over_trainings` does: a verdict is about other users and other trainings. All p are corrected together."""
    require_same_targets(arms, domain)
    by_name, users = {arm.name: arm for arm in arms}, significance.read_users(arms[0].study.run, domain)
    first, rows, tests = arms[0], [], []
    for recommender in recommenders:
        before = _values(first, domain, recommender, metric, seeds)  # (seeds, samples)
        means = {first.name: before.mean(1)}
        for name, of in drawn.items():
            after = np.stack([_values(by_name[arm], domain, recommender, metric, seeds) for arm in of])
            means[name] = after.mean((1, 2))
            found = metrics.test_over_trainings(after - before, users)
            tests.append(dict(zip(PAIR, (recommender, first.name, name), strict=True)) | found)
        rows += [
            {"recommender": recommender, "arm": n, "mean": float(m.mean()), "std": float(m.std())} for n, m in means.items()
        ]
    significance.add_verdicts(tests)
    counts = len(np.unique(users)), len(users), len(seeds)
    return Answer(question, metric, *counts, pl.DataFrame(rows), pl.DataFrame(tests), min(map(len, drawn.values())))


def answer_leads(
    question: str,
    arms: Sequence[Arm],
    leads: Mapping[str, tuple[str, str]],
    pairs: Sequence[tuple[str, str]],
    *,
    domain: str,
    recommenders: Sequence[str],
    seeds: Sequence[int],
    metric: str = "ndcg@10",
) -> Answer:
    """Compare `pairs` of leads: of each of `leads` {name: (arm, arm ahead)} the difference in every test sample, seed by seed.

    The answer's `arms` are the leads, their means differences, and its verdicts larger or smaller.
    """
    require_same_targets(arms, domain)
    by_name, users = {arm.name: arm for arm in arms}, significance.read_users(arms[0].study.run, domain)
    keys = [(recommender, name) for recommender in recommenders for name in leads]
    each = []
    for recommender, name in keys:
        behind, ahead = (_values(by_name[arm], domain, recommender, metric, seeds) for arm in leads[name])
        each.append(ahead - behind)
    budgets = {name: describe_budget(by_name[arm].study.run, by_name[arm].embedding) for name, (_, arm) in leads.items()}
    found = make_answer(question, metric, keys, each, users, budgets, pairs)
    return replace(
        found, tests=found.tests.with_columns(pl.col("verdict").replace({"better": "larger", "worse": "smaller"}))
    )


def describe_each(found: Answer, drawn: Mapping[str, Sequence[str]]) -> str:
    """Tell how the tests of the trainings of each row of `drawn` came out, one by one: "CSFT 2 better, 1 no detectable ..."."""
    parts = []
    for (recommender,), tests in found.tests.group_by("recommender", maintain_order=True):
        for name, of in drawn.items():
            verdicts = Counter(tests.filter(pl.col("after").is_in(of))["verdict"])
            told = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
            parts.append(f"{_of(recommender, found.tests)}{name} {told}")
    return "; ".join(parts)


def make_answer(
    question: str,
    metric: str,
    keys: list[tuple[str, str]],
    each: list[np.ndarray],
    users: np.ndarray,
    budgets: dict[str, str],
    pairs: Sequence[tuple[str, str]],
) -> Answer:
    """Make an answer from values `each` (seeds, n) of the (recommender, arm) `keys`; `users` (n,) are the samples'."""
    values = np.stack([v.mean(0) for v in each], 1)
    low, high = metrics.compute_intervals(values, users, seed=significance.SEED)
    rows = [
        {"recommender": r, "arm": name, "trained": budgets[name]}
        | {"mean": float(values[:, k].mean()), "std": float(v.mean(1).std()), "low": float(low[k]), "high": float(high[k])}
        for k, ((r, name), v) in enumerate(zip(keys, each, strict=True))
    ]
    recommenders = dict.fromkeys(r for r, _ in keys)
    tests = _tests([(r, a, b) for r in recommenders for a, b in pairs], keys, values, users)
    return Answer(question, metric, len(np.unique(users)), len(users), len(each[0]), pl.DataFrame(rows), tests)


def _tests(
    asked: list[tuple[str, str, str]], keys: list[tuple[str, str]], values: np.ndarray, users: np.ndarray
) -> pl.DataFrame:
    """A row for each (recommender, before, after) of `asked`; `values` (n, keys) has a column a key (recommender, arm)."""
    before, after = ([keys.index((row[0], row[k])) for row in asked] for k in (1, 2))
    found = metrics.test_pairs(values[:, before], values[:, after], users, seed=significance.SEED)
    rows: list[dict[str, Any]] = [
        dict(zip(PAIR, row, strict=True)) | numbers for row, numbers in zip(asked, found, strict=True)
    ]
    significance.add_verdicts(rows)
    return pl.DataFrame(rows)


def _values(arm: Arm, domain: str, recommender: str, metric: str, seeds: Sequence[int]) -> np.ndarray:
    """The metric of each test sample with each seed: float64 (seeds, n_test)."""
    row = (recommender, arm.embedding)
    return np.stack([significance.read_sample_values(arm.study.run, domain, row, metric, [s]) for s in seeds])


def require_same_targets(arms: Sequence[Arm], domain: str) -> None:
    """Raise ValueError unless the test targets (user and item by the source's ids) of all arms are the same, in order."""
    first, *rest = {arm.study.run.path: arm for arm in arms}.values()
    wanted = list_targets(first.study.corpus, domain)
    for arm in rest:
        if not wanted.equals(found := list_targets(arm.study.corpus, domain)):
            raise ValueError(
                f"{first.name!r} and {arm.name!r} were tested on other targets ({len(wanted)} and {len(found)}), so no "
                "paired test is possible; answer each alone and compare the verdicts with `compare_answers`."
            )


def list_targets(corpus: Corpus, domain: str) -> pl.DataFrame:
    """List user and item (source ids) of the domain's test samples, in their order."""
    part, _ = corpus.select([domain])
    targets = part.samples("test")
    users = part.users["source_id"][part.owners(targets)]
    return pl.DataFrame({"user": users, "item": part.items["source_id"][part.sequence[targets].astype(np.int64) - 1]})


def describe_budget(run: Run, embedding: str) -> str:
    """Say what the encoder of an item table was trained with: "csft 300 steps, mntp 500 steps"; "no text" for ids."""
    text, kind = item_tables.parse_name(embedding)
    if text is None:
        return "no text"
    name = run.manifest(f"embeddings/{text}")["settings"].get("encoder", text)
    steps = []
    while name and run.has(name):
        made = run.manifest(name)
        if "steps" in made["settings"]:
            steps.append(f"{name} {count_steps(run, name, made['settings']['steps']):,} steps")
        name = next((i for i in made["inputs"] if i != "corpus"), "")
    return (", ".join(reversed(steps)) or "no training") + (" + id" if kind != "text" else "")


def count_steps(run: Run, training: str, planned: int) -> int:
    """Count the steps behind the weights of a training of `run`: fewer than `planned` where patience ended it or the best
    weights were kept; `planned` where it is not there yet."""
    return int(run.record(training).get("kept_step", planned)) if run.has(training) else planned


def compare_answers(first: Answer, second: Answer, names: tuple[str, str]) -> tuple[pl.DataFrame, str]:
    """Compare the verdicts of the same pairs in two answers of different users; returns them with one sentence.

    The sentence says in which order the arms stand and what agrees. Columns recommender, before, after, a verdict each,
    agree: "same", "opposite", or "seen once" where one of the two cannot tell the pair apart.
    """
    both = first.tests.select(*PAIR, "verdict").join(
        second.tests.select(*PAIR, "verdict"), on=PAIR, suffix=" there", maintain_order="left"
    )
    a, b = pl.col("verdict"), pl.col("verdict there")
    agree = pl.when(a == b).then(pl.lit("same")).when((a != NOTHING) & (b != NOTHING)).then(pl.lit("opposite"))
    both = both.with_columns(agree=agree.otherwise(pl.lit("seen once")))
    n = {kind: both.filter(agree=kind).height for kind in ("same", "opposite", "seen once")}
    orders = [f"{name}: {_order(found)} ({found.counted})" for name, found in zip(names, (first, second), strict=True)]
    counts = (
        f"{n['same']} of {len(both)} verdicts the same, {n['opposite']} opposite, {n['seen once']} detectable in one only"
    )
    return both.rename({"verdict": names[0], "verdict there": names[1]}), f"{'; '.join(orders)}; {counts}"


def _order(found: Answer) -> str:
    """The arms by their mean, best first: a > b > c, for each recommender."""
    several = found.arms["recommender"].n_unique() > 1
    orders = []
    for name in found.arms["recommender"].unique(maintain_order=True):
        ranked = found.arms.filter(recommender=name).sort("mean", descending=True, maintain_order=True)["arm"]
        orders.append((f"{name} " if several else "") + " > ".join(ranked))
    return ", ".join(orders)
