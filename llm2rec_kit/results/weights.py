"""Weights of recommenders: which of those in a run's folder stand for what the run holds now.

Notebook 04 keeps the weights of each recommender's first seed beside its evaluation. Who reads them back (the lists of notebook
04, the adapted map and the stars of 05) asks here, so that they are those of the model in the tables.
"""

from __future__ import annotations

from pathlib import Path

from llm2rec_kit.results import evaluations
from llm2rec_kit.runs import ArtefactError, Run


def find_kept(run: Run, domain: str, recommender: str, embedding: str) -> str:
    """Find the evaluation whose weights of `recommender` over `embedding` are current; "" where none is.

    Of the evaluations that count (`evaluations.find_evaluations`) the first that notebook 04's last call names: its first seed with weights.
    """
    held, row = evaluations.find_evaluations(run, sound=True), (domain, recommender, embedding)
    # Only files that the manifest names: weights beside it may be left from an evaluation that it has replaced.
    found = [
        n for n, m in held.made.items() if _name(n) in m["files"] and tuple(m["record"][k] for k in evaluations.OF) == row
    ]
    return min(found, key=held.asked.names.index, default="")


def list_rows(run: Run) -> list[tuple[str, str, str]]:
    """List (domain, recommender, embedding) of every recommender whose weights the run has, as they are now."""
    made = evaluations.find_evaluations(run, sound=True).made
    found = (tuple(m["record"][k] for k in evaluations.OF) for n, m in made.items() if _name(n) in m["files"])
    return list(dict.fromkeys(found))


def has_file(run: Run, evaluation: str) -> bool:
    """Tell whether weights were kept with an evaluation that the run has."""
    return _name(evaluation) in run.manifest(evaluation)["files"]


def find_file(run: Run, evaluation: str) -> Path:
    """Find the weights of an evaluation that has some; ArtefactError where the file is damaged or gone."""
    if found := run.file(evaluation, _name(evaluation)):
        return found
    raise ArtefactError(f"{evaluation} of run {run.name!r} kept no weights. Run notebooks/04_downstream_eval.ipynb again.")


def _name(evaluation: str) -> str:
    return f"{evaluation.split('/')[-1]}.safetensors"
