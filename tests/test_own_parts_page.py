"""docs/own_parts.md: its code, run as it stands in modules outside the package, through the notebooks 01 and 04."""

from __future__ import annotations

import json

import pytest
from own import blocks, fresh, write

from llm2rec_kit import cli
from llm2rec_kit.results import significance
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import own_parts

pytestmark = pytest.mark.usefixtures("fresh")
__all__ = ["fresh"]


def test_each_part_is_short():
    assert {*blocks()} == {"decay.py", "again.py", "playlists.py"}
    assert all(len(text.splitlines()) < 30 for text in blocks().values())


def test_the_page_from_a_users_own_source_to_a_table_with_her_own_rows(tmp_path, monkeypatch, capsys):
    for name, text in blocks().items():
        write(tmp_path, name, text)
    songs = [f"Song {k} of {k % 7}" for k in range(30)]
    played = {f"listener {u}": [songs[(5 * u + 2 * k + u * k % 3) % 30] for k in range(7)] for u in range(40)}
    (tmp_path / "songs.json").write_text(json.dumps(played))
    monkeypatch.chdir(tmp_path)
    words = ["reproduce", "--profile", "smoke", "--run", "mine", "--outputs", str(tmp_path / "outputs")]
    words += [
        "--data",
        "songs.json",
        "--set",
        "data.source=playlists",
        "--set",
        "own.parts=[decay.py, again.py, playlists.py]",
    ]
    for one in ("recommenders=Decay", "embeddings=id", "baselines=[popularity, again]", "tested=ndcg@10"):
        words += ["--set", f"evaluation.{one}"]
    assert made(words) == (True, ["evaluation: 1 trainings to do, 0 reused"])
    run = Run("mine", tmp_path / "outputs")
    table = significance.tabulate(run)
    rows = table.select("domain", "recommender", "embedding").rows()
    assert sorted(rows) == [("playlists", r, e) for r, e in (("Decay", "id"), ("again", "none"), ("popularity", "none"))]
    assert run.record("corpus")["source"] == "playlists"
    before = {name: run.manifest(name)["finished"] for name in run.names("evaluation")}
    write(tmp_path, "decay.py", blocks()["decay.py"].replace("0.5", "0.25"))
    assert made(words) == (False, ["evaluation: 1 trainings to do, 0 reused"])
    capsys.readouterr()
    kept = "evaluation/playlists/again-none-seed0"
    assert run.manifest(kept)["finished"] == before[kept]
    assert run.manifest("evaluation/playlists/Decay-id-seed2024")["settings"][own_parts.KEY]


def made(words: list[str]) -> tuple[bool, list[str]]:
    """Run the notebooks 01 and 04 as the command does, report aside; whether the corpus was made, and what 04 had to train."""
    import contextlib
    import io

    from llm2rec_kit.reproduction.runner import notebooks

    args = cli._parser().parse_args(words)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        overrides = cli._overrides(args.set)
        notebooks.reproduce(
            args.profile, data=args.data, overrides=overrides, run=args.run, outputs=args.outputs, only=["01", "04"]
        )
    lines = [line.strip() for line in printed.getvalue().splitlines()]
    return "corpus: making" in lines, [line.split(";")[0] for line in lines if "trainings to do" in line]
