"""Weights in safetensors files: what becomes of names, precision and size."""

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from distill.publish.student import Dtype, stored


def save(tensors: dict[str, Tensor], path: Path, *, dtype: Dtype) -> None:
    """One file that anybody may read, each tensor in `dtype` where that loses nothing."""
    save_file({name: stored(value, dtype) for name, value in tensors.items()}, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors makes them private
