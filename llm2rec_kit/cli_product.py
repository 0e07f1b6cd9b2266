"""The commands that use what a run has made: `llm2rec recommend`, `export` and `push`; lazy in imports, as `cli`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm2rec_kit.runs import Run

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # what `add_subparsers` gives; it has no public name


def add_outputs(c: argparse.ArgumentParser) -> None:
    """Add the option that says where runs live."""
    c.add_argument(
        "--outputs", default="", metavar="DIR", help="where runs live (default: outputs/ of the checkout, or here)"
    )


def add_run(c: argparse.ArgumentParser) -> None:
    """Add the run that a command is about, as `runs.find` takes it, and where it lies."""
    c.add_argument("run", metavar="RUN", help="name of a run under outputs/, or a run's folder")
    add_outputs(c)


def _add_code(c: argparse.ArgumentParser) -> None:
    """The options that say whose code may run: what a run says of code is never run."""
    c.add_argument("--own-parts", action="append", default=[], metavar="FILE", help="run it: your own recommender is there")
    c.add_argument(
        "--trust-remote-code", action="store_true", help="run code that came with the run's model, if you trust it"
    )


def _run_of(args: argparse.Namespace) -> Run:
    """The run that is named; what `--own-parts` names is imported. Raises as `runs.find` and `own_parts.load`."""
    from pathlib import Path

    from llm2rec_kit import runs
    from llm2rec_kit.settings import own_parts

    run = runs.find(args.run, args.outputs)
    own_parts.load(own_parts.resolve_parts(args.own_parts, Path()))
    return run


def add_recommend(commands: Commands) -> None:
    """Add the options of `llm2rec recommend`."""
    c = commands.add_parser("recommend", help="what a run's recommender puts first after titles, new titles among them")
    add_run(c)
    c.add_argument("--history", action="append", required=True, metavar="TITLES", help="'title | title', oldest first")
    c.add_argument("--top", type=int, default=10, help="items to list (default: 10)")
    c.add_argument("--new", default="", metavar="FILE", help="titles to rank with the catalogue, in a file as for encode")
    c.add_argument("--column", default="title", help="the column of that file that holds them (default: title)")
    c.add_argument("--embedding", default="", help="the item table, such as csft (default: the last stage's)")
    c.add_argument("--recommender", default="", help="which of those trained (default: SASRec)")
    c.add_argument("--domain", default="", help="of several, which (default: that of the history's titles)")
    c.add_argument("--seen", action="store_true", help="keep the history's own items in the list")
    c.add_argument("--json", action="store_true", help="print JSON, for programs")
    _add_code(c)
    c.set_defaults(command=_recommend)


def add_export(commands: Commands) -> None:
    """Add the options of `llm2rec export`."""
    c = commands.add_parser("export", help="take an encoder or its embeddings away, for another tool")
    add_run(c)
    c.add_argument(
        "--format",
        required=True,
        metavar="KIND",
        help="sentence-transformers, npy, recbole, projector (TensorBoard's), adapted, recommender or faiss",
    )
    c.add_argument("--to", required=True, metavar="FOLDER", help="a new or an empty folder")
    c.add_argument("--stage", default="contrastive", help="which of the run's embeddings (default: contrastive)")
    c.add_argument("--recommender", default="", help="for adapted, recommender and faiss: the one trained over it")
    c.add_argument("--domain", default="", help="for those: of several domains, which")
    _add_code(c)
    c.set_defaults(command=_export)


def add_push(commands: Commands) -> None:
    """Add the options of `llm2rec push`."""
    c = commands.add_parser("push", help="put an encoder or a recommender into a repository of the Hugging Face Hub")
    add_run(c)
    c.add_argument("repo", metavar="REPO", help="owner/name; one that is not there is made, private")
    c.add_argument(
        "--format", default="sentence-transformers", metavar="KIND", help="sentence-transformers (default) or recommender"
    )
    c.add_argument("--stage", default="contrastive", help="which of the run's embeddings (default: contrastive)")
    c.add_argument("--recommender", default="", help="for recommender: the one trained over it")
    c.add_argument("--domain", default="", help="for recommender: of several domains, which")
    c.add_argument("--public", action="store_true", help="let everybody see it")
    c.add_argument("--replace", action="store_true", help="in the place of all files that the repository holds")
    _add_code(c)
    c.set_defaults(command=_push)


def _recommend(args: argparse.Namespace) -> None:
    run = _run_of(args)
    from llm2rec_kit.export import recommend

    recommend.run_command(run, args)


def _export(args: argparse.Namespace) -> None:
    from llm2rec_kit import storage

    run = _run_of(args)
    from llm2rec_kit.export import formats

    with storage.name_place(args.to, "--to"):
        names = ("stage", "recommender", "domain", "trust_remote_code")
        folder = formats.export(run, args.format, args.to, **{name: getattr(args, name) for name in names})
    print(f"{folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")


def _push(args: argparse.Namespace) -> None:
    run = _run_of(args)
    from llm2rec_kit.export import push

    push.run_command(run, args)
