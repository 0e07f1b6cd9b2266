"""Tab-separated files that every reader takes alike, whether it knows quotes or not.

The format has no rule for a text that holds a tab, a line break or a quote, and its readers disagree: TensorBoard and the
kit split lines at tabs, and pandas, with which RecBole reads, takes a quote at the beginning of a cell for an opening one
and words such as NA for nothing. So such texts are changed, as little as makes every reader see the same, and counted.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

BREAKS = r"[\x00-\x1f\x7f\u0085\u2028\u2029]+"  # tabs, and whatever some reader ends a line at or refuses
# Cells that pandas.read_csv takes for missing unless told otherwise.
PANDAS_MISSING = {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A"}
PANDAS_MISSING |= {"NA", "NULL", "NaN", "None", "n/a", "nan", "null"}


def write(table: pl.DataFrame, file: Path) -> str:
    """Write `table` with its header to `file`, a line a row, null as nothing; returns what of its texts was changed.

    That is a sentence, empty where nothing was. Tabs and control characters become a space, several in a row one; a text
    that begins with a quote or is a word for missing gets a space in front. The columns are numbers and texts.
    """
    broken = spaced = 0
    cells = {}
    for name in table.select(pl.col(pl.String)).columns:
        lines = _one_line(table[name])
        cells[name] = _apart(lines)
        broken, spaced = broken + int((lines != table[name]).sum()), spaced + int((cells[name] != lines).sum())
    whole = table.with_columns(**cells)
    whole.columns = _apart(_one_line(pl.Series(table.columns, dtype=pl.String))).to_list()
    whole.write_csv(file, separator="\t", quote_style="never")
    return _told(broken, spaced)


def _one_line(texts: pl.Series) -> pl.Series:
    return texts.str.replace_all(BREAKS, " ")


def _apart(texts: pl.Series) -> pl.Series:
    """With a space in front where pandas would see an opening quote or nothing."""
    misread = texts.str.starts_with('"') | texts.is_in(sorted(PANDAS_MISSING - {""}))
    return pl.select(pl.when(misread).then(" " + texts).otherwise(texts)).to_series()


def _told(broken: int, spaced: int) -> str:
    said = []
    if broken:
        said.append(f"{broken} with a tab, line break or other control character have a space in its place")
    if spaced:
        said.append(f'{spaced} that begin with a quote or are a word such as "NA" have a space in front')
    return f"Of the texts, {' and '.join(said)}." if said else ""
