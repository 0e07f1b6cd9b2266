#!/usr/bin/env bash
# transformers 5.24.0: AutoConfig.from_pretrained(folder, is_causal=False) drops the switch without a word.
# Guess: keyword arguments of from_pretrained override the saved configuration, as the constructor's do.
# Fact: only names that the saved configuration has already are taken over. `is_causal` is none of a decoder's, though the
#   mask is built from it: from_pretrained drops it (the model stays causal), LlamaConfig(is_causal=False) keeps it. A
#   name that is there, such as use_cache, is taken.
# So: set `config.is_causal = False` on the object that was loaded, and check the attribute, not the call.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.13.0 transformers==5.24.0 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
from transformers import AutoConfig, LlamaConfig

LlamaConfig(num_hidden_layers=2).save_pretrained("saved")
loaded = AutoConfig.from_pretrained("saved", is_causal=False, use_cache=False)
made = LlamaConfig(num_hidden_layers=2, is_causal=False)
seen = {
    "from_pretrained": getattr(loaded, "is_causal", "absent"),
    "constructor": getattr(made, "is_causal", "absent"),
    "use_cache through from_pretrained": loaded.use_cache,
}
for case, value in seen.items():
    print(case, value)
if list(seen.values()) != ["absent", False, False]:
    sys.exit("changed: expected absent, False, False")
PY
