"""How each artefact of a run is made: what it is made from, the settings that count, the work, and the record. Told once.

Notebooks, `llm2rec train`, studies and grids make an artefact by the same recipe, so it is the same whoever makes it. They
stand in the order of the series; the evaluations of notebook 04 are in `evaluating`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm2rec_kit import geometry
from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.runs import ArtefactError, Run
from llm2rec_kit.settings.encoding import AS_SAVED, parse_variant

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerCallback

    from llm2rec_kit.data.sources import Interactions
    from llm2rec_kit.encoding.encoder import Encoder

RAW = "raw"  # what a run calls the table of its backbone
STARTS = {"csft": "backbone", "mntp": "csft", "contrastive": "mntp"}  # a training, and whose model it goes on with
TABLES = {RAW: "backbone", **{stage: stage for stage in STARTS}}  # a run's tables, and whose model encodes them


@dataclass(frozen=True)
class Recipe:
    """One artefact: its name, its work, and what tells it from another of that name.

    build     writes the artefact into the folder that it is given and returns the record.
    settings  all that its content depends on; those named in `aside` are kept beside and change no result.
    inputs    names of the artefacts of the run that it is made from.
    match     of two settings, these and a finished one's, gives the latter where they say the same in other words.
    """

    name: str
    build: Callable[[Path], dict[str, Any]]
    settings: dict[str, Any]
    inputs: Sequence[str] = ()
    aside: Sequence[str] = ()
    match: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]] | None = None

    @property
    def same(self) -> dict[str, Any]:
        """What `Run.make`, `stale` and `reuse_from` take beside its name."""
        return {"settings": self.settings, "inputs": list(self.inputs), "aside": list(self.aside)}

    def make(self, run: Run, *, base: Run | None = None, force: bool = False, quiet: bool = False) -> Path:
        """Make it in `run`, take it from `base` where that has the very same, or reuse it; returns its path."""
        if base is not None and not force and run.reuse_from(base, self.name, **self.same):
            return run.path_of(self.name)
        same = self.same
        with contextlib.suppress(ArtefactError):
            if self.match and not force:
                same["settings"] = self.match(self.settings, run.manifest(self.name)["settings"])
        return run.make(self.name, self.build, **same, force=force, quiet=quiet)


def make_corpus(data: S.Data, outputs: str | Path = "", interactions: Interactions | None = None) -> Recipe:
    """Return the recipe of items, sequences and splits, from the source, a mix of runs in `outputs`, or `interactions`."""
    from llm2rec_kit.data import cleaning, mixing, preconditions, sources

    mixed = data.source == "mix"

    def build(folder: Path) -> dict[str, Any]:
        if mixed:
            corpus = mixing.mix_corpora(data, outputs)
        else:
            corpus = cleaning.build_corpus(sources.load(data) if interactions is None else interactions, data)
        preconditions.check(corpus)  # before it is kept
        corpus.save(folder)
        told = {"source": corpus.facts["source"], "split": corpus.facts["split"], "train_domains": corpus.train_domains}
        return {**told, "statistics": corpus.statistics().to_dicts(), "cleaning": corpus.facts["cleaning"]}

    def match(asked: dict[str, Any], made: dict[str, Any]) -> dict[str, Any]:
        same = asked | {"files": sources.match_files(data, asked["files"], made.get("files", {}))}
        return same if all(same.get(k) == made.get(k) for k in {*same, *made} - {*data.aside}) else asked

    files = mixing.hash_parts(data, outputs) if mixed else sources.hash_files(data)
    return Recipe("corpus", build, data.recipe | {"files": files}, aside=data.aside, match=None if mixed else match)


def make_backbone(run: Run, place: S.Backbone) -> Recipe:
    """Return the recipe of the model that training starts from: `tiny`, made for the corpus's titles, or a named one."""
    from llm2rec_kit.models import backbone

    def build(folder: Path) -> dict[str, Any]:
        if place.name == "tiny":
            corpus = Corpus.load(run.require("corpus"))
            model, tokenizer = backbone.make_tiny(corpus.select(corpus.train_domains)[0].titles, place)
        else:
            model, tokenizer = backbone.load(place.name, place)
        backbone.save(model, tokenizer, folder)
        size = {"parameters": backbone.count_parameters(model), "vocabulary": len(tokenizer)}
        return {"name": place.name, **size, "from_nothing": place.name == "tiny"}

    settings = place.as_dict() | backbone.hash_contents(place.name)
    return Recipe("backbone", build, settings, ["corpus"], place.aside)


def train_stage(
    run: Run,
    settings: S.Training,
    place: S.Backbone,
    name: str = "",
    *,
    start: str = "",
    domains: Sequence[str] = (),
    text: str = "title",
    prepared: Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Recipe:
    """Return the recipe of the model after CSFT, MNTP or item contrast, whichever the settings are of.

    It goes on with the model of artefact `start` (STARTS, unless given) and is called `name` (as its stage, unless given).
    `domains` are those that it sees (the training domains, unless given). `text` "attributes" contrasts items by these
    (`training.llmemb`). `prepared` and `callbacks` as in `csft.train`. Under torchrun all processes `build` in one folder.
    """
    from llm2rec_kit.fitting import artefact, distributed
    from llm2rec_kit.fitting.history import take_last_values, write_history
    from llm2rec_kit.models import backbone
    from llm2rec_kit.training import csft

    stage = settings.prefix
    start, train = start or STARTS[stage], _training_of(stage, text, prepared, callbacks)
    other = ({"domains": list(domains)} if domains else {}) | ({"text": text} if text != "title" else {})

    def build(folder: Path) -> dict[str, Any]:
        corpus = Corpus.load(run.require("corpus"))
        if domains:
            corpus = dataclasses.replace(corpus, facts=corpus.facts | {"train_domains": list(domains)})
        model, tokenizer = backbone.load(run.require(start), place)
        if isinstance(settings, S.CSFT):
            csft.check_model(model)  # a family that cannot take the series is refused before any training
        history = train(corpus, model, tokenizer, settings, folder)
        record = (last := take_last_values(history)) | {"steps": last.get("kept_step", settings.steps)}
        if distributed.world_size() > 1:
            record["processes"] = distributed.world_size()
        if distributed.rank() > 0:
            return record  # process 0 saves
        if distributed.is_sharded():  # in memory it is in pieces; its last checkpoint is whole
            plain = backbone.fit_rows(backbone.load(run.require(start), place)[0], backbone.token_rows(model))
            model = _whole(plain, int(record["steps"]), folder, bidirectional=backbone.is_bidirectional(model))
        backbone.save(model, tokenizer, folder)
        record |= _look_at(model, corpus, stage)
        write_history(history, folder)  # last: with the checkpoints goes what an interrupted make goes on from
        return record

    return Recipe(name or stage, build, inputs=["corpus", start], **artefact.split_settings(settings, place, **other))


def _look_at(model: PreTrainedModel, corpus: Corpus, stage: str) -> dict[str, float]:
    """What a record tells beside the history: the samples that CSFT had, or whether later tokens reach earlier ones."""
    from llm2rec_kit.models import backbone

    if stage == "csft":
        return {"samples": len(corpus.select(corpus.train_domains)[0].samples("train"))}
    return {"leak": backbone.measure_leak(model)}


def _training_of(
    stage: str, text: str, prepared: Path | None, callbacks: Sequence[TrainerCallback]
) -> Callable[..., list[dict[str, float]]]:
    """What trains (corpus, model, tokenizer, settings, folder): on samples, on titles or, with `text` "attributes", on those."""
    from llm2rec_kit.training import contrastive, csft, llmemb, mntp
    from llm2rec_kit.training.titles import train_titles

    if stage == "csft":
        return partial(csft.train, prepared=prepared, callbacks=callbacks)
    if text == "attributes":
        return lambda corpus, *how: llmemb.train(llmemb.list_attributes(corpus.select(corpus.train_domains)[0].items), *how)
    objective = {"mntp": mntp, "contrastive": contrastive}[stage]
    return lambda corpus, *how: objective.train(train_titles(corpus), *how)


def _whole(model: PreTrainedModel, kept: int, folder: Path, *, bidirectional: bool) -> PreTrainedModel:
    """`model` with the weights of the checkpoint of step `kept`, those that a sharded training (FSDP) leaves."""
    from safetensors.torch import load_file

    from llm2rec_kit.fitting import checkpoints, trainer
    from llm2rec_kit.models import backbone

    checkpoint = checkpoints.locate(folder / "checkpoints", kept)
    if why := checkpoints.find_fault(checkpoint):
        raise trainer.TrainingError(f"The weights of step {kept} cannot be read from {checkpoint}: {why}.")
    weights = load_file(checkpoint / "model.safetensors")
    model.load_state_dict(weights, strict=False)  # a tied head is not in the file
    return backbone.lift_causal_mask(model) if bidirectional else backbone.restore_causal_mask(model)


def embed_items(run: Run, table: str, start: str, how: S.Encoding, place: S.Backbone, *, text: str = "title") -> Recipe:
    """Return the recipe of the table of item vectors `embeddings/<table>`: float32 (items + 1, d), row 0 zero.

    `start` is the artefact whose model encodes, or an encoder by hub name or folder; `how` says how. `text` "attributes"
    encodes the items' attributes instead of their titles.
    """
    from llm2rec_kit.encoding import encoder
    from llm2rec_kit.encoding.encoder import Encoder
    from llm2rec_kit.models import backbone

    own = start in TABLES.values() or run.has(start)

    def build(folder: Path) -> dict[str, Any]:
        corpus = Corpus.load(run.require("corpus"))
        model, file = Encoder.load(run.require(start) if own else start, how, place), folder / f"{table}.npy"
        if file.exists():  # whole, by a make that was interrupted when it measured it
            vectors = np.load(file, mmap_mode="r")
        else:
            vectors = model.table(read_texts(corpus, text), out=file, progress=True)
        about = {"stage": stage if own else "baseline", "encoder": start, **_shape(vectors), **_read_as(model, own)}
        return about | {"title_template": _template(run)}

    stage = RAW if start == "backbone" else start
    other = ({"text": text} if text != "title" else {}) | ({} if own else backbone.hash_contents(start))
    settings = encoder.list_settings(how, place, stage, **other)
    return Recipe(f"embeddings/{table}", build, settings, ["corpus", start] if own else ["corpus"])


def list_tables(how: S.Encoding) -> dict[str, tuple[str, S.Encoding]]:
    """List the tables of item vectors that notebook 03 makes: {table: (what encodes it, how)}, as `embed_items` takes them.
    Each stage's as `how` says; the variants; baselines as they were saved, but at unit length."""
    asked = {table: (start, how) for table, start in TABLES.items()}
    for name in how.variants:
        stage, other = parse_variant(name, how)
        asked[name] = (TABLES.get(stage, stage), other)
    as_saved = dataclasses.replace(AS_SAVED, normalise="unit")
    return asked | {table: (baseline, as_saved) for baseline, table in how.tables.items()}


def embed_minilm(run: Run) -> Recipe:
    """Return the recipe of the table of a general pretrained encoder (`encoding.minilm`)."""
    from llm2rec_kit.encoding import minilm

    def build(folder: Path) -> dict[str, Any]:
        vectors = minilm.encode_titles(Corpus.load(run.require("corpus")).titles)
        np.save(folder / f"{minilm.NAME}.npy", vectors)
        return {"stage": minilm.NAME, "encoder": minilm.MODEL, **_shape(vectors), "title_template": _template(run)}

    return Recipe(f"embeddings/{minilm.NAME}", build, {}, ["corpus"])


def read_own_table(run: Run, table: str, file: str) -> Recipe:
    """Return the recipe of a table of the user's own vectors; raises as `own_tables.read`, before anything is written."""
    from llm2rec_kit.encoding import own_tables

    def build(folder: Path) -> dict[str, Any]:
        vectors, more = own_tables.read(table, file, Corpus.load(run.require("corpus")))
        np.save(folder / f"{table}.npy", vectors)
        return {"stage": "own", **_shape(vectors), "rows_of_no_item": more}

    return Recipe(f"embeddings/{table}", build, own_tables.hash_files(file), ["corpus"])


def save_encoder(run: Run, how: S.Encoding, place: S.Backbone, card: Callable[[Run, str], str]) -> Recipe:
    """Return the recipe of the whole chain's encoder, as transformers and sentence-transformers load it, with its `card`."""
    from llm2rec_kit.encoding.encoder import Encoder

    def build(folder: Path) -> dict[str, Any]:
        encoder = Encoder.load(run.require("contrastive"), how, place)
        encoder.save(folder, card=card(run, "contrastive"))
        return {"dim": encoder.dim}

    kept = {name: getattr(how, name) for name in ("attention", "pooling", "normalise", "max_tokens")}
    return Recipe("encoder", build, kept | place.where, ["contrastive", "embeddings/contrastive"])


def read_texts(corpus: Corpus, text: str = "title") -> list[str]:
    """Return the texts of items 1..N that are encoded: their titles, or their `attributes` as a prompt."""
    from llm2rec_kit.training import llmemb

    return corpus.titles if text == "title" else [llmemb.make_prompt(item) for item in llmemb.list_attributes(corpus.items)]


def _template(run: Run) -> str:
    """What of an item is its title; empty over a mix, where each part has its own word on it."""
    made = run.manifest("corpus")["settings"]
    return "" if made.get("source") == "mix" else str(made.get("text", "{title}"))


def _shape(vectors: np.ndarray) -> dict[str, Any]:
    """Items, width, mean length and effective rank of a table."""
    norm, rank = float(np.linalg.norm(vectors[1:], axis=1).mean()), geometry.effective_rank(vectors[1:])
    return {"items": len(vectors) - 1, "dim": vectors.shape[1], "mean_norm": norm, "effective_rank": rank}


def _read_as(model: Encoder, own: bool) -> dict[str, Any]:
    """How an encoder reads, and of the run's own models how much a later token leaks into an earlier one."""
    from llm2rec_kit.encoding.sentence_transformer import LibraryEncoder
    from llm2rec_kit.models import backbone

    how = {name: getattr(model.settings, name) for name in ("pooling", "normalise", "max_tokens")}
    if isinstance(model, LibraryEncoder):
        return {"attention": "as_trained", **how}
    mask = "bidirectional" if backbone.is_bidirectional(model.model) else "causal"
    return {"attention": mask, **how} | ({"leak": backbone.measure_leak(model.model)} if own else {})
