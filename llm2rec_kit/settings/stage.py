"""A stage's settings: one field a choice, made from flat names, and checked before anything is computed.

A field says in `setting(...)` what it may be: its type by its default, `choices`, a range, a form of text, how few a list
may hold. All of that holds for every value by itself and is checked wherever settings are made. What two fields may not be
together is a stage's `conflicts`, checked by `from_parameters` for what it is given and by `check` for all of them.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from llm2rec_kit.settings import ranges
from llm2rec_kit.settings.ranges import show_value

LISTS = {str: "[a, b]", int: "[1, 2]", float: "[1.0, 2.5]", bool: "[true, false]"}  # how one of each is written
COMMON = {"profile": str, "run": str, "outputs": str, "force": bool}  # the parameters that every notebook has
Conflicts = Iterator[tuple[tuple[str, ...], str]]  # of a stage: the fields that do not go together, and why
Form = tuple[str, str]  # a pattern that the whole text matches, and what is said where it does not, with {name} and {found}


class SettingsError(ValueError):
    """A setting that does not exist or cannot have the value it was given."""


def setting(
    default: Any,
    help: str,
    choices: tuple[str, ...] = (),
    of: type | None = None,
    *,
    within: str = "",
    form: Form | None = None,
    least: int = 0,
    repeats: bool = False,
    also: Callable[[], list[str]] | None = None,
    later: bool = False,
) -> Any:
    """Make a dataclass field with a `help` text (meaning, unit, source) and, where it is one of a few, its `choices`.

    `within` is the range of a number (`ranges`), `form` that of a text; of a list, both are its elements'. A list holds
    `least` elements at least, and none twice unless it `repeats`. `of` is the type of its elements, where an empty default
    cannot show it. `also` gives further choices, the names of one's own parts; with `later` the stage's `conflicts` ask for
    the choices, since what a run has noted may name a part that is not here.
    """
    known: dict[str, Any] = {"help": help, "choices": choices, "of": of, "also": also, "later": later}
    known |= {"within": within, "form": form, "least": least, "repeats": repeats}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=known)
    return field(default=default, metadata=known)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What the settings of all stages share: making them from flat names, and checking them."""

    prefix: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            name = f"{self.prefix}_{f.name}"
            value = _as_kind_of(make_default(f), getattr(self, f.name), name, f.metadata["of"])
            object.__setattr__(self, f.name, value)
            for one in value if isinstance(value, list) else [value]:
                _check_one(f.metadata, one, name)
            if isinstance(value, list):
                _check_list(f.metadata, value, name)

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Self:
        """Make settings from the names in `parameters` that start with this stage's prefix, as in a notebook's `globals()`.

        Raises SettingsError for a name with the prefix that is no setting: papermill itself only warns of those. Those of
        COMMON that are there are checked, too. What is given must go together; `check` asks that of the defaults as well.
        """
        check_common(parameters)
        start = cls.prefix + "_"
        given = {name.removeprefix(start): value for name, value in parameters.items() if name.startswith(start)}
        known = [f.name for f in dataclasses.fields(cls)]
        for name in given:
            if name not in known:
                raise SettingsError(describe_unknown(start + name, [start + k for k in known]))
        return cls(**given).check(given)

    @classmethod
    def among(cls, settings: Mapping[str, Stage]) -> Self:
        """Pick this stage's settings out of those of several, each under its prefix."""
        found = settings[cls.prefix]
        assert isinstance(found, cls)
        return found

    def check(self, given: Collection[str] | None = None) -> Self:
        """Return these settings; SettingsError where some (of the fields in `given` alone, if any) do not go together."""
        for fields, why in self.conflicts():
            if given is None or set(fields) <= set(given):
                raise SettingsError(why)
        return self

    def conflicts(self) -> Conflicts:
        """Find settings that do not go together: (the fields, a sentence that names them with their values)."""
        yield from ()

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, in the order of the fields."""
        return dataclasses.asdict(self)


def make_default(f: dataclasses.Field[Any]) -> Any:
    """Make the default of a setting: a list anew each time."""
    return f.default if f.default_factory is dataclasses.MISSING else f.default_factory()


def find_element_kind(f: dataclasses.Field[Any]) -> type:
    """Find the type of the elements of a list setting."""
    return _element_kind(make_default(f), f.metadata["of"])


def check_common(parameters: Mapping[str, Any]) -> None:
    """Raise SettingsError where a parameter that all notebooks have is of another type."""
    for name, kind in COMMON.items():
        if name in parameters:
            check_kind(name, kind, parameters[name])


def check_kind(name: str, kind: type, value: Any) -> None:
    """Raise SettingsError where `value` is of another type, or text that no file can hold."""
    if type(value) is not kind:
        raise SettingsError(_other_kind(name, kind, value))
    if isinstance(value, str):
        _check_text(name, value)


def describe_unknown(name: str, known: list[str], kind: str = "parameter") -> str:
    """Say that `name` is not one of `known`, and which of them is nearest, in a sentence."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(known)}."
    return f"Unknown {kind} {show_value(name)}.{hint}"


def _check_one(known: Mapping[str, Any], value: Any, name: str) -> None:
    """Raise SettingsError for a value, or an element of a list, that is none of the choices, out of range or of no form."""
    if known["choices"] and not known["later"]:
        check_choice(known, value, name)
    if isinstance(value, str):
        _check_text(name, value)
    if isinstance(value, int) and abs(value) > ranges.LARGEST:
        raise SettingsError(f"{name} takes a number that fits 64 bits; found {show_value(value)}.")
    if (within := known["within"]) and not ranges.is_inside(within, value):
        raise SettingsError(f"{name} must be {ranges.describe_range(within)}; found {show_value(value)}.")
    if (form := known["form"]) and not re.fullmatch(form[0], value, re.DOTALL):
        raise SettingsError(form[1].format(name=name, found=show_value(value)))


def check_choice(known: Mapping[str, Any], value: Any, name: str) -> None:
    """Raise SettingsError for a value that is none of the choices of a setting, `known` being its metadata."""
    own = known["also"]() if known["also"] else []
    if value not in known["choices"] and value not in own:
        more = f", or of your own, {own or 'once own_parts names their module or file'}" if known["also"] else ""
        raise SettingsError(f"{name} must be one of {list(known['choices'])}{more}; found {show_value(value)}.")


def _check_text(name: str, value: str) -> None:
    if re.search(r"[\x00\ud800-\udfff]", value):
        raise SettingsError(f"{name} holds a character that is none of a text; found {show_value(value)}.")


def _check_list(known: Mapping[str, Any], value: list[Any], name: str) -> None:
    if len(value) < known["least"]:
        raise SettingsError(f"{name} takes a list of {known['least']} at least; found {show_value(value)}.")
    if not known["repeats"] and len(set(value)) < len(value):
        raise SettingsError(
            f"{name} holds {show_value(Counter(value).most_common(1)[0][0])} twice; found {show_value(value)}."
        )


def _as_kind_of(default: Any, value: Any, name: str, of: type | None) -> Any:
    """`value` as the type of the default; an int passes for a float, nothing else is converted."""
    kind = type(default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) <= ranges.LARGEST:
        return float(value)
    if kind is list and isinstance(value, list | tuple):
        return _list_like(default, value, name, of)
    if kind is float and type(value) is float and not math.isfinite(value):
        raise SettingsError(f"{name} takes a finite number (default {default!r}); found {value!r}.")
    if type(value) is not kind:
        raise SettingsError(_other_kind(name, kind, value, f" (default {show_value(default)})"))
    return value


def _list_like(default: list[Any], value: list[Any] | tuple[Any, ...], name: str, of: type | None) -> list[Any]:
    """A copy of `value`, its elements of type `of`, or of the default's (text where the default is empty)."""
    kind = _element_kind(default, of)
    if kind is float:
        return [_as_kind_of(default[0] if default else 0.0, one, name, None) for one in value]
    for one in value:
        if type(one) is not kind:
            raise SettingsError(
                f"{name} takes a list of {kind.__name__} (default {show_value(default)}); found {show_value(one)} in "
                f"{show_value(value)}.{_advice(name, kind, one) or f' A list is written {LISTS[kind]}.'}"
            )
    return list(value)


def _element_kind(default: list[Any], of: type | None) -> type:
    return of or (type(default[0]) if default else str)


def _other_kind(name: str, kind: type, value: Any, default: str = "") -> str:
    found = f"found {type(value).__name__}: {show_value(value)}"
    return f"{name} takes {kind.__name__}{default}; {found}.{_advice(name, kind, value)}"


def _advice(name: str, kind: type, value: Any) -> str:
    """How to write what was probably meant; empty where nothing is known."""
    if kind is str and isinstance(value, bool):
        return " YAML reads yes, no, on and off as true and false: put text in quotes."
    if kind is str and isinstance(value, int | float):
        return (
            f" Text that looks like a number is put in quotes; papermill takes it as `-r {name} VALUE` (-p makes a number)."
        )
    if kind is str and isinstance(value, list | dict):
        return " Text with brackets or braces is put in quotes."
    if kind is list and isinstance(value, str):
        return f" A list is written [a, b], also of one; papermill takes it as `-y '{{{name}: [a, b]}}'` (-p makes text)."
    if kind is float and isinstance(value, str) and re.fullmatch(r"[-+]?\d+[eE][-+]?\d+", value):
        return " Plain YAML takes 1e-4 for text: write 0.0001 or 1.0e-4."
    if kind is int and isinstance(value, str) and re.fullmatch(r"[-+]?[\d_:]+", value):
        return " A whole number is written in digits alone, without quotes, and does not begin with 0."
    return ""
