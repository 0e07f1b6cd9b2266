"""Running the notebooks headless: what their parameters are, what a profile sets, and papermill over the series.

papermill only warns of a parameter that a notebook does not have, and runs the default instead. So everything is checked
here before the first notebook starts: names, types, choices, and that the data is there.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from llm2rec_kit import settings as S
from llm2rec_kit import storage
from llm2rec_kit.models import checkpoint, gguf
from llm2rec_kit.reproduction.plan import assets
from llm2rec_kit.reproduction.runner import forced, interrupts, recorded, unchanged
from llm2rec_kit.reproduction.runner.progress import Progress
from llm2rec_kit.runs import ArtefactError, Run, check_name, find_begun, find_outputs, freshness, meter, places
from llm2rec_kit.settings import own_parts, plain_yaml
from llm2rec_kit.settings.ranges import clip, show_value

PAPER_SETS = ("Games", "Arts", "Movies", "Home", "Electronics", "Tools")
NINE = 'What makes its nine sets of that: docs/data.md, "The paper\'s nine sets".'
CHOSEN = "notebooks"  # key of a profile that is no parameter: the notebooks that it runs


class NotebookFailed(RuntimeError):
    """A notebook stopped with an error; the message holds the error and the command that goes on from there."""


@dataclass(frozen=True)
class Parameter:
    """One line of a notebook's parameters cell."""

    name: str
    default: Any
    type: str
    help: str


def list_series(root: Path | None = None) -> list[Path]:
    """List the numbered notebooks from 01 on, in order, of this code or of `root`'s notebooks/. 00 is the introduction."""
    folder = root / "notebooks" if root else places.find_notebooks()
    found = sorted(book for book in folder.glob("[0-9][0-9]_*.ipynb") if not book.name.startswith("00"))
    if not found:
        raise FileNotFoundError(f"No numbered notebook in {folder}: the kit is not whole. Install it again.")
    return found


def read_parameters(notebook: Path) -> dict[str, Parameter]:
    """Read the parameters of a notebook, by name, from the source of its cell tagged `parameters`. papermill's own
    inspection drops annotations and comments. A meaning stands behind its parameter or above a long line."""
    cells = json.loads(notebook.read_text())["cells"]
    tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"{notebook} must have one cell tagged `parameters`; found {len(tagged)}.")
    source = "".join(tagged[0]["source"])
    told = re.finditer(r"(?m)((?:^#.*\n)*)^(\w+): [^\n]*?(?:  # (.*))?$", source)
    comments = {m[2]: (m[3] or " ".join(line[1:].strip() for line in m[1].splitlines())).strip() for m in told}
    return {
        n.target.id: Parameter(
            n.target.id, ast.literal_eval(n.value), ast.unparse(n.annotation), comments.get(n.target.id, "")
        )
        for n in ast.parse(source).body
        if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name) and n.value
    }


def cite_default(p: Parameter) -> str:
    """Say where a default comes from, by the marks in its help: "P 4.1.3, C"; "O" (ours) where there is none."""
    marks = [part.strip() for mark in re.findall(r"\[([PCO]\b[^\]]*)\]", p.help) for part in mark.split(",")]
    short = [m[0] for mark in marks if (m := re.match(r"[PCO]\b( [\d.]+)?", mark))]
    return ", ".join(dict.fromkeys(short)) or "O"


def explain(p: Parameter) -> str:
    """Return the help text, with the values that the parameter may have."""
    limits = S.describe_limits(p.name)
    return f"{p.help}; {limits}" if limits else p.help


def list_profiles() -> list[str]:
    """List the names of the profiles that come with the kit."""
    return sorted(path.stem for path in places.PROFILES.glob("*.yaml"))


def load_profile(name: str) -> dict[str, Any]:
    """Load the parameters that a profile sets: one of `list_profiles()`, or a path to a YAML file of the same form."""
    return {k: v for k, v in _read_profile(name).items() if k != CHOSEN}


def list_profile_notebooks(name: str) -> list[str]:
    """List the numbers of the notebooks that a profile runs unless told otherwise; empty: all of them."""
    numbers = _read_profile(name).get(CHOSEN, [])
    if not isinstance(numbers, list) or not all(isinstance(n, str) for n in numbers):
        raise S.SettingsError(
            f"Profile {show_value(name)}: {CHOSEN} takes a list of texts, such as ['01', '02']; found {show_value(numbers)}."
        )
    return numbers


def _read_profile(name: str) -> dict[str, Any]:
    if name in list_profiles():
        return plain_yaml.read_mapping((places.PROFILES / f"{name}.yaml").read_text(), f"Profile {name!r}")
    path, what = Path(name), f"Profile {show_value(name)}"
    if path.suffix not in (".yaml", ".yml") or not os.path.lexists(path):
        raise S.SettingsError(
            S.describe_unknown(name, list_profiles(), "profile") + " A path to a .yaml file is taken, too."
        )
    return plain_yaml.read_mapping(plain_yaml.read_text(path, what), what)


def check(values: dict[str, Any], known: list[str]) -> None:
    """Raise SettingsError for an unknown name, a value that its stage refuses, or values (and defaults) that clash."""
    if "profile" in values:
        raise S.SettingsError(
            "A profile is no setting of another profile, nor of --set: --profile names the one that counts."
        )
    for name in values:
        if name not in known:
            raise S.SettingsError(S.describe_unknown(name, known))
    S.Own.from_parameters(values).load()  # what its modules register may be named by the other stages
    for stage in S.STAGES:
        own = [name.removeprefix(f"{stage.prefix}_") for name in known if name.startswith(f"{stage.prefix}_")]
        stage.from_parameters(values).check(own)


def check_data(values: dict[str, Any]) -> None:
    """Raise ValueError where the source needs files and `data_path` leads to none, or needs corpora and one is missing."""
    data = S.Data.from_parameters(values)
    if data.source == "mix":
        from llm2rec_kit.data import mixing  # with polars, which a list of parameters does without

        mixing.find_folders(data, values.get("outputs", ""))
        return
    if data.source == "synthetic":
        if data.path:
            raise ValueError(
                f"The source is synthetic and reads no files, but data was given: {clip(data.path)}. Take a profile "
                "for real data, such as games, or set data.source to what the files are."
            )
        return
    if not data.path and data.source in own_parts.list_names("source"):
        return  # where it reads is its own affair
    if not data.path:
        raise ValueError(
            f"The source {data.source!r} reads files: say where they are, with DATA=folder after "
            "`make reproduce`, --data folder after `llm2rec reproduce`, or data_path in the profile."
            + (f" {assets.describe_data()} {NINE}" if set(data.train_domains) & set(PAPER_SETS) else "")
        )
    kind = plain_yaml.describe_path(Path(data.path))
    if kind not in ("", "a folder", "a file"):
        raise ValueError(
            f"The data at {clip(data.path)} is {kind}, and the source {data.source!r} reads a folder or a file."
        )
    if not kind and not data.download:
        raise ValueError(
            f"There is no data at {clip(data.path)}. Give the folder (or file) that the source {data.source!r} reads; "
            "notebooks/01_data_prep.ipynb says what it expects in it."
        )
    from llm2rec_kit.data import preconditions, sources

    if domains := sources.tell_domains(data):
        preconditions.check_train_domains(data, domains)
    sources.check_unread(data)


def reproduce(
    profile: str,
    *,
    data: str = "",
    overrides: dict[str, Any] | None = None,
    run: str = "",
    only: list[str] | None = None,
    start: str = "",
    force: bool = False,
    outputs: str = "",
    root: Path | None = None,
) -> Run:
    """Run the notebooks of a profile (or `only` some numbers, or from number `start` on); returns the run.

    Everything is checked before the first notebook starts. Raises SettingsError or ValueError for bad input,
    NotebookFailed where a notebook stops; its executed copy is kept in the run's notebooks/ folder. A notebook of whose copy
    nothing has changed is not run again. With `force` what is finished is made again; where that was interrupted, the same
    call goes on and makes nothing twice.
    """
    from llm2rec_kit.reproduction.runner import feasibility  # with polars, as in `prepare`

    values, chosen = prepare(
        profile, data=data, overrides=overrides, run=run, only=only, start=start, force=force, outputs=outputs, root=root
    )
    numbers, there = ([book.name[:2] for book in books] for books in (chosen, list_series(root)))
    feasibility.check_order(values, numbers, find_begun(values["run"], values.get("outputs", "")), there)
    storage.check_writable(find_outputs(values.get("outputs", "")) / values["run"])
    again = _command(profile, data, overrides or {}, run, outputs, force)
    result = Run(values["run"], values.get("outputs", ""))
    result.write_info("asked", {"profile": profile, "command": shlex.join(again), "parameters": values})
    named = {"profile": profile if profile in list_profiles() else str(Path(profile).resolve())}
    with forced.name_series(result, values, chosen):
        if replaced := recorded.describe_replacement(result, values, chosen):
            print(replaced, flush=True)
        looked, kept = False, False
        for k, book in enumerate(chosen, 1):
            label, asked = f"[{k}/{len(chosen)}] {book.stem}", _list_asked(book, named | values)
            if not values.get("force") and _stands(result, book, asked, label):
                kept = True
                continue
            if not looked and not book.name.startswith("01"):  # once there is a corpus, and before what takes long
                _look_at_corpus(result, values, chosen[k - 1 :])
                looked = True
            # A forced series is asked for as a whole again: only as the same series it knows what it has made already.
            rest = _part(only or [], start) if values.get("force") else _name_rest(chosen[k - 1 :], list_series(root))
            with unchanged.note_what_counts(result, book, asked):
                run_one(book, named | values, result, label=label, again=[*again, *rest])
    if kept:
        print(f"To run a notebook that was kept: delete its copy in {result.path / 'notebooks'}.", flush=True)
    return result


def _list_asked(book: Path, values: dict[str, Any]) -> dict[str, Any]:
    """List all parameters of a notebook, its defaults too, as `unchanged.find_changes` takes them."""
    own = {name: values.get(name, p.default) for name, p in read_parameters(book).items()}
    return own | {"what the profile sets": load_profile(values["profile"])}


def _stands(run: Run, book: Path, asked: dict[str, Any], label: str) -> bool:
    """Tell whether a notebook's executed copy stands as it is, and say so, or what has changed since it was made."""
    changed = unchanged.find_changes(run, book, asked)
    if changed == []:
        print(f"{label} kept as it is: nothing that it was made of has changed", flush=True)
    elif changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        print(f"{book.stem} runs again, changed since it ran: {', '.join(changed[:3])}{more}", flush=True)
    return changed == []


def prepare(
    profile: str,
    *,
    data: str = "",
    overrides: dict[str, Any] | None = None,
    run: str = "",
    only: list[str] | None = None,
    start: str = "",
    force: bool = False,
    outputs: str = "",
    root: Path | None = None,
    look: bool = True,
) -> tuple[dict[str, Any], list[Path]]:
    """Read and check what the same `reproduce` would run; with `look` also that data and weights are there."""
    from llm2rec_kit.reproduction.runner import feasibility  # with polars, which the list of parameters does without

    books = list_series(root)
    values = {"run": Path(profile).stem, **plain_yaml.convert_numbers(load_profile(profile)), **(overrides or {})}
    # What the caller says comes before the profile.
    given = {"run": run, "outputs": outputs, "data_path": data, "force": force}
    values |= {name: value for name, value in given.items() if value}
    own = {book: read_parameters(book) for book in books}
    check(values, sorted({name for p in own.values() for name in p}))
    check_name(values["run"])
    # A notebook runs in its own folder, where a path relative to the caller's means nothing.
    if not places.find_checkout():
        values["outputs"] = str(find_outputs(values.get("outputs", "")))
    if values.get("outputs"):
        values["outputs"] = str(storage.expand_home(values["outputs"]).resolve())
    values = resolve_folders(values, Path())
    if values.get("own_parts"):
        values["own_parts"] = own_parts.resolve_parts(values["own_parts"], Path())
    chosen = _chosen(books, only or ([] if start else list_profile_notebooks(profile)), start)
    begun = find_begun(values["run"], values.get("outputs", ""))
    numbers, there = [book.name[:2] for book in chosen], freshness.list_tables(begun) if begun else []
    values = recorded.put_place(values, numbers)
    feasibility.check_across_stages(values, numbers, there)
    if look:
        feasibility.check_machine(values, numbers, there)
        look_for_files(values, {name for book in chosen for name in own[book]}, there=there)
    return values, chosen


def _look_at_corpus(run: Run, values: dict[str, Any], books: list[Path]) -> None:
    """Raise SettingsError where the settings of one of `books` cannot work on the run's corpus, if it has a sound one."""
    from llm2rec_kit.corpus import Corpus
    from llm2rec_kit.reproduction.runner import feasibility

    try:
        corpus = Corpus.load(run.require("corpus"))
    except (ArtefactError, OSError):  # the notebook says so itself
        return
    asked = {name.split("_")[0] for book in books for name in read_parameters(book)}
    feasibility.check_corpus(corpus, *(stage.from_parameters(values) for stage in S.STAGES if stage.prefix in asked))


def resolve_folders(values: dict[str, Any], base: Path) -> dict[str, Any]:
    """Give the data, folders to mix, your own vectors, and models that are folders or GGUF files their absolute paths, seen
    from `base`."""

    def absolute(path: str) -> str:
        return str((base / storage.expand_home(path)).resolve())

    def own(pair: Any) -> Any:
        """`name=file` with the absolute path of the file; what is of no such form stays, to be refused by name."""
        name, equals, file = pair.partition("=") if isinstance(pair, str) else (pair, "", "")
        return f"{name}={absolute(file)}" if equals else pair

    def found(name: Any) -> Any:
        if not isinstance(name, str) or not name or checkpoint.has_a_name(name):
            return name
        model = base / storage.expand_home(name)
        kind = plain_yaml.describe_path(model)
        return str(model.resolve()) if kind == "a folder" or (gguf.is_gguf_name(name) and kind == "a file") else name

    models = {k: values[k] for k in assets.MODELS if k in values}
    known = {k: [found(n) for n in v] if isinstance(v, list) else found(v) for k, v in models.items()}
    if values.get("data_path"):
        known["data_path"] = absolute(values["data_path"])
    if values.get("data_mix"):  # a name with a slash is a folder, one without a run
        known["data_mix"] = [absolute(one) if "/" in one else one for one in values["data_mix"]]
    if isinstance(values.get("encoding_own"), list):
        known["encoding_own"] = [own(pair) for pair in values["encoding_own"]]
    return values | known


def look_for_files(values: dict[str, Any], needed: set[str], *, hub: bool = True, there: Collection[str] = ()) -> None:
    """Raise ValueError where data or models that `needed` parameters lead to are damaged or missing, also on the `hub`; an
    encoder whose table is `there` may be out of reach."""
    if "data_path" in needed:
        check_data(values)
    assets.check_models(values, needed, hub=hub, there=there)


def run_one(
    book: Path,
    values: dict[str, Any],
    run: Run,
    *,
    label: str = "",
    again: list[str] | None = None,
    stream: IO[str] | None = None,
) -> float:
    """Run one notebook with those of `values` that it knows, keep it in the run's notebooks/, note its cost in run.json.

    Returns the seconds that it took. Raises NotebookFailed, with the command `again` (if there is one) as how to go on.
    """
    stream, label = stream or sys.stdout, label or book.stem
    print(label, file=stream, flush=True)
    given = {name: value for name, value in values.items() if name in read_parameters(book)}
    with meter.measure() as cost, interrupts.win_over_other_ends():
        what = _execute(book, run.path / "notebooks" / book.name, given, label, stream)
    if what:
        kept = f"The notebook, as far as it came: {run.path / 'notebooks' / book.name}\nWhat was finished is kept."
        go_on = f" To go on from here:\n  {shlex.join(again)}" if again else ""
        raise NotebookFailed(f"{book.stem} stopped: {what}\n{kept}{go_on}")
    # The kernel's own memory is in its stages; here it would be the runner's, which means nothing.
    run.write_info("notebooks", {book.stem: {k: v for k, v in cost.items() if not k.startswith("peak_")}})
    seconds: float = cost["seconds"]
    print(f"{label} done in {seconds:.0f} s", file=stream, flush=True)
    return seconds


def _chosen(books: list[Path], only: list[str], start: str) -> list[Path]:
    numbers = [b.name[:2] for b in books]
    for number in [*only, *([start] if start else [])]:
        if number not in numbers:
            raise S.SettingsError(
                f"No notebook is left to run: there is no {show_value(number)}; there are {', '.join(b.stem for b in books)}."
            )
    chosen = [b for b in books if (not only or b.name[:2] in only) and b.name[:2] >= start]
    if not chosen:
        raise S.SettingsError(f"No notebook is left to run: {', '.join(only)} are all before {start}.")
    return chosen


def _command(profile: str, data: str, overrides: dict[str, Any], run: str, outputs: str, force: bool) -> list[str]:
    """The words of the command line that asks for the same, but for which notebooks."""
    words = ["llm2rec", "reproduce", "--profile", profile]
    for option, value in (("--data", data), ("--run", run), ("--outputs", outputs)):
        words += [option, value] if value else []
    for name, value in overrides.items():
        words += ["--set", f"{name.replace('_', '.', 1)}={json.dumps(value)}"]
    return [*words, *(["--force"] if force else [])]


def _part(only: list[str], start: str) -> list[str]:
    """The words of the command line that say which notebooks."""
    return [*(["--only", ",".join(only)] if only else []), *(["--from", start] if start else [])]


def _name_rest(left: list[Path], books: list[Path]) -> list[str]:
    """The words of the command line that run the notebooks `left` and no other of `books`: `--from` would run 06 and 07, of
    hours, after a profile that leaves them out."""
    numbers = [book.name[:2] for book in left]
    after = [book.name[:2] for book in books if book.name[:2] >= numbers[0]]
    return _part([], numbers[0]) if numbers == after else _part(numbers, "")


def _shortened(text: str) -> str:
    """The last lines of an error message: a terminal is no place for a screenful."""
    kept = "\n".join(text.strip().splitlines()[-8:])
    return kept if len(kept) <= 1000 else f"{kept[:998]} …"


def _execute(book: Path, target: Path, values: dict[str, Any], label: str, stream: IO[str]) -> str:
    """papermill over one notebook, its place and its printed lines shown as they come; returns why it stopped, or ""."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    from llm2rec_kit.reproduction.runner.kernel import ThisInterpreter

    cells = len(json.loads(book.read_text())["cells"]) + 1  # papermill puts one in, with the parameters
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with Progress(label, cells, stream) as progress:
            papermill.execute_notebook(
                book,
                target,
                parameters=values,
                kernel_name="llm2rec",
                kernel_manager_class=ThisInterpreter,
                progress_bar=False,
                stdout_file=progress,
                on_cell_start=progress.on_cell_start,
                cwd=str(target.parent if book.is_relative_to(places.PACKAGE) else book.parent),
            )
    except PapermillExecutionError as error:
        if error.ename == "KeyboardInterrupt":  # somebody interrupted the kernel itself
            raise KeyboardInterrupt from None
        return _shortened(f"{error.ename}: {error.evalue}")
    except DeadKernelError:
        return (
            "its kernel died, most often for want of memory. *_gradient_checkpointing=true, contrastive_gradient_cache=true "
            "and smaller *_batch_tokens need less and go on from the last checkpoint (batch_tokens begins anew where dropout "
            "is on: its draws depend on it); a smaller *_batch_size begins anew and changes the result"
        )
    except OSError as error:
        if why := storage.explain_write_error(error, target.parent):
            return why
        raise
    return ""
