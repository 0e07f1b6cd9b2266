"""umap-learn with its machine code kept between processes.

Numba compiles most of umap-learn and the layout of `aligned` anew in every process, and a map of a few hundred items is
ready in a tenth of a second after seconds of that; NUMBA_CACHE_DIR changes nothing, as umap-learn 0.5.12 marks hardly any of
its functions with `cache=True` (findings/umap_layout_is_never_kept.sh). Here the code is kept in the kit's cache folder and read
by the next process: the same code, so the same coordinates.

Numba's own cache is not used, for three reasons. It does not see that a function called from another file has changed: here a
folder is named by all that code is made from. It takes two functions made of one, the one parallel and the other not, for the
same (findings/numba_cache_mixes_parallel.sh): here options are part of a file's name. And its index and its files are written one
after the other, so that two processes may cross: here a file holds one function for one signature, and is checked when read.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numba
import umap
from numba.core import sigutils
from numba.core.caching import IndexDataCacheFile, NullCache, _Cache
from numba.core.compiler import CompileResult
from numba.core.dispatcher import Dispatcher

from llm2rec_kit.maps import aligned
from llm2rec_kit.storage.cache import find_cache

PACKAGES = ("umap-learn", "pynndescent", "numba", "llvmlite", "numpy")
# What else numba makes other code by; the processor is in each file's name.
OPTIONS = (
    *("OPT", "BOUNDSCHECK", "LOOP_VECTORIZE", "SLP_VECTORIZE", "ENABLE_AVX", "USING_SVML"),
    *("DEBUGINFO_DEFAULT", "ENABLE_PROFILING", "EXTEND_VARIABLE_LIFETIMES", "LLVM_REFPRUNE_PASS", "LLVM_REFPRUNE_FLAGS"),
)


@functools.cache
def import_umap() -> Any:
    """Import umap-learn, and have numba keep what it compiles of it, of pynndescent and of `maps.aligned`.

    Where the folder cannot be made, is another's or others may write to it, a file in it is damaged, or another numba keeps
    code in another way, functions are compiled as ever.
    """
    with contextlib.suppress(Exception):  # nothing of this may stop a map
        folder = _make_folder()
        files = IndexDataCacheFile(str(folder), "", ())
        for function in list_functions():
            if isinstance(function._cache, NullCache):
                function._cache = Kept(function, files)
    return umap


def list_functions() -> list[Any]:
    """List the functions of umap-learn, pynndescent and `maps.aligned` that numba compiles, each once."""
    modules = [m for name, m in [*sys.modules.items()] if name.split(".")[0] in ("umap", "pynndescent")]
    found = (value for module in [*modules, aligned] for value in vars(module).values() if isinstance(value, Dispatcher))
    return list({id(function): function for function in found}.values())


class Kept(_Cache):
    """The cache of one function, as numba asks for it: a file for each signature, processor and set of options."""

    def __init__(self, function: Any, files: IndexDataCacheFile) -> None:
        code, options = function.py_func, sorted(function.targetoptions.items())
        self.name = f"{code.__module__}.{code.__qualname__}"
        self.made_of = f"{self.name} {code.__code__.co_firstlineno} {options}"
        self.files = files

    @property
    def cache_path(self) -> str:
        """Tell where the files are."""
        return str(self.files._cache_path)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Read the code for a signature; None where none is kept. What cannot be read, or is another's, goes."""
        target_context.refresh()
        args, _ = sigutils.normalize_signature(sig)
        file = self.name_file(args, target_context.codegen())
        if not os.path.exists(self.files._data_path(file)):
            return None
        try:
            found = CompileResult._rebuild(target_context, *self.files._load_data(file))
            if tuple(found.signature.args) == tuple(args):
                return found
        except Exception:  # a file cut by a crash raises nearly anything
            pass
        with contextlib.suppress(OSError):
            os.unlink(self.files._data_path(file))
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the code for a signature, where numba can: not what holds addresses of this process."""
        args, _ = sigutils.normalize_signature(sig)
        of_process = data.library.has_dynamic_globals or data.lifted or " at 0x" in repr(args)  # handed a function
        with contextlib.suppress(Exception):  # a full disk, say; the code itself is there
            if not of_process:
                self.files._save_data(self.name_file(args, data.codegen), data._reduce())

    def name_file(self, args: Any, codegen: Any) -> str:
        """Name the file for a signature and a processor."""
        return f"{self.name}.{_hash(self.made_of, repr(args), repr(codegen.magic_tuple()))}.nbc"

    def enable(self) -> None:
        """Do nothing: it always is."""

    def disable(self) -> None:
        """Do nothing: nobody asks."""

    def flush(self) -> None:
        """Do nothing: what is outdated has another name."""


def _make_folder() -> Path:
    """The folder for code of these versions and options; PermissionError where others may write to it, as code read is run."""
    own = Path(aligned.__file__).read_text(encoding="utf-8")
    options = {name: getattr(numba.config, name, None) for name in OPTIONS}
    key = _hash(platform.python_version(), *(f"{name} {version(name)}" for name in PACKAGES), repr(options), own)
    folder = find_cache() / "compiled" / key
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.stat()
    if hasattr(os, "getuid") and (about.st_uid != os.getuid() or about.st_mode & 0o022):
        raise PermissionError(f"{folder} is another's, or others may write to it")
    return folder


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
