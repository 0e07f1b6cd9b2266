"""The command line as a user meets it: instant help, one-paragraph errors, exit codes."""

from __future__ import annotations

import subprocess
import sys

import pytest


def llm2rec(*words, **kwargs):
    return subprocess.run([sys.executable, "-m", "llm2rec_kit.cli", *words], capture_output=True, text=True, **kwargs)


HEAVY = {"torch", "transformers", "tokenizers", "sklearn", "scipy", "umap", "papermill", "matplotlib"}


@pytest.mark.parametrize(
    ("words", "light", "said"),
    [
        (["--help"], {"polars", "numpy"}, "reproduce"),
        (["params"], {"polars"}, "csft_learning_rate"),
        (["reproduce", "--profile", "demo", "--plan"], set(), "took"),
        (["reproduce", "--profile", "paper", "--plan"], set(), "Table 5"),
    ],
)
def test_what_only_tells_imports_nothing_heavy(words, light, said):
    code = (
        f"import sys\nfrom llm2rec_kit.cli import main\ntry:\n    main({words})\nexcept SystemExit:\n    pass\n"
        f"print(sorted({HEAVY | light} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().endswith("[]"), done.stderr
    assert said in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["reproduce", "--profile", "dmo"], "Unknown profile 'dmo'. Did you mean 'demo'?"),
        (["reproduce", "--set", "csft.stepz=3"], "Did you mean 'csft_steps'?"),
        (["reproduce", "--set", "csft_steps"], "--set takes stage.key=value"),
        (["reproduce", "--profile", "games"], "DATA=folder"),
        (["reproduce", "--profile", "games", "--data", "/no/such/folder"], "no data at /no/such/folder"),
        (["report", "no-such-run"], "no run 'no-such-run'"),
        (["params", "99"], "No notebook '99'"),
    ],
)
def test_bad_input_is_one_paragraph_and_exit_code_2(words, said, tmp_path):
    done = llm2rec(*words, *([] if words[0] == "params" else ["--outputs", str(tmp_path / "out")]))
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_notebook_before_its_predecessor_says_which_to_run(tmp_path):
    done = llm2rec("reproduce", "--profile", "smoke", "--only", "05", "--outputs", str(tmp_path))
    assert done.returncode == 1
    assert "has no 'corpus' yet" in done.stderr
    assert "Run notebooks/01_data_prep.ipynb first" in done.stderr
    assert "--only 05" in done.stderr
    assert "Traceback" not in done.stderr


def test_params_lists_defaults_with_their_source():
    done = llm2rec("params", "02")
    line = next(line for line in done.stdout.splitlines() if "csft_learning_rate" in line)
    assert "float" in line
    assert "0.0003" in line
    assert "[P 4.1.3]" in line
