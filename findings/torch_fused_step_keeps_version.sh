#!/usr/bin/env bash
# torch 2.13.0, CPU: the fused optimizers change parameters without raising their `_version`.
# Guess: an optimizer step marks what it has changed, whichever implementation runs; a backward through a graph from
#   before the step is refused ("modified by an inplace operation").
# Fact: foreach and plain AdamW raise the counter and the backward is refused. With fused=True the counter stays at 0
#   and the backward runs without a word, with the new weights: a gradient of a function that was never evaluated.
# So: after a switch to fused=True, a missing error proves no longer that a graph is fresh, and a cache keyed on
#   `_version` serves old values.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.13.0 numpy==2.4.6 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
import torch

seen = {}
for kind in ("plain", "foreach", "fused"):
    torch.manual_seed(0)
    weight, x = torch.nn.Parameter(torch.randn(4, 3)), torch.randn(2, 4, requires_grad=True)
    optimizer = torch.optim.AdamW([weight], lr=0.1, foreach=kind == "foreach", fused=kind == "fused")
    total = (x @ weight).sum()
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    try:
        total.backward()
        late = torch.allclose(x.grad[0], weight.sum(1))  # the gradient at the time of the forward used the old weights
        seen[kind] = (weight._version, f"no error, gradient of the {'new' if late else 'old'} weights")
    except RuntimeError as error:
        seen[kind] = (weight._version, "refused" if "inplace" in str(error) else str(error))
    print(kind, "version", *seen[kind])
expected = {"plain": (2, "refused"), "foreach": (2, "refused"), "fused": (0, "no error, gradient of the new weights")}
if seen != expected:
    sys.exit(f"changed: expected {expected}")
PY
