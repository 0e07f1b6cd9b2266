#!/usr/bin/env bash
# torch 2.13.0: walking a DataLoader that neither shuffles nor has workers draws from the global random state.
# Guess: without shuffle, sampler or worker there is nothing random, so a look at the validation set leaves training as
#   it was.
# Fact: each `for` over a DataLoader draws one number (a seed for workers that do not exist). All later dropout masks
#   and shuffles differ; with a generator of its own the loader leaves the global state alone.
# So: how often one evaluates changes the model that is trained. Give every evaluation loader
#   `generator=torch.Generator()`.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.13.0 numpy==2.4.6 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
import torch
from torch.utils.data import DataLoader


def next_random(loader=None):
    torch.manual_seed(0)
    for _ in loader or ():
        pass
    return torch.rand(1).item()


seen = {
    "no loader": next_random(),
    "loader without shuffle": next_random(DataLoader([1, 2, 3], shuffle=False, num_workers=0)),
    "with a generator of its own": next_random(DataLoader([1, 2, 3], generator=torch.Generator())),
}
for case, number in seen.items():
    print(case, number)
if seen["no loader"] == seen["loader without shuffle"]:
    sys.exit("changed: walking a loader without shuffle leaves the random state alone")
if seen["no loader"] != seen["with a generator of its own"]:
    sys.exit("changed: a loader with a generator of its own draws from the global state too")
PY
