"""`distill publish FOLDER --push OWNER/NAME`: what would go to the hub, and, when told so, its upload.

The token is the hub's own business: HF_TOKEN, or what `hf auth login` left on this machine. It is never an argument
here and never printed.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.repocard import metadata_load
from huggingface_hub.utils import validate_repo_id
from yaml import YAMLError

from distill.encoders.weights import sha256_of_weights
from distill.publish.card import FILES as OF_THE_CARD
from distill.publish.card import PICTURE
from distill.publish.card.licences import NOT_CHOSEN, holds, is_own, named_by, terms_of, wants_copy, wants_kept
from distill.publish.proof.record import FILE as PROOF

CARD, LICENCE = "README.md", "LICENSE"
ATTRIBUTES = ".gitattributes"
"""The hub's own."""
OPEN_CLIP, TIMM = "open_clip_config.json", "config.json"
SHOWN = 40
"""Files that are listed one by one."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """Everything that would go to one repository. `files` are by their path there; bytes are written anew for it."""

    repo: str
    private: bool
    files: dict[str, Path | bytes]
    warnings: tuple[str, ...] = ()

    def size(self, name: str) -> int:
        content = self.files[name]
        return len(content) if isinstance(content, bytes) else content.stat().st_size

    @property
    def total(self) -> int:
        """Bytes."""
        return sum(map(self.size, self.files))

    def __str__(self) -> str:
        who = "only you and whom you let" if self.private else "everybody"
        lines = [f"to {self.repo} on the hub, seen by {who}: {len(self.files)} files, {_bytes(self.total)}"]
        lines += [f"  {_bytes(self.size(name)):>9}  {name}" for name in list(self.files)[:SHOWN]]
        lines += [f"  and {len(self.files) - SHOWN} more"] if len(self.files) > SHOWN else []
        return "\n".join([*lines, *(f"warning: {each}" for each in self.warnings)])


def push(
    folder: Path,
    repo: str,
    *,
    really: bool = False,
    private: bool = True,
    update: bool = False,
    endpoint: str | None = None,
    say: Callable[[str], None] = print,
) -> str | None:
    """Say what would go to the hub, and with `really` upload it in one commit; returns its address then.

    `update` allows a repository that is there already; `endpoint` is another hub's address. Raises ValueError for a
    folder that is not whole or holds what the publication did not write, and for whatever the hub refuses.
    """
    prepared = prepare(folder, repo, private=private)
    say(str(prepared))
    if not really:
        if update:
            say("what lies in the repository is looked at with --upload: what its last publication wrote and this one "
                "does not is deleted then, other files stay and are named")  # fmt: skip
        say("nothing was sent; give the same command with --upload to send it")
        return None
    if get_token() is None:
        raise ValueError("there is no token of the hub on this machine: `hf auth login` stores one, HF_TOKEN sets one")
    api = HfApi(endpoint=endpoint)
    with _in_one_sentence(repo, api.endpoint):
        old = Old()
        if update and _is_there(api, repo, private=private):
            old = _old_files(api, repo, {*prepared.files})
            say(str(old))
        else:
            api.create_repo(repo, private=private)
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(
                path_in_repo=name, path_or_fileobj=str(content) if isinstance(content, Path) else content
            )
            for name, content in prepared.files.items()
        ]
        operations += [CommitOperationDelete(path_in_repo=name) for name in old.written]
        api.create_commit(repo, operations, commit_message="Weights, card and proof", parent_commit=old.commit)
    address = f"{api.endpoint}/{repo}"
    say(f"uploaded: {address}")
    return address


def _is_there(api: HfApi, repo: str, *, private: bool) -> bool:
    """Raises ValueError when others can see a repository that they should not, or the other way round."""
    try:
        found = api.model_info(repo)
    except RepositoryNotFoundError:
        return False
    if bool(found.private) != private:
        is_, asked = ("private", "--public was said") if found.private else ("public", "--public was not")
        raise ValueError(f"{repo} is there and {is_}, and {asked}: nothing was sent")
    return True


@dataclass(frozen=True, kw_only=True)
class Old:
    """What lies in a repository and is not written anew."""

    commit: str | None = None
    """That was looked at; the upload fails where somebody else has written since."""
    written: tuple[str, ...] = ()
    """By the publication before: it goes."""
    foreign: tuple[str, ...] = ()
    """By others: it stays."""

    def __str__(self) -> str:
        lines = [f"deleted, as the publication before wrote it: {name}" for name in self.written]
        lines += [f"warning: stays, and no publication wrote it: {name}" for name in self.foreign]
        return "\n".join(lines) or "nothing else lies there"


def _old_files(api: HfApi, repo: str, new: set[str]) -> Old:
    """The proof that lies there says what its publication wrote; of a repository without one everything is foreign."""
    found = api.model_info(repo)
    there = {each.rfilename for each in found.siblings or ()} - new - {ATTRIBUTES}
    written: set[str] = set()
    if PROOF in {each.rfilename for each in found.siblings or ()}:
        with tempfile.TemporaryDirectory() as place:
            path = api.hf_hub_download(repo, PROOF, revision=found.sha, local_dir=place)
            written = {*_files_of(Path(path)), TIMM, *OF_THE_CARD} & there
    return Old(commit=found.sha, written=tuple(sorted(written)), foreign=tuple(sorted(there - written)))


def _files_of(proof: Path) -> dict[str, str | None]:
    """SHA-256 of the files of formats by name; None in proofs from before there were sums. ValueError where it is no
    proof."""
    try:
        formats = json.loads(proof.read_text(encoding="utf-8"))["formats"]
        return {
            file: sha
            for found in formats.values()
            for file, sha in zip(found["files"], found.get("sha256", [None] * len(found["files"])), strict=True)
        }
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise ValueError(f"{proof} is no proof of a publication ({type(problem).__name__}: {problem})") from problem


def prepare(folder: Path, repo: str, *, private: bool) -> Upload:
    """What would go; nothing is asked of the hub. Raises ValueError as `push` does for names and folders."""
    check_name(repo)
    files = {name: folder / name for name in written_files(folder)}
    return Upload(repo=repo, private=private, files=files | _at_home_there(files, repo), warnings=_warnings(folder))


def check_name(repo: str, *, owned: bool = True) -> None:
    """Raises ValueError for what cannot be the name of a repository; some data sets have no owner."""
    try:
        validate_repo_id(repo)
    except HFValidationError as problem:
        raise ValueError(f"{repo} is no name of the hub: {str(problem).splitlines()[0]}") from problem
    if owned and "/" not in repo:
        raise ValueError(f"{repo} is no name of the hub, which look like OWNER/NAME")


def written_files(folder: Path) -> list[str]:
    """Names of all files in a published folder, the card's first.

    Raises ValueError when it has no proof, lacks a file, has a file that the publication did not write, or when one
    of a format is not what was compared, by its SHA-256.
    """
    if not (folder / PROOF).is_file():
        raise ValueError(f"{folder} has no {PROOF}: it is no folder that `distill publish RUN --to FOLDER` wrote")
    sums = _files_of(folder / PROOF)
    there = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    if missing := [name for name in (CARD, *sums) if name not in there]:
        raise ValueError(f"{folder} is not whole: {missing[0]} is missing; publish the run again")
    known = {PROOF, *OF_THE_CARD, *sums}
    if strange := [name for name in there if name not in known]:
        raise ValueError(f"{folder / strange[0]} was not written by the publication; move it away: all files go along")
    if links := [name for name in there if (folder / name).is_symlink()]:
        raise ValueError(f"{folder / links[0]} is a link, and what it leads to would go to the hub; put the file there")
    if None in sums.values():
        raise ValueError(f"{folder} is of an earlier version, whose {PROOF} has no sums of its files: nothing tells "
                         "whether they are what was compared; publish the run again")  # fmt: skip
    for file, expected_sum in sums.items():
        if sha256_of_weights([folder / file]) != expected_sum:
            raise ValueError(f"{folder / file} has changed since it was compared; publish the run again")
    return sorted(there, key=lambda name: (name.count("/"), name != CARD, name))


def _at_home_there(files: dict[str, Path], repo: str) -> dict[str, Path | bytes]:
    """open_clip's page names the place of timm's page by a path of this machine; there it is the repository itself,
    which has timm's page at its top then."""
    changed: dict[str, Path | bytes] = {}
    for name, path in files.items():
        if path.name != OPEN_CLIP:
            continue
        page = json.loads(path.read_text(encoding="utf-8"))
        vision = page["model_cfg"]["vision_cfg"]
        if ":" in vision.get("timm_model_name", ""):
            vision["timm_model_name"] = f"hf-hub:{repo}"
            changed[name] = (json.dumps(page, indent=2) + "\n").encode()
            changed[TIMM] = files[str(PurePosixPath(name).parent / TIMM)]
    return changed


def _warnings(folder: Path) -> tuple[str, ...]:
    """Raises ValueError when a licence's text has to go along and is not there; one that should is warned of."""
    licence = _stated_licence(folder / CARD)
    proof = json.loads((folder / PROOF).read_text(encoding="utf-8"))
    text = (folder / LICENCE).read_text(encoding="utf-8", errors="replace") if (folder / LICENCE).is_file() else ""
    own = [licence] if licence is not None and is_own(licence) else []
    for name in [*own, *wants_copy([licence]), *proof.get("texts_wanted", [])]:  # titles in earlier proofs
        terms = terms_of(name)
        if not (text.strip() if terms is None else holds(text, terms)):
            what = f"licence {name}" if terms is None else terms.title
            words = f" (“{terms.phrases[0]}” does not stand in its {LICENCE})" if terms is not None and text else ""
            raise ValueError(f"the {what} asks for a copy of its text, and {folder} holds none{words}; publish the run "
                             "again with --licence-text FILE")  # fmt: skip
    said = wants_kept(proof.get("source_licences", []), text)
    if licence in (None, NOT_CHOSEN):
        said.append("the card states no licence: nobody else may use these weights")
    if shown := proof.get("photos_shown"):
        said.append(f"{PICTURE} shows {shown}: see that you may give them on; --no-picture publishes without")
    return tuple(said)


def _stated_licence(card: Path) -> str | None:
    """Cards may be edited by hand. Raises ValueError for metadata that are none."""
    try:
        stated: dict[str, Any] = metadata_load(card) or {}
    except (YAMLError, ValueError) as problem:
        raise ValueError(f"the metadata above {card} are no YAML: {' '.join(str(problem).split())}") from problem
    found = stated.get("license_name", stated.get("license"))
    if found is not None and not isinstance(found, str):
        raise ValueError(f"{card}: license is {found!r}, and not the name of one")
    return None if found is None else named_by(found)


@contextmanager
def _in_one_sentence(repo: str, endpoint: str) -> Iterator[None]:
    """What the hub, or the way to it, refuses, as ValueError."""
    try:
        yield
    except OfflineModeIsEnabled as problem:
        raise ValueError("HF_HUB_OFFLINE=1 forbids to ask the hub: unset it to upload") from problem
    except HfHubHTTPError as problem:
        raise ValueError(_refusal(problem, repo, endpoint)) from problem
    except RuntimeError as problem:  # a large file
        why = _first_line(problem.__cause__ or problem)
        again = "the repository is there now, so say --update when the command is given again"
        raise ValueError(f"{_first_line(problem)} {why}; {again}") from problem
    except (HTTPError, ConnectionError, TimeoutError) as problem:
        raise ValueError(f"{endpoint} cannot be reached: {_first_line(problem)}") from problem


def _refusal(problem: HfHubHTTPError, repo: str, endpoint: str) -> str:
    status = problem.response.status_code
    if status == 401:
        return f"{endpoint} refused the token of this machine (401): `hf auth login` stores another, HF_TOKEN sets one"
    if status == 403:
        return f"{endpoint} does not let this machine's token write to {repo} (403): it needs the right to write there"
    if status == 409:
        return f"{repo} is there already (409): choose another name, or say --update to write into it"
    return f"{endpoint} answered {status}: {_first_line(problem)}"


def _first_line(problem: Exception) -> str:
    return (str(problem).strip() or type(problem).__name__).splitlines()[0]


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
