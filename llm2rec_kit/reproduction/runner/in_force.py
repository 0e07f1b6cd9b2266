"""The values in force in a notebook: what is typed or given, else the finished run's, else the profile's, else the default.

A line of the parameters cell counts as typed where its value is not the one written there, or where it stands without its
type (`csft_steps = 10000`), so that the default can be typed, too. What papermill gives is typed whatever its value: it
stands in a cell of its own. So a notebook opened on a finished run reuses all of it, and stops where something typed would
replace a finished artefact. `reproduce` and grids give all that is not a default, and may replace.
"""

from __future__ import annotations

import ast
import html
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from llm2rec_kit import settings as S
from llm2rec_kit.reproduction.runner import notebooks, recorded
from llm2rec_kit.results import evaluations
from llm2rec_kit.runs import SERIES, ArtefactError, Run, check_name, find_outputs
from llm2rec_kit.settings import plain_yaml
from llm2rec_kit.settings.ranges import clip, show_value
from llm2rec_kit.settings.stage import COMMON, check_common

PROFILE = "demo"  # what the parameters cells are written with
GIVEN = "# Parameters"  # how papermill begins the cell that it puts in


class InForce(NamedTuple):
    """A parameter's value, and where it comes from: typed, run, profile or default."""

    value: Any
    source: str


class WouldReplace(ArtefactError):
    """What was typed would replace a finished artefact; the message says which, what stands on it, and the ways on."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a traceback: nothing is wrong in the code."""
        return [f"{type(self).__name__}: {self}"]


def open_notebook_run(parameters: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    """Open the run that a notebook's `globals()` name, guarded, with the values in force by flat name; shows their sources.

    Names with a stage's prefix that are no setting stay among the values, for `from_parameters` to refuse. SettingsError for
    a common parameter of another type, a profile that cannot be read and a value that no setting takes, before a folder is
    made. `force` is taken back in a copy that a forced series left in the run.
    """
    check_common(parameters)
    check_name(parameters["run"])
    there = (find_outputs(parameters["outputs"]) / parameters["run"]).exists()
    run = Run(parameters["run"], parameters["outputs"]) if there else None
    found = resolve(parameters, run)
    settings = {name: v for name, v in found.items() if name not in COMMON}
    prefixes = tuple({f"{name.split('_')[0]}_" for name in settings})
    unknown = {name: v for name, v in parameters.items() if name.startswith(prefixes) and name not in settings}
    values = unknown | {name: v.value for name, v in settings.items()}
    _check(values)
    run = run or Run(parameters["run"], parameters["outputs"])
    if SERIES not in os.environ:
        _take_force_back(run, parameters)
        run.before_replacing = lambda name, changed: _refuse(run, name, changed, settings)
    _show(found)
    _say(run, found)
    return run, values


def _check(values: Mapping[str, Any]) -> None:
    """Raise SettingsError for a value that no setting takes; own parts, which others may name, are loaded first."""
    S.Own(parts=values.get("own_parts", [])).load()
    for stage in S.STAGES:
        if own := {name: value for name, value in values.items() if name.startswith(f"{stage.prefix}_")}:
            stage.from_parameters(own)


def resolve(parameters: Mapping[str, Any], run: Run | None) -> dict[str, InForce]:
    """Find the profile, and value and source of every setting among `parameters`, a notebook's `globals()`."""
    plain = recorded.read_defaults()
    own, given, by_papermill = _given(parameters)
    names = [name for name in parameters if name in plain and (name in own or not own)]
    typed = {name for name in names if name in given or not _same(parameters[name], plain[name])}
    profile = parameters["profile"]
    told = "profile" in given or profile != PROFILE
    if by_papermill and not told:
        profile = ""  # what papermill is given stands over the defaults
    if SERIES in os.environ:
        known = _profile(profile)
        under = {name: "profile" for name in typed if name in known and known[name] == parameters[name]}
        found = {n: InForce(parameters[n], under.get(n, "typed" if n in typed else "default")) for n in names}
        return {"profile": InForce(profile, "typed"), **found}
    asked_profile, asked = recorded.read_asked(run) if run else ("", {})
    if asked and not told:
        known, source, head = asked, "run", InForce(asked_profile, "run")
    else:
        known, source = _profile(profile), "profile"
        head = InForce(profile, "typed" if told or by_papermill else "default")
    kept = recorded.read_held(run, names) if run else {}

    def of(name: str) -> InForce:
        if name in typed:
            return InForce(parameters[name], "typed")
        if name in kept:
            return InForce(kept[name].value, "run")
        return InForce(known[name], source) if name in known else InForce(plain[name], "default")

    return {"profile": head, **{name: of(name) for name in names}}


def _take_force_back(run: Run, parameters: dict[str, Any]) -> None:
    """Take `force` back in a run's own executed copy: it says how the copy was made, and forces nothing a second time."""
    _, given, by_papermill = _given(parameters)
    its_own = Path.cwd().resolve() == (run.path / "notebooks").resolve()
    if parameters["force"] and by_papermill and "force" in given and its_own:
        parameters["force"] = False
        print(
            "This copy was made with force = True; here that is taken back. Open the notebook in notebooks/ to force again."
        )


def _given(parameters: Mapping[str, Any]) -> tuple[set[str], set[str], bool]:
    """The parameters cell's names, those assigned without a type since it last ran, and whether papermill did so. IPython
    keeps what ran in `In`; without it there are none. papermill gives names of other notebooks, too."""
    history = [source for source in parameters.get("In", []) if isinstance(source, str)]
    trees = [(source, list(_assignments(source))) for source in history]
    cells = [k for k, (_, found) in enumerate(trees) if any(with_type and name in COMMON for name, with_type in found)]
    begun = cells[-1] if cells else len(trees)
    own = {name for name, _ in trees[begun][1]} if cells else set()
    given, by_papermill = set(), False
    for source, found in trees[begun:]:
        given |= {name for name, with_type in found if not with_type}
        by_papermill |= source.lstrip().startswith(GIVEN)
    return own, given, by_papermill


def _assignments(source: str) -> Iterator[tuple[str, bool]]:
    """Names that the lines of a cell assign, and whether with a type; none of a cell that is no plain Python."""
    try:
        lines = ast.parse(source).body
    except (SyntaxError, ValueError):
        return
    for line in lines:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            yield line.target.id, True
        for target in line.targets if isinstance(line, ast.Assign) else ():
            if isinstance(target, ast.Name):
                yield target.id, False


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and value == default


def _profile(name: str) -> dict[str, Any]:
    """What a profile sets; nothing without one. SettingsError for one that does not exist or names no setting."""
    if not name:
        return {}
    values = plain_yaml.convert_numbers(notebooks.load_profile(name))
    notebooks.check(values, [*COMMON, *recorded.read_defaults()])
    return values


def _show(found: Mapping[str, InForce]) -> None:
    """A table of the profile, and of the values that are not the default that the cell shows."""
    from IPython.display import display

    plain = recorded.read_defaults()
    rows = [
        {"parameter": name, "in force": clip(str(v.value) if v.value != "" else '""', 100), "from": v.source}
        for name, v in found.items()
        if name == "profile" or v.source == "typed" or not _same(v.value, plain[name])
    ]
    with pl.Config(tbl_hide_column_data_types=True, tbl_hide_dataframe_shape=True, tbl_rows=-1, fmt_str_lengths=100):
        text = str(pl.DataFrame(rows))
    lines = [[f"<th>{k}</th>" for k in rows[0]], *([f"<td>{html.escape(v)}</td>" for v in row.values()] for row in rows)]
    table = "".join(f"<tr>{''.join(line)}</tr>" for line in lines)
    display({"text/plain": text, "text/html": f"<table>{table}</table>"}, raw=True)


def _say(run: Run, found: Mapping[str, InForce]) -> None:
    """What the table leaves out, and where a profile was named that the run was not made with."""
    plain = recorded.read_defaults()
    usual = [v.source for n, v in found.items() if n != "profile" and v.source != "typed" and _same(v.value, plain[n])]
    parts = [f"{usual.count(s)} {words}" for s, words in (("run", "of the run"), ("default", "by default")) if s in usual]
    if usual:
        print(f"The other {len(usual)} are as the cell above shows them" + (f": {', '.join(parts)}." if parts else "."))
    (profile, source), (asked, _) = found["profile"], recorded.read_asked(run)
    if source == "typed" and profile and asked not in ("", profile) and "run" in {v.source for v in found.values()}:
        print(
            f"Run {run.name!r} is of profile {asked!r}: what it has finished keeps its values; another `run` takes {profile!r}'s."
        )


def _refuse(run: Run, name: str, changed: Mapping[str, tuple[Any, Any]], found: Mapping[str, InForce]) -> None:
    """Raise WouldReplace for a finished artefact with settings {name: (has, asked)} that changed.

    What says of others only what there is, or what a user's file holds, may be replaced: nothing is lost.
    """
    made = run.manifest(name)
    if name == evaluations.SERIES or name.endswith("/comparisons") or made["record"].get("stage") == "own":
        return
    folder = "embeddings" if name == "encoder" else name.split("/")[0]
    prefix = next((p for p, holders in recorded.HOLDERS.items() if folder in {h.split("/")[0] for h in holders}), "")
    known, told, back = recorded.read_defaults(), [], []
    for key, (has, asked) in changed.items():
        full = f"{prefix}_{key}" if f"{prefix}_{key}" in known else f"backbone_{key}"
        if full not in known:
            told.append(f"its {key} changed since")
            continue
        # Settings that came later are kept where they are not the usual.
        has, asked = (known[full] if value is None else value for value in (has, asked))
        told.append(f"{full} = {show_value(asked)} ({found[full].source if full in found else 'typed'})")
        back.append(f"{full} = {show_value(has)}")
    after = recorded.find_dependents(run, [name])
    more = f" What stands on it would be outdated: {recorded.count_in_words(after)}." if after else ""
    has = f" ({', '.join(back)})" if back else ""
    raise WouldReplace(
        f"Run {run.name!r} has finished {name!r} ({made['finished'][:10]}), and this would replace it: {', '.join(told)}.{more} "
        f"Nothing was changed. Three ways on: another name for the run (run = ..., from notebook 01 on), which keeps both; "
        f"force = True, which makes anew all that this notebook makes; or what the run has{has}, which is reused."
    )
