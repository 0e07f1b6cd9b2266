#!/usr/bin/env bash
# peft 0.21.2 with transformers 5.24.0: an adapter trained over a bidirectional base comes back over a causal one.
# Guess: saving and loading an adapter gives the same function, since the base was loaded from the same folder.
# Fact: `config.is_causal = False` belongs to the base object; the adapter's folder holds nothing of it. Reloaded, alone
#   (AutoPeftModel) or over the base, the last token no longer reaches the first state and every vector is another.
#   merge_and_unload().save_pretrained() keeps the switch.
# So: save the merged model, or keep the switch beside the adapter and set it before loading.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.13.0 transformers==5.24.0 peft==0.21.2 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
import torch
from peft import AutoPeftModel, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModel, LlamaConfig, LlamaModel


def leak(model):
    ids = torch.tensor([[5, 6, 7, 8]] * 2)
    ids[1, -1] = 9
    with torch.no_grad():
        first = model.eval()(input_ids=ids).last_hidden_state[:, 0]
    return (first[0] - first[1]).abs().max().item()


size = dict(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
LlamaModel(LlamaConfig(**size)).save_pretrained("base")
base = AutoModel.from_pretrained("base")
base.config.is_causal = False
model = get_peft_model(base, LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
model.save_pretrained("adapter")
seen = {"trained": leak(model)}
seen["over the base"] = leak(PeftModel.from_pretrained(AutoModel.from_pretrained("base"), "adapter"))
seen["AutoPeftModel"] = leak(AutoPeftModel.from_pretrained("adapter"))
model.merge_and_unload().save_pretrained("merged")
seen["merged"] = leak(AutoModel.from_pretrained("merged"))
for case, value in seen.items():
    print(case, "leak to the first state", value)
if [value > 1e-6 for value in seen.values()] != [True, False, False, True]:
    sys.exit("changed: expected a leak when trained and merged, none when the adapter is reloaded")
PY
