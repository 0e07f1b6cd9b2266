"""What may be wrong with an artefact: the error, the notebook that makes it anew, and what a command says of it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from llm2rec_kit.settings.ranges import clip

if TYPE_CHECKING:
    from llm2rec_kit.runs.run import Run

MADE_BY = {
    "corpus": "01_data_prep",
    "backbone": "02_csft",
    "csft": "02_csft",
    "mntp": "03_item_embedding",
    "contrastive": "03_item_embedding",
    "encoder": "03_item_embedding",
    "embeddings": "03_item_embedding",
    "evaluation": "04_downstream_eval",
    "maps": "05_embedding_maps",
}


class ArtefactError(RuntimeError):
    """An artefact is missing or damaged (the message says which notebook makes it), or cannot be written (and why)."""


def find_maker(name: str) -> str:
    """Find the notebook that makes artefact `name`."""
    return MADE_BY.get(name.split("/")[0], "01_data_prep")


def advise(run: Run, name: str) -> str:
    """Say what to do about a damaged artefact."""
    return (
        f"Run notebooks/{find_maker(name)}.ipynb again (run {run.name!r}): it redoes {name!r}. What no notebook makes any more, "
        "delete."
    )


@contextlib.contextmanager
def one_paragraph_errors() -> Iterator[None]:
    """Turn the kit's own errors into one paragraph on stderr and exit code 2."""
    try:
        yield
    except BrokenPipeError:  # whoever read our output has seen enough
        raise
    except (ArtefactError, ValueError, OSError) as error:
        said = str(error)
        if isinstance(error, OSError) and error.filename:  # the system's, whose text repeats the whole name
            said = f"{clip(str(error.filename))}: {error.strerror}"
        print(f"llm2rec: {said}", file=sys.stderr)
        raise SystemExit(2) from None
