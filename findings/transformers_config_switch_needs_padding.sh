#!/usr/bin/env bash
# transformers 5.24.0: `config.is_causal = False` frees Nemotron and StableLM only when the batch has padding.
# Guess: the switch lifts the causal mask of any decoder, as it does for Llama; at least it does or does not, whatever
#   stands beside a text in its batch.
# Fact: under sdpa these two families stay causal while no token is padding and are bidirectional otherwise, so one text
#   alone and the same text padded get different states (by 3.0 and 1.2 here; Llama 0). Under eager they agree.
# So: compare a text alone with the same text in a padded batch before trusting an embedding; load these two with
#   attn_implementation="eager".
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.13.0 transformers==5.24.0 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
import torch
from transformers import AutoConfig, AutoModel

size = dict(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
size.update(num_key_value_heads=4, max_position_embeddings=64, pad_token_id=0)
ids = torch.tensor([[5, 6, 7, 8, 0, 0], [9, 10, 11, 12, 13, 14]])
seen = {}
for family in ("llama", "nemotron", "stablelm"):
    for kernel in ("sdpa", "eager"):
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, **size)
        config.is_causal = False
        model = AutoModel.from_config(config, attn_implementation=kernel).eval()
        with torch.no_grad():
            beside = model(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state[0, :4]
            alone = model(input_ids=ids[:1, :4]).last_hidden_state[0]
        seen[family, kernel] = (beside - alone).abs().max().item()
        print(family, kernel, "alone against padded:", seen[family, kernel])
apart = {case for case, difference in seen.items() if difference > 1e-3}
if apart != {("nemotron", "sdpa"), ("stablelm", "sdpa")}:
    sys.exit(f"changed: texts alone and padded differ for {sorted(apart)}")
PY
