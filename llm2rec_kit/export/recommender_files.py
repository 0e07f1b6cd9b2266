"""A trained recommender taken away: its weights under the names of torch's own modules, its item vectors, an index of them.

Nothing of the kit is needed to load what is written here: a dozen lines that do it stand in the README beside it. It is no
torch.export program: those last as long as the torch that wrote them, and the kernels under ours cannot be put into one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from llm2rec_kit import geometry
from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.downstream import item_table, recommenders, saved_recommender
from llm2rec_kit.export import recommend
from llm2rec_kit.results import evaluations, weights
from llm2rec_kit.runs import Run, collect_provenance
from llm2rec_kit.storage import write_json, write_text

MANY = 100_000  # items from which an index is approximate: below, comparing with all takes milliseconds
LACKING = "The format faiss needs an optional package: pip install 'llm2rec-kit[faiss]'."
EXCLUDED = {"none": "", "last": " but the history's last", "seen": " but those that the user had"}
TIES = {"worst": "the target counts as the last", "best": "the target counts as the first", "mean": "the mean place counts"}
OWN_NAMES = {"qkv.": "self_attn.in_proj_", "out.": "self_attn.out_proj.", "inner.": "linear1.", "outer.": "linear2."}
LOADING = {
    "SASRec": """\
sizes = {"d_model": how["hidden"], "nhead": how["heads"], "dim_feedforward": how["inner"]}
layer = torch.nn.TransformerEncoderLayer(**sizes, activation="gelu", layer_norm_eps=1e-12, batch_first=True)
model, positions = torch.nn.TransformerEncoder(layer, how["layers"]).eval(), weights.pop("positions")
model.load_state_dict(weights)
causal = torch.full((len(history), len(history)), -torch.inf).triu(1)
state = model((items[history] + positions[: len(history)])[None], mask=causal)[0, -1]""",
    "GRU4Rec": """\
model = torch.nn.GRU(how["hidden"], how["hidden"], how["layers"], bias=False, batch_first=True).eval()
model.load_state_dict(weights)
state = model(items[history][None])[0][0, -1]""",
}
BEFORE = """\
import json, torch
from safetensors.torch import load_file
how, weights = json.load(open("recommender.json")), load_file("recommender.safetensors")
items, history = weights.pop("items"), [3, 5][-how["max_history"] :]  # rows of items.csv, the oldest first"""
NORMALISED = {
    "unit": "x = torch.nn.functional.normalize(x, dim=-1)",
    "standardised": 'x = (x - known["mean"]) / known["std"]',
    "whitened": 'x = ((x.double() - known["mean"]) @ known["axes"]).float()',
}
AFTER = """\
scores = items @ state.detach()
scores[[0, *history]] = -torch.inf  # padding, and what the user has
print(scores.topk(10).indices.tolist())"""


def export_recommender(run: Run, stage: str, to: Path, name: str, *, recommender: str, domain: str) -> str:
    """Write recommender.safetensors: the model, under the names of torch's own modules, and `items`.

    `items` is float32 (N + 1, hidden), row 0 padding. Beside it recommender.json, items.csv, README.md, and, where a text
    is read, adapter.safetensors.
    """
    row, model = _chosen(run, stage, recommender, domain)
    how = describe_weights(run, row, model)
    whole = as_torch(model.model) | {"items": model.table}
    save_file({k: v.clone() for k, v in whole.items()}, to / "recommender.safetensors")
    has_text = model.catalogue is not None
    reading = write_reading(how, write_adapter(model, how["normalise"], to)) if has_text else ""
    write_json(to / "recommender.json", how)
    write_text(to / "README.md", write_card(how, reading))
    return write_items(model.corpus.items, to)


def write_adapter(model: saved_recommender.Trained, normalise: str, to: Path) -> list[str]:
    """Write adapter.safetensors: the adapter's weights, whose names are returned, and what embeddings are normalised by, of
    the catalogue (`geometry.measure_catalogue`)."""
    known = geometry.measure_catalogue(model.check_places(), normalise)
    adapter = {name: values.clone() for name, values in model.item_table.get_submodule("adapter").state_dict().items()}
    save_file(adapter | {name: torch.tensor(values) for name, values in known.items()}, to / "adapter.safetensors")
    return list(adapter)


def export_adapted(run: Run, stage: str, to: Path, name: str, *, recommender: str, domain: str) -> str:
    """Write adapted.npy, the recommender's item vectors, float32 (N + 1, hidden), row 0 padding; items.csv, adapted.json."""
    row, model = _chosen(run, stage, recommender, domain)
    np.save(to / "adapted.npy", model.table.numpy())
    write_json(to / "adapted.json", describe_weights(run, row, model))
    return write_items(model.corpus.items, to)


def export_index(run: Run, stage: str, to: Path, name: str, *, recommender: str, domain: str) -> str:
    """Write index.faiss, an index of item vectors whose ids are the rows of items.csv.

    With a recommender its item vectors, for inner products with its states; else embeddings at length one, for cosines.
    """
    try:
        import faiss
    except ImportError:
        raise ValueError(LACKING) from None
    if recommender:
        row, model = _chosen(run, stage, recommender, domain)
        items, vectors, what = model.corpus.items, model.table[1:].numpy(), f"item vectors of {model.name}, {row[0]}"
    else:
        items = Corpus.load(run.require("corpus")).items
        vectors = np.load(run.require(f"embeddings/{stage}").with_suffix(".npy"))[1:].astype(np.float32)
        vectors = geometry.scale_to_unit(vectors)
        what = f"embeddings {stage} at length one"
    kind = "Flat" if len(vectors) < MANY else "HNSW32"
    found = faiss.index_factory(vectors.shape[1], f"IDMap2,{kind}", faiss.METRIC_INNER_PRODUCT)
    found.add_with_ids(np.ascontiguousarray(vectors), np.arange(1, len(vectors) + 1, dtype=np.int64))
    faiss.write_index(found, str(to / "index.faiss"))
    about = {"run": run.name, "vectors": what, "metric": "inner product", "index": kind, "items": len(items)}
    write_json(to / "index.json", about)
    return write_items(items, to)


def write_items(items: pl.DataFrame, to: Path) -> str:
    """Write items.csv: row, the place of an item's vector, and the item's plain columns. Returns what is to be told of it: that
    a column of the items' own called row has another name there."""
    plain = [c for c in items.columns if not items[c].dtype.is_nested() and c != "item"]
    other = "row"
    while other in items.columns:
        other += "_"
    columns = [pl.col(c).alias(other if c == "row" else c) for c in plain]
    items.select(pl.col("item").alias("row"), *columns).write_csv(to / "items.csv")
    return f"the items' own column row is called {other} in items.csv, where row is the place of an item's vector" * (
        "row" in plain
    )


def as_torch(model: nn.Module) -> dict[str, Tensor]:
    """Name weights as torch's own modules do: SASRec's (and `positions`) as TransformerEncoder's, GRU4Rec's as GRU's."""
    state = model.state_dict()
    if isinstance(model, recommenders.GRU4Rec):
        return {name.removeprefix("gru."): value for name, value in state.items()}
    if not isinstance(model, recommenders.SASRec):
        return state
    found = {"positions": state.pop("positions.weight")}
    for name, value in state.items():
        for own, theirs in OWN_NAMES.items():
            name = name.replace(f".{own}", f".{theirs}")
        found[name] = value
    return found


def describe_weights(run: Run, row: tuple[str, str, str], model: saved_recommender.Trained) -> dict[str, Any]:
    """Describe weights for their reader: sizes, what they were trained over, and how well they ranked the test targets."""
    evaluation = weights.find_kept(run, *row)
    record, asked = run.record(evaluation), S.Evaluation().as_dict() | run.manifest(evaluation)["settings"]
    sizes = {name: asked[name] for name in ("hidden", "layers", "heads", "inner", "normalise", "scale", "exclude", "ties")}
    return {
        **dict(zip(evaluations.OF, row, strict=True)),
        **sizes,
        "max_history": model.corpus.max_history,
        "items": model.corpus.n_items,
        "run": run.name,
        "seed": record["seed"],
        "test_samples": record.get("samples"),
        "metrics": record["metrics"],
        "versions": collect_provenance()["versions"],
    }


def write_reading(how: dict[str, Any], adapter: list[str]) -> str:
    """Return the lines of the README that make the row of a new item of its embedding; `adapter`: the names of its weights."""
    lines = ['known, x = load_file("adapter.safetensors"), embedding  # float32 (dim,), or (m, dim) of m items']
    lines += [NORMALISED[how["normalise"]]] if how["normalise"] in NORMALISED else []
    lines += [f"x = x * {how['scale']}"] * (how["scale"] != 1)
    for n, weight in enumerate(name for name in adapter if name.endswith("weight")):
        lines += ["x = torch.nn.functional.gelu(x)"] * (n > 0)
        lines.append(f'x = x @ known["{weight}"].T + known["{weight.removesuffix("weight")}bias"]')
    stage, kind = item_table.parse_name(how["embedding"])
    if kind == "concat":
        lines.append("x = torch.cat([x, torch.zeros_like(x)], -1)  # the half that training learns of purchases")
    code = "\n".join(lines)
    return f"""
## An item that nobody has bought

Its row is its embedding ({stage}, by the encoder of the run) behind the adapter; `adapter.safetensors` holds that, and what the items' own embeddings are normalised by.

```python
{code}
items = torch.cat([items, x.reshape(-1, items.shape[1])])
```
"""


def write_card(how: dict[str, Any], reading: str) -> str:
    """Return the README, a model card in Markdown; `reading`, of `write_reading`, where the recommender reads text."""
    loading = "The weights are named as in the code of this recommender, which is not the kit's."
    if loads := LOADING.get(how["recommender"]):
        loading = f"```python\n{BEFORE}\n{loads}\n{AFTER}\n```"
    results = "\n".join(f"| {name} | {value:.4f} |" for name, value in how["metrics"].items())
    return f"""---
tags: [recommendation, sequential-recommendation, llm2rec]
---
# {how["recommender"]} over {how["embedding"]}, {how["domain"]}

A recommender of run {how["run"]}, made by llm2rec_kit after [LLM2Rec](https://arxiv.org/abs/2506.21579) (KDD 2025): {how["items"]:,} items, a history of
{how["max_history"]} at most, states of {how["hidden"]} numbers. `recommender.safetensors` holds the model and the item vectors `items`, row 0 padding; `items.csv` says
which item a row is; `recommender.json` all sizes.

{loading}
{reading}
## Results

Of this training (seed {how["seed"]}), each of {how["test_samples"]} test targets among all items{EXCLUDED[how["exclude"]]}; of equal scores {TIES[how["ties"]]}:

| metric | mean |
|---|---:|
{results}
"""


def _chosen(run: Run, stage: str, recommender: str, domain: str) -> tuple[tuple[str, str, str], saved_recommender.Trained]:
    row, corpus = recommend.pick_recommender(run, recommender=recommender, embedding=stage, domain=domain)
    return row, saved_recommender.load_from_run(run, *row, corpus)
