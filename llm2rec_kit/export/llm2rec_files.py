"""A corpus as the files of the official LLM2Rec code; `data.sources.llm2rec_files` tells their layout and reads them."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from llm2rec_kit.corpus import Corpus
from llm2rec_kit.data.sources import CONTROL, mend_surrogates
from llm2rec_kit.data.sources.llm2rec_files import COLUMNS, TEXTS
from llm2rec_kit.storage import expand_home, is_free, write_json, write_whole_folder
from llm2rec_kit.storage.tab_separated import PANDAS_MISSING

EXPORT = "llm2rec_files.json"  # written last into a folder that `write` made


def write(corpus: Corpus, folder: str | Path, *, name: str = "") -> dict[str, int]:
    """Write `corpus` as the official code's files into `folder` (its `data/<name>/5-core`), whole or not at all.

    Item i is id i in downstream/ and i - 1 in the CSV files; a row holds up to `corpus.max_history` items and the target,
    rows in the corpus's order. `name` (default: the corpus's one domain, or "mixed") names the CSV and info files. data.txt
    holds each user's whole sequence, and the last id alone where nobody consumed it, because the official code takes the
    largest id there as the number of items. A folder that an earlier `write` made is replaced; ValueError for any other that
    is not empty. Returns the rows of each file, by train, valid, test, data and items, and as `read_as_missing` the titles
    that the official code's pandas will read as missing ("NA", "null", ...).
    """
    folder = expand_home(folder)
    if not is_free(folder) and not (folder / EXPORT).is_file():
        raise ValueError(f"{folder} is not empty and was not written by this function; give a new folder.")
    name = name or (corpus.domains[0] if len(corpus.domains) == 1 else "mixed")
    if name != Path(name).name or name.startswith("."):
        raise ValueError(f"The name of the files is one plain name; found {name!r}. Give another by name=.")
    titles = [mend_surrogates(re.sub(CONTROL, " ", t)) for t in corpus.titles]
    with write_whole_folder(folder) as part:
        counts = {"items": corpus.n_items, **_write_downstream(corpus, titles, part / "downstream")}
        _write_csv(corpus, titles, part, name)
        (part / "info").mkdir()
        _lines(part / "info" / f"{name}.txt", (f"{t}\t{i}" for i, t in enumerate(titles)))
        _lines(part / "info" / "item_titles.txt", titles)
        counts["read_as_missing"] = sum(t in PANDAS_MISSING for t in titles)
        write_json(part / EXPORT, {"name": name, "rows": counts, "split": corpus.facts.get("split")})
    return counts


def _write_downstream(corpus: Corpus, titles: list[str], folder: Path) -> dict[str, int]:
    folder.mkdir(parents=True)
    counts = {}
    for split, file in TEXTS.items():
        rows = _rows(corpus, split)
        counts[split] = _lines(folder / file, (" ".join(map(str, row)) for row in rows))
    pieces = itertools.pairwise(corpus.offsets)
    whole = [" ".join(map(str, corpus.sequence[a:b].tolist())) for a, b in pieces if b > a]
    if corpus.sequence.max(initial=0) < corpus.n_items:
        whole.append(str(corpus.n_items))
    counts["data"] = _lines(folder / "data.txt", whole)
    write_json(folder / "item_titles.json", {str(i): t for i, t in enumerate(titles, 1)})
    return counts


def _write_csv(corpus: Corpus, titles: list[str], folder: Path, name: str) -> None:
    quoted = [repr(t) for t in titles]
    users = corpus.users["source_id"].to_list()
    for split in TEXTS:
        (folder / split).mkdir()
        with (folder / split / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            out = csv.writer(file, lineterminator="\n")
            out.writerow(COLUMNS)
            owners = corpus.owners(corpus.samples(split)).tolist()
            for owner, row in zip(owners, _rows(corpus, split), strict=True):
                history, target = [i - 1 for i in row[:-1]], row[-1] - 1
                names = "[" + ", ".join(quoted[i] for i in history) + "]"
                out.writerow([users[owner], names, titles[target], str(history), target])


def _rows(corpus: Corpus, split: str) -> Iterator[list[int]]:
    """History and target of each sample of a split."""
    targets = corpus.samples(split)
    for start, target in zip(corpus.starts(targets).tolist(), targets.tolist(), strict=True):
        yield corpus.sequence[start : target + 1].tolist()


def _lines(file: Path, lines: Iterable[str]) -> int:
    count = 0
    with file.open("w", encoding="utf-8", newline="\n") as out:
        for line in lines:
            out.write(line + "\n")
            count += 1
    return count
