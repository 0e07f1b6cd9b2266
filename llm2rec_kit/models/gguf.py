"""A model in one `.gguf` file, llama.cpp's form: its header, whether the file is whole, and reading it.

The header is read here, within the file's bounds and in a fraction of a second, so that a file that cannot be used is
refused at the start; transformers, with the package `gguf`, unpacks the weights to floats and rebuilds the tokenizer, which
takes many times as long as a folder of safetensors. Nothing but `prepare_reading` and `fit` needs torch.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import re
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

INSTALL = "pip install 'llm2rec-kit[gguf]', or pip install gguf"
MAGIC, VERSIONS = b"GGUF", (2, 3)
TEXT, ARRAY = 8, 9  # kinds of values in a header; the others are numbers
NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
DIMENSIONS = 4  # most that a tensor has
PICTURES = ("clip", "mmproj")  # the part of a multi-modal model that reads pictures or sound
TWO_PARTS = ("t5", "umt5", "t5encoder")  # an encoder and a decoder
SAME_AS_GPT2 = ("", "default", "gpt-2", "gpt2", "mpt", "olmo", "jais")  # how text is split before BPE, as a file names it
# As GPT-2's, each digit by itself.
DIGITS_ALONE = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
PROBES = (
    "Star Harbor: Racing, Deluxe (2004) é\n",
    "  two  spaces, 12345 and  67\t",
    "it's THE 日本語 \U0001f600",
    ", Chess Set",
)
AGAIN = "Download or copy it again."


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of itself: `about` (keys and values; of an array its length) and its tensors."""

    about: dict[str, Any]
    tensors: dict[str, tuple[tuple[int, ...], int, int]]  # {name: (shape as torch has it, kind, offset)}
    start: int  # where the tensors' data begins
    size: int  # of the file, bytes

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the family."""
        return str(self.about.get("general.architecture", ""))

    def own(self, key: str, otherwise: Any = None) -> Any:
        """Return the value of a key of this architecture."""
        return self.about.get(f"{self.architecture}.{key}", otherwise)

    def count(self, key: str) -> int:
        """Return the count that a key of this architecture gives; 0 where it gives none."""
        value = self.own(key)
        return value if isinstance(value, int) else 0

    @property
    def rows(self) -> int:
        """How many tokens have an embedding."""
        shape = self.tensors.get("token_embd.weight", ((), 0, 0))[0]
        return shape[0] if shape else 0


def is_gguf_name(name: str | Path) -> bool:
    """Tell whether a model's name is that of a GGUF file, be it there or not."""
    return str(name).lower().endswith(".gguf")


def read_header(file: Path) -> Header:
    """Read the header of a GGUF file; ValueError where it is none, cut off within the header, or of an unknown version."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        if (magic := stream.read(4)) != MAGIC:
            raise ValueError(f"{file} is no GGUF file: it begins with {magic!r} instead of {MAGIC!r}. {AGAIN}")
        try:
            version = _number(stream, "<I")
            if version not in VERSIONS:
                swapped = " with the other order of bytes" if version & 0xFFFF == 0 else ""
                raise ValueError(
                    f"{file} is a GGUF file of version {version}{swapped}; {VERSIONS[0]} and {VERSIONS[1]} can be read, as "
                    "llama.cpp has written them since 2023. Take a newer file of this model."
                )
            n_tensors, n_values = _count(stream, size, 24), _count(stream, size, 13)
            about = dict(_pair(stream, size) for _ in range(n_values))
            tensors = dict(_tensor(stream, size) for _ in range(n_tensors))
        except (EOFError, UnicodeDecodeError, struct.error):
            raise ValueError(f"{file} is damaged or cut off within its header ({size:,} bytes). {AGAIN}") from None
        align = about.get("general.alignment", 32)
        if not isinstance(align, int) or align < 1:
            raise ValueError(f"{file} is damaged: its alignment is {align!r:.40}. {AGAIN}")
        return Header(about=about, tensors=tensors, start=-(-stream.tell() // align) * align, size=size)


def check(file: Path) -> Header:
    """Check that a GGUF file holds a whole text decoder and tokenizer, readable here, ValueError else; return its header."""
    found = read_header(file)
    _check_kind(file, found)
    check_installed(file)
    _check_architecture(file, found)
    if not found.about.get("tokenizer.ggml.tokens") or found.about.get("tokenizer.ggml.model") in (None, "no_vocab", "none"):
        raise ValueError(
            f"{file} has no tokenizer (tokenizer.ggml.*), so no text can be read with it. Take a file that was written with "
            "one, as llama.cpp's convert_hf_to_gguf.py does."
        )
    _check_whole(file, found)
    return found


def check_installed(file: str | Path) -> None:
    """Raise ValueError, saying how to install it, where what reads `file` is not there."""
    if importlib.util.find_spec("gguf") is None:
        raise ValueError(f"To read {file}, the package gguf is needed: {INSTALL}.")
    import transformers

    if not hasattr(transformers, "GgufConfig"):
        raise ValueError(
            f"To read {file}, transformers 5.24 or newer is needed; this is {transformers.__version__}: {INSTALL}."
        )


def read_config(file: Path) -> dict[str, Any]:
    """Read the model's shape under the keys of a transformers config.json; what the file does not say is left out."""
    found = read_header(file)
    said = {
        "model_type": found.architecture,
        "hidden_size": found.own("embedding_length"),
        "num_hidden_layers": found.own("block_count"),
        "num_attention_heads": found.own("attention.head_count"),
        "num_key_value_heads": found.own("attention.head_count_kv"),
        "head_dim": found.own("attention.key_length"),
        "intermediate_size": found.own("feed_forward_length"),
        "vocab_size": found.rows,
        "tie_word_embeddings": "output.weight" not in found.tensors,
    }
    return {key: value for key, value in said.items() if value is not None}


def count_positions(found: Header) -> tuple[int, bool]:
    """Count the positions that a text may have (0: not known), and tell whether a table of them ends there."""
    return found.count("context_length"), "position_embd.weight" in found.tensors


@contextlib.contextmanager
def prepare_reading(name: str | Path) -> Iterator[tuple[str | Path, dict[str, Any], dict[str, Any]]]:
    """Prepare the reading of a model by transformers: yield (place, arguments for all parts, further ones for the weights).

    A GGUF file is read through a link in an empty folder: files of other models beside it would be taken for its own.
    """
    if not is_gguf_name(name):
        yield name, {}, {}
        return
    from transformers import GgufConfig

    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "model.gguf").symlink_to(Path(name).absolute())
        # Without `dequantize` the floats go on counting as quantised: no saving, no training. And a bar that cannot be switched
        # off would be drawn.
        with contextlib.redirect_stderr(io.StringIO()):
            yield place, {"gguf_file": "model.gguf"}, {"quantization_config": GgufConfig(dequantize=True)}


def fit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, file: Path) -> str:
    """Make a tokenizer that transformers rebuilt split text as `file` says, in place; return why it cannot be used, where
    saving would change it, else "". Prints a warning for what of the file transformers leaves out."""
    found = read_header(file)
    model.name_or_path = tokenizer.name_or_path = str(file)
    _split_as_said(tokenizer, str(found.about.get("tokenizer.ggml.pre", "")), file)
    left_out = sorted(name for name in found.tensors if re.match(r"rope_(freqs|factors)", name))
    scaling = found.own("rope.scaling.type", "none")
    if left_out or scaling != "none":
        what = ", ".join(left_out) or f"rope.scaling.type {scaling}"
        print(f"Warning: {file} stretches its positions ({what}), which transformers leaves out.", flush=True)
    with tempfile.TemporaryDirectory() as place:
        from transformers import AutoTokenizer

        model.config.save_pretrained(place)
        tokenizer.save_pretrained(place)
        saved = AutoTokenizer.from_pretrained(place)
    for text in PROBES:
        before, after = (t(text, add_special_tokens=False)["input_ids"] for t in (tokenizer, saved))
        if before != after:
            return (
                f"The tokenizer in {file} reads {text!r} as {before}, and as {after} once it is saved, so later stages would read "
                "other text. Take the model as a folder in the hub's layout, with its own tokenizer."
            )
    return ""


def _split_as_said(tokenizer: PreTrainedTokenizerBase, said: str, file: Path) -> None:
    """Put right that transformers splits text as GPT-2 does where it does not know the file's name for it (`smollm`)."""
    from tokenizers import pre_tokenizers

    backend = tokenizer.backend_tokenizer
    if said in SAME_AS_GPT2 or type(backend.pre_tokenizer) is not pre_tokenizers.ByteLevel:
        return
    if said in DIGITS_ALONE:
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
        return
    print(
        f"Warning: {file} splits text in the way {said!r}, and it is read here as GPT-2's: some texts (digits, several spaces) "
        "get other tokens than the model was trained on. The model as a folder in the hub's layout has its own tokenizer.",
        flush=True,
    )


def _check_kind(file: Path, found: Header) -> None:
    kind, parts = found.about.get("general.type", "model"), found.about.get("split.count", 1)
    if found.architecture in PICTURES or kind in PICTURES or any(name.startswith(("v.", "mm.")) for name in found.tensors):
        raise ValueError(
            f"{file} is the part of a multi-modal model that reads pictures or sound ({found.architecture}). The backbone has "
            "to be a text model: take the file of the language model alone."
        )
    if kind not in ("model", ""):
        raise ValueError(f"{file} holds no model of its own but {kind!r:.40}. Take the file of the model itself.")
    if isinstance(parts, int) and parts > 1:
        raise ValueError(
            f"{file} is one of {parts} parts of a model. Join them first: llama-gguf-split --merge FIRST-PART WHOLE.gguf."
        )


def _check_architecture(file: Path, found: Header) -> None:
    kind = found.architecture
    if kind in TWO_PARTS:
        raise ValueError(
            f"{file} ({kind}) has an encoder and a decoder. CSFT needs a decoder, a model that predicts the next token, such as "
            "Qwen2, Llama, Mistral or Gemma."
        )
    known = _known()
    if known and _plain(kind) not in map(_plain, known):
        import transformers

        raise ValueError(
            f"{file} is of the architecture {kind!r:.60}, which transformers {transformers.__version__} does not read from GGUF; it "
            f"reads {', '.join(sorted(known - {*TWO_PARTS}))}. Take the model as a folder in the hub's layout."
        )


def _check_whole(file: Path, found: Header) -> None:
    """Raise ValueError where data, layers or embeddings of tokens are not all there."""
    wanted = max((found.start + at + _bytes(shape, kind, file) for shape, kind, at in found.tensors.values()), default=0)
    if found.size < wanted:
        raise ValueError(f"{file} is cut off: {found.size:,} bytes, and its header speaks of {wanted:,}. {AGAIN}")
    blocks = {int(m[1]) for name in found.tensors if (m := re.match(r"blk\.(\d+)\.", name))}
    layers = found.count("block_count")
    if not found.rows or not layers or len(blocks) != layers or max(blocks) != layers - 1:
        raise ValueError(
            f"{file} does not hold a whole model: it speaks of {layers} layers and holds {len(blocks)}, "
            f"{'with' if found.rows else 'without'} embeddings of tokens. {AGAIN}"
        )
    rows, tokens = found.rows, found.about["tokenizer.ggml.tokens"]
    if not isinstance(tokens, int) or rows < tokens:
        raise ValueError(
            f"Of the {tokens} tokens of {file}, not all have an embedding in its model, which has {rows}. Take a file whose model and "
            "tokenizer belong together."
        )


def _known() -> set[str]:
    """Architectures that transformers reads from GGUF; empty where it keeps its list elsewhere, then its loader says so."""
    known: set[str] = set()
    with contextlib.suppress(ImportError):
        from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

        known |= {*GGUF_SUPPORTED_ARCHITECTURES} - {"general", "tokenizer"}
        from transformers.integrations.gguf import GGUF_CONFIG_ARCHS  # type: ignore[attr-defined]  # a lazy module's

        known |= {*GGUF_CONFIG_ARCHS}
    return known


def _plain(architecture: str) -> str:
    """llama.cpp's `qwen2moe` is `qwen2_moe` to transformers."""
    return re.sub("[-_.]", "", architecture)


def _bytes(shape: tuple[int, ...], kind: int, file: Path) -> int:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError):
        raise ValueError(
            f"{file} has weights of a form (number {kind}) that the package gguf does not know here. Install a newer one "
            f"({INSTALL}), or take a file of another quantisation."
        ) from None
    return math.prod(shape) // block * size


def _pair(stream: IO[bytes], size: int) -> tuple[str, Any]:
    key = _text(stream, size)
    kind = _number(stream, "<I")
    if kind == TEXT:
        return key, _text(stream, size)
    if kind != ARRAY:
        return key, _number(stream, _form(kind))
    inner = _number(stream, "<I")
    if inner != TEXT:
        width = struct.calcsize(_form(inner))
        count = _count(stream, size, width)
        stream.seek(count * width, 1)
        return key, count
    count = _count(stream, size, 8)
    for _ in range(count):
        length = _count(stream, size, 1)
        stream.seek(length, 1)
    return key, count


def _tensor(stream: IO[bytes], size: int) -> tuple[str, tuple[tuple[int, ...], int, int]]:
    name = _text(stream, size)
    if (dimensions := _number(stream, "<I")) > DIMENSIONS:
        raise EOFError
    shape = tuple(_number(stream, "<Q") for _ in range(dimensions))[::-1]
    return name, (shape, _number(stream, "<I"), _number(stream, "<Q"))


def _form(kind: int) -> str:
    if kind not in NUMBERS:
        raise EOFError
    return NUMBERS[kind]


def _text(stream: IO[bytes], size: int) -> str:
    return stream.read(_count(stream, size, 1)).decode()


def _count(stream: IO[bytes], size: int, width: int) -> int:
    """A number of things of at least `width` bytes; EOFError where the file has no room for so many."""
    count: int = _number(stream, "<Q")
    if count * width > size - stream.tell():
        raise EOFError
    return count


def _number(stream: IO[bytes], form: str) -> Any:
    data = stream.read(struct.calcsize(form))
    if len(data) < struct.calcsize(form):
        raise EOFError
    return struct.unpack(form, data)[0]
