#!/usr/bin/env bash
# transformers 5.24.0 with tokenizers 0.23.3: the length of the last call is saved with the tokenizer.
# Guess: truncation=True, max_length=3 are arguments of one call; save_pretrained writes the tokenizer as it was made.
# Fact: the call sets the backend, and save_pretrained writes that state into tokenizer.json. transformers resets it
#   when loading, but whatever reads the file itself (the tokenizers library, a server) cuts every text to three tokens.
#   The same holds for padding. A call without the arguments before saving takes it back.
# So: save a tokenizer before using it, or call backend_tokenizer.no_truncation() and .no_padding() first.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.13.0 transformers==5.24.0 tokenizers==0.23.3 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "red": 2, "running": 3, "shoe": 4}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer, text = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>"), "red running shoe red shoe"
seen = {}
for case, options in (("plain call", {}), ("short call", dict(truncation=True, max_length=3)), ("plain again", {})):
    tokenizer(text, **options)
    tokenizer.save_pretrained("saved")
    seen[case, "transformers"] = len(PreTrainedTokenizerFast.from_pretrained("saved")(text).input_ids)
    seen[case, "tokenizers"] = len(Tokenizer.from_file("saved/tokenizer.json").encode(text).ids)
for case, length in seen.items():
    print("saved after a", case[0], "- loaded by", case[1], "- tokens:", length)
if list(seen.values()) != [5, 5, 5, 3, 5, 5]:
    sys.exit("changed: expected 5 tokens everywhere but 3 from tokenizers after the short call")
PY
