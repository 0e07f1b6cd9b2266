"""Push: an export that has a model card, put into a repository of the Hugging Face Hub. `llm2rec push RUN REPO`.

What is pushed is what `export` writes, made in a temporary folder. A repository is made private, and one that holds
something is left alone, unless asked otherwise. The token is huggingface_hub's own to find, and is in no message.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llm2rec_kit.export import formats
from llm2rec_kit.runs import Run

if TYPE_CHECKING:
    from huggingface_hub import HfApi

KINDS = ("sentence-transformers", "recommender")  # formats with a model card
FIRST = (".gitattributes",)  # what the hub puts into a repository that it makes


def push(
    run: Run,
    repo: str,
    kind: str = "sentence-transformers",
    stage: str = "contrastive",
    *,
    recommender: str = "",
    domain: str = "",
    public: bool = False,
    replace: bool = False,
    trust_remote_code: bool = False,
) -> tuple[str, bool]:
    """Put the export of `run` in format `kind`, one of KINDS, into the hub's `repo` (owner/name).

    Returns its URL, and whether the hub says that it is private.

    A repository that is not there is made, private unless `public`. One that holds files is refused unless `replace`: then
    the files of the export take the place of all that it holds, in one commit, and its history keeps the earlier. Who may
    see a repository that is there is never changed; one that all may see is refused unless `public`. Raises ValueError for
    all of that, without a token or a connection, where the hub refuses, and as `formats.export`.
    """
    if kind not in KINDS:
        raise ValueError(f"What is pushed has a model card: the format {' or '.join(KINDS)}; found {kind!r}.")
    formats.check_choice(kind, recommender, domain)
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # its __init__ offers it by a __getattr__

    validate_repo_id(repo)
    if "/" not in repo:
        raise ValueError(f"A repository is called owner/name, such as me/{repo}; found {repo!r}.")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ValueError("HF_HUB_OFFLINE is set, so the hub is not asked. Unset it to push.")
    if not (token := get_token()):
        raise ValueError(
            "There is no token for the hub. Make one that may write at the hub's page of access tokens, and give it to `hf auth "
            "login`, or in HF_TOKEN."
        )
    api = HfApi(token=token)
    with _one_paragraph(repo, token):
        _check_free(api, repo, public, replace)
        with tempfile.TemporaryDirectory() as at:
            folder = Path(at) / repo.split("/")[-1]
            asked = {"recommender": recommender, "domain": domain}
            formats.export(run, kind, folder, stage, trust_remote_code=trust_remote_code, **asked)
            url = api.create_repo(repo, private=not public, exist_ok=True)
            private = bool(api.model_info(repo).private)  # an old one, or an owner's rule, may differ from what is asked
            message = f"{kind} of run {run.name}, {stage}, by llm2rec_kit"
            deleted = ["*"] if replace else None
            api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message, delete_patterns=deleted)
    return str(url), private


def _check_free(api: HfApi, repo: str, public: bool, replace: bool) -> None:
    """Raise ValueError where the repository is there and may not be written to as asked."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        found = api.model_info(repo)
    except RepositoryNotFoundError:
        return
    if not found.private and not public:
        raise ValueError(
            f"{repo} is there, and everybody can see it. Say --public if that is meant, or give another name: a new one is private."
        )
    held = [file.rfilename for file in found.siblings or [] if file.rfilename not in FIRST]
    if held and not replace:
        raise ValueError(
            f"{repo} holds {len(held)} files already, such as {held[0]}, and is left as it is. Give another name, or --replace: then "
            "what is pushed takes the place of all of them, and the repository's history keeps them."
        )


@contextlib.contextmanager
def _one_paragraph(repo: str, token: str) -> Iterator[None]:
    """Turn the hub's errors, and those of the way there, into a ValueError of one paragraph without the token."""
    from huggingface_hub.errors import HfHubHTTPError

    # Of the library that huggingface_hub asks with, which its versions differ in.
    no_answer: type[BaseException] = HfHubHTTPError.__bases__[0]
    try:
        yield
    except HfHubHTTPError as error:
        code, said = error.response.status_code, error.server_message or ""
        why = {
            401: "it does not know the token. Make a new one, and log in with `hf auth login`, or set HF_TOKEN",
            403: "the token may not write there. Take one that may write, and a repository of its owner's",
        }.get(code, "try again later, or see its status page" if code >= 500 else "see what it says")
        text = f"The hub refused {repo} ({code}{f', {said}' * bool(said)}): {why}."
    except no_answer as error:
        text = f"The hub could not be reached: {error}. Look at the connection, HTTPS_PROXY and HF_ENDPOINT, and push again."
    else:
        return
    raise ValueError(" ".join(text.replace(token, "***").split()))


def run_command(run: Run, args: argparse.Namespace) -> None:
    """Do what `llm2rec push` was asked; raises what `push` raises."""
    names = ("stage", "recommender", "domain", "public", "replace", "trust_remote_code")
    url, private = push(run, args.repo, args.format, **{name: getattr(args, name) for name in names})
    stays = ", as it was: the hub's page of its settings changes that" * (private and args.public)
    print(f"{url}: {f'private{stays}' if private else 'everybody can see it'}")
