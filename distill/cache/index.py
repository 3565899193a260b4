"""The index of a cache: what it holds of which teacher, views and data, and the sums of its files."""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from distill.cache.storage import Layout

FORMAT = 1
INDEX, PLAN, BASIS = "index.json", "plan.json", "basis.safetensors"


@dataclass(frozen=True)
class Identity:
    """Everything that decides the features, as JSON values. Each part is named when it is the one that differs."""

    teacher: dict[str, Any]
    transform: dict[str, Any]
    data: dict[str, Any]


@dataclass(frozen=True)
class Stored:
    """Size and SHA-256 of a file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Index:
    """`shards` and `basis` are empty while the cache is written. `kept_variance` is the share the components keep."""

    identity: Identity
    layout: Layout
    num_samples: int
    num_views: int
    views_per_shard: int
    kept_variance: float | None = None
    basis: Stored | None = None
    shards: tuple[Stored, ...] = ()

    @property
    def total(self) -> int:
        """Views of all samples."""
        return self.num_samples * self.num_views

    @property
    def num_shards(self) -> int:
        return -(-self.total // self.views_per_shard)

    def keys_of(self, shard: int) -> range:
        start = shard * self.views_per_shard
        return range(start, min(start + self.views_per_shard, self.total))

    def bare(self) -> "Index":
        """As it was before anything was written."""
        return replace(self, kept_variance=None, basis=None, shards=())


def shard_name(number: int) -> str:
    return f"shard_{number:05d}.safetensors"


def write_index(index: Index, path: Path) -> None:
    """Whole or not at all."""
    write_json(path, {"format": FORMAT, **asdict(index)})


def write_json(path: Path, values: dict[str, Any]) -> None:
    """One file, whole or not at all, whoever else writes it at the same time."""
    unfinished = path.with_name(f".{path.name}-{os.getpid()}")
    with unfinished.open("w") as file:
        file.write(json.dumps(values, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def read_index(path: Path) -> Index:
    """Raises ValueError when it is missing, damaged or of another format."""
    if not path.is_file():
        raise ValueError(f"{path.parent} is no finished teacher cache: it has no {path.name}")
    try:
        values = json.loads(path.read_text())
        if values["format"] != FORMAT:
            raise ValueError(f"it is of format {values['format']}, and this version reads format {FORMAT}")
        layout = values["layout"] | {"grid": tuple(values["layout"]["grid"])}
        return Index(
            identity=Identity(**values["identity"]),
            layout=Layout(**layout),
            num_samples=values["num_samples"],
            num_views=values["num_views"],
            views_per_shard=values["views_per_shard"],
            kept_variance=values["kept_variance"],
            basis=Stored(**values["basis"]) if values["basis"] else None,
            shards=tuple(Stored(**shard) for shard in values["shards"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); delete the folder to write the cache again") from error


def refuse_another(found: Identity, wanted: Identity, *, folder: Path) -> None:
    """Raises ValueError that says which of teacher, transform and data differ, and in what."""
    reasons = []
    for part in ("teacher", "transform", "data"):
        there, here = getattr(found, part), getattr(wanted, part)
        changes = [
            f"{key} is {there.get(key)!r} there and {here.get(key)!r} here"
            for key in sorted(there.keys() | here.keys())
            if there.get(key) != here.get(key)
        ]
        if changes:
            reasons.append(f"another {part}: {'; '.join(changes)}")
    if reasons:
        raise ValueError(f"{folder} was written with {'; and with '.join(reasons)}. Choose another folder or delete it")


def refuse_other_storage(found: Layout, *, storage: str, components: int, folder: Path) -> None:
    """Raises ValueError when the recipe asks for another storage than the folder has."""
    if (found.storage, found.components) != (storage, components):
        raise ValueError(
            f"{folder} holds teacher.cache_storage={found.storage} and teacher.cache_components={found.components}, "
            f"the recipe asks for {storage} and {components}: say what it holds, or choose another folder"
        )
