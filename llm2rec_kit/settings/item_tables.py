"""Names of item tables: which are taken, what an encoder's table is called, and what a name says. Checked before torch is
loaded."""

from __future__ import annotations

from collections.abc import Iterable

from llm2rec_kit.settings.ranges import show_value
from llm2rec_kit.settings.stage import SettingsError

NAMED = ("raw", "csft", "mntp", "contrastive", "minilm", "id", "id_detached", "adapted")  # tables that have a name already
KINDS = {"_add_id": "add", "_concat_id": "concat"}


def name_tables(encoders: Iterable[str], taken: Iterable[str] = (), kind: str = "encoder") -> dict[str, str]:
    """Name the table of each encoder (a hub name or a folder): {encoder: name}. Other models are named alike, of another `kind`.

    The name is the encoder's last part, with `_` for dots, which would begin a file's suffix; with the folder or
    organisation in front where that name is in `taken` or several would have it.

    >>> name_tables(["BAAI/bge-large-en-v1.5", "models/a/last", "models/b/last"])
    {'BAAI/bge-large-en-v1.5': 'bge-large-en-v1_5', 'models/a/last': 'a-last', 'models/b/last': 'b-last'}

    Raises SettingsError where two have one name even so.
    """
    taken, encoders = set(taken), list(dict.fromkeys(encoders))
    short, names = {e: _last_parts(e, 1, kind) for e in encoders}, {}
    for encoder, name in short.items():
        alone = name not in taken and list(short.values()).count(name) == 1
        names[encoder] = name if alone else _last_parts(encoder, 2, kind)
    for encoder, name in names.items():
        others = [show_value(e) for e in encoders if e != encoder and names[e] == name]
        if others or name in taken:
            whose = f"so would {' and '.join(others)}" if others else "there is one of this name already"
            raise SettingsError(
                f"The {kind} {show_value(encoder)} would have the name {show_value(name)}, and {whose}. Give its folder another name."
            )
    return names


def parse_name(name: str) -> tuple[str | None, str]:
    """Split a table's name into the stage whose embeddings it stands on (None without text) and its kind.

    >>> [parse_name(n) for n in ("id", "id_detached", "csft", "csft_add_id", "csft_concat_id")]
    [(None, 'id'), (None, 'id_detached'), ('csft', 'text'), ('csft', 'add'), ('csft', 'concat')]
    """
    if name in ("id", "id_detached"):
        return None, name
    for ending, kind in KINDS.items():
        if name.endswith(ending):
            return name.removesuffix(ending), kind
    return name, "text"


def list_stages(names: Iterable[str]) -> list[str]:
    """List the embeddings that item tables stand on, each once.

    >>> list_stages(["raw", "csft", "csft_add_id", "id"])
    ['raw', 'csft']
    """
    return list(dict.fromkeys(stage for name in names if (stage := parse_name(name)[0])))


def _last_parts(encoder: str, count: int, kind: str) -> str:
    parts = [part for part in encoder.split("/") if part not in ("", ".", "..", "~")]
    if not parts:
        raise SettingsError(f"The {kind} must be a hub name or a folder with a name; found {show_value(encoder)}.")
    return "-".join(parts[-count:]).replace(".", "_")
