"""umap-learn's machine code is kept between processes, changes no coordinate, and cannot stop a map."""

from __future__ import annotations

import os
import subprocess
import sys

import numba
import pytest
from conftest import no_room
from numba.core.caching import IndexDataCacheFile

from llm2rec_kit.maps import compiled

MAPS = """
import numpy as np, torch
from llm2rec_kit.maps import aligned, compiled, projection
from llm2rec_kit.settings import Maps
torch.set_num_threads(1)
compiled.import_umap()
from umap import layouts, umap_
rows = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
found = projection.lay_out({"a": rows, "b": rows[::-1].copy()}, Maps(neighbours=5), fitted=np.arange(35))
functions = [umap_.smooth_knn_dist, layouts._nb_optimize_layout_euclidean_single_epoch, aligned._epoch]
print(sum(f.stats.cache_hits.total() for f in functions), *[v.tobytes().hex() for v in [*found.own.values(), *found.aligned.values()]])
"""


def ask(cache) -> tuple[int, list[str]]:
    """How many of three functions a fresh process with this cache folder did not compile, and the maps that it draws."""
    where = os.environ | {"LLM2REC_CACHE": str(cache), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", MAPS], capture_output=True, text=True, env=where)
    assert done.returncode == 0, done.stderr[-2000:]
    read, *values = done.stdout.split()
    return int(read), values


def test_the_next_process_compiles_nothing_that_is_kept_and_draws_the_same(tmp_path):
    """Where a function that calls others is compiled anew beside them, too."""
    read, drawn = ask(tmp_path)
    assert read == 0
    (epoch,) = tmp_path.rglob("*aligned._epoch.*")
    epoch.unlink()
    assert ask(tmp_path) == (2, drawn)


def double(value):
    return value + value


def again(folder, value, **options) -> tuple[int, object]:
    """Whether `double` was read from the folder, as a fresh process has it, and what it gives."""
    function = numba.njit(**options)(double)
    function._cache = compiled.Kept(function, IndexDataCacheFile(str(folder), "", ()))
    found = function(value)
    return function.stats.cache_hits.total(), found


@pytest.mark.parametrize("left", [0.0, 0.5])
def test_a_damaged_file_is_compiled_over_and_a_full_disk_stops_nothing(tmp_path, left):
    assert [again(tmp_path, 2), again(tmp_path, 2)] == [(0, 4), (1, 4)]
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[: int(left * file.stat().st_size)])
    with no_room():
        assert again(tmp_path, 2) == (0, 4)
    assert [*tmp_path.iterdir()] == []
    assert [again(tmp_path, 2), again(tmp_path, 2)] == [(0, 4), (1, 4)]


def test_code_of_another_signature_or_with_other_options_is_not_taken_for_it(tmp_path):
    again(tmp_path, 2)
    (of_ints,) = tmp_path.iterdir()
    assert again(tmp_path, 2.5) == (0, 5.0)
    (of_floats,) = {*tmp_path.iterdir()} - {of_ints}
    of_floats.write_bytes(of_ints.read_bytes())  # however it came under that name
    assert [again(tmp_path, 2.5), again(tmp_path, 2.5)] == [(0, 5.0), (1, 5.0)]
    assert again(tmp_path, 2, fastmath=True) == (0, 4)
    assert len([*tmp_path.iterdir()]) == 3


def test_what_is_handed_a_function_is_not_kept(tmp_path):
    """Its signature holds an address of this process."""
    given = numba.njit(double)
    function = numba.njit(lambda what, value: what(value))
    function._cache = compiled.Kept(function, IndexDataCacheFile(str(tmp_path), "", ()))
    assert function(given, 2) == 4
    assert [*tmp_path.iterdir()] == []


def test_the_folder_is_ones_own_and_of_these_options(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM2REC_CACHE", str(tmp_path))
    folder = compiled._make_folder()
    monkeypatch.setattr(numba.config, "OPT", 1)
    assert compiled._make_folder() != folder
    monkeypatch.undo()
    monkeypatch.setenv("LLM2REC_CACHE", str(tmp_path))
    assert compiled._make_folder() == folder
    folder.chmod(0o770)  # what is read from there is run
    with pytest.raises(PermissionError, match="others may write to it"):
        compiled._make_folder()
    assert compiled.import_umap.__wrapped__().UMAP  # as ever
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLM2REC_CACHE", str(tmp_path / "file"))
    assert compiled.import_umap.__wrapped__().UMAP


def test_no_two_functions_have_one_name():
    """umap-learn makes two of one, the epoch of a layout with a seed and without: one core in order, and all in any."""
    compiled.import_umap()
    kept = [f._cache.made_of for f in compiled.list_functions() if isinstance(f._cache, compiled.Kept)]
    assert len(kept) == len({*kept}) > 200
    epochs = [made for made in kept if "optimize_layout_euclidean_single_epoch" in made and "'parallel', " in made]
    assert len(epochs) == 2
