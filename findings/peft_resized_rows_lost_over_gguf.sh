#!/usr/bin/env bash
# peft 0.21.2 with transformers 5.24.0 and gguf 0.19.0: a vocabulary enlarged for a mask token is in the adapter of one base, and not of another.
# Guess: save_pretrained of an adapter keeps the embeddings where the vocabulary was enlarged, since by default it finds
#   that out itself and says so in a warning.
# Fact: for that it compares the vocabulary with the config.json in the folder that the base was read from. Of a base read from a
#   GGUF file there is none: the embeddings are left out, without a warning. The row of the new token is drawn anew at
#   every loading (transformers draws it around the others' mean), so the same adapter gives that token other states.
# So: save_embedding_layers=True wherever a token was added, or convert the file to a folder with a config first.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.13.0 transformers==5.24.0 peft==0.21.2 gguf==0.19.0 accelerate==1.15.0 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
import warnings
from pathlib import Path

import gguf
import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from transformers import AutoModelForCausalLM, GgufConfig

out, width, numbers = gguf.GGUFWriter("tiny.gguf", "llama"), 32, np.random.default_rng(0)
for key, value in dict(context_length=64, embedding_length=width, block_count=1, feed_forward_length=64, head_count=4,
                       head_count_kv=4, layer_norm_rms_eps=1e-6, rope_dimension_count=8, vocab_size=40).items():
    getattr(out, f"add_{key}")(value)
shapes = {"token_embd": (40, width), "output": (40, width), "output_norm": (width,)}
block = {"attn_norm": (width,), "ffn_norm": (width,), "ffn_down": (width, 64), "ffn_up": (64, width)}
block |= {"ffn_gate": (64, width)} | {f"attn_{name}": (width, width) for name in ("q", "k", "v", "output")}
for name, shape in (shapes | {f"blk.0.{name}": shape for name, shape in block.items()}).items():
    out.add_tensor(f"{name}.weight", numbers.normal(size=shape).astype("float32"))
out.write_header_to_file(), out.write_kv_data_to_file(), out.write_tensors_to_file(), out.close()

place = str(Path.cwd())
from_file = dict(gguf_file="tiny.gguf", quantization_config=GgufConfig(dequantize=True))
AutoModelForCausalLM.from_pretrained(place, **from_file).save_pretrained(f"{place}/folder")
seen = {}
for case, where, how in (("folder", f"{place}/folder", {}), ("GGUF file", place, from_file)):
    def load():
        base = AutoModelForCausalLM.from_pretrained(where, **how)
        base.resize_token_embeddings(41)
        return base

    trained = get_peft_model(load(), LoraConfig(target_modules=["q_proj"], init_lora_weights=False)).eval()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trained.save_pretrained(f"adapter {case}")
    again = PeftModel.from_pretrained(load(), f"adapter {case}").eval()
    with safe_open(f"adapter {case}/adapter_model.safetensors", "pt") as file:
        kept = any("embed_tokens" in name for name in file.keys())
    apart = []
    with torch.no_grad():
        for ids in ([[5, 6]], [[5, 40]]):
            states = [m(input_ids=torch.tensor(ids), output_hidden_states=True).hidden_states[-1] for m in (trained, again)]
            apart.append((states[0] - states[1]).abs().max().item() > 1e-6)
    seen[case] = (kept, any("embed" in str(w.message) for w in told), *apart)
    print(case, "- embeddings in the adapter, told, other states without the new token, with it:", seen[case])
if seen != {"folder": (True, True, False, False), "GGUF file": (False, False, False, True)}:
    sys.exit("changed: expected the embeddings kept and told over a folder, neither over a GGUF file, and other states there")
PY
