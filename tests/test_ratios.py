"""benchmarks/ratios.py on made numbers: what moved is told, what is kept stays until asked, a short form that fails is named."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import ratios

KEPT = {"a": {"x": 2.0, "y": 10.0, "gone": 1.0}, "b": {"z": 4.0}}


def found(numbers, machine="here"):
    return {"made": "2026-01-02T03:04:05", "machine": machine, "load": 0.1, "ratios": numbers, "failed": {}}


def test_what_moved_by_more_than_15_percent_is_told_and_nothing_else():
    assert ratios.compared(KEPT, {"a": {"x": 2.29, "y": 8.51, "gone": 1.0}, "b": {"z": 4.0}}) == []
    assert ratios.compared(KEPT, {"a": {"x": 2.31, "y": 8.49, "gone": 1.0}, "b": {"z": 3.0}}) == [
        "a: x: 2.00 to 2.31, +16%",
        "a: y: 10.00 to 8.49, -15%",
        "b: z: 4.00 to 3.00, -25%",
    ]


def test_what_is_new_and_what_is_gone_is_told_but_not_of_scripts_that_did_not_run():
    told = ratios.compared(KEPT, {"a": {"x": 2.0, "y": 10.0, "more": 3.0}, "c": {"w": 1.5}})
    assert told == ["a: gone: was 1.00, is no longer measured", "a: more: 3.00, new", "c: w: 1.50, new"]


def test_ratios_are_kept_the_first_time_and_then_when_asked(tmp_path, capsys):
    folder = tmp_path / "ratios"
    ratios.report(found(KEPT), folder, keep=False)
    assert "no ratios to compare with" in capsys.readouterr().out
    slower = {"a": {"x": 1.0, "y": 10.0, "gone": 1.0}}
    for keep in (False, True, False):
        ratios.report(found(slower, "there"), folder, keep=keep)
        told = capsys.readouterr().out
        assert json.loads((folder / "last.json").read_text())["ratios"] == slower
        assert ("a: x: 2.00 to 1.00, -50%" in told) == ("another machine: here" in told)
    assert "none moved" in told
    assert json.loads((folder / "kept.json").read_text())["ratios"] == {**slower, "b": {"z": 4.0}}


def test_each_script_runs_in_a_process_of_its_own_and_one_that_fails_is_named(tmp_path, capsys):
    scripts = {
        "good_one": "def short():\n    print('said')\n    return {'it': 2.5}\n",
        "bad_one": "def short():\n    raise ValueError('no such thing')\n",
        "other": "def main():\n    pass\n",
    }
    for name, text in scripts.items():
        (tmp_path / f"{name}.py").write_text(text)
    assert ratios.scripts(tmp_path) == ["bad_one", "good_one"]
    made = ratios.measured(["bad_one", "good_one"], tmp_path)
    assert made["ratios"] == {"good_one": {"it": 2.5}}
    assert made["failed"] == {"bad_one": "ValueError: no such thing"}
    told = capsys.readouterr().out
    assert "failed: ValueError: no such thing" in told
    assert "2.50x  it" in told


def test_a_run_with_a_failure_ends_with_one(tmp_path, monkeypatch):
    monkeypatch.setattr(ratios, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "argv", ["ratios.py"])
    for failed, status in (({}, 0), ({"a": "why"}, 1)):
        monkeypatch.setattr(ratios, "measured", lambda names, failed=failed: found({"a": {"x": 1.0}}) | {"failed": failed})
        with pytest.raises(SystemExit) as ended:
            ratios.main()
        assert ended.value.code == status


def test_every_script_has_a_short_form_or_a_reason():
    there = {file.stem for file in Path(ratios.__file__).parent.glob("*.py")}
    assert there == {*ratios.scripts(), *ratios.WITHOUT}
    assert not {*ratios.scripts()} & {*ratios.WITHOUT}
