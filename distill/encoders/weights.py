"""Reading weights from files, and fitting them to a module: names, shapes and position grids are checked."""

import hashlib
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

TORCH_SUFFIXES = (".pth", ".pt", ".bin")


def read_safetensors(path: Path | str) -> dict[str, Tensor]:
    """Every tensor of a file, on the CPU. ValueError when it is missing, damaged or in another format."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as problem:
        raise ValueError(f"{path} is not a complete safetensors file: {problem}") from problem


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """Every tensor of a safetensors file or of what `torch.save` wrote (.pth, .pt, .bin), on the CPU.

    Only tensors are read, nothing is unpickled. A `state_dict` or `model` inside the file is taken for the whole.
    Raises ValueError when the file is missing or damaged, or holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix not in TORCH_SUFFIXES:
        raise ValueError(f"{path}: weights are read from {', '.join(('.safetensors', *TORCH_SUFFIXES))} files")
    if _is_scripted(path):
        raise ValueError(
            f"{path} is a TorchScript archive, and loading it could run anything; where you trust it, load it with "
            "torch.jit.load and write its state dict with safetensors.torch.save_file"
        )
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise ValueError(
            f"{path} holds more than tensors, and unpickling it could run anything; where you trust it, load it with "
            "torch and write its state dict with safetensors.torch.save_file"
        ) from None
    except (RuntimeError, EOFError, OSError) as problem:
        raise ValueError(f"{path} is not a complete file of torch.save: {problem}") from problem
    return _tensors_in(found, path)


def _is_scripted(path: Path) -> bool:
    """Whether torch.jit wrote it, as OpenAI's released CLIPs: torch.save writes the same kind of archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _tensors_in(found: object, path: Path) -> dict[str, Tensor]:
    for inner in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(inner), Mapping):
            found = found[inner]
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} holds a {type(found).__name__}, not tensors by name")
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no tensors by name, but {', '.join(map(str, list(found)[:5])) or 'nothing'}")
    return tensors


def sha256_of_weights(files: Sequence[Path]) -> str | None:
    """Of one file what `sha256sum FILE` prints, of several the sum of what it prints for all; None without any."""
    sums = []
    for path in files:
        with path.open("rb") as file:
            sums.append(hashlib.file_digest(file, "sha256").hexdigest())
    if len(sums) < 2:
        return sums[0] if sums else None
    lines = "".join(f"{found}  {path.name}\n" for found, path in zip(sums, files, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def load_strictly(module: nn.Module, tensors: dict[str, Tensor], *, what: str) -> None:
    """Load exactly these tensors, converted to the module's precision.

    `what` names the tensors in errors. ValueError when a name is missing or surplus or a shape differs;
    the module is unchanged then.
    """
    expected = module.state_dict()
    missing, surplus = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or surplus:
        raise ValueError(f"{what} does not fit the model: missing {_some(missing)}; surplus {_some(surplus)}")
    for name, target in expected.items():
        check_shape(name, target, tensors[name], what=what)
    module.load_state_dict(tensors)


def fit_positions(
    source: Float[Tensor, "1 S E"], target: Float[Tensor, "1 T D"], *, num_prefix: int, interpolation: str
) -> Float[Tensor, "1 T D"] | None:
    """`source` position embeddings on the square grid of `target`; None when it holds no such grid.

    `num_prefix` leading entries of `target` belong to CLS and registers. Where the source has fewer, the
    target's own stay. Resampling is antialiased.
    """
    if source.shape[-1] != target.shape[-1]:
        return None
    side = math.isqrt(target.shape[1] - num_prefix)
    for known in sorted({num_prefix, min(num_prefix, 1), 0}, reverse=True):
        source_side = math.isqrt(max(source.shape[1] - known, 0))
        if source_side == 0 or source_side**2 != source.shape[1] - known:
            continue
        patches = resample_abs_pos_embed(
            source[:, known:],
            new_size=[side, side],
            old_size=[source_side, source_side],
            num_prefix_tokens=0,
            interpolation=interpolation,
        )
        return torch.cat([source[:, :known], target[:, known:num_prefix], patches], dim=1)
    return None


def check_shape(name: str, target: Tensor, value: Tensor, *, what: str) -> None:
    """ValueError naming the tensor, the expected shape and the given one."""
    if target.shape != value.shape:
        raise ValueError(f"{what}: {name} should have shape {list(target.shape)}, got {list(value.shape)}")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5]) or "nothing"
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
