"""The files of the official LLM2Rec code, read: its samples and splits kept as they are. `export.llm2rec_files` writes them.

The released data (one zip on Google Drive, 406,437,924 bytes, id 1GIXWaaaNuUkUtuFy5JTN0OwAQiLGb2z4) unpacks to a folder a
category, `<Category>/5-core/`, where each sample is a row of its own:

downstream/{train,val,test}_data.txt   space-separated item ids, oldest first; the last is the target. Ids run 1..N, 0 is
                                       padding; the official code keeps a row's last 11. No user ids.
downstream/data.txt                    rows of ids, of which the official code takes the largest as the number of items
downstream/item_titles.json            {"1": title, ..., "N": title}
{train,valid,test}/<Category>*.csv     user_id, history_item_title, item_title, history_item_id, item_id, maybe more; the
                                       histories are Python lists inside cells. Ids run from 0: **0 is an item here**.
info/<Category>*.txt                   title, tab, id (or code, title, id, each after a tab), ids as in the CSV files
info/item_titles.txt                   a title a line (of the mix; what MNTP and the contrastive stage read)

The two id spaces are different permutations. Also read are CSV files side by side, `<name>.train.csv`, `<name>.info.txt`.
Where `downstream` is there it is what counts, so that item ids, and rows of the official embeddings, stay the same; users
are then taken from CSV files beside it whose rows agree one by one.

A corpus holds sequences, so rows that continue each other are joined: a row's history is what a sequence ended with. Each
sample keeps exactly its history, target and split; events that are history only have no split. Rows that continue nothing
(the train file is missing, say) begin a sequence, `user#2` where the user has one already. Without user ids the sequences
stand for users: identical beginnings of two users can be swapped, which changes no sample.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
from collections import defaultdict, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llm2rec_kit.data.json_lines import mend_surrogates
from llm2rec_kit.data.sources import CONTROL, Interactions, delimited, list_names, note_items, require_folder
from llm2rec_kit.settings import Data

TEXTS = {"train": "train_data.txt", "valid": "val_data.txt", "test": "test_data.txt"}
TITLES, NUMBER = "item_titles.json", "data.txt"
COLUMNS = ["user_id", "history_item_title", "item_title", "history_item_id", "item_id"]
NUMBERS = r"^\s*\[\s*[0-9]{1,18}(\s*,\s*[0-9]{1,18})*\s*\]\s*$"
NUMBERS_LINE = re.compile(r"\s*[0-9]{1,18}(\s+[0-9]{1,18})*\s*")
LARGEST_CELL = 1 << 20  # characters; no list of ids or titles is longer
Chain = tuple[str, list[int], list[str | None]]  # a sequence: user, items, split of each item or None
End = tuple[str, tuple[int, ...]]  # user, last items
LAYOUT = (
    "data_source 'llm2rec' expects the official code's files: a folder with train_data.txt, val_data.txt, test_data.txt and "
    "item_titles.json (or these in downstream/), or with train/, valid/ and test/ holding CSV files and info/ holding a .txt, "
    "or with <name>.train.csv, <name>.valid.csv, <name>.test.csv and <name>.info.txt"
)


@dataclass
class Samples:
    """Rows of the files: each a sample. `users` is empty where the files have none."""

    rows: list[tuple[int, ...]] = field(default_factory=list)  # history and target, ids as in the files
    splits: list[str] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    bad: dict[str, int] = field(default_factory=dict)

    def refuse(self, why: str, rows: int = 1) -> None:
        """Count rows that are left out."""
        if rows:
            self.bad[why] = self.bad.get(why, 0) + rows


def load(settings: Data) -> Interactions:
    """Load the samples in the folder `settings.path`; the domain is `settings.domain` or the category's name.

    Rows that are no sample (not numbers, fewer than two ids, an id without a title) are left out and counted. Raises
    ValueError where files are missing, empty or malformed as a whole, and where `settings.max_history` is more than the
    files' rows hold, since longer histories would not be the files' samples.
    """
    folder = require_folder(settings.path, LAYOUT)
    facts: dict[str, Any] = {"source": "llm2rec"}
    texts = _find_texts(folder)
    tables = _csv_files(folder)
    domain = settings.domain or _name(folder, tables)
    if texts is not None:
        titles, samples = _from_texts(texts, facts)
        samples.users = _users_beside(tables, samples, titles, facts)
    elif tables:
        titles, samples = _from_csv(folder, tables, facts)
    else:
        raise ValueError(f"{LAYOUT}; {folder} holds {list_names(folder)}.")
    if not samples.rows:
        raise ValueError(f"{folder}: no row is a sample; left out: {samples.bad or 'none, the files are empty'}.")
    most = settings.max_history if settings.given_splits else 0
    events, facts["longest_history"] = _events(samples, most)
    facts["splits_of_files"] = {s: samples.splits.count(s) for s in TEXTS}
    facts["sequences"] = events["user"].n_unique()
    ids = sorted(titles)
    columns = {"source_id": [str(i) for i in ids], "title": [titles[i] for i in ids], "domain": domain}
    items = pl.DataFrame(columns, schema_overrides={"title": pl.String})
    dropped = [("bad lines", n, why) for why, n in samples.bad.items()]
    return Interactions(items=items, events=events, domains_in=[domain], facts=facts, dropped=dropped)


def find_files(settings: Data) -> list[Path]:
    """Find the files that `load` reads; ValueError where the folder is missing or has several of a kind."""
    folder = require_folder(settings.path, LAYOUT)
    tables = [*_csv_files(folder).values()]
    if (texts := _find_texts(folder)) is not None:
        named = (texts / name for name in (*TEXTS.values(), TITLES, NUMBER))
        return [*tables, *(file for file in named if file.is_file())]
    info = _find_info(folder)
    return [*tables, *(info if tables and len(info) == 1 else [])]


def _find_texts(folder: Path) -> Path | None:
    return next((f for f in (folder, folder / "downstream") if (f / TEXTS["train"]).is_file()), None)


def _find_info(folder: Path) -> list[Path]:
    """The files of titles beside CSV files; one counts, several are none."""
    found = sorted(f for f in (folder / "info").glob("*.txt") if f.name != "item_titles.txt")
    return found or sorted(folder.glob("*.info.txt"))


def _from_texts(folder: Path, facts: dict[str, Any]) -> tuple[dict[int, str], Samples]:
    titles = _not_empty(_titles_json(folder / TITLES), facts)
    samples, known = Samples(), frozenset(titles)
    files = {split: folder / name for split, name in TEXTS.items() if (folder / name).is_file()}
    facts["files"] = [f.name for f in files.values()]
    facts["users_from"] = "none: sequences of rows that continue each other"
    for split, file in files.items():
        for line in _text(file).split("\n"):
            words = line.split()
            if words and not NUMBERS_LINE.fullmatch(line):
                samples.refuse(f"{file.name}: not numbers divided by spaces")
            elif words:
                _take(samples, tuple(map(int, words)), split, known, file.name)
    if (folder / NUMBER).is_file():
        ids = (int(w) for w in _text(folder / NUMBER).split() if w.isascii() and w.isdigit())
        facts["largest_id_in_data_txt"] = max(ids, default=0)
    return titles, samples


def _take(samples: Samples, row: tuple[int, ...], split: str, known: frozenset[int], file: str, user: str = "") -> None:
    if len(row) < 2:
        samples.refuse(f"{file}: fewer than two ids, so no history")
    elif not known.issuperset(row):
        samples.refuse(f"{file}: an id without a title")
    else:
        samples.rows.append(row)
        samples.splits.append(split)
        if user:
            samples.users.append(user)


def _titles_json(file: Path) -> dict[int, str]:
    if not file.is_file():
        raise ValueError(f"{file} is missing: it gives the items' titles. {LAYOUT}.")
    try:
        found = json.loads(_text(file))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}.") from None
    if not isinstance(found, dict) or not found:
        raise ValueError(f'{file} must be an object {{"1": title, "2": title, ...}}; found {type(found).__name__}.')
    for key, title in found.items():
        if not (key.isascii() and key.isdigit() and int(key) > 0 and isinstance(title, str)):
            raise ValueError(f"{file} must give ids from 1 a title each; found {key[:40]!r}: {title!r:.80}.")
    return {int(key): mend_surrogates(title) for key, title in found.items()}


def _csv_files(folder: Path) -> dict[str, Path]:
    """CSV file of each split that has one: `<split>/*.csv`, or `*.<split>.csv` in the folder."""
    found = {}
    for split in TEXTS:
        files = sorted((folder / split).glob("*.csv")) or sorted(folder.glob(f"*.{split}.csv"))
        if len(files) > 1:
            raise ValueError(
                f"{folder}: several CSV files of {split}, {[f.name for f in files]}; one is expected. {LAYOUT}."
            )
        if files:
            found[split] = files[0]
    return found


def _from_csv(folder: Path, files: dict[str, Path], facts: dict[str, Any]) -> tuple[dict[int, str], Samples]:
    samples = Samples()
    tables = {split: _table(file, samples) for split, file in files.items()}
    facts["files"] = [f.relative_to(folder).as_posix() for f in files.values()]
    named = all("user_id" in t.columns for t in tables.values())
    facts["users_from"] = "user_id" if named else "none: rows that continue each other"
    info = _find_info(folder)
    titles = _not_empty(_titles_info(info[0]) if len(info) == 1 else _titles_of([*tables.values()]), facts)
    facts["titles_from"] = info[0].name if len(info) == 1 else "the CSV files"
    known, unlike = frozenset(titles), 0
    for split, table in tables.items():
        name = files[split].name
        odd = table["user_id"].str.contains(CONTROL).fill_null(True).to_list() if named else itertools.repeat(False)
        users = table["user_id"].to_list() if named else itertools.repeat("")
        targets = table["item_id"].cast(pl.Int64, strict=False).to_list()
        own = table["item_title"].to_list()
        for user, no_user, history, target, title in zip(users, odd, _id_lists(table), targets, own, strict=False):
            if history is None or target is None:
                samples.refuse(f"{name}: history_item_id is no list of numbers, or item_id no number")
            elif no_user or (named and not user):
                samples.refuse(f"{name}: no user_id, or one with a control character")
            else:
                _take(samples, (*history, target), split, known, name, user)
                unlike += title != titles.get(target)
    if unlike:
        facts["titles_unlike_info"] = f"{unlike} rows name their item otherwise than {facts['titles_from']}; that one counts"
    return titles, samples


def _table(file: Path, samples: Samples | None = None) -> pl.DataFrame:
    # pandas wrote it, so backslashes are those of Python's lists
    table, few, why = delimited.read_texts(file, backslash=False)
    if samples is not None:
        samples.refuse(why, few)
    if missing := [c for c in COLUMNS[1:] if c not in table.columns]:
        raise ValueError(f"{file} must have the columns {COLUMNS}: {missing} missing, found {table.columns}.")
    return table.select([c for c in COLUMNS if c in table.columns])


def _id_lists(table: pl.DataFrame) -> list[list[int] | None]:
    """The cells of history_item_id as lists; None for a cell that is no list of whole numbers from 0."""
    cells = table["history_item_id"]
    plain = cells.str.contains(NUMBERS).fill_null(False)
    lists = cells.set(~plain, None).str.replace_all(r"[\[\]\s]", "").str.split(",").cast(pl.List(pl.Int64)).to_list()
    if not plain.all():
        lists = [_numbers(cell) if numbers is None else numbers for cell, numbers in zip(cells, lists, strict=True)]
    return lists


def _numbers(cell: str | None) -> list[int] | None:
    found = _literal(cell)
    if not isinstance(found, list):
        return None
    words = [str(v) for v in found if type(v) in (int, str)]
    return [int(w) for w in words] if len(words) == len(found) and all(w.isascii() and w.isdigit() for w in words) else None


def _literal(cell: str | None) -> Any:
    """The Python literal in a cell, or None. Literals only: no name, no call can be in it."""
    if cell is None or len(cell) > LARGEST_CELL:
        return None
    try:
        return ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None


def _titles_info(file: Path) -> dict[int, str]:
    titles: dict[int, str] = {}
    for number, line in enumerate(_text(file).split("\n"), 1):
        cells = line.removesuffix("\r").split("\t")
        if not line.strip():
            continue
        if len(cells) < 2 or not (cells[-1].isascii() and cells[-1].isdigit()):
            raise ValueError(f"{file}, line {number}: expected is a title, a tab and an id; found {line!r:.80}.")
        if not titles.get(int(cells[-1]), "").strip():  # the first title that holds something
            titles[int(cells[-1])] = cells[-2]
    if not titles:
        raise ValueError(f"{file} is empty: it gives the items' titles.")
    return titles


def _titles_of(tables: list[pl.DataFrame]) -> dict[int, str]:
    """Titles as the rows give them: of each target, and of the histories where an item is never a target."""
    titles: dict[int, str] = {}
    for table in tables:
        for item, title in zip(table["item_id"].cast(pl.Int64, strict=False), table["item_title"], strict=True):
            if item is not None and title is not None:
                titles.setdefault(item, title)
    for table in tables:
        for ids, cell in zip(_id_lists(table), table["history_item_title"], strict=True):
            if ids is None or all(i in titles for i in ids):
                continue
            names = _literal(cell)
            if isinstance(names, list) and len(names) == len(ids) and all(isinstance(n, str) for n in names):
                for i, n in zip(ids, names, strict=True):
                    titles.setdefault(i, mend_surrogates(n))
    return titles


def _not_empty(titles: dict[int, str], facts: dict[str, Any]) -> dict[int, str]:
    """The titles that hold something; of the others it is noted how many, and rows with their items have no title."""
    kept = {item: title for item, title in titles.items() if title.strip()}
    first = min(titles.keys() - kept.keys(), default=0)
    note_items(facts, len(titles) - len(kept), f"with an empty title, first that of item {first}")
    return kept


def _users_beside(files: dict[str, Path], samples: Samples, titles: dict[int, str], facts: dict[str, Any]) -> list[str]:
    """User of each sample, from CSV files that have the same rows: as many, with as long histories and the same titles."""
    users: list[str] = []
    for split in dict.fromkeys(samples.splits):
        rows = [r for r, s in zip(samples.rows, samples.splits, strict=True) if s == split]
        table = _table(files[split]) if split in files else None
        if table is None or len(table) != len(rows) or "user_id" not in table.columns or table["user_id"].null_count():
            return []
        lengths = [None if h is None else len(h) for h in _id_lists(table)]
        for row, length, title in zip(rows, lengths, table["item_title"], strict=True):
            if length != len(row) - 1 or title != titles[row[-1]]:
                return []
        users += table["user_id"].to_list()
    facts["users_from"] = "user_id of the CSV files beside, whose rows are the same"
    return users


def _events(samples: Samples, max_history: int) -> tuple[pl.DataFrame, int]:
    """Events (user, item, split) of the sequences that the samples make, and the longest history among them."""
    width = max(map(len, samples.rows)) - 1
    sequences, longer = _chained(samples, width)
    if longer and max_history > width:
        raise ValueError(
            f"The files' rows hold at most {width} items of history, and data_max_history is {max_history}: longer histories "
            f"would not be the files' samples. Set data_max_history to at most {width}, or data_given_splits to False to split "
            "anew."
        )
    names = _distinct([user for user, _, _ in sequences])
    lengths = [len(items) for _, items, _ in sequences]
    columns = {
        "user": pl.Series(names).gather(np.repeat(np.arange(len(names)), lengths)),
        "item": pl.Series([i for _, items, _ in sequences for i in items]).cast(pl.String),
        "split": pl.Series([m for _, _, marks in sequences for m in marks], dtype=pl.String),
    }
    return pl.DataFrame(columns), width


def _chained(samples: Samples, width: int) -> tuple[list[Chain], bool]:
    """Sequences, and whether some row's history is only the end of what is before.

    A row of fewer than `width` items of history has its user's whole past, so it continues a sequence that is just that; one
    of `width` continues a sequence that ends so.
    """
    ends: dict[End, deque[int]] = {}  # which sequences end so
    sequences: list[Chain] = []
    users = samples.users or itertools.repeat("")
    # Shorter histories first: what a row continues is then there, in whatever order the files have them.
    for row, split, user in sorted(zip(samples.rows, samples.splits, users, strict=False), key=lambda r: len(r[0])):
        history = row[:-1]
        if found := ends.get((user, history)):
            n = found.popleft()
        else:
            n = len(sequences)
            sequences.append((user, list(history), [None] * len(history)))
        sequences[n][1].append(row[-1])
        sequences[n][2].append(split)
        ends.setdefault((user, row[-width:]), deque()).append(n)
    return _rejoined(sequences, ends, width)


def _rejoined(sequences: list[Chain], ends: dict[End, deque[int]], width: int) -> tuple[list[Chain], bool]:
    """`sequences` with those put together of which one begins, with `width` items of history, as another ends."""
    follower: dict[int, int] = {}
    for n, (user, items, marks) in enumerate(sequences):
        if len(items) > width and marks[width - 1] is None and (found := ends.get((user, tuple(items[:width])))):
            follower[found.popleft()] = n
    whole, seen = [], set()
    starts = sorted(range(len(sequences)), key=set(follower.values()).__contains__)  # what follows nothing comes first;
    for n in starts:  # what is then still unseen follows itself in a ring, which is cut here
        user, items, marks = sequences[n]
        if n in seen:
            continue
        seen.add(n)
        while (n := follower.get(n, -1)) not in seen and n >= 0:
            seen.add(n)
            items += sequences[n][1][width:]
            marks += sequences[n][2][width:]
        whole.append((user, items, marks))
    return whole, any(len(items) > width + 1 and any(marks[width + 1 :]) for _, items, marks in whole)


def _distinct(owners: list[str]) -> list[str]:
    """Names of the sequences: the user's, `user#2` for a second one, and numbers where there are no users."""
    seen: dict[str, int] = defaultdict(int)
    names = []
    for n, owner in enumerate(owners):
        seen[owner] += 1
        names.append(str(n) if not owner else owner if seen[owner] == 1 else f"{owner}#{seen[owner]}")
    return names


def _text(file: Path) -> str:
    return delimited.decode_line(file, file.read_bytes().removeprefix(delimited.BOM))


def _name(folder: Path, tables: dict[str, Path]) -> str:
    """The category: `a` of a.train.csv, or the folder that holds 5-core/."""
    stems = {file.name.removesuffix(f".{split}.csv") for split, file in tables.items() if file.parent == folder}
    if len(stems) == 1:
        return stems.pop()
    while folder.name in ("downstream", "5-core", "clean") and folder.parent != folder:
        folder = folder.parent
    return folder.resolve().name
