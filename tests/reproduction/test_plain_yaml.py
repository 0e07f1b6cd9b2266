"""Plain YAML: what a person means by it, and one paragraph for everything else, whatever the text."""

import json
import os
import socket

import pytest
import yaml
from hypothesis import HealthCheck, example, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from llm2rec_kit import cli
from llm2rec_kit import settings as S
from llm2rec_kit.reproduction.grid import graph
from llm2rec_kit.reproduction.runner import notebooks
from llm2rec_kit.settings import plain_yaml

LAUGHS = "a: &a [x, x]\n" + "".join(f"{k}: &{k} [*{p}, *{p}]\n" for p, k in zip("abcdefgh", "bcdefghi", strict=True))
ODD = [
    "[" * 5000,
    "- " * 3000 + "x",
    "{a: " * 5000,
    "a: &a [*a]",
    LAUGHS,
    "? [a, b]\n: c",
    "a: !!int x",
    "a: !!bool maybe",
    "a: !!timestamp x",
    "a: " + "9" * 5000,
    'a: "\\UFFFFFFFF"',
    "a: 2014-13-45",
    "a: =",
    "<<: 5",
    "a: 1\n\tb: 2",
    "a\x00b: 1",
    "%YAML 9.9\n---\na: 1",
    "--- a\n--- b",
    "1: 2",
    "null: 2",
    "a: 1\na: 2",
    "k" * 2000 + ": [",
]


class WrittenOut(yaml.SafeDumper):
    """Without an anchor for what it has written before."""

    def ignore_aliases(self, data):
        return True


def one_paragraph(error, text):
    said = str(error)
    assert len(said.splitlines()) == 1
    assert len(said) < 700
    assert not any(text[k : k + 301] in said for k in range(max(0, len(text) - 300)))


def read(text):
    """The text as a file and as a word of the command line: values, or one paragraph."""
    for what in (lambda: plain_yaml.read_mapping(text, "Profile 'x'"), lambda: cli._overrides([f"csft.joiner={text}"])):
        try:
            assert all(isinstance(key, str) for key in what())
        except S.SettingsError as error:
            one_paragraph(error, text)


@given(st.text())
@effort(max_examples=300, deadline=None)
def test_any_text_is_values_or_one_paragraph(text):
    read(text)


@given(st.text("[]{}:,-? \n\t'\"&*!|>%#@`.0189abe_~<="))
@effort(max_examples=300, deadline=None)
def test_any_text_of_the_marks_of_yaml_is_values_or_one_paragraph(text):
    read(text)


@pytest.mark.parametrize("text", ODD, ids=lambda text: text[:12])
def test_odd_text_is_values_or_one_paragraph(text):
    read(text)


@given(st.sampled_from([f"csft.{name}" for name in S.CSFT().as_dict()]), st.text(max_size=60))
@example("csft.steps", "0x" + "f" * 5000)
@effort(max_examples=300, deadline=None)
def test_any_value_of_a_parameter_is_taken_or_refused_in_one_paragraph(name, text):
    try:
        S.CSFT.from_parameters(cli._overrides([f"{name}={text}"]))
    except S.SettingsError as error:
        one_paragraph(error, text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
)
@effort(max_examples=200, deadline=None)
def test_what_yaml_writes_is_read_back(value):
    """The library's own writer quotes whatever YAML 1.1 would read otherwise; dates alone it reads as dates."""
    assert plain_yaml.read_value(yaml.dump(value, Dumper=WrittenOut), "it") == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", "010"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("80_10_10", "80_10_10"),
        ("2014-09-01", "2014-09-01"),
        ("1e-4", "1e-4"),
        ("0", 0),
        ("-3", -3),
        ("0.5", 0.5),
        ("1.0e-4", 0.0001),
        ("on", True),
        ("~", None),
        ("'no'", "no"),
    ],
)
def test_only_what_reads_one_way_is_a_number(text, value):
    found = plain_yaml.read_value(text, "it")
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("data.domain=007", "007"),
        ("data.domain=no", "no"),
        ("data.domain=", ""),
        ("csft.joiner=' | '", " | "),
        ("csft.joiner= | ", " | "),
        ("csft.joiner=; ", "; "),
        ("csft.joiner=\n", "\n"),
        ("csft.joiner=null", "null"),
        ("data.path=/data/shop #2", "/data/shop #2"),
        ("data.text=Brand {brand} # {title}", "Brand {brand} # {title}"),
        ("data.path = /data/shop ", "/data/shop"),
        ("csft.learning_rate=1e-4", 0.0001),
        ("csft.steps=1_000", 1000),
        ("csft.steps=010", "010"),
        ("csft.steps=1:30", "1:30"),
        ("mntp.replacement=80_10_10", "80_10_10"),
        ("evaluation.recommenders=SASRec", ["SASRec"]),
        ("evaluation.seeds=7", [7]),
        ("data.train_domains=no", ["no"]),
        ("data.train_domains=[a, b]", ["a", "b"]),
        ("encoding.baselines=[]", []),
        ("data.mix=games", ["games"]),
        ("tables.lengths=1e2", [100.0]),
        ("tables.lengths=[1e2, 3]", [100.0, 3]),
        ("evaluation.seeds=[1_000, 7]", [1000, 7]),
        ("own.parts=path/to/mine.py", ["path/to/mine.py"]),
        ("data.columns='title=Name, full'", ["title=Name, full"]),
        ("encoding.own=mine=vectors.npy", ["mine=vectors.npy"]),
        ("encoding.own=mine=/d/run #3/v.npy", ["mine=/d/run #3/v.npy"]),
        ("data.columns=title=Name: full", ["title=Name: full"]),
    ],
)
def test_a_word_on_the_command_line_is_read_as_its_parameter_wants_it(word, value):
    [found] = cli._overrides([word]).values()
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("word", "says"),
    [
        (
            "evaluation.recommenders=SASRec,GRU4Rec",
            r"written evaluation\.recommenders=\[SASRec,GRU4Rec\] \(in quotes, for the shell\)",
        ),
        ("evaluation.cutoffs=5, 10", r"evaluation_cutoffs takes a list\. .* evaluation\.cutoffs=\[5, 10\]"),
        ("data.mix=", r"data_mix takes a list\. Several are written data\.mix=\[a, b\] .*, one by itself, none as \[\]"),
        ("data.mix=null", r"data_mix takes a list\. Several are written data\.mix=\[a, b\] .* none as \[\]"),
        ("evaluation.seeds={a: 1}", r"Several are written evaluation\.seeds=\[1, 2\]"),
    ],
)
def test_what_is_no_list_shows_the_form_of_one(word, says):
    with pytest.raises(S.SettingsError, match=says) as found:
        cli._overrides([word])
    assert len(str(found.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"evaluation_seeds": ["a"]}, r"found 'a' in \['a'\]\. A list is written \[1, 2\]\."),
        (
            {"evaluation_recommenders": "SASRec"},
            r"A list is written \[a, b\], also of one; papermill takes it as `-y '\{evaluation_",
        ),
        ({"own_parts": "mine.py"}, r"own_parts takes list .* papermill takes it as `-y '\{own_parts: \[a, b\]\}'`"),
    ],
)
def test_a_list_that_is_none_shows_how_it_is_written(values, says):
    stage = next(s for s in S.STAGES if next(iter(values)).startswith(f"{s.prefix}_"))
    with pytest.raises(S.SettingsError, match=says):
        stage.from_parameters(values)


def test_a_profile_may_write_a_float_without_its_point(tmp_path):
    (tmp_path / "mine.yaml").write_text("csft_learning_rate: 1e-3\ncsft_steps: 1_000\n")
    values, _ = notebooks.prepare(str(tmp_path / "mine.yaml"), look=False)
    assert (values["csft_learning_rate"], values["csft_steps"]) == (0.001, 1000)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LAUGHS, "anchors and aliases are not taken"),
        ("a: &a [*a]", "anchors and aliases are not taken"),
        ("a: " + "[" * 30, "nested more than 20 times"),
        ("a: [" + "x, " * 30_000 + "]", "more than 20,000 values"),
        ("1: 2", "a key is a name; found int: 1"),
        ("? [a, b]\n: c", "a key is a name, no list or mapping"),
        ("a: 1\n\tb: 2", "is not YAML"),
        ("5", "must hold `key: value` lines; found int"),
        ("csft_steps: 010", "csft_steps takes int .*found str: '010'. A whole number is written"),
        ("csft_steps: 1:30", "csft_steps takes int .*found str: '1:30'"),
        ("data_domain: no", "data_domain takes str .*found bool: False. YAML reads yes, no"),
        ("data_domain: 7", "data_domain takes str .*found int: 7. Text that looks like a number is put in quotes"),
        ("evaluation_seeds: '[1, 2]'", r"evaluation_seeds takes list .*-y '\{evaluation_seeds: \[a, b\]\}'"),
        ("data_start: 2014-09-01", "data_start is a month"),
        ("run: 2024", "run takes str; found int: 2024"),
        ("data_domain: [" + "x" * 5000 + "]", r"data_domain takes str .*xxx\.\.\.xxx"),
    ],
)
def test_a_profile_that_cannot_be_meant_is_refused_in_one_paragraph(tmp_path, text, says):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(S.SettingsError, match=says) as found:
        notebooks.prepare(str(path), look=False)
    one_paragraph(found.value, text)


def places(tmp_path):
    """Of each kind that is no file a path ending in .yaml, and what it is called."""
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "device.yaml").symlink_to("/dev/zero")
    listening = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(tmp_path)  # a socket's path is short
    listening.bind("socket.yaml")
    os.chdir(here)
    listening.close()
    return {"pipe": "a named pipe", "folder": "a folder", "device": "a device", "socket": "a socket"}


def test_what_is_no_file_is_never_opened(tmp_path, monkeypatch):
    """Reading the pipe would wait for ever, reading the device would never end."""
    monkeypatch.setattr("pathlib.Path.read_text", None)
    monkeypatch.setattr("pathlib.Path.read_bytes", None)
    for name, kind in places(tmp_path).items():
        path = tmp_path / f"{name}.yaml"
        with pytest.raises(S.SettingsError, match=f"Profile .* is {kind}"):
            notebooks._read_profile(str(path))
        with pytest.raises(ValueError, match=f"Grid '{name}.yaml' is {kind}"):
            graph.load(path, str(tmp_path))
        if kind != "a folder":
            values = {"data_source": "table", "data_path": str(path)}
            with pytest.raises(ValueError, match=f"is {kind}, and the source 'table' reads a folder or a file"):
                notebooks.check_data(values)


@pytest.mark.parametrize(
    ("held", "says"),
    [(b"a: \xe9\n", "is not UTF-8 text"), (b"a: 1\n" * 300_000, "has 1,500,000 bytes"), (None, "cannot be read")],
)
def test_a_file_that_cannot_be_a_profile_is_named(tmp_path, held, says):
    path = tmp_path / "mine.yaml"
    path.symlink_to("nowhere") if held is None else path.write_bytes(held)
    with pytest.raises(S.SettingsError, match=f"Profile .*mine.yaml' {says}"):
        notebooks.load_profile(str(path))


def test_a_mark_of_byte_order_is_no_part_of_the_first_key(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xef\xbb\xbfcsft_steps: 5\n")
    assert notebooks.load_profile(str(tmp_path / "mine.yaml")) == {"csft_steps": 5}


@pytest.mark.parametrize("name", ["x" * 5000, "x" * 5000 + ".yaml", "a\0b.yaml", "../profiles/demo", ""])
def test_a_profile_of_an_odd_name_is_unknown(name):
    with pytest.raises(S.SettingsError, match="Unknown profile") as found:
        notebooks.load_profile(name)
    one_paragraph(found.value, name)


PLAIN = st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["smoke", "csft", "csft.steps", "[a]", "x" * 999])
ANY = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN, inner, max_size=3), max_leaves=6
)
CHOICE = st.dictionaries(st.sampled_from(["csft.steps", "data.path", "data.mix", "x"]) | PLAIN, ANY, max_size=2)
AXIS = st.dictionaries(PLAIN, CHOICE | ANY, max_size=2) | st.lists(ANY, max_size=3) | ANY
GRIDS = st.fixed_dictionaries(
    {},
    optional={
        "name": ANY,
        "profile": ANY,
        "notebooks": ANY,
        "set": CHOICE | ANY,
        "axes": st.dictionaries(st.sampled_from(graph.AXES) | PLAIN, AXIS, max_size=3) | ANY,
    },
)


@given(GRIDS)
@effort(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_grid_is_a_grid_or_one_paragraph(tmp_path, asked):
    path = tmp_path / "g.yaml"
    path.write_text(yaml.dump(asked, Dumper=WrittenOut))
    said = ""
    try:
        graph.load(path, str(tmp_path))
    except ValueError as error:
        said = str(error)
    assert len(said.splitlines()) <= 1
    assert "x" * 301 not in said


def test_a_grid_of_too_many_cells_is_refused_before_they_are_made(tmp_path):
    axis = {f"l{k}": {} for k in range(200)}
    (tmp_path / "g.yaml").write_text(json.dumps({"axes": {name: axis for name in ("datasets", "backbones", "settings")}}))
    with pytest.raises(S.SettingsError, match="`axes` make 8,000,000 cells; a grid has at most 10,000"):
        graph.load(tmp_path / "g.yaml", str(tmp_path))


@pytest.mark.parametrize("text", ["{title}", "{title}, {brand}", "{title} [{brand}]", "yes", "010", "*new*", "&more: x"])
def test_a_text_on_the_command_line_needs_no_quotes(text):
    assert plain_yaml.read_word("data_text", text, "--set") == text
    assert plain_yaml.read_word("data_text", f'"{text}"', "--set") == text
