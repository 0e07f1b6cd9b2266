"""Text of data in Markdown: it stays text, in a table's cell as elsewhere, and starts no tag, link or code."""

from __future__ import annotations

import re
from typing import Any

ACTIVE = re.compile(r"[\\`*|]|<|&(?=#?\w+;)|(?<=\])(?=\()")  # what Markdown, or the HTML in it, reads as more than itself


class _Told(str):
    """An escaped text that remembers what it was, for a place where nothing is to be escaped."""

    plain: str


def escape(value: Any) -> Any:
    """Escape every text in `value`, in dicts and lists too, so that Markdown shows it as it is; anything else stays.

    >>> escape({"a|b": ["<i>", 3]})
    {'a\\\\|b': ['&lt;i>', 3]}
    """
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        return {escape(k): escape(v) for k, v in value.items()}
    return [escape(v) for v in value] if isinstance(value, list | tuple) else value


def as_code(text: str) -> str:
    """Format an escaped text as a span of code, in which it stands unescaped."""
    plain = " ".join(getattr(text, "plain", text).splitlines())
    fence = "`" * (1 + max(map(len, re.findall("`+", plain)), default=0))
    gap = " " if len(fence) > 1 else ""
    return f"{fence}{gap}{plain}{gap}{fence}"


def _text(text: str) -> str:
    told = _Told(ACTIVE.sub(lambda m: {"<": "&lt;", "&": "&amp;"}.get(m[0], "\\" + m[0]), " ".join(text.splitlines())))
    told.plain = text
    return told
