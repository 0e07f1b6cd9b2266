"""The atlas for other programs: TensorBoard's projector, datamapplot, jupyter-scatter, embedding-atlas.

None of them is needed. A function that calls one says how to install it where it is missing.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl

from llm2rec_kit.export import projector
from llm2rec_kit.figures import map_figures
from llm2rec_kit.figures.training_figures import PALETTE
from llm2rec_kit.maps.atlas import GROUPINGS, Atlas
from llm2rec_kit.runs import Run

PACKAGES = {"datamapplot": "datamapplot", "jscatter": "jupyter-scatter", "embedding_atlas": "embedding-atlas"}


def tensorboard(atlas: Atlas, folder: Path) -> Path:
    """Write what TensorBoard's projector reads (`tensorboard --logdir folder`) to `folder`, and return it."""
    rows = atlas.items["item"].to_numpy()
    told = projector.write(folder, {s: (s, np.asarray(atlas.tables[s])[rows]) for s in atlas.stages}, name_groups(atlas))
    if told:
        print(f"{folder / 'metadata.tsv'}: {told}", flush=True)
    return folder


def make_frame(atlas: Atlas, stage: str) -> pl.DataFrame:
    """Make a table of one stage for any plotting program: the items, their groups named, and x, y of the aligned frame."""
    x, y = atlas.aligned[stage].T
    return name_groups(atlas).with_columns(x=pl.Series(x), y=pl.Series(y))


def name_groups(atlas: Atlas) -> pl.DataFrame:
    """Return the items with their groups by name, and no tab or line break in a text."""
    groups = [pl.Series(g, [atlas.words[g].get(k, "none") for k in atlas.items[g].to_list()]) for g in GROUPINGS]
    return atlas.items.with_columns(*groups).with_columns(pl.col(pl.String).str.replace_all(r"\s+", " "))


def datamapplot(atlas: Atlas, stage: str, *, column: str = "cluster", **options: Any) -> Any:
    """Draw a stage with datamapplot, its groups labelled; returns what `datamapplot.create_plot` returns."""
    module, table = _need("datamapplot"), make_frame(atlas, stage)
    return module.create_plot(
        table.select("x", "y").to_numpy(), table[column].cast(pl.String).to_numpy(), title=stage, **options
    )


def jupyter_scatter(atlas: Atlas, stage: str, *, column: str = "cluster", **options: Any) -> Any:
    """Make a jupyter-scatter widget of a stage, coloured by a column."""
    module = _need("jscatter")
    colours = [map_figures.choose_colour(k) for k in range(len(PALETTE))]
    return module.Scatter(
        data=_pandas(make_frame(atlas, stage)), x="x", y="y", color_by=column, color_map=colours, **options
    )


def embedding_atlas(atlas: Atlas, stage: str, **options: Any) -> Any:
    """Make Apple's embedding-atlas widget over a stage's aligned coordinates."""
    module = _need("embedding_atlas")
    widget = importlib.import_module(f"{module.__name__}.widget").EmbeddingAtlasWidget
    return widget(_pandas(make_frame(atlas, stage)), x="x", y="y", text="title", **options)


def describe_programs(run: Run) -> str:
    """Say which of the programs are installed, and give the call for each."""
    lines = [f"tensorboard --logdir {run.path / 'projector'}"]
    for module, package in PACKAGES.items():
        there = importlib.util.find_spec(module) is not None
        call = f"integrations.{package.replace('-', '_')}(atlas, stage)"
        lines.append(f"{call}: {'installed' if there else f'pip install {package}'}")
    return "\n".join(lines)


def _pandas(table: pl.DataFrame) -> Any:
    import pandas as pd  # comes with the programs that want it

    return pd.DataFrame(table.to_dict(as_series=False))


def _need(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImportError(f"This hand-over needs {PACKAGES[module]}: pip install {PACKAGES[module]}") from None
