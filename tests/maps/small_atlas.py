"""A small atlas over a hand-made corpus, for the tests of figures, explorer and hand-over; made once a session."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
from conftest import make_corpus

from llm2rec_kit.maps import atlas as atlases
from llm2rec_kit.settings import Maps

SETTINGS = Maps(neighbours=5, clusters=3)
_FOLDER = tempfile.TemporaryDirectory()


@functools.cache
def made():
    """(folder, corpus, tables, record) of maps of 40 items at three stages, the second near the first, the third apart."""
    corpus = make_corpus(users=40, items=40)
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(41, 6)).astype(np.float32)
    csft = raw + 0.3 * rng.normal(size=raw.shape).astype(np.float32)
    tables = {"raw": raw, "csft": csft, "contrastive": rng.normal(size=(41, 5)).astype(np.float32)}
    for table in tables.values():
        table[0] = 0
    return Path(_FOLDER.name), corpus, tables, atlases.write(Path(_FOLDER.name), corpus, tables, SETTINGS)


@functools.cache
def atlas():
    """The atlas of `made`."""
    folder, corpus, tables, record = made()
    return atlases.Atlas.read(folder, corpus, tables, record)
