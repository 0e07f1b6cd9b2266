"""Questions that the paper leaves open: in words, whether a run's data can answer them, and what repeats are worth.

What is said of an experiment's arms is in `answers`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import polars as pl

from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.reproduction.studies import answers
from llm2rec_kit.reproduction.studies.answers import Answer
from llm2rec_kit.reproduction.studies.study import Study
from llm2rec_kit.results import metrics, weights
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import item_tables

ASKED = S.QUESTIONS
READ_AGAIN = ("split", "text", "history")  # questions whose studies make a corpus anew from the run's source


def find_unanswerable(corpus: Corpus | None, data: S.Data, asked: S.Questions, *, share: float = 1.0) -> dict[str, str]:
    """Find the questions that this run's data or, without a corpus, its settings alone cannot answer, each with the reason.
    `share` is that of the users from which the run's own recommenders learn."""
    reasons: dict[str, str] = {}
    if corpus is not None and corpus.times is None:
        reasons["split"] = f"the source ({corpus.facts.get('source')}) has no times, and a split by time needs them"
    if corpus is not None and not list_fields(corpus, asked):
        reasons["text"] = f"the corpus' items have none of {', '.join(asked.text_fields)}"
    if data.source == "llm2rec" and data.given_splits:
        reasons |= dict.fromkeys(("split", "history"), "the source brings its own samples and splits, which are kept")
    if len(set(asked.histories)) < 2:
        reasons["history"] = f"it needs two lengths of history at least; questions_histories is {asked.histories}"
    if len(asked.seeds) < 2:
        reasons["trainings"] = f"it needs two seeds of recommenders at least; questions_seeds is {asked.seeds}"
    if why := _find_no_shares(corpus, asked, share):
        reasons["users"] = why
    if data.source == "mix":
        reasons |= dict.fromkeys(READ_AGAIN, "a mix is made of finished corpora; ask in the runs that it is made of")
    return reasons


def _find_no_shares(corpus: Corpus | None, asked: S.Questions, share: float) -> str:
    """Find why no learning curve along the users can be drawn; "" where it can, as far as is known."""
    if share < 1:
        return f"the run's own recommenders learn from a part of the users, evaluation_user_share {share:g}"
    domain = asked.domain or (corpus.train_domains[0] if corpus else "")
    if corpus is None or domain not in corpus.domains:  # which `feasibility.check_corpus` refuses by the setting's name
        return ""
    part, _ = corpus.select([domain])
    counts = [part.count_drawn(one) for one in (*asked.user_shares, 1.0)]
    if len({*counts}) < len(counts):
        return f"questions_user_shares {asked.user_shares} of {part.n_users:,} users, and all of them, are {counts}: not so many sizes"
    for few, seed, split in part.list_empty_draws(asked.user_shares, asked.seeds):
        return f"{few:g} of {part.n_users:,} users, drawn by seed {seed}, have no {split} sample (questions_user_shares)"
    return ""


def list_fields(corpus: Corpus, asked: S.Questions) -> list[str]:
    """List those of `text_fields` that the corpus' items have as text or numbers, with a value in some row.

    Those that a text can have of Amazon's files are in no corpus whose text does not name them; they are listed, too.
    """
    from llm2rec_kit.data.sources import amazon

    items = corpus.items
    further = amazon.FURTHER if corpus.facts.get("source") == "amazon" else ()
    kinds = {name: items.schema[name] for name in asked.text_fields if name in items.columns}
    texts = [name for name, kind in kinds.items() if kind == pl.String or kind.is_numeric()]
    filled = [name for name in texts if (items[name].cast(pl.String).fill_null("") != "").any()]
    return [name for name in asked.text_fields if name in filled or (name in further and name not in items.columns)]


def compare_repeats(by_kind: pl.DataFrame) -> pl.DataFrame:
    """Compute how much of a metric comes from targets that the user had before, of `by_kind` (`slices.tabulate`).

    Columns recommender, embedding, targets, repeats (share of the targets), overall (the metric), share (of the metric's sum
    that repeats give), novel, low, high (the metric of novel targets).
    """
    rows = []
    for key, part in by_kind.filter(slice="target").group_by("recommender", "embedding", maintain_order=True):
        total, gain = int(part["samples"].sum()), float((part["samples"] * part["mean"]).sum())
        again = part.filter(pl.col("label") != "novel")
        novel = part.filter(pl.col("label") == "novel").select(novel="mean", low="low", high="high").to_dicts()
        repeated = float((again["samples"] * again["mean"]).sum())
        row = dict(zip(("recommender", "embedding"), key, strict=True))
        row |= {"targets": total, "repeats": int(again["samples"].sum()) / total}
        row |= {"overall": gain / total, "share": repeated / gain if gain else 0.0}
        rows.append(row | (novel[0] if novel else {"novel": None, "low": None, "high": None}))
    return pl.DataFrame(rows)


def describe_repeats(found: pl.DataFrame, metric: str) -> str:
    """Put `compare_repeats` into one sentence."""
    n, share = found["targets"][0], found["repeats"][0]
    if not share:
        return f"no test target repeats an item of its user (n = {n:,}): all of {metric} is of novel targets here"
    shares = found["share"].to_list()
    return f"{share:.1%} of {n:,} test targets are repeats and give {min(shares):.1%} to {max(shares):.1%} of {metric}"


def compare_texts(texts: dict[str, list[str]]) -> pl.DataFrame:
    """Compare the lengths of the items' texts, a row a way to write them: its name, mean words, the first as an example."""
    rows = []
    for name, some in texts.items():
        words = float(np.mean([len(text.split()) for text in some]))
        rows.append({"text": name, "words a title, mean": words, "for example": some[0]})
    return pl.DataFrame(rows)


def find_longer(histories: np.ndarray, lengths: Sequence[int]) -> pl.DataFrame:
    """Count the test samples with more items of history (`slices.count_items_before`) than each of `lengths`."""
    rows = [(length, int((histories > length).sum()), len(histories)) for length in lengths]
    return pl.DataFrame(rows, schema=["items of history", "test samples with more", "of"], orient="row")


def list_without_weights(study: Study, domain: str, recommenders: Sequence[str], tables: Sequence[str]) -> list[str]:
    """List those of `recommenders` over `tables` that nobody kept weights of, the study or its base: "SASRec over 'id'".

    Weights are a first seed's. A study that takes a recommender from another one, of whose seeds it was a later one, has none.
    """
    pairs = itertools.product(recommenders, tables)
    return [f"{r} over {table!r}" for r, table in pairs if _find_holder(study, domain, r, table) is None]


def _find_holder(study: Study, domain: str, recommender: str, table: str) -> Run | None:
    """The study or its base, whichever kept this recommender's weights; None where neither did."""
    holders = (study.run, study.base)
    return next((run for run in holders if weights.find_kept(run, domain, recommender, table)), None)


def compare_without_seen(
    question: str,
    study: Study,
    domain: str,
    tables: dict[str, str],
    *,
    recommenders: Sequence[str],
    metric: str = "ndcg@10",
) -> Answer:
    """Rank with the study's recommenders all items once, and once without those that the user had, with the same weights.
    The recommenders are one seed's, whose weights were kept. `tables` is {a reader's name: item table}. ValueError where
    there are none (`list_without_weights`)."""
    # which load torch, and what is above is also a plan's
    from llm2rec_kit.downstream import ranking, samples, saved_recommender

    ties = S.Evaluation.among(study.settings).ties
    part, ids = study.corpus.select([domain])
    targets = part.samples("test")
    rows = samples.make_rows(part, targets, shared=False)
    texts = {text for table in tables.values() if (text := item_tables.parse_name(table)[0])}
    vectors = {text: np.load(study.run.require(f"embeddings/{text}").with_suffix(".npy")) for text in texts}
    keys, each, budgets = [], [], {}
    for recommender, (name, table) in itertools.product(recommenders, tables.items()):
        holder = _find_holder(study, domain, recommender, table) or study.base
        model = saved_recommender.load(holder, domain, recommender, table, (part, ids), vectors)
        for what, label in (("none", "all items"), ("seen", "unseen items")):
            excluded = ranking.find_excluded(part, targets, what)
            found = ranking.rank_rows(model.model, model.table, rows, exclude=excluded, ties=ties)
            keys.append((recommender, f"{name}, {label}"))
            each.append(metrics.compute_per_sample(found.ranks, metric)[None])
            budgets[keys[-1][1]] = answers.describe_budget(study.run, table)
    pairs = [(f"{name}, all items", f"{name}, unseen items") for name in tables]
    return answers.make_answer(question, metric, keys, each, part.owners(targets), budgets, pairs)
