"""How the evaluations of a run are made: recommenders trained, rankings of what trains nothing, and paired tests of both.

The last step of `pipeline`. Notebook 04 makes all of it, studies and grids the trainings.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus, Parts
from llm2rec_kit.pipeline import Recipe
from llm2rec_kit.runs import ArtefactError, Run
from llm2rec_kit.settings.evaluation import match_settings

if TYPE_CHECKING:
    import polars as pl

    from llm2rec_kit.downstream.evaluation import Job
    from llm2rec_kit.downstream.ranking import Ranking
    from llm2rec_kit.results.significance import Row


def evaluate(
    run: Run,
    jobs: Sequence[Job],
    settings: S.Evaluation,
    *,
    base: Run | None = None,
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Train and keep the recommenders of `jobs`, but for those that the run has, or `base` has made the very same way.

    A setting that a recommender does not read may be another. Without a `base`, as in notebook 04, which reads the first
    seed's weights, one of that seed has its weights too.
    """
    from llm2rec_kit.downstream import baselines, evaluation, item_table
    from llm2rec_kit.results import weights

    def find_key(job: Job, holder: Run) -> dict[str, Any]:
        key = evaluation.list_settings(settings, job.recommender)
        with contextlib.suppress(ArtefactError):
            key = match_settings(key, holder.manifest(job.name)["settings"], job.recommender)
        return {"settings": key, "inputs": job.inputs}

    def reused(job: Job) -> bool:
        taken = base is not None and not force and run.reuse_from(base, job.name, **find_key(job, base))
        if not taken and run.stale(job.name, **find_key(job, run), force=force):
            return False
        read_back = base is None and job.seed == settings.seeds[0]  # it was a later seed in an earlier call, perhaps
        return not read_back or weights.has_file(run, job.name)

    todo = [job for job in jobs if not reused(job)]
    counts = f"{len(jobs) - len(todo)} reused"
    if quiet:
        print(f"{run.name}: {len(todo)} recommenders to train, {counts}", flush=True)
    else:
        on = " ".join(evaluation.choose_device(settings))
        print(f"evaluation: {len(todo)} trainings to do, {counts}; on {on}", flush=True)
    if not todo:
        return
    corpus = Corpus.load(run.require("corpus"))
    parts = {domain: corpus.select([domain]) for domain in dict.fromkeys(job.domain for job in todo)}
    seen = {domain: baselines.count_training(part) for domain, (part, _) in parts.items()}
    tables = item_table.read_table(run, list(dict.fromkeys(job.table for job in todo if job.table)))
    for job, result in evaluation.train_many(todo, parts, tables, settings):
        evaluation.keep_result(run, job, result, settings, seen[job.domain])
        if not quiet:
            best = max(value for _, value in result.curve)
            trained = f"best of {len(result.losses)} epochs: {result.best_epoch}, {result.seconds:.0f} s"
            print(f"  {job.name}: {settings.metric} on validation {best:.4f}, {trained}", flush=True)


def rank_untrained(
    name: str,
    domain: str,
    ranking: Callable[[], Ranking],
    counts: np.ndarray,
    settings: S.Evaluation,
    *,
    table: str = "",
) -> Recipe:
    """Return the recipe of a ranking that nothing is trained for, a baseline's or the oracle's, over `table` if it needs
    one. `counts` (N,) is how often each item occurs in training."""
    from llm2rec_kit.downstream import baselines, evaluation
    from llm2rec_kit.results.evaluations import make_name

    facts: dict[str, Any] = {"domain": domain, "recommender": name, "embedding": table or "none", "seed": 0}
    artefact, cutoffs = make_name(**facts), settings.cutoffs

    def build(folder: Path) -> dict[str, Any]:
        stem = artefact.split("/")[-1]
        return evaluation.write_ranking(ranking(), folder, stem, facts=facts, cutoffs=cutoffs, counts=counts)

    key = baselines.list_settings(name, **_ranked_as(settings)) | _learned_from(name, settings)
    return Recipe(artefact, build, key, ["corpus", *([f"embeddings/{table}"] if table else [])])


def _ranked_as(settings: S.Evaluation) -> dict[str, Any]:
    """How baselines rank, as `baselines.rank` and `baselines.list_settings` take it."""
    return {name: getattr(settings, name) for name in ("exclude", "cutoffs", "ties")}


def _learned_from(name: str, settings: S.Evaluation) -> dict[str, Any]:
    """From whose samples a baseline learned, where that is not everyone's; one that reads titles alone learns from nobody's."""
    from llm2rec_kit.downstream import baselines

    if settings.user_share == 1 or name in (*baselines.BY_TITLES, "oracle"):
        return {}
    return {"user_share": settings.user_share, "drawn_by": settings.seeds[0]}


def rank_baselines(
    run: Run, parts: Parts, tables: Mapping[str, np.ndarray], settings: S.Evaluation, *, force: bool = False
) -> list[str]:
    """Rank by each baseline of `settings` in each domain, and over each of `tables` where it is one over embeddings.

    They learn from the users that the first seed's recommenders learn from. Returns the evaluations' names. `recent` is left
    out, and that told, where the corpus has no times.
    """
    from llm2rec_kit.downstream import baselines

    def ranking(name: str, part: Corpus, vectors: np.ndarray | None, ids: np.ndarray) -> Ranking:
        given = None if vectors is None else vectors[ids]  # a copy, for as long as it is ranked by
        part = part.draw_users(settings.user_share, settings.seeds[0])
        return baselines.rank(name, part, given, **_ranked_as(settings))

    recipes = []
    for domain, (part, ids) in parts.items():
        counts = baselines.count_training(part)
        for name in settings.baselines:
            if name == "recent" and part.times is None:
                print(f"{domain}: no recent popularity, the source has no timestamps")
                continue
            over = tables if baselines.needs_embeddings(name) else {"": None}
            for table, vectors in over.items():
                by = partial(ranking, name, part, vectors, ids)
                recipes.append(rank_untrained(name, domain, by, counts, settings, table=table))
    return _made(run, recipes, force)


def rank_oracle(run: Run, parts: Parts, settings: S.Evaluation, *, force: bool = False) -> list[str]:
    """Rank by the probabilities that the synthetic store was drawn from, the best that any model could do. Returns the
    evaluations' names. The store is made again from the corpus's settings."""
    from llm2rec_kit.data.sources import synthetic
    from llm2rec_kit.downstream import baselines
    from llm2rec_kit.downstream.ranking import Ranking

    def ranking(part: Corpus) -> Ranking:
        return Ranking(synthetic.oracle_ranks(part, data), np.empty((0, part.n_items), dtype=np.int32))

    made = run.manifest("corpus")["settings"]
    data = S.Data(**{name: value for name, value in made.items() if name != "files"})
    recipes = []
    for domain, (part, _) in parts.items():
        counts = baselines.count_training(part)
        recipes.append(rank_untrained("oracle", domain, partial(ranking, part), counts, settings))
    return _made(run, recipes, force)


def _made(run: Run, recipes: Sequence[Recipe], force: bool) -> list[str]:
    for recipe in recipes:
        recipe.make(run, force=force, quiet=True)
    return [recipe.name for recipe in recipes]


def compare_pairs(
    run: Run,
    domains: Sequence[str],
    pairs: Sequence[tuple[Row, Row]],
    settings: S.Evaluation,
    trained: Sequence[str],
    untrained: Sequence[str] = (),
    *,
    force: bool = False,
) -> dict[str, pl.DataFrame]:
    """Keep the paired tests (`significance.compare`) of `pairs` in each domain; returns {domain: tests}. From here on the
    evaluations `trained` and `untrained`, by name, and these tests count alone (`evaluations.note_series`)."""
    from llm2rec_kit.downstream import evaluation
    from llm2rec_kit.results import evaluations, significance

    tests = {domain: f"evaluation/{domain}/comparisons" for domain in domains if pairs}
    key = {"pairs": [[list(row) for row in pair] for pair in pairs], "tested": settings.tested}
    found = {}
    for domain, name in tests.items():
        found[domain] = significance.compare(run, domain, pairs, seeds=settings.seeds, metric=settings.tested)
        inputs = [n for n in (*trained, *untrained) if n.startswith(f"evaluation/{domain}/")]
        Recipe(name, partial(_write_tests, found[domain], domain), key, inputs).make(run, force=force)
    noted = [*trained, *tests.values()]
    place, beside = ({n: getattr(settings, n) for n in names} for names in (evaluations.PLACE, evaluations.BESIDE))
    kept = {"place": place, "beside": beside}
    evaluations.note_series(run, evaluation.list_settings(settings), settings.seeds, noted, untrained, **kept)
    return found


def _write_tests(tests: pl.DataFrame, domain: str, folder: Path) -> dict[str, Any]:
    tests.write_parquet(folder / "comparisons.parquet")
    return {"domain": domain, "rows": tests.to_dicts()}
