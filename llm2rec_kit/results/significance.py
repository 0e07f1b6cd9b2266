"""Comparison: the table of a run's results, and what may be said about the difference of any two of its rows.

A row is a (recommender, embedding) in a domain. Its value for a test sample is the sample's metric averaged over seeds, and
a mean is over samples, as the metric is defined. Intervals and tests are across users, the same users for every row, so they
say what other users of this store would see: a split by time gives a user several samples, and they stay together. How much
another training would differ is another question: that is the standard deviation over seeds, which stands beside them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llm2rec_kit.corpus import Corpus
from llm2rec_kit.results import evaluations, kept, metrics
from llm2rec_kit.results.evaluations import OF, TRAINED, is_trained
from llm2rec_kit.runs import ArtefactError, Run
from llm2rec_kit.settings import Evaluation
from llm2rec_kit.settings.encoding import MASKS, POOLINGS

Row = tuple[str, str]  # (recommender, embedding)

ORDER = ("raw", "csft", "mntp", "contrastive", "minilm", "id")  # of tables and figures
STAGES = ORDER[:4]
NOTHING = "no detectable difference"
LEVEL = 0.05  # of all tests, once they are corrected for their number
SEED = 0  # of all bootstrap draws
READINGS = [f"{pooling}-{mask}" for pooling, mask in itertools.product(POOLINGS, MASKS)]  # how a variant's name ends


def tabulate(
    run: Run, names: list[str] | None = None, *, metric_names: Sequence[str] = (), intervals: bool = False
) -> pl.DataFrame:
    """Tabulate domain, recommender, embedding, seeds, and mean and (population) std of each metric over seeds.

    `names` are the artefacts to read; without, all that count (`evaluations.find_evaluations`). `metric_names` are those of
    their records unless given; any can be had, as ranks are kept. `intervals` adds each metric's 95% bootstrap interval over
    users, `<metric> low` and `<metric> high`. Raises ArtefactError as `kept.read`.
    """
    found = {n: kept.read_record(run, n) for n in (evaluations.find_evaluations(run).made if names is None else names)}
    if not found:
        raise ValueError(f"{run} has no evaluation yet. Run notebooks/04_downstream_eval.ipynb.")
    groups: dict[tuple[str, str, str], list[str]] = {}
    for name, record in found.items():
        groups.setdefault((record["domain"], record["recommender"], record["embedding"]), []).append(name)
    groups = {key: groups[key] for key in sorted(groups, key=lambda key: place(key[2]))}
    metric_names = list(metric_names or next(iter(found.values()))["metrics"])
    rows = []
    for key, of_row in groups.items():
        values = [_measured(run, name, found[name], metric_names) for name in of_row]
        means = {f"{m} mean": float(np.mean([v[m] for v in values])) for m in metric_names}
        stds = {f"{m} std": float(np.std([v[m] for v in values])) for m in metric_names}
        rows.append(dict(zip(OF, key, strict=True)) | {"seeds": len(values), **means, **stds})
    frame = pl.DataFrame(rows)
    return pl.concat([frame, _intervals(run, groups, metric_names)], how="horizontal") if intervals else frame


def make_readable(table: pl.DataFrame, domain: str, metric_names: Sequence[str]) -> pl.DataFrame:
    """Format the domain's rows of `tabulate` (with intervals) for a reader: each metric as "mean ± std [low, high]".

    A row's place is that of `add_places`, where it was asked; trained rows come first.
    """
    rows = []
    for r in table.filter(domain=domain).iter_rows(named=True):
        row = {"recommender": r["recommender"], "embedding": r["embedding"], "place": r.get("place", "")}
        for m in metric_names:
            spread = f" ± {r[f'{m} std']:.4f}" if r["seeds"] > 1 else ""
            row[m] = f"{r[f'{m} mean']:.4f}{spread} [{r[f'{m} low']:.4f}, {r[f'{m} high']:.4f}]"
        rows.append(row)
    order = list(dict.fromkeys([*TRAINED, *sorted((row["recommender"] for row in rows), key=is_trained, reverse=True)]))
    return pl.DataFrame(sorted(rows, key=lambda row: order.index(row["recommender"])))


def tabulate_lists(run: Run, names: list[str]) -> pl.DataFrame:
    """Tabulate domain, recommender, embedding, and mean coverage and novelty at each cutoff over seeds,
    where lists were kept."""
    found = [kept.read_record(run, name) for name in names]
    rows = [{k: r[k] for k in OF} | r["lists"] for r in found if r.get("lists")]
    return pl.DataFrame(rows).group_by(*OF, maintain_order=True).agg(pl.exclude(*OF).mean()) if rows else pl.DataFrame()


def place(embedding: str) -> int:
    """Return the place of an embedding in the order of tables and figures."""
    return ORDER.index(embedding) if embedding in ORDER else len(ORDER)


def read_users(run: Run, domain: str) -> np.ndarray:
    """Read the user of each test sample of the domain, in the order of the ranks
    that an evaluation keeps: int64 (n_test,)."""
    return _tested(run, domain)[1]


def _tested(run: Run, domain: str) -> tuple[str, np.ndarray]:
    """The digest of the run's corpus, and the users of the domain's test samples in it."""
    return _read(run.path, tuple(run.manifest("corpus")["files"].items()), domain)


@lru_cache(maxsize=64)
def _read(path: Path, files: tuple[tuple[str, str], ...], domain: str) -> tuple[str, np.ndarray]:
    """Read once: `files` are the corpus's with their hashes, so a corpus made anew is read anew."""
    run = Run(path.name, path.parent)
    part, _ = Corpus.load(run.require("corpus")).select([domain])
    return run.digest("corpus"), part.owners(part.samples("test"))


def _measured(run: Run, name: str, record: dict[str, Any], metric_names: Sequence[str]) -> dict[str, float]:
    """The metrics of an evaluation: those that its record has not, from its ranks."""
    known: dict[str, float] = record["metrics"]
    missing = [m for m in metric_names if m not in known]
    if not missing:
        return known
    ranks = read_ranks(run, record["domain"], name)
    return known | {m: float(metrics.compute_per_sample(ranks, m).mean()) for m in missing}


def _intervals(run: Run, groups: dict[tuple[str, str, str], list[str]], metric_names: list[str]) -> pl.DataFrame:
    """Low and high of each group's metrics: users of a domain are resampled together, for all rows and metrics at once."""
    bounds = np.empty((len(groups), 2, len(metric_names)))
    keys = list(groups)
    for domain in dict.fromkeys(key[0] for key in keys):
        here = [k for k, key in enumerate(keys) if key[0] == domain]
        values = [_per_sample(run, domain, groups[keys[k]], m) for k in here for m in metric_names]
        found = metrics.compute_intervals(np.stack(values, 1), read_users(run, domain), seed=SEED)
        bounds[here] = found.reshape(2, len(here), -1).transpose(1, 0, 2)
    sides = list(enumerate(("low", "high")))
    return pl.DataFrame({f"{m} {side}": bounds[:, at, k] for k, m in enumerate(metric_names) for at, side in sides})


def _per_sample(run: Run, domain: str, names: Sequence[str], metric: str) -> np.ndarray:
    """Each test sample's metric, averaged over the artefacts `names`: float64 (n_test,)."""
    values = [metrics.compute_per_sample(read_ranks(run, domain, name), metric) for name in names]
    means: np.ndarray = np.mean(values, axis=0)
    return means


def read_ranks(run: Run, domain: str, name: str) -> np.ndarray:
    """Read the ranks of an evaluation. Raises ArtefactError as `kept.read`, ValueError where they are of another corpus."""
    _, ranks = kept.read(run, name)
    corpus, users = _tested(run, domain)
    if run.manifest(name)["inputs"].get("corpus", corpus) != corpus or len(ranks) != len(users):
        raise ValueError(f"{name} of {run} was made from another corpus. Run notebooks/04_downstream_eval.ipynb again.")
    return ranks


def read_sample_values(run: Run, domain: str, row: Row, metric: str, seeds: Sequence[int]) -> np.ndarray:
    """Read each test sample's metric in `row`, averaged over `seeds` (a baseline has the one seed 0): float64 (n_test,).

    Raises ValueError as `list_names`, ArtefactError as `kept.read`.
    """
    return _per_sample(run, domain, list_names(run, domain, row, seeds), metric)


def list_names(run: Run, domain: str, row: Row, seeds: Sequence[int]) -> list[str]:
    """List the evaluations of `row` with `seeds` (a baseline has the one seed 0);
    ValueError names one that the run lacks."""
    names = [evaluations.make_name(domain, *row, seed) for seed in (seeds if is_trained(row[0]) else [0])]
    if missing := [name for name in names if not run.has(name)]:
        raise ValueError(
            f"{run} has no {missing[0]}. Run notebooks/04_downstream_eval.ipynb with {row[1]!r} among "
            f"`evaluation_embeddings` and {row[0]!r} among `evaluation_recommenders` or `evaluation_baselines`."
        )
    return names


def compare(
    run: Run, domain: str, pairs: Sequence[tuple[Row, Row]], *, seeds: Sequence[int], metric: str = "ndcg@10"
) -> pl.DataFrame:
    """Test pairs of any two rows (before, after) across users (`metrics.test_pairs`); the frame has a row for each pair.

    The p values are corrected together (Holm); `verdict` is "better", "worse" or "no detectable difference".
    """
    values = {
        row: read_sample_values(run, domain, row, metric, seeds) for row in dict.fromkeys(r for pair in pairs for r in pair)
    }
    before, after = (np.stack([values[pair[side]] for pair in pairs], 1) for side in (0, 1))
    rows: list[dict[str, Any]] = []
    for (a, b), found in zip(pairs, metrics.test_pairs(before, after, read_users(run, domain), seed=SEED), strict=True):
        named = {"recommender": a[0], "before": a[1], "after": b[1]}
        if a[0] != b[0]:
            named = {"recommender": f"{a[0]} / {b[0]}", "before": "-".join(a), "after": "-".join(b)}
        rows.append(named | {"metric": metric, "before mean": values[a].mean(), "after mean": values[b].mean()} | found)
    add_verdicts(rows)
    return pl.DataFrame(rows)


def add_verdicts(tests: list[dict[str, Any]]) -> None:
    """Add to each test `p_holm`, its p corrected over all of `tests` (Holm), and its `verdict`: better, worse or NOTHING."""
    for test, p in zip(tests, metrics.correct_holm([test["p"] for test in tests]), strict=True):
        sure = "better" if test["difference"] > 0 else "worse"
        test |= {"p_holm": p, "verdict": sure if p < LEVEL else NOTHING}


def is_within(row: dict[str, Any]) -> bool:
    """Tell whether a row of `compare` is about two embeddings under one recommender, and not about two recommenders."""
    return " / " not in row["recommender"]


def read_recorded(run: Run, name: str) -> list[dict[str, Any]]:
    """Read the tests that notebook 04 kept as artefact `name`, a dict a row of `compare`, and check them against the ranks.

    Raises ArtefactError where they are others than those.
    """
    made = run.manifest(name)
    rows: list[dict[str, Any]] = made["record"]["rows"]
    settings = made["settings"]
    if "pairs" not in settings:  # nothing says what was compared with what
        return rows
    of = [evaluations.read_manifest(run, i)["record"] for i in made["inputs"]]
    seeds = list(dict.fromkeys(r["seed"] for r in of if is_trained(r["recommender"])))
    pairs = [(tuple(before), tuple(after)) for before, after in settings["pairs"]]
    domain = name.split("/")[1]
    found = compare(run, domain, pairs, seeds=seeds, metric=settings["tested"]).to_dicts() if pairs else []
    if made["record"].get("domain") != domain or len(rows) != len(found) or not all(map(_alike, rows, found)):
        raise ArtefactError(
            f"{run.path_of(name)}.json was changed after it was written, or made otherwise than now: its tests are not those that "
            f"the ranks give. Delete it and run notebooks/04_downstream_eval.ipynb again (run {run.name!r})."
        )
    return rows


def _alike(row: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two rows of `compare` say the same, but for how another machine rounds."""
    if row.keys() != other.keys():
        return False
    pairs = [(row[k], other[k]) for k in row]
    return all(math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12) if isinstance(b, float) else a == b for a, b in pairs)


def judge_standing(
    run: Run, domain: str, rows: Sequence[Row], *, seeds: Sequence[int], metric: str = "ndcg@10"
) -> dict[Row, str]:
    """Judge what may be said of each row's place: "best" only where it is detectably better than every other row.

    The row with the highest mean is tested against all others (Holm). Where some cannot be told from it there is no winner:
    it and they are "tied for best"; all others are "".
    """
    means = {row: read_sample_values(run, domain, row, metric, seeds).mean() for row in rows}
    top = max(rows, key=lambda row: means[row])
    others = [row for row in rows if row != top]
    if not others:
        return {top: "best"}
    found = compare(run, domain, [(row, top) for row in others], seeds=seeds, metric=metric)
    tied = [row for row, verdict in zip(others, found["verdict"], strict=True) if verdict == NOTHING]
    return {
        row: ("tied for best" if tied else "best") if row == top else "tied for best" if row in tied else "" for row in rows
    }


def add_places(run: Run, table: pl.DataFrame, *, seeds: Sequence[int], metric: str = "ndcg@10") -> pl.DataFrame:
    """Add a column `place` to what `tabulate` gives: what `judge_standing` says of the trained rows of each domain and recommender; of others ""."""
    trained = [is_trained(name) for name in table["recommender"]]
    marks: dict[tuple[str, Row], str] = {}
    for (domain, recommender), part in table.filter(trained).group_by("domain", "recommender", maintain_order=True):
        rows = [(recommender, embedding) for embedding in part["embedding"]]
        marks |= {(domain, row): mark for row, mark in judge_standing(run, domain, rows, seeds=seeds, metric=metric).items()}
    keys = table.select("domain", "recommender", "embedding").iter_rows()
    return table.with_columns(pl.Series("place", [marks.get((d, (r, e)), "") for d, r, e in keys], dtype=pl.String))


def pair_stages(settings: Evaluation) -> list[tuple[Row, Row]]:
    """List the pairs (before, after) that tell whether a stage helps, of the embeddings that `settings` evaluate.

    Under each recommender every stage against the one before it, then the last stage against the first, `minilm`, `id` and
    other readings of the untrained backbone, then stages that are read another way, as `csft-last-causal`, each against the
    one before it that is read so, then tables with ids (`csft_add_id`) against ids alone. At the end each recommender against
    `nearest`, the same embeddings without any training.
    """
    stages = [name for name in STAGES if name in settings.embeddings]
    last = stages[-1] if stages else ""
    steps = [*itertools.pairwise(stages)]
    untrained = [f"raw-{reading}" for reading in READINGS] if last != "raw" else []
    steps += [
        (n, last) for n in (*stages[:1], "minilm", "id", *untrained) if last and n in settings.embeddings and n != last
    ]
    for reading in READINGS:
        steps += itertools.pairwise([n for stage in STAGES if (n := f"{stage}-{reading}") in settings.embeddings])
    if "id" in settings.embeddings:
        steps += [("id", name) for name in settings.embeddings if name.endswith(("_add_id", "_concat_id"))]
    pairs = [((r, a), (r, b)) for r in settings.recommenders for a, b in dict.fromkeys(steps)]
    if last and "nearest" in settings.baselines:
        pairs += [(("nearest", last), (recommender, last)) for recommender in settings.recommenders]
    return pairs
