#!/usr/bin/env bash
# transformers 5.24.0: in `no_rope_layers` of SmolLM3 a 1 marks a layer with rotary positions, a 0 one without.
# Guess: a list called no_rope_layers marks the layers without them, so all ones make a model that knows no positions but by
#   its mask, and all zeros one with rotary positions in every layer.
# Fact: it is the other way round: with all ones, moving two texts apart (the same tokens, other distances) changes the
#   states, with all zeros it does not. A model made without the list leaves out every fourth layer, which then reads
#   [1, 1, 1, 0].
# So: whoever swaps, fuses or probes layers asks each layer (`self_attn.use_rope`), never one for all, and reads a 0 as NoPE.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.13.0 transformers==5.24.0 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
import torch
from transformers import SmolLM3Config, SmolLM3Model

size = dict(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4)
size.update(num_key_value_heads=4, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2)
ids, near = torch.arange(5, 13)[None], torch.arange(8)[None]
far = near * 3  # the same order, other distances: only rotary positions see them
seen = {}
for told in ([1, 1, 1, 1], [0, 0, 0, 0], None):
    torch.manual_seed(0)
    config = SmolLM3Config(**size, no_rope_layers=told, initializer_range=0.2)
    model = SmolLM3Model(config).eval()
    with torch.no_grad():
        whole = dict(input_ids=ids, attention_mask=torch.ones_like(ids))
        states = [model(**whole, position_ids=at).last_hidden_state for at in (near, far)]
    moved = (states[0] - states[1]).abs().max().item()
    seen[str(told)] = moved > 1e-3
    print("no_rope_layers", told, "read as", config.no_rope_layers, "- states moved by", round(moved, 4))
    if told is None and list(config.no_rope_layers) != [1, 1, 1, 0]:
        sys.exit("changed: expected 1, 1, 1, 0 where no list is given")
if seen != {"[1, 1, 1, 1]": True, "[0, 0, 0, 0]": False, "None": True}:
    sys.exit("changed: expected positions to count with ones and not with zeros")
PY
