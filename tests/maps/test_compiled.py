"""umap-learn's machine code is kept between processes, changes no coordinate, and cannot stop a map."""

from __future__ import annotations

import os
import subprocess
import sys

BEGIN = """
import sys
import numpy as np, torch
from conftest import no_room
from llm2rec_kit.maps import compiled, projection
from llm2rec_kit.settings import Maps
torch.set_num_threads(1)
compiled.import_umap()
from umap import layouts, umap_
from llm2rec_kit.maps import aligned
"""
MAPS = """
rows = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
found = projection.lay_out({"a": rows, "b": rows[::-1].copy()}, Maps(neighbours=5), fitted=np.arange(35))
functions = [umap_.smooth_knn_dist, layouts._nb_optimize_layout_euclidean_single_epoch, aligned._epoch]
print(sum(f.stats.cache_hits.total() for f in functions), *[v.tobytes().hex() for v in [*found.own.values(), *found.aligned.values()]])
"""
ORDER = """
order = aligned._shuffled(9, 1)
print(aligned._shuffled.stats.cache_hits.total(), *order)
"""


def ask(cache, lines: str) -> tuple[int, list[str]]:
    """What a fresh process draws or shuffles with this cache folder, and how many of the functions it did not compile."""
    where = os.environ | {"LLM2REC_CACHE": str(cache), "PYTHONPATH": os.pathsep.join(sys.path)}
    where.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", BEGIN + lines], capture_output=True, text=True, env=where)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "NumbaWarning" not in done.stderr
    read, *values = done.stdout.split()
    return int(read), values


def test_the_next_process_compiles_none_of_it_and_draws_the_same(tmp_path):
    read, drawn = ask(tmp_path, MAPS)
    assert read == 0
    assert ask(tmp_path, MAPS) == (3, drawn)


def test_a_damaged_cache_is_compiled_over_and_a_full_disk_stops_no_map(tmp_path):
    _, order = ask(tmp_path, ORDER)
    kept = [*tmp_path.rglob("*.nbi"), *tmp_path.rglob("*.nbc")]
    assert len(kept) >= 2
    for file in kept:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert ask(tmp_path, ORDER.replace("order =", "with no_room(): order =")) == (0, order)
    assert ask(tmp_path, ORDER) == (0, order)
    assert ask(tmp_path, ORDER) == (1, order)


def test_without_a_folder_to_write_to_it_is_compiled_as_ever(tmp_path):
    (tmp_path / "file").write_text("")
    assert ask(tmp_path / "file", ORDER)[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]
