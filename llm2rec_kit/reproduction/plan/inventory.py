"""Inventory: the artefacts that the notebooks 02 to 04, 06 and 07 make with given parameters, each under who needs it first.

What is here repeats the notebooks' calls in their order, over a `rehearsal` that writes artefacts down instead of making them.
tests/reproduction/test_inventory.py holds it against what a finished run has, name by name.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from llm2rec_kit import settings as S
from llm2rec_kit.corpus import attribute_columns
from llm2rec_kit.encoding import minilm
from llm2rec_kit.pipeline import RAW, STARTS, TABLES
from llm2rec_kit.reproduction.plan import rehearsal
from llm2rec_kit.reproduction.plan.rehearsal import Artefact, Study, embed, evaluate, open_study, take_table, train
from llm2rec_kit.reproduction.plan.sizes import Sizes
from llm2rec_kit.reproduction.studies import printed_gaps, starts
from llm2rec_kit.reproduction.studies.study import CHANGEABLE, backbone_changes


@dataclass(frozen=True)
class Inventory:
    """All artefacts, each once, and the run and its studies by name with what each holds."""

    artefacts: list[Artefact]
    studies: dict[str, Study]


def of(values: dict[str, Any], sizes: Sizes, numbers: Collection[str]) -> Inventory:
    """What a run makes with these (checked) parameters; of 06 and 07 where they are among the notebooks' `numbers`."""
    settings = {s.prefix: s.from_parameters(values) for s in S.STAGES if s.prefix in CHANGEABLE}
    run = rehearsal.begin(settings, [d.name for d in sizes.domains])
    _of_run(run)
    studies = [run]
    if "06" in numbers:
        studies += _Tables(run, S.Tables.from_parameters(values), sizes).all()
    if "07" in numbers:
        studies += _Questions(run, S.Questions.from_parameters(values), sizes).all()
    return Inventory(list(run.made.artefacts.values()), {study.name: study for study in studies})


def _of_run(run: Study) -> None:
    """The notebooks 02 to 04."""
    for (stage, start), number in zip(STARTS.items(), ("02", "03", "03"), strict=True):
        run.made.section = (number, stage)
        train(run, stage, start)
    run.made.section = ("03", "encoding")
    for table, start in TABLES.items():
        embed(run, start, table)
    _further_tables(run)
    run.made.section = ("04", "evaluation")
    asked = run.settings["evaluation"]
    if any(name.startswith(minilm.NAME) for name in asked.embeddings):
        embed(run, minilm.MODEL, minilm.NAME)
    evaluate(run, asked.embeddings, recommenders=asked.recommenders, seeds=asked.seeds)


def _further_tables(run: Study) -> None:
    """The tables of notebook 03 that are asked for by name."""
    encoding = run.settings["encoding"]
    for name in encoding.variants:
        from llm2rec_kit.encoding.encoder import variant

        stage, how = variant(name, encoding)
        embed(run, TABLES.get(stage, stage), name, pooling=how.pooling, attention=how.attention)
    for encoder, table in encoding.tables.items():
        embed(run, encoder, table, normalise="unit")
    for table in encoding.own_files:  # read off a file: nothing to reckon with
        run.holds[f"embeddings/{table}"] = run.holds[f"embeddings/{RAW}"]


def _as_in_the_run(study: Study) -> None:
    """The run's stages and their tables in a study; made there only where the study differs before them."""
    for name, start in STARTS.items():
        train(study, name, start)
    for table, start in TABLES.items():
        embed(study, start, table)


@dataclass(frozen=True)
class _Tables:
    """Notebook 06: `all` are its studies, after all calls of its sections."""

    run: Study
    asked: S.Tables
    sizes: Sizes

    def all(self) -> list[Study]:
        study = open_study(self.run, "tables")
        self._section("Table 3")
        _as_in_the_run(study)
        arms = self._table_3(study)
        self._section("Table 4")
        self._table_4(study)
        self._section("Table 5")
        self._table_5(study)
        self._section("Figure 4")
        others = [self._figure_4(name, label) for name, label in S.table_names(self.asked.backbones).items()]
        self._section("Figure 5")
        for table, start, how in arms:
            embed(study, start, table, kept=False, **how)
        self._section("start and length")
        return [study, *others, *self._starts()]

    def _section(self, label: str) -> None:
        self.run.made.section = ("06", label)

    def _starts(self) -> list[Study]:
        """The run's tables at several lengths, under both starts."""
        studies = list(starts.open_studies(self.run, self.asked, open_study).values()) if self.asked.starts else []
        for study in studies:
            for table in self.asked.starts:
                take_table(self.run, study, table)
            self._rank(study, self.asked.starts, self.asked.recommenders)
        return studies

    def _rank(self, study: Study, tables: list[str], recommenders: list[str] | None = None) -> None:
        evaluate(study, tables, recommenders=recommenders or self.asked.recommenders[:1], seeds=self.asked.seeds)

    def _table_3(self, study: Study) -> list[tuple[str, str, dict[str, Any]]]:
        """Rivals, each at both lengths; returns the arms (table, encoder, how to encode)."""
        arms = [(RAW, "backbone", {}), *self._rivals(study), ("contrastive", "contrastive", {})]
        tables = []
        for (table, start, how), length in itertools.product(arms, ("none", "unit") if self.asked.normalised else ("none",)):
            given = length == "unit" or start in self.asked.encoders
            tables.append(table if length == "none" else f"{table}-unit")
            embed(study, start, tables[-1], **how, **({"normalise": length} if given else {}))
        self._rank(study, tables, self.asked.recommenders)
        return arms

    def _rivals(self, study: Study) -> list[tuple[str, str, dict[str, Any]]]:
        arms = []
        if "LLM2Vec" in self.asked.models:
            train(study, "mntp", "backbone", "llm2vec_mntp")
            train(study, "contrastive", "llm2vec_mntp", "llm2vec")
            arms.append(("llm2vec", "llm2vec", {}))
        if "LLMEmb" in self.asked.models and self._attributes():
            drop = {"views": "mask", "mask_rate": self.asked.attribute_drop, "symmetric": True}
            train(study, "contrastive", "backbone", "llmemb", text="attributes", **drop)
            arms.append(("llmemb", "llmemb", {"text": "attributes", "attention": "causal"}))
        for encoder, table in self.asked.tables.items():
            _, pooling = printed_gaps.encoder(encoder)
            embed(study, encoder, table, pooling=pooling, normalise="none")
            arms.append((table, encoder, {"pooling": pooling}))
        return arms

    def _attributes(self) -> bool:
        """Whether the items have text besides their titles; taken to, as long as there is no corpus to look at."""
        return self.sizes.corpus is None or bool(attribute_columns(self.sizes.corpus.items))

    def _table_4(self, study: Study) -> None:
        """The run's stages, and the four cells of mask and pooling."""
        self._rank(study, list(TABLES))
        encoding, cells = study.settings["encoding"], []
        for stage, pooling, attention in itertools.product(self.asked.cells, ("last", "mean"), ("causal", "bidirectional")):
            own = (encoding.pooling, encoding.attention) == (pooling, attention)
            cells.append(stage if own else f"{stage}-{pooling}-{attention}")
            embed(study, TABLES[stage], cells[-1], pooling=pooling, attention=attention)
        self._rank(study, cells)

    def _table_5(self, study: Study) -> None:
        """CSFT on one domain and on several, where there are several."""
        seen = self.sizes.train_domains
        several = seen if len(seen) > 1 else list(study.domains)
        if len(several) < 2 or not study.domains:
            return
        tables = [RAW]
        for name, domains in (("csft_single", several[:1]), ("csft_mixed", several)):
            whole = self.asked.share == 1 and domains == seen
            how = {} if whole else {"name": name, "share": self.asked.share, "domains": domains}
            tables.append(embed(study, train(study, "csft", "backbone", **how)))
        self._rank(study, tables)

    def _figure_4(self, name: str, label: str) -> Study:
        """A backbone with nothing trained and after CSFT."""
        study = open_study(self.run, f"tables-{label}", **backbone_changes(name))
        csft = train(study, "csft", "backbone", share=self.asked.share)
        self._rank(study, [embed(study, "backbone", RAW), embed(study, csft)])
        return study


class _Questions:
    """Notebook 07: `all` are its studies, after all calls of the questions that are asked and can be answered."""

    def __init__(self, run: Study, asked: S.Questions, sizes: Sizes) -> None:
        self.run, self.asked, self.sizes = run, asked, sizes
        self.studies: dict[str, Study] = {}
        self.domain = asked.domain or (sizes.train_domains or [""])[0]

    def all(self) -> list[Study]:
        self.run.made.section = ("07", "the run's own")
        self.own = self._study("questions_own")
        _as_in_the_run(self.own)
        self.short = self._study("questions_short")
        unanswered = self._unanswered()
        for question in S.QUESTIONS:
            if question in self.asked.asked and question not in unanswered:
                self.run.made.section = ("07", question)
                getattr(self, f"_{question}")()
        return list(self.studies.values())

    def _unanswered(self) -> Collection[str]:
        """Questions that this data cannot answer, as far as that is known."""
        from llm2rec_kit.reproduction.studies import questions

        data = self.run.settings["data"]
        if self.sizes.corpus is None:
            return questions.ruled_out(data, self.asked)
        return questions.why_not(self.sizes.corpus, data, self.asked)

    def _study(self, name: str, **changes: Any) -> Study:
        return self.studies.setdefault(name, open_study(self.run, name, **changes))

    def _rank(self, study: Study, tables: Collection[str]) -> None:
        if self.run.domains:
            asked = {"recommenders": self.asked.recommenders, "seeds": self.asked.seeds}
            evaluate(study, list(dict.fromkeys(tables)), domains=[self.domain], **asked)

    def _contrast(self, name: str, **changed: Any) -> str:
        """The table after contrast with one setting changed; the run's own where that changes nothing."""
        same = all(getattr(self.run.settings["contrastive"], k) == value for k, value in changed.items())
        return embed(self.own, train(self.own, "contrastive", "mntp", "contrastive" if same else name, **changed))

    def _about_contrast(self, tables: list[str]) -> None:
        """Two arms, the run's own, and the control of luck."""
        luck = self._contrast("other_seed", seed=self.run.settings["contrastive"].seed + 1)
        self._rank(self.own, [*tables, "contrastive", luck])

    def _temperature(self) -> None:
        self._about_contrast([self._contrast(f"temperature_{t:.1f}".replace(".", ""), temperature=t) for t in (0.2, 0.1)])

    def _views(self) -> None:
        self._about_contrast([self._contrast(f"views_{views}", views=views) for views in ("mask", "dropout")])

    def _normalise(self) -> None:
        from llm2rec_kit.reproduction.studies import questions

        for _, name, changes in questions.normalised(self.run.settings["evaluation"]):
            study = self.own
            if changes:
                study = self._study(name, **changes)
                _as_in_the_run(study)
            self._rank(study, ["contrastive"])

    def _mntp(self) -> None:
        alone = embed(self.own, train(self.own, "mntp", "backbone", "mntp_alone"))
        self._rank(self.own, [RAW, alone, "csft", "mntp"])

    def _id(self) -> None:
        self._rank(self.own, ["contrastive", "id", "id_detached", "contrastive_add_id", "contrastive_concat_id"])

    def _repeats(self) -> None:
        self._rank(self.own, [RAW, "csft", "contrastive", "id"])

    def _fine_tuned(self, study: Study) -> str:
        """CSFT of a share of the run's steps on the study's own corpus, and its table."""
        return embed(study, train(study, "csft", "backbone", share=self.asked.share))

    def _split(self) -> None:
        from llm2rec_kit.reproduction.studies import questions

        corpus, asked = self.sizes.corpus, self.run.settings["data"].split
        if corpus:
            _, other = questions.splits(corpus, self.domain)
        else:  # nothing says which domains are Goodreads
            other = "global_time" if asked == "leave_one_out" else "leave_one_out"
        for study in (self.short, self._study(f"questions_{other}", data_split=other)):
            self._rank(study, [embed(study, "backbone", RAW), self._fine_tuned(study), "id"])

    def _text(self) -> None:
        from llm2rec_kit.reproduction.studies import questions

        corpus = self.sizes.corpus
        fields = self.asked.text_fields if corpus is None else questions.fields(corpus, self.asked)
        template = "{title}" + "".join(f". {{{name}}}" for name in fields)
        richer = self._study("questions_text", data_text=template, data_text_words=self.asked.text_words)
        for study in (self.short, richer):
            self._rank(study, [self._fine_tuned(study)])

    def _history(self) -> None:
        longest = self.run.settings["data"].max_history
        for h in dict.fromkeys(self.asked.histories):
            study = self.short if h == longest else self._study(f"questions_history_{h}", data_max_history=h)
            self._rank(study, [self._fine_tuned(study), "id"])
