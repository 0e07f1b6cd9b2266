#!/usr/bin/env bash
# transformers 5.24.0 with gguf 0.19.0: a model unpacked from GGUF to float32 still counts as quantised.
# Guess: from_pretrained(..., gguf_file=...) says that it de-quantises, all parameters are float32, so it is an
#   ordinary model from there on.
# Fact: save_pretrained, .float() and .half() raise ValueError. With quantization_config=GgufConfig(dequantize=True),
#   which sounds like what happens anyway, the weights are the same bits and all three work.
# So: pass that config wherever an unpacked model is to be saved or trained.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.13.0 transformers==5.24.0 gguf==0.19.0 accelerate==1.15.0 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
import gguf
import numpy as np
from transformers import AutoModelForCausalLM, GgufConfig

out, width, numbers = gguf.GGUFWriter("tiny.gguf", "llama"), 32, np.random.default_rng(0)
for key, value in dict(context_length=64, embedding_length=width, block_count=1, feed_forward_length=64, head_count=4,
                       head_count_kv=4, layer_norm_rms_eps=1e-6, rope_dimension_count=8, vocab_size=40).items():
    getattr(out, f"add_{key}")(value)
shapes = {"token_embd": (40, width), "output": (40, width), "output_norm": (width,)}
block = {"attn_norm": (width,), "ffn_norm": (width,), "ffn_down": (width, 64), "ffn_up": (64, width)}
block["ffn_gate"] = (64, width)
block |= {f"attn_{name}": (width, width) for name in ("q", "k", "v", "output")}
for name, shape in (shapes | {f"blk.0.{name}": shape for name, shape in block.items()}).items():
    kind = gguf.GGMLQuantizationType.Q8_0 if len(shape) == 2 else gguf.GGMLQuantizationType.F32
    out.add_tensor(f"{name}.weight", gguf.quantize(numbers.normal(size=shape).astype("float32"), kind), raw_dtype=kind)
out.write_header_to_file(), out.write_kv_data_to_file(), out.write_tensors_to_file(), out.close()
seen, weights = [], []
for options in ({}, {"quantization_config": GgufConfig(dequantize=True)}):
    model = AutoModelForCausalLM.from_pretrained(".", gguf_file="tiny.gguf", **options)
    weights.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    for action in (lambda: model.save_pretrained("saved"), model.float, model.half):
        try:
            action()
            seen.append("works")
        except ValueError:
            seen.append("ValueError")
    print(list(options), {str(tensor.dtype) for tensor in weights[-1].values()}, "save, float, half:", seen[-3:])
same = all((tensor == weights[1][name]).all() for name, tensor in weights[0].items())
print("equal weights:", bool(same))
if not same or seen != ["ValueError"] * 3 + ["works"] * 3:
    sys.exit("changed: expected equal weights, three errors without the config, none with it")
PY
