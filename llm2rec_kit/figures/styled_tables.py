"""How a notebook shows a table: names, then verdict and corrected p, then the numbers; no quotes, types or shapes.

One call in a notebook's first cell does it for every polars frame that any cell shows. Styles stand in the cells themselves,
and colours are see-through: JupyterLab takes style sheets away from notebooks that it does not trust, and its theme may be
dark.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any

import polars as pl

NAMES = ("table", "domain", "recommender", "question", "before", "after")  # of a test: what was compared with what
SAID = ("verdict", "p_holm", "agreement")  # of a test: what came out; it stands behind the names
WAYS = {  # columns whose numbers have other digits than four behind the point; all that begin so, where a name ends in a space
    "p": "{:.2g}",
    "p_holm": "{:.2g}",
    "difference": "{:+.4f}",
    "mean length": "{:.2f}",  # as `Corpus.statistics` rounds it, and `compare_with_paper` the share
    "train share": "{:.3f}",
    "rank ": "{:,.1f}",  # of an embedding, over seeds
}
LEAST = 5e-5  # what is smaller, and not 0, would be 0.0000
HEADS = {"p_holm": "p (Holm)"}
GOOD, BAD, DIM = "color: #00875a; font-weight: bold", "color: #c4501b; font-weight: bold", "opacity: 0.65"
WORDS = {"better": GOOD, "same way": GOOD, "worse": BAD, "the other way": BAD, "no detectable difference": DIM}
PLACES = {  # a row's background, by what its column `place` says
    "best": "background-color: rgba(0, 158, 115, 0.22); font-weight: bold",
    "tied for best": "background-color: rgba(0, 158, 115, 0.10)",
}
SHORT = 24  # letters that are not broken into lines
INTERVAL = re.compile(r" (\[[^\]]*\])$")


def show_frames(*, rows: int = 60, letters: int = 100, width: int = 200) -> None:
    """Let this notebook show each polars frame by `as_html`, and as text, where there is no page, by `as_text`.

    At most `rows` rows of a frame and `letters` letters of a text are shown, on lines of `width` characters where it is
    text. Outside of IPython only these limits are set.
    """
    from IPython import get_ipython

    pl.Config(tbl_cols=-1, tbl_rows=rows, fmt_str_lengths=letters, tbl_width_chars=width, float_precision=4)
    pl.Config(tbl_hide_column_data_types=True, tbl_hide_dataframe_shape=True)
    if shell := get_ipython():
        formatters = shell.display_formatter.formatters
        formatters["text/html"].for_type(pl.DataFrame, as_html)
        formatters["text/plain"].for_type(pl.DataFrame, lambda frame, printer, _: printer.text(as_text(frame)))


def show_each(frames: Mapping[str, pl.DataFrame]) -> None:
    """Print each title and display its frame under it."""
    from IPython.display import display

    for title, frame in frames.items():
        print(title)
        display(frame)


def as_text(frame: pl.DataFrame) -> str:
    """Format the frame as text, in the order and with the numbers of `as_html`."""
    told = _told(frame)
    small = [c for c in told if c.dtype.is_float() and (c.abs() < LEAST).any()]
    spelled = [pl.Series(c.name, [None if v is None else _spell_number(v) for v in c]) for c in small]
    return str(told.with_columns(spelled))


def as_html(frame: pl.DataFrame) -> str:
    """Format the frame as a table in HTML, its rows and texts cut as `pl.Config` says.

    A test's row has names, verdict and corrected p first; where a column `place` says "best" or "tied for best" the row is
    marked.
    """
    told = _told(frame)
    left = {HEADS.get(name, name) for name, kind in frame.schema.items() if not kind.is_numeric()}
    state = pl.Config.state()
    most, letters = int(state["POLARS_FMT_MAX_ROWS"] or 10), int(state["POLARS_FMT_STR_LEN"] or 30)
    lines = [_line(row, left, letters) for row in told.iter_rows(named=True)]
    if 0 <= most < len(lines):
        between = f'<tr><td colspan="{told.width}" style="text-align: center">… {len(lines) - most} more …</td></tr>'
        lines = [*lines[: most - most // 2], between, *lines[len(lines) - most // 2 :]]
    heads = "".join(f'<th style="{_side(name, left)}">{html.escape(name)}</th>' for name in told.columns)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _told(frame: pl.DataFrame) -> pl.DataFrame:
    """Columns in the order in which they are read, those of `WAYS` as words that keep their size, sign or digits."""
    first = [n for n in (*NAMES, *SAID) if n in frame.columns] if "p_holm" in frame else []
    ordered = frame.select(*first, *(n for n in frame.columns if n not in first))
    ways = {c.name: way for c in ordered if c.dtype.is_float() and (way := _find_way(c.name))}
    spelled = [_spelled(ordered[name], way) for name, way in ways.items()]
    return ordered.with_columns(spelled).rename(HEADS, strict=False)


def _find_way(column: str) -> str | None:
    begun = (way for name, way in WAYS.items() if name.endswith(" ") and column.startswith(name))
    return WAYS.get(column) or next(begun, None)


def _spelled(column: pl.Series, way: str) -> pl.Series:
    values = [None if v is None else way.format(v) for v in column]
    return pl.Series(column.name, values, dtype=pl.String)


def _spell_number(value: float) -> str:
    """Four digits behind the point, but 0 where it is exactly that, and two digits of what would round to it."""
    return "0" if value == 0 else f"{value:.2g}" if abs(value) < LEAST else f"{value:.4f}"


def _line(row: dict[str, Any], left: set[str], letters: int) -> str:
    mark = PLACES.get(row.get("place", ""), "")
    word = {name: WORDS.get(row[name], "") for name in SAID if name in row}
    cells = [f'<td style="{_side(n, left, v)}; {mark}; {word.get(n, "")}">{_cell(v, letters)}</td>' for n, v in row.items()]
    return f"<tr>{''.join(cells)}</tr>"


def _side(name: str, left: set[str], value: Any = None) -> str:
    """Words to the left, short ones on one line, numbers to the right."""
    if name not in left:
        return "text-align: right; white-space: nowrap"
    breaks = "white-space: nowrap" if len(str(value)) <= SHORT else "min-width: 14em"
    return f"text-align: left; max-width: 36em; {breaks}"


def _cell(value: Any, letters: int) -> str:
    """A value as HTML; an interval at a text's end on a line of its own."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _spell_number(value)
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple | pl.Series) else str(value)
    text = text if len(text) <= letters else f"{text[:letters]}…"
    return INTERVAL.sub(r"<br><small>\1</small>", html.escape(text))
