"""Folders in which others release their models: local ones and those of the hub, their settings and licences."""

import json
import re
from pathlib import Path

import yaml

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def hub_folder(name: str, *, asked: str, wanted: list[str]) -> Path:
    """The hub's copy of the model OWNER/NAME in the local cache; downloaded first, with the hub's own progress bar,
    where the hub may be asked.

    `wanted` are patterns of file names, `asked` is what the user wrote. ValueError when the hub does not give it.
    """
    if not HUB_NAME.fullmatch(name):
        raise ValueError(f"{asked}: there is no such folder, and hub names look like OWNER/NAME")
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except (OSError, HFValidationError) as problem:
        if constants.HF_HUB_OFFLINE:
            raise ValueError(
                f"{asked} is neither a folder nor in the local cache of the hub, and HF_HUB_OFFLINE=1 forbids to "
                "download it"
            ) from problem
        raise ValueError(
            f"{asked} is neither a folder nor a model that the hub gives: {first_line(problem)}"
        ) from problem


def read_settings(path: Path, *, hint: str) -> dict:
    """The settings in a JSON file; ValueError when they cannot be read, with `hint` when there is no such file."""
    if not path.is_file():
        raise ValueError(f"{path.parent} has no {path.name}; {hint}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise ValueError(f"{path} is not JSON: {problem}") from problem
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, not settings by name")
    return found


def licence_on_card(folder: Path) -> str | None:
    """From the model card README.md; `other` is replaced by the name that the card gives it."""
    from huggingface_hub.repocard import metadata_load

    card = folder / "README.md"
    try:
        stated = (metadata_load(card) if card.is_file() else None) or {}
    except (ValueError, yaml.YAMLError):
        return None
    licence = stated.get("license")
    if licence == "other":
        licence = stated.get("license_name", licence)
    return licence if isinstance(licence, str) else None


def first_line(problem: Exception) -> str:
    """What an exception says, without what follows its first line."""
    return (str(problem).strip() or type(problem).__name__).splitlines()[0]
