"""Vision transformers of timm in the key layout of the released TIPS files, which DINOv2's is too.

Legend: N patches of the position grid, R registers, D width, F width inside an MLP.
"""

import math
from dataclasses import dataclass

import torch
from timm.layers import Attention, GluMlp, LayerScale, Mlp
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from distill.contracts import ImageEncoder
from distill.encoders.vit import TimmViT

IN_RELEASE = {".mlp.fc1.": ".mlp.w12.", ".mlp.fc2.": ".mlp.w3."}
"""Names of a gated MLP."""


@dataclass(frozen=True, kw_only=True)
class PlainViT:
    """What the layout's tensors do not show, and the tensors."""

    depth: int
    num_heads: int
    num_registers: int
    inner: int
    """F; of a gated MLP that of the gate alone."""
    gated: bool
    epsilon: float
    tensors: dict[str, Tensor]


def why_not_plain(tower: ImageEncoder) -> str | None:
    """What the layout has no place for; None for a tower that it holds."""
    if not isinstance(tower, TimmViT) or type(tower.model) is not VisionTransformer:
        return "its image tower is no plain vision transformer"
    model = tower.model
    grid = model.patch_embed.grid_size
    problems = {
        "its image tower pools by attention": model.attn_pool is not None,
        "its image tower has no class token": model.cls_token is None,
        "its image tower has no square of learnt positions": model.pos_embed is None or grid[0] != grid[1],
        "its image tower has a norm before its first block": not _all_identity(model.norm_pre, model.patch_embed.norm),
        "its patches have no bias": model.patch_embed.proj.bias is None,
    }
    found = [problem for problem, holds in problems.items() if holds]
    found += [said for block in model.blocks if (said := _why_not_plain(block)) is not None]
    if not found and len({norm.eps for norm in _norms(model)}) > 1:
        found.append("its norms have several epsilons")
    return found[0] if found else None


def plain(tower: TimmViT) -> PlainViT:
    """The tower in the released layout. It has to be one for which `why_not_plain` finds nothing.

    A missing bias is zeros, a missing layer scale ones. Positions that timm adds to registers become part of them.
    """
    model, first = tower.model, tower.model.blocks[0]
    gated = isinstance(first.mlp, GluMlp)
    tensors = dict(model.state_dict())
    cls, positions = tensors.pop("cls_token"), tensors.pop("pos_embed")
    registers = tensors.pop("reg_token", cls[:, :0])
    of_cls, of_registers, of_patches = _split(positions, tower.num_positioned_prefix)
    tensors |= {
        "cls_token": cls,
        "register_tokens": registers if of_registers is None else registers + of_registers,
        "pos_embed": torch.cat([torch.zeros_like(cls) if of_cls is None else of_cls, of_patches], dim=1),
        "mask_token": tower.mask_token.detach()[0],
    }
    for number, block in enumerate(model.blocks):
        for scale in ("ls1", "ls2"):
            layer = block.get_submodule(scale)
            known = layer.gamma.detach() if isinstance(layer, LayerScale) else torch.ones(tower.width)
            tensors[f"blocks.{number}.{scale}.gamma"] = known
        tensors.setdefault(f"blocks.{number}.attn.qkv.bias", torch.zeros(3 * tower.width))
    return PlainViT(
        depth=len(model.blocks),
        num_heads=first.attn.num_heads,
        num_registers=registers.shape[1],
        inner=first.mlp.fc1.out_features // (2 if gated else 1),
        gated=gated,
        epsilon=model.norm.eps,
        tensors={_released(name) if gated else name: value for name, value in tensors.items()},
    )


def in_transformers(found: PlainViT) -> dict[str, Tensor]:
    """The tensors under the names that DINOv2 and the vision tower of TIPSv2 have in transformers."""
    tensors = dict(found.tensors)
    named = {
        "embeddings.cls_token": tensors.pop("cls_token"),
        "embeddings.mask_token": tensors.pop("mask_token"),
        "embeddings.position_embeddings": tensors.pop("pos_embed"),
    }
    registers = tensors.pop("register_tokens")
    if found.num_registers:
        named["embeddings.register_tokens"] = registers
    for name, value in tensors.items():
        for part, theirs in _THEIRS.items():
            name = name.replace(part, theirs)
        name = "layernorm." + name.removeprefix("norm.") if name.startswith("norm.") else name
        layer = name.split(".")[-2] if name.endswith((".weight", ".bias")) else ""
        parts = _PARTS.get(layer, (layer,))
        named |= {name.replace(layer, part): one for part, one in zip(parts, value.chunk(len(parts)), strict=True)}
    return named


_THEIRS = {
    "patch_embed.proj.": "embeddings.patch_embeddings.projection.",
    "blocks.": "encoder.layer.",
    ".attn.proj.": ".attention.o_proj.",
    ".attn.qkv.": ".attention.qkv.",
    ".ls1.gamma": ".layer_scale1.lambda1",
    ".ls2.gamma": ".layer_scale2.lambda1",
    ".mlp.w3.": ".mlp.down_proj.",
}
_PARTS = {"qkv": ("q_proj", "k_proj", "v_proj"), "w12": ("gate_proj", "up_proj")}


def _why_not_plain(block: nn.Module) -> str | None:
    if type(block) is not Block or type(block.attn) is not Attention:
        return f"its image tower is built of {type(block).__name__}"
    attention, mlp = block.attn, block.mlp
    gelu = type(mlp) is Mlp and isinstance(mlp.act, nn.GELU) and mlp.act.approximate == "none"
    silu = type(mlp) is GluMlp and isinstance(mlp.act, nn.SiLU) and not mlp.gate_last
    if not gelu and not silu:
        return f"its image tower has an MLP with {type(mlp.act).__name__}, where GELU or a SiLU gate is expected"
    if not _all_identity(attention.q_norm, attention.k_norm, attention.norm, mlp.norm) or attention.gate is not None:
        return "its image tower has norms or gates inside of its blocks"
    scales = (block.ls1, block.ls2)
    if not all(isinstance(scale, nn.Identity | LayerScale) for scale in scales) or attention.proj.bias is None:
        return "its blocks lack a bias or scale their branches in another way"
    if mlp.fc1.bias is None or mlp.fc2.bias is None:
        return "its MLPs have no bias"
    return None


def _norms(model: VisionTransformer) -> list[nn.LayerNorm]:
    return [model.norm, *(norm for block in model.blocks for norm in (block.norm1, block.norm2))]


def _all_identity(*modules: nn.Module) -> bool:
    return all(isinstance(module, nn.Identity) for module in modules)


def _split(positions: Tensor, num_prefix: int) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Positions of the class token, of registers and of patches; None for tokens that have none."""
    patches = positions[:, num_prefix:]
    if num_prefix == 0:
        return None, None, patches
    return positions[:, :1], positions[:, 1:num_prefix] if num_prefix > 1 else None, patches


def _released(name: str) -> str:
    for ours, theirs in IN_RELEASE.items():
        name = name.replace(ours, theirs)
    return name


def ratio(inner: int, width: int) -> int | float:
    """What `int(width * ratio)` makes `inner` of: an integer where it is one."""
    if inner % width == 0:
        return inner // width
    exact = inner / width
    return exact if math.floor(width * exact) == inner else (inner + 0.5) / width


def gated_ratio(inner: int, width: int) -> float | None:
    """The ratio of which transformers makes a gate `inner` wide: two thirds, rounded up to a multiple of 8."""
    whole = math.floor(inner * 3 / 2) / width
    for candidate in (whole, (math.floor(inner * 3 / 2) + 0.5) / width):
        if (int(int(width * candidate) * 2 / 3) + 7) // 8 * 8 == inner:
            return candidate
    return None
