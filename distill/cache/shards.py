"""Files of a cache: written whole or not at all, read by memory map, refused by name when they were altered.

A shard that is being written has an invisible name. Its sum appears first, then the shard under its own name: a shard
that can be seen is whole.
"""

import hashlib
import json
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from distill.cache.index import Stored, write_json

AGAIN = "delete the folder to write the cache again"


def write_tensors(folder: Path, name: str, tensors: dict[str, Tensor]) -> None:
    """The file `name` and, beside it, its sum. What a killed writer left of it is removed; hold its lock."""
    for left in folder.glob(f".{name}-*"):
        left.unlink()
    unfinished = folder / f".{name}-{os.getpid()}"
    save_file(tensors, unfinished)
    unfinished.chmod(0o644)  # safetensors makes them private
    with unfinished.open("rb+") as file:
        os.fsync(file.fileno())
    found = Stored(size=unfinished.stat().st_size, sha256=sha256_of(unfinished))
    write_json(_sum_of(folder, name), {"size": found.size, "sha256": found.sha256})
    os.replace(unfinished, folder / name)


def is_written(folder: Path, name: str) -> bool:
    return (folder / name).exists()


def written_sum(folder: Path, name: str) -> Stored:
    """The sum that was written beside a file. Raises ValueError when it is gone or does not fit the file's size."""
    try:
        found = Stored(**json.loads(_sum_of(folder, name).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{folder}: the sum of {name} cannot be read ({error}); {AGAIN}") from error
    check_size(folder, name, found)
    return found


def remove_sums(folder: Path) -> None:
    """Once the index holds them."""
    for path in folder.glob("*.safetensors.json"):
        path.unlink(missing_ok=True)


def check_size(folder: Path, name: str, expected: Stored) -> None:
    """Raises ValueError when the file is missing, cut or too long."""
    path = folder / name
    if not path.is_file():
        raise ValueError(f"{path} is missing; {AGAIN}")
    if path.stat().st_size != expected.size:
        raise ValueError(
            f"{path} has {path.stat().st_size:,} bytes in place of {expected.size:,}: it was cut or altered; {AGAIN}"
        )


def read_tensors(folder: Path, name: str, expected: Stored) -> dict[str, Tensor]:
    """Memory-mapped tensors of a file whose sum was verified. Raises ValueError with the file's name."""
    check_size(folder, name, expected)
    path = folder / name
    if sha256_of(path) != expected.sha256:
        raise ValueError(f"{path} does not match its checksum: it was altered; {AGAIN}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a complete safetensors file: {error}") from error


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sum_of(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"
