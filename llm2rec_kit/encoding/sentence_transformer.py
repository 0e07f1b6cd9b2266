"""LibraryEncoder: any model that sentence-transformers loads, as a baseline behind Encoder's interface.

It is encoded by that library, window by window, so that its numbers are the library's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from llm2rec_kit import settings as S
from llm2rec_kit.encoding.encoder import Encoder
from llm2rec_kit.models import backbone, checkpoint
from llm2rec_kit.storage import write_text

POOLINGS = {"mean": "mean", "last": "lasttoken", "cls": "cls", "pooler": "cls"}  # our names, sentence-transformers' names


class LibraryEncoder(Encoder):
    """A SentenceTransformer (BERT, BGE, GTE, BLaIR, ...) by folder or hub name."""

    model: Any  # the SentenceTransformer: what its modules have depends on the folder

    def __init__(self, path: str | Path, settings: S.Encoding, place: S.Backbone) -> None:
        """`path` is a folder that `checkpoint.check` has passed, or a hub name; `settings` change its modules."""
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise backbone.BackboneError(
                f"{str(path)!r} is a sentence-transformers model; to use it as a baseline: pip install sentence-transformers"
            ) from None
        if settings.attention != "as_trained":
            raise S.SettingsError(
                f"{str(path)!r} is a baseline: its attention is as it was trained. Set encoding_attention to as_trained; "
                f"found {settings.attention!r}."
            )
        device, dtype, _ = backbone.choose_placement(place)
        with backbone.explain_errors(path, "model"):
            self.model = SentenceTransformer(
                str(path),
                device=str(device),
                trust_remote_code=place.trust_remote_code,
                model_kwargs={"dtype": dtype, "ignore_mismatched_sizes": True},  # they are told, below
            )
        backbone.check_finite(self.model, path)
        missing = _check_weights(self.model[0], path, place)
        self.settings, self.tokenizer = settings, self.model.tokenizer
        if settings.max_tokens:
            self.model.max_seq_length = min(settings.max_tokens, self.model.max_seq_length or settings.max_tokens)
        _change_modules(self.model, settings)
        if settings.pooling == "pooler":
            self.model.insert(2, _pooler(self.model[0].auto_model, path, missing))

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return int(self.model.get_embedding_dimension())

    def _prepare(self, titles: list[str]) -> list[str]:
        return titles

    def _vectors(self, titles: list[str]) -> np.ndarray:
        if not titles:
            return np.empty((0, self.dim), dtype=np.float32)
        unit = self.settings.normalise == "unit"
        found = self.model.encode(titles, normalize_embeddings=unit, show_progress_bar=False, convert_to_tensor=True)
        vectors: np.ndarray = found.float().cpu().numpy()
        return vectors

    def _key(self, titles: list[str]) -> dict[str, Any]:
        """As an encoder's, and what the library makes of the states: its modules, the text before a title, where it is cut."""
        modules = [
            [type(module).__name__, module.get_config_dict() if hasattr(module, "get_config_dict") else repr(module)]
            for module in self.model
        ]
        prompts = [self.model.prompts, self.model.default_prompt_name]
        told = json.dumps([modules, prompts, getattr(self.model, "max_seq_length", None)], sort_keys=True, default=str)
        return super()._key(titles) | {"library": hashlib.sha256(told.encode()).hexdigest()}

    def save(self, folder: str | Path, card: str = "") -> None:
        """Write the model as sentence-transformers does, so that it gives the vectors that this one gives, with `card` as its
        README.md where there is one."""
        with self._ending_in_unit_length():
            self.model.save(str(folder), create_model_card=False)
        if card:
            write_text(Path(folder) / "README.md", card)

    @contextlib.contextmanager
    def _ending_in_unit_length(self) -> Iterator[None]:
        """With a module for what `encode` does beside the model's own: vectors of length one, where settings ask for them."""
        from sentence_transformers.sentence_transformer.modules import Normalize

        has_one = any(isinstance(module, Normalize) for module in self.model)
        if self.settings.normalise != "unit" or has_one:
            yield
            return
        self.model.append(Normalize())
        try:
            yield
        finally:
            del self.model[-1]


def _change_modules(model: Any, settings: S.Encoding) -> None:
    """Set pooling and drop the length-one layer of a SentenceTransformer, where `settings` say so."""
    for name, module in list(model.named_children()):
        kind = type(module).__name__
        if kind == "Pooling" and settings.pooling != "as_saved":
            module.pooling_mode = POOLINGS[settings.pooling]
        if kind == "Normalize" and settings.normalise == "none":
            delattr(model, name)


def check(folder: str | Path, place: S.Backbone) -> None:
    """Raise BackboneError where a baseline's weights, unread, do not fill it; not of an encoder-decoder, taken in part."""
    own_code = {"trust_remote_code": place.trust_remote_code}
    for part in checkpoint.find_transformers(Path(folder)):
        with backbone.explain_errors(folder, "model"):
            if AutoConfig.from_pretrained(part, **own_code).is_encoder_decoder:
                continue
            told = backbone.read_telling(AutoModel, part, device_map="meta", **own_code)
        model = backbone.require_all_weights(*told, part)
        with backbone.explain_errors(folder, "tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(part, **own_code)
        backbone.check_rows(tokenizer, model, part)


def _check_weights(first: Any, path: str | Path, place: S.Backbone) -> set[str]:
    """Raise BackboneError where weights of the first module, if transformers', are not in its files, which the library fills
    with random numbers; returns the names of those that are missing all the same: a pooler's."""
    model = getattr(first, "auto_model", None)
    if model is None:
        return set()
    if isinstance(first.tokenizer, PreTrainedTokenizerBase):
        backbone.check_rows(first.tokenizer, model, path)
    where = checkpoint.find_transformers(Path(path))[0] if checkpoint.is_path(path) else path
    # Asked on the meta device, of the class that the library took: the weights are in memory already, once is enough.
    how = {"trust_remote_code": place.trust_remote_code, "device_map": "meta", "config": model.config}
    with backbone.explain_errors(path, "model"):
        read, told = backbone.read_telling(type(model), str(where), **how)
    backbone.require_all_weights(read, told, path)
    return set(told["missing_keys"])


def _pooler(model: PreTrainedModel, path: str | Path, missing: set[str]) -> Any:
    """A BERT's own pooler, dense and tanh over the first token's state, as a module that follows CLS pooling.

    Raises BackboneError where it has none, or its weights lack it (`missing`): transformers would make one up at random.
    """
    from sentence_transformers.base.modules import Dense

    dense = getattr(getattr(model, "pooler", None), "dense", None)
    if dense is None or any("pooler" in name for name in missing):
        raise backbone.BackboneError(
            f"{str(path)!r} has no pooler with trained weights: set its pooling to cls, mean or last."
        )
    weights = {"init_weight": dense.weight.detach().clone(), "init_bias": dense.bias.detach().clone()}
    return Dense(dense.in_features, dense.out_features, **weights)
