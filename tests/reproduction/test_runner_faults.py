"""The runner over throw-away notebooks: parameters, order, failure, resume, and faults found before the first one starts."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbformat.v4 import new_code_cell, new_notebook

from llm2rec_kit import settings as S
from llm2rec_kit.reproduction.runner import notebooks
from llm2rec_kit.reproduction.runner.notebooks import NotebookFailed, reproduce

COMMON = 'run: str = "demo"  # name\noutputs: str = ""  # where\nforce: bool = False  # redo\n'


def book(root, name, parameters, *cells):
    tagged = new_code_cell(COMMON + parameters)
    tagged.metadata["tags"] = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = root / "notebooks" / name
    path.parent.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=[tagged, *map(new_code_cell, cells)], metadata={"kernelspec": kernel}), path)
    return path


SEEN = """import json, pathlib, sys
with (pathlib.Path(outputs) / "seen.jsonl").open("a") as file:
    file.write(json.dumps([NAME, sys.executable, {k: v for k, v in globals().items() if k in KEYS}]) + "\\n")"""


@pytest.fixture
def root(tmp_path):
    """A project of two notebooks that write down what they were given; the second fails where csft_steps is 13."""
    keys = ["run", "force", "data_source", "data_path", "csft_steps"]
    book(
        tmp_path,
        "01_data.ipynb",
        "data_source: str = 'synthetic'  # source\ndata_path: str = ''  # folder\n",
        f"NAME, KEYS = '01', {keys}\n" + SEEN,
        "print('from 01')",
    )
    book(
        tmp_path,
        "02_csft.ipynb",
        "csft_steps: int = 10  # steps\n",
        f"NAME, KEYS = '02', {keys}\n" + SEEN,
        "if csft_steps == 13:\n    raise ValueError('first\\n' + 'much\\n' * 500 + 'the last line')",
        "if csft_steps == 9:\n    import os; os._exit(3)",
    )
    (tmp_path / "toy.yaml").write_text("csft_steps: 11  # steps\n")
    return tmp_path


def go(root, **more):
    return reproduce(str(root / "toy.yaml"), root=root, outputs=str(root / "out"), **more)


def seen(root):
    file = root / "out" / "seen.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_parameters_are_read_with_type_default_and_help(tmp_path):
    cell = "csft_joiner: str = ', '  # text\ncsft_seeds: list = [1, 2]  # a, b\ncsft_rate: float = -0.5  # a = b\n"
    path = book(tmp_path, "01_x.ipynb", cell)
    found = notebooks.read_parameters(path)
    assert list(found) == ["run", "outputs", "force", "csft_joiner", "csft_seeds", "csft_rate"]
    assert found["csft_joiner"] == notebooks.Parameter("csft_joiner", ", ", "str", "text")
    assert (found["csft_seeds"].default, found["csft_seeds"].type) == ([1, 2], "list")
    assert (found["csft_rate"].default, found["csft_rate"].help) == (-0.5, "a = b")


def test_without_one_tagged_cell_there_is_an_error(tmp_path):
    path = book(tmp_path, "01_x.ipynb", "")
    node = nbformat.read(path, 4)
    node.cells[0].metadata["tags"] = []
    nbformat.write(node, path)
    with pytest.raises(ValueError, match="one cell tagged `parameters`; found 0"):
        notebooks.read_parameters(path)


def test_the_series_runs_in_order_each_with_its_own_parameters(root, capsys, monkeypatch):
    monkeypatch.chdir(root)
    run = go(root)
    (first, python, given), (second, _, given_2) = seen(root)
    assert (first, second, python) == ("01", "02", sys.executable)
    assert given == {"run": "toy", "force": False, "data_source": "synthetic", "data_path": ""}
    assert given_2 == {"run": "toy", "force": False, "csft_steps": 11}
    out = capsys.readouterr().out
    assert out.index("[1/2] 01_data") < out.index("from 01") < out.index("[2/2] 02_csft") < out.index("02_csft done in")
    executed = nbformat.read(run.path / "notebooks" / "01_data.ipynb", 4)
    assert executed.metadata.kernelspec.name == "python3"
    assert notebooks.read_parameters(root / "notebooks" / "01_data.ipynb")["data_source"].default == "synthetic"


def test_a_failure_keeps_the_notebook_and_says_how_to_go_on(root):
    with pytest.raises(NotebookFailed) as stop:
        go(root, overrides={"csft_steps": 13}, run="it is", start="02", force=True)
    text = str(stop.value)
    assert "02_csft stopped" in text
    assert "the last line" in text
    assert len(text.splitlines()) < 16
    assert text.splitlines()[-1].split() == [
        "llm2rec",
        "reproduce",
        "--profile",
        str(root / "toy.yaml"),
        "--run",
        "'it",
        "is'",
        "--outputs",
        str(root / "out"),
        "--set",
        "csft.steps=13",
        "--force",
        "--from",
        "02",
    ]
    executed = nbformat.read(root / "out" / "it is" / "notebooks" / "02_csft.ipynb", 4)
    assert any(o.output_type == "error" for c in executed.cells for o in c.get("outputs", []))


def test_a_dead_kernel_is_a_failure_like_another(root):
    with pytest.raises(
        NotebookFailed, match=r"kernel died(.|\n)*gradient_checkpointing=true(.|\n)*go on from the last checkpoint"
    ):
        go(root, overrides={"csft_steps": 9}, only=["02"])


def test_what_the_caller_says_comes_before_the_profile(root, monkeypatch):
    (root / "toy.yaml").write_text("run: theirs\ncsft_steps: 11\noutputs: elsewhere\n")
    monkeypatch.chdir(root)
    run = go(root, only=["02"], run="mine", overrides={"csft_steps": 12})
    assert run.path == root / "out" / "mine"
    assert seen(root)[0][2] == {"run": "mine", "force": False, "csft_steps": 12}


def test_relative_paths_are_the_callers(root, monkeypatch):
    monkeypatch.chdir(root)
    (root / "raw").mkdir()
    run = reproduce("toy.yaml", root=root, outputs="out", data="raw", only=["01"], overrides={"data_source": "recbole"})
    assert run.path == root / "out" / "toy"
    assert seen(root)[0][2]["data_path"] == str(root / "raw")


@pytest.mark.parametrize(
    ("more", "error", "says"),
    [
        ({"overrides": {"csft_stesp": 1}}, S.SettingsError, "Did you mean 'csft_steps'"),
        ({"overrides": {"csft_steps": "many"}}, S.SettingsError, "csft_steps takes int"),
        ({"overrides": {"data_source": "recbole"}}, ValueError, "DATA=folder"),
        ({"overrides": {"data_source": "recbole"}, "data": "/nowhere/at/all"}, ValueError, "no data at /nowhere/at/all"),
        ({"data": "/tmp"}, ValueError, "source is synthetic and reads no files"),
        ({"only": ["01", "09"]}, S.SettingsError, "there is no '09'; there are 01_data, 02_csft"),
        ({"only": ["01"], "start": "02"}, S.SettingsError, "No notebook is left"),
        ({"run": "../out"}, ValueError, "one plain folder name"),
    ],
)
def test_faults_are_found_before_anything_runs(root, more, error, says):
    before = sorted(root.iterdir())
    with pytest.raises(error, match=says):
        go(root, **more)
    assert seen(root) == []
    assert sorted(root.iterdir()) == before


def test_the_real_games_profile_without_data_says_what_to_give():
    with pytest.raises(ValueError, match="DATA=folder"):
        reproduce("games")


def test_two_runs_at_once_do_not_disturb_each_other(root):
    """Two processes, two runs in one outputs folder; and a third that shares the first one's name and waits for its artefacts."""
    shared = "import pathlib\nfrom llm2rec_kit.runs import Run\nrun_ = Run(run, outputs)"
    build = """def build(folder):
    with (pathlib.Path(outputs) / f"made-{run}").open("a") as file:
        file.write("x")
    (folder / "data").write_bytes(bytes(range(256)) * csft_steps)
run_.make("corpus", build, settings={"steps": csft_steps})"""
    book(root, "01_data.ipynb", "csft_steps: int = 10  # steps\n", shared, build)
    code = (
        "import sys\nfrom pathlib import Path\nfrom llm2rec_kit.reproduction.runner.notebooks import reproduce\n"
        "root = Path(sys.argv[1])\n"
        "reproduce(str(root / 'toy.yaml'), root=root, outputs=str(root / 'out'), run=sys.argv[2], only=['01'])"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(root), name], stdout=subprocess.PIPE, text=True)
        for name in ("a", "b", "a")
    ]
    said = [p.communicate()[0] for p in running]
    assert [p.returncode for p in running] == [0, 0, 0]
    assert (root / "out" / "made-a").read_text() == (root / "out" / "made-b").read_text() == "x"
    assert sum("corpus: making" in text for text in said) == 2
    a, b = (root / "out" / name / "corpus" / "data" for name in ("a", "b"))
    assert a.read_bytes() == b.read_bytes()


MOMENTS = {  # what a cell does when Ctrl-C comes; its kernel's parent is the command
    "while a cell works": "os.kill(os.getppid(), 2)\nthreading.Event().wait()",
    "while a cell prints": "for k in range(2000):\n    print('line', k, flush=True)\n    k == 50 and os.kill(os.getppid(), 2)",
    "as a cell ends": "os.kill(os.getppid(), 2)",
    "as a cell fails": "os.kill(os.getppid(), 2)\nraise ValueError('in the cell')",
    "twice": "os.kill(os.getppid(), 2)\nos.kill(os.getppid(), 2)\nthreading.Event().wait()",
    "to the kernel itself": "os.kill(os.getpid(), 2)\nthreading.Event().wait()",
}


CHILD = (
    "import sys\nfrom pathlib import Path\nfrom llm2rec_kit import cli\nfrom llm2rec_kit.reproduction.runner import notebooks\n"
    "root = Path(sys.argv[1])\nnotebooks.places.find_notebooks = lambda: root / 'notebooks'\n"
    "sys.exit(cli.main(['reproduce', '--profile', str(root / 'toy.yaml'), '--outputs', str(root / 'out'),"
    " '--run', sys.argv[2], '--only', '01', '--set', f'csft.joiner={sys.argv[2]}']))"
)
LINE = "llm2rec: interrupted. What was finished is kept; the same command goes on from there."


@pytest.fixture
def start(root, tmp_path_factory):
    """Starts a command whose cell does what it does at a moment; and the command's temporary folder."""
    cell = f"import os, threading\nexec({MOMENTS!r}[csft_joiner])"
    book(root, "01_data.ipynb", "csft_joiner: str = ''  # the moment\n", cell, "'later'")
    left = tmp_path_factory.mktemp("left")
    asked = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.PIPE,
        "text": True,
        "env": os.environ | {"TMPDIR": str(left)},
    }
    return lambda moment, before="": subprocess.Popen(
        [sys.executable, "-c", before + CHILD, str(root), moment], **asked
    ), left


def test_an_interrupt_ends_with_one_line_and_nothing_is_left_behind(start):
    begin, left = start
    running = {moment: begin(moment) for moment in MOMENTS}
    said = {m: p.communicate()[1].strip() for m, p in running.items()}
    assert {m: p.returncode for m, p in running.items()} == dict.fromkeys(MOMENTS, 130), said
    assert said == dict.fromkeys(MOMENTS, LINE)
    assert not list(left.iterdir())


def test_an_interrupt_while_a_kernel_ends_leaves_nothing_behind_either(start):
    """It comes where jupyter_client would remove the file with the kernel's ports and key."""
    before = (
        "from jupyter_client.manager import AsyncKernelManager\nasync def interrupted(*_, **__):\n    raise KeyboardInterrupt\n"
        "AsyncKernelManager._async_cleanup_resources = AsyncKernelManager.cleanup_resources = interrupted\n"
    )
    begin, left = start
    ended = begin("as a cell ends", before)
    assert (ended.communicate()[1].strip(), ended.returncode) == (LINE, 130)
    assert not list(left.iterdir())


def test_a_kernel_that_ends_is_not_interrupted(root, monkeypatch):
    sent = []
    send = AsyncKernelManager._async_signal_kernel
    monkeypatch.setattr(AsyncKernelManager, "_async_signal_kernel", lambda self, n: sent.append(n) or send(self, n))
    book(root, "01_data.ipynb", "csft_steps: int = 1\n", "'later'")
    go(root)
    assert signal.SIGINT not in sent


def test_an_interrupt_is_no_kernel_that_died(root, monkeypatch):
    """What part of the client sees the killed kernel first decides which error comes out."""

    def die(*args, **kwargs):
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        raise DeadKernelError("Kernel died")

    book(root, "01_data.ipynb", "csft_steps: int = 1\n", "'later'")
    monkeypatch.setattr("papermill.execute_notebook", die)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        go(root)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.fixture
def disk(root):
    """A small disk mounted on the outputs folder."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    folder = root / "out"
    folder.mkdir()
    asked = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if asked.returncode:
        pytest.skip(f"this machine mounts nothing: {asked.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_read_only_outputs_folder_is_named_before_anything_runs(root, disk):
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(OSError, match=r"Nothing can be made: .* cannot be written to \(Read-only file system\)"):
        go(root)


def test_a_disk_that_fills_up_is_named_with_the_command_to_go_on(root, disk):
    book(root, "01_data.ipynb", "", "print('x' * 1_200_000)")  # the executed notebook itself does not fit
    with pytest.raises(NotebookFailed, match=r"01_data stopped: the disk of .* is full(.|\n)*--from 01"):
        go(root)
