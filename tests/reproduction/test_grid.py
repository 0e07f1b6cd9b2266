"""A grid: which notebooks its cells share, and what two worker processes make of it when one is killed and one cell fails."""

from __future__ import annotations

import io
import json
import re
import tomllib
from pathlib import Path

import nbformat
import numpy as np
import polars as pl
import pytest
from conftest import make_corpus
from nbformat.v4 import new_code_cell, new_notebook

from llm2rec_kit import runs
from llm2rec_kit.reproduction.grid import cluster, graph, summary
from llm2rec_kit.reproduction.runner import notebooks
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import SettingsError

DOCS = Path(__file__).parents[2] / "docs" / "grid.md"


def written(folder: Path, text: str) -> Path:
    path = folder / "toy.yaml"
    path.write_text(text)
    return path


def nodes_of(asked: graph.Grid, number: str) -> list[str]:
    return [n for n in asked.nodes if n.startswith(number)]


AXES = """
profile: smoke
axes:
  stages: [raw, csft, contrastive, id]
  seeds: [1, 2]
  settings:
    warm: {contrastive.temperature: 0.2}
    cold: {contrastive.temperature: 0.1}
"""


def test_cells_share_every_notebook_that_knows_no_difference(tmp_path):
    asked = graph.load(written(tmp_path, AXES), str(tmp_path))
    assert len(asked.cells) == 4 * 2 * 2
    counts = {number: len(nodes_of(asked, number)) for number in ("01", "02", "03", "04", "05")}
    # 04: only `contrastive` knows the temperature
    assert counts == {"01": 1, "02": 1, "03": 2, "04": 2 * (3 + 2), "05": 0}
    by_label = {tuple(c.labels.values()): c.nodes for c in asked.cells}
    assert by_label["raw", "1", "warm"][-1] == by_label["raw", "1", "cold"][-1]
    assert by_label["contrastive", "1", "warm"][-1] != by_label["contrastive", "1", "cold"][-1]
    assert by_label["raw", "1", "warm"][-1] != by_label["raw", "2", "warm"][-1]
    assert list(tmp_path.iterdir()) == [tmp_path / "toy.yaml"]


def test_a_notebook_after_04_begins_with_what_its_own_cell_has(tmp_path):
    """05 draws every table, also of a cell that evaluates `raw` alone."""
    asked = graph.load(written(tmp_path, f"notebooks: 5\n{AXES}"), str(tmp_path))
    for cell in asked.cells:
        assert graph.list_ancestors(asked, cell.nodes[-1]) == cell.nodes[-2::-1]
    counts = {number: len(nodes_of(asked, number)) for number in ("01", "02", "03", "04", "05")}
    assert counts == {"01": 1, "02": 1, "03": 2, "04": len(asked.cells), "05": len(asked.cells)}


@pytest.mark.parametrize(
    ("name", "value", "anew"),
    [
        ("data_seed", 7, {"01", "02", "03", "04"}),
        ("backbone_hidden", 64, {"02", "03", "04"}),
        ("mntp_rate", 0.3, {"03", "04"}),
        ("encoding_pooling", "last", {"03", "04"}),
        ("evaluation_dropout", 0.1, {"04"}),
        ("evaluation_workers", 3, set()),
    ],
)
def test_a_setting_makes_anew_what_depends_on_it_and_nothing_else(tmp_path, name, value, anew):
    text = f"profile: smoke\naxes: {{settings: {{a: {{}}, b: {{{name}: {value}}}}}}}\n"
    asked = graph.load(written(tmp_path, text), str(tmp_path))
    assert {number for number in ("01", "02", "03", "04") if len(nodes_of(asked, number)) == 2} == anew


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with a grid file over data, a backbone and a baseline that are folders beside it; what they hold is no model."""
    monkeypatch.setattr("llm2rec_kit.reproduction.plan.assets.check_models", lambda *a, **k: None)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "interactions.csv").write_text("user,item\n1,1\n")
    for model in ("model", "baseline"):
        (tmp_path / model).mkdir()
        (tmp_path / model / "config.json").write_text("{}")
        (tmp_path / model / "model.safetensors").write_bytes(b"weights")
        (tmp_path / model / "tokenizer.json").write_text("{}")
    (tmp_path / "own.npy").write_bytes(b"vectors")
    return written(
        tmp_path,
        "profile: smoke\nset: {data.source: table, data.path: data, backbone.name: model, encoding.baselines: [baseline], "
        "encoding.own: [mine=own.npy]}\n"
        "axes: {stages: [csft, id]}\n",
    )


@pytest.mark.parametrize(
    ("changed", "anew"),
    [
        ("data/interactions.csv", {"01", "02", "03", "04 csft", "04 id"}),
        ("data/items.csv", {"01", "02", "03", "04 csft", "04 id"}),
        ("data/more.csv", set()),  # the source does not read it
        ("model/model.safetensors", {"02", "03", "04 csft"}),
        ("baseline/model.safetensors", {"03", "04 csft"}),
        ("own.npy", {"03", "04 csft"}),
        ("own.ids.txt", {"03", "04 csft"}),
        ("model/README.md", set()),
    ],
)
def test_a_file_that_changed_makes_anew_what_depends_on_it_and_nothing_else(files, changed, anew):
    def nodes() -> dict[str, str]:
        asked = graph.load(files, str(files.parent / "out"))
        by_label = {f"04 {cell.labels['stages']}": cell.nodes[-1] for cell in asked.cells}
        return {name[:2]: name for name in asked.nodes if not name.startswith("04")} | by_label

    before = nodes()
    assert nodes() == before
    (files.parent / changed).write_text("something else")
    after = nodes()
    assert {number for number, name in after.items() if name != before[number]} == anew


def test_own_vectors_are_looked_for_beside_the_grid_file_and_named_where_they_are_missing(files, monkeypatch):
    (files.parent / "elsewhere").mkdir()
    monkeypatch.chdir(files.parent / "elsewhere")
    asked = graph.load(files, str(files.parent / "out"))
    assert {tuple(n.values.get("encoding_own", ())) for n in asked.nodes.values()} >= {(f"mine={files.parent / 'own.npy'}",)}
    (files.parent / "own.npy").unlink()
    with pytest.raises(SettingsError, match=r"encoding_own, mine: .*own\.npy is missing"):
        graph.load(files, str(files.parent / "out"))


def test_a_mix_names_runs_among_the_outputs_and_folders_beside_the_file_and_its_parts_count(tmp_path, monkeypatch):
    make_corpus().save(tmp_path / "outputs" / "games" / "corpus")
    make_corpus(seed=1).save(tmp_path / "beside" / "parts" / "arts")
    text = "notebooks: 1\nset: {data.source: mix, data.mix: [games, parts/arts]}\n"
    file = written(tmp_path / "beside", text)
    monkeypatch.chdir(tmp_path / "outputs")

    def node() -> graph.Node:
        (found,) = graph.load(file, str(tmp_path / "outputs")).nodes.values()
        return found

    first = node()
    assert first.values["data_mix"] == [str(tmp_path / "outputs" / "games"), str(tmp_path / "beside" / "parts" / "arts")]
    assert node() == first
    make_corpus(seed=2).save(tmp_path / "beside" / "parts" / "arts")
    assert node().name != first.name
    with pytest.raises(ValueError, match=r"data_mix names .*outputs/none'"):
        graph.load(written(tmp_path / "beside", text.replace("games", "none")), str(tmp_path / "outputs"))


def test_nodes_come_after_what_they_begin_with(tmp_path):
    asked = graph.load(written(tmp_path, AXES), str(tmp_path))
    seen = set()
    for name, node in asked.nodes.items():
        assert not node.before or node.before in seen
        seen.add(name)
    assert all(graph.list_ancestors(asked, c.nodes[-1]) for c in asked.cells)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("axis: {}", "Unknown key of a grid file 'axis'. Did you mean 'axes'"),
        ("axes: {seed: [1]}", "Unknown axis 'seed'. Did you mean 'seeds'"),
        ("axes: {datasets: [1]}", "Axis 'datasets' must hold `label"),
        ("axes: {seeds: []}", "Axis 'seeds' must hold"),
        ("axes: {settings: {a: {csft.stesp: 1}}}", "Did you mean 'csft_steps'"),
        ("axes: {settings: {a: {csft.steps: many}}}", "csft_steps takes int"),
        ("axes: {settings: {a: {data.seed: 1}}, datasets: {b: {data.seed: 2}}}", "Two axes set 'data_seed'"),
        ("profile: dmeo", "Unknown profile 'dmeo'"),
        ("notebooks: 12", "one of \\[1, 2, 3, 4, 5"),
        ("name: a/b", "one plain folder name"),
        ("set: [1]", "`set` must hold"),
        ("axes: {settings: {a: {data.source: recbole, data.path: nowhere}}}", "There is no data at .*nowhere"),
    ],
)
def test_what_cannot_be_run_is_named_before_anything_is(tmp_path, text, says):
    with pytest.raises((SettingsError, ValueError), match=says):
        graph.load(written(tmp_path, text), str(tmp_path))


def test_the_grid_of_the_docs_is_what_they_say(tmp_path):
    (tmp_path / "data").mkdir()
    text = re.search(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)[1].replace("../data/games_2018", "data")
    asked = graph.load(written(tmp_path, text), str(tmp_path))
    assert len(asked.cells) == 72
    assert [len(nodes_of(asked, n)) for n in ("01", "02", "03")] == [2, 4, 8]
    assert asked.cells[0].labels == {
        "datasets": "all users",
        "backbones": "small",
        "stages": "raw",
        "seeds": "2024",
        "settings": "tau 0.2",
    }
    assert f"{len(asked.nodes)} notebooks to run instead of 288" in summary.describe(asked)


# -- on a cluster -----------------------------------------------------------------------------------------------------

COMMON = 'run: str = "demo"  # name\noutputs: str = ""  # where\nforce: bool = False  # redo\n'
START = """import os, signal
from pathlib import Path
from llm2rec_kit.runs import Run
run_, here = Run(run, outputs), Path(outputs)
def count(what):
    with (here / "count.txt").open("a") as file:
        file.write(what + "\\n")
"""
CORPUS = """def build(folder):
    count("corpus")
    (folder / "data").write_text(str(data_seed))
run_.make("corpus", build, settings={"seed": data_seed})"""
# The first run of 7 kills its worker in the middle of a stage; 13 fails until there is a file `mended`.
CSFT = """def backbone(folder):
    count("backbone")
def csft(folder):
    half = folder / "half"
    if csft_steps == 7 and not half.exists():
        half.touch()
        os.kill(os.getppid(), signal.SIGKILL)
    count(f"csft {csft_steps}" + (" resumed" if half.exists() else ""))
    if csft_steps == 13 and not (here / "mended").exists():
        raise ValueError("unlucky")
    (folder / "weights").write_text(str(csft_steps))
    return {"steps": csft_steps}
run_.make("backbone", backbone, settings={}, inputs=["corpus"])
run_.make("csft", csft, settings={"steps": csft_steps}, inputs=["corpus", "backbone"])"""
RESULT = """import numpy as np
def build(folder):
    steps, seed = run_.record("csft")["steps"], evaluation_seeds[0]
    np.save(folder / f"SASRec-csft-seed{seed}.npy", np.where(np.arange(100) < steps, 1, 99))
    return {"domain": "toy", "recommender": "SASRec", "embedding": "csft", "seed": seed,
            "metrics": {"recall@10": steps / 100, "ndcg@10": steps / 100}}
count("evaluation")
run_.make(f"evaluation/toy/SASRec-csft-seed{evaluation_seeds[0]}", build, settings={}, inputs=["csft"])"""


@pytest.fixture
def root(tmp_path):
    """A project of three notebooks that write down what they make."""
    books = {
        "01_data": ("data_seed: int = 1  # seed\n", CORPUS),
        "02_csft": ("csft_steps: int = 10  # steps\n", CSFT),
        "04_eval": ('evaluation_embeddings: list = ["csft"]  # stages\nevaluation_seeds: list = [1]  # seeds\n', RESULT),
    }
    for name, (parameters, code) in books.items():
        cells = [new_code_cell(COMMON + parameters), new_code_cell(START), new_code_cell(code)]
        cells[0].metadata["tags"] = ["parameters"]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    (tmp_path / "base.yaml").write_text("csft_steps: 3\n")
    return tmp_path


TOY = """
profile: base.yaml
axes:
  settings: {plain: {csft.steps: 5}, killed: {csft.steps: 7}, unlucky: {csft.steps: 13}}
  seeds: [1, 2]
"""


def counted(asked: graph.Grid) -> dict[str, int]:
    lines = (asked.runs / "count.txt").read_text().splitlines()
    return {line: lines.count(line) for line in lines}


def test_two_workers_one_of_them_killed_one_cell_failing_the_rest_unharmed_and_resumed(root):
    pytest.importorskip("distributed")
    asked = graph.load(written(root, TOY), str(root / "out"), root=root)
    said = io.StringIO()
    assert cluster.run_grid(asked, workers=2, retries=1, stream=said) == 1
    first = counted(asked)
    assert first["corpus"] == first["backbone"] == 1  # shared by all, though three notebooks needed the backbone at once
    assert first["csft 5"] == first["csft 7 resumed"] == 1  # what the killed worker had begun was gone on with
    assert first["csft 13"] == 2  # tried again once
    assert first["evaluation"] == 4
    text = said.getvalue()
    assert re.search(r"02-\w+ \(02_csft\) failed: 02_csft stopped: ValueError: unlucky", text)
    assert text.count("not run: what it begins with failed") == 2
    assert re.search(r"unlucky, 1 +x   F   -\n", text)
    assert re.search(r"killed, 1 +x   x   x\n", text)
    rows = pl.read_parquet(asked.folder / "results.parquet")
    assert sorted(rows.select("settings", "seed", "recall@10").rows()) == [
        ("killed", 1, 0.07),
        ("killed", 2, 0.07),
        ("plain", 1, 0.05),
        ("plain", 2, 0.05),
    ]

    (asked.runs / "mended").touch()
    again = io.StringIO()
    assert cluster.run_grid(asked, workers=2, stream=again) == 0
    second = counted(asked)
    assert {k: second[k] - first.get(k, 0) for k in second if second[k] != first.get(k, 0)} == {
        "csft 13": 1,
        "evaluation": 2,
    }
    assert "7 of 10 are done already" in again.getvalue()
    assert len(pl.read_parquet(asked.folder / "results.parquet")) == 6
    assert re.search(
        r"\| unlucky \| toy \| SASRec \| csft \| 2 \| 0\.1300 ± 0\.0000", (asked.folder / "grid.md").read_text()
    )


def finish(asked: graph.Grid) -> pl.DataFrame:
    """Collect a grid whose every 04 has one evaluation, by the seed it was asked and with its CSFT's steps as the metric."""
    for node in (n for n in asked.nodes.values() if n.book.startswith("04")):
        steps, (seed,) = asked.nodes[node.before].values["csft_steps"], node.values["evaluation_seeds"]
        about = {"domain": "toy", "recommender": "SASRec", "embedding": "csft", "seed": seed}
        name = f"SASRec-csft-seed{seed}"

        def build(folder: Path, about=about, name=name, steps=steps) -> dict:
            np.save(folder / f"{name}.npy", np.where(np.arange(100) < steps, 1, 99))
            return about | {"metrics": {"recall@10": steps / 100}}

        Run(node.name, asked.runs).make(f"evaluation/toy/{name}", build, settings={}, quiet=True)
    return summary.collect(asked, dict.fromkeys(asked.nodes, "done"))


def test_axes_of_seeds_and_stages_keep_the_labels_that_embedding_and_seed_do_not_tell(root):
    text = """
profile: base.yaml
axes:
  seeds: {one: {csft.steps: 1, evaluation.seeds: [7]}, two: {csft.steps: 2, evaluation.seeds: [7]}}
  stages: {all: {evaluation.embeddings: [csft]}}
  settings: {a: {data.seed: 1}, b: {data.seed: 2}}
"""
    asked = graph.load(written(root, text), str(root / "out"), root=root)
    assert asked.plain_axes == ("stages",)
    rows = finish(asked)
    assert rows.select("seeds axis", "settings", "seed", "recall@10").rows() == [
        ("one", "a", 7, 0.01),
        ("one", "b", 7, 0.01),
        ("two", "a", 7, 0.02),
        ("two", "b", 7, 0.02),
    ]
    assert summary.summarise(rows).select("seeds axis", "seeds", "recall@10").rows()[-1] == ("two", 1, 0.02)
    assert "seeds axis" in summary.render_text(summary.write(asked, dict.fromkeys(asked.nodes, "done")))


def test_seeds_that_are_labelled_are_seeds_all_the_same(root):
    text = "profile: base.yaml\naxes: {seeds: {one: {evaluation.seeds: [1]}, two: {evaluation.seeds: [2]}}}\n"
    found = summary.summarise(finish(graph.load(written(root, text), str(root / "out"), root=root)))
    assert found.select("domain", "seeds", "recall@10").rows() == [("toy", 2, 0.03)]


def test_a_baseline_that_learned_from_drawn_users_is_averaged_over_the_draws(root):
    text = "profile: base.yaml\naxes: {seeds: [1, 2]}\n"
    asked = graph.load(written(root, text), str(root / "out"), root=root)
    for seed, name in enumerate((n for n in asked.nodes if n.startswith("04")), 1):
        for baseline, drawn in (("itemknn", {"user_share": 0.5, "drawn_by": seed}), ("bm25", {})):
            about = {"domain": "toy", "recommender": baseline, "embedding": "none", "seed": 0}
            stem, first = f"{baseline}-none-seed0", 10 * seed

            def build(folder: Path, about=about, stem=stem, first=first) -> dict:
                np.save(folder / f"{stem}.npy", np.where(np.arange(100) < first, 1, 99))
                return about | {"metrics": {"recall@10": first / 100}}

            Run(name, asked.runs).make(f"evaluation/toy/{stem}", build, settings=drawn, quiet=True)
    rows = summary.collect(asked, dict.fromkeys(asked.nodes, "done"))
    found = summary.summarise(rows).select("recommender", "seeds", "recall@10")
    assert dict(zip(found["recommender"], found.drop("recommender").rows(), strict=True)) == {
        "itemknn": (2, pytest.approx(0.15)),
        "bm25": (1, pytest.approx(0.2)),
    }


def test_cells_with_other_cutoffs_leave_their_place_empty_where_they_have_no_such_metric():
    one = {"domain": "toy", "recommender": "SASRec", "embedding": "id", "seed": 1, "recall@10": 0.1}
    rows = pl.DataFrame(
        [{"settings": "ten", **one}, {"settings": "five", **one, "recall@5": 0.07}], infer_schema_length=None
    )
    found = summary.summarise(rows)
    assert summary._markdown(found)[-2:] == [
        "| ten | toy | SASRec | id | 1 | 0.1000 |  |",
        "| five | toy | SASRec | id | 1 | 0.1000 | 0.0700 |",
    ]
    assert [line.split()[5:] for line in summary.render_text(found).splitlines()[1:]] == [["0.1000"], ["0.1000", "0.0700"]]


def test_a_changed_notebook_runs_again_and_finds_its_artefacts(root):
    asked = graph.load(written(root, "profile: base.yaml\nnotebooks: 1\n"), str(root / "out"), root=root)
    graph.prepare(asked)
    (node,) = asked.nodes.values()
    graph.run_node(node, str(asked.folder), root)
    graph.run_node(node, str(asked.folder), root)
    book = notebooks.list_series(root)[0]
    content = nbformat.read(book, 4)
    content.cells.append(new_code_cell("count('changed')"))
    nbformat.write(content, book)
    assert cluster.read_states(asked) == {node.name: "waiting"}
    graph.run_node(node, str(asked.folder), root)
    assert counted(asked) == {"corpus": 1, "changed": 1}
    assert "corpus: reused" in (asked.runs / node.name / "log.txt").read_text()


def test_a_scheduler_that_does_not_answer_is_named(root, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 0.2)
    asked = graph.load(written(root, TOY), str(root / "out"), root=root)
    with pytest.raises(ValueError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        cluster.run_grid(asked, address="tcp://127.0.0.1:9", stream=io.StringIO())


def test_the_extra_for_grids_is_part_of_what_the_tests_need():
    project = tomllib.loads((DOCS.parents[1] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(project["grid"]) <= set(project["test"])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_table_is_drawn_over_itself(root):
    asked = graph.load(written(root, TOY), str(root / "out"), root=root)
    stream = Terminal()
    board = cluster.Board(asked, dict.fromkeys(asked.nodes, "waiting"), stream)
    for name in list(asked.nodes)[:2]:
        board.tell(name, "running")
        board.tell(name, "running")
    text = stream.getvalue()
    assert text.count("\x1b[") == 2  # one redraw: up and clear
    assert text.count(f"\x1b[{len(asked.cells) + 3}A\x1b[J") == 1
    assert "plain, 1" in text.split("\x1b[J")[-1]


# -- the store --------------------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path):
    """Two runs that share a store."""
    (tmp_path / runs.STORE).mkdir()
    return Run("a", tmp_path), Run("b", tmp_path)


def build(calls):
    def make(folder):
        calls.append(1)
        (folder / "raw.npy").write_text("numbers")
        return {"dim": 3}

    return make


@pytest.mark.parametrize("name", ["corpus", "embeddings/raw"])
def test_what_one_run_made_another_takes(two, name, capsys):
    calls = []
    for run in two:
        run.make(name, build(calls), settings={"k": 1})
        assert run.require(name)
        assert run.record(name) == {"dim": 3}
    assert len(calls) == 1
    assert f"{name}: taken from the store" in capsys.readouterr().out
    assert two[1].read_info()["stages"][name]["settings"] == {"k": 1}
    two[1].make(name, build(calls), settings={"k": 2})
    assert len(calls) == 2
    assert two[0].require(name)  # replaced there, not here


def test_stale_takes_from_the_store_too(two):
    assert two[0].stale("evaluation/d/e", settings={})
    two[0].make("evaluation/d/e", build([]), settings={})
    assert not two[1].stale("evaluation/d/e", settings={})
    assert two[1].require("evaluation/d/e")
    assert two[1].stale("evaluation/d/e", settings={}, force=True)


def test_a_damaged_thing_in_the_store_is_made_anew(two):
    calls = []
    two[0].make("corpus", build(calls), settings={})
    (file,) = (two[0].path.parent / runs.STORE).rglob("raw.npy")
    file.unlink()
    two[1].make("corpus", build(calls), settings={})
    assert len(calls) == 2
    third = Run("c", two[0].path.parent)
    third.make("corpus", build(calls), settings={})
    assert len(calls) == 2


def test_without_a_store_runs_share_nothing(tmp_path):
    calls = []
    for name in ("a", "b"):
        Run(name, tmp_path).make("corpus", build(calls), settings={})
    assert len(calls) == 2


def test_links_become_copies_where_there_are_none(two, monkeypatch):
    def refuse(*paths):
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    two[0].make("corpus", build([]), settings={})
    two[1].link_from(two[0], "corpus")
    assert json.loads((two[1].path / "corpus" / "manifest.json").read_text())["files"]
    assert two[1].require("corpus")
    assert two[1].artefacts() == ["corpus"]
