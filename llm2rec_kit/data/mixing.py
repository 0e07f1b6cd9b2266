"""Mixing: finished corpora put together into one, as the paper trains on six data sets at once (Mix-6, sec. 4.1.1).

Each part is cleaned and split by itself first, in a run of its own; `corpus.mix` then only renumbers. A part that is
evaluated but not trained on goes into the mix as well and is left out of `data_train_domains`.
"""

from __future__ import annotations

import reprlib
from dataclasses import replace
from pathlib import Path

import polars as pl

from llm2rec_kit.corpus import Corpus, mix
from llm2rec_kit.paper_statistics import match_domains
from llm2rec_kit.runs import find_outputs, manifest
from llm2rec_kit.settings import Data
from llm2rec_kit.storage import expand_home, hash_file_once

FILES = ("corpus.json", "items.parquet", "users.parquet", "sequences.parquet", "samples.parquet")
READ = ("source", "path", "mix", "train_domains", "max_history")  # settings that a mix looks at


def find_folders(settings: Data, outputs: str | Path = "") -> list[Path]:
    """Find the folder of each corpus in `settings.mix`: a run in `outputs`, or a path with a slash; ValueError for none, and
    for one whose files are not those of its manifest."""
    found = []
    for name in settings.mix:
        base = expand_home(name) if "/" in name else find_outputs(outputs) / name
        places = [base / "corpus", base]
        if not (folder := next((p for p in places if all((p / f).is_file() for f in FILES)), None)):
            raise ValueError(
                f"data_mix names {name!r}, and no corpus is in {places[0]} or {places[1]}. Make it with "
                "notebooks/01_data_prep.ipynb, or give a folder (with a slash in its name) that holds one."
            )
        _check_sound(folder, name)
        found.append(folder)
    return found


def _check_sound(folder: Path, name: str) -> None:
    """Raise ValueError where the files of `folder` are not what its manifest says or, without one, as `Corpus.save` leaves
    it, no sound corpus."""
    path, why = folder / manifest.FOLDER_NOTE, ""
    try:
        if path.exists():
            why = manifest.find_damage(folder, manifest.read(path, "corpus"))
        else:
            Corpus.load(folder).check()
    except ValueError as error:
        why = str(error).rstrip(".")
    except (pl.exceptions.PolarsError, OSError, KeyError, TypeError, AttributeError) as error:
        why = f"{folder} is damaged: it cannot be read ({reprlib.repr(str(error))})"
    if why:
        raise ValueError(
            f"data_mix names {name!r}, and {why}. Make that corpus anew with notebooks/01_data_prep.ipynb, or copy it again."
        )


def mix_corpora(settings: Data, outputs: str | Path = "") -> Corpus:
    """Put the corpora of `settings.mix` together; training sees `settings.train_domains`, all where that is empty.

    A name of the paper's stands for the same set under another (`match_domains`). Each part stays as it was made: settings
    that differ from their defaults and that only a part's own making reads are printed. ValueError where `settings.max_history`, by which samples are read, is not the parts'.
    """
    if settings.path or not settings.mix:
        raise ValueError(
            "data_source 'mix' takes the names of runs, or folders of corpora, in data_mix, and reads no data_path; "
            f"found data_mix {settings.mix} and data_path {settings.path!r}."
        )
    corpus = mix([Corpus.load(folder) for folder in find_folders(settings, outputs)])
    seen = match_domains(settings.train_domains, corpus.domains)
    if unknown := [d for d in seen if d not in corpus.domains]:
        raise ValueError(f"data_train_domains names {unknown}; the mix has {corpus.domains}.")
    if settings.max_history != corpus.max_history:
        raise ValueError(
            f"data_max_history is {settings.max_history}, and the corpora in data_mix were made with {corpus.max_history}: set "
            "data_max_history to that, or make them anew with the other."
        )
    if ignored := [
        name for name, value in Data().as_dict().items() if name not in READ and getattr(settings, name) != value
    ]:
        names = ", ".join(f"data_{name}" for name in ignored)
        print(f"mix: without effect, since each part stays as it was made: {names}", flush=True)
    return replace(corpus, facts=corpus.facts | {"train_domains": seen or corpus.train_domains})


def compute_statistics(settings: Data, outputs: str | Path = "") -> pl.DataFrame:
    """Compute the statistics of each corpus in `settings.mix`, one under another; raises as `find_folders`."""
    return pl.concat([Corpus.load(folder).statistics() for folder in find_folders(settings, outputs)])


def hash_parts(settings: Data, outputs: str | Path = "") -> dict[str, str]:
    """Compute the sha256 of each file of each part: a mix is stale once one of its parts changed."""
    parts = zip(settings.mix, find_folders(settings, outputs), strict=True)
    return {f"{name}/{file}": hash_file_once(folder / file) for name, folder in parts for file in FILES}
