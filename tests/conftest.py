"""What several test files stand on: a hand-made corpus, a tiny backbone, one thread, a finished run.

The only conftest: a second one, in a folder below, would be what `from conftest import` finds.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from llm2rec_kit.corpus import TEST, TRAIN, VALID, Corpus
from llm2rec_kit.settings import Backbone

ROOT = Path(__file__).parents[1]
BRANDS = ("Star Harbor", "Iron Vale", "Moss & Fern", "Café Lumière")
KINDS = ("Racing", "Puzzle, Deluxe", "Chess Set", "Ink_Pen!")


def make_corpus(users: int = 12, items: int = 16, max_history: int = 4, seed: int = 0, longest: int = 9) -> Corpus:
    """Random sequences of 3 to `longest` items, leave-one-out; titles of several lengths, punctuation included."""
    rng = np.random.default_rng(seed)
    titles = [f"{BRANDS[i % 4]} {KINDS[(i // 4) % 4]}{' for PC' * (i % 3)} {i}" for i in range(items)]
    lengths = rng.integers(3, longest + 1, users)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    targets = np.concatenate([np.arange(a + 1, b) for a, b in itertools.pairwise(offsets)])
    last = np.isin(targets, offsets[1:] - 1)
    second = np.isin(targets, offsets[1:] - 2)
    return Corpus(
        items=pl.DataFrame(
            {
                "item": np.arange(1, items + 1, dtype=np.int32),
                "source_id": [f"i{i}" for i in range(items)],
                "title": titles,
                "domain": "toy",
            }
        ),
        users=pl.DataFrame(
            {"user": np.arange(users, dtype=np.int32), "source_id": [f"u{u}" for u in range(users)], "domain": "toy"}
        ),
        offsets=offsets,
        sequence=rng.integers(1, items + 1, offsets[-1]).astype(np.int32),
        times=None,
        targets=targets,
        splits=np.where(last, TEST, np.where(second, VALID, TRAIN)).astype(np.uint8),
        max_history=max_history,
        facts={"source": "hand-made"},
    ).check()


@contextlib.contextmanager
def no_room(most: int = 60):
    """Within: no file can grow past `most` bytes, so that writing one fails half-way, as on a full disk. Print nothing there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def held(folder) -> dict[str, bytes]:
    """What a folder holds: bytes of every file, hidden ones included, by path; of a folder the path alone."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


@functools.cache
def reads_toy_run(file: str) -> bool:
    """Whether tests of this file ask for `toy_run`: its text names it."""
    return "toy_run" in (ROOT / file).read_text(encoding="utf-8")


def pytest_collection_modifyitems(items):
    """Put files first that read `toy_run`, then the folders whose few tests take minutes, then files by their number of tests: begun last, one of the former
    would be all that runs. Workers take whole files in this order, by `--no-loadscope-reorder`."""
    tests = Counter(item.path for item in items)

    def place(item):
        first = not reads_toy_run(str(item.path)), item.path.parent.name not in ("browser", "notebooks")
        return *first, -tests[item.path], item.path

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)  # there may be no xdist
def pytest_xdist_make_scheduler(config, log):
    """As `--dist loadfile`, but that the files which read `toy_run` go to one worker: making that run takes minutes."""
    from xdist.scheduler import LoadFileScheduling

    class ByRun(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "toy_run" if reads_toy_run(file) else file

    return ByRun(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture
def bfloat16_allowed(monkeypatch):
    """Trainings in bfloat16 on any CPU, as slow as it may be: without, the kit refuses them where there are no instructions."""
    from llm2rec_kit.downstream import fast_ops
    from llm2rec_kit.models import kernels

    for module in (kernels, fast_ops):
        monkeypatch.setattr(module, "has_fast_bfloat16", lambda: True)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """One thread for this process and its children: where cores are short, threads of several processes wait for each other."""
    import torch

    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory):
    """A cache folder for this call of pytest, which the workers of xdist share: machine code of maps is compiled once."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM2REC_CACHE", str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"))
        yield


@pytest.fixture(autouse=True)
def _stays_at_one_thread():
    """A test that leaves more behind makes those after it many times slower, and their last bits others."""
    yield
    import torch

    assert torch.get_num_threads() == 1


@pytest.fixture(scope="session", autouse=True)
def _interruptible():
    """SIGINT as in a terminal, for this process and its children: where a shell or a CI starts pytest in the background,
    both would ignore it, and a test that interrupts a child would wait for ever."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def corpus() -> Corpus:
    return make_corpus()


@pytest.fixture(scope="session")
def _tiny():
    from llm2rec_kit.models import backbone

    return backbone.make_tiny(make_corpus().titles, Backbone(hidden=32, layers=2, heads=2, vocabulary=400, device="cpu"))


@pytest.fixture
def tiny(_tiny):
    """A fresh copy of a two-layer backbone and its tokenizer."""
    import copy

    model, tokenizer = _tiny
    return copy.deepcopy(model), copy.deepcopy(tokenizer)


CHANGED = {"maps.max_items": 60, "evaluation.epochs": 1, "csft.save_every": 3}


@dataclass(frozen=True)
class Finished:
    """A finished run of the whole series at toy size: the run, the command that made it, what it said, and the parameters that it set besides the profile's."""

    run: Any
    words: list[str]
    said: str
    changed: dict[str, int]


def without_pictures(folder: Path) -> dict[str, str]:
    """An environment whose kernels draw no figure into a notebook, a quarter of the time; those that are saved are drawn."""
    config = folder / "profile_default" / "ipython_kernel_config.py"
    config.parent.mkdir(parents=True)
    config.write_text("c.InlineBackend.figure_formats = set()\n")
    return {"IPYTHONDIR": str(folder)}


@pytest.fixture
def no_pictures(monkeypatch, tmp_path):
    """Kernels begun in this test draw no figure into a notebook."""
    for name, value in without_pictures(tmp_path / "ipython").items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory) -> Finished:
    from llm2rec_kit.runs import Run

    outputs = tmp_path_factory.mktemp("outputs")
    words = [sys.executable, "-m", "llm2rec_kit.cli", "reproduce", "--profile", "smoke", "--run", "toy"]
    words += [w for name, value in CHANGED.items() for w in ("--set", f"{name}={value}")]
    words += ["--outputs", str(outputs)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=outputs)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return Finished(Run("toy", outputs), words, done.stdout, CHANGED)
