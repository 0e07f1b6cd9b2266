"""A model's folder: what it holds, and whether that is whole; looked at before anything of it is loaded.

Libraries make up what they miss: weights that are not there become random numbers, a tokenizer without files an empty one,
and a damaged file ends in a traceback that does not name it. Here every file that would be read is looked at (of weights,
their header), and what is wrong is said with the file's name. Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llm2rec_kit.models import gguf, packages
from llm2rec_kit.storage import find_fault, hash_file_once, read_json, require_inside

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
BINARY = ("pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENIZER = ("tokenizer*", "vocab*", "*.model", "*.tiktoken")
READ = ("config.json", "merges.txt", "special_tokens_map.json", "added_tokens.json", *TOKENIZER)
POINTER = b"version https://git-lfs.github.com/spec/"
NOTE = "manifest.json"
MANIFEST = {"artefact", "settings", "inputs", "files", "record"}  # what a manifest.json of a run holds
FETCH = "Download or copy it again."
FLOATS = {"F64", "F32", "F16", "BF16"}  # of what a weight may be; masks and positions that are kept beside them are others
NOTES = ("manifest.json", "history.json")  # what a run keeps beside the model of an artefact
Mismatch = tuple[str, Sequence[int], Sequence[int]]  # a tensor's name, its shape in the files, and by config.json
SHOWN = 3  # names of tensors that a message gives


class BackboneError(ValueError):
    """A model that cannot be had or is damaged; the message says what to download or which file or setting to change."""


def hash_contents(name: str) -> dict[str, str]:
    """Hash what a model by folder or GGUF file holds: {"files": hash}, for what is made from it; {} for any other.

    Of a folder, names and bytes of all files count, but for cards (.md), hidden files and a run's own notes; of a package
    the GGUF file in it.
    """
    if name in packages.MODELS:
        return {"files": packages.MODELS[name].model}
    folder = Path(name)
    if folder.is_file():
        return {"files": hash_file_once(folder)}
    if name == "tiny" or not folder.is_dir():
        return {}
    seen = hashlib.sha256()
    for place, path in _list_files(folder).items():
        if path.name not in NOTES:
            seen.update(f"{place} {hash_file_once(path)}\n".encode())
    return {"files": seen.hexdigest()}


def _list_files(folder: Path) -> dict[str, Path]:
    """The files in a folder by their place in it, in order, but for cards (.md) and hidden ones."""
    files = {p.relative_to(folder): p for p in sorted(folder.rglob("*")) if p.suffix != ".md" and p.is_file()}
    return {at.as_posix(): p for at, p in files.items() if not any(part.startswith(".") for part in at.parts)}


def has_a_name(name: str | Path) -> bool:
    """Tell whether a model's name is one that the kit knows: `tiny`, `tiny-<width>`, or that of a model out of a package."""
    return str(name) in packages.MODELS or re.fullmatch(r"tiny(-\d+)?", str(name)) is not None


def is_path(name: str | Path) -> bool:
    """Tell whether a model's name means a place on this machine, be something there or not: no name of kit or hub."""
    local = Path(name).exists() or Path(name).is_absolute() or str(name).startswith((".", "~")) or gguf.is_gguf_name(name)
    return local and not has_a_name(name)


def locate(name: str | Path) -> str | Path:
    """Find the folder of a model out of a package (`smollm2`), BackboneError unless as fetched; return other names as is."""
    if str(name) not in packages.MODELS:
        return name
    folder, again = packages.find_folder(str(name)), f"Run `llm2rec fetch {name}`."
    if not (folder / NOTE).is_file():
        raise BackboneError(f"{name} is not here yet ({packages.MODELS[str(name)].what}): no model in {folder}. {again}")
    made = _json(folder / NOTE)
    if made.get("model") != packages.MODELS[str(name)].model or not isinstance(made.get("files"), dict):
        raise BackboneError(f"{folder} holds another version of {name} than this kit asks for. {again}")
    check_files(folder, made["files"], "fetched", f"It is not what was fetched. {again}")
    return folder


def check_files(folder: Path, files: dict[str, str], made: str, again: str) -> None:
    """Raise BackboneError where `folder` does not hold the very `files` ({name: sha256}) that its manifest.json names, or
    more; the messages say that a file was not `made`, and what to do `again`."""
    for name, digest in files.items():
        file = require_inside(folder, name)
        if not file.is_file():
            raise BackboneError(f"{file} is missing; {NOTE} beside it names it. {again}")
        if file.suffix != ".md" and hash_file_once(file) != digest:
            raise BackboneError(f"{file} is damaged: its hash is not the one in {NOTE} beside it. {again}")
    for place, file in _list_files(folder).items():
        if place not in files and place != NOTE:
            raise BackboneError(f"{file} was not {made}: {NOTE} beside it does not name it. Move it away.")


def check(folder: Path, *, binary: bool = False) -> None:
    """Raise BackboneError, naming the file, where `folder` holds no model that can be loaded whole, or is no such GGUF file.

    The folder of a run's artefact must be what its manifest says. A sentence-transformers model is looked at in each of its
    transformers. Weights have to be safetensors, or with `binary` may be PyTorch's own.
    """
    try:
        if gguf.is_gguf_name(folder) and folder.is_file():
            _check_file(folder)
            try:
                gguf.check(folder)
            except ValueError as error:
                raise BackboneError(str(error)) from None
            return
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "does not exist"
            raise BackboneError(
                f"{folder} {what}: a model by path is a folder in the hub's layout, with config.json in it, or a .gguf file."
            )
        made = _json(folder / NOTE) if (folder / NOTE).is_file() else {}
        if made.keys() >= MANIFEST:  # else another tool's
            again = "It is not what the run made: run the notebook that made it again, or copy the folder again."
            check_files(folder, made["files"], "made by the run", again)
        for part in find_transformers(folder):
            _check_model(part, binary)
    except OSError as error:
        raise BackboneError(f"{error.filename or folder} cannot be read: {error.strerror or error}.") from error


def read_header(file: Path) -> dict[str, Any]:
    """Read a safetensors file's header, {name: {"dtype", "shape", "data_offsets"}}; BackboneError where it is damaged."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        header = stream.read(length) if 8 + length <= size else b""
    try:
        found: dict[str, Any] = json.loads(header)
        found.pop("__metadata__", None)
        wanted = 8 + length + max((t["data_offsets"][1] for t in found.values()), default=0)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise BackboneError(
            f"{file} is no safetensors file, or cut off within its header ({size:,} bytes). {FETCH}"
        ) from None
    if size != wanted:
        why = "cut off" if size < wanted else "longer than it says"
        raise BackboneError(f"{file} is {why}: {size:,} bytes, and its header speaks of {wanted:,}. {FETCH}")
    if odd := sorted(name for name, t in found.items() if name.endswith("weight") and t.get("dtype") not in FLOATS):
        raise BackboneError(
            f"{file} holds {len(odd)} weights as {found[odd[0]].get('dtype')} ({_some(odd)}): they are quantised, and read as plain "
            "numbers they would be others. Take the model that they were made from, or dequantise it and save that."
        )
    return found


def check_quantisation(config: dict[str, Any], name: str | Path) -> None:
    """Raise BackboneError where a model's config says that its weights are quantised."""
    if not (how := config.get("quantization_config")):
        return
    kind = how.get("quant_method", "of an unknown method") if isinstance(how, dict) else "of an unknown method"
    raise BackboneError(
        f"{name} holds quantised weights ({kind}; quantization_config in config.json), which the kit neither trains nor reads. "
        "Take the model that they were made from, or dequantise it and save that."
    )


def describe_misfit(missing: Iterable[str], unexpected: Iterable[str], mismatched: Iterable[Mismatch] = ()) -> str:
    """Say in a phrase why weights do not fill a model: missing, of another shape, or not its own; "" where they do."""
    missing, unexpected, mismatched = sorted(missing), sorted(unexpected), sorted(mismatched)
    why = [f"{name} is {tuple(a)} in the weights and {tuple(b)} by config.json" for name, a, b in mismatched[:SHOWN]]
    if missing:
        why.append(f"{len(missing)} that config.json asks for {_are(missing)} not in the weights ({_some(missing)})")
    if unexpected:
        why.append(f"{len(unexpected)} of the weights {_are(unexpected)} none of the model's ({_some(unexpected)})")
    for name in unexpected:
        if wrapped := next((m for m in missing if name.endswith(f".{m}")), ""):
            prefix = name.removesuffix(wrapped)
            why.append(f"the weights carry the prefix {prefix!r} of a wrapper: save the model inside it, without the prefix")
            break
    return "; ".join(why)


def explain_not_found(name: str | Path, error: Exception, part: str) -> BackboneError:
    """Say for a reader why a model (`part` of it) cannot be had or read, and what to do."""
    said, name = f"{type(error).__name__}: {error}" if is_path(name) else str(error), str(name)
    first = said.strip().splitlines()[0][:300] if said.strip() else "nothing"
    if "trust_remote_code" in said:
        return BackboneError(
            f"{name!r} comes with code of its own, which is run only where you say so, each time anew. If you trust it: "
            "backbone_trust_remote_code=true in a notebook, --set backbone.trust_remote_code=true of `llm2rec reproduce`, "
            f"--trust-remote-code of `llm2rec encode` and `export`. The loader said: {first}"
        )
    if is_path(name):
        return BackboneError(
            f"The {part} of {name} cannot be read: it is damaged, or of a form that transformers {version('transformers')} does not "
            f"know. Download or copy it again, or save it anew with the version that wrote it. The loader said: {first}"
        )
    if "safetensors" in first:
        return BackboneError(
            f"Backbone {name!r} has no safetensors, and weights in other files can run code when they are read. "
            f"Take another revision or convert it. The loader said: {first}"
        )
    around, beside = Path(name).parent, ""
    if around != Path() and around.is_dir():
        beside = f"In the folder {around} there is {_some(sorted(p.name for p in around.iterdir())) or 'nothing'}."
        if len(Path(name).parts) != 2:  # as no name on the hub has
            return BackboneError(f"There is no {name}. {beside}")
    return BackboneError(
        f"Model {name!r} is neither a local folder with a transformers model nor to be had from the hub "
        f"now. Without a network, download it elsewhere (`hf download {name}`; Qwen/Qwen2-0.5B is about 1 GB) and "
        f"give the folder in its place; a backbone may be `tiny`, too. {beside}{' ' * bool(beside)}The loader said: {first}"
    )


def find_transformers(folder: Path) -> list[Path]:
    """List the folders of transformers' models in `folder`: itself, or such modules of a sentence-transformers model."""
    modules = folder / "modules.json"
    if not modules.is_file():
        return [folder]
    try:
        kinds = {m["path"]: m["type"] for m in read_json(modules, list)}
        return [require_inside(folder, path or ".") for path, kind in kinds.items() if kind.endswith(".Transformer")]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BackboneError(f"{modules} is no list of modules of sentence-transformers ({error}). {FETCH}") from None


def _check_model(folder: Path, binary: bool) -> None:
    config = folder / "config.json"
    for file in sorted(path for kind in (*READ, "*.safetensors", INDEX) for path in folder.glob(kind) if path.is_symlink()):
        if why := find_fault(file):
            raise BackboneError(f"{file} {why}. Copy the folder with what its links lead to (cp -rL), or download it again.")
    if (folder / "adapter_config.json").is_file():
        alone = "" if config.is_file() else " alone"
        raise BackboneError(
            f"{folder} holds a LoRA adapter{alone}. Merge it into its base and save that (peft: merge_and_unload). Where the "
            "weights beside it are meant, move adapter_config.json away: with it, libraries lay the adapter over them in silence."
        )
    if not config.is_file():
        raise BackboneError(
            f"{folder} holds no transformers model: config.json is missing. Give a folder in the hub's layout."
        )
    for file in sorted({file for kind in READ for file in folder.glob(kind) if file.is_file()}):
        _check_file(file)
    about = _json(config)
    if not about.get("model_type") and not about.get("auto_map"):
        raise BackboneError(f"{config} has no model_type, so nothing says what model this is. {FETCH}")
    check_quantisation(about, folder)
    if not any(f for kind in TOKENIZER for f in folder.glob(kind)):
        raise BackboneError(
            f"{folder} has a model but no tokenizer (tokenizer.json). Copy the tokenizer files of the model it was "
            "trained from beside it."
        )
    _check_weights(folder, binary)


def _check_weights(folder: Path, binary: bool) -> None:
    if (folder / WEIGHTS).is_file():
        _check_file(folder / WEIGHTS)
        read_header(folder / WEIGHTS)
    elif (folder / INDEX).is_file():
        _check_shards(folder)
    elif not (binary and any((folder / name).is_file() for name in BINARY)):
        others = sorted(p.name for p in folder.glob("*.safetensors"))
        raise BackboneError(
            f"{folder} has no safetensors{f' of the name {WEIGHTS}, only {_some(others)} and no {INDEX}' if others else ''}. Weights "
            "in other files (pytorch_model.bin) can run code when they are read, so they are not: open the model where you trust "
            "it and write it anew with save_pretrained."
        )


def _check_shards(folder: Path) -> None:
    index = folder / INDEX
    where = _json(index).get("weight_map")
    if not isinstance(where, dict) or not where or any(name != Path(str(name)).name for name in where.values()):
        raise BackboneError(f"{index} is damaged: its weight_map does not name files beside it. {FETCH}")
    for shard in sorted(set(where.values())):
        file = folder / shard
        if not file.is_file():
            raise BackboneError(f"{file} is missing: {INDEX} names it as a part of the weights. Download or copy it.")
        _check_file(file)
        if absent := {name for name, at in where.items() if at == shard} - read_header(file).keys():
            raise BackboneError(f"{file} lacks what {INDEX} says is in it: {_some(sorted(absent))}. {FETCH}")


def _check_file(file: Path) -> None:
    """Raise BackboneError for a file that stands for another (a Git-LFS pointer, an error page) or is empty or no JSON."""
    with file.open("rb") as stream:
        start = stream.read(len(POINTER))
    if not start:
        raise BackboneError(f"{file} is empty. {FETCH}")
    if start == POINTER:
        raise BackboneError(
            f"{file} is a Git-LFS pointer, a note that stands for the file itself. Fetch the file: `git lfs install` once, then "
            "`git lfs pull` in the folder that was cloned; or download the model anew."
        )
    if file.suffix == ".json":
        _json(file)


def _json(file: Path) -> dict[str, Any]:
    """The JSON object in a file; BackboneError naming it where it holds none."""
    try:
        found: dict[str, Any] = read_json(file)
    except ValueError as error:
        raise BackboneError(f"{error} {FETCH}") from None
    return found


def _are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _some(names: list[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
