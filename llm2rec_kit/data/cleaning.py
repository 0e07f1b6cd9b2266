"""Cleaning: interactions to a corpus, one named step after another, each saying what it dropped and why.

The order matters and is fixed: user subset, unknown items, title rules, no time, repeats, time window, short users, k-core,
split. The table of steps is kept in `corpus.facts["cleaning"]`; its unit is always the interaction.

Inside, an interaction is a few numbers in flat arrays (`events`). Each domain is split by itself (`splits`).

Events of a user with equal times stay in the order of the source's rows; `leakage` counts such ties.
"""

from __future__ import annotations

import html
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llm2rec_kit import paper_statistics
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.data import item_text, preconditions
from llm2rec_kit.data.events import (
    NO_TIME,
    Events,
    count_codes,
    find_first_positions,
    mark_first_events,
    mark_k_core,
    number_marked,
    number_rows,
    renumber,
)
from llm2rec_kit.data.sources import Interactions
from llm2rec_kit.data.splits import split, split_rules, take_given_splits
from llm2rec_kit.settings import Data

RELEASED_WORDS = 20  # most words of a title in the released data [C]
GENTLE_CHARACTERS = 2000  # most characters of a title: what is longer is damage or markup, not a name
LEAVE_ONE_OUT_LENGTH = 3  # history, validation target, test target
EARLIEST_YEAR = 1996  # as far back as a window's start moves [C]
NOT_OF_GIVEN = ("title_rules", "start", "end", "min_items", "repeats", "min_interactions", "split")  # what cleans and splits
REVIEWS = ("amazon",)  # sources where a second event of a pair is a second review, not a second purchase


class Steps:
    """The table of cleaning steps: what each dropped."""

    def __init__(self, interactions: Interactions, settings: Data) -> None:
        self.rows: list[dict[str, Any]] = []
        self.strict = settings.strict
        left = len(interactions.events) + sum(dropped for _, dropped, _ in interactions.dropped)
        for step, dropped, why in interactions.dropped:
            self.add(step, left, left - dropped, why)
            left -= dropped

    def add(self, step: str, before: int, after: int, why: str, *, fault: bool = False) -> None:
        """Add a step to the table; raise ValueError where it left nothing or, if strict, dropped what is a `fault`."""
        if fault and self.strict and before > after:
            raise ValueError(
                f"data_strict is on, and {before - after} of {before} interactions would have to be left out ({step}: {why}). "
                "Mend the source's files, or set data_strict to False to go on without those rows."
            )
        self.rows.append({"step": step, "rows_before": before, "rows_dropped": before - after, "why": why})
        if after == 0:
            raise ValueError(
                f"Nothing is left after the cleaning step {step!r} ({why}): it dropped all {before} "
                f"interactions. Dropped so far: {[(r['step'], r['rows_dropped']) for r in self.rows]}. "
                "Keep more users (data_users), lower data_min_interactions, widen data_start and data_end, or check the "
                "source's ids."
            )


def build_corpus(interactions: Interactions, settings: Data) -> Corpus:
    """Build the corpus of `interactions`: cleaned, numbered, sorted and split as `settings` say (paper sec. 4.1.1).

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
    there = interactions.items["domain"].unique(maintain_order=True).to_list()
    preconditions.check_train_domains(settings, [*there, *interactions.facts.get("domains_renamed", {})])
    if interactions.has_splits and settings.given_splits:
        return _as_given(interactions, settings)
    windowed = settings.start or settings.end or settings.min_items
    window = time_window(settings, interactions) if windowed else None
    rules = split_rules(interactions, settings)
    if (timed := [d for d, rule in rules.items() if rule == "global_time"]) and not interactions.has_times:
        raise ValueError(
            f"data_split {settings.split} needs timestamps (for the domains {timed}), and this source has none. Use leave_one_out."
        )
    item_text.find_fields(settings.text, interactions.items)
    steps = Steps(interactions, settings)
    items = interactions.items.unique("source_id", keep="first", maintain_order=True)
    events = _as_arrays(interactions, items, steps)
    _check_ids(interactions, items, events)
    events = _user_subset(events, interactions, settings, steps)
    items, events = _known_titles(items, events, settings.title_rules, steps)
    events = _timed_once(events, settings, steps)
    events, several = _user_a_domain(events, items)
    held = (items["domain"].replace_strict(rules) == "leave_one_out").to_numpy()
    events = _dense_part(events, held, window, settings, steps)
    if settings.min_interactions > 0:
        counts = np.bincount(events.item, minlength=len(items))
        items, events = _only_items(items, events, counts > 0)
    return _corpus(items, events, several, interactions, settings, steps, rules)


def clean_titles(items: pl.DataFrame, rules: str) -> pl.DataFrame:
    """Clean the titles of `items` and drop the items whose titles the rules refuse.

    released: drops no title, `<span id`, one character or less, more than 20 words (as split at single spaces);
    un-escapes &quot; and &amp;, strips spaces, then quotes [C: the published preprocessing of the released data].
    gentle: un-escapes every HTML entity, collapses white space; drops empty titles and those over 2,000 characters [O].
    """
    return _judged(items, rules).filter(pl.col("refused").is_null()).drop("refused")


def time_window(settings: Data, interactions: Interactions) -> tuple[datetime, datetime]:
    """Return the first moment kept and the first after, UTC, as `start` and `end` say; ValueError where they make no sense.

    `start` released: the window in the names of the released files, told by the data's domain [C].
    """
    if not interactions.has_times:
        raise ValueError("data_start, data_end and data_min_items need timestamps, and this source has none.")
    settings.check(("start", "min_items"))
    first, end = settings.start, settings.end
    if first == "released":
        domains = interactions.items["domain"].unique(maintain_order=True).to_list()
        first, last = paper_statistics.find_released_window(domains, settings.category)
        end = end or last
    window = _month(first, datetime.min), _month(end, datetime.max)
    if window[0] >= window[1]:
        raise ValueError(f"data_start {first} must be before data_end {end}.")
    return window


def _as_given(interactions: Interactions, settings: Data) -> Corpus:
    """The corpus of the source's own samples, as they are: of the rules only `settings.users` changes no history. Those that
    are off their default are told."""
    usual = Data()
    if ignored := [f"data_{name}" for name in NOT_OF_GIVEN if getattr(settings, name) != getattr(usual, name)]:
        print(
            f"{settings.source}: without effect, since the source's own samples are kept as they are (data_given_splits): "
            f"{', '.join(ignored)}",
            flush=True,
        )
    item_text.find_fields(settings.text, interactions.items)
    steps = Steps(interactions, settings)
    items = interactions.items.with_columns(pl.col("title").fill_null(""))
    events = _user_subset(_as_arrays(interactions, items, steps), interactions, settings, steps)
    if unknown := int((events.item < 0).sum()):
        raise ValueError(
            f"{unknown} events of the source's own samples have an item that its item table lacks; without them, histories "
            "would be others. Mend the source, or set data_given_splits to False to clean and split anew."
        )
    if events.time is not None and (untimed := int(np.count_nonzero(events.time == NO_TIME))):
        raise ValueError(
            f"{untimed} of {len(events)} events of the source's own samples have no time while others have, so their place in a "
            "history cannot be told. Give all of them a time, or none (then rows are in the order of consumption), or set "
            "data_given_splits to False to clean and split anew."
        )
    steps.add("given samples", len(events), len(events), "the source's own samples: titles as they are, no k-core")
    events, several = _user_a_domain(events, items)
    return _corpus(items, events, several, interactions, settings, steps)


def _as_arrays(interactions: Interactions, items: pl.DataFrame, steps: Steps) -> Events:
    """The events with ids as codes; those without a user or an item id are dropped."""
    frame = interactions.events
    users, names = _categorical(frame["user"]), _categorical(frame["item"])
    distinct = names.drop_nulls().unique()
    codes = distinct.to_physical()
    table = pl.DataFrame({"source_id": distinct.cast(pl.String), "code": codes})
    known = table.join(items.select("source_id", row=pl.int_range(pl.len())), on="source_id")
    rows = np.full(int(codes.to_numpy().max(initial=0)) + 2, -1, dtype=np.int32)
    rows[known["code"].to_numpy()] = known["row"].to_numpy()
    time = None
    if interactions.has_times:
        time = frame["time"].cast(pl.Int64).fill_null(NO_TIME).to_numpy()
    events = Events(number_rows(len(frame)), _codes(users), rows[_codes(names)], time)
    if users.null_count() or names.null_count():
        events = events.keep((users.is_not_null() & names.is_not_null()).to_numpy())
        steps.add("empty ids", len(frame), len(events), "no user or no item", fault=True)
    return events


def _codes(ids: pl.Series) -> NDArray[np.int32]:
    """The codes of categorical ids, -1 where there is none; where they have four bytes and none is missing, the very memory
    that holds them."""
    codes = ids.to_physical()
    if codes.dtype == pl.UInt32 and not codes.null_count():
        return codes.to_numpy().view(np.int32)
    return codes.cast(pl.Int32).fill_null(-1).to_numpy()


def _categorical(ids: pl.Series) -> pl.Series:
    """Ids as codes of a table of their own, which goes when they go; a source may have made them so already."""
    return ids if isinstance(ids.dtype, pl.Categorical) else ids.cast(pl.String).cast(pl.Categorical(pl.Categories.random()))


def _user_subset(events: Events, interactions: Interactions, settings: Data, steps: Steps) -> Events:
    if settings.users <= 0:
        return events
    first = find_first_positions(events.user)
    codes = np.flatnonzero(first >= 0)
    if settings.users >= len(codes):
        return events
    names = interactions.events["user"].gather(events.row[first[codes]]).cast(pl.String)
    drawn = np.random.default_rng(settings.seed).choice(len(codes), settings.users, replace=False)
    chosen = np.zeros(len(first), dtype=bool)
    chosen[codes[names.arg_sort().to_numpy()[drawn]]] = True  # of the sorted names: the draw does not depend on rows' order
    kept = events.keep(chosen[events.user])
    steps.add("user subset", len(events), len(kept), f"{settings.users} of {len(codes)} users, seed {settings.seed}")
    return kept


def _check_ids(interactions: Interactions, items: pl.DataFrame, events: Events) -> None:
    """Raise ValueError, with an id of either side, where no event's item is in the item table: they are written otherwise."""
    if len(events) and (events.item < 0).all():
        asked = str(interactions.events["item"][int(events.row[0])])
        known = f"the table has {items['source_id'][0]!r}" if len(items) else "the table has no item"
        raise ValueError(
            f"Nothing is left: none of the {len(events)} interactions is with an item of the item table: one is with {asked!r}, "
            f"{known}. Write the ids alike in both: they are compared as text."
        )


def _known_titles(items: pl.DataFrame, events: Events, rules: str, steps: Steps) -> tuple[pl.DataFrame, Events]:
    known = int(np.count_nonzero(events.item >= 0))
    steps.add("unknown items", len(events), known, "the item is not in the item table", fault=True)
    judged = _judged(items, rules)
    titled, kept = _only_items(judged, events, judged["refused"].is_null().to_numpy())
    reasons = judged["refused"].drop_nulls().value_counts()
    why = ", ".join(f"{reason} {n}" for reason, n in reasons.sort("count", "refused", descending=[True, False]).iter_rows())
    refused = len(items) - len(titled)
    text = f"rules {rules!r} refuse the titles of {refused} of {len(items)} items" + (f": {why}" if why else "")
    steps.add("title rules", known, len(kept), text)
    return titled.drop("refused"), kept


def _judged(items: pl.DataFrame, rules: str) -> pl.DataFrame:
    """`items` with cleaned titles and the column `refused`: why the rules refuse the title, or null."""
    title, words = pl.col("title"), pl.col("title").str.count_matches(" ", literal=True) + 1
    if rules == "released":
        markup = title.str.contains("<span id", literal=True)
        unescaped = title.str.replace_all("&quot;", '"', literal=True).str.replace_all("&amp;", "&", literal=True)
        cleaned = unescaped.str.strip_chars(" ").str.strip_chars('"')
        before = pl.when(title.is_null()).then(pl.lit("none")).when(markup).then(pl.lit("markup"))
        short, long = title.str.len_chars() <= 1, words > RELEASED_WORDS
        after = pl.when(short).then(pl.lit("one character or less")).when(long).then(pl.lit(f"over {RELEASED_WORDS} words"))
        marked = items.with_columns(refused=before, title=cleaned)
        return marked.with_columns(refused=pl.coalesce("refused", after))
    texts = [html.unescape(t) if t and "&" in t else t for t in items["title"].to_list()]
    titles = pl.Series("title", texts, dtype=pl.String).str.replace_all(r"\s+", " ").str.strip_chars()
    empty, long = title.is_null() | (title == ""), title.str.len_chars() > GENTLE_CHARACTERS
    refused = pl.when(empty).then(pl.lit("none")).when(long).then(pl.lit(f"over {GENTLE_CHARACTERS} characters"))
    return items.with_columns(titles).with_columns(refused=refused)


def _only_items(items: pl.DataFrame, events: Events, wanted: NDArray[np.bool_]) -> tuple[pl.DataFrame, Events]:
    """The items in the mask `wanted`, and their events with the items' new rows; events of no item (-1) are left out."""
    rows = np.append(np.where(wanted, number_marked(wanted), np.int32(-1)), np.int32(-1))
    left = Events(events.row, events.user, rows[events.item], events.time)
    return items.filter(wanted), left.keep(left.item >= 0)


def _timed_once(events: Events, settings: Data, steps: Steps) -> Events:
    """Events with a time, where the source has times, and no repeats; with `keep` those of equal time: 3 to 5% of released
    targets repeat one [R]."""
    same_time = settings.repeats == "keep" or (settings.repeats == "auto" and settings.source not in REVIEWS)
    if events.time is None and same_time:
        return events
    timed = events if events.time is None else events.keep(events.time != NO_TIME)
    if len(timed) < len(events):
        steps.add("no time", len(events), len(timed), "the event has no timestamp while others have", fault=True)
    order = timed.row if timed.time is None else timed.time  # without times, rows are in the order of consumption
    once = timed.keep(mark_first_events(timed.user, timed.item, order, same_time=same_time))
    if same_time:
        steps.add("repeated rows", len(timed), len(once), "same user, item and time; the first is kept")
    else:
        steps.add("later reviews", len(timed), len(once), "the user has an earlier event with the item; the earliest counts")
    return once


def _user_a_domain(events: Events, items: pl.DataFrame) -> tuple[Events, NDArray[np.bool_]]:
    """Events with a user for each domain of a user, and whether each new user (bool, by code) is one of several."""
    n_domains = items["domain"].n_unique()
    if n_domains < 2:
        return events, np.zeros(int(events.user.max(initial=0)) + 1, dtype=bool)
    of_items = items["domain"].rank("dense").to_numpy().astype(np.int64) - 1
    pairs = events.user.astype(np.int64) * n_domains + of_items[events.item]
    owners = np.flatnonzero(np.bincount(pairs)) // n_domains
    several = np.bincount(owners)[owners] > 1
    return Events(events.row, renumber(pairs).astype(np.int32), events.item, events.time), several


def _dense_part(
    events: Events, held: NDArray[np.bool_], window: tuple[datetime, datetime] | None, settings: Data, steps: Steps
) -> Events:
    """Events in the window that are left after the short users and the k-core; the window's start may move back."""
    if window is None:
        core, rows = _core(events, held, settings)
    else:
        (start, end), times, tried = window, events.times, []
        while True:
            inside = events.keep((times >= _milliseconds(start)) & (times < _milliseconds(end)))
            core, rows = _core(inside, held, settings)
            found = np.count_nonzero(np.bincount(core.item)) if len(core) else 0
            if found >= settings.min_items or start.year <= EARLIEST_YEAR:
                break
            tried.append(f"{start:%Y-%m} leaves {found} items")
            start = start.replace(year=start.year - 1)
        shown = f"outside {_shown(start, 'the beginning')} to {_shown(end, 'the end')}"
        moved = f"; moved back, since {', '.join(tried)} of {settings.min_items}" if tried else ""
        steps.add("time window", len(events), len(inside), shown + moved)
    for row in rows:
        steps.add(*row)
    return core


def _core(events: Events, held: NDArray[np.bool_], settings: Data) -> tuple[Events, list[tuple[str, int, int, str]]]:
    """Events left after the short users and the k-core, and the rows about both; `held` (bool, an item): leave-one-out."""
    k, rows, left = settings.min_interactions, [], len(events)
    if held.any() and len(events):
        long_enough = (count_codes(events.user) >= LEAVE_ONE_OUT_LENGTH)[events.user] | ~held[events.item]
        where = "" if held.all() else ", in domains so split"
        why = f"fewer than {LEAVE_ONE_OUT_LENGTH} interactions for leave_one_out{where}"
        left = int(np.count_nonzero(long_enough))
        rows.append(("short users", len(events), left, why))
        if not (k > 0 and left):
            events = events.keep(long_enough)
    if k > 0 and left:
        kept = events.keep(_in_core(events, held[events.item], k))  # which drops the short users, too
        rows.append((f"{k}-core", left, len(kept), f"users and items with fewer than {k} interactions, repeatedly"))
        events = kept
    return events, rows


def _in_core(events: Events, held: NDArray[np.bool_], k: int) -> NDArray[np.bool_]:
    """Mask (bool) of the k-core; a user needs three events at least where `held` (bool, one an event)."""
    if held.all() or not held.any():
        return mark_k_core(events.user, events.item, max(k, LEAVE_ONE_OUT_LENGTH) if held.any() else k, k)
    mask = np.zeros(len(events), dtype=bool)
    for part, least in ((held, max(k, LEAVE_ONE_OUT_LENGTH)), (~held, k)):  # they share no user and no item
        mask[part] = mark_k_core(events.user[part], events.item[part], least, k)
    return mask


def _corpus(
    items: pl.DataFrame,
    events: Events,
    several: NDArray[np.bool_],
    interactions: Interactions,
    settings: Data,
    steps: Steps,
    rules: dict[str, str] | None = None,
) -> Corpus:
    """The corpus of cleaned events, split by `rules`, or as the source says where there are none."""
    # Users are numbered by their first event: `first` is where that stands, in the source's order.
    first = find_first_positions(events.user)
    first = np.sort(first[first >= 0])
    numbers = np.empty(len(several), dtype=np.int32)
    numbers[events.user[first]] = np.arange(len(first))
    owner = numbers[events.user]
    by = (owner,) if events.time is None else (events.time, owner)
    order = np.lexsort(by)  # stable: what is equal stays in the source's order
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner))]).astype(np.int64)
    times = None if events.time is None else events.time[order]
    domains = items["domain"].gather(events.item[first])
    if rules is None:
        targets, splits = take_given_splits(interactions.events["split"].gather(events.row[order]))
    else:
        targets, splits = split(offsets, times, domains, rules)
    columns = ["item", "source_id", "title", "domain"]
    items = item_text.render_texts(items, settings.text, settings.text_words)
    items = items.with_columns(item=pl.int_range(1, len(items) + 1, dtype=pl.Int32))
    found = items["domain"].unique(maintain_order=True).to_list()
    facts = {
        **interactions.facts,
        "source": settings.source,
        "split": settings.split if rules else "given",
        **({"split_rules": {d: rules[d] for d in found}} if rules and settings.split == "released" else {}),
        "cleaning": steps.rows,
        "train_domains": _train_domains(found, interactions, settings),
        "duplicate_titles": int(items.select(pl.struct("domain", "title").is_duplicated().sum()).item()),
    }
    return Corpus(
        items=items.select(*columns, *[c for c in items.columns if c not in columns]),
        users=_users(interactions.events["user"].gather(events.row[first]), domains, several[events.user[first]]),
        offsets=offsets,
        sequence=events.item[order] + np.int32(1),
        times=times,
        targets=targets,
        splits=splits,
        max_history=settings.max_history,
        facts=facts,
    ).check()


def _users(names: pl.Series, domains: pl.Series, several: np.ndarray) -> pl.DataFrame:
    """user, source_id and domain; behind the id of one who is `several` users here, one a domain, stands which."""
    number = pl.int_range(len(names), dtype=pl.Int32, eager=True).alias("user")
    users = pl.DataFrame([number, names.cast(pl.String).alias("source_id"), domains.alias("domain")])
    told_apart = pl.when(pl.Series(several)).then(pl.col("source_id") + "@" + pl.col("domain")).otherwise("source_id")
    return users.with_columns(source_id=told_apart)


def _train_domains(found: list[str], interactions: Interactions, settings: Data) -> list[str]:
    renamed = interactions.facts.get("domains_renamed", {})
    named = [renamed.get(domain, domain) for domain in settings.train_domains]
    wanted = paper_statistics.match_domains(named, found) or interactions.domains_in
    if unknown := [d for d in wanted if d not in found]:
        raise ValueError(
            f"The training domains {unknown} have no items after cleaning; the corpus has {found}. "
            "Set data_train_domains to some of those."
        )
    return list(wanted)


def _month(text: str, otherwise: datetime) -> datetime:
    """The first moment of a month written as 2014-09 (UTC), as settings of this form are; `otherwise` for empty text."""
    return datetime.strptime(text, "%Y-%m") if text else otherwise


def _milliseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1)) // timedelta(milliseconds=1)


def _shown(moment: datetime, at_the_limit: str) -> str:
    return at_the_limit if moment in (datetime.min, datetime.max) else f"{moment:%Y-%m}"
