#!/usr/bin/env bash
# RecBole 1.2.1 with torch 2.13.0: the padding item of its sequential recommenders is a class, and no zero vector.
# Guess: nn.Embedding(n_items, width, padding_idx=0) keeps row 0 at zero and without a gradient, and a softmax over the
#   items has as many classes as there are items.
# Fact: the models' own initialisation fills the whole table, row 0 with it. Cross-entropy multiplies states with the
#   whole table, so row 0 is one more class and gets a gradient: padding_idx holds back that of the lookup alone. The
#   row is then what padded places of a history are read as (attention masks them, a GRU reads only those behind the last).
# So: a loss of RecBole's is over one class more than the catalogue; it equals that of a softmax over the items alone in
#   no digit. Zero the row and leave it out of the classes, or have it in on both sides.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile recbole==1.2.1 torch==2.13.0 numpy==1.26.4 pandas==2.2.3 scipy==1.11.4 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
from collections import defaultdict
import torch
from recbole.model.sequential_recommender import GRU4Rec, SASRec


class Dataset:
    def num(self, field):
        return 6  # five items and the padding


names = dict(USER_ID_FIELD="user", ITEM_ID_FIELD="item", LIST_SUFFIX="_list", ITEM_LIST_LENGTH_FIELD="length", NEG_PREFIX="no_")
sizes = dict(MAX_ITEM_LIST_LENGTH=4, n_layers=1, n_heads=1, hidden_size=8, embedding_size=8, num_layers=1, inner_size=8)
others = dict(dropout_prob=0.0, hidden_dropout_prob=0.0, attn_dropout_prob=0.0, hidden_act="gelu", layer_norm_eps=1e-12)
config = defaultdict(lambda: None, names | sizes | others | dict(initializer_range=0.02, loss_type="CE", device="cpu"))
batch = {"item_list": torch.tensor([[1, 2, 3, 0], [2, 3, 0, 0]]), "length": torch.tensor([3, 2]), "item": torch.tensor([4, 5])}
for kind in (SASRec, GRU4Rec):
    torch.manual_seed(0)
    model = kind(config, Dataset())
    row = model.item_embedding
    states = model.forward(batch["item_list"], batch["length"])
    scores = {n: states @ row.weight[6 - n :].T for n in (6, 5)}
    losses = {n: torch.nn.functional.cross_entropy(s, batch["item"] - (6 - n)).item() for n, s in scores.items()}
    loss = model.calculate_loss(batch)
    loss.backward()
    zero, idle = bool((row.weight[0] == 0).all()), bool((row.weight.grad[0] == 0).all())
    print(kind.__name__, "padding_idx", row.padding_idx, "- row 0 zero:", zero, "- without gradient:", idle)
    print(f"  its loss {loss.item():.4f}; over 6 classes {losses[6]:.4f}, over the 5 items {losses[5]:.4f}")
    if row.padding_idx != 0 or zero or idle or abs(loss.item() - losses[6]) > 1e-5 or abs(loss.item() - losses[5]) < 1e-3:
        sys.exit(f"changed: the padding item of {kind.__name__} is treated otherwise")
PY
