"""The command line: `llm2rec reproduce | train | params | report | encode | export`. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import sys

from llm2rec_kit import __version__


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 where a notebook failed, 2 for bad input, 130 when interrupted."""
    args = _parser().parse_args(argv)
    try:
        return args.command(args)
    except KeyboardInterrupt:
        print("\nllm2rec: interrupted. What was finished is kept; the same command goes on from there.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llm2rec", description="LLM2Rec, run headless: the notebooks as a series.")
    parser.add_argument("--version", action="version", version=f"llm2rec_kit {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    reproduce = commands.add_parser("reproduce", help="run the notebooks with a profile and write the report")
    reproduce.add_argument("--profile", default="demo", help="demo, games, smoke, or a .yaml file (default: demo)")
    reproduce.add_argument("--data", default="", metavar="PATH", help="folder or file of the data source (data_path)")
    reproduce.add_argument(
        "--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="change one parameter; repeatable"
    )
    reproduce.add_argument("--only", default="", metavar="02,03", help="only these notebooks")
    reproduce.add_argument("--from", dest="start", default="", metavar="03", help="this notebook and those after it")
    reproduce.add_argument("--run", default="", help="folder under outputs/ (default: the profile's name)")
    reproduce.add_argument("--outputs", default="", metavar="DIR", help="where runs live (default: the project's outputs/)")
    reproduce.add_argument("--force", action="store_true", help="redo finished stages")
    reproduce.set_defaults(command=_reproduce)
    train = commands.add_parser("train", help="make one training stage of a run; under torchrun, in several processes")
    train.add_argument("stage", choices=["csft", "mntp", "contrastive"])
    # No --run: torchrun, which reads the words before we do, takes it for a short form of its own --run-path.
    train.add_argument("run", nargs="?", default="", help="folder under outputs/ (default: the profile's name)")
    train.add_argument("--profile", default="demo", help="demo, games, smoke, or a .yaml file (default: demo)")
    train.add_argument(
        "--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="change one parameter; repeatable"
    )
    train.add_argument("--outputs", default="", metavar="DIR", help="where runs live (default: the project's outputs/)")
    train.add_argument("--force", action="store_true", help="redo a finished stage")
    train.set_defaults(command=_train)
    params = commands.add_parser("params", help="list every parameter with type, default, meaning and source")
    params.add_argument("notebook", nargs="?", default="", help="a notebook's number, such as 02; all without")
    params.set_defaults(command=_params)
    report = commands.add_parser("report", help="write results.json, report.md and report.html of a run anew")
    report.add_argument("run", help="name of the run under outputs/")
    report.add_argument("--outputs", default="", metavar="DIR")
    report.set_defaults(command=_report)
    _add_encode(commands)
    _add_export(commands)
    return parser


def _add_encode(commands) -> None:
    encode = commands.add_parser("encode", help="titles in a file to embeddings in a .npy file; goes on where it stopped")
    encode.add_argument("encoder", help="a run's encoder/ or stage folder, any sentence-transformers model, or a hub name")
    encode.add_argument("file", help="titles: .txt (one a line), or .csv, .tsv, .item, .parquet with a column of them")
    encode.add_argument("--to", required=True, metavar="OUT.npy", help="float32 (titles, dim), a row a title")
    encode.add_argument("--column", default="title", help="the column that holds the titles (default: title)")
    for name, choices in (
        ("attention", ("bidirectional", "causal", "as_trained")),
        ("pooling", ("mean", "last", "cls", "as_saved")),
        ("normalise", ("none", "unit", "as_saved")),
    ):
        encode.add_argument(f"--{name}", default=choices[-1], choices=choices, help="default: %(default)s")
    encode.add_argument("--device", default="auto", help="cpu, cuda, mps or auto (default)")
    encode.add_argument("--dtype", default="auto", help="float32, bfloat16 or auto (default)")
    encode.set_defaults(command=_encode)


def _add_export(commands) -> None:
    export = commands.add_parser("export", help="take an encoder or its embeddings away, for another tool")
    export.add_argument("run", help="name of the run under outputs/")
    export.add_argument(
        "--format", required=True, metavar="KIND", help="sentence-transformers, npy, recbole or projector (TensorBoard's)"
    )
    export.add_argument("--to", required=True, metavar="FOLDER", help="a new or an empty folder")
    export.add_argument("--stage", default="contrastive", help="which of the run's embeddings (default: contrastive)")
    export.add_argument("--outputs", default="", metavar="DIR", help="where runs live (default: the project's outputs/)")
    export.set_defaults(command=_export)


def _reproduce(args: argparse.Namespace) -> int:
    from llm2rec_kit import runs
    from llm2rec_kit.reproduction import notebooks

    with runs.one_paragraph_errors():
        only = [number.strip().zfill(2) for number in args.only.split(",") if number.strip()]
        try:
            run = notebooks.reproduce(
                args.profile,
                data=args.data,
                overrides=_overrides(args.set),
                run=args.run,
                only=only,
                start=args.start.zfill(2) if args.start else "",
                force=args.force,
                outputs=args.outputs,
            )
        except notebooks.NotebookFailed as error:
            print(f"llm2rec: {error}", file=sys.stderr)
            return 1
        if any("comparisons" not in name for name in run.names("evaluation")):
            _write_report(run)
    return 0


def _train(args: argparse.Namespace) -> int:
    from pathlib import Path

    from llm2rec_kit import runs
    from llm2rec_kit.reproduction import notebooks
    from llm2rec_kit.training import launch, ranks, trainer

    with runs.one_paragraph_errors():
        values = {"run": Path(args.profile).stem, **notebooks.load_profile(args.profile), **_overrides(args.set)}
        notebooks.check(values, sorted({name for b in notebooks.series() for name in notebooks.parameters(b)}))
        run = runs.Run(args.run or values["run"], args.outputs or values.get("outputs", ""))
        try:
            launch.make(args.stage, run, values, force=args.force)
        except trainer.TrainingError as error:
            print(f"llm2rec: {error}", file=sys.stderr)
            return 1
        ranks.leave()
    return 0


def _params(args: argparse.Namespace) -> int:
    from llm2rec_kit import runs, settings
    from llm2rec_kit.reproduction import notebooks

    with runs.one_paragraph_errors():
        books = [b for b in notebooks.series() if b.name.startswith(args.notebook.zfill(2) if args.notebook else "")]
        if not books:
            raise ValueError(f"No notebook {args.notebook!r}; there are {[b.name[:2] for b in notebooks.series()]}.")
        for book in books:
            print(book.stem)
            for p in notebooks.parameters(book).values():
                one_of = f"; one of {', '.join(map(str, choices))}" if (choices := settings.choices_of(p.name)) else ""
                print(f"  {p.name:28} {p.type:6} {p.default!r:24} {p.help}{one_of}")
    return 0


def _report(args: argparse.Namespace) -> int:
    from llm2rec_kit import runs

    with runs.one_paragraph_errors():
        _write_report(_existing_run(args))
    return 0


def _encode(args: argparse.Namespace) -> int:
    from llm2rec_kit import runs, settings

    with runs.one_paragraph_errors():
        place = settings.Backbone(device=args.device, dtype=args.dtype)
        how = {name: getattr(args, name) for name in ("attention", "pooling", "normalise")}
        from llm2rec_kit import encoder, export

        titles, shard = export.read_titles(args.file, args.column), encoder.ranks()
        subject = encoder.Encoder.load(args.encoder, settings.Encoding(**how, max_tokens=0), place)
        found = subject.encode(titles, out=args.to, progress=True, shard=shard)
        print(f"{args.to}: float32 {found.shape}, a row a title of {args.file}", flush=True)
    return 0


def _export(args: argparse.Namespace) -> int:
    from llm2rec_kit import runs

    with runs.one_paragraph_errors():
        run = _existing_run(args)
        from llm2rec_kit import export

        folder = export.export(run, args.format, args.to, args.stage)
        print(f"{folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")
    return 0


def _existing_run(args: argparse.Namespace):
    from llm2rec_kit import runs

    if not (base := runs.outputs_folder(args.outputs) / args.run).is_dir():
        raise ValueError(f"There is no run {args.run!r} in {base.parent}. Make one with `llm2rec reproduce`.")
    return runs.Run(args.run, args.outputs)


def _write_report(run) -> None:
    from llm2rec_kit.reproduction import report

    results = report.write(run)
    print("\n" + report.terminal_table(results))
    print(f"report: {run.path / 'report.html'}\nexecuted notebooks: {run.path / 'notebooks'}")


def _overrides(pairs: list[str]) -> dict:
    import yaml

    from llm2rec_kit.settings import SettingsError

    values = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or "." not in name:
            raise SettingsError(f"--set takes stage.key=value, such as csft.steps=100; found {pair!r}.")
        values[name.strip().replace(".", "_", 1)] = _value(yaml.safe_load(value))
    return values


def _value(value: object) -> object:
    """YAML 1.1 takes 1e-3 for text, since it has no dot; on a command line it is a number."""
    if isinstance(value, str) and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            pass
    return value


if __name__ == "__main__":
    sys.exit(main())
