#!/usr/bin/env bash
# transformers 5.24.0: `logits_scaling` of a config divides the logits in Granite and multiplies them in HyperCLOVA X.
# Guess: a setting of one name does one thing, the more so where one family's code descends from the other's.
# Fact: with 4.0 Granite's logits are a quarter of what the head gives over the last states, HyperCLOVA X's are four times
#   that. Cohere's `logit_scale` multiplies. The loss that the model computes itself follows, as do its probabilities.
# So: who computes logits or a loss from hidden states (a fused cross-entropy, logits at a few positions, distillation) reads
#   the factor off the model, logits against head(states), not off the config's name.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.13.0 transformers==5.24.0 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
import torch
from transformers import AutoConfig, AutoModelForCausalLM

size = dict(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
size.update(num_key_value_heads=4, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2)
ids = torch.arange(5, 13)[None]
seen = {}
for family, name in (("llama", ""), ("granite", "logits_scaling"), ("hyperclovax", "logits_scaling"), ("cohere", "logit_scale")):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **size, **({name: 4.0} if name else {}))
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        plain = model.lm_head(model.model(input_ids=ids).last_hidden_state)
        scaled = model(input_ids=ids).logits
    seen[family] = round((scaled / plain)[..., 1:].median().item(), 4)  # the padding token's row of a tied head is zero
    print(family, name or "without a scale", "logits over head(states):", seen[family])
if seen != {"llama": 1.0, "granite": 0.25, "hyperclovax": 4.0, "cohere": 4.0}:
    sys.exit("changed: expected 1, 1/4, 4 and 4")
PY
