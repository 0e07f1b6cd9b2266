"""What the name of an item table says: whose embeddings it stands on, and of which kind it is. Checked before torch is loaded."""

from __future__ import annotations

KINDS = {"_add_id": "add", "_concat_id": "concat"}


def parse(name: str) -> tuple[str | None, str]:
    """The stage whose embeddings a table stands on (None without text), and its kind.

    >>> [parse(n) for n in ("id", "id_detached", "csft", "csft_add_id", "csft_concat_id")]
    [(None, 'id'), (None, 'id_detached'), ('csft', 'text'), ('csft', 'add'), ('csft', 'concat')]
    """
    if name in ("id", "id_detached"):
        return None, name
    for ending, kind in KINDS.items():
        if name.endswith(ending):
            return name.removesuffix(ending), kind
    return name, "text"
