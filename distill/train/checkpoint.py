"""Checkpoints: safetensors and JSON in one folder a step, written whole or not at all, nothing pickled.

checkpoints/step_00001000/
    student.safetensors    encoders, heads, temperatures, adapters
    teacher.safetensors    what a momentum teacher holds, or what learns of a partial one; absent for frozen ones
    objective.safetensors  centres, clusters and running statistics
    optimizer.safetensors  optimiser state, `NAME OF STATE/NAME OF PARAMETER`
    rank_0.safetensors     generators of each rank
    state.json             step, data position of each rank, scalars
    manifest.json          format version and SHA-256 of every file above
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

FORMAT = 2
FORMER_PLACES = {
    "cls_balance": "transfer.prototypes.cls_balance",
    "patch_balance": "transfer.prototypes.patch_balance",
    "standardise_cls": "transfer.features.standardise_cls",
    "standardise_patches": "transfer.features.standardise_patches",
}
"""Where format 1 kept what is now under `transfer` in the objective."""


class BrokenCheckpoint(ValueError):
    """A checkpoint that cannot be trusted: a file is missing, cut or altered."""


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    step: int

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of a part by the names they have today."""
        tensors = load_file(self.folder / f"{name}.safetensors")
        if name != "objective":
            return tensors
        parts = {key: key.partition(".") for key in tensors}
        return {f"{FORMER_PLACES.get(first, first)}.{rest}": tensors[key] for key, (first, _, rest) in parts.items()}

    def has(self, name: str) -> bool:
        return (self.folder / f"{name}.safetensors").exists()

    def state(self) -> dict:
        return json.loads((self.folder / "state.json").read_text())


def folder_of(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step_{step:08d}"


def unfinished_folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f".unfinished_{step:08d}"


def write_part(run: Path, step: int, name: str, content: dict[str, Tensor] | dict) -> None:
    """Write one file of a checkpoint that `publish` will make visible. Every rank may write its own."""
    unfinished = unfinished_folder(run, step)
    unfinished.mkdir(parents=True, exist_ok=True)
    if name.endswith(".json"):
        (unfinished / name).write_text(json.dumps(content, indent=1))
    else:
        path = unfinished / f"{name}.safetensors"
        save_file({key: value.contiguous() for key, value in content.items()}, path)
        path.chmod(0o644)  # safetensors makes them private; colleagues share teachers


def publish(run: Path, step: int) -> Path:
    """Seal a written checkpoint: checksums, then one atomic rename."""
    unfinished, final = unfinished_folder(run, step), folder_of(run, step)
    files = sorted(path for path in unfinished.iterdir() if path.name != "manifest.json")
    manifest = {"format": FORMAT, "step": step, "sha256": {path.name: _sha256(path) for path in files}}
    (unfinished / "manifest.json").write_text(json.dumps(manifest, indent=1))
    for path in [*unfinished.iterdir(), unfinished]:
        _sync(path)
    if final.exists():  # a broken one of the same step: the resumed run wrote it anew
        shutil.rmtree(final)
    os.rename(unfinished, final)
    _sync(final.parent)
    return final


def verify(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`; raises BrokenCheckpoint when it is not what was written."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        version, step, sums = manifest["format"], manifest["step"], manifest["sha256"]
    except (OSError, ValueError, KeyError) as error:
        raise BrokenCheckpoint(f"{folder}: the manifest cannot be read ({error})") from error
    if version > FORMAT:
        raise ValueError(f"{folder} was written by a newer version (format {version}; this one reads up to {FORMAT})")
    if folder.name.startswith("step_") and folder.name != folder_of(folder, step).name:
        raise BrokenCheckpoint(f"{folder}: the manifest is of step {step}")
    for name, expected in sums.items():
        path = folder / name
        if not path.exists():
            raise BrokenCheckpoint(f"{folder}: {name} is missing")
        if _sha256(path) != expected:
            raise BrokenCheckpoint(f"{folder}: {name} does not match its checksum")
    return Checkpoint(folder=folder, step=step)


def all_steps(run: Path) -> list[int]:
    """Steps of the published checkpoints, oldest first."""
    return sorted(int(path.name.removeprefix("step_")) for path in (run / "checkpoints").glob("step_*"))


def latest(run: Path, *, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole; says so when a newer one had to be passed over.

    Raises ValueError when there are checkpoints and none is whole: starting over would hide the damage.
    """
    steps = all_steps(run)
    for step in reversed(steps):
        try:
            return verify(folder_of(run, step))
        except BrokenCheckpoint as error:
            say(f"passing over a broken checkpoint: {error}")
    if steps:
        raise ValueError(f"none of the {len(steps)} checkpoints in {run} is whole; delete the folder to start over")
    return None


def find(path: Path) -> Checkpoint:
    """The checkpoint a user means by a run folder or a checkpoint folder. Raises ValueError if there is none."""
    if (path / "manifest.json").exists():
        return verify(path)
    found = latest(path, say=lambda message: None) if path.is_dir() else None
    if found is None:
        raise ValueError(f"{path} is neither a run folder nor a checkpoint folder")
    return found


def clear_unfinished(run: Path) -> None:
    """Delete what an interrupted write left behind."""
    for path in (run / "checkpoints").glob(".unfinished_*"):
        shutil.rmtree(path)


def prune(run: Path, *, keep: int, best: int | None, newest: int) -> None:
    """Delete all but the last `keep` checkpoints up to step `newest`, and the best one.

    Later ones are broken ones that the run did not resume from: they must not displace whole ones.
    """
    for step in [step for step in all_steps(run) if step <= newest][:-keep]:
        if step != best:
            shutil.rmtree(folder_of(run, step))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
