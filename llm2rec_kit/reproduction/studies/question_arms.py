"""The arms of notebook 07: of each question what is trained, as calls, and which pairs of arms answer it.

A new question is its words in `settings.QUESTIONS` and one function here, under its name in ARMS. `At.do` makes what is
called for: the module `experiments`, or, for a plan, `plan.dry_study`, which writes it down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llm2rec_kit import pipeline
from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.pipeline import RAW
from llm2rec_kit.reproduction.studies import paper_arms, questions
from llm2rec_kit.reproduction.studies.answers import Arm
from llm2rec_kit.reproduction.studies.initialisations import STARTS

NORMALISED = ("none", "unit", "standardised", "whitened")


@dataclass(frozen=True)
class Family:
    """Arms over the same test targets, and the pairs (before, after) that are tested together.

    drawn   of what was trained several times, each time with another seed: its name and its arms.
    shares  of an arm whose recommenders learn from a share of the users: its item table and that share.
    """

    title: str
    arms: list[Arm]
    pairs: list[tuple[str, str]]
    drawn: dict[str, list[str]] = field(default_factory=dict)
    shares: dict[str, tuple[str, float]] = field(default_factory=dict)


@dataclass
class At:
    """Where a question is asked: of which run and domain, of what is known of its corpus, and the studies that are open.

    corpus   None in a plan made before there is one.
    opening  what `open_study` is given beside a study's changes.
    """

    do: Any
    base: Any
    asked: S.Questions
    domain: str
    corpus: Corpus | None
    opening: dict[str, Any] = field(default_factory=dict)
    studies: dict[str, Any] = field(default_factory=dict)

    def study(self, name: str, **changes: Any) -> Any:
        """Open the study of this name, once."""
        if name not in self.studies:
            self.studies[name] = self.do.open_study(self.base, name, **self.opening, **changes)
        return self.studies[name]

    @property
    def own(self) -> Any:
        """The run as it is."""
        return self.study("questions_own")

    @property
    def short(self) -> Any:
        """The run's corpus with a share of CSFT's steps: the control of what changes the corpus."""
        return self.study("questions_short")

    def fine_tuned(self, study: Any) -> str:
        """Train CSFT on the study's own corpus for `questions_share` of the run's steps; returns the table after it."""
        table: str = self.do.embed(study, self.do.train(study, "csft", "backbone", share=self.asked.share))
        return table


def temperature(at: At) -> list[Family]:
    """Make arms with InfoNCE's temperature as in the paper and as in the official code."""
    arms = {f"{t:g}": _contrast(at, f"temperature_{t:.1f}".replace(".", ""), temperature=t) for t in (0.2, 0.1)}
    return [_with_luck(at, "temperature", arms)]


def views(at: At) -> list[Family]:
    """Make arms with the two views of a title as in the paper and as in the official code."""
    return [_with_luck(at, "views", {how: _contrast(at, f"views_{how}", views=how) for how in ("mask", "dropout")})]


def normalise(at: At) -> list[Family]:
    """Vary length and scale of what the recommender is given, under both starts; each start is compared within itself."""
    arms = []
    for name, study, changes in list_normalise_arms(at.own.settings):
        given = at.own
        if changes:
            given = at.study(study, **changes)
            paper_arms.make_stages(at.do, given)
        arms.append(Arm(name, given, "contrastive"))
    return [Family("normalise", arms, pair_against_none([arm.name for arm in arms]))]


def mntp(at: At) -> list[Family]:
    """Make arms of MNTP with and without CSFT before it."""
    alone = at.do.embed(at.own, paper_arms.mntp_from_backbone(at.do, at.own), "mntp_alone")
    tables = {"neither": RAW, "MNTP alone": alone, "CSFT alone": "csft", "CSFT, then MNTP": "mntp"}
    pairs = [("neither", "MNTP alone"), ("CSFT alone", "CSFT, then MNTP"), ("MNTP alone", "CSFT, then MNTP")]
    return [Family("mntp", _of_run(at, tables), pairs)]


def ids(at: At) -> list[Family]:
    """Make arms of trained ids beside text, and together with it."""
    tables = {"text": "contrastive", "id": "id", "id, detached": "id_detached"}
    tables |= {"text + id": "contrastive_add_id", "text beside id": "contrastive_concat_id"}
    pairs = [("id, detached", "id"), ("id", "text"), ("id", "text + id"), ("id", "text beside id"), ("text", "text + id")]
    return [Family("id", _of_run(at, tables), pairs)]


def repeats(at: At) -> list[Family]:
    """Take the run's tables, to compare them over all targets and over those that are new to their user."""
    tables = (RAW, "csft", "contrastive", "id")
    pairs = [(RAW, "csft"), ("csft", "contrastive"), ("id", "contrastive")]
    return [Family("repeats", _of_run(at, dict(zip(tables, tables, strict=True))), pairs)]


def split(at: At) -> list[Family]:
    """Make arms under both splits; they have other targets, so each is answered alone."""
    own, other = splits(at)
    families = []
    for name, study in ((own, at.short), (other, at.study(f"questions_{other}", data_split=other))):
        tables = [at.do.embed(study, "backbone", RAW), at.fine_tuned(study), "id"]
        arms = [Arm(table, study, table) for table in tables]
        families.append(Family(name.replace("_", " "), arms, [(RAW, "csft"), ("id", "csft")]))
    return families


def text(at: At) -> list[Family]:
    """Make arms of titles alone and with further fields of the items."""
    template = choose_template(at.corpus, at.asked)
    richer = at.study("questions_text", data_text=template, data_text_words=at.asked.text_words)
    arms = [Arm(name, study, at.fine_tuned(study)) for name, study in (("as in the run", at.short), ("richer text", richer))]
    return [Family("text", arms, [("as in the run", "richer text")])]


def history(at: At) -> list[Family]:
    """Vary how many items of history a sample holds."""
    longest = at.own.settings["data"].max_history
    windows = {
        h: at.short if h == longest else at.study(f"questions_history_{h}", data_max_history=h)
        for h in dict.fromkeys(at.asked.histories)
    }
    arms = [Arm(f"text, {h}", study, at.fine_tuned(study)) for h, study in windows.items()]
    arms += [Arm(f"id, {h}", study, "id") for h, study in windows.items()]
    first, *longer = windows
    pairs = [(f"{kind}, {first}", f"{kind}, {h}") for kind in ("text", "id") for h in longer]
    return [Family("history", arms, pairs)]


def users(at: At) -> list[Family]:
    """Let recommenders over text and over ids learn from fewer users, for about as many steps and with the patience of as many."""
    tables = ["id", *(at.do.take_table(at.own, name) for name in dict.fromkeys(at.asked.user_tables) if name != "id")]
    arms: list[Arm] = []
    pairs: list[tuple[str, str]] = []
    shares: dict[str, tuple[str, float]] = {}
    for share in [*sorted({*at.asked.user_shares}), 1.0]:
        study = at.own
        if share < 1:
            study = at.study(f"questions_users_{share:g}".replace(".", "_"), **learn_from(at.own.settings, share))
            for name in tables:
                at.do.take_table(study, name)
        of = [Arm(name_share(name, share), study, name) for name in tables]
        shares |= {arm.name: (arm.embedding, share) for arm in of}
        arms, pairs = arms + of, pairs + [(of[0].name, other.name) for other in of[1:]]
    return [Family("users", arms, pairs, shares=shares)]


def trainings(at: At) -> list[Family]:
    """Train CSFT and all after it several times, the first the run's own, each of the others with other seeds in all stages."""
    chains = [_chain(at, k) for k in range(at.asked.trainings)]
    tables, drawn = {RAW: RAW}, {}
    for stage, name in (("csft", "CSFT"), ("contrastive", "the chain")):
        made = {f"{name}, training {k + 1}": at.do.embed(at.own, chain[stage]) for k, chain in enumerate(chains)}
        tables, drawn[name] = tables | made, [*made]
    pairs = [(RAW, arm) for arms in drawn.values() for arm in arms]
    return [Family("trainings", _of_run(at, tables), pairs, drawn)]


ARMS: dict[str, Callable[[At], list[Family]]] = {
    "temperature": temperature,
    "views": views,
    "normalise": normalise,
    "mntp": mntp,
    "id": ids,
    "repeats": repeats,
    "split": split,
    "text": text,
    "history": history,
    "users": users,
    "trainings": trainings,
}


def rank(at: At, families: Sequence[Family]) -> None:
    """Train a recommender a seed over the item table of each arm, in the question's domain."""
    arms = [arm for family in families for arm in family.arms]
    asked = {"recommenders": at.asked.recommenders, "seeds": at.asked.seeds, "domains": [at.domain]}
    for study in {id(arm.study): arm.study for arm in arms}.values():
        at.do.evaluate(study, list(dict.fromkeys(arm.embedding for arm in arms if arm.study is study)), **asked)


def list_normalise_arms(settings: Mapping[str, S.Stage]) -> list[tuple[str, str, dict[str, Any]]]:
    """List the arms of `normalise`, those of the run's own start first: a reader's name, the study's, and what it changes of
    the run's `settings`. All are over embeddings as they come from the encoder, and at no further scale.

    >>> arms = list_normalise_arms({"encoding": S.Encoding(), "evaluation": S.Evaluation()})
    >>> arms[0], arms[5]  # doctest: +NORMALIZE_WHITESPACE
    (('none', 'questions_none', {}), ('unit, official start', 'questions_unit_official',
     {'evaluation_normalise': 'unit', 'evaluation_initialisation': 'official', 'evaluation_scale': 1.0}))
    """
    was, encoded = S.Evaluation.among(settings), S.Encoding.among(settings).normalise
    plain = {"evaluation_scale": 1.0} | ({"encoding_normalise": "none"} if encoded == "unit" else {})
    arms = []
    for start in sorted(STARTS, key=lambda start: start != was.initialisation):
        name, study = ("", "") if start == was.initialisation else (f", {start} start", f"_{start}")
        for how in NORMALISED:
            changes = {"evaluation_normalise": how, "evaluation_initialisation": start} | plain
            as_in_run = (how, start, 1, False) == (was.normalise, was.initialisation, was.scale, encoded == "unit")
            arms.append((how + name, f"questions_{how}{study}", {} if as_in_run else changes))
    return arms


def list_leads(shares: Mapping[str, tuple[str, float]]) -> tuple[dict[str, tuple[str, str]], list[tuple[str, str]]]:
    """List the leads over ids of the tables of `Family.shares` at the smallest share and at the largest, as (arm of ids, arm),
    and the pairs of leads that say whether a table's lead changes.

    >>> list_leads({"id, 5%": ("id", 0.05), "raw, 5%": ("raw", 0.05), "id": ("id", 1.0), "raw": ("raw", 1.0)})
    ({'lead of raw, 5%': ('id, 5%', 'raw, 5%'), 'lead of raw': ('id', 'raw')}, [('lead of raw', 'lead of raw, 5%')])
    """
    ends = [pick(share for _, share in shares.values()) for pick in (min, max)]
    ids = {share: arm for arm, (table, share) in shares.items() if table == "id"}
    at = {(table, share): arm for arm, (table, share) in shares.items() if table != "id" and share in ends}
    leads = {f"lead of {arm}": (ids[share], arm) for (_, share), arm in at.items()}
    tables = dict.fromkeys(table for table, _ in at)
    return leads, [(f"lead of {at[table, ends[1]]}", f"lead of {at[table, ends[0]]}") for table in tables]


def name_share(name: str, share: float) -> str:
    """Name an arm whose recommenders learn from a share of the users: "id, 5% of users"."""
    return f"{name}, {100 * share:g}% of users" if share < 1 else f"{name}, all users"


def learn_from(settings: Mapping[str, S.Stage], share: float) -> dict[str, Any]:
    """Return what to change of the run's `settings` for recommenders to learn from `share` of the users, for about as many
    steps: an epoch has that share of the samples, so there are more epochs, and patience has more. They are validated as
    often an epoch: of few samples the best epoch is an early one.

    >>> learn_from({"evaluation": S.Evaluation(epochs=200, evaluate_every=2, patience=10)}, 0.05)
    {'evaluation_user_share': 0.05, 'evaluation_epochs': 4000, 'evaluation_patience': 200}
    """
    was = S.Evaluation.among(settings)
    longer = {f"evaluation_{name}": round(getattr(was, name) / share) for name in ("epochs", "patience")}
    return {"evaluation_user_share": share, **longer}


def pair_against_none(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pair the arms that `list_normalise_arms` names: of each start, every other against the embeddings as they come."""
    of_start = [names[k : k + len(NORMALISED)] for k in range(0, len(names), len(NORMALISED))]
    return [(first, other) for first, *others in of_start for other in others]


def splits(at: At) -> tuple[str, str]:
    """Return how the domain is split, leave_one_out or global_time, and the other of the two."""
    own = at.corpus.split_rules[at.domain] if at.corpus else at.own.settings["data"].split
    return own, "global_time" if own == "leave_one_out" else "leave_one_out"


def choose_template(corpus: Corpus | None, asked: S.Questions) -> str:
    """Choose `data_text` for the question of richer text: the fields that the corpus has, or, without one, all asked for."""
    fields = asked.text_fields if corpus is None else questions.list_fields(corpus, asked)
    return "{title}" + "".join(f". {{{name}}}" for name in fields)


def _of_run(at: At, tables: dict[str, str]) -> list[Arm]:
    return [Arm(name, at.own, table) for name, table in tables.items()]


def _contrast(at: At, name: str, **changed: Any) -> str:
    """The table after contrast from the run's MNTP with one setting changed; where that changes nothing, the run's own."""
    was = at.own.settings["contrastive"]
    same = all(getattr(was, k) == value for k, value in changed.items())
    trained = at.do.train(at.own, "contrastive", "mntp", "contrastive" if same else name, **changed)
    table: str = at.do.embed(at.own, trained)
    return table


def _chain(at: At, k: int) -> dict[str, str]:
    """The run's stages with every seed `k` higher, by stage; those of 0 are the run's own."""
    made: dict[str, str] = {}
    for stage, start in pipeline.STARTS.items():
        seed = _shift_seed(at, stage, k)
        how = {"name": f"{stage}_seed{seed}", "seed": seed} if k else {}
        made[stage] = at.do.train(at.own, stage, made.get(start, start), **how)
    return made


def _shift_seed(at: At, stage: str, by: int) -> int:
    """The run's seed of a stage and `by` more, the largest that is allowed followed by 0."""
    seed: int = at.own.settings[stage].seed
    return (seed + by) % 2**32


def _with_luck(at: At, title: str, tables: dict[str, str]) -> Family:
    """Two arms, and the control of luck: the run's own setting with another seed."""
    mine = next((name for name, table in tables.items() if table == "contrastive"), "as in the run")
    luck, (before, after) = f"{mine}, other seed", tables
    arms = {**tables, mine: "contrastive", luck: _contrast(at, "other_seed", seed=_shift_seed(at, "contrastive", 1))}
    return Family(title, _of_run(at, arms), [(before, after), (mine, luck)])
