"""Cleaning: interactions to a corpus, one named step after another, each saying what it dropped and why.

The order matters and is fixed: user subset, unknown items, title rules, repeated rows, short users, k-core, split. The
table of steps is kept in `corpus.facts["cleaning"]`; its unit is always the interaction.
"""

from __future__ import annotations

import html

import numpy as np
import polars as pl

from llm2rec_kit.corpus import SPLITS, TEST, TRAIN, VALID, Corpus
from llm2rec_kit.data.sources import Interactions
from llm2rec_kit.settings import Data

RELEASED_WORDS = 20  # most words of a title in the released data [C]
LEAVE_ONE_OUT_LENGTH = 3  # history, validation target, test target


class Steps:
    """The table of cleaning steps: what each dropped."""

    def __init__(self, interactions: Interactions) -> None:
        self.rows: list[dict] = []
        left = len(interactions.events) + sum(dropped for _, dropped, _ in interactions.dropped)
        for step, dropped, why in interactions.dropped:
            self.add(step, left, left - dropped, why)
            left -= dropped

    def add(self, step: str, before: int, after: int, why: str) -> None:
        """Note a step; raise ValueError where it left nothing."""
        self.rows.append({"step": step, "rows_before": before, "rows_dropped": before - after, "why": why})
        if after == 0:
            raise ValueError(
                f"Nothing is left after the cleaning step {step!r} ({why}): it dropped all {before} "
                f"interactions. Dropped so far: {[(r['step'], r['rows_dropped']) for r in self.rows]}. "
                "Keep more users (data_users), lower data_min_interactions, or check the source's ids."
            )


def build(interactions: Interactions, settings: Data) -> Corpus:
    """The corpus of `interactions`: cleaned, numbered, sorted and split as `settings` say (paper sec. 4.1.1).

    Items are numbered in the order of the source's table, users in the order of their first event; a user's events are
    sorted by time, events of equal time stay in the source's order. A user active in several domains becomes one user
    a domain, `user@domain`. With `min_interactions` 0 items without events stay in the catalogue. Raises ValueError
    where a step leaves nothing, naming the step.
    """
    if interactions.events.is_empty() or interactions.items.is_empty():
        raise ValueError(
            f"The source {settings.source!r} has {len(interactions.events)} interactions and "
            f"{len(interactions.items)} items; both are needed."
        )
    if interactions.has_splits and settings.given_splits:
        return _as_given(interactions, settings)
    if settings.split == "global_time" and not interactions.has_times:
        raise ValueError("data_split global_time needs timestamps, and this source has none. Use leave_one_out.")
    steps = Steps(interactions)
    columns = ["user", "item", *(["time"] if interactions.has_times else [])]
    events = _user_subset(interactions.events.select(columns).with_row_index("order"), settings, steps)
    items, events = _known_titles(interactions.items, events, settings.title_rules, steps)
    if interactions.has_times:
        events = _timed_once(events, steps)
    events = _user_a_domain(events, items)
    events, kept_items = _dense_part(events, settings, steps)
    items = items.filter(pl.col("source_id").is_in(kept_items.implode())) if settings.min_interactions > 0 else items
    return _corpus(items, events, interactions, settings, steps)


def leave_one_out(offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Targets (int64) and splits (uint8): a user's last is test, the one before valid, the rest from the second train."""
    positions, lengths = _positions(offsets)
    splits = np.select([positions == lengths - 1, positions == lengths - 2], [TEST, VALID], TRAIN).astype(np.uint8)
    targets = np.flatnonzero(positions >= 1)
    return targets, splits[targets]


def global_time(offsets: np.ndarray, times: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Targets (int64, ascending) and splits (uint8): samples sorted by target time, stably, and cut 80/10/10 [C].

    Raises ValueError without times, or where there are too few samples for three parts.
    """
    if times is None:
        raise ValueError("The split global_time needs timestamps; the corpus has none. Use leave_one_out.")
    positions, _ = _positions(offsets)
    targets = np.flatnonzero(positions >= 1)
    n = len(targets)
    first, second = n * 8 // 10, n * 9 // 10
    if min(first, second - first, n - second) == 0:
        raise ValueError(f"The split global_time needs samples in each of its parts (80/10/10); there are {n} in all.")
    splits = np.empty(n, dtype=np.uint8)
    order = np.argsort(times[targets], kind="stable")
    splits[order[:first]], splits[order[first:second]], splits[order[second:]] = TRAIN, VALID, TEST
    return targets, splits


def given(marks: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Targets (int64) and splits (uint8) as the source says: `marks` is train, valid, test or, for no sample, null."""
    targets = np.flatnonzero(marks.is_not_null().to_numpy())
    splits = marks.drop_nulls().replace_strict(SPLITS, default=None, return_dtype=pl.UInt8)
    if splits.null_count():
        raise ValueError(f"A source's split is train, valid or test; found {sorted(set(marks.drop_nulls()) - set(SPLITS))}.")
    return targets, splits.to_numpy()


def clean_titles(items: pl.DataFrame, rules: str) -> pl.DataFrame:
    """`items` with titles cleaned and without the items whose titles the rules refuse.

    released: drops no title, `<span id`, one character or less, more than 20 words (as split at single spaces);
    un-escapes &quot; and &amp;, strips spaces, then quotes [C: the published preprocessing of the released data].
    gentle: un-escapes every HTML entity, collapses white space; drops empty titles [O].
    """
    title = pl.col("title")
    if rules == "released":
        kept = items.filter(title.is_not_null() & ~title.str.contains("<span id", literal=True))
        kept = kept.with_columns(
            title.str.replace_all("&quot;", '"', literal=True)
            .str.replace_all("&amp;", "&", literal=True)
            .str.strip_chars(" ")
            .str.strip_chars('"')
        )
        return kept.filter((title.str.len_chars() > 1) & (title.str.count_matches(" ", literal=True) + 1 <= RELEASED_WORDS))
    texts = [None if t is None else " ".join(html.unescape(t).split()) for t in items["title"].to_list()]
    return items.with_columns(title=pl.Series(texts, dtype=pl.String)).filter(title.str.len_chars() > 0)


def k_core(users: np.ndarray, items: np.ndarray, user_least: int, item_least: int) -> np.ndarray:
    """Mask (bool) of the events left when users and items with fewer events are dropped again and again.

    `users` and `items` are int (T,) of small non-negative codes. The fixed point does not depend on the order.
    """
    keep = np.ones(len(users), dtype=bool)
    while True:
        per_user = np.bincount(users[keep], minlength=users.max(initial=0) + 1)
        per_item = np.bincount(items[keep], minlength=items.max(initial=0) + 1)
        now = keep & (per_user[users] >= user_least) & (per_item[items] >= item_least)
        if now.sum() == keep.sum():
            return keep
        keep = now


def leakage(corpus: Corpus) -> pl.DataFrame:
    """What a test of this corpus may know beforehand: one row a finding (finding, split, count, of, meaning)."""
    samples = {s: corpus.samples(s) for s in SPLITS}
    owners = {s: np.unique(corpus.owners(t)) for s, t in samples.items()}
    several = (np.bincount(np.concatenate(list(owners.values())), minlength=corpus.n_users) > 1).sum()
    rows = [("users in several splits", "all", several, corpus.n_users, "by design in leave_one_out")]
    for s, t in samples.items():
        repeats = (corpus.sequence[t] == corpus.sequence[t - 1]).sum()
        rows.append(("target repeats the last item", s, repeats, len(t), "copying the last item is right"))
    for s in ("valid", "test"):
        unseen = ~np.isin(corpus.sequence[samples[s]], corpus.sequence[samples["train"]])
        rows.append(("target never a training target", s, unseen.sum(), len(samples[s]), "cold for a table of items"))
    alike = corpus.items.filter(pl.struct("domain", "title").is_duplicated()).height
    rows.append(("items with a title of another", "all", alike, corpus.n_items, "text cannot tell them apart"))
    if corpus.times is not None and len(samples["train"]):
        latest = corpus.times[samples["train"]].max()
        for s in ("valid", "test"):
            early = (corpus.times[samples[s]] < latest).sum()
            rows.append(("target older than a training target", s, early, len(samples[s]), "training knows the future"))
    rows = [(finding, s, int(count), int(of), meaning) for finding, s, count, of, meaning in rows]
    return pl.DataFrame(rows, schema=["finding", "split", "count", "of", "meaning"], orient="row")


def _as_given(interactions: Interactions, settings: Data) -> Corpus:
    """The corpus of the source's own samples: all items and titles as they are, no rule that would change a history.

    Only `settings.users` is heeded, since a user's samples go or stay together.
    """
    steps = Steps(interactions)
    columns = ["user", "item", "split", *(["time"] if interactions.has_times else [])]
    events = _user_subset(interactions.events.select(columns).with_row_index("order"), settings, steps)
    items = interactions.items.with_columns(pl.col("title").fill_null(""))
    if unknown := len(events.filter(~pl.col("item").is_in(items["source_id"].implode()))):
        raise ValueError(
            f"{unknown} events of the source's own samples have an item that its item table lacks; without them, histories "
            "would be others. Mend the source, or set data_given_splits to False to clean and split anew."
        )
    steps.add("given samples", len(events), len(events), "the source's own samples: titles as they are, no k-core")
    return _corpus(items, _user_a_domain(events, items), interactions, settings, steps)


# -- steps ------------------------------------------------------------------------------------------------------------


def _user_subset(events: pl.DataFrame, settings: Data, steps: Steps) -> pl.DataFrame:
    users = events["user"].unique().sort()
    if settings.users <= 0 or settings.users >= len(users):
        return events
    drawn = np.random.default_rng(settings.seed).choice(len(users), settings.users, replace=False)
    kept = events.filter(pl.col("user").is_in(users[np.sort(drawn)].implode()))
    steps.add("user subset", len(events), len(kept), f"{settings.users} of {len(users)} users, seed {settings.seed}")
    return kept


def _known_titles(items: pl.DataFrame, events: pl.DataFrame, rules: str, steps: Steps) -> tuple[pl.DataFrame, ...]:
    known = events.filter(pl.col("item").is_in(items["source_id"].implode()))
    steps.add("unknown items", len(events), len(known), "the item is not in the item table")
    cleaned = clean_titles(items, rules)
    titled = known.filter(pl.col("item").is_in(cleaned["source_id"].implode()))
    steps.add(
        "title rules",
        len(known),
        len(titled),
        f"rules {rules!r} refuse the titles of {len(items) - len(cleaned)} of {len(items)} items",
    )
    return cleaned, titled


def _timed_once(events: pl.DataFrame, steps: Steps) -> pl.DataFrame:
    """Events with a time, each (user, item, time) once. A user may still consume an item twice at different times,
    as in the released data, where 3 to 5% of the targets repeat the last item [R].
    """
    timed = events.filter(pl.col("time").is_not_null())
    if len(timed) < len(events):
        steps.add("no time", len(events), len(timed), "the event has no timestamp while others have")
    once = timed.unique(["user", "item", "time"], keep="first", maintain_order=True)
    steps.add("repeated rows", len(timed), len(once), "same user, item and time; the first is kept")
    return once


def _user_a_domain(events: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Events with the domain of the item, and a user `user@domain` for each domain of a user that has several."""
    domains = items.select(item="source_id", domain="domain")
    events = events.join(domains, on="item", how="left", maintain_order="left")
    several = pl.col("domain").n_unique().over("user") > 1
    return events.with_columns(user=pl.when(several).then(pl.col("user") + "@" + pl.col("domain")).otherwise(pl.col("user")))


def _dense_part(events: pl.DataFrame, settings: Data, steps: Steps) -> tuple[pl.DataFrame, pl.Series]:
    """Events left after the short users and the k-core, and the source ids of their items."""
    k, shortest = settings.min_interactions, LEAVE_ONE_OUT_LENGTH if settings.split == "leave_one_out" else 0
    if shortest:
        long_enough = events.filter(pl.len().over("user") >= shortest)
        steps.add("short users", len(events), len(long_enough), f"fewer than {shortest} interactions for leave_one_out")
        events = long_enough
    if k > 0:
        codes = [events[c].rank("dense").to_numpy().astype(np.int64) for c in ("user", "item")]
        kept = events.filter(k_core(*codes, max(k, shortest), k))
        steps.add(f"{k}-core", len(events), len(kept), f"users and items with fewer than {k} interactions, repeatedly")
        events = kept
    return events, events["item"].unique()


def _corpus(items: pl.DataFrame, events: pl.DataFrame, interactions: Interactions, settings: Data, steps: Steps) -> Corpus:
    items = items.with_columns(item=pl.int_range(1, len(items) + 1, dtype=pl.Int32))
    users = events.sort("order").select(source_id="user", domain="domain").unique("source_id", maintain_order=True)
    users = users.with_columns(user=pl.int_range(0, len(users), dtype=pl.Int32))
    numbered = events.join(users.select("user", source="source_id"), left_on="user", right_on="source").join(
        items.select("source_id", number="item"), left_on="item", right_on="source_id"
    )
    by = ["user_right", "time", "order"] if interactions.has_times else ["user_right", "order"]
    numbered = numbered.sort(by)
    lengths = np.bincount(numbered["user_right"].to_numpy(), minlength=len(users))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    times = numbered["time"].to_numpy().astype(np.int64) if interactions.has_times else None
    kept = "split" in numbered.columns
    if kept:
        cut = given(numbered["split"])
    else:
        cut = leave_one_out(offsets) if settings.split == "leave_one_out" else global_time(offsets, times)
    first = ["item", "source_id", "title", "domain"]
    titles = items.select(pl.struct("domain", "title").is_duplicated().sum()).item()
    facts = {
        **interactions.facts,
        "source": settings.source,
        "split": "given" if kept else settings.split,
        "cleaning": steps.rows,
        "train_domains": _train_domains(items, interactions, settings),
        "duplicate_titles": int(titles),
    }
    return Corpus(
        items=items.select(*first, *[c for c in items.columns if c not in first]),
        users=users.select("user", "source_id", "domain"),
        offsets=offsets,
        sequence=numbered["number"].to_numpy().astype(np.int32),
        times=times,
        targets=cut[0],
        splits=cut[1],
        max_history=settings.max_history,
        facts=facts,
    ).check()


def _train_domains(items: pl.DataFrame, interactions: Interactions, settings: Data) -> list[str]:
    found = items["domain"].unique(maintain_order=True).to_list()
    wanted = settings.train_domains or interactions.domains_in
    if unknown := [d for d in wanted if d not in found]:
        raise ValueError(
            f"The training domains {unknown} have no items after cleaning; the corpus has {found}. "
            "Set data_train_domains to some of those."
        )
    return list(wanted)


def _positions(offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position of each interaction within its user, and its user's length (int64, both (T,))."""
    lengths = np.repeat(np.diff(offsets), np.diff(offsets))
    return np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets)), lengths
