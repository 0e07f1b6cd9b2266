"""One training stage in several processes: what notebooks 02 and 03 do in one, under torchrun or accelerate launch.

    torchrun --nproc-per-node 2 -m llm2rec_kit.cli train csft demo --profile demo

It makes what `pipeline` says, so the notebook, opened afterwards, reuses what was made here. Process 0 alone decides whether
there is anything to do, writes the artefact and prints; docs/distributed.md has the commands.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm2rec_kit import pipeline
from llm2rec_kit import settings as S
from llm2rec_kit.fitting import distributed, tracking
from llm2rec_kit.models import backbone
from llm2rec_kit.runs import Run

STAGES: dict[str, type[S.Training]] = {kind.prefix: kind for kind in (S.CSFT, S.MNTP, S.Contrastive)}


def make(name: str, run: Run, parameters: Mapping[str, Any], *, force: bool = False) -> Path:
    """Make artefact `name` of `run`, or reuse it; every process calls this with the same arguments. `parameters` are flat
    names, as in a profile. CSFT makes the artefact `backbone` first, where it is missing."""
    settings, place = STAGES[name].from_parameters(parameters), S.Backbone.from_parameters(parameters)
    tracking.check(settings)
    distributed.join(backbone.choose_placement(place)[0])
    recipe = pipeline.train_stage(run, settings, place)
    # Only process 0 prints.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere if distributed.rank() else sys.stdout):
        if distributed.rank() == 0:
            if name == "csft":
                pipeline.make_backbone(run, place).make(run, force=force)
            begun = []

            def build(folder: Path) -> dict[str, Any]:
                begun.append(distributed.broadcast(str(folder)))
                return recipe.build(folder)

            dataclasses.replace(recipe, build=build).make(run, force=force)
            if not begun:
                distributed.broadcast("")
        elif folder := distributed.broadcast(""):
            recipe.build(Path(folder))
        distributed.barrier()
    return run.path_of(name)
