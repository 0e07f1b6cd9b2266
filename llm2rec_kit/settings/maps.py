"""How embeddings are drawn in two dimensions (notebook 05)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from llm2rec_kit.settings.ranges import SEED
from llm2rec_kit.settings.stage import Conflicts, Stage, setting


@dataclass(frozen=True, kw_only=True)
class Maps(Stage):
    """Notebook 05: two-dimensional maps of the embeddings."""

    prefix: ClassVar[str] = "maps"

    stages: list[str] = setting(
        ["raw", "csft", "mntp", "contrastive", "adapted"],
        "embeddings to map, and adapted: behind SASRec's adapter, where notebook 04 kept its weights",
        least=1,
    )
    neighbours: int = setting(15, "UMAP's n_neighbors [O, the library's default]", within="x >= 2")
    min_dist: float = setting(0.1, "UMAP's min_dist [O, the library's default]", within="0 <= x <= 1")
    metric: str = setting("cosine", "distance between embeddings [O]", ("cosine", "euclidean"))
    max_items: int = setting(
        20000, "most items that UMAP is fitted to, drawn by seed; the rest are placed among them [O]", within="x >= 4"
    )
    clusters: int = setting(8, "clusters and communities to colour by [O]", within="x >= 1")
    seed: int = setting(42, "UMAP's random_state: same seed, same map [O]", within=SEED)

    def conflicts(self) -> Conflicts:
        """Find the adapted space without one that it could be an adapter of."""
        if self.stages == ["adapted"]:
            yield (
                ("stages",),
                (
                    "maps_stages names adapted alone, which is an embedding behind its adapter; name the embedding, too, as in "
                    "[csft, adapted]."
                ),
            )
