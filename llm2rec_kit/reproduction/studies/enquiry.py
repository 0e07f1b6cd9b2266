"""An enquiry: the questions of notebook 07, asked of one run after another, and what is answered.

A question goes three steps: it is asked, its arms are trained, its pairs of arms are compared. Which arms and pairs those
are stands in `question_arms`, what may be said of them in `answers`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
import polars as pl
from IPython.display import display

from llm2rec_kit import pipeline
from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.figures import answer_figures, training_figures
from llm2rec_kit.reproduction.studies import answers, experiments, paper_arms, question_arms, questions
from llm2rec_kit.reproduction.studies.answers import Answer
from llm2rec_kit.reproduction.studies.question_arms import At, Family
from llm2rec_kit.reproduction.studies.study import Study, check_source, check_tables
from llm2rec_kit.results import slices
from llm2rec_kit.runs import Run, show_record


@dataclass
class Enquiry:
    """Where questions are asked, which of them cannot be answered there, and what has been said.

    at       the run, the domain whose users answer, its corpus, and the studies that are open.
    reasons  the questions that the data cannot answer, each with the reason.
    said     of each question one line, also where it is not asked.
    """

    at: At
    reasons: dict[str, str]
    said: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, run: Run, asked: S.Questions, **opening: Any) -> Enquiry:
        """Open the run as it is; `opening` is what `open_study` takes beside a study's changes.

        Raises SettingsError, before anything is trained, where a question that can be answered here reads the run's source
        again and that has changed, and ArtefactError where one takes an item table that the run does not have.
        """
        own = experiments.open_study(run, "questions_own", **opening)
        corpus, data = own.corpus, S.Data.among(own.settings)
        domain = asked.domain or corpus.train_domains[0]
        at = At(experiments, run, asked, domain, corpus, opening, {"questions_own": own})
        share = S.Evaluation.among(own.settings).user_share
        reasons = questions.find_unanswerable(corpus, data, asked, share=share)
        if anew := [question for question in questions.READ_AGAIN if question in asked.asked and question not in reasons]:
            check_source(run, data, anew)
        if "users" in asked.asked and "users" not in reasons:
            check_tables(run, "questions_user_tables", asked.user_tables)
        for drawn in (run.path / "figures").glob("question_*"):
            drawn.unlink()  # of an earlier call, which may have asked other questions
        return cls(at, reasons)

    @property
    def own(self) -> Study:
        """The run as it is, as a study."""
        return cast(Study, self.at.own)

    @property
    def corpus(self) -> Corpus:
        """The run's corpus."""
        return self.own.corpus if self.at.corpus is None else self.at.corpus

    @cached_property
    def part(self) -> Corpus:
        """The corpus of the domain that answers."""
        return self.corpus.select([self.at.domain])[0]

    @cached_property
    def users(self) -> np.ndarray:
        """The user of each test sample: (n_test,)."""
        return self.part.owners(self.part.samples("test"))

    @property
    def evaluation(self) -> S.Evaluation:
        """How the run evaluated; questions are tested by the metric that the run is tested by."""
        return S.Evaluation.among(self.own.settings)

    def about(self) -> dict[str, Any]:
        """Collect what stands behind every answer: data, users, backbone, and the budgets of the trainings."""
        was, part = cast(dict[str, Any], self.own.settings), self.part
        return {
            "source": self.corpus.facts["source"],
            "domain": self.at.domain,
            "items": part.n_items,
            "users": part.n_users,
            "test users": len(np.unique(self.users)),
            "test samples": len(self.users),
            "split": self.corpus.split_rules[self.at.domain] or was["data"].split,
            "backbone": was["backbone"].name,
            **{f"{stage} steps": answers.count_steps(self.at.base, stage, was[stage].steps) for stage in pipeline.STARTS},
            "epochs of a recommender at most": self.evaluation.epochs,
            "seeds": len(self.at.asked.seeds),
        }

    def scope(self) -> str:
        """Say in one line what an answer found here can be about."""
        told = self.about()
        several = ", several for `trainings`" if self.asks("trainings") else ""
        made = ", made from nothing" if self.at.base.record("backbone").get("from_nothing", False) else ""
        return (
            f"{told['source']} data, {told['domain']}: {told['test users']:,} test users, {told['items']:,} items; "
            f"backbone {told['backbone']}{made}; CSFT {told['csft steps']:,} steps, MNTP {told['mntp steps']:,}, "
            f"contrast {told['contrastive steps']:,}; one training of the language model an arm{several}"
        )

    def table(self) -> pl.DataFrame:
        """Tabulate the questions: question, answered here (yes, not asked, or no and why)."""
        rows = []
        for question, text in questions.ASKED.items():
            here = "yes" if question in self.at.asked.asked else "not asked"
            here = f"no: {self.reasons[question]}" if question in self.reasons else here
            rows.append({"question": text, "answered here": here})
        return pl.DataFrame(rows)

    def asks(self, question: str) -> bool:
        """Tell whether a question is asked and can be answered here."""
        return question in self.at.asked.asked and question not in self.reasons

    def take_controls(self) -> None:
        """Take the run's own artefacts: the controls wherever an arm has their budget."""
        paper_arms.make_stages(self.at.do, self.own)

    def ask(self, question: str) -> bool:
        """Print a question, and tell whether it is answered here; where not, print why, and keep that as what was said."""
        print(questions.ASKED[question])
        if self.asks(question):
            return True
        why = self.reasons.get(question)
        self.said[question] = f"not answered here: {why}" if why else "not asked (questions_asked)"
        print(self.said[question])
        return False

    def train(self, question: str) -> list[Family]:
        """Make the arms of a question and train a recommender a seed over each; returns its families of arms and pairs."""
        families = question_arms.ARMS[question](self.at)
        question_arms.rank(self.at, families)
        return families

    def compare(self, family: Family, title: str = "", among: np.ndarray | None = None) -> Answer:
        """Test the pairs of a family of arms and show the result; `among` bool (n_test,) keeps some of the test samples."""
        title = title or family.title
        return self.show(title, answers.answer(title, family.arms, family.pairs, among=among, **self._compared))

    @property
    def _compared(self) -> dict[str, Any]:
        """Over what arms are compared: a domain, recommenders, their seeds, and the metric."""
        asked = self.at.asked
        how = {"domain": self.at.domain, "recommenders": asked.recommenders, "seeds": asked.seeds}
        return how | {"metric": self.evaluation.tested}

    def answer(self, question: str) -> None:
        """Ask a question that has one family of arms, train and compare the arms, and keep what is said."""
        if self.ask(question):
            (family,) = self.train(question)
            self.said[question] = self.compare(family).sentence

    def show(self, title: str, found: Answer) -> Answer:
        """Show an answer as tables and as a figure, and keep its numbers and the figure; returns it."""
        show_record(title, found.record())
        text = questions.ASKED.get(title, title)
        drawn = answer_figures.draw_answer(found.arms, found.tests, title=text, metric=found.metric, counted=found.counted)
        training_figures.save(drawn, self.at.base.path / "figures" / f"question_{title.replace(' ', '_')}")
        display(found.arms, found.tests, drawn)
        return found

    def say(self, question: str, line: str, table: pl.DataFrame) -> None:
        """Keep one line as the answer, and show it under its table."""
        self.said[question] = line
        display(table)
        print(line)

    def along_users(self, family: Family, found: Answer) -> Answer:
        """Show the arms of `found` against the users that their recommenders learned from, and test whether what text is ahead
        of ids by is another with the fewest users than with all of them; returns that answer."""
        shares = pl.DataFrame([(arm, *of) for arm, of in family.shares.items()], ["arm", "embedding", "share"], orient="row")
        rows = found.arms.join(shares, on="arm", maintain_order="left")
        rows = rows.with_columns(users=pl.col("share").map_elements(self.part.count_drawn, pl.Int64))
        text = questions.ASKED[family.title]
        drawn = answer_figures.draw_learning_curves(rows, title=text, metric=found.metric, counted=found.counted)
        training_figures.save(drawn, self.at.base.path / "figures" / f"question_{family.title}_curve")
        leads, pairs = question_arms.list_leads(family.shares)
        leading = answers.answer_leads(f"{family.title}: lead", family.arms, leads, pairs, **self._compared)
        show_record(f"{family.title} lead", leading.record())
        display(drawn, leading.arms, leading.tests)
        return leading

    def over_trainings(self, family: Family) -> Answer:
        """Test a family's rows that were trained several times against its first arm, over users and trainings; show it."""
        found = answers.answer_over_trainings(family.title, family.arms, family.drawn, **self._compared)
        show_record(f"over {family.title}", found.record())
        display(found.arms, found.tests)
        return found

    def repeats(self, family: Family, metric: str) -> pl.DataFrame:
        """Show how much of a metric a family's arms have from repeated targets (`questions.compare_repeats`)."""
        rows = [(recommender, arm.embedding) for recommender in self.at.asked.recommenders for arm in family.arms]
        where = (self.own.run, self.at.domain, self.part, rows)
        return questions.compare_repeats(slices.tabulate(*where, seeds=self.at.asked.seeds, metric=metric))

    def without_seen(self, tables: dict[str, str]) -> str:
        """Rank again without the items that the user had, over `tables` {a reader's name: item table}; show what differs.
        Returns it as a sentence, or why it cannot be told."""
        recommenders, domain = self.at.asked.recommenders, self.at.domain
        if lacking := questions.list_without_weights(self.own, domain, recommenders, [*tables.values()]):
            why = (
                f"not ranked again, as no weights were kept of {', '.join(lacking)}; notebook 04 keeps those of what "
                "evaluation_recommenders and evaluation_embeddings name"
            )
            print(why)
            return why
        how: dict[str, Any] = {"recommenders": recommenders, "metric": self.evaluation.tested}
        return self.show(
            "seen items", questions.compare_without_seen("seen items", self.own, domain, tables, **how)
        ).sentence
