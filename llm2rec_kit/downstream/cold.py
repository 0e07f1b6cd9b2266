"""Cold items: what a recommender makes of items that its training never saw, with text and without.

Where the split has few of them, some are held out: drawn by seed and taken out of the corpus altogether, so that no history,
no label and no class of the softmax has them, while the recommender is trained. Then they come back into the catalogue, each
with the row that its embedding has behind the adapter (over ids: the row that training would have started from), and every
interaction with one, of whatever split, is a test sample, as in studies of the item cold start (DropoutNet, NeurIPS 2017).

What is held out of the recommender is not held out of the encoder: `describe_encoder` says what that was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from llm2rec_kit import geometry
from llm2rec_kit.corpus import TEST, Corpus, Parts
from llm2rec_kit.downstream import baselines, evaluation, item_table, ranking, samples
from llm2rec_kit.results import metrics, significance
from llm2rec_kit.runs import ArtefactError, Run
from llm2rec_kit.runs.errors import advise
from llm2rec_kit.settings import Evaluation

PARTS = ("cold", "known")  # of the samples: what is asked for was held out, or not
Tables = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Held:
    """A domain's corpus with items held out.

    items   int64, ids of the held out in `corpus`.
    warm    the corpus without them; `ids` int64 (n + 1,) are those of its items in `corpus`.
    asked   {"cold": targets of every sample whose target is held out, "known": those of the other test samples}, int64.
    """

    corpus: Corpus
    items: np.ndarray
    warm: Corpus
    ids: np.ndarray
    asked: dict[str, np.ndarray]

    @property
    def counted(self) -> str:
        """How many items are held out, and how many purchases of them are asked for."""
        return f"{len(self.items)} of {self.corpus.n_items} items held out, {len(self.asked['cold'])} purchases of them"


def mark_untrained(corpus: Corpus) -> np.ndarray:
    """Mark the items that are in no training sample, neither as target nor in the history: bool (N + 1,), padding False."""
    seen = np.zeros(corpus.n_items + 1, dtype=bool)
    seen[corpus.sequence[baselines.mark_windows(corpus)]] = True
    seen[0] = True
    return ~seen


def count_cold_items(parts: Parts) -> pl.DataFrame:
    """Count the items of each domain that training never saw as the split is, and the test samples that ask for one."""
    rows = []
    for domain, (part, _) in parts.items():
        unseen, targets = mark_untrained(part), part.sequence[part.samples("test")]
        items = {"domain": domain, "items": part.n_items, "in no training sample": int(unseen.sum())}
        rows.append(items | {"test samples": len(targets), "asking for such an item": int(unseen[targets].sum())})
    return pl.DataFrame(rows)


def hold_out(corpus: Corpus, share: float, seed: int) -> Held:
    """Hold `share` of the items out of `corpus`, one at least, drawn by `seed` among those that some sample asks for."""
    asked_for = np.unique(corpus.sequence[corpus.targets])
    count = min(max(1, round(share * corpus.n_items)), len(asked_for))
    held = np.sort(np.random.default_rng(seed).permutation(asked_for)[:count]).astype(np.int64)
    warm, ids = drop_items(corpus, held)
    test = corpus.samples("test")
    cold = np.sort(corpus.targets[np.isin(corpus.sequence[corpus.targets], held)])
    return Held(corpus, held, warm, ids, {"cold": cold, "known": test[~np.isin(corpus.sequence[test], held)]})


def hold_out_each(parts: Parts, settings: Evaluation) -> dict[str, Held]:
    """Hold items out (`hold_out`) in each domain, `settings.cold` of its items drawn by the first seed; {} where that is 0."""
    return {d: hold_out(part, settings.cold, settings.seeds[0]) for d, (part, _) in parts.items() if settings.cold}


def drop_items(corpus: Corpus, held: np.ndarray) -> tuple[Corpus, np.ndarray]:
    """Drop the items `held` as if they had never been there;
    return that corpus, its items renumbered 1..n, and their ids here: int64 (n + 1,).

    A sample whose target is gone, or nothing of whose history is left, is gone; windows reach further back in its place.
    """
    stays = np.ones(corpus.n_items + 1, dtype=bool)
    stays[held] = False
    ids = np.flatnonzero(stays)  # 0 stays, and is padding
    new_id = np.zeros(corpus.n_items + 1, dtype=np.int32)
    new_id[ids] = np.arange(len(ids))
    kept = stays[corpus.sequence]
    before = np.concatenate([[0], np.cumsum(kept)])  # how many interactions are left before each
    offsets = before[corpus.offsets]
    alive = kept[corpus.targets] & (before[corpus.targets] > offsets[corpus.owners(corpus.targets)])
    return replace(
        corpus,
        items=corpus.items.filter(stays[1:]).with_columns(item=pl.int_range(1, len(ids), dtype=pl.Int32)),
        offsets=offsets.astype(np.int64),
        sequence=new_id[corpus.sequence[kept]],
        times=None if corpus.times is None else corpus.times[kept],
        targets=before[corpus.targets[alive]].astype(np.int64),
        splits=corpus.splits[alive],
    ), ids


def make_cold(
    run: Run, held: dict[str, Held], parts: Parts, tables: Tables, settings: Evaluation, *, force: bool = False
) -> list[evaluation.Job]:
    """Train the first recommender with the first seed over every table of the settings, without the held items, and keep in
    `run` how it ranks both parts of the samples among the whole catalogue; what is kept already is reused. Returns the
    jobs."""
    if not held:
        return []
    names = [(domain, name) for domain in held for name in settings.embeddings]
    jobs = [evaluation.Job(domain, settings.recommenders[0], name, settings.seeds[0]) for domain, name in names]
    key = evaluation.list_settings(settings, settings.recommenders[0]) | {"cold": settings.cold}
    todo = [job for job in jobs if run.stale(name_of(job), settings=key, inputs=job.inputs, force=force)]
    print(f"cold items: {len(todo)} trainings to do, {len(jobs) - len(todo)} reused", flush=True)
    warm = {domain: (h.warm, parts[domain][1][h.ids]) for domain, h in held.items()}
    # A list cannot be longer than the catalogue that is trained on; what is kept is ranked among all of it, below.
    left = min(h.warm.n_items for h in held.values())
    shorter = replace(settings, cutoffs=list(dict.fromkeys(min(k, left) for k in settings.cutoffs)))
    for job, result in evaluation.train_many(todo, warm, tables, shorter):
        vectors = tables[job.table][parts[job.domain][1]] if job.table else None
        ranks = rank_cold(held[job.domain], result, vectors, settings, job.embedding)
        _keep(run, job, held[job.domain], ranks, key, result.cost)
    return jobs


def name_of(job: evaluation.Job) -> str:
    """Name the artefact of a training without the held items; it is no evaluation as the others
    (`evaluations.find_evaluations`)."""
    return f"evaluation/{job.domain}/cold-{job.recommender}-{job.embedding}-seed{job.seed}"


def _keep(
    run: Run, job: evaluation.Job, held: Held, ranks: dict[str, np.ndarray], key: dict[str, Any], cost: dict[str, Any]
) -> None:
    stem = name_of(job).split("/")[-1]

    def build(folder: Path) -> dict[str, Any]:
        for part, values in ranks.items():
            np.save(folder / f"{stem}-{part}.npy", values)
        named = {"domain": job.domain, "recommender": job.recommender, "embedding": job.embedding, "seed": job.seed}
        counts = {"held_out": len(held.items), **{f"samples_{part}": len(values) for part, values in ranks.items()}}
        return named | counts | {part: metrics.summarise(values, key["cutoffs"]) for part, values in ranks.items()}

    run.make(name_of(job), build, settings=key, inputs=job.inputs, force=True, quiet=True, spent=cost)


@torch.no_grad()
def rank_cold(
    held: Held, result: evaluation.Result, vectors: np.ndarray | None, settings: Evaluation, embedding: str
) -> dict[str, np.ndarray]:
    """Rank the targets of each part among the whole catalogue by a recommender trained on `held.warm`: {part: int32 ranks}.

    `vectors` (N + 1, dim) are the whole catalogue's embeddings. `result` carries the weights.
    """
    kind, warm = item_table.parse_name(embedding)[1], held.warm
    known = None if vectors is None else vectors[held.ids]
    both = evaluation.make_model_and_table(result.recommender, warm.n_items, warm.max_history, known, settings, kind)
    assert result.weights is not None  # as the first seed's has them
    both.load_state_dict({name: torch.from_numpy(value) for name, value in result.weights.items()})
    both.eval()
    table = torch.empty(held.corpus.n_items + 1, settings.hidden)
    table[torch.from_numpy(held.ids)] = both.table()
    table[torch.from_numpy(held.items)] = _rows(both.table, held, vectors, settings, result.seed)
    out = {}
    for part, targets in held.asked.items():
        rows = samples.make_rows(held.corpus, targets, shared=False)
        barred = ranking.find_excluded(held.corpus, targets, settings.exclude)
        out[part] = ranking.rank_rows(both[0], table, rows, exclude=barred, ties=settings.ties).ranks
    return out


def _rows(
    table: item_table.ItemTable, held: Held, vectors: np.ndarray | None, settings: Evaluation, seed: int
) -> torch.Tensor:
    """Rows (m, hidden) of the held items: behind the adapter, or, over ids alone, as training would have started from."""
    if vectors is None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            fresh = item_table.ItemTable(held.corpus.n_items, settings.hidden, initialisation=settings.initialisation)
        rows: torch.Tensor = fresh()
        return rows[torch.from_numpy(held.items)]
    new = np.asarray(vectors[held.items], dtype=np.float32)
    catalogue = vectors[held.ids[1:]]
    return table.rows(geometry.normalise_rows(new, catalogue, settings.normalise, settings.scale))


def describe_encoder(run: Run, corpus: Corpus, domain: str, embedding: str) -> str:
    """Say in a phrase what the encoder under a table learned of the held items of `domain`,
    since only the recommender's training leaves them out."""
    stage = item_table.parse_name(embedding)[0]
    if stage is None:
        return "no encoder"
    how = run.record(f"embeddings/{stage}")
    if how.get("encoder") not in ("csft", "mntp", "contrastive"):
        from_nothing = run.has("backbone") and run.record("backbone").get("from_nothing")
        if how.get("encoder") == "backbone" and from_nothing and domain in corpus.train_domains:
            return "titles (its tokenizer)"
        return "not known" if how.get("stage") == "own" else "nothing"
    if domain not in corpus.train_domains:
        return "nothing"
    return "purchases" if how["encoder"] == "csft" else "purchases and titles"


def tabulate(
    run: Run, corpus: Corpus, held: Held, jobs: Sequence[evaluation.Job], vectors: Tables, settings: Evaluation
) -> pl.DataFrame:
    """Tabulate one domain's results: recommender, embedding, encoder saw, recall on cold targets with its 95% interval, on
    known ones, and against ids the paired difference on cold ones (`settings.tested`), p corrected (Holm) and verdict.

    `vectors` are {stage: (N + 1, dim)} of the domain. Intervals and tests are across the held items, which are what was
    drawn: they say what other items would show. Rows of baselines that read titles alone and of chance stand below the trained.
    """
    cutoff = settings.cutoffs[0]
    items = held.corpus.sequence[held.asked["cold"]]
    ranks = {(job.recommender, job.embedding): {part: read_cold(run, job, part) for part in PARTS} for job in jobs}
    ranks |= _untrained(held, vectors, settings)
    recall = {row: metrics.compute_per_sample(found["cold"], f"recall@{cutoff}") for row, found in ranks.items()}
    bounds = metrics.compute_intervals(np.stack([*recall.values()], 1), items, seed=settings.seeds[0])
    domain, against = jobs[0].domain, (jobs[0].recommender, "id")
    rows = []
    for k, (row, found) in enumerate(ranks.items()):
        known = metrics.compute_per_sample(found["known"], f"recall@{cutoff}").mean() if "known" in found else None
        saw = "no encoder" if row[1] == "none" else describe_encoder(run, corpus, domain, row[1])
        named = {"recommender": row[0], "embedding": row[1], "encoder saw": saw}
        bound = {"low": bounds[0, k], "high": bounds[1, k]}
        rows.append(named | {f"cold recall@{cutoff}": recall[row].mean()} | bound | {f"known recall@{cutoff}": known})
    tests = _tests(ranks, against, items, settings) if against in ranks else {}
    rows = [row | tests.get((row["recommender"], row["embedding"]), dict.fromkeys(TESTED)) for row in rows]
    chance = {"recommender": "chance", "embedding": "none", f"cold recall@{cutoff}": cutoff / held.corpus.n_items}
    return pl.DataFrame([*rows, chance], infer_schema_length=None)


def evaluate(
    run: Run,
    corpus: Corpus,
    held: dict[str, Held],
    parts: Parts,
    tables: Tables,
    settings: Evaluation,
    *,
    force: bool = False,
) -> dict[str, pl.DataFrame]:
    """Train without the held items (`make_cold`), and tabulate each domain in which items are held out."""
    made = make_cold(run, held, parts, tables, settings, force=force)
    found = {}
    for domain, out in held.items():
        vectors = {name: table[parts[domain][1]] for name, table in tables.items()}
        found[domain] = tabulate(run, corpus, out, [job for job in made if job.domain == domain], vectors, settings)
    return found


TESTED = ("against id", "p_holm", "verdict")


def _tests(
    ranks: dict[significance.Row, dict[str, np.ndarray]], against: significance.Row, items: np.ndarray, settings: Evaluation
) -> dict[significance.Row, dict[str, Any]]:
    """The paired tests of every row against ids on cold targets, across items."""
    values = {row: metrics.compute_per_sample(found["cold"], settings.tested) for row, found in ranks.items()}
    rows = [row for row in ranks if row != against]
    if not rows:
        return {}
    before, after = np.stack([values[against]] * len(rows), 1), np.stack([values[row] for row in rows], 1)
    found = metrics.test_pairs(before, after, items, seed=settings.seeds[0])
    significance.add_verdicts(found)
    told = ([test[name] for name in ("difference", "p_holm", "verdict")] for test in found)
    return {row: dict(zip(TESTED, numbers, strict=True)) for row, numbers in zip(rows, told, strict=True)}


def read_cold(run: Run, job: evaluation.Job, part: str) -> np.ndarray:
    """Read the ranks that `make_cold` kept of a part of the samples: int32 (n,). ArtefactError as `Run.file`."""
    name = name_of(job)
    file = run.file(name, f"{name.split('/')[-1]}-{part}.npy")
    if file is None:
        raise ArtefactError(f"{run.path_of(name)}.json names no ranks of {part} items. {advise(run, name)}")
    ranks: np.ndarray = np.load(file)
    return ranks


def _untrained(held: Held, vectors: Tables, settings: Evaluation) -> dict[significance.Row, dict[str, np.ndarray]]:
    """Ranks of the cold targets by the baselines that need titles alone."""
    cold = held.asked["cold"]
    asking = replace(held.corpus, targets=cold, splits=np.full(len(cold), TEST, dtype=np.uint8))
    out = {}
    for name in (name for name in baselines.BY_TITLES if name in settings.baselines):
        over = vectors if name in baselines.OVER_EMBEDDINGS else {"none": None}
        for stage, table in over.items():
            found = baselines.rank(name, asking, table, exclude=settings.exclude, ties=settings.ties)
            out[name, stage] = {"cold": found.ranks}
    return out
