"""One training stage in several processes: what notebooks 02 and 03 do in one, under torchrun or accelerate launch.

    torchrun --nproc-per-node 2 -m llm2rec_kit.cli train csft demo --profile demo

Settings, artefact and manifest are the notebook's, so the notebook, opened afterwards, reuses what was made here. Process
0 alone decides whether there is anything to do, writes the artefact and prints; docs/distributed.md has the commands.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.fitting import checkpoints, distributed, tracking, trainer
from llm2rec_kit.models import backbone
from llm2rec_kit.runs import Run
from llm2rec_kit.training import contrastive, csft, mntp

STAGES: dict[str, tuple[type[S.Training], str]] = {  # settings, and the artefact whose model is trained
    "csft": (S.CSFT, "backbone"),
    "mntp": (S.MNTP, "csft"),
    "contrastive": (S.Contrastive, "mntp"),
}


def make(name: str, run: Run, parameters: Mapping[str, Any], *, force: bool = False) -> Path:
    """Make artefact `name` of `run`, or reuse it; every process calls this with the same arguments.

    `parameters` are flat names (`csft_steps`, `backbone_device`), as in a profile. CSFT makes the artefact `backbone`
    first, where it is missing. Raises ArtefactError where what the stage starts from is missing.
    """
    kind, source = STAGES[name]
    settings, place = kind.from_parameters(parameters), S.Backbone.from_parameters(parameters)
    tracking.check(settings)
    distributed.join(backbone.placement(place)[0])
    key = trainer.key(settings, place) | {"inputs": ["corpus", source]}
    with _quiet_but_first():
        if distributed.rank() == 0:
            if name == "csft":
                _make_backbone(run, place, force)
            begun = []

            def build(folder: Path) -> dict[str, Any]:
                begun.append(distributed.told(str(folder)))
                return _train(name, run, settings, place, folder)

            run.make(name, build, **key, force=force)
            if not begun:
                distributed.told("")
        elif folder := distributed.told(""):
            _train(name, run, settings, place, Path(folder))
        distributed.wait()
    return run.path_of(name)


def _train(name: str, run: Run, settings: S.Training, place: S.Backbone, folder: Path) -> dict[str, Any]:
    """Train in this process and, on process 0, save; returns the record."""
    model, tokenizer = backbone.load(run.require(STAGES[name][1]), place)
    corpus = Corpus.load(run.require("corpus"))
    if name == "csft":
        backbone.check_masks(model)
        history = csft.train(corpus, model, tokenizer, settings, folder)
    else:
        stage = {"mntp": mntp, "contrastive": contrastive}[name]
        history = stage.train(trainer.train_titles(corpus), model, tokenizer, settings, folder)
    record = {**trainer.final(history), "steps": settings.steps, "processes": distributed.world()}
    if distributed.rank() > 0:
        return record
    if distributed.sharded():  # the model in memory is in pieces; its last checkpoint is whole
        model = _whole(run, STAGES[name][1], place, history, folder, bidirectional=name != "csft")
    if name == "csft":
        record["samples"] = len(corpus.select(corpus.train_domains)[0].samples("train"))
    else:
        record["leak"] = backbone.leak(model)
    backbone.save(model, tokenizer, folder)
    trainer.write_history(history, folder)
    return record


def _whole(run: Run, source: str, place: S.Backbone, history: list[dict], folder: Path, *, bidirectional: bool):
    """The trained model of a sharded training (FSDP), from the checkpoint whose weights are kept."""
    kept = int(history[-1].get("kept_step", history[-1]["step"]))
    model, _ = backbone.load(run.require(source), place)
    checkpoint = checkpoints.path(folder / "checkpoints", kept)
    if why := checkpoints.fault(checkpoint):
        raise trainer.TrainingError(f"The weights of step {kept} cannot be read from {checkpoint}: {why}.")
    weights = load_file(checkpoint / "model.safetensors")
    model.load_state_dict(weights, strict=False)  # a tied head is not in the file
    return backbone.bidirectional(model) if bidirectional else backbone.causal(model)


def _make_backbone(run: Run, place: S.Backbone, force: bool) -> None:
    """The artefact `backbone`, as notebook 02 makes it."""

    def build(folder: Path) -> dict[str, Any]:
        if place.name == "tiny":
            corpus = Corpus.load(run.require("corpus"))
            model, tokenizer = backbone.make_tiny(corpus.select(corpus.train_domains)[0].titles, place)
        else:
            model, tokenizer = backbone.load(place.name, place)
        backbone.save(model, tokenizer, folder)
        return {
            "name": place.name,
            "parameters": backbone.parameters(model),
            "vocabulary": len(tokenizer),
            "from_nothing": place.name == "tiny",
        }

    run.make("backbone", build, settings=place.as_dict() | backbone.contents(place.name), inputs=["corpus"], force=force)


@contextlib.contextmanager
def _quiet_but_first():
    """Only process 0 prints."""
    with contextlib.ExitStack() as stack:
        if distributed.rank() > 0:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield
