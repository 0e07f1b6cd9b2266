"""A finished run made by the kit of an earlier day loads, is reused as a whole, is reported and hands its parts on.

`earlier_run.tar.xz` holds it; make_earlier_run.py says how it was made and what is left out. Only the command line, `Run` and
`Corpus` are used here, so that modules may move. What a library's version may change is not compared to the last digit.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import without_pictures

from llm2rec_kit.cli import main
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.runs import Run

ARCHIVE = Path(__file__).with_name("earlier_run.tar.xz")
RUN = "earlier"
STAGES = ("csft", "mntp", "contrastive")
LATER = {"tables_start_epochs": 1}  # of what was not asked of that run: by default it trains to patience


def unpack(outputs: Path) -> Run:
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(outputs, filter="data")
    return Run(RUN, outputs)


def studies_of(run: Run) -> list[Run]:
    folder = run.path / "experiments"
    return [Run(place.name, folder) for place in sorted(folder.iterdir()) if not place.name.startswith(".")]


def manifests(run: Run) -> dict[str, bytes]:
    """Every manifest in the run's folder, its studies' and those that these share included: bytes by path."""
    notes = (p for p in sorted(run.path.rglob("*.json")) if p.name != "run.json" and p.parent != run.path)
    return {p.relative_to(run.path).as_posix(): p.read_bytes() for p in notes if b'"finished"' in p.read_bytes()}


def manifest_of(run: Run, name: str, around: Run) -> str:
    return run.manifest_path(name).relative_to(around.path).as_posix()


@pytest.fixture(scope="module")
def earlier(tmp_path_factory) -> Run:
    return unpack(tmp_path_factory.mktemp("outputs"))


@dataclass(frozen=True)
class Again:
    """The earlier run after the same command: the run, what the command said, the manifests and results before it."""

    run: Run
    said: str
    before: dict[str, bytes]
    results: dict


@pytest.fixture(scope="module")
def again(tmp_path_factory) -> Again:
    outputs = tmp_path_factory.mktemp("again")
    run = unpack(outputs)
    before, results = manifests(run), json.loads((run.path / "results.json").read_text())
    # Its parameters as they were, whatever its profile says by now.
    parameters = run.read_info()["asked"]["parameters"] | LATER
    profile = outputs / "as_then.yaml"
    profile.write_text(json.dumps({k: v for k, v in parameters.items() if k not in ("run", "outputs")}))
    words = ["reproduce", "--profile", str(profile), "--run", RUN, "--outputs", str(outputs)]
    words, where = [sys.executable, "-m", "llm2rec_kit.cli", *words], os.environ | without_pictures(outputs / "ipython")
    done = subprocess.run(words, capture_output=True, text=True, cwd=outputs, env=where)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return Again(run, done.stdout, before, results)


def test_every_artefact_is_sound_and_of_what_the_run_holds(earlier):
    seen = []
    for run in (earlier, *studies_of(earlier)):
        for name in run.artefacts():
            assert run.require(name)
            # A study with a corpus of its own has the backbone of the run around it.
            assert [i for i in run.changed_inputs(name) if (name, i) != ("backbone", "corpus")] == []
            seen.append(manifest_of(run, name, earlier))
    assert earlier.changed_inputs("backbone") == []
    assert len(studies_of(earlier)) >= 5
    assert {*seen} == {path for path in manifests(earlier) if ".store" not in path}


def test_the_corpus_and_the_tables_are_read(earlier):
    corpus = Corpus.load(earlier.require("corpus")).check()
    rows = {row["domain"]: row for row in earlier.record("corpus")["statistics"]}
    assert (corpus.n_users, corpus.n_items) == (rows["total"]["users"], rows["total"]["items"])
    assert corpus.train_domains == earlier.record("corpus")["train_domains"]
    for name in earlier.names("embeddings"):
        table = np.load(earlier.require(name).with_suffix(".npy"))
        assert table.shape == (corpus.n_items + 1, earlier.record(name)["dim"])


def test_run_json_tells_what_it_was(earlier):
    about = earlier.read_info()
    held = json.loads((earlier.path / "run.json").read_text())
    assert about == {k: v for k, v in held.items() if k != "seal"}
    assert {*about["stages"]} >= {"corpus", "backbone", *STAGES, "encoder", "maps"}
    assert about["git"] == {"commit": about["stages"]["csft"]["git"]["commit"], "dirty": False}
    assert not list(earlier.path.glob("*.damaged"))


def test_the_report_is_written_from_it_and_stands_beside_another(tmp_path, capsys):
    run, other = unpack(tmp_path / "one"), unpack(tmp_path / "two")
    wanted = json.loads((run.path / "results.json").read_text())
    (run.path / "results.json").unlink()
    assert main(["report", str(run.path), str(other.path)]) == 0
    assert close(json.loads((run.path / "results.json").read_text()), wanted)
    assert wanted["left_out"] == wanted["missing"] == []
    assert {*wanted["beyond"]} == {"06_paper_tables", "07_beyond_the_paper"}
    said, page = capsys.readouterr().out, (run.path / "report.html").read_text()
    for domain in wanted["results"]:
        assert f"{domain} (synthetic data" in said
    for stage in STAGES:
        assert stage in page
    assert "side by side: " in said


@pytest.mark.parametrize("stage", ["csft", "contrastive"])
def test_its_models_encode_its_titles_as_they_did(earlier, stage, tmp_path, capsys):
    titles = Corpus.load(earlier.require("corpus")).titles
    (tmp_path / "titles.txt").write_text("".join(f"{title}\n" for title in titles))
    folder = earlier.require("encoder" if stage == "contrastive" else stage)
    words = ["encode", str(folder), str(tmp_path / "titles.txt"), "--to", str(tmp_path / "out.npy"), "--device", "cpu"]
    assert main([*words, "--attention", "bidirectional", "--pooling", "mean", "--normalise", "none"]) == 0
    table = np.load(earlier.require(f"embeddings/{stage}").with_suffix(".npy"))[1:]
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), table, atol=1e-3 * np.abs(table).max())


@pytest.mark.parametrize("kind", ["sentence-transformers", "npy", "recbole", "projector"])
def test_its_embeddings_are_exported(earlier, kind, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["export", RUN, "--format", kind, "--to", str(out), "--outputs", str(earlier.path.parent)]) == 0
    assert capsys.readouterr().out.endswith(f"{out}: {', '.join(sorted(p.name for p in out.iterdir()))}\n")
    if kind == "npy":
        kept = earlier.path_of("embeddings/contrastive").with_suffix(".npy")
        assert (out / "embeddings.npy").read_bytes() == kept.read_bytes()


def test_its_maps_become_a_page(earlier, tmp_path, capsys):
    words = ["explore", RUN, "--outputs", str(earlier.path.parent), "--to", str(tmp_path / "page.html")]
    assert main(words) == 0
    known = json.loads(re.search(r'id="known">(.*?)</script>', (tmp_path / "page.html").read_text(), re.DOTALL)[1])
    titles = zlib.decompress(base64.b64decode(known["state"]["data"]["titles"]["base64"])).decode()
    assert titles.split("\n") == Corpus.load(earlier.require("corpus")).titles
    assert {"raw", *STAGES} <= {stage["name"] for stage in known["state"]["data"]["stages"]}


def test_the_same_command_makes_nothing_anew(again):
    made = re.findall(r"^(\S+): (?:making|redoing.*|taken from the store.*)$", again.said, re.MULTILINE)
    assert made == []
    now, before = manifests(again.run), dict(again.before)  # with those of sections that came later
    was, told = (json.loads(held.pop("evaluation/series.json")) for held in (before, now))
    assert {path: now.get(path) for path in before} == before
    # What notebook 04 ends with is written anew: then it named no inputs.
    assert {k: v for k, v in told["settings"].items() if k not in told["aside"]} == was["settings"]
    assert {*told["inputs"]} > {*was["settings"]["evaluations"]}
    for name in ("corpus", "backbone", *STAGES, "encoder", "maps"):
        assert f"{name}: reused, nothing changed since {again.run.manifest(name)['finished']}" in again.said


def test_neither_do_the_studies_of_06_and_07(again):
    told = re.findall(r"^(\S+): (\d+) recommenders to train", again.said, re.MULTILINE)
    there = {path.split("/")[1] for path in again.before if path.startswith("experiments/")}
    assert {n for study, n in told if study in there} == {"0"}
    for name in ("llm2vec", "llmemb", "csft_mixed", "temperature_01", "other_seed", "mntp_alone"):
        assert f"{name}: reused" in again.said
    (tables,) = (study for study in studies_of(again.run) if study.name == "tables")
    assert f"backbone: reused, nothing changed since {tables.manifest('backbone')['finished']}" in again.said


def test_the_results_are_those_kept(again):
    tally = again.results["beyond"]["06_paper_tables"]["directions"]
    tally["no detectable difference"] -= (
        2  # then the LLM2Vec that is trained here counted as the printed row, in either domain
    )
    assert close(json.loads((again.run.path / "results.json").read_text()), again.results)


def test_an_artefact_of_another_setting_would_be_made(again):
    """That reuse is looked at: with one setting changed, the kept manifest is not that of what is asked for."""
    name, made = "csft", again.run.manifest("csft")
    same = {"inputs": list(made["inputs"]), "aside": made["aside"]}
    assert not again.run.stale(name, settings=made["settings"], **same)
    assert again.run.stale(name, settings=made["settings"] | {"steps": 99}, **same)


def close(found, wanted) -> bool:
    """Whether a value of JSON has what was kept: numbers but for rounding, texts but for the numbers in them, and perhaps more keys."""
    if isinstance(wanted, dict):
        return found.keys() >= wanted.keys() and all(close(found[k], wanted[k]) for k in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(close, found, wanted))
    if isinstance(wanted, str):
        return re.sub(r"[-+]?[\d.,]+", "#", found) == re.sub(r"[-+]?[\d.,]+", "#", wanted)
    return found == wanted or found == pytest.approx(wanted, rel=1e-6, abs=1e-9)
