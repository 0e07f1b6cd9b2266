#!/usr/bin/env bash
# transformers 5.24.0: `is_causal = False` on the attention modules makes a decoder bidirectional only until one text
#   of the batch is shorter than another.
# Guess: the attribute that each attention layer carries decides whether that layer is causal.
# Fact: on sdpa it is read only where no mask was built, that is without padding: there the last token reaches the first
#   state. As soon as the batch has padding, a causal mask is handed in and wins; under eager it is never read.
# So: set `model.config.is_causal`, and prove it with a leak test (change the last token, look at the first state) on a
#   padded batch too.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.13.0 transformers==5.24.0 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
import torch
from transformers import LlamaConfig, LlamaModel

size = dict(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
seen = {}
for kernel in ("sdpa", "eager"):
    torch.manual_seed(0)
    model = LlamaModel._from_config(LlamaConfig(**size), attn_implementation=kernel).eval()
    for layer in model.layers:
        layer.self_attn.is_causal = False
    for padded in (False, True):
        first = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
        mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1 - padded]])
        other = first.clone()
        other[0, -1] = 13
        with torch.no_grad():
            states = [model(input_ids=ids, attention_mask=mask).last_hidden_state[0, 0] for ids in (first, other)]
        seen[kernel, padded] = (states[0] - states[1]).abs().max().item()
        print(kernel, "with padding" if padded else "no padding  ", "leak to the first state", seen[kernel, padded])
if {case for case, leak in seen.items() if leak > 1e-6} != {("sdpa", False)}:
    sys.exit("changed: the modules' own flag counts in other cases than sdpa without padding")
PY
