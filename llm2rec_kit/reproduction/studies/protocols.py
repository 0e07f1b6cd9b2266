"""The protocol of notebook 06: by what all of the paper's tables are measured here, and our rows and tests beside the printed ones.

One run, one metric that is tested, one list of seeds. A table of results has a row an item table, a test a row a pair of them; each
stands a domain at a time, since a domain is a data set of its own, and in- or out-of-domain as the paper calls it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import polars as pl

from llm2rec_kit import paper, pipeline
from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.figures import styled_tables
from llm2rec_kit.reproduction.studies import answers, directions, experiments, printed_gaps
from llm2rec_kit.reproduction.studies.paper_arms import Arm, Backbones, Cells
from llm2rec_kit.reproduction.studies.study import Study
from llm2rec_kit.results import significance
from llm2rec_kit.results.significance import Row
from llm2rec_kit.runs import Run

WARM_UP = 64  # texts that an encoder reads before it is timed


@dataclass(frozen=True)
class Protocol:
    """What a study's results are measured by; `asked` says with which recommenders and seeds."""

    study: Study
    asked: S.Tables

    @cached_property
    def corpus(self) -> Corpus:
        """The study's corpus."""
        return self.study.corpus

    @property
    def metric(self) -> str:
        """What is tested: the run's own `evaluation_tested`."""
        return self._evaluation.tested

    @property
    def metrics(self) -> list[str]:
        """What a table shows: recall and NDCG at the run's cutoffs, then what the paper prints, then what is tested."""
        return list(dict.fromkeys([*self._evaluated, *paper.METRICS, self.metric]))

    @property
    def computed(self) -> list[str]:
        """Metrics that the paper prints and the run was not evaluated by: they are computed from the ranks that it kept."""
        return [m for m in paper.METRICS if m not in self._evaluated]

    @property
    def _evaluation(self) -> S.Evaluation:
        return S.Evaluation.among(self.study.settings)

    @property
    def _evaluated(self) -> list[str]:
        return [f"{m}@{k}" for k in self._evaluation.cutoffs for m in ("recall", "ndcg")]

    @property
    def printed(self) -> str:
        """What the paper's own tables are shown in: the tested metric where Table 4 prints it, else NDCG@10."""
        return self.metric if self.metric in paper.read_ablation().columns else "ndcg@10"

    @property
    def columns(self) -> list[str]:
        """The columns of `significance.tabulate` with the mean and the std over seeds of each of `metrics`."""
        return [f"{m} {kind}" for kind in ("mean", "std") for m in self.metrics]

    @property
    def kinds(self) -> dict[str, str]:
        """{domain: in-domain, where CSFT saw it, or out-of-domain}."""
        seen = self.corpus.train_domains
        return {d: "in-domain" if d in seen else "out-of-domain" for d in self.corpus.domains}

    @cached_property
    def datasets(self) -> dict[str, str | None]:
        """{domain: the data set of the paper that it is, or None}."""
        return {d: printed_gaps.find_dataset(self.corpus, d) for d in self.corpus.domains}

    @cached_property
    def samples(self) -> dict[str, np.ndarray]:
        """{domain: the user of each test sample}."""
        return {d: significance.read_users(self.study.run, d) for d in self.corpus.domains}

    @cached_property
    def users(self) -> dict[str, int]:
        """{domain: its test users, the n of its tests}."""
        return {d: len(np.unique(whose)) for d, whose in self.samples.items()}

    @property
    def budget(self) -> str:
        """The steps behind the weights of the run's trainings, as words."""
        planned = {name: cast(S.Training, self.study.settings[name]).steps for name in pipeline.STARTS}
        return ", ".join(f"{name} {answers.count_steps(self.study.run, name, n):,}" for name, n in planned.items())

    @property
    def summary(self) -> str:
        """Data, backbone and budget in a line, and one more where no absolute value is comparable with the paper's."""
        backbone = S.Backbone.among(self.study.settings).name
        said = (
            f"{self.corpus.facts['source']} data, backbone {backbone}; steps: {self.budget}; recommenders: at most "
            f"{self._evaluation.epochs} epochs, seeds {self.asked.seeds}"
        )
        if any(self.datasets.values()):
            return said
        return (
            f"{said}\nNo domain is one of the paper's data sets (by name and number of items): absolute values are not "
            "comparable with the paper's, directions are."
        )

    @property
    def domains(self) -> pl.DataFrame:
        """What is tested: a row a domain."""
        rows = [
            {"domain": d, "CSFT": kind, "test users (n)": self.users[d], "test samples": len(self.samples[d])}
            | {"data set of the paper": self.datasets[d] or "none"}
            for d, kind in self.kinds.items()
        ]
        return pl.DataFrame(rows)

    def evaluate(self, labels: Sequence[Mapping[str, str]], recommenders: Sequence[str]) -> pl.DataFrame:
        """Train `recommenders` over the item tables of `labels`, as far as the study has not, and show what they reach, a table a domain.

        Each metric is mean ± std over seeds with its 95% interval over users; a row's place among those of its recommender is by
        paired tests. `labels` name an item table each, as `embedding`, and what is to stand beside it, in the order of the rows.
        Returns `significance.tabulate` with intervals.
        """
        told = pl.DataFrame(labels)
        tables, seeds = told["embedding"].to_list(), self.asked.seeds
        names = experiments.evaluate(self.study, tables, recommenders=recommenders, seeds=seeds)
        results = significance.tabulate(self.study.run, names, metric_names=self.metrics, intervals=True)
        placed = significance.add_places(self.study.run, results, seeds=seeds, metric=self.metric)
        order = [pl.col(name).cast(pl.Enum(of)) for name, of in (("recommender", recommenders), ("embedding", tables))]
        shown = {}
        for d, kind in self.kinds.items():
            rows = significance.make_readable(placed, d, self.metrics).sort(order)
            rows = rows.join(told, on="embedding", maintain_order="left")
            title = f"{d} ({kind}): n = {self.users[d]:,} test users, seeds {seeds}; best by {self.metric}"
            shown[title] = rows.select("recommender", *told.columns, "place", *self.metrics)
        styled_tables.show_each(shown)
        return results

    def show_tests(
        self,
        table: str,
        pairs: Sequence[tuple[Row, Row]],
        names: Mapping[str, str],
        *,
        domains: Sequence[str] = (),
        kind: str = "",
        metric: str = "",
        run: Run | None = None,
        of: str = "",
    ) -> list[pl.DataFrame]:
        """Show paired tests of `pairs` (before, after) in each domain, or in `domains`, each beside what the paper prints of it.

        `names` are what the paper's `table` calls our embeddings. They are tested by `metric` (the run's, unless given), in `run`
        (the study's, unless given), of which `of` is what a reader calls it; `kind` is in- or out-of-domain where the table means
        another than CSFT's domains. A domain's p are corrected together (Holm). Returns those tests that the paper prints, a frame
        a domain, with the table, the domain and its n in front.
        """
        shown, found = {}, []
        for d in domains or self.corpus.domains:
            verdicts = significance.compare(
                run or self.study.run, d, pairs, seeds=self.asked.seeds, metric=metric or self.metric
            )
            side = kind or self.kinds[d]
            rows = directions.put_beside_paper(verdicts, table, side, names)
            title = f"{d} ({side}){of and f', {of}'}: n = {self.users[d]:,} users; tests corrected together: {len(pairs)}"
            shown[title] = rows.drop("p", "effect")
            called = f"{table}{of and f', {of}'}{f' ({side})' if side != self.kinds[d] else ''}"
            where = {"table": called, "domain": f"{d} ({self.kinds[d]})", "n": self.users[d]}
            front = [pl.lit(value).alias(name) for name, value in where.items()]
            found.append(rows.drop_nulls("agreement").select(*front, pl.all()))
        styled_tables.show_each(shown)
        return found

    def average_cells(self, results: pl.DataFrame, cells: Cells) -> pl.DataFrame:
        """Take Table 4 apart: the tested metric's mean in each cell, a row a domain and stage, a column "pooling-attention"."""
        mean = {(r["domain"], r["embedding"]): r[f"{self.metric} mean"] for r in results.iter_rows(named=True)}
        rows = [
            {"domain": d, "stage": stage} | {f"{p}-{a}": mean[d, name] for (s, p, a), name in cells.items() if s == stage}
            for d in self.corpus.domains
            for stage in dict.fromkeys(stage for stage, _, _ in cells)
        ]
        return pl.DataFrame(rows)

    def tabulate_backbones(self, trained: Backbones, metric: str = "recall@10") -> pl.DataFrame:
        """Tabulate Figure 4: domain, backbone, parameters, model (as the paper calls the embedding), `metric`, low, high, seeds, embedding."""
        rows = []
        for label, (one, names) in trained.items():
            size = one.run.record("backbone")["parameters"]
            for row in significance.tabulate(one.run, names, metric_names=[metric], intervals=True).iter_rows(named=True):
                told = {"domain": row["domain"], "backbone": label, "parameters": size}
                told["model"] = directions.UNTRAINED.get(row["embedding"], row["embedding"])
                told |= {metric: row[f"{metric} mean"], "low": row[f"{metric} low"], "high": row[f"{metric} high"]}
                rows.append(told | {"seeds": row["seeds"], "embedding": row["embedding"]})
        return pl.DataFrame(rows)

    def time_encoders(self, arms: Sequence[Arm], results: pl.DataFrame, metric: str = "recall@10") -> pl.DataFrame:
        """Time Figure 5's encoders: seconds in which each arm's encoder reads the whole catalogue, once, and what its embeddings reach.

        `metric` is that of the first recommender on the first domain, in `results` (`evaluate`).
        """
        rows = []
        for arm in arms:
            how = dict(arm.how)
            texts = pipeline.read_texts(self.corpus, how.pop("text", "title"))
            encoder = experiments.load_encoder(self.study, arm.encoder, **how)
            encoder.encode(texts[:WARM_UP])
            start = time.perf_counter()
            encoder.encode(texts)
            seconds = time.perf_counter() - start
            row = {"domain": self.corpus.domains[0], "recommender": self.asked.recommenders[0], "embedding": arm.table}
            reached = results.filter(**row)[f"{metric} mean"][0]
            speed = {"seconds": seconds, "items": len(texts), "items a second": len(texts) / seconds}
            rows.append({"model": f"{arm.model} ({arm.table})"} | speed | {metric: reached})
        return pl.DataFrame(rows)
