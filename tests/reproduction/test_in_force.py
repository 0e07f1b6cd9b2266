"""What a notebook is not told it takes from the finished run, else the profile, else the default; what was finished is kept."""

from __future__ import annotations

import dataclasses

import pytest

from llm2rec_kit import evaluating
from llm2rec_kit import settings as S
from llm2rec_kit.downstream import evaluation
from llm2rec_kit.fitting import artefact
from llm2rec_kit.reproduction.runner import in_force, notebooks, recorded
from llm2rec_kit.results import evaluations
from llm2rec_kit.runs import SERIES, ArtefactError, Run
from llm2rec_kit.settings import SettingsError

CELL = 'profile: str = "demo"  # p\nrun: str = "toy"  # r\ncsft_steps: int = 10000  # s'
PAPERMILL = "# Parameters\n"


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    monkeypatch.delenv(SERIES, raising=False)


@pytest.fixture
def run(tmp_path):
    """A run whose CSFT took 12 steps, with an MNTP that stands on it."""
    run = Run("toy", tmp_path)
    run.make("corpus", write, settings=S.Data(synthetic_users=300).recipe | {"files": {}})
    run.make(
        "csft",
        write,
        **artefact.split_settings(S.CSFT(steps=12, warmup_steps=2, save_every=3), S.Backbone(device="cpu")),
        inputs=["corpus"],
    )
    run.make("mntp", write, **artefact.split_settings(S.MNTP(steps=5), S.Backbone()), inputs=["csft"])
    return run


LATER = {
    "evaluation_initialisation": "scaled",
    "evaluation_scale": 1.0,
    "evaluation_ties": "worst",
    "evaluation_sampled_items": 4096,
    "evaluation_user_share": 1.0,
}


def write(folder):
    (folder / "data.txt").write_text("x")
    return {"steps": 1}


def cells(run, *sources, **values):
    """The globals of a notebook of CSFT's parameters after these cells ran, over `run`."""
    names = {**{f"csft_{k}": v for k, v in S.CSFT().as_dict().items()}, "backbone_device": "auto"}
    there = {"profile": "demo", "run": run.name, "outputs": str(run.path.parent), "force": False, **names, **values}
    rest = "".join(
        f"\n{k}: {type(v).__name__} = {v!r}" for k, v in {**names, **values}.items() if k != "csft_steps" and k != "profile"
    )
    return there | {"In": ["", *(s + rest if "run: str" in s else s for s in sources)]}


def sources(found, *names):
    return [(found[n].value, found[n].source) for n in names]


def make_csft(run, values):
    return run.make(
        "csft",
        write,
        **artefact.split_settings(S.CSFT.from_parameters(values), S.Backbone.from_parameters(values)),
        inputs=["corpus"],
    )


def test_untouched_the_run_comes_first_then_the_profile_then_the_default(run):
    found = in_force.resolve(cells(run, CELL), run)
    assert sources(found, "csft_steps", "csft_save_every", "backbone_device") == [(12, "run"), (3, "run"), ("cpu", "run")]
    fresh = in_force.resolve(cells(run, CELL), Run("fresh", run.path.parent))
    demo = notebooks.load_profile("demo")["csft_steps"]
    assert sources(fresh, "profile", "csft_steps", "csft_clip") == [("demo", "default"), (demo, "profile"), (1.0, "default")]


def test_typed_comes_before_all(run):
    found = in_force.resolve(cells(run, CELL, csft_steps=9, csft_patience=False), run)
    assert sources(found, "csft_steps", "csft_patience") == [
        (9, "typed"),
        (False, "typed"),
    ]  # False is no 0: refused by its type


@pytest.mark.parametrize(
    "later",
    [
        [PAPERMILL + "csft_steps = 10000"],
        [CELL.replace("csft_steps: int =", "csft_steps =")],
        ["x = 1", "%%time\nfor", "csft_steps = 10000"],
    ],
)
def test_a_value_equal_to_the_default_can_be_given(run, later):
    first = CELL if CELL.split("\n")[0] not in later[0] else "import os"
    assert sources(in_force.resolve(cells(run, first, *later), run), "csft_steps") == [(10000, "typed")]


def test_what_ran_before_the_parameters_cell_ran_again_counts_no_more(run):
    found = in_force.resolve(cells(run, CELL, PAPERMILL + "csft_steps = 10000", CELL), run)
    assert sources(found, "csft_steps") == [(12, "run")]
    no_history = {k: v for k, v in cells(run).items() if k != "In"}
    assert sources(in_force.resolve(no_history, run), "csft_steps") == [(12, "run")]


def test_papermill_without_a_profile_stands_over_the_defaults(run):
    fresh = Run("fresh", run.path.parent)
    plain = in_force.resolve(cells(fresh, CELL, PAPERMILL + "csft_steps = 100", csft_steps=100), fresh)
    assert sources(plain, "profile", "csft_steps", "csft_batch_size") == [("", "typed"), (100, "typed"), (128, "default")]
    named = in_force.resolve(cells(fresh, CELL, PAPERMILL + 'profile = "demo"'), fresh)
    assert sources(named, "profile", "csft_batch_size") == [("demo", "typed"), (64, "profile")]


def test_papermill_may_give_the_parameters_of_other_notebooks(run):
    there = cells(run, CELL, PAPERMILL + "mntp_steps = 3\nbackbone_name = 'x'") | {"mntp_steps": 3, "backbone_name": "x"}
    assert "mntp_steps" not in in_force.resolve(there, run)
    _, values = in_force.open_notebook_run(there)
    assert (values["backbone_name"], values["backbone_device"], "mntp_steps" in values) == ("x", "cpu", False)


def test_a_run_of_another_profile_keeps_to_it_until_one_is_typed(run):
    run.write_info(
        "asked",
        {
            "profile": "games",
            "command": "",
            "parameters": {"run": "toy", "tables_share": 0.2, "backbone_trust_remote_code": True},
        },
    )
    asked = {"tables_share": 1.0, "backbone_trust_remote_code": False}
    found = in_force.resolve(cells(run, CELL, **asked), run)
    assert sources(found, "profile", *asked) == [("games", "run"), (0.2, "run"), (False, "default")]
    found = in_force.resolve(cells(run, CELL, profile="demo", **asked) | {"profile": "smoke"}, run)
    assert sources(found, "profile", "tables_share", "csft_steps") == [("smoke", "typed"), (1.0, "default"), (12, "run")]


def test_a_profile_may_be_a_file_and_one_that_is_none_is_refused(run, tmp_path):
    (tmp_path / "own.yaml").write_text("csft_clip: 2.0\n")
    fresh = Run("fresh", tmp_path)
    assert sources(in_force.resolve(cells(fresh, CELL, profile=str(tmp_path / "own.yaml")), fresh), "csft_clip") == [
        (2.0, "profile")
    ]
    (tmp_path / "own.yaml").write_text("csft_clib: 2.0\n")
    with pytest.raises(SettingsError, match="Did you mean 'csft_clip'"):
        in_force.resolve(cells(fresh, CELL, profile=str(tmp_path / "own.yaml")), fresh)
    with pytest.raises(SettingsError, match="Unknown profile 'dmo'"):
        in_force.resolve(cells(fresh, CELL, profile="dmo"), fresh)


def test_a_series_takes_what_it_gives_and_the_defaults_and_may_replace(run, monkeypatch, capsys):
    monkeypatch.setenv(SERIES, "1")
    typed = {"profile": "smoke", "csft_steps": 10, "csft_warmup_steps": 2, "csft_clip": 0.5}
    given = cells(run, CELL, PAPERMILL + 'profile = "smoke"\ncsft_steps = 10', **typed)
    found = in_force.resolve(given, run)
    assert sources(found, "csft_steps", "csft_clip", "csft_save_every") == [
        (10, "profile"),
        (0.5, "typed"),
        (200, "default"),
    ]
    opened, values = in_force.open_notebook_run(given)
    make_csft(opened, values)
    assert run.manifest("csft")["settings"]["steps"] == 10


def test_a_grid_gives_all_of_a_node_and_no_profile(run, monkeypatch):
    monkeypatch.setenv(SERIES, "1")
    found = in_force.resolve(cells(run, CELL, PAPERMILL + "csft_steps = 800", csft_steps=800), run)
    assert sources(found, "profile", "csft_steps") == [("", "typed"), (800, "typed")]


def test_opened_on_a_finished_run_everything_is_reused(run, capsys):
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in run.path.rglob("*.json")}
    opened, values = in_force.open_notebook_run(cells(run, CELL))
    make_csft(opened, values)
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in run.path.rglob("*.json")} == before
    said = capsys.readouterr().out
    assert "csft: reused" in said
    assert "of the run" in said


def test_what_is_typed_and_would_replace_stops_with_what_would_be_lost_and_the_ways_on(run):
    opened, values = in_force.open_notebook_run(cells(run, CELL, csft_steps=9))
    key = artefact.split_settings(S.CSFT.from_parameters(values), S.Backbone.from_parameters(values)) | {
        "inputs": ["corpus"]
    }
    for act in (lambda: make_csft(opened, values), lambda: opened.stale("csft", **key)):
        with pytest.raises(in_force.WouldReplace) as stop:
            act()
        told = str(stop.value)
        assert "\n" not in told
        assert stop.value._render_traceback_() == [f"WouldReplace: {told}"]
        for words in ("'csft'", "csft_steps = 9 (typed)", "outdated: mntp", "run = ...", "force = True", "csft_steps = 12"):
            assert words in told
    assert isinstance(stop.value, ArtefactError)
    assert run.manifest("csft")["settings"]["steps"] == 12
    assert not list(run.path.glob(".csft.partial"))
    opened.make("csft", write, **key, force=True)
    assert run.manifest("csft")["settings"]["steps"] == 9


def test_a_copy_that_a_forced_series_left_forces_nothing_when_it_is_run_again(run, monkeypatch, capsys):
    (run.path / "notebooks").mkdir()
    for folder, force in ((run.path, True), (run.path / "notebooks", False)):
        monkeypatch.chdir(folder)
        there = cells(run, CELL, PAPERMILL + "force = True", force=True)
        in_force.open_notebook_run(there)
        assert there["force"] is force
    there = cells(run, CELL + "\nforce: bool = True", force=True)
    in_force.open_notebook_run(there)
    assert there["force"] is True  # typed there


def test_other_inputs_damage_and_settings_aside_are_no_reason_to_stop(run, capsys):
    opened, values = in_force.open_notebook_run(cells(run, CELL, csft_save_every=7))
    make_csft(opened, values)
    run.make("corpus", lambda f: (f / "data.txt").write_text("other") and {}, settings={"k": 1}, force=True)
    make_csft(opened, values)
    (run.path / "csft" / "data.txt").write_text("damaged")
    make_csft(opened, values)
    said = capsys.readouterr().out
    assert said.count("csft: reused") == 1
    assert said.count("csft: redoing") == 2


def test_files_that_changed_since_stop_too(run):
    opened, _ = in_force.open_notebook_run(cells(run, CELL))
    with pytest.raises(
        in_force.WouldReplace,
        match=r"its files changed since.* What stands on it would be outdated: csft, mntp|csft and mntp",
    ):
        opened.make("corpus", write, settings=S.Data(synthetic_users=300).recipe | {"files": {"a": "b"}})


def test_what_only_says_what_there_is_is_written_anew(run):
    opened, _ = in_force.open_notebook_run(cells(run, CELL))
    for seeds in ([1], [1, 2]):
        evaluations.note_series(opened, {"epochs": 2}, seeds, [])
        opened.make("embeddings/mine", lambda f: (f / "mine.npy").touch() or {"stage": "own"}, settings={"own": str(seeds)})
    assert run.manifest(evaluations.SERIES)["settings"]["seeds"] == [1, 2]


def test_a_name_that_is_no_setting_is_still_refused(run):
    with pytest.raises(SettingsError, match="Did you mean 'csft_steps'"):
        in_force.open_notebook_run(cells(run, CELL, csft_stepz=3))
    with pytest.raises(SettingsError, match="profile takes str"):
        in_force.open_notebook_run(cells(run, CELL, profile=3))


def test_what_was_evaluated_is_read_off_the_series(tmp_path):
    run = Run("toy", tmp_path)
    names = [evaluations.make_name("games", "SASRec", e, s) for e in ("csft-last-causal", "id") for s in (1, 2)]
    references = [evaluations.make_name("games", b, "none", 0) for b in ("popularity", "oracle")]
    for name in (*names, *references):
        rec = name.split("/")[-1].split("-")[0]
        run.make(name, lambda f, rec=rec: {"recommender": rec, "metrics": {}}, settings={})
    test = "evaluation/games/comparisons"
    run.make(test, lambda f: {"rows": []}, settings={"tested": "mrr"}, inputs=[*names, *references])
    evaluations.note_series(run, {"epochs": 3}, [1, 2], [*names, test])
    found = {k: v.value for k, v in recorded.read_held(run).items()}
    assert found == LATER | {
        "evaluation_epochs": 3,
        "evaluation_seeds": [1, 2],
        "evaluation_recommenders": ["SASRec"],
        "evaluation_embeddings": ["csft-last-causal", "id"],
        "evaluation_baselines": ["popularity"],
        "evaluation_tested": "mrr",
    }


def test_what_was_asked_to_be_tested_and_ranked_is_kept_where_no_two_stages_were_compared(tmp_path):
    run = Run("toy", tmp_path)
    name = evaluations.make_name("games", "SASRec", "raw", 2024)
    asked = S.Evaluation(embeddings=["raw", "id"], baselines=["popularity"], tested="recall@20", seeds=[2024])
    record = {"domain": "games", "recommender": "SASRec", "embedding": "raw", "seed": 2024, "metrics": {}}
    run.make(name, lambda folder: record, settings=evaluation.list_settings(asked))
    for told in (asked, dataclasses.replace(asked, tested="mrr")):
        assert evaluating.compare_pairs(run, ["games"], [], told, [name]) == {}
        held = recorded.read_held(run)
        assert held["evaluation_tested"] == (told.tested, evaluations.SERIES)
        assert held["evaluation_baselines"] == (["popularity"], evaluations.SERIES)
        assert evaluations.find_evaluations(run).settings == evaluation.list_settings(told) | {"tested": told.tested}
        assert recorded.describe_replacement(run, {"evaluation_seeds": [2024]}, notebooks.list_series()) == ""


def test_of_a_run_from_before_there_was_a_series_the_last_evaluation_tells(tmp_path):
    run = Run("toy", tmp_path)
    name = evaluations.make_name("games", "SASRec", "id", 1)
    record = {"domain": "games", "recommender": "SASRec", "embedding": "id", "seed": 1, "metrics": {}}
    run.make(name, lambda folder: record, settings={"epochs": 3})
    assert {k: v.value for k, v in recorded.read_held(run).items()} == LATER | {"evaluation_epochs": 3}
    # 04 was interrupted after its first training: there is no series yet, and other settings are asked for.
    said = recorded.describe_replacement(run, {"evaluation_epochs": 10}, notebooks.list_series())
    assert said.startswith("this replaces, in run 'toy': 1 evaluations (evaluation_epochs 3 -> 10).")


@pytest.mark.parametrize(
    ("name", "other"), [("ties", "mean"), ("initialisation", "official"), ("scale", 2.0), ("sampled_items", 100)]
)
def test_a_setting_that_no_evaluation_names_at_its_usual_value_is_told_before_it_replaces_all(tmp_path, name, other):
    run, full = Run("toy", tmp_path), f"evaluation_{name}"
    evaluations.note_series(run, evaluation.list_settings(S.Evaluation()), [1], [])
    usual = S.Evaluation().as_dict()[name]
    assert recorded.read_held(run)[full] == (usual, evaluations.SERIES)
    assert recorded.describe_replacement(run, {}, notebooks.list_series()) == ""
    said = recorded.describe_replacement(run, {full: other}, notebooks.list_series())
    assert f"({full} {usual!r} -> {other!r})" in said
    evaluations.note_series(run, evaluation.list_settings(S.Evaluation(**{name: other})), [1], [])
    assert recorded.read_held(run)[full].value == other


def test_only_evaluations_that_read_a_setting_are_told_as_replaced(tmp_path):
    run, settings = Run("toy", tmp_path), evaluation.list_settings(S.Evaluation())
    names = [evaluations.make_name("games", recommender, "id", 1) for recommender in ("SASRec", "GRU4Rec")]
    for name, recommender in zip(names, ("SASRec", "GRU4Rec"), strict=True):
        record = {"domain": "games", "recommender": recommender, "embedding": "id", "seed": 1, "metrics": {}}
        run.make(name, lambda folder, r=record: r, settings=settings)
    evaluations.note_series(run, settings, [1], names)
    books = notebooks.list_series()
    assert recorded.describe_replacement(run, {"evaluation_negatives": 5}, books) == ""
    one = recorded.describe_replacement(run, {"evaluation_learning_rate_gru": 0.01}, books)
    both = recorded.describe_replacement(run, {"evaluation_hidden": 64}, books)
    assert [text.split(":")[1].split()[0] for text in (one, both)] == ["2", "3"]  # the series' note is one of them


def test_where_a_run_was_evaluated_is_followed_and_replaces_nothing(tmp_path):
    run, other = Run("toy", tmp_path), {"evaluation_device": "cpu", "evaluation_workers": 1}
    settings = evaluation.list_settings(S.Evaluation())
    evaluations.note_series(run, settings, [1], [], place={"device": "cpu", "workers": 2})
    assert recorded.read_held(run)["evaluation_workers"] == (2, evaluations.SERIES)
    assert recorded.describe_replacement(run, other, notebooks.list_series()) == ""
    asked = {"outputs": str(tmp_path), "run": "toy", "evaluation_workers": 1}
    assert recorded.put_place(asked, ["06"]) == asked | {"evaluation_device": "cpu", "evaluation_workers": 2}
    for numbers in (["04", "06"], ["05"]):  # evaluated anew first, or nothing is trained
        assert recorded.put_place(asked, numbers) == asked
    assert recorded.put_place(asked | {"run": "none"}, ["07"]) == asked | {"run": "none"}
    assert [p.name for p in tmp_path.iterdir()] == ["toy"]


def test_a_damaged_manifest_tells_nothing(run):
    (run.path / "csft" / "manifest.json").write_text("{")
    assert sources(in_force.resolve(cells(run, CELL), run), "csft_steps") == [(800, "profile")]


def test_reproduce_says_before_it_starts_what_it_will_replace(run):
    books = notebooks.list_series()
    same = {"data_synthetic_users": 300, "csft_steps": 12, "csft_warmup_steps": 2, "mntp_steps": 5, "backbone_device": "cpu"}
    said = recorded.describe_replacement(run, same | {"csft_steps": 9}, books[:2])
    assert "csft (csft_steps 12 -> 9)" in said
    assert "made anew by the notebooks that make them: mntp." in said
    assert recorded.describe_replacement(run, same, books[:2]) == ""
    assert "mntp (backbone_device 'auto' -> 'cpu')" in recorded.describe_replacement(run, same, books)
    assert "forced: this makes anew, in run 'toy': corpus and csft." in recorded.describe_replacement(
        run, same | {"force": True}, books[:2]
    )
    assert recorded.describe_replacement(Run("fresh", run.path.parent), same, books) == ""


@pytest.mark.parametrize(
    ("name", "value", "replaces"), [("csft_lora_r", 8, ""), ("csft_gradient_checkpointing", True, "csft")]
)
def test_what_is_said_to_be_replaced_is_what_goes_stale_also_of_an_earlier_draft(tmp_path, name, value, replaces):
    """Its manifests kept other settings aside: none of full training's, and gradient checkpointing whatever the dropout."""
    run, place = Run("old", tmp_path), S.Backbone(device="cpu")
    settings = S.CSFT(steps=12, warmup_steps=2, tuning="lora" if replaces else "full")
    key = artefact.split_settings(settings, place) | {"aside": ["batch_tokens", "gradient_checkpointing", "save_every"]}
    run.make("csft", lambda folder: None, **key, quiet=True)
    asked = {f"csft_{k}": v for k, v in settings.as_dict().items()} | {"backbone_device": "cpu", name: value}
    said = recorded.describe_replacement(run, asked, notebooks.list_series())
    assert (f"{replaces} ({name} " in said) if replaces else said == ""
    assert bool(run.stale("csft", **artefact.split_settings(S.CSFT.from_parameters(asked), place))) == bool(replaces)


def test_every_notebook_opens_the_run_right_after_its_parameters():
    import nbformat

    for book in notebooks.list_series():
        code = [c for c in nbformat.read(book, as_version=4).cells if c.cell_type == "code"]
        (k,) = [k for k, c in enumerate(code) if "parameters" in c.metadata.get("tags", [])]
        assert code[k].source.startswith('profile: str = "demo"')
        assert code[k + 1].source == "run_, values = in_force.open_notebook_run(globals())"
        assert not any("globals()" in c.source for c in code[k + 2 :])


def test_papermill_begins_its_cell_as_it_is_known_here():
    from papermill.translators import papermill_translators

    source = papermill_translators.find_translator("python3", "python").codify({"csft_steps": 3})
    assert source.startswith(in_force.GIVEN)
    assert "csft_steps = 3" in source
