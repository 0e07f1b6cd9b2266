#!/usr/bin/env bash
# sentence-transformers 6.2.0: the same causal weights are pooled in two ways, by which class saved them.
# Guess: a plain model folder gets mean pooling, or what its model calls for; a folder of the decoder's body and one of
#   the whole language model give the same vectors.
# Fact: `architectures` decides: [LlamaForCausalLM] is pooled by the last token, [LlamaModel], the same causal layers
#   saved alone, by the mean. It is said at INFO level only. With is_causal false saved in the config both get the mean.
# So: never load a bare folder where vectors are compared; build the model from modules with the pooling named.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.13.0 transformers==5.24.0 sentence-transformers==6.2.0 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "red": 2, "running": 3, "shoe": 4}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
size = dict(vocab_size=5, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0)
torch.manual_seed(0)
seen, vectors = {}, {}
for causal in (True, False):
    whole = LlamaForCausalLM(LlamaConfig(**size, is_causal=causal))
    for name, model in (("whole", whole), ("body", whole.model)):
        model.save_pretrained(f"{name}{causal}")
        PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>").save_pretrained(f"{name}{causal}")
        loaded = SentenceTransformer(f"{name}{causal}", device="cpu")
        seen[name, causal], vectors[name, causal] = str(loaded[1].pooling_mode), loaded.encode("red running shoe")
    apart = float(abs(vectors["whole", causal] - vectors["body", causal]).max())
    print("is_causal", causal, "whole:", seen["whole", causal], "body:", seen["body", causal], "vectors differ by", apart)
if list(seen.values()) != ["lasttoken", "mean", "mean", "mean"]:
    sys.exit("changed: expected last token and mean for the causal model, mean twice for the other")
PY
