"""A stage made by several processes: the notebook's artefact, once, whoever makes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import make_corpus
from safetensors.torch import load_file
from test_trainer_ranks import together
from trained import ended, start_child

from llm2rec_kit import cli
from llm2rec_kit.fitting import checkpoints, trainer
from llm2rec_kit.models import backbone
from llm2rec_kit.reproduction.runner import launch
from llm2rec_kit.runs import ArtefactError, Run
from llm2rec_kit.settings import CSFT, Backbone, SettingsError

ROOT = Path(__file__).parents[2]
PARAMETERS = {
    "backbone_hidden": 32,
    "backbone_layers": 2,
    "backbone_heads": 2,
    "backbone_vocabulary": 400,
    "backbone_device": "cpu",
    "csft_steps": 6,
    "csft_batch_size": 8,
    "csft_learning_rate": 3e-3,
    "csft_warmup_steps": 1,
    "csft_evaluate_every": 3,
    "mntp_steps": 4,
    "mntp_batch_size": 8,
    "contrastive_steps": 4,
    "contrastive_batch_size": 8,
    "contrastive_warmup_steps": 0,
}


def new_run(outputs: Path) -> Run:
    """A run with a corpus, as notebook 01 leaves it."""
    run = Run("r", outputs)
    corpus = make_corpus()
    corpus.facts["domains_in"] = ["toy"]
    run.make("corpus", lambda folder: corpus.save(folder), settings={}, quiet=True)
    return run


def make_all(outputs: Path) -> None:
    for stage in launch.STAGES:
        launch.make(stage, Run("r", outputs), PARAMETERS)


def make_csft(outputs: Path) -> None:
    launch.make("csft", Run("r", outputs), PARAMETERS)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The three stages made in one process."""
    run = new_run(tmp_path_factory.mktemp("alone"))
    make_all(run.path.parent)
    return run


def weights(run: Run, stage: str) -> dict[str, torch.Tensor]:
    return load_file(run.require(stage) / "model.safetensors")


def check_close(run: Run, other: Run, stages=tuple(launch.STAGES)) -> None:
    for stage in stages:
        ours, theirs = weights(run, stage), weights(other, stage)
        assert ours.keys() == theirs.keys()
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=5e-4)


def test_two_processes_make_every_stage_once(tmp_path, alone):
    run = new_run(tmp_path)
    assert together(make_all, tmp_path) == [0, 0]
    check_close(run, alone)
    for stage in launch.STAGES:
        made = run.manifest(stage)
        assert made["record"]["processes"] == 2
        assert made["settings"] == alone.manifest(stage)["settings"]
        assert not (run.path / f".{stage}.partial").exists()
        assert not (run.path_of(stage) / "checkpoints").exists()
    model, _ = backbone.load(run.require("contrastive"), Backbone(device="cpu"))
    assert backbone.measure_leak(model) > 1e-3
    before = run.manifest("csft")
    assert together(make_csft, tmp_path) == [0, 0]
    assert run.manifest("csft") == before  # reused


def test_the_notebook_reuses_what_was_launched(alone):
    """The key is that of notebook 02's cell: the stage's settings, device and dtype, made from corpus and backbone."""
    stage = CSFT.from_parameters({k: v for k, v in PARAMETERS.items() if k.startswith("csft_")})
    kept = {name: value for name, value in stage.as_dict().items() if name != "report_to"}
    assert not alone.stale("csft", settings=kept | {"device": "cpu", "dtype": "auto"}, inputs=["corpus", "backbone"])
    place = Backbone.from_parameters({k: v for k, v in PARAMETERS.items() if k.startswith("backbone_")})
    assert not alone.stale("backbone", settings=place.as_dict(), inputs=["corpus"])
    assert {p.name for p in alone.require("csft").iterdir()} >= {"model.safetensors", "tokenizer.json", "history.json"}


def test_torchrun_itself(tmp_path, alone, capfd):
    """The documented command, with torchrun's own processes."""
    run = new_run(tmp_path)
    profile = tmp_path / "mine.yaml"
    profile.write_text(json.dumps(PARAMETERS))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "llm2rec_kit.cli",
    ]
    command += ["train", "csft", "r", "--profile", str(profile), "--outputs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    said = capfd.readouterr()
    assert done.returncode == 0, said.err[-3000:]
    assert said.out.count("csft step 6/6") == 1  # process 0 alone prints
    check_close(run, alone, ["csft"])
    assert run.record("csft")["processes"] == 2


def test_a_run_named_by_its_folder_is_trained_as_it_was_made(tmp_path, monkeypatch, capsys):
    new_run(tmp_path)
    launch.make("csft", Run("r", tmp_path), PARAMETERS)
    asked = []
    monkeypatch.setattr(launch, "make", lambda stage, run, values, **how: asked.append((run.path, values["csft_steps"])))
    for words in (["r", "--outputs", str(tmp_path)], [str(tmp_path / "r")]):
        assert cli.main(["train", "csft", *words]) == 0
    assert asked == [(tmp_path / "r", PARAMETERS["csft_steps"])] * 2


def test_the_command_in_one_process_says_what_is_missing(tmp_path, capsys):
    profile = tmp_path / "mine.yaml"
    profile.write_text(json.dumps(PARAMETERS))
    words = ["train", "mntp", "r", "--profile", str(profile), "--outputs", str(tmp_path)]
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    assert stopped.value.code == 2
    assert "There is no run 'r' in" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
    new_run(tmp_path)
    with pytest.raises(ArtefactError, match=r"no 'csft' yet.*02_csft"):
        launch.make("mntp", Run("r", tmp_path), PARAMETERS)


# What `accelerate launch --config_file docs/fsdp_3b.yaml` puts into the environment of its processes.
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}


def make_in_pieces(outputs: Path) -> None:
    """CSFT and MNTP under FSDP on the CPU: accelerate switches it on for accelerators alone, so it is switched on here."""
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    own, plugins = AcceleratorState.__init__, []

    def switched_on(self, *args, fsdp_plugin=None, **kwargs):
        own(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        plugins.extend([fsdp_plugin] if fsdp_plugin is not None else [])
        if plugins:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugins[-1]

    AcceleratorState.__init__ = switched_on
    for stage in ("csft", "mntp"):
        launch.make(stage, Run("r", outputs), PARAMETERS)


def test_a_model_in_pieces_learns_the_same_and_is_saved_whole(tmp_path, alone):
    run = new_run(tmp_path)
    assert together(make_in_pieces, tmp_path, **FSDP) == [0, 0]
    check_close(run, alone, ["csft", "mntp"])
    model, _ = backbone.load(run.require("mntp"), Backbone(device="cpu"))
    assert backbone.measure_leak(model) > 1e-3


def test_adapters_and_fsdp_are_not_mixed(tmp_path, monkeypatch):
    from trained import train

    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(SettingsError, match="csft_tuning: lora does not go with FSDP"):
        train(tmp_path, tuning="lora")


def test_accelerate_reads_the_documented_fsdp_settings():
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils import DistributedType

    config = load_config_from_file(str(ROOT / "docs" / "fsdp_3b.yaml"))
    assert config.distributed_type == DistributedType.FSDP
    assert config.fsdp_config["fsdp_version"] == 2
    given = {f"FSDP_{k.removeprefix('fsdp_').upper()}": str(v).lower() for k, v in config.fsdp_config.items()}
    ours = {k: v.lower() for k, v in FSDP.items() if k.startswith("FSDP_")}
    assert given.items() >= ours.items()


def cut_when_saved(outputs: Path) -> None:
    """Dies when all is trained and nothing saved."""
    from test_trainer_faults import kill_at

    kill_at(pytest.MonkeyPatch(), backbone, "save", 2)  # the first is the backbone's own
    launch.make("csft", Run("r", outputs), PARAMETERS)


def test_a_training_that_was_not_saved_is_not_trained_again(tmp_path, alone, capsys, monkeypatch):
    run = new_run(tmp_path)
    assert ended(start_child(cut_when_saved, tmp_path)) == -9
    left = checkpoints.find_last(run.path / ".csft.partial" / "checkpoints")
    assert checkpoints.step_of(left) == 6
    monkeypatch.setattr(trainer.StepTrainer, "train", lambda *a, **k: pytest.fail("trained again"))
    launch.make("csft", run, PARAMETERS)
    assert "resuming from checkpoint-6" in capsys.readouterr().out
    check_close(run, alone, ["csft"])


def test_without_a_profile_a_finished_run_keeps_its_settings(alone, capsys):
    before = {name: alone.manifest(name) for name in ("backbone", *launch.STAGES)}
    for stage in launch.STAGES:
        assert cli.main(["train", stage, "r", "--outputs", str(alone.path.parent)]) == 0
    assert capsys.readouterr().out.count("reused, nothing changed") == 4
    assert {name: alone.manifest(name) for name in before} == before


@pytest.mark.parametrize("typed", [["--profile", "demo"], ["--set", "csft.steps=5"]])
def test_a_finished_training_is_replaced_by_force_alone(alone, capsys, typed):
    before = alone.manifest("backbone"), alone.manifest("csft")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "csft", "r", "--outputs", str(alone.path.parent), *typed])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "Nothing was changed: this replaces, in run 'r'" in said
    assert "csft_steps 6 -> " in said
    assert "--force" in said
    assert "mntp" in said
    assert "mntp_steps" not in said
    assert (alone.manifest("backbone"), alone.manifest("csft")) == before


def test_what_the_last_reproduce_asked_counts_where_nothing_is_made_yet(tmp_path, monkeypatch):
    run, taken = new_run(tmp_path), []
    run.write_info("asked", {"profile": "games", "parameters": {"run": "r", "force": True, "csft_steps": 777}})
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "make", lambda stage, run, values, force: taken.append(values))
    words = ["train", "csft", "r", "--outputs", str(tmp_path), "--set", "backbone.name=models/mine"]
    assert cli.main(words) == 0
    assert taken == [{"run": "r", "csft_steps": 777, "backbone_name": str(tmp_path / "models" / "mine")}]
    assert cli.main([*words, "--profile", "games"]) == 0
    assert taken[1]["csft_steps"] != 777
    assert taken[1]["backbone_name"] == str(tmp_path / "models" / "mine")
