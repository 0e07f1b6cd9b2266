"""The command line: `llm2rec reproduce | params | report | explore`. Nothing heavy is imported before it is needed."""

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
    params = commands.add_parser("params", help="list every parameter with type, default, meaning and source")
    params.add_argument("notebook", nargs="?", default="", help="a notebook's number, such as 02; all without")
    params.set_defaults(command=_params)
    report = commands.add_parser("report", help="write results.json, report.md and report.html of a run anew")
    report.add_argument("run", help="name of the run under outputs/")
    report.add_argument("--outputs", default="", metavar="DIR")
    report.set_defaults(command=_report)
    explore = commands.add_parser(
        "explore", help="write a run's embedding maps as one interactive HTML page that needs no kernel"
    )
    explore.add_argument("run", help="name of the run under outputs/")
    explore.add_argument("--outputs", default="", metavar="DIR")
    explore.add_argument(
        "--to", default="", metavar="FILE", help="where to write it (default: explorer.html in the run's folder)"
    )
    explore.add_argument("--open", action="store_true", help="open it in the browser")
    explore.set_defaults(command=_explore)
    return parser


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
        _write_report(_known_run(args))
    return 0


def _explore(args: argparse.Namespace) -> int:
    from pathlib import Path

    from llm2rec_kit import runs

    with runs.one_paragraph_errors():
        run = _known_run(args)
        from llm2rec_kit.maps import explorer

        page = explorer.write_page(run, Path(args.to) if args.to else None)
    print(f"explorer: {page} ({page.stat().st_size / 1e6:.1f} MB, opens in any browser, needs no kernel and no network)")
    if args.open:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())
    return 0


def _known_run(args: argparse.Namespace):
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
