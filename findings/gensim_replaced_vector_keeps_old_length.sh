#!/usr/bin/env bash
# gensim 4.4.0: once neighbours have been asked for, a vector that is replaced is still divided by the length of the old one.
# Guess: kv["item"] = vector, or add_vectors(..., replace=True), leaves the table as if it had been filled so from the start;
#   most_similar ranks by cosine, which does not depend on lengths and never exceeds 1.
# Fact: the first most_similar (or get_vector with norm=True) keeps all lengths, and replacing a vector keeps them too. The new
#   vector's "cosine" is its dot product over the old length: ten times the length gives ten times the cosine, up to first
#   place in everybody's list. similarity() of the same two items is right, and so are the neighbours where nobody had asked.
# So: fill_norms(force=True) after each replacement, or build a new KeyedVectors for new vectors of the items.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile gensim==4.4.0 numpy==2.4.6 scipy==1.17.1 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
import numpy as np
from gensim.models import KeyedVectors

old = np.random.default_rng(0).normal(size=(20, 8)).astype("float32")
items = [f"i{n}" for n in range(20)]
new = 10 * old[::-1]  # the items' vectors of another model: other directions, ten times as long


def fill(asked):
    """A table that was filled with the old vectors and then with the new ones of every second item."""
    table = KeyedVectors(8)
    table.add_vectors(items, old)
    if asked:
        table.most_similar("i0")
    table[items[1::2]] = new[1::2]
    return table


def look(table):
    """The neighbours of one item, and how far most_similar is from similarity."""
    neighbours = table.most_similar("i0", topn=19)
    return neighbours, max(abs(value - float(table.similarity("i0", item))) for item, value in neighbours)


fresh, stale = fill(asked=False), fill(asked=True)
seen = {"not asked before": look(fresh), "asked before": look(stale)}
unit = float(np.linalg.norm(stale.get_vector("i1", norm=True)))
stale.fill_norms(force=True)
seen["after fill_norms"] = look(stale)
for case, (neighbours, apart) in seen.items():
    print(f"{case}: {[(item, round(value, 2)) for item, value in neighbours[:4]]}, off similarity() by up to {apart:.2f}")
print("length of the unit vector of a replaced item:", round(unit, 2))
right, wrong, mended = seen.values()
if max(right[1], mended[1]) > 1e-5 or [item for item, _ in right[0]] != [item for item, _ in mended[0]]:
    sys.exit("changed: expected cosines in a table that nobody had asked, and after fill_norms(force=True)")
if wrong[0][0][1] <= 1 or wrong[1] < 1 or unit < 2 or wrong[0][0][0] == right[0][0][0]:
    sys.exit("changed: expected another first neighbour, above 1, in a table that had been asked before")
PY
