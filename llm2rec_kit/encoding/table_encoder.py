"""The encoder of a table of a run: what made its item vectors, loaded to read further titles or to be taken away."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from llm2rec_kit import settings as S
from llm2rec_kit.runs import ArtefactError, Run

if TYPE_CHECKING:
    from llm2rec_kit.encoding.encoder import Encoder

HOW = ("attention", "pooling", "normalise", "max_tokens")
TABLE_ALONE = "Its table can be had, with `llm2rec export` in the format npy, recbole or projector."


def load_encoder(run: Run, stage: str, *, trust_remote_code: bool = False) -> Encoder:
    """Load the Encoder that made `embeddings/<stage>`, set up as it was; where its device is not here, on one that is.

    Raises ArtefactError where another library made the table, or of another text than titles, or where the encoder, a
    training of the run or a folder, is not the one that made it.
    """
    from llm2rec_kit.encoding.encoder import Encoder
    from llm2rec_kit.models import backbone

    made = run.manifest(f"embeddings/{stage}")
    if (text := made["settings"].get("text", "title")) != "title":
        raise ArtefactError(
            f"Embedding {stage!r} was made of the items' {text}, not of their titles: of a title its encoder would make other "
            f"vectors. {TABLE_ALONE}"
        )
    known = made["settings"] | made["record"]  # what is asked for, and over it what that came to
    name = known.get("encoder", "not known, its vectors are your own")
    if any(one not in known for one in HOW):
        raise ArtefactError(
            f"The encoder of embedding {stage!r} is {name}, which is not the run's to load or to write. {TABLE_ALONE}"
        )
    own = name in made["inputs"]
    was = made["inputs"][name] if own else made["settings"].get("files")
    if was != (run.digest(name) if own else backbone.hash_contents(name).get("files")):
        raise ArtefactError(
            f"{name} is not what it was when its table was made. Of a title it would make other vectors than embeddings/{stage} "
            f"holds. Run notebooks/03_item_embedding.ipynb (run {run.name!r}): it makes the table anew."
        )
    place = S.Backbone.where_made(made["settings"], trust_remote_code=trust_remote_code)
    if not backbone.has_device(place.device):  # a run that was made on a GPU is read on a laptop
        place = dataclasses.replace(place, device="auto")
    return Encoder.load(run.require(name) if own else name, S.Encoding(**{one: known[one] for one in HOW}), place)
