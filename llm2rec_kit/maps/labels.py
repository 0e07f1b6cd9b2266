"""Labels on a map: each near its place, none over another, over as few points and trails as can be."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

INK = "#222222"
REACH = 110  # points from its anchor that a label may stand


def place(
    figure: Figure,
    ax: Axes,
    anchors: dict[str, np.ndarray],
    colours: dict[str, str],
    avoid: np.ndarray,
    *,
    trails: Sequence[np.ndarray] = (),
) -> list[str]:
    """Write each label near its anchor (data units), none over another or past the axes; returns those that found no room.

    Of the places around its anchor a label takes the one that hides fewest points of `avoid` (n, 2), lies over fewest of
    `trails` (a line (stages, 2) each) and is near. One that moved is tied to its anchor by a line, which passes under another
    label only where there is no other way. Those without room are named in the corner. Call it last: it settles the layout.
    """
    figure.canvas.draw()  # positions are known only once the layout is settled
    figure.set_layout_engine("none")
    frame = ax.get_window_extent()
    points, lines = ax.transData.transform(avoid), [_along(ax.transData.transform(t)) for t in trails]
    taken, ties, left_out = [], [], []
    for label, anchor in anchors.items():
        text = ax.annotate(
            _wrapped(label, 24), anchor, xytext=(0, 0), textcoords="offset points", ha="center", va="center", fontsize=5.5,
            color=INK, zorder=6, bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": colours[label], "lw": 0.6, "alpha": 0.92},
            arrowprops={"arrowstyle": "-", "color": INK, "lw": 0.4, "shrinkA": 0, "shrinkB": 1},
        )  # fmt: skip
        best = (np.inf, None, None, None)
        for radius, place, box in _places(figure, text):
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                tie = _along(np.stack([ax.transData.transform(anchor), (box.min + box.max) / 2]))
                under = sum(_inside(line, box).any() for line in lines)
                crossed = sum(_inside(t, box).any() for t in ties) + sum(_inside(tie, other).any() for other in taken)
                cost = 100 * _inside(points, box).mean() + 6 * under + 15 * crossed + radius / 10
                best = min(best, (cost, place, box, tie), key=lambda found: found[0])
        if best[1] is None:
            text.remove()
            left_out.append(label)
        else:
            text.set_position(best[1])
            taken.append(best[2])
            ties.append(best[3])
    if left_out:
        ax.text(0.01, 0.01, f"no room for: {'; '.join(left_out)}", transform=ax.transAxes, fontsize=5, color="#444444")
    return left_out


def _places(figure: Figure, text: Any) -> Iterator[tuple[float, tuple[float, float], Bbox]]:
    """Where a label may stand, on rings around its anchor: radius and offset in points, and its box there in pixels."""
    renderer = figure.canvas.get_renderer()
    for radius, angle in [(0, 0), *((r, a) for r in range(8, REACH, 6) for a in np.arange(0, 2 * np.pi, np.pi / 8))]:
        place = (radius * np.cos(angle), radius * np.sin(angle))
        text.set_position(place)
        text.update_positions(renderer)
        # Of the text alone: an annotation's own extent takes in its line.
        yield radius, place, Text.get_window_extent(text, renderer).padded(figure.dpi / 36)


def _wrapped(label: str, width: int) -> str:
    """`label` in lines of at most `width` characters, as even as their number allows; only a word that is longer is cut."""
    words = {"break_on_hyphens": False, "break_long_words": False}
    whole = textwrap.wrap(label, width, break_on_hyphens=False)
    tries = (textwrap.wrap(label, w, **words) for w in range(1, width))
    fits = (found for found in tries if len(found) <= len(whole) and max(map(len, found)) <= width)
    return "\n".join(next(fits, whole))


def _along(line: np.ndarray) -> np.ndarray:
    """Points (k, 2) along a line (m, 2) in pixels, at most three pixels apart."""
    parts = [np.linspace(a, b, 2 + int(np.linalg.norm(b - a) / 3)) for a, b in itertools.pairwise(line)]
    return np.concatenate(parts)


def _inside(points: np.ndarray, box: Bbox) -> np.ndarray:
    """Which of `points` (n, 2) lie in a box, bool (n,)."""
    return ((points >= box.min) & (points <= box.max)).all(1)
