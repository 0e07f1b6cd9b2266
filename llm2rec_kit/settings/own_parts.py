"""Own parts: a recommender, a baseline or a source of one's own, in a module or a file outside the kit (docs/own_parts.md).

What a module registers with `recommender`, `baseline` or `source` is named in the settings as the kit's own are. `load`
imports the modules, and importing runs them: it is given what its user named in the command, in a file that the command
named, or in a notebook's parameters cell, and never what a run has noted, which may come from elsewhere.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, ClassVar, TypeVar

from llm2rec_kit import storage
from llm2rec_kit.settings.ranges import clip, show_value
from llm2rec_kit.settings.stage import SettingsError, Stage, setting

KEY = "own_part"  # in the settings of what an own part made: the hash of its source
OF_THE_KIT = {
    "recommender": ("SASRec", "GRU4Rec"),
    "baseline": ("popularity", "recent", "lastitem", "itemknn", "nearest", "nearestmean", "bm25"),
    "source": ("synthetic", "amazon", "goodreads", "movielens", "llm2rec", "recbole", "table", "mix"),
}
RECOMMENDERS, BASELINES, SOURCES = (OF_THE_KIT[kind] for kind in ("recommender", "baseline", "source"))
ALSO_TAKEN = {"baseline": ("oracle",)}
# A recommender is told from a baseline by its first letter, in tables and tests too, where nobody's code is loaded.
FORMS = {
    "recommender": ("[A-Z][A-Za-z0-9_]*", "a capital, then letters, digits and _"),
    "baseline": ("[a-z][a-z0-9_]*", "a small letter, then small letters, digits and _"),
    "source": ("[a-z][a-z0-9_]*", "a small letter, then small letters, digits and _"),
}
TAKES = {
    "recommender": "(settings, max_history) and gives a torch module",
    "baseline": "(corpus) or (corpus, embeddings) and gives a function of histories",
    "source": "(settings) and gives two frames, of events and of items, or Interactions",
}
_NAMED_PART = (r".*\S.*", "{name} takes modules such as package.module, or files such as path/to/mine.py; found {found}.")
Made = TypeVar("Made", bound=Callable[..., Any])


@dataclass(frozen=True)
class Part:
    """An own part: what it is, its name, what makes it, where that stands, and how another process imports it ("": it
    cannot)."""

    kind: str
    name: str
    make: Callable[..., Any]
    module: str
    file: str
    digest: str
    origin: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} ({Path(self.file).name})"

    @property
    def over_embeddings(self) -> bool:
        """Whether a baseline is one over embeddings."""
        return "embeddings" in inspect.signature(self.make).parameters


class _Fresh(importlib.machinery.SourceFileLoader):
    """Compiles the file as it is now: a cache beside it may be of an earlier text that was written in the same second."""

    def get_code(self, fullname: str) -> CodeType:
        """The code of the file."""
        return self.source_to_code(self.get_data(self.path), self.path)


_PARTS: dict[tuple[str, str], Part] = {}
_LOADED: dict[str, str] = {}  # what `load` has imported: the hash of its file then
_NOW: list[str] = []  # what it is importing


def recommender(name: str) -> Callable[[Made], Made]:
    """Register a class (settings, max_history) as the recommender `name`, which begins with a capital.

    It is a torch module whose `forward(vectors, mask)` takes item vectors (B, L, d), right-padded with zeros, and a bool
    mask (B, L), True where an item is, and returns states: (B, d), one a history, or (B, L, d), after each item, from that
    and earlier ones alone. d is `settings.hidden`; L is at most `max_history`.
    """
    return _registering("recommender", name)


def baseline(name: str) -> Callable[[Made], Made]:
    """Register a function as the baseline `name`, which begins with a small letter.

    It takes a corpus that holds what training sees and nothing later, where it has a second parameter `embeddings` also
    those, float (N + 1, dim) with row 0 for padding, and returns a function from histories (a list of int arrays, items
    1..N, oldest first) to scores, float (histories, N).
    """
    return _registering("baseline", name)


def source(name: str) -> Callable[[Made], Made]:
    """Register a function of `settings.Data` as the source `name`.

    It returns two polars or pandas frames as `tables.from_frames` takes them: events (user, item, and timestamp where known)
    and items (item, title, further columns); or `sources.Interactions`.
    """
    return _registering("source", name)


def load(parts: Sequence[str]) -> None:
    """Import modules (`package.module`) and files (`path/mine.py`), changed ones again: what they register can then be
    named.

    Raises SettingsError for one that cannot be imported, registers nothing, or registers a name that is taken.
    """
    for part in parts:
        where = str(storage.expand_home(part).resolve()) if is_file(part) else part
        _NOW.append(where)
        try:
            _import(part, where)
        finally:
            _NOW.pop()


def is_file(part: str) -> bool:
    """Tell whether a part is named by its file rather than by its module."""
    return part.endswith(".py") or "/" in part


def resolve_parts(parts: Sequence[str], base: Path) -> list[str]:
    """Return `parts` with each file as an absolute path, seen from `base`."""
    return [str((base / storage.expand_home(part)).resolve()) if is_file(part) else part for part in parts]


def list_names(kind: str) -> list[str]:
    """List the names of the loaded own parts of a kind."""
    return [name for k, name in _PARTS if k == kind]


def find(kind: str, name: str) -> Part:
    """Return the own part of this kind and name; SettingsError where it is not loaded."""
    if part := _PARTS.get((kind, name)):
        return part
    raise SettingsError(describe_unknown(kind, name))


def describe_unknown(kind: str, name: str) -> str:
    """Say that there is no such part, and how there would be one, in a sentence."""
    there = [*OF_THE_KIT[kind], *list_names(kind)]
    return f"{kind.capitalize()} {show_value(name)} is none of {there}. One of your own is named once own_parts names its module or file."


def hash_part(kind: str, name: str) -> dict[str, str]:
    """Return {KEY: hash of its source} of an own part, for the settings of what it makes; {} for one of the kit's."""
    return {KEY: _PARTS[kind, name].digest} if (kind, name) in _PARTS else {}


def hash_parts(used: Collection[str]) -> dict[str, str]:
    """Return {name: hash of its source} of the own parts among the names `used`."""
    return {name: part.digest for (_, name), part in sorted(_PARTS.items()) if name in used}


def list_origins() -> list[str]:
    """List what another process must give `load` to have the parts that are loaded here."""
    return [*dict.fromkeys(part.origin for part in _PARTS.values() if part.origin)]


def can_travel(kind: str, name: str) -> bool:
    """Tell whether another process can have this part: one of the kit's, or one whose module or file it can import."""
    return (kind, name) not in _PARTS or bool(_PARTS[kind, name].origin)


def call(part: Part, what: Callable[..., Any], *given: Any) -> Any:
    """Call `what(*given)` of a part; an error in it becomes a SettingsError that names the part, the line and the error."""
    try:
        return what(*given)
    except Exception as error:
        raise SettingsError(f"The {part} failed{_line(error, part.file)}: {_said(error)}.") from error


def accepts(what: Callable[..., Any], *given: str) -> bool:
    """Tell whether a callable can be called with as many arguments as are `given`."""
    try:
        inspect.signature(what).bind(*given)
    except TypeError:
        return False
    except ValueError:  # of what is written in C there is no signature to look at
        return True
    return True


@dataclass(frozen=True, kw_only=True)
class Own(Stage):
    """Notebooks 01, 04, 06 and 07: code of one's own."""

    prefix: ClassVar[str] = "own"

    parts: list[str] = setting(
        [],
        "your own recommenders, baselines and sources: modules or .py files, which are imported and so run (docs/own_parts.md) [O]",
        form=_NAMED_PART,
    )

    def load(self) -> None:
        """Import them, so that other settings may name what they hold; raises as the function `load`."""
        load(self.parts)


def _registering(kind: str, name: str) -> Callable[[Made], Made]:
    if not isinstance(name, str) or not re.fullmatch(FORMS[kind][0], name):
        example = "Mine" if kind == "recommender" else "mine"
        raise SettingsError(
            f"The name of a {kind} is {FORMS[kind][1]}, as in @{kind}({example!r}); found {show_value(name)}."
        )
    if taken := [n for n in (*OF_THE_KIT[kind], *ALSO_TAKEN.get(kind, ())) if n.lower() == name.lower()]:
        raise SettingsError(f"@{kind}({name!r}): the kit has {taken[0]!r} already. Take another name.")

    def register(made: Made) -> Made:
        _check_signature(kind, name, made)
        module, file = made.__module__, _file_of(made)
        for other in [p for (k, n), p in _PARTS.items() if k == kind and n.lower() == name.lower()]:
            if (other.name, other.file) != (name, file):
                raise SettingsError(
                    f"@{kind}({name!r}) in {file}: {other.file} has registered {other.name!r}. Take another name."
                )
        text = Path(file).read_bytes() if Path(file).is_file() else inspect.getsource(made).encode()
        here = module in ("__main__", "__mp_main__")  # which no other process can import
        origin = _NOW[-1] if _NOW else "" if here else module
        _PARTS[kind, name] = Part(kind, name, made, module, file, hashlib.sha256(text).hexdigest(), origin)
        return made

    return register


def _check_signature(kind: str, name: str, made: Any) -> None:
    """Raise SettingsError for what is no callable of the kind's arguments."""
    right = callable(made)
    if right and kind == "baseline":
        more = [*inspect.signature(made).parameters][1:]
        right = accepts(made, "") if not more else accepts(made, "", "") and more == ["embeddings"]
    elif right:
        right = accepts(made, *(("", "") if kind == "recommender" else ("",)))
    if not right:
        found = f"{getattr(made, '__name__', type(made).__name__)}{inspect.signature(made) if callable(made) else ''}"
        raise SettingsError(f"@{kind}({name!r}) takes what is called with {TAKES[kind]}; found {clip(found, 100)}.")


def _file_of(made: Callable[..., Any]) -> str:
    file = getattr(sys.modules.get(made.__module__), "__file__", None)
    return str(Path(file).resolve()) if file else f"<{made.__module__}>"


def _import(part: str, where: str) -> None:
    name = f"llm2rec_own_{Path(where).stem}_{hashlib.sha256(where.encode()).hexdigest()[:8]}" if is_file(part) else part
    if is_file(part) and (why := storage.find_fault(Path(where))):
        raise SettingsError(
            f"own_parts names {show_value(part)}: {clip(where)} {why}. Give a .py file, or a module that Python can import."
        )
    try:
        module = _executed(name, where) if is_file(part) else _imported(name)
    except SettingsError:
        raise
    except (Exception, SystemExit) as error:
        at = where if is_file(part) else getattr(sys.modules.get(name), "__file__", None) or ""
        more = "" if is_file(part) else " A module is found where Python looks: installed, or in a folder of PYTHONPATH."
        raise SettingsError(
            f"own_parts names {show_value(part)}, which cannot be imported{_line(error, at)}: {_said(error)}.{more}"
        ) from error
    if not any(p.module == name or p.module.startswith(f"{name}.") for p in _PARTS.values()):
        raise SettingsError(
            f"own_parts names {show_value(part)}, and nothing in it is registered: put @recommender, @baseline or @source of "
            "llm2rec_kit.settings.own_parts over what is to be used (docs/own_parts.md)."
        )
    if file := getattr(module, "__file__", None):
        _LOADED[name] = storage.hash_file_once(Path(file))


def _executed(name: str, where: str) -> ModuleType:
    """The module of a file, which is run unless it has been, as it is now."""
    if name in sys.modules and _LOADED.get(name) == storage.hash_file_once(Path(where)):
        return sys.modules[name]
    loader = _Fresh(name, where)
    spec = importlib.util.spec_from_file_location(name, where, loader=loader)
    assert spec is not None  # none is only where no loader is known
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and decorators look their module up
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _imported(name: str) -> ModuleType:
    """The module of this name, imported again where its file has changed since `load` last did."""
    module = importlib.import_module(name)
    file = getattr(module, "__file__", None)
    changed = file and _LOADED.get(name, now := storage.hash_file_once(Path(file))) != now
    return importlib.reload(module) if changed else module


def _line(error: BaseException, file: str) -> str:
    """Where in `file` the error came up, as a phrase; empty where it did not."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f" (line {error.lineno})"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return f" (line {lines[-1]})" if lines else ""


def _said(error: BaseException) -> str:
    text = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())
    return clip(f"{type(error).__name__}: {text}" if text else type(error).__name__, 240).rstrip(".")
