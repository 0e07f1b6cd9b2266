"""How titles become item embeddings (notebook 03)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from llm2rec_kit.settings.item_tables import NAMED, name_tables
from llm2rec_kit.settings.ranges import show_value
from llm2rec_kit.settings.stage import Conflicts, SettingsError, Stage, setting

_OWN = (
    r"[A-Za-z0-9][A-Za-z0-9_-]*=.*\S.*",
    "{name} takes name=file.npy, the name of letters, digits, _ and -; found {found}.",
)
POOLINGS, MASKS = ("mean", "last", "cls", "pooler", "as_saved"), ("bidirectional", "causal", "as_trained")
_OF_A_STAGE = [pooling for pooling in POOLINGS if pooling != "pooler"]  # which is a layer of baselines
_VARIANT = (
    rf"(raw|csft|mntp|contrastive)-({'|'.join(_OF_A_STAGE)})-({'|'.join(MASKS)})",
    "{name}: a variant is <stage>-<pooling>-<attention>, the stage raw, csft, mntp or contrastive, the pooling "
    + ", ".join(_OF_A_STAGE)
    + ", such as contrastive-last-causal; found {found}.",
)


@dataclass(frozen=True, kw_only=True)
class Encoding(Stage):
    """Notebook 03: titles to item embeddings."""

    prefix: ClassVar[str] = "encoding"

    attention: str = setting(
        "bidirectional",
        "mask at extraction: bidirectional [P 3.3], causal [C, in effect], or as_trained [O]",
        MASKS,
    )
    pooling: str = setting(
        "mean",
        "mean over the title's tokens [P], last token, cls (the first), pooler (a baseline's own layer over it), or as_saved "
        "with the model",
        POOLINGS,
    )
    normalise: str = setting(
        "none",
        "length of an embedding: none, as it comes [C], unit [C, baselines], or as_saved",
        ("none", "unit", "as_saved"),
    )
    batch_tokens: int = setting(
        0,
        "padded tokens of a forward pass, changes no embedding; 0: 2,048 on a CPU (its cache), 65,536 on a GPU [O]",
        within="x >= 0",
    )
    max_tokens: int = setting(512, "tokens of a title [C]; 0: as saved with the model", within="x >= 0")
    variants: list[str] = setting(
        [], "further tables, <stage>-<pooling>-<attention>, such as csft-last-causal [O]", form=_VARIANT
    )
    baselines: list[str] = setting([], "other encoders by hub name or folder, as saved but at unit length [C], a table each")
    own: list[str] = setting(
        [],
        "your own vectors, each a name, an equals sign and an .npy file: a row an item in the corpus's order, or with ids beside it [O]",
        form=_OWN,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.tables  # before a first training, not after it
        taken = [*NAMED, *self.variants, *self.tables.values()]
        for name in (names := [pair.partition("=")[0] for pair in self.own]):
            if name in taken or names.count(name) > 1:
                raise SettingsError(f"encoding_own names a table {show_value(name)}, and there is one of this name already.")

    def conflicts(self) -> Conflicts:
        """Find the pooling that no stage of a run has: notebook 03 would stop at it after all trainings."""
        if self.pooling == "pooler":
            yield (
                ("pooling",),
                "encoding_pooling pooler is the layer that a BERT has over its first state, and the run's own models are "
                f"decoders, which have none. Take one of {', '.join(_OF_A_STAGE)}.",
            )

    @property
    def own_files(self) -> dict[str, str]:
        """{name of the table: file of the user's own vectors}."""
        return dict(pair.split("=", 1) for pair in self.own)

    @property
    def tables(self) -> dict[str, str]:
        """{baseline: the name of its table}."""
        return name_tables(self.baselines, [*NAMED, *self.variants])


# How an encoder from elsewhere is read: as whoever saved it says.
AS_SAVED = Encoding(attention="as_trained", pooling="as_saved", normalise="as_saved", max_tokens=0)


def parse_variant(name: str, settings: Encoding) -> tuple[str, Encoding]:
    """Parse `<stage>-<pooling>-<attention>` into (stage, those settings): the four cells of pooling and mask, for any stage.

    >>> parse_variant("csft-last-causal", Encoding())[1].pooling
    'last'
    """
    stage, *how = name.rsplit("-", 2)
    if len(how) != 2 or not stage:
        raise SettingsError(f"A variant is <stage>-<pooling>-<attention>, such as contrastive-last-causal; found {name!r}.")
    return stage, dataclasses.replace(settings, pooling=how[0], attention=how[1])
