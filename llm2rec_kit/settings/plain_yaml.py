"""Plain YAML, as profiles, grid files and `--set` are written: values without tags, anchors or surprises.

YAML 1.1 reads 010 as 8, 1:30 as 90, 80_10_10 as a number and 2014-09-01 as a date. Here they stay text, which is taken where
a parameter is text and refused where it is a number. Size and nesting are looked at before anything is built.
"""

from __future__ import annotations

import dataclasses
import re
import stat
from collections.abc import Hashable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from llm2rec_kit import settings as S
from llm2rec_kit import storage
from llm2rec_kit.settings import SettingsError
from llm2rec_kit.settings.ranges import clip, show_value
from llm2rec_kit.settings.stage import LISTS, find_element_kind, make_default

MOST_BYTES, MOST_VALUES, DEEPEST = 2**20, 20_000, 20
NOTHING = ("", "~", "null")  # what is no value, in any case
Kind = tuple[type | None, type | None]  # a parameter's, and of a list that of its elements; None where nothing is known


def load_own(text: str) -> Any:
    """Load a YAML text that the kit wrote or brings along: plain `safe_load`, by libyaml where that is there."""
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def read_text(path: Path, what: str) -> str:
    """Read a small UTF-8 text file; SettingsError, naming `what`, for anything else. What is no file is not even opened."""
    try:
        if (kind := describe_path(path)) not in ("", "a file"):  # a pipe would wait for a writer, a device has no end
            raise SettingsError(f"{what} is {kind}, and a text file is wanted.")
        if (size := path.stat().st_size) > MOST_BYTES:
            raise SettingsError(f"{what} has {size:,} bytes; a text file of a few lines is wanted.")
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{what} is not UTF-8 text (byte {error.start} is none). Save it as UTF-8.") from None
    except OSError as error:
        raise SettingsError(f"{what} cannot be read: {error.strerror}.") from None


def describe_path(path: Path) -> str:
    """Say what is at `path`: "a file", "a folder", "a named pipe", ...; empty where there is nothing, or no way to it."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return ""
    return "a file" if stat.S_ISREG(mode) else storage.describe_kind(mode)


def read_mapping(text: str, what: str) -> dict[str, Any]:
    """Read a mapping from names to values; SettingsError, naming `what`, for anything else or a key given twice."""
    values = read_value(text, what)
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise SettingsError(f"{what} must hold `key: value` lines; found {type(values).__name__}.")
    if strange := [key for key in values if not isinstance(key, str)]:
        raise SettingsError(f"{what}: a key is a name; found {type(strange[0]).__name__}: {show_value(strange[0])}.")
    return values


def read_value(text: str, what: str) -> Any:
    """Read a number, true or false, text, a list or a mapping of those; None where the text is empty."""
    try:
        _look_over(text)
        return yaml.load(text, Loader=_Plain)
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the others: a number of too many digits, an odd escape
        said = clip(" ".join(str(error).split()), 240)
        raise SettingsError(f"{what} is not YAML of plain values: {said}") from None


def convert_numbers(values: dict[str, Any]) -> dict[str, Any]:
    """Replace texts by numbers where a parameter wants a number and plain YAML sees a text: 1e-4, 1_000."""
    return {name: _meant(*_kinds().get(name, (None, None)), one) for name, one in values.items()}


def read_word(name: str, text: str, what: str) -> Any:
    """Read the value of parameter `name` that a person means by `text` on a command line.

    Where the parameter is text, what begins with no quote stands as it is, to the last space (`{title}, {brand}` too, which is
    no YAML, and what YAML would take for a comment); so does a text alone where it is a list of texts, as one value alone is
    a list of one. Else it is what YAML says. Raises SettingsError, with the form, for what is neither a list nor one value.
    """
    kind, of = _kinds().get(name, (None, None))
    bare = text.strip()
    if kind is str and bare[:1] not in ("'", '"', "["):
        return text
    if of is str and bare.lower() not in NOTHING and "," not in bare and not bare.startswith(("'", '"', "[", "{", "- ")):
        return [text]
    read = _meant(kind or float, of, read_value(text, what))
    if of is None or isinstance(read, list):
        return read
    if read is None or isinstance(read, dict) or ("," in text and bare[:1] not in ("'", '"')):
        written = LISTS[of] if read is None or isinstance(read, dict) else f"[{clip(bare, 80)}]"
        raise SettingsError(
            f"{what}: {name} takes a list. Several are written {name.replace('_', '.', 1)}={written} (in quotes, for the shell), one "
            "by itself, none as []; what holds a comma stands in quotes in the brackets."
        )
    return [_number(of, read)]


@cache
def _kinds() -> dict[str, Kind]:
    """{flat name: its kind} of every setting."""
    fields = {f"{stage.prefix}_{f.name}": f for stage in S.STAGES for f in dataclasses.fields(stage)}
    kinds = {name: (f, type(make_default(f))) for name, f in fields.items()}
    return {name: (kind, find_element_kind(f) if kind is list else None) for name, (f, kind) in kinds.items()}


def _meant(kind: type | None, of: type | None, read: Any) -> Any:
    """`_number`, of a list for each of its elements."""
    if kind is list and isinstance(read, list):
        return [_number(of, one) for one in read]
    return _number(kind, read)


def _number(kind: type | None, read: Any) -> Any:
    """The number that `read` is for a parameter of this kind; itself where it is no text that can only be that."""
    if kind is float and isinstance(read, str) and re.fullmatch(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]{1,4}", read):
        return float(read)
    if kind is int and isinstance(read, str) and re.fullmatch(r"[-+]?[1-9][0-9]{0,2}(_[0-9]{3}){1,6}", read):
        return int(read)
    return read


def _look_over(text: str) -> None:
    """Raise YAMLError for what is refused, event by event: nothing is built yet, and the parser does not call itself."""
    if len(text) > MOST_BYTES:
        raise yaml.YAMLError(f"it has {len(text):,} characters, and a few lines are wanted")
    deep = values = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if anchor := getattr(event, "anchor", None):
            raise yaml.YAMLError(f"anchors and aliases are not taken, write the value out; found {show_value(anchor)}")
        if (tag := getattr(event, "tag", None)) not in (None, "!"):
            raise yaml.YAMLError(f"tags are not taken; found {show_value(tag)}")
        values += isinstance(event, yaml.NodeEvent)
        deep += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if deep > DEEPEST or values > MOST_VALUES:
            raise yaml.YAMLError(f"it is nested more than {DEEPEST} times or holds more than {MOST_VALUES:,} values")


class _Plain(yaml.SafeLoader):
    """SafeLoader that tells numbers, true, false and null alone from text, and refuses a key given twice, where YAML would
    take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if isinstance(name, list | dict):
                raise yaml.YAMLError("a key is a name, no list or mapping")
            if name in seen:
                raise yaml.YAMLError(f"{show_value(name)} is given twice")
            seen.add(name)
        return super().construct_mapping(node, deep)


_Plain.yaml_implicit_resolvers = {}
for _tag, _form, _first in (  # as YAML 1.1, without what only a machine would mean
    ("bool", r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", "yYnNtTfFoO"),
    ("int", r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]{1,16}", "-+0123456789"),
    ("float", r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+0123456789."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Plain.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_form})$"), list(_first))
