"""How recommenders are trained over item embeddings and ranked (notebook 04)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from llm2rec_kit.settings import own_parts
from llm2rec_kit.settings.own_parts import BASELINES, RECOMMENDERS
from llm2rec_kit.settings.ranges import SEED, show_value
from llm2rec_kit.settings.stage import Conflicts, Stage, setting

# Settings that came later: evaluations from before had these values, and those of today do not name them at these.
LATER = {"initialisation": "scaled", "scale": 1.0, "ties": "worst", "sampled_items": 4096, "user_share": 1.0}
READ_UNDER = {  # losses
    "padding_class": ("softmax",),
    "sampled_items": ("sampled_softmax",),
    "negatives": ("bce", "gbce"),
    "calibration": ("gbce",),
}
READ_BY_OTHERS = {"SASRec": ("learning_rate_gru",), "GRU4Rec": ("learning_rate", "heads", "inner")}
METRIC = r"(recall|ndcg)@([1-9][0-9]*)|mrr(?:@([1-9][0-9]*))?"
_METRIC = (METRIC, "{name}: {found} is none of recall@k, ndcg@k, mrr@k (k from 1) and mrr.")


@dataclass(frozen=True, kw_only=True)
class Evaluation(Stage):
    """Notebook 04: recommenders over frozen embeddings [P 4.1.3]."""

    prefix: ClassVar[str] = "evaluation"

    recommenders: list[str] = setting(
        ["SASRec", "GRU4Rec"], "which to train [P]", RECOMMENDERS, also=partial(own_parts.list_names, "recommender")
    )
    embeddings: list[str] = setting(
        ["raw", "csft", "mntp", "contrastive", "id"],
        "item tables to compare: stages, minilm, id, csft_add_id, csft_concat_id, id_detached, any other that notebook 03 names [O]",
    )
    baselines: list[str] = setting(
        list(BASELINES),
        "what is ranked without training a recommender [O]",
        BASELINES,
        also=partial(own_parts.list_names, "baseline"),
    )
    seeds: list[int] = setting([2024, 2025, 2026], "one training a seed [C]", within=SEED, least=1)
    hidden: int = setting(128, "width of the recommender and of the adapter's output [P 4.1.3]", within="x >= 1")
    adapter_widths: list[int] = setting(
        [],
        "widths of adapter layers before the last; none: one linear layer [P 4.1.3]",
        of=int,
        within="x >= 1",
        repeats=True,
    )
    layers: int = setting(2, "layers [C]", within="x >= 1")
    heads: int = setting(2, "attention heads of SASRec [C]", within="x >= 1")
    inner: int = setting(256, "width of SASRec's feed-forward layers [C]", within="x >= 1")
    dropout: float = setting(0.3, "dropout [P 4.1.3]", within="0 <= x < 1")
    initialisation: str = setting(
        "scaled",
        "weights' start: official, torch's own with layers alike [C], or scaled: std 0.02, orthogonal GRU [O, RecBole's SASRec]",
        ("scaled", "official"),
    )
    loss: str = setting(
        "softmax",
        "softmax over the catalogue [P 4.1.3], sampled_softmax from some 50,000 items on, bce (SASRec's) or gbce (gSASRec's) [O]",
        ("softmax", "sampled_softmax", "bce", "gbce"),
    )
    sampled_items: int = setting(
        4096,
        "sampled_softmax: items drawn a step, half by popularity, half alike, that stand for the catalogue; corrected for it [O]",
        within="x >= 2",
    )
    negatives: int = setting(256, "bce, gbce: negatives a sample, as gSASRec [O]; SASRec takes 1", within="x >= 1")
    calibration: float = setting(0.75, "gbce: t from 0 (plain bce) to 1 (calibrated), as gSASRec [O]", within="0 <= x <= 1")
    padding_class: bool = setting(False, "padding row 0 is a class of the training softmax: on in [C], off [P 4.1.3]")
    batch_size: int = setting(256, "samples a step [C]", within="x >= 1")
    learning_rate: float = setting(1e-3, "AdamW, SASRec [P 4.1.3] and recommenders of your own", within="x > 0")
    learning_rate_gru: float = setting(1e-4, "AdamW, GRU4Rec [P 4.1.3]", within="x > 0")
    weight_decay: float = setting(1e-4, "AdamW's weight decay [P 4.1.3]", within="x >= 0")
    epochs: int = setting(500, "most epochs: 500 [P], 1,000 [C]", within="x >= 1")
    evaluate_every: int = setting(5, "epochs between validations [C]", within="x >= 1")
    patience: int = setting(20, "epochs without a gain before training stops [P]", within="x >= 0")
    metric: str = setting(
        "recall@20", "what early stopping watches on the validation split [C]; or ndcg@k, mrr, mrr@k", form=_METRIC
    )
    normalise: str = setting(
        "none",
        "item embeddings: none [C for LLM2Rec], unit [C for baselines], standardised or whitened [O]",
        ("none", "unit", "standardised", "whitened"),
    )
    scale: float = setting(1.0, "factor on the item embeddings, once normalised [O]", within="x > 0")
    exclude: str = setting(
        "none",
        "items left out of the ranking: none [C], last (of the history) or seen (all that the user had) [O]",
        ("none", "last", "seen"),
    )
    ties: str = setting(
        "worst",
        "place of the target among equal scores: worst, best, or mean, the metrics' expectation over their order [O]; any one in [C]",
        ("worst", "mean", "best"),
    )
    cutoffs: list[int] = setting(
        [10, 20], "k of Recall@k and NDCG@k [P]; other k train every recommender again", within="x >= 1", least=1
    )
    tested: str = setting("ndcg@10", "metric that the paired tests compare [O]", form=_METRIC)
    cold: float = setting(
        0.0,
        "share of items held out of one more training a table, to rank them as cold items; 0: none, 0.05 is enough to see [O]",
        within="0 <= x <= 0.5",
    )
    user_share: float = setting(
        1.0,
        "share of a domain's users that training and validation have, another draw a seed; the test has all [O]",
        within="0 < x <= 1",
    )
    shared_prefix: bool = setting(True, "samples of a user that share a prefix share its computation [O]")
    precision: str = setting(
        "float32",
        "of the adapter pass and the softmax in training: float32 [C] or bfloat16 [O]; ranking is always float32",
        ("float32", "bfloat16"),
    )
    device: str = setting("auto", "cpu, cuda, or auto: a GPU where there is one [O]", ("auto", "cpu", "cuda"))
    workers: int = setting(
        0,
        "trainings at a time on a CPU, one thread each; 0: one a core, or one for what takes seconds; changes no result [O]",
        within="x >= 0",
    )

    def conflicts(self) -> Conflicts:
        """Find a width that cannot be divided as asked, and nothing to rank."""
        if "SASRec" in self.recommenders and self.hidden % self.heads:
            yield (
                ("hidden", "heads"),
                f"evaluation_hidden {self.hidden} is not a multiple of evaluation_heads {self.heads}.",
            )
        if self.loss == "sampled_softmax" and self.padding_class:
            yield (
                ("loss", "padding_class"),
                "evaluation_loss sampled_softmax draws its classes among the items, and the padding row is none of them: set "
                "evaluation_padding_class: false, or take evaluation_loss softmax.",
            )
        halved = [name for name in self.embeddings if name.endswith("_concat_id")]
        if halved and self.hidden % 2:
            yield (
                ("hidden", "embeddings"),
                f"evaluation_hidden must be even to put text and id side by side ({show_value(halved[0])}); found {self.hidden}.",
            )
        if not self.baselines and not (self.recommenders and self.embeddings):
            empty = "embeddings" if self.recommenders else "recommenders"
            yield (
                (empty, "baselines"),
                f"evaluation_{empty} and evaluation_baselines are both empty: nothing would be ranked.",
            )


def list_unread(recommender: str, loss: str) -> set[str]:
    """List the settings that a training of `recommender` under `loss` does not read; one of your own may read any."""
    if recommender not in READ_BY_OTHERS:
        return set()
    return {name for name, losses in READ_UNDER.items() if loss not in losses} | {*READ_BY_OTHERS[recommender]}


def match_settings(asked: Mapping[str, Any], made: Mapping[str, Any], recommender: str) -> dict[str, Any]:
    """Return a training's settings `made` where those `asked` differ in what its recommender does not read; else `asked`."""
    unread = list_unread(recommender, asked.get("loss", ""))
    read = [{name: value for name, value in one.items() if name not in unread} for one in (asked, made)]
    return dict(made if read[0] == read[1] else asked)
