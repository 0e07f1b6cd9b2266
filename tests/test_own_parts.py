"""Own parts: what is registered can be named, what cannot be is one paragraph before long work, and no run imports code."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import make_corpus
from own import CAUSAL, forget, fresh, write

from llm2rec_kit import cli
from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.data import sources
from llm2rec_kit.downstream import baselines, evaluation, recommenders, saved_recommender
from llm2rec_kit.reproduction.grid import graph
from llm2rec_kit.reproduction.runner import feasibility, notebooks
from llm2rec_kit.reproduction.studies.study import read_settings
from llm2rec_kit.results import evaluations, significance
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import own_parts

pytestmark = pytest.mark.usefixtures("fresh")
__all__ = ["fresh"]
SMALL = {
    "hidden": 8,
    "heads": 2,
    "inner": 8,
    "epochs": 2,
    "evaluate_every": 1,
    "batch_size": 16,
    "cutoffs": [3],
    "metric": "recall@3",
    "tested": "ndcg@3",
}


def small(**more) -> S.Evaluation:
    return S.Evaluation(**SMALL | {"embeddings": ["id"], "baselines": ["popularity"], "seeds": [1], "workers": 1} | more)


# -- names and modules --------------------------------------------------------------------------------------------------


def test_what_a_file_registers_can_be_named_and_nothing_before(tmp_path):
    with pytest.raises(
        S.SettingsError, match=r"one of \['SASRec', 'GRU4Rec'\], or of your own, once own_parts names .*'Causal'"
    ):
        small(recommenders=["Causal"])
    S.Own(parts=[write(tmp_path, "mine.py", CAUSAL)]).load()
    assert small(recommenders=["SASRec", "Causal"]).recommenders == ["SASRec", "Causal"]
    with pytest.raises(S.SettingsError, match=r"or of your own, \['Causal'\]; found 'Cause'"):
        small(recommenders=["Cause"])
    assert "or your own" in S.describe_limits("evaluation_recommenders")


def test_a_module_by_its_name_and_no_cache_beside_a_file(tmp_path, monkeypatch):
    (tmp_path / "of_mine").mkdir()
    (tmp_path / "of_mine" / "__init__.py").write_text("from of_mine import deeper\n")
    write(tmp_path / "of_mine", "deeper.py", CAUSAL)
    monkeypatch.syspath_prepend(tmp_path)
    own_parts.load(["of_mine"])
    assert own_parts.list_names("recommender") == ["Causal"]
    assert own_parts.list_origins() == ["of_mine"]
    write(tmp_path, "mine.py", CAUSAL.replace("Causal", "Other"))
    own_parts.load([str(tmp_path / "mine.py")])
    assert not (tmp_path / "__pycache__").exists()
    for name in [n for n in sys.modules if n.startswith("of_mine")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "import nowhere_at_all\n",
            r"cannot be imported \(line 4\): ModuleNotFoundError: No module named 'nowhere_at_all'\.$",
        ),
        ("def f(:\n", r"cannot be imported \(line 4\): SyntaxError"),
        ("raise SystemExit(3)\n", r"cannot be imported \(line 4\): SystemExit: 3"),
        ("x = 1\n", "nothing in it is registered: put @recommender"),
        (CAUSAL.replace('"Causal"', '"SASRec"'), r"@recommender\('SASRec'\): the kit has 'SASRec' already"),
        (CAUSAL.replace('"Causal"', '"gru4rec"'), "The name of a recommender is a capital, then letters"),
        (CAUSAL.replace('"Causal"', '"Sasrec"'), "the kit has 'SASRec' already"),
        (CAUSAL.replace('"Causal"', '"a/b"'), r"as in @recommender\('Mine'\); found 'a/b'"),
        (CAUSAL.replace("settings, max_history", "settings"), r"called with \(settings, max_history\) .*; found Causal\("),
        ("@baseline('oracle')\ndef f(corpus): ...\n", "the kit has 'oracle' already"),
        ("@baseline('mine')\ndef f(): ...\n", r"called with \(corpus\) or \(corpus, embeddings\)"),
        ("@baseline('mine')\ndef f(corpus, vectors): ...\n", r"called with \(corpus\) or .*found f\(corpus, vectors\)"),
        ("@source('table')\ndef f(settings): ...\n", "the kit has 'table' already"),
        ("@source('mine')\ndef f(): ...\n", r"@source\('mine'\) takes what is called with \(settings\)"),
        ("recommender('Mine')(5)\n", "|".join(["takes what is called with", "has no attribute '__module__'"])),
    ],
)
def test_a_module_that_cannot_be_had_is_one_paragraph(tmp_path, text, says):
    with pytest.raises(S.SettingsError, match=says) as found:
        own_parts.load([write(tmp_path, "mine.py", text)])
    assert len(str(found.value).splitlines()) == 1
    assert not own_parts.list_names("recommender")


def test_a_name_that_another_file_has_is_taken(tmp_path):
    own_parts.load([write(tmp_path, "mine.py", CAUSAL)])
    with pytest.raises(
        S.SettingsError, match=r"@recommender\('Causal'\) in .*other\.py: .*mine\.py has registered 'Causal'"
    ):
        own_parts.load([write(tmp_path, "other.py", CAUSAL)])
    own_parts.load([str(tmp_path / "mine.py")])  # again, as each cell of a notebook does


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ("gone.py", "gone.py is missing"),
        ("no.such", "No module named 'no'. A module is found"),
        (" ", "takes modules such as"),
    ],
)
def test_what_is_not_there_is_named(part, says):
    with pytest.raises(S.SettingsError, match=says):
        S.Own(parts=[part]).load()


def test_a_changed_file_is_read_again_and_counts_only_where_it_is_used(tmp_path):
    file = write(tmp_path, "mine.py", CAUSAL)
    own_parts.load([file])
    settings = small(recommenders=["SASRec", "Causal"])
    before = evaluation.list_settings(settings, "Causal")
    assert (
        evaluation.list_settings(settings, "SASRec")
        == evaluation.list_settings(settings)
        == {k: v for k, v in before.items() if k != own_parts.KEY}
    )
    assert baselines.list_settings("popularity", [3], "none") == {"cutoffs": [3], "exclude": "none"}
    made = own_parts.find("recommender", "Causal").make
    own_parts.load([file])
    assert own_parts.find("recommender", "Causal").make is made
    write(tmp_path, "mine.py", CAUSAL.replace("batch_first=True", "batch_first=True, num_layers=2"))
    own_parts.load([file])
    assert evaluation.list_settings(settings, "Causal") != before
    assert recommenders.make("Causal", settings, 4).model.gru.num_layers == 2


# -- recommenders -------------------------------------------------------------------------------------------------------

SHAPES = """
@recommender("Mine")
class Mine(nn.Module):
    def __init__(self, settings, max_history):
        super().__init__()
        self.layer = nn.Linear(settings.hidden, settings.hidden)

    def forward(self, vectors, mask):
        {}
"""


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return vectors[:, 0, :3]", r"float32 \(B, 8\), one a history, or \(B, L, 8\).*gave torch.float32 \(2, 3\)"),
        ("return self.layer(vectors).double()", "gave torch.float64"),
        ("return None", "gave NoneType"),
        ("return self.layer(vectors[..., :3])", r"The recommender 'Mine' \(mine\.py\) failed \(line 12\): RuntimeError"),
        (
            "return self.layer(vectors).flip(1)",
            r"the first 2 change with the items that follow: it would see what it is to predict",
        ),
        ("return self.layer(vectors + vectors.mean(1, keepdim=True))", "it would see what it is to predict"),
        ("return self.layer(vectors).mean(1)", "another state where more padding stands behind it: let it heed `mask`"),
        ("return self.layer(vectors)[:, -1]", "another state where more padding stands behind it"),
    ],
)
def test_states_of_no_use_are_refused_before_a_training(tmp_path, body, says):
    own_parts.load([write(tmp_path, "mine.py", SHAPES.format(body))])
    with pytest.raises(S.SettingsError, match=says) as found:
        feasibility.check_across_stages(
            {"evaluation_recommenders": ["Mine"], "data_max_history": 4, "evaluation_hidden": 8}, ["04"]
        )
    assert len(str(found.value).splitlines()) == 1
    with pytest.raises(S.SettingsError, match=says):
        feasibility.check_corpus(make_corpus(), small(recommenders=["Mine"]))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (CAUSAL.replace(", mask):", "):"), r"must have forward\(self, vectors, mask\)"),
        ("@recommender('Mine')\ndef f(settings, max_history):\n    return 5\n", "must be a torch.nn.Module; found int"),
        ("@recommender('Mine')\ndef f(settings, max_history):\n    return settings.width\n", "has no attribute 'width'"),
    ],
)
def test_what_is_no_recommender_is_refused(tmp_path, text, says):
    own_parts.load([write(tmp_path, "mine.py", text)])
    with pytest.raises(S.SettingsError, match=says):
        recommenders.make(own_parts.list_names("recommender")[0], small(), 4)


def test_states_a_history_and_states_an_item_are_one_model():
    """A history read off a shared row, off a row of its own, and without padding gives one state, and no row sees what follows."""
    import torch
    from torch import nn

    gru = nn.GRU(8, 8, batch_first=True)

    class Each(nn.Module):
        def __init__(self, settings, max_history):
            super().__init__()
            self.gru = gru

        def forward(self, vectors, mask):
            assert mask.any(1).all(), "a row without an item"
            assert not vectors[~mask].any()
            return self.gru(vectors)[0]

    class Last(Each):
        def forward(self, vectors, mask):
            return super().forward(vectors, mask)[torch.arange(len(mask)), mask.sum(1) - 1]

    for made in (Each, Last):
        own_parts.recommender(made.__name__)(made)
    each, last = (recommenders.make(name, small(), 5).eval() for name in ("Each", "Last"))
    assert (each.a_history, last.a_history) == (False, True)
    items = torch.randn(4, 5, 8)
    asked = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)
    expected = gru(items)[0][asked]
    for model in (each, last):
        torch.testing.assert_close(model(items, asked), expected)
        torch.testing.assert_close(model(items), gru(items)[0])


@pytest.fixture
def learned(tmp_path) -> tuple[Run, Corpus, S.Evaluation]:
    """A run with an own recommender beside SASRec, over ids."""
    own_parts.load([write(tmp_path, "mine.py", CAUSAL)])
    corpus, run = make_corpus(users=20), Run("r", tmp_path / "outputs")
    settings = small(recommenders=["SASRec", "Causal"], seeds=[1, 2])
    run.make("corpus", corpus.save, settings={})
    train(run, corpus, settings)
    return run, corpus, settings


def train(run: Run, corpus: Corpus, settings: S.Evaluation) -> list[str]:
    """As notebook 04 does; the names of what was trained."""
    parts = {"toy": corpus.select(["toy"])}
    jobs = [evaluation.Job("toy", r, "id", s) for r in settings.recommenders for s in settings.seeds]
    todo = [
        j for j in jobs if run.stale(j.name, settings=evaluation.list_settings(settings, j.recommender), inputs=j.inputs)
    ]
    for job, result in evaluation.train_many(todo, parts, {}, settings):
        evaluation.keep_result(run, job, result, settings, baselines.count_training(corpus))
    evaluations.note_series(run, evaluation.list_settings(settings), settings.seeds, [job.name for job in jobs])
    return [job.name.split("/")[-1] for job in todo]


def test_an_own_recommender_is_trained_kept_compared_and_loaded_as_the_kits_are(learned, tmp_path):
    run, corpus, settings = learned
    alone = evaluation.train_and_rank(corpus, None, settings, recommender="Causal", seed=2)
    np.testing.assert_array_equal(alone.ranks, np.load(run.path / "evaluation/toy/Causal-id-seed2.npy"))
    table = significance.tabulate(run)
    assert table.select("recommender", "seeds").rows() == [("Causal", 2), ("SASRec", 2)]
    rows = significance.compare(run, "toy", [(("SASRec", "id"), ("Causal", "id"))], seeds=[1, 2], metric="ndcg@3")
    assert rows["before"].to_list() == ["SASRec-id"]
    model = saved_recommender.load(run, "toy", "Causal", "id", corpus.select(["toy"]), {})
    history = corpus.history(int(corpus.samples("test")[0]))
    assert len(model.top(history, 3)) == 3
    assert train(run, corpus, settings) == []
    file = write(tmp_path, "mine.py", f"{CAUSAL}\n# another version\n")
    own_parts.load([file])
    with pytest.raises(ValueError, match=r"trained by another version of the recommender 'Causal' \(mine\.py\)"):
        saved_recommender.load(run, "toy", "Causal", "id", corpus.select(["toy"]), {})
    assert train(run, corpus, settings) == ["Causal-id-seed1", "Causal-id-seed2"]
    assert {*evaluations.find_evaluations(run).made} == {
        f"evaluation/toy/{r}-id-seed{s}" for r in ("SASRec", "Causal") for s in (1, 2)
    }


def test_of_a_row_only_evaluations_by_one_version_count(learned, tmp_path):
    run, corpus, _ = learned
    own_parts.load([write(tmp_path, "mine.py", f"{CAUSAL}\n# another version\n")])
    train(run, corpus, small(recommenders=["Causal"], seeds=[2], workers=1))
    assert [n for n in evaluations.find_evaluations(run).made if "Causal" in n] == ["evaluation/toy/Causal-id-seed2"]


def test_a_recommender_of_a_notebooks_own_cell_is_trained_in_its_process(monkeypatch):
    import torch

    class Cell(torch.nn.Module):
        def __init__(self, settings, max_history):
            super().__init__()

        def forward(self, vectors, mask):
            return vectors.cumsum(1)

    Cell.__module__ = "__main__"
    monkeypatch.setattr(own_parts.inspect, "getsource", lambda what: "class Cell: ...")
    own_parts.recommender("Cell")(Cell)
    assert own_parts.list_origins() == []
    corpus = make_corpus(users=20)
    jobs = [evaluation.Job("toy", "Cell", "id", seed) for seed in (1, 2)]
    found = dict(evaluation.train_many(jobs, {"toy": corpus.select(["toy"])}, {}, small(workers=2)))
    assert len(found) == 2


def test_workers_have_the_code_and_change_no_result(tmp_path):
    own_parts.load([write(tmp_path, "mine.py", CAUSAL)])
    corpus = make_corpus(users=20)
    jobs = [evaluation.Job("toy", "Causal", "id", seed) for seed in (1, 2)]
    found = evaluation.train_many(jobs, {"toy": corpus.select(["toy"])}, {}, small(recommenders=["Causal"], workers=2))
    for job, result in found:
        alone = evaluation.train_and_rank(corpus, None, small(), recommender="Causal", seed=job.seed)
        np.testing.assert_array_equal(result.ranks, alone.ranks)
        assert result.losses == alone.losses


# -- what was made elsewhere --------------------------------------------------------------------------------------------


def test_no_run_imports_code(learned, tmp_path, capsys):
    """A received run names a module wherever it can; it is read without it, and its recommender is asked for."""
    run, corpus, _ = learned
    marked = write(tmp_path, "mine.py", f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n{CAUSAL}")
    run.write_info("asked", {"profile": "", "command": f"--set own.parts={marked}", "parameters": {"own_parts": [marked]}})
    forget()
    assert significance.tabulate(run)["recommender"].to_list() == ["Causal", "SASRec"]
    assert evaluations.find_evaluations(run).settings == evaluation.list_settings(small())
    with pytest.raises(S.SettingsError, match=r"'Causal' is none of .* once own_parts names its module or file"):
        saved_recommender.load(run, "toy", "Causal", "id", corpus.select(["toy"]), {})
    run.make("corpus", corpus.save, settings=S.Data(source="received").as_dict(), force=True)
    assert S.Data(**run.manifest("corpus")["settings"]).source == "received"
    for words in (["report", "r"], ["explore", "r"], ["reproduce", "--profile", "smoke", "--run", "r", "--plan"]):
        with contextlib.suppress(SystemExit, Exception):  # it lacks most of a run: all that matters is what ran
            cli.main([*words, "--outputs", str(run.path.parent)])
    capsys.readouterr()
    assert not (tmp_path / "ran").exists()
    own_parts.load([marked])
    assert (tmp_path / "ran").exists()


def test_the_settings_that_a_study_reads_off_a_run_name_no_module():
    assert S.Own.prefix not in [
        stage.prefix for stage in S.STAGES if stage.prefix in read_settings.__globals__["CHANGEABLE"]
    ]


# -- the runner and the grid --------------------------------------------------------------------------------------------


def test_the_runner_gives_notebooks_the_absolute_path_and_plans_an_own_recommender(tmp_path, monkeypatch, capsys):
    write(tmp_path, "mine.py", CAUSAL)
    monkeypatch.chdir(tmp_path)
    words = ["reproduce", "--profile", "smoke", "--outputs", str(tmp_path), "--set", "own.parts=mine.py"]
    words += ["--set", "evaluation.recommenders=Causal", "--only", "01,04"]
    assert cli.main([*words, "--plan"]) == 0
    assert "evaluation" in capsys.readouterr().out
    values, _ = notebooks.prepare("smoke", overrides={"own_parts": ["mine.py"], "evaluation_recommenders": ["Causal"]})
    assert values["own_parts"] == [str(tmp_path / "mine.py")]
    with pytest.raises(S.SettingsError, match=r"own_parts takes list .* papermill takes it as `-y '{own_parts"):
        notebooks.prepare("smoke", overrides={"own_parts": "mine.py"})


def test_in_a_grid_a_changed_module_is_another_node_where_it_is_used(tmp_path):
    write(tmp_path, "mine.py", CAUSAL)
    (tmp_path / "g.yaml").write_text(
        "profile: smoke\nset: {own.parts: [mine.py]}\naxes:\n  settings:\n"
        "    kits: {evaluation.recommenders: [SASRec]}\n    mine: {evaluation.recommenders: [Causal]}\n"
    )
    before = graph.load(tmp_path / "g.yaml", str(tmp_path))
    assert before.nodes[before.cells[1].nodes[-1]].values["own_parts"] == [str(tmp_path / "mine.py")]
    write(tmp_path, "mine.py", f"{CAUSAL}\n# another version\n")
    after = graph.load(tmp_path / "g.yaml", str(tmp_path))
    assert before.cells[0].nodes == after.cells[0].nodes
    assert before.cells[1].nodes[:-1] == after.cells[1].nodes[:-1]
    assert before.cells[1].nodes[-1] != after.cells[1].nodes[-1]


# -- baselines ----------------------------------------------------------------------------------------------------------

SCORES = """
import numpy as np

@baseline("mine")
def mine(corpus):
    return lambda histories: {}
"""


def test_an_own_baseline_never_sees_what_it_is_to_predict():
    corpus, seen = make_corpus(users=20), []

    @own_parts.baseline("nosy")
    def nosy(corpus):
        seen.append(corpus.check())
        return lambda histories: np.stack([np.bincount(h, minlength=corpus.n_items + 1)[1:] for h in histories])

    found = baselines.rank("nosy", corpus, cutoffs=[3])
    targets = corpus.samples("test")
    assert len(found.ranks) == len(targets)
    (given,) = seen
    assert len(given.sequence) == baselines.mark_training(corpus).sum() <= len(corpus.sequence) - 2 * len(targets)
    assert (given.n_items, given.n_users, len(given.samples("train"))) == (16, 20, len(corpus.samples("train")))
    for new, old in zip(given.samples("train"), corpus.samples("train"), strict=True):
        np.testing.assert_array_equal(given.history(new), corpus.history(old))
        assert given.sequence[new] == corpus.sequence[old]
    np.testing.assert_array_equal(baselines.count_training(given), baselines.count_training(corpus))


def test_one_over_embeddings_is_ranked_as_the_kits(tmp_path):
    text = """
@baseline("nearmine")
def nearmine(corpus, embeddings):
    unit = embeddings[1:] / (embeddings[1:] ** 2).sum(1, keepdims=True) ** 0.5

    def scores(histories):
        found = unit[[h[-1] - 1 for h in histories]] @ unit.T
        for row, history in zip(found, histories):
            row[history[-1] - 1] = -1e9
        return found

    return scores
"""
    own_parts.load([write(tmp_path, "mine.py", text)])
    corpus, table = make_corpus(users=20), np.random.default_rng(0).standard_normal((17, 4)).astype(np.float32)
    assert baselines.needs_embeddings("nearmine")
    np.testing.assert_array_equal(
        baselines.rank("nearmine", corpus, table).ranks, baselines.rank("nearest", corpus, table).ranks
    )
    feasibility.check_corpus(corpus, small(baselines=["nearmine"]))


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        ("np.zeros((len(histories), 3))", r"finite scores \(histories, items\), here \(3, 16\).*found \(3, 3\)"),
        ("np.full((len(histories), 16), np.nan)", "found some that are NaN or infinite"),
        ("[[1], [2, 3]]", r"found \(0,\)"),
        ("1 / 0", r"The baseline 'mine' \(mine\.py\) failed \(line 9\): ZeroDivisionError: division by zero\."),
    ],
)
def test_scores_of_no_use_are_refused_before_the_trainings(tmp_path, scores, says):
    own_parts.load([write(tmp_path, "mine.py", SCORES.format(scores))])
    with pytest.raises(S.SettingsError, match=says):
        feasibility.check_corpus(make_corpus(users=20), small(baselines=["mine"]))


# -- sources ------------------------------------------------------------------------------------------------------------

SOURCE = """
import polars as pl
from pathlib import Path

@source("mine")
def mine(settings):
    rows = Path(settings.path).read_text().split() if settings.path else ["a b", "b a"]
    events = pl.DataFrame({"user": ["u", "u", "v"], "item": ["1", "2", "1"], "timestamp": [30, 20, 10]})
    return events, pl.DataFrame({"item": [1, 2], "title": ["A", "B"], "year": [1990, 2001]})
"""


def test_an_own_source_gives_two_frames_and_its_files_and_code_count(tmp_path):
    own_parts.load([write(tmp_path, "mine.py", SOURCE)])
    found = sources.load(S.Data(source="mine"))
    assert found.events["time"].to_list() == [30_000, 20_000, 10_000]
    assert found.items.rows() == [("1", "A", "mine", 1990), ("2", "B", "mine", 2001)]
    (tmp_path / "data.txt").write_text("x")
    data = S.Data(source="mine", path=str(tmp_path / "data.txt"))
    notebooks.check_data({"data_source": "mine"})
    before = sources.hash_files(data)
    assert {*before} == {"data.txt", own_parts.KEY}
    assert len(sources.read_raw_lines(data)) == 1
    own_parts.load([write(tmp_path, "mine.py", f"{SOURCE}\n# another version\n")])
    assert sources.hash_files(data) != before
    forget()
    with pytest.raises(S.SettingsError, match=r"Source 'mine' is none of .* once own_parts names"):
        sources.load(data)
    with pytest.raises(S.SettingsError, match=r"data_source must be one of .* found 'mine'"):
        S.Data.from_parameters({"data_source": "mine"})


@pytest.mark.parametrize(
    ("result", "says"),
    [
        ("5", "must give two frames, of events and of items, or Interactions; found int"),
        ("1 / 0", r"The source 'mine' \(mine\.py\) failed \(line 7\): ZeroDivisionError"),
        (
            "pl.DataFrame({'user': ['u']}), pl.DataFrame()",
            r"the events of the source 'mine' \(mine\.py\) must have .*\['item'\] missing",
        ),
    ],
)
def test_a_source_of_no_use_is_one_paragraph(tmp_path, result, says):
    own_parts.load(
        [write(tmp_path, "mine.py", f"import polars as pl\n@source('mine')\ndef f(settings):\n    return {result}\n")]
    )
    with pytest.raises(ValueError, match=says) as found:
        sources.load(S.Data(source="mine"))
    assert len(str(found.value).splitlines()) == 1


def test_frames_may_be_interactions(tmp_path):
    given = sources.Interactions(
        pl.DataFrame({"source_id": ["1"], "title": ["A"], "domain": ["d"], "cluster": ["c"]}),
        pl.DataFrame({"user": ["u"], "item": ["1"]}),
        ["d"],
    )
    own_parts.source("whole")(lambda settings: given)
    assert sources.load(S.Data(source="whole")).items.rows() == [("1", "A", "d")]
    assert Path(own_parts.find("source", "whole").file).name == "test_own_parts.py"
