"""A small atlas over a hand-made corpus, for the figures, the explorer and the hand-over: import the fixtures."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_corpus

from llm2rec_kit.maps import atlas as atlases
from llm2rec_kit.settings import Maps

SETTINGS = Maps(neighbours=5, clusters=3)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """(folder, corpus, tables, record) of maps of 40 items at three stages, the second near the first, the third apart."""
    corpus = make_corpus(users=40, items=40)
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(41, 6)).astype(np.float32)
    csft = raw + 0.3 * rng.normal(size=raw.shape).astype(np.float32)
    tables = {"raw": raw, "csft": csft, "contrastive": rng.normal(size=(41, 5)).astype(np.float32)}
    for table in tables.values():
        table[0] = 0
    folder = tmp_path_factory.mktemp("maps")
    return folder, corpus, tables, atlases.write(folder, corpus, tables, SETTINGS)


@pytest.fixture(scope="session")
def atlas(made):
    folder, corpus, tables, record = made
    return atlases.Atlas.read(folder, corpus, tables, record)
