#!/usr/bin/env bash
# torch 2.13.0, CPU: inside one `torch.autocast` block, optimizer steps have no effect on later forward passes.
# Guess: putting the whole training loop into the block is at worst slow; each forward uses the weights as they are.
# Fact: the block keeps its bfloat16 copies of the weights until it is left. The weights move, the loss repeats to the
#   last digit at every step, nothing is said. With the block around each forward the same loop learns.
# So: open the block once per forward pass, never around `step()`; a loss that repeats exactly is the sign.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.13.0 numpy==2.4.6 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import contextlib
import sys
import torch


def autocast(wanted):
    return torch.autocast("cpu", dtype=torch.bfloat16) if wanted else contextlib.nullcontext()


def train(around_the_loop):
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(4, 1), torch.randn(8, 4)
    optimizer, losses, first = torch.optim.SGD(layer.parameters(), lr=0.1), [], layer.weight.detach().clone()
    with autocast(around_the_loop):
        for _ in range(4):
            with autocast(not around_the_loop):
                loss = layer(x).float().square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses, (layer.weight - first).abs().max().item()


outside, moved = train(around_the_loop=True)
inside, _ = train(around_the_loop=False)
print("around the loop  ", outside, "largest change of a weight", moved)
print("around a forward ", inside)
if len(set(outside)) > 1 or moved == 0:
    sys.exit("changed: a forward inside the same autocast block sees the stepped weights")
if not inside[-1] < inside[0] / 2:
    sys.exit("changed: the loop with a block per forward no longer learns")
PY
