#!/usr/bin/env bash
# sentence-transformers 6.2.0: encode(output_value="token_embeddings") returns vectors of the padding where a tokenizer pads left.
# Guess: each text gets a vector for each of its own tokens, since the padding of its batch is cut off; their mean is what
#   mean pooling gives.
# Fact: only padding behind the text is cut off. Where it stands in front, as is usual for decoders, every text of a batch has
#   as many vectors as the longest one, the first of them of padding. Row 0 is then no token of the text, and a mean, a maximum
#   or a comparison token by token depends on which texts stand beside it. The pooled vectors are right all the same.
# So: take output_value=None, which gives attention_mask beside token_embeddings, and keep the rows that it marks; or compare a
#   text alone with the same text in a batch.
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
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "red": 2, "running": 3, "shoe": 4}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
size = dict(vocab_size=5, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0)
torch.manual_seed(0)
decoder = LlamaModel(LlamaConfig(**size))
texts = ["shoe", "red shoe", "red running shoe red running shoe"]
seen = {}
for side in ("right", "left"):
    decoder.save_pretrained(side)
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", padding_side=side).save_pretrained(side)
    model = SentenceTransformer(side, device="cpu")
    if str(model[1].pooling_mode) != "mean":
        sys.exit("changed: expected mean pooling for the body of a decoder")
    alone = model.encode(texts, batch_size=1)
    for batch_size in (1, 3):
        rows = model.encode(texts, batch_size=batch_size, output_value="token_embeddings")
        off = max(float(abs(row.numpy().mean(0) - vector).max()) for row, vector in zip(rows, alone, strict=True))
        pooled = float(abs(model.encode(texts, batch_size=batch_size) - alone).max())
        seen[side, batch_size] = [len(row) for row in rows], off > 1e-3, pooled > 1e-3
        print(f"padding {side}, batches of {batch_size}:", *(len(row) for row in rows), "vectors,", end=" ")
        print(f"their means off by {off:.2g}, the pooled vectors by {pooled:.2g}")
    all_of_it = model.encode(texts, batch_size=3, output_value=None)
    kept = [one["token_embeddings"][one["attention_mask"].bool()].numpy() for one in all_of_it]
    if max(float(abs(row.mean(0) - vector).max()) for row, vector in zip(kept, alone, strict=True)) > 1e-3:
        sys.exit("changed: expected the rows that attention_mask marks to be the text's own")
own = [1, 2, 6], False, False
if seen != {("right", 1): own, ("right", 3): own, ("left", 1): own, ("left", 3): ([6, 6, 6], True, False)}:
    sys.exit("changed: expected the vectors of 1, 2 and 6 tokens, and with padding in front six of each text in a batch")
PY
