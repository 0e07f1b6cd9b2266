"""Pushing to a hub on the loopback address: what arrives, who may see it, what is left alone, and that the token is never shown."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from finished_recommenders import make_run
from small_hub import TOKEN, serving

from llm2rec_kit import cli
from llm2rec_kit.export import formats, push

WORDS = ["--stage", "mntp"]


@pytest.fixture(scope="module")
def run(_tiny, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("outputs"), _tiny, embeddings=("mntp",))


@pytest.fixture
def hub(monkeypatch):
    with serving() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def refused(run, capsys, *words) -> str:
    """The one paragraph with which the command ends."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["push", str(run.path), *words])
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert len(said.err.strip().splitlines()) == 1
    assert TOKEN not in said.err + said.out
    return said.err


def test_an_encoder_arrives_as_it_was_exported_in_a_private_repository(run, hub, tmp_path, capsys):
    assert cli.main(["push", str(run.path), "me/toy", *WORDS]) == 0
    said = capsys.readouterr()
    assert f"{hub.url}/me/toy: private" in said.out
    assert TOKEN not in said.out + said.err
    assert hub.private == {"me/toy": True}
    exported = formats.export(run, "sentence-transformers", tmp_path / "toy", "mntp")
    files = {p.relative_to(exported).as_posix(): p.read_bytes() for p in exported.rglob("*") if p.is_file()}
    arrived = {name: data for name, data in hub.files["me/toy"].items() if name != ".gitattributes"}
    assert arrived == files
    assert "# Item encoder of run toy" in arrived["README.md"].decode()
    assert hub.commits == ["sentence-transformers of run toy, mntp, by llm2rec_kit"]
    assert not any(TOKEN.encode() in data for data in arrived.values())


def test_a_recommender_is_public_where_that_is_asked(run, hub):
    found = push.push(run, "me/rec", "recommender", "mntp", recommender="SASRec", public=True)
    assert found == (f"{hub.url}/me/rec", False)
    assert hub.private == {"me/rec": False}
    assert {"README.md", "recommender.safetensors", "items.csv"} <= set(hub.files["me/rec"])


def test_a_repository_that_holds_something_is_left_alone_unless_it_is_to_be_replaced(run, hub, capsys):
    hub.files["me/old"] = {".gitattributes": b"", "model.bin": b"1", "README.md": b"mine"}
    hub.private["me/old"] = True
    said = refused(run, capsys, "me/old", *WORDS)
    assert "me/old holds 2 files already, such as model.bin, and is left as it is" in said
    assert hub.files["me/old"]["README.md"] == b"mine"
    assert cli.main(["push", str(run.path), "me/old", "--replace", *WORDS]) == 0
    assert "model.bin" not in hub.files["me/old"]
    assert b"Item encoder" in hub.files["me/old"]["README.md"]
    hub.files["me/empty"], hub.private["me/empty"] = {".gitattributes": b""}, True
    assert cli.main(["push", str(run.path), "me/empty", *WORDS]) == 0


def test_one_that_everybody_can_see_is_refused_unless_that_is_meant(run, hub, capsys):
    hub.files["me/seen"], hub.private["me/seen"] = {".gitattributes": b""}, False
    assert "me/seen is there, and everybody can see it. Say --public" in refused(run, capsys, "me/seen", *WORDS)
    assert cli.main(["push", str(run.path), "me/seen", "--public", *WORDS]) == 0
    assert hub.private["me/seen"] is False
    assert f"{hub.url}/me/seen: everybody can see it" in capsys.readouterr().out


def test_one_that_is_private_stays_so_and_is_said_to_be(run, hub, capsys):
    hub.files["me/mine"], hub.private["me/mine"] = {".gitattributes": b""}, True
    assert cli.main(["push", str(run.path), "me/mine", "--public", *WORDS]) == 0
    said = capsys.readouterr().out
    assert hub.private["me/mine"] is True
    assert f"{hub.url}/me/mine: private, as it was" in said
    assert "everybody" not in said


def test_the_hub_s_refusals_are_one_paragraph(run, hub, capsys, monkeypatch):
    hub.writes = False
    assert "(403, read only): the token may not write there" in refused(run, capsys, "me/new", *WORDS)
    hub.writes = True
    monkeypatch.setenv("HF_TOKEN", other := "hf_" + "x" * 20)
    said = refused(run, capsys, "me/new", *WORDS)
    assert "it does not know the token" in said
    assert other not in said
    assert not hub.files


def test_what_cannot_be_pushed_is_refused_before_the_hub_is_asked(run, hub, capsys, monkeypatch):
    for words, says in (
        (["toy", *WORDS], "called owner/name, such as me/toy"),
        (["me/t?y", *WORDS], "me/t?y"),
        (["me/toy", *WORDS, "--recommender", "SASRec"], "The format sentence-transformers has no recommender or domain"),
        (["me/toy", *WORDS, "--domain", "toy"], "The format sentence-transformers has no recommender or domain"),
        (["me/toy", "--format", "npy"], "has a model card: the format sentence-transformers or recommender; found 'npy'"),
    ):
        assert says in refused(run, capsys, *words)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in refused(run, capsys, "me/toy", *WORDS)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "There is no token for the hub" in refused(run, capsys, "me/toy", *WORDS)
    assert not hub.asked


def test_nothing_is_made_on_the_hub_for_an_embedding_that_the_run_has_not(run, hub, capsys):
    assert "has no embedding 'contrastive'" in refused(run, capsys, "me/toy")
    assert not hub.files


def test_a_hub_that_does_not_answer_is_named(run, capsys, monkeypatch):
    with serving() as hub:
        gone = hub.url
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", gone)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "The hub could not be reached" in refused(run, capsys, "me/toy", *WORDS)


def test_the_command_goes_by_the_documented_endpoint(run, tmp_path):
    """In a process of its own, as huggingface_hub reads HF_ENDPOINT; what the loopback hub has loads again."""
    with serving() as hub:
        here = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
        env = here | {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path)}
        words = [sys.executable, "-m", "llm2rec_kit.cli", "push", str(run.path), "me/toy", *WORDS]
        done = subprocess.run(words, capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        folder = tmp_path / "back"
        for name, data in hub.files["me/toy"].items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    from llm2rec_kit.encoding.encoder import Encoder

    table = np.load(run.path_of("embeddings/mntp.npy"))
    from conftest import make_corpus

    np.testing.assert_allclose(Encoder.load(folder).encode(make_corpus().titles[:3]), table[1:4], atol=1e-5)
