"""The command line: instant help, exit codes, and one paragraph for each kind of bad input."""

import subprocess
import sys

import pytest

from llm2rec_kit import __version__, cli, runs
from llm2rec_kit.reproduction.runner import notebooks


def failed(capsys, *argv):
    """Exit code and stderr of a command that fails."""
    with pytest.raises(SystemExit) as stop:
        raise SystemExit(cli.main(list(argv)))
    return stop.value.code, capsys.readouterr().err


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom llm2rec_kit import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "heavy = {'torch', 'transformers', 'papermill', 'numpy', 'polars', 'umap'}\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "reproduce" in done.stdout


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["reproduce", "--profile", "dmeo"], "Unknown profile 'dmeo'"),
        (["reproduce", "--set", "csft.stesp=1"], "Did you mean 'csft_steps'"),
        (["reproduce", "--set", "csft.steps=many"], "csft_steps takes int"),
        (["reproduce", "--set", "steps"], "--set takes stage.key=value"),
        (["reproduce", "--profile", "games"], "DATA=folder"),
        (["reproduce", "--profile", "games", "--data", "/nowhere/at/all"], "There is no data at /nowhere/at/all"),
        (["reproduce", "--only", "17"], "there is no '17'"),
        (["params", "17"], "No notebook '17'"),
    ],
)
def test_bad_input_is_one_paragraph_and_exit_2(capsys, tmp_path, argv, says):
    code, text = failed(capsys, *argv, *(["--outputs", str(tmp_path)] if argv[0] == "reproduce" else []))
    assert code == 2
    assert says in text
    assert len(text.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_report_of_no_run_makes_none(capsys, tmp_path):
    code, text = failed(capsys, "report", "nothing", "--outputs", str(tmp_path))
    assert code == 2
    assert "There is no run 'nothing'" in text
    assert list(tmp_path.iterdir()) == []


def test_options_become_what_reproduce_takes(monkeypatch, tmp_path):
    asked = {}

    def reproduce(profile, **more):
        asked.update(more, profile=profile)
        return runs.Run("x", tmp_path)

    monkeypatch.setattr(notebooks, "reproduce", reproduce)
    assert (
        cli.main(
            [
                "reproduce",
                "--profile",
                "smoke",
                "--set",
                "csft.steps=100",
                "--set",
                "csft.learning_rate=1e-3",
                "--set",
                "evaluation.seeds=[1, 2]",
                "--set",
                "csft.joiner=' | '",
                "--only",
                "2, 03",
                "--from",
                "3",
                "--force",
            ]
        )
        == 0
    )
    assert asked["overrides"] == {
        "csft_steps": 100,
        "csft_learning_rate": 0.001,
        "evaluation_seeds": [1, 2],
        "csft_joiner": " | ",
    }
    assert (asked["profile"], asked["only"], asked["start"], asked["force"]) == ("smoke", ["02", "03"], "03", True)


def test_a_failed_notebook_is_exit_1(monkeypatch, capsys):
    def reproduce(*args, **more):
        raise notebooks.NotebookFailed("02_csft stopped: no memory")

    monkeypatch.setattr(notebooks, "reproduce", reproduce)
    assert cli.main(["reproduce"]) == 1
    assert capsys.readouterr().err == "llm2rec: 02_csft stopped: no memory\n"


def test_an_interruption_is_exit_130(monkeypatch, capsys):
    def reproduce(*args, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(notebooks, "reproduce", reproduce)
    assert cli.main(["reproduce"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_params_lists_type_default_meaning_and_choices(capsys):
    assert cli.main(["params", "02"]) == 0
    out = capsys.readouterr().out
    assert "01_data_prep" not in out
    line = next(line for line in out.splitlines() if "csft_schedule " in line)
    assert "'linear'" in line
    assert line.endswith("one of linear, cosine, constant_with_warmup")
    assert line.split()[3] == "C"
    joiner = next(line for line in out.splitlines() if "csft_joiner " in line)
    assert "P 3.2, C   " in joiner
    assert "source: P the paper" in out
    assert "csft_shared_prefix           bool   True                     O  " in out


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("a.b=80_10_10", "80_10_10"),
        ("a.b=1e-3", 0.001),
        ("a.b=1_000", "1_000"),
        ("a.b=12", 12),
        ("a.b=true", True),
        ("a.b='12'", "12"),
        ("a.b=x_y", "x_y"),
        ("a.b=", None),
    ],
)
def test_set_reads_values_as_a_person_means_them(given, value):
    assert cli._overrides([given]) == {"a_b": value}


def test_set_of_no_yaml_is_bad_input(capsys, tmp_path):
    code, text = failed(capsys, "reproduce", "--set", "csft.joiner=[", "--outputs", str(tmp_path))
    assert code == 2
    assert "--set csft.joiner=[" in text


def test_a_reader_that_has_seen_enough_is_no_error():
    command = f"{sys.executable} -m llm2rec_kit.cli params | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.startswith("source: ")
    assert done.returncode in (0, 141)  # 0 where all of it fitted into the pipe
    assert done.stderr == ""


def test_expect_keeps_a_runs_numbers_for_its_profile(capsys, monkeypatch, tmp_path):
    from llm2rec_kit.reproduction.report import document

    run = runs.Run("toy", tmp_path)
    profile = tmp_path / "mine.yaml"
    run.write_info("asked", {"profile": str(profile), "command": "", "parameters": {}})
    kept = {}
    monkeypatch.setattr(document, "collect", lambda run: {"run": run.name})
    monkeypatch.setattr("llm2rec_kit.reproduction.report.expected.keep", lambda results, about, path: kept.update(path=path))
    assert cli.main(["expect", "toy", "--outputs", str(tmp_path)]) == 0
    assert kept["path"] == tmp_path / "expected" / "mine.yaml"
    assert "is expected to give from now on" in capsys.readouterr().out
    run.write_info("asked", {})
    code, text = failed(capsys, "expect", "toy", "--outputs", str(tmp_path))
    assert code == 2
    assert "say which profile" in text


def test_grid_plan_prints_and_makes_nothing(capsys, tmp_path):
    (tmp_path / "g.yaml").write_text("profile: smoke\naxes: {seeds: [1, 2]}\n")
    assert cli.main(["grid", str(tmp_path / "g.yaml"), "--plan", "--outputs", str(tmp_path / "out")]) == 0
    assert "Grid g, profile smoke: 2 cells, 5 notebooks to run instead of 8" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    code, text = failed(capsys, "grid", str(tmp_path / "none.yaml"))
    assert code == 2
    assert "There is no grid file" in text
