"""What a run needs from elsewhere: which weights and data, how large, from where to where; shapes of known backbones."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

from llm2rec_kit import settings as S
from llm2rec_kit.models import checkpoint, gguf, packages
from llm2rec_kit.settings import plain_yaml
from llm2rec_kit.storage import read_json

MODELS = ("backbone_name", "encoding_baselines", "tables_encoders", "tables_backbones")  # parameters: by hub name or folder
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
BASELINES = "encoding.baselines"
HUB_SECONDS = 10  # patience with the hub
HEADLESS = ("bert", "roberta", "xlm-roberta")  # encoders, which have no head
UNGATED = (*HEADLESS, "gpt2", "opt")  # two matrices in the feed-forward
USUAL = {  # the usual key of config.json for another that some families have
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "ffn_dim": "intermediate_size",
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A decoder's shape, enough to count its parameters; norms and biases (below 0.1%) are left out."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocabulary: int
    tied: bool
    gated: bool = True  # three matrices in the feed-forward, not two
    gb: float = 0.0  # size of the download, where it is known

    @property
    def body(self) -> int:
        """Parameters of the layers: attention (q, o; k, v) and the feed-forward."""
        attention = 2 * self.hidden * self.heads * self.head_dim + 2 * self.hidden * self.kv_heads * self.head_dim
        return self.layers * (attention + (3 if self.gated else 2) * self.hidden * self.inner)

    @property
    def head(self) -> int:
        """Parameters of the language-model head."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All: layers, embeddings, and the head where it has weights of its own."""
        return self.body + self.head * (1 if self.tied else 2)

    def count_adapters(self, rank: int) -> int:
        """Count the parameters of LoRA's adapters of `rank` on every linear layer of the body."""
        read, written = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = 2 * (self.hidden + read) + 2 * (self.hidden + written)
        return self.layers * rank * (attention + (3 if self.gated else 2) * (self.hidden + self.inner))


@cache
def read_assets() -> dict[str, Any]:
    """Read the contents of assets.yaml: backbones, encoders, data, accelerators."""
    found: dict[str, Any] = plain_yaml.load_own(resources.files(__package__).joinpath("assets.yaml").read_text())
    return found


def find_shape(backbone: S.Backbone) -> Shape | None:
    """Find the shape of `tiny`, a known model, a folder with a config.json or a GGUF file; None where it is not known."""
    if backbone.name == "tiny":
        return Shape(
            hidden=backbone.hidden,
            layers=backbone.layers,
            heads=backbone.heads,
            kv_heads=backbone.heads,
            head_dim=backbone.hidden // backbone.heads,
            inner=3 * backbone.hidden,
            vocabulary=backbone.vocabulary,
            tied=True,
        )
    for models in (read_assets()["backbones"], read_assets()["encoders"]):
        if backbone.name in models:
            return Shape(**models[backbone.name])
    if gguf.is_gguf_name(backbone.name):
        return _from_config(gguf.read_config(Path(backbone.name))) if Path(backbone.name).is_file() else None
    config = Path(backbone.name) / "config.json"
    return _from_config(read_json(config)) if config.is_file() else None


def known_shape(backbone: S.Backbone) -> Shape:
    """Find a model's shape as `find_shape` does; raises ValueError where it is not known, since nothing can be planned."""
    if (found := find_shape(backbone)) is None:
        raise ValueError(
            f"The size of backbone {backbone.name!r} is not known here, so nothing can be planned. Download it and give its folder "
            f"as backbone.name, or take one of {', '.join(read_assets()['backbones'])}."
        )
    return found


def check_models(values: dict[str, Any], needed: Collection[str], *, hub: bool = True, there: Collection[str] = ()) -> None:
    """Raise ValueError where a model that a parameter in `needed` names cannot be had, or is damaged where it is kept. No
    weights are read. Without `hub`, only what is kept here is looked at. `there` are the tables that the run has already;
    notebook 06 leaves encoders and backbones that cannot be had out, and says so."""
    place = S.Backbone.from_parameters(values)
    lengths = {f"{s.prefix}_max_tokens": s.from_parameters(values).max_tokens for s in (S.CSFT, S.MNTP, S.Contrastive)}
    lengths = {name: tokens for name, tokens in lengths.items() if name in needed}
    asked = {name: values.get(name, []) for name in MODELS if name in needed}
    if "backbone_name" in asked and (hub or _kept_here(place.name)):
        check_backbone(place.name, place, lengths)
    for name in filter(_kept_here, asked.get("tables_backbones", [])):
        check_backbone(name, place)
    for name in filter(_kept_here, [*asked.get("encoding_baselines", []), *asked.get("tables_encoders", [])]):
        from llm2rec_kit.encoding import encoder

        encoder.check(name, place)
    if hub and "encoding_baselines" in asked:
        for name, table in S.Encoding.from_parameters(values).tables.items():
            if not _kept_here(name) and (table not in there or values.get("force")):
                check_encoder(name)


def check_backbone(name: str, place: S.Backbone | None = None, lengths: dict[str, int] | None = None) -> None:
    """Raise ValueError where the weights are neither here nor to be had: what to download, to where, how large. Looks at a
    local folder, file or package (`backbone.check`), the hub's cache, and, unless that is switched off, the hub."""
    if name == "tiny":
        return
    if _kept_here(name):
        from llm2rec_kit.models import backbone

        backbone.check(name, place or S.Backbone(), lengths or {})
        return
    _ask_hub(name, "backbone.name", WEIGHTS)


def check_encoder(name: str) -> None:
    """Raise ValueError as `check_backbone` does for an encoder by hub name, one of sentence-transformers among them."""
    _ask_hub(name, BASELINES, (*WEIGHTS, *checkpoint.BINARY, "modules.json"))


def _ask_hub(name: str, setting: str, files: Sequence[str]) -> None:
    """Raise ValueError where none of a model's `files` is in the hub's cache and the hub does not show it."""
    if is_cached(name, setting, files):
        return
    explain = partial(explain_download, name, setting)
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ValueError(explain("HF_HUB_OFFLINE is set, so the hub is not asked"))
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        HfApi().model_info(name, timeout=HUB_SECONDS)
    except GatedRepoError:
        raise ValueError(explain("the hub asks you to accept its licence and to log in (`hf auth login`)")) from None
    except RepositoryNotFoundError:
        raise ValueError(explain("the hub has no model of this name, or does not show it to you")) from None
    except Exception as error:
        why = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ValueError(explain(f"the hub cannot be reached ({why})")) from None


def _kept_here(name: str) -> bool:
    """Whether a model is looked for on this machine alone."""
    return checkpoint.is_path(name) or name in packages.MODELS


def explain_download(name: str, setting: str, why: str) -> str:
    """Say in one paragraph what to download, how large, to where, and the alternatives; `setting` is what names the model."""
    entry = read_assets()["backbones"].get(name)
    size = f"about {entry['gb']:g} GB" if entry else "size unknown here; the model's page on the hub says it"
    what, folder, other = "Backbone", f"path/to/{Path(name).name}", "take `tiny`, which needs no download"
    if setting == BASELINES:
        what, folder, other = "Encoder", f"[{folder}]", f"leave it out of {setting}"
    return (
        f"{what} {name!r} is not in the hub's cache ({find_hub_cache()}) and {why}. To get it: on a machine with a network, "
        f"`hf download {name} --local-dir {Path(name).name}` ({size}: config.json, tokenizer files, *.safetensors), bring the folder "
        f"here and give it as --set {setting}={folder}; or {other}."
    )


def describe_data() -> str:
    """Say in one sentence what the paper's data is, how large, and where it is to be had."""
    released, raw = read_assets()["data"]["released"], read_assets()["data"]["raw"]
    return (
        f"The paper's data: {released['what']} ({released['bytes'] / 1e6:.0f} MB, {released['from']}, sha256 {released['sha256']}), or "
        f"{raw['what']} ({raw['from']})."
    )


def is_cached(name: str, setting: str = "backbone.name", files: Sequence[str] = WEIGHTS) -> bool:
    """Tell whether the hub's cache holds the weights, one of `files`, of a model that `setting` names."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return any(isinstance(try_to_load_from_cache(name, file), str) for file in files)
    except HFValidationError:
        raise ValueError(
            f"{name!r} is neither a folder nor a name that the hub could have (owner/model). Give one of them as {setting}."
        ) from None


def find_hub_cache() -> Path:
    """Find the folder where the hub keeps what it downloads."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _from_config(config: dict[str, Any]) -> Shape | None:
    """The shape in a transformers config.json of the usual kind; None where that has other keys."""
    config = {USUAL.get(key, key): value for key, value in config.items()}
    if not {"num_attention_heads", "hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size"} <= config.keys():
        return None
    heads = config["num_attention_heads"]
    return Shape(
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        inner=config["intermediate_size"] or 4 * config["hidden_size"],
        vocabulary=config["vocab_size"],
        tied=config.get("tie_word_embeddings", False) or config.get("model_type") in HEADLESS,
        gated=config.get("model_type") not in UNGATED,
    )
