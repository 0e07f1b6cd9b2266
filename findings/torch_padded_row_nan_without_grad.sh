#!/usr/bin/env bash
# torch 2.13.0, CPU: whether a row that is padding throughout becomes NaN depends on the mode AND on autograd.
# Guess: such a row of nn.TransformerEncoderLayer is NaN (a softmax over nothing) either always or never.
# Fact: in eval mode under no_grad it is NaN, in eval mode with gradients on and in training mode it is finite. With
#   nn.MultiheadAttention in training, need_weights=True gives NaN and need_weights=False finite numbers.
# So: a user without history passes every training step and every check that forgets no_grad, and first breaks the
#   evaluation. Test that row under no_grad, or give it a position that may be seen.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.13.0 numpy==2.4.6 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
import torch

torch.manual_seed(0)
layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
x, padded = torch.randn(2, 3, 8), torch.tensor([[True, True, True], [False, False, True]])
seen = {}
for training in (True, False):
    for gradients in (True, False):
        layer.train(training)
        with torch.set_grad_enabled(gradients):
            row = layer(x, src_key_padding_mask=padded)[0]
        seen["layer", "train" if training else "eval", "grad" if gradients else "no_grad"] = bool(row.isnan().any())
for weights in (True, False):
    row = attention(x, x, x, key_padding_mask=padded, need_weights=weights)[0][0]
    seen["attention", "train", f"need_weights={weights}"] = bool(row.isnan().any())
for case, nan in seen.items():
    print(*case, "NaN" if nan else "finite")
expected = {("layer", "eval", "no_grad"), ("attention", "train", "need_weights=True")}
if {case for case, nan in seen.items() if nan} != expected:
    sys.exit(f"changed: NaN was expected for exactly {sorted(expected)}")
PY
