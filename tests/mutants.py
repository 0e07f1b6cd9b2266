"""Ten and more mutants of the core formulas: `python tests/mutants.py` says which of them the tests do not notice.

Each is one wrong formula in a copy of the tree, in which the tests of that formula run; a mutant under which they pass has
found what the tests do not look at. It takes some minutes, so the suite (`test_mutants.py`) only checks that each can be made.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).parents[1]
PARTS = ("llm2rec_kit", "tests", "benchmarks", "pyproject.toml")  # what the tests below read
FAILED = 1  # what pytest exits with where tests ran and one of them failed


class Mutant(NamedTuple):
    """What is wrong, in which file of the package, which text (there once) stands there instead, and the tests to notice it."""

    what: str
    file: str
    text: str
    wrong: str
    tests: str

    def source(self, root: Path) -> str:
        """The file's text with the mutation; ValueError where the text is not there exactly once."""
        source = (root / "llm2rec_kit" / self.file).read_text()
        if source.count(self.text) != 1:
            raise ValueError(f"{self.file} has {source.count(self.text)} times, and not once: {self.text}")
        return source.replace(self.text, self.wrong)


CSFT, CONTRAST, METRICS = "training/csft.py", "training/contrastive.py", "results/metrics.py"
MUTANTS = [
    Mutant("CSFT: loss at the answer, not before it", CSFT, "= at_answer - 1", "= at_answer", "training/test_csft.py"),
    Mutant(
        "CSFT: samples of one history see each other",
        CSFT,
        "number = np.arange(len(chosen)) - ends[:-1][of] + 1",
        "number = np.ones_like(of)",
        "training/test_csft.py",
    ),
    Mutant("MNTP: no shift", "training/mntp.py", "from_numpy(places - 1)", "from_numpy(places)", "training/test_mntp.py"),
    Mutant("InfoNCE: temperature", CONTRAST, ".T / temperature", ".T * temperature", "training/test_contrastive.py"),
    Mutant(
        "InfoNCE: one direction twice",
        CONTRAST,
        "(scores.T, 0)) if symmetric",
        "(scores, 0)) if symmetric",
        "training/test_contrastive.py",
    ),
    Mutant(
        "InfoNCE: a title's own pair left out",
        CONTRAST,
        "(numbers[:, None] == numbers) & (labels[:, None] != labels)",
        "(numbers[:, None] == numbers) & (labels[:, None] == labels)",
        "training/test_contrastive.py",
    ),
    Mutant(
        "InfoNCE: either direction by the second views' numbers",
        CONTRAST,
        "same.expand(2, -1)[views]",
        "same.expand(2, -1)[1]",
        "training/test_contrastive.py",
    ),
    Mutant(
        "pooling: mean over padding, too",
        "encoding/tokenisation.py",
        ".sum(1) / weight.sum(1)",
        ".sum(1) / weight.shape[1]",
        "test_encoder.py",
    ),
    Mutant(
        "Recall and NDCG: cut one early", METRICS, "np.where(ranks <= k", "np.where(ranks < k", "downstream/test_metrics.py"
    ),
    Mutant("NDCG: natural logarithm", METRICS, "1 / np.log2(r + 1), ", "1 / np.log(r + 1), ", "downstream/test_metrics.py"),
    Mutant(
        "ties: in favour of the model",
        "downstream/ranking.py",
        "last = _count(scores, own, operator.ge)",
        "last = _count(scores, own, operator.gt) + 1",
        "downstream/test_ranking.py",
    ),
    Mutant(
        "leave-one-out: the validation target is trained on",
        "data/splits.py",
        "positions == lengths - 2] = VALID",
        "positions == lengths - 3] = VALID",
        "data/test_splits.py",
    ),
    Mutant(
        "k-core: one event too many",
        "data/events.py",
        "of_user < user_least",
        "of_user <= user_least",
        "data/test_cleaning.py",
    ),
    Mutant(
        "adapter: no bias",
        "downstream/item_table.py",
        "fast_ops.linear(x, self.weight, self.bias)",
        "fast_ops.linear(x, self.weight)",
        "downstream/test_item_table.py",
    ),
    Mutant(
        "causal mask: not lifted",
        "models/attention_mask.py",
        "fault = _switched(model, lifted=True)",
        "fault = _switched(model, lifted=False)",
        "test_backbone.py",
    ),
]


def copied(folder: Path) -> Path:
    """A copy of what the tests read, in `folder`."""
    for part in PARTS:
        if (PROJECT / part).is_dir():
            shutil.copytree(PROJECT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.tar.xz"))
        else:
            shutil.copy2(PROJECT / part, folder / part)
    return folder


def tested(root: Path, tests: Sequence[str]) -> int:
    """What pytest exits with on these test files over the package in `root`; it stops at the first failure."""
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *(f"tests/{name}" for name in tests)]
    where = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(words, cwd=root, env=where, capture_output=True).returncode


def main() -> int:
    """Try all of them and say a line each; 1 where one is not noticed, or where tests fail without any."""
    with tempfile.TemporaryDirectory() as folder:
        root = copied(Path(folder))
        if tested(root, sorted({mutant.tests for mutant in MUTANTS})):
            print("the tests fail as it is: nothing can be said of mutants")
            return 1
        survived = 0
        for mutant in MUTANTS:
            file = root / "llm2rec_kit" / mutant.file
            right = file.read_text()
            file.write_text(mutant.source(root))
            noticed = tested(root, [mutant.tests]) == FAILED
            file.write_text(right)
            survived += not noticed
            print(
                f"{'noticed' if noticed else 'SURVIVED':9} {mutant.what} ({mutant.file}; tests/{mutant.tests})", flush=True
            )
    print(f"{len(MUTANTS) - survived} of {len(MUTANTS)} noticed")
    return int(survived > 0)


if __name__ == "__main__":
    raise SystemExit(main())
