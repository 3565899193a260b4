"""Reading weights from files, and fitting them to a module: names, shapes and position grids are checked."""

import math
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn


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


def load_timm_weights(tower: nn.Module, path: Path | str) -> None:
    """Load a timm safetensors file into a TimmViT, strictly, converted to the tower's precision.

    The file's classifier is left out and the mask token keeps its start. Position embeddings of
    another grid are resampled. Any other missing, surplus or misshapen tensor is a ValueError.
    """
    tensors = _as_encoder(read_safetensors(path))
    positions = tower.model.pos_embed
    if positions is not None and "pos_embed" in tensors and tensors["pos_embed"].shape != positions.shape:
        fitted = fit_positions(
            tensors["pos_embed"].float(),
            positions.detach(),
            num_prefix=tower.num_positioned_prefix,
            interpolation=tower.interpolation,
        )
        tensors |= {} if fitted is None else {"pos_embed": fitted}
    load_strictly(tower.model, tensors, what=str(path))


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


def _as_encoder(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without classifier and pooling; a norm that sat behind the pooling is the encoder's final norm."""
    kept = {name: value for name, value in tensors.items() if not name.startswith(("head.", "attn_pool."))}
    if "norm.weight" in kept:
        return {name: value for name, value in kept.items() if not name.startswith("fc_norm.")}
    return {
        ("norm." + name.removeprefix("fc_norm.") if name.startswith("fc_norm.") else name): kept[name] for name in kept
    }


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5]) or "nothing"
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
