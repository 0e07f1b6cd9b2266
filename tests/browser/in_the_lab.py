"""A browser, a JupyterLab and toy notebooks for the tests of this folder.

Needs the system's Chromium (README: one apt-get line). Without it the folder is skipped and says so, unless
LLM2REC_BROWSER=required, as CI sets it: then its absence is a failure.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import nbformat
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from llm2rec_kit.reproduction.runner import notebooks
from llm2rec_kit.runs import Run

if TYPE_CHECKING:
    from conftest import Finished
    from playwright.sync_api import Browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
# Of the finished run that is opened, what 02 to 05 make anew in the page; all else is reused.
MADE = {"02": "csft", "03": "contrastive", "04": "evaluation/games/SASRec-csft-seed2024", "05": "maps"}
# Every cell is in the page, whether scrolled to or not, and nothing asks or announces.
LAB_SETTINGS = {
    "notebook-extension/tracker": '{"windowingMode": "none", "recordTiming": false}',
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
    "docmanager-extension/plugin": '{"autosave": false}',
}


class Lab(NamedTuple):
    """A running JupyterLab: its address with token, the folder that it serves, and the runs' folder."""

    url: str
    token: str
    folder: Path
    outputs: Path


def chromium() -> Iterator[Browser]:
    """Playwright's browser over the system's Chromium, with a profile of its own."""
    if CHROMIUM is None:
        why = "no Chromium on this machine (README: apt-get install chromium)"
        if os.environ.get("LLM2REC_BROWSER") == "required":
            pytest.fail(f"LLM2REC_BROWSER=required, but {why}")
        pytest.skip(f"browser tests skipped: {why}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


def screenshots(otherwise: Path) -> Path:
    """Where pictures go: LLM2REC_SCREENSHOTS, or the folder given."""
    folder = Path(os.environ.get("LLM2REC_SCREENSHOTS") or otherwise)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def lab(base: Path, finished: Finished) -> Iterator[Lab]:
    """JupyterLab on a free port of the loopback, over copies of the notebooks with the parameters of a copy of the finished run."""
    folder, outputs = base / "notebooks", base / "outputs"
    folder.mkdir()
    shutil.copytree(finished.run.path, outputs / finished.run.name)
    run = Run(finished.run.name, outputs)
    for name in MADE.values():
        run.forget(name)
    asked = {**run.read_info()["asked"]["parameters"], "run": run.name, "outputs": str(outputs)}
    for book in notebooks.list_series():
        own = {k: v for k, v in asked.items() if k in notebooks.read_parameters(book)}
        nbformat.write(parameterize_notebook(load_notebook_node(str(book)), own), folder / book.name)
    for name, text in LAB_SETTINGS.items():
        path = base / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    token = secrets.token_hex(16)
    log = (base / "lab.log").open("w+")
    words = ["--no-browser", "--ip=127.0.0.1", "--port=0", f"--IdentityProvider.token={token}", f"--notebook-dir={folder}"]
    root = [] if os.name == "nt" or os.geteuid() else ["--allow-root"]
    places = {"JUPYTERLAB_SETTINGS_DIR": base / "settings", "JUPYTERLAB_WORKSPACES_DIR": base / "workspaces"}
    homes = {"JUPYTER_CONFIG_DIR": base / "config", "JUPYTER_RUNTIME_DIR": base / "runtime", "IPYTHONDIR": base / "ipython"}
    environment = os.environ | {k: str(v) for k, v in (places | homes).items()}
    server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *words, *root], stdout=log, stderr=log, env=environment)
    try:
        yield Lab(_address(server, base / "runtime", base / "lab.log"), token, folder, outputs)
    finally:
        server.terminate()
        server.wait(20)
        log.close()


def _address(server: subprocess.Popen, runtime: Path, log: Path) -> str:
    """The server's own address, once it has written it down (it does when it listens)."""
    until = time.monotonic() + 60
    while time.monotonic() < until and server.poll() is None:
        for file in runtime.glob("jpserver-*.json"):
            with_text = file.read_text()
            if with_text.strip().endswith("}"):
                return json.loads(with_text)["url"]
        time.sleep(0.05)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")
