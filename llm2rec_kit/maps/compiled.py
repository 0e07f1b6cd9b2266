"""umap-learn with its machine code kept between processes.

Numba compiles most of umap-learn and the layout of `aligned` anew in every process, and a map of a few hundred items is
ready in a tenth of a second after seconds of that; NUMBA_CACHE_DIR changes nothing, as umap-learn 0.5.12 marks none of its own
functions with `cache=True` (findings/umap_layout_is_never_kept.sh). Here the code is kept in the cache folder, as numba keeps what its
author marked with `cache=True`, and read by the next process: the same code, so the same coordinates. Numba does not see
that a function which is called from another file has changed, so a folder is named by everything the code is made from.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

MADE_FROM = ("umap-learn", "pynndescent", "numba", "llvmlite", "numpy")


@functools.cache
def import_umap() -> Any:
    """Import umap-learn, and have numba keep what it compiles of it, of pynndescent and of `maps.aligned`.

    Where the cache folder cannot be made or written, a file in it is damaged, or another numba keeps code in another way,
    functions are compiled as ever.
    """
    import umap

    from llm2rec_kit.maps import aligned  # noqa: F401  its functions are kept, too

    with contextlib.suppress(OSError, ValueError, ImportError, AttributeError, KeyError, RuntimeError):
        _keep(_make_folder())
    return umap


def _make_folder() -> Path:
    import numba

    from llm2rec_kit.storage.cache import find_cache

    own = Path(__file__).with_name("aligned.py").read_bytes()
    made_from = [
        platform.python_version(),
        *(f"{name} {version(name)}" for name in MADE_FROM),
        hashlib.sha256(own).hexdigest(),
    ]
    key = hashlib.sha256("\n".join(made_from).encode()).hexdigest()[:16]
    given = vars(numba.config)[
        "CACHE_DIR"
    ]  # whoever tells numba where to keep code has a reason, such as a home that is slow
    folder = (Path(given) if given else find_cache() / "compiled") / key
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} cannot be written")
    return folder


def _keep(folder: Path) -> None:
    import numba
    from numba.core.caching import FunctionCache, NullCache
    from numba.core.dispatcher import Dispatcher

    class Forgiving(FunctionCache):
        def load_overload(self, sig: Any, target_context: Any) -> Any:
            try:
                return super().load_overload(sig, target_context)
            except Exception:  # a file cut by a crash; unpickling it raises nearly anything
                with contextlib.suppress(OSError):
                    self.flush()
                return None

        def save_overload(self, sig: Any, data: Any) -> None:
            with warnings.catch_warnings(), contextlib.suppress(Exception):  # nor does a full disk stop a map
                warnings.filterwarnings("ignore", message="Cannot cache compiled function")  # descent's are handed functions
                super().save_overload(sig, data)

    ours = [
        m
        for name, m in [*sys.modules.items()]
        if name.split(".")[0] in ("umap", "pynndescent") or name == f"{__package__}.aligned"
    ]
    functions: list[Any] = [f for module in ours for f in vars(module).values() if isinstance(f, Dispatcher)]
    config = vars(numba.config)
    before, config["CACHE_DIR"] = config["CACHE_DIR"], str(folder)  # read where a cache is made
    try:
        for function in functions:
            if isinstance(function._cache, NullCache):
                function._cache = Forgiving(function.py_func)
    finally:
        config["CACHE_DIR"] = before
