"""Modules outside the package, for tests of own parts: written into a folder, loaded, and forgotten afterwards."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llm2rec_kit.settings import own_parts

PAGE = Path(__file__).parents[1] / "docs" / "own_parts.md"
HEAD = "import torch\nfrom torch import nn\nfrom llm2rec_kit.settings.own_parts import baseline, recommender, source\n"
CAUSAL = """
@recommender("Causal")
class Causal(nn.Module):
    def __init__(self, settings, max_history):
        super().__init__()
        self.gru = nn.GRU(settings.hidden, settings.hidden, batch_first=True)

    def forward(self, vectors, mask):
        return self.gru(vectors)[0]
"""


def blocks() -> dict[str, str]:
    """{file name: text} of the code on the page, as its first line names it."""
    found = re.findall(r"```python\n(# (\w+\.py)\n.*?)```", PAGE.read_text(), re.DOTALL)
    return {name: text for text, name in found}


def write(folder: Path, name: str, text: str) -> str:
    """A module of this text, what most need on top; its path."""
    path = folder / name
    path.write_text(text if text.startswith("# ") else HEAD + text)
    return str(path)


@pytest.fixture
def fresh(monkeypatch):
    """Nobody's parts are loaded, and those that the test loads are forgotten."""
    monkeypatch.setattr(own_parts, "_PARTS", {})
    monkeypatch.setattr(own_parts, "_LOADED", {})


def forget() -> None:
    """As in another process."""
    own_parts._PARTS.clear()
    own_parts._LOADED.clear()
