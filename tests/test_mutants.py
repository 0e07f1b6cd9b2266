"""The mutants of the core formulas can still be made; `python tests/mutants.py` tries them, in minutes."""

from __future__ import annotations

import ast

import mutants
import pytest


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda m: m.what)
def test_its_text_stands_once_and_the_wrong_one_is_python(mutant):
    right = (mutants.PROJECT / "llm2rec_kit" / mutant.file).read_text()
    assert ast.dump(ast.parse(mutant.source(mutants.PROJECT))) != ast.dump(ast.parse(right))
    assert (mutants.PROJECT / "tests" / mutant.tests).is_file()


def test_a_text_that_is_gone_is_told():
    with pytest.raises(ValueError, match="has 0 times"):
        mutants.MUTANTS[0]._replace(text="no such text").source(mutants.PROJECT)
