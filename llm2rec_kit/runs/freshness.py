"""Is an artefact of what the run holds now, down to the corpus? A table that is still there does not stand for a training made anew."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import cache

from llm2rec_kit.runs.errors import ArtefactError, advise
from llm2rec_kit.runs.run import Run


def make_check(run: Run, *, sound: bool = False) -> Callable[[str], bool]:
    """Make a function that tells whether nothing below an artefact was made anew since it was made; each is looked at once.

    What is gone tells nothing. A study with a corpus of its own has the backbone of the run around it.
    """

    @cache
    def is_current(name: str) -> bool:
        try:
            below = [i for i in run.manifest(name)["inputs"] if run.has(i) and (name, i) != ("backbone", "corpus")]
            changed = run.changed_inputs(name)
        except ArtefactError:
            if not sound:
                raise
            return False
        return not any(i in changed for i in below) and all(map(is_current, below))

    return is_current


def list_tables(run: Run) -> list[str]:
    """List the tables of embeddings that the run has already, perhaps made under other settings, but of what it holds now."""
    is_current = make_check(run)

    def is_outdated(table: str) -> bool:
        with contextlib.suppress(ArtefactError):  # what is damaged, a notebook that makes it anew may heal
            return not is_current(f"embeddings/{table}")
        return False

    return [path.stem for path in (run.path / "embeddings").glob("*.npy") if not is_outdated(path.stem)]


def refuse_outdated(run: Run, names: Sequence[str]) -> None:
    """Raise ArtefactError where one of these artefacts was made from what was made anew since."""
    is_current = make_check(run)
    if old := [name for name in names if not is_current(name)]:
        was = "was" if len(old) == 1 else "were"
        asked = (
            " A variant, a baseline's table or your own is made again where encoding_variants, encoding_baselines or encoding_own "
            "names it, minilm by notebook 04; else leave it out."
        )
        raise ArtefactError(
            f"{' and '.join(old)} of run {run.name!r} {was} made from what the run does not hold any more. {advise(run, old[0])}"
            f"{asked if old[0].startswith('embeddings/') else ''}"
        )
