#!/usr/bin/env bash
# transformers 5.24.0: a tokenizer saved beside a Qwen2 config comes back as another one, which finds no tokens.
# Guess: AutoTokenizer reads tokenizer.json and gives the tokenizer that was saved, whatever model lies beside it.
# Fact: beside a Llama or Qwen3 config it does. Beside a Qwen2 config the class Qwen2Tokenizer is built with its own
#   pre-tokenizer: a word-level tokenizer then gives an empty list for every text, without an error or a warning.
# So: after saving a tokenizer of one's own, load it from the model's folder and compare the ids of a few texts.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.13.0 transformers==5.24.0 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "red": 2, "running": 3, "shoe": 4}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
saved = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>")
seen = {}
for family in ("llama", "qwen3", "qwen2"):
    AutoConfig.for_model(family, vocab_size=5).save_pretrained(family)
    saved.save_pretrained(family)
    loaded = AutoTokenizer.from_pretrained(family)
    seen[family] = loaded("red running shoe").input_ids
    print(family, type(loaded).__name__, "saved", saved("red running shoe").input_ids, "loaded", seen[family])
if seen != {"llama": [2, 3, 4], "qwen3": [2, 3, 4], "qwen2": []}:
    sys.exit("changed: expected the saved ids beside llama and qwen3, none beside qwen2")
PY
