"""Sources: where interactions come from. One file a source, each with `load(settings) -> Interactions`.

Beside it `find_files(settings)` names the files that `load` opens. A loader reads and says what it dropped; it does not clean, filter or split, which `llm2rec_kit.data.cleaning` does. What no
source may hand on (ids that no layout can carry, times that cannot be) is left out, and counted, by `keep_sound_rows`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl

from llm2rec_kit.corpus import folder_names
from llm2rec_kit.data import json_lines
from llm2rec_kit.data.json_lines import mend_surrogates as mend_surrogates
from llm2rec_kit.data.times import LATEST
from llm2rec_kit.paper_statistics import find_released_window
from llm2rec_kit.runs import info
from llm2rec_kit.runs.records import check_record
from llm2rec_kit.settings import Data, SettingsError, name_fields, own_parts
from llm2rec_kit.settings.ranges import clip
from llm2rec_kit.storage import expand_home, hash_file_once, read_json

MODULES = {name: name for name in ("synthetic", "amazon", "goodreads", "movielens")}
MODULES |= {"llm2rec": "llm2rec_files", "recbole": "recbole_files", "table": "tables"}
OWN_NAMES = ("item", "plain_title", "popularity", "cluster", "community")  # columns that the kit gives items itself
CHOSEN = "chosen: "
DOWNLOAD_MANIFEST = ".download.json"  # written beside a file that downloads.fetch brought
CONTROL = r"[\x00-\x1f\x7f\u0085\u2028\u2029]"  # characters that end a line or a field in some file layout
LONGEST_TITLE = 10_000  # characters; what is longer is no title
STEPS_BELOW = 100_000_000_000  # milliseconds: the year 1973; where all times are before it, they count something
_TEXT, _ID = (pl.String, "String"), (pl.String | pl.Categorical, "String or Categorical")
_TIME = (pl.datatypes.classes.NumericType | pl.Null, "Int64, milliseconds since 1970")
ITEM_KINDS = dict.fromkeys(("source_id", "title", "domain"), _TEXT)  # the type of each column, and its name in words
EVENT_KINDS = {"user": _ID, "item": _ID, "time": _TIME, "split": (pl.String | pl.Null, "String")}
Dropped = tuple[str, int, str]  # step, events that it dropped, why


@dataclass(frozen=True)
class Interactions:
    """What a source holds, before cleaning.

    items       DataFrame: source_id, title, domain (String), further text columns as found; one row an item.
    events      DataFrame: user, item (String: the source's own ids; Categorical where there are very many), time (Int64,
                milliseconds since 1970; absent or all null where the source has none). Without times, row order is the
                order of consumption of a user.
                A source that brings its own samples adds `split` (String): train, valid or test where the event is a
                sample's target, null where it is history only.
    domains_in  in-domain domains: those that training sees by default.
    facts       plain values worth keeping: source, files, what was assumed.
    dropped     whatever the loader left out; a step that begins with `CHOSEN` is a setting's choice, no fault of the data.
    """

    items: pl.DataFrame
    events: pl.DataFrame
    domains_in: list[str]
    facts: dict[str, Any] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)

    def __post_init__(self) -> None:
        require_columns(self.items, ["source_id", "title", "domain"], "the items of a source")
        require_columns(self.events, ["user", "item"], "the events of a source")
        odd = [
            f"{column} of its {name} is {found}, expected is {expected}"
            for name, frame, kinds in (("items", self.items, ITEM_KINDS), ("events", self.events, EVENT_KINDS))
            for column, (kind, expected) in kinds.items()
            if (found := frame.schema.get(column)) is not None and not isinstance(found, kind)
        ]
        if odd:
            raise ValueError(f"Of the Interactions of a source {'; '.join(odd)}. Cast these columns.")
        check_record("The facts of the Interactions of a source", self.facts)

    @property
    def has_times(self) -> bool:
        """Whether the events carry timestamps."""
        return "time" in self.events.columns and self.events["time"].null_count() < len(self.events)

    @property
    def has_splits(self) -> bool:
        """Whether the source says itself which events are samples, and of which split."""
        return "split" in self.events.columns


def load(settings: Data) -> Interactions:
    """Load what `settings.source` holds; ValueError where files are missing or malformed or, if strict, rows left out."""
    check_unread(settings)
    loads = _module(settings).load if settings.source in MODULES else _own
    found = keep_sound_rows(_drop_own_names(loads(settings), settings.source))
    faults = [(step, n, why) for step, n, why in found.dropped if not step.startswith(CHOSEN)]
    items = [found.facts["item_rows_dropped"]] if "item_rows_dropped" in found.facts else []
    if settings.strict and (faults or items):
        lost = "; ".join([*(f"{n} interactions ({step}: {why})" for step, n, why in faults), *items])
        raise ValueError(
            f"data_strict is on, and rows of the source {settings.source!r} had to be left out: {lost}. "
            "Mend the source's files, or set data_strict to False to go on without those rows."
        )
    if renamed := found.facts.get("domains_renamed"):
        changes = ", ".join(f"{domain!r} is {name!r}" for domain, name in renamed.items())
        print(f"{settings.source}: domains renamed, so that folders can be: {changes}", flush=True)
    if faults or items:
        lost = "; ".join([*(f"{n} interactions ({step})" for step, n, _ in faults), *items])
        print(f"{settings.source}: left out {lost}", flush=True)
    return found


def check_unread(settings: Data) -> None:
    """Raise ValueError for what `settings` ask and the source cannot have, whatever is in its files: a large one takes hours."""
    if not (fields := getattr(_module(settings), "FIELDS", ()) if settings.source in MODULES else ()):
        return
    name_fields(settings.text, fields, f"the items of {settings.source!r}")
    if settings.start == "released" and (domains := tell_domains(settings)):
        find_released_window(domains[:1], settings.category)


def tell_domains(settings: Data) -> list[str]:
    """Return the names of the only domain that the source will have, where settings tell it, unread: as they say it, and as
    folders can be named. Empty where the files tell."""
    from llm2rec_kit.data.sources import amazon

    if settings.source not in MODULES or settings.source in ("synthetic", "table"):
        return []
    one = settings.domain or (amazon.tell_domain(settings) if settings.source == "amazon" else "")
    return list(dict.fromkeys([one, *folder_names([one]).values()])) if one else []


def _module(settings: Data) -> ModuleType:
    return importlib.import_module(f"{__name__}.{MODULES[settings.source]}")


def _own(settings: Data) -> Interactions:
    """What a source of one's own gives (`own_parts.source`); SettingsError where it fails or gives something else."""
    own = own_parts.find("source", settings.source)
    found = own_parts.call(own, own.make, settings)
    if isinstance(found, Interactions):
        return found
    if not isinstance(found, tuple) or len(found) != 2:
        raise SettingsError(
            f"The {own} must give two frames, of events and of items, or Interactions; found {type(found).__name__}."
        )
    from llm2rec_kit.data.sources import tables

    what = (f"the events of the {own}", f"the items of the {own}")
    return tables.from_pair(*found, settings, what)


def _drop_own_names(found: Interactions, source: str) -> Interactions:
    """`found` without the columns of items that the kit gives them later, which would stand for its own, or clash with them;
    noted in the facts and printed."""
    if not (names := [name for name in OWN_NAMES if name in found.items.columns]):
        return found
    said = f"{', '.join(names)} (names that the kit gives itself)"
    print(f"{source}: columns left out: {said}", flush=True)
    before = [found.facts["columns_left_out"]] if "columns_left_out" in found.facts else []
    facts = found.facts | {"columns_left_out": "; ".join([*before, said])}
    return replace(found, items=found.items.drop(names), facts=facts)


def keep_sound_rows(found: Interactions) -> Interactions:
    """Drop from `found` what no stage can use; every row left out is counted in `dropped` or in the facts.

    Domains become names of folders, since results are kept under them (`corpus.folder_names`, which refuses two of one
    name). Events: no user or item id; an id with a newline, tab or other control character; a time at or before 1970, or
    after 2100; step numbers from 0 are not dropped but begin at 1. Items: no id, an id seen before, an id with a control character, a title of more than 10,000 characters.
    Control characters in titles become spaces.
    """
    facts, dropped = dict(found.facts), list(found.dropped)
    named = folder_names(found.items["domain"].unique(maintain_order=True))
    if renamed := {domain: name for domain, name in named.items() if domain != name}:
        facts["domains_renamed"] = renamed
    items = keep_first_of_each_item(found.items.with_columns(pl.col("domain").replace(renamed)), facts)
    items = _kept_items(items, ~pl.col("source_id").str.contains(CONTROL), "with control characters in the id", facts)
    short = pl.col("title").str.len_chars().fill_null(0) <= LONGEST_TITLE
    items = _kept_items(items, short, f"with a title of more than {LONGEST_TITLE:,} characters", facts)
    if mended := items["title"].str.contains(CONTROL).sum():
        facts["titles_with_control_characters"] = f"{mended}, each such character made a space"
        items = items.with_columns(pl.col("title").str.replace_all(CONTROL, " "))
    events = found.events
    for step, test, why in (
        ("empty ids", lambda ids: ids.is_null() | (ids == ""), "no user or no item"),
        ("odd ids", lambda ids: ids.str.contains(CONTROL), "a newline, tab or other control character in an id"),
    ):
        events = leave_out(events, _refused(events["user"], test) | _refused(events["item"], test), step, why, dropped)
    if events.schema.get("time", pl.Null) != pl.Null:
        events = _count_from_one(events, facts)
        bad = ~events["time"].is_between(1, LATEST).fill_null(True)
        events = leave_out(events, bad, "bad times", "at or before 1970, or after 2100", dropped)
    within = [renamed.get(domain, domain) for domain in found.domains_in]
    return replace(found, items=items, events=events, domains_in=within, facts=facts, dropped=dropped)


def _count_from_one(events: pl.DataFrame, facts: dict[str, Any]) -> pl.DataFrame:
    """`events` one millisecond later where their times are step numbers from 0, which is told: 0 is no time."""
    time = pl.col("time")
    if not events.select((time.min() == 0) & time.max().is_between(1, STEPS_BELOW - 1)).item():
        return events
    facts["time_steps"] = "times are small numbers from 0, taken for steps; each is counted 1 ms later, since 0 is no time"
    print(f"{facts.get('source', 'source')}: {facts['time_steps']}", flush=True)
    return events.with_columns(pl.col("time") + 1)


def hash_files(settings: Data) -> dict[str, str]:
    """Compute the sha256 of each file that the source reads, by name, and of a source of one's own."""
    root = expand_home(settings.path)
    files = {p.relative_to(root.parent).as_posix(): hash_file_once(p) for p in _files(settings)}
    return files | own_parts.hash_part("source", settings.source)


def match_files(settings: Data, now: dict[str, str], recorded: dict[str, str]) -> dict[str, str]:
    """Return `recorded`, the files of a finished corpus, where they say the same as `now`, those of `hash_files`; else `now`.

    Earlier drafts recorded every file under `settings.path`. What they have beside the files that are read, and that still
    lies there, made nothing of the corpus, whatever became of it; what is gone may have been read.
    """
    if not settings.path:
        return now
    root = expand_home(settings.path)
    same = (now or settings.source == "synthetic") and all(recorded.get(name) == digest for name, digest in now.items())
    return recorded if same and all((root.parent / name).is_file() for name in recorded.keys() - now.keys()) else now


def read_raw_lines(settings: Data, lines: int = 2, longest: int = 300) -> pl.DataFrame:
    """Read the first lines of the source's files (file, line, text), cut at `longest` characters; of no text, its size, and
    of what cannot be read, why."""
    rows: list[tuple[str, int | None, str]] = []
    for path in _files(settings):
        if path.suffix in (".parquet", ".zip"):
            rows.append((path.name, None, f"({path.stat().st_size:,} bytes, not text)"))
            continue
        try:
            texts: list[tuple[int | None, str]] = [*enumerate(json_lines.read_first_lines(path, lines), 1)]
        except (ValueError, OSError) as error:
            texts = [(None, f"({error})")]
        rows += [(path.name, number, text if len(text) <= longest else f"{text[:longest]} …") for number, text in texts]
    return pl.DataFrame(rows, schema={"file": pl.String, "line": pl.Int64, "text": pl.String}, orient="row")


def _files(settings: Data) -> list[Path]:
    """The files that the source reads: of the kit's those that its module's `load` opens, of one's own all there are."""
    root = expand_home(settings.path)
    if not settings.path or not root.exists() or settings.source in ("mix", "synthetic"):
        return []
    if settings.source not in MODULES:
        return list_files(root)
    try:
        named: list[Path] = _module(settings).find_files(settings)
    except ValueError:  # the files are not what `load` takes, which it says better
        return []
    return [path for path in named if path.is_file()]


def list_files(root: Path) -> list[Path]:
    """List the files under `root`, also behind links to folders, but hidden ones, manifests and runs of the kit; a file is
    the only one."""
    found = [] if root.is_dir() else [root]
    for folder, folders, files in os.walk(root, followlinks=True):
        below = [Path(folder, name) for name in folders if not name.startswith(".")]
        folders[:] = [path.name for path in below if not _leads_back(path, root) and not _holds_runs(path)]
        found += [Path(folder, name) for name in files]
    return sorted(p for p in found if not p.name.startswith(".") and not p.name.endswith(DOWNLOAD_MANIFEST) and p.is_file())


def _leads_back(folder: Path, root: Path) -> bool:
    """Whether `folder` is a link to a folder that holds it, on the way from `root` or above that: a walk would not end."""
    if not folder.is_symlink():
        return False
    target, above = folder.resolve(), (p for p in folder.parents if p.is_relative_to(root))
    return any(p.resolve().is_relative_to(target) for p in above)


def _holds_runs(folder: Path) -> bool:
    """Whether `folder` is a run of the kit or holds some, as outputs/ does: what is made of a source is no part of it."""
    for note in (folder / info.FILE, *folder.glob(f"*/{info.FILE}")):
        with contextlib.suppress(ValueError, OSError):
            if info.PARTS.keys() <= read_json(note).keys():
                return True
    return False


def require_columns(frame: pl.DataFrame, wanted: list[str], what: str) -> None:
    """Raise ValueError naming the missing and the found columns of `frame`."""
    if missing := [c for c in wanted if c not in frame.columns]:
        raise ValueError(f"{what} must have the columns {wanted}: {missing} missing, found {frame.columns}.")


def keep_first_of_each_item(items: pl.DataFrame, facts: dict[str, Any]) -> pl.DataFrame:
    """Drop empty ids and keep one row of each source_id, its first with a title; notes in `facts` how many were dropped."""
    named = items.filter(pl.col("source_id").is_not_null() & (pl.col("source_id") != ""))
    kept = keep_first_titled(named)
    note_items(facts, len(items) - len(kept), "with no id or an id seen before")
    return kept


def keep_first_titled(items: pl.DataFrame) -> pl.DataFrame:
    """Keep each source_id's first row with a title, else its first row, in the order of the first rows."""
    first = items.unique("source_id", keep="first", maintain_order=True)
    if len(first) == len(items) or not _blank(first["title"]).any():
        return first
    rows = pl.DataFrame({"id": items["source_id"], "row": pl.int_range(len(items), eager=True)})
    titled = rows.filter(~_blank(items["title"])).unique("id", keep="first").rename({"row": "titled"})
    rows = rows.unique("id", keep="first", maintain_order=True).join(titled, on="id", how="left", maintain_order="left")
    return items[rows.select(pl.coalesce("titled", "row")).to_series()]


def _blank(titles: pl.Series) -> pl.Series:
    return (titles.str.strip_chars() == "").fill_null(True)


def note_items(facts: dict[str, Any], rows: int, why: str) -> None:
    """Add to `facts["item_rows_dropped"]` that `rows` rows of the item table, `why`, were left out (nothing for 0)."""
    if rows:
        facts["item_rows_dropped"] = "; ".join([*filter(None, [facts.get("item_rows_dropped")]), f"{rows} rows {why}"])


def require_folder(path: str, layout: str) -> Path:
    """Return the folder `path` (data_path); ValueError with the sentence `layout` where it is empty or no folder."""
    if not path:
        raise ValueError(f"{layout}; data_path is empty: set it to that folder.")
    folder = expand_home(path)
    if not os.path.isdir(folder):
        kind = "is a file" if os.path.exists(folder) else "does not exist"
        raise ValueError(f"{layout}; {clip(str(folder))} {kind}. Set data_path to the folder of the files.")
    return folder


def list_names(folder: Path) -> list[str]:
    """List the first 20 names in `folder`, for an error that says what was found instead."""
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))[:20]


def _kept_items(items: pl.DataFrame, good: pl.Expr, why: str, facts: dict[str, Any]) -> pl.DataFrame:
    kept = items.filter(good)
    note_items(facts, len(items) - len(kept), why)
    return kept


def _refused(ids: pl.Series, test: Callable[[pl.Series], pl.Series]) -> pl.Series:
    """Where (bool) `test` holds for an id; of categoricals each distinct one is judged once."""
    if not isinstance(ids.dtype, pl.Categorical):
        return test(ids).fill_null(False)
    distinct = ids.unique()
    bad = distinct.filter(test(distinct.cast(pl.String)).fill_null(False))
    return ids.to_physical().is_in(bad.to_physical().implode(), nulls_equal=True)


def leave_out(events: pl.DataFrame, bad: pl.Series, step: str, why: str, dropped: list[Dropped]) -> pl.DataFrame:
    """Drop the events where `bad` (bool) holds, and note in `dropped` how many, in which `step` and why."""
    if not (rows := int(bad.sum())):
        return events  # no copy: at full size it would be gigabytes
    dropped.append((step, rows, why))
    return events.filter(~bad)
