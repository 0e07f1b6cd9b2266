"""Ranges of numbers as text, `0 < x <= 1` or `x >= 1`, and values as an error shows them.

What a setting may be is written once, in this form: the check reads it, `llm2rec params` prints it, tests draw from it.
"""

from __future__ import annotations

import re
import reprlib
from functools import cache

SEED = "0 <= x < 4294967296"  # what numpy, scikit-learn and torch all take
LARGEST = 2**63 - 1  # of any whole number: what fits an int64
_FORM = re.compile(r"(?:(-?[\d.]+) (<=?) )?x(?: (<=?|>=?) (-?[\d.]+))?")
_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxtuple = 12
_SHORT.maxstring = _SHORT.maxother = 70


@cache
def parse_range(text: str) -> tuple[float | None, bool, float | None, bool]:
    """Split a range into (low, whether low is inside, high, whether high is inside); None where there is no bound.

    >>> parse_range("0 < x <= 1"), parse_range("x >= 1")
    ((0, False, 1, True), (1, True, None, False))
    """
    found = _FORM.fullmatch(text)
    if not found:
        raise ValueError(f"A range is written as '0 < x <= 1' or 'x >= 1'; found {text!r}.")
    low, below, beyond, high = found.groups()
    if beyond and beyond.startswith(">"):
        low, below, beyond, high = high, beyond, None, None
    return _number(low), below in ("<=", ">="), _number(high), beyond == "<="


def is_inside(text: str, value: float) -> bool:
    """Tell whether `value` lies inside the range."""
    low, with_low, high, with_high = parse_range(text)
    above = low is None or value > low or (with_low and value == low)
    return above and (high is None or value < high or (with_high and value == high))


def describe_range(text: str) -> str:
    """Describe the range in words.

    >>> describe_range("0 < x <= 1"), describe_range("x >= 1")
    ('above 0 and at most 1', 'at least 1')
    """
    low, with_low, high, with_high = parse_range(text)
    parts = [] if low is None else [f"{'at least' if with_low else 'above'} {low}"]
    parts += [] if high is None else [f"{'at most' if with_high else 'below'} {high}"]
    return " and ".join(parts)


def show_value(value: object, longest: int = 80) -> str:
    """Write `value` as `repr` does, cut to `longest` characters: an error names what it found, and is no dump of it."""
    try:
        text = _SHORT.repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        text = f"a {type(value).__name__} too long to be shown"
    return clip(text, longest)


def clip(text: str, longest: int = 300) -> str:
    """Cut the middle out of `text` where it is longer than `longest` characters."""
    return text if len(text) <= longest else f"{text[: longest - 20]}...{text[-17:]}"


def _number(text: str | None) -> float | None:
    return None if text is None else float(text) if "." in text else int(text)
