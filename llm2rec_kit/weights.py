"""Weights of recommenders: which of those in a run's folder stand for what the run holds now.

Notebook 04 keeps the weights of each recommender's first seed beside its evaluation. Evaluations of earlier calls stay in the
folder, made from other embeddings, with other settings or seeds; their weights would show a reader another model than the
tables do. Who reads weights back (the lists of notebook 04, the adapted map and the stars of 05) asks here.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from llm2rec_kit.runs import ArtefactError, Run

SERIES = "evaluation/series"  # the artefact that says what notebook 04 evaluated last


def note_series(run: Run, settings: dict[str, Any], seeds: list[int]) -> None:
    """Keep in `run` with which settings (those of its evaluations' manifests) and seeds recommenders were evaluated last."""
    run.make(SERIES, lambda folder: None, settings=settings | {"seeds": seeds}, quiet=True)


def kept(run: Run, domain: str, recommender: str, embedding: str) -> str:
    """The evaluation whose weights of `recommender` over `embedding` are current; "" where none is.

    Current is what was made from the corpus and embeddings that the run holds, with the settings of the last series. Of
    several the series' first seed counts, then its others, then the latest.
    """
    asked = run.manifest(SERIES)["settings"] if run.has(SERIES) else {}
    seeds = asked.get("seeds", [])
    settings = {name: value for name, value in asked.items() if name != "seeds"}
    found = _with_weights(run, domain, recommender, embedding)
    found = {n: made for n, made in found.items() if not asked or made["settings"] == settings}
    latest = sorted(found, key=lambda n: found[n]["finished"], reverse=True)
    seed = {n: found[n]["record"]["seed"] for n in found}
    return min(latest, key=lambda n: seeds.index(seed[n]) if seed[n] in seeds else len(seeds), default="")


def file(run: Run, evaluation: str) -> Path:
    """Where the weights of an evaluation are."""
    return run.path_of(f"{evaluation}.safetensors")


def _with_weights(run: Run, domain: str, recommender: str, embedding: str) -> dict[str, dict[str, Any]]:
    """{evaluation: manifest} of those with weights that were made from what the run holds."""
    found = {}
    for name in run.names(f"evaluation/{domain}"):
        if not name.startswith(f"evaluation/{domain}/{recommender}-{embedding}-seed"):
            continue
        with contextlib.suppress(ArtefactError):  # a damaged manifest's weights are none
            made = run.manifest(name)
            own = made["record"].get("recommender") == recommender and made["record"].get("embedding") == embedding
            # A manifest without the file: weights beside it are left from an evaluation that it has replaced.
            if own and file(run, name).name in made["files"] and not run.changed_inputs(name):
                found[name] = made
    return found
