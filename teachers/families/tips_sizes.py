"""How large a TIPS model is: the released sizes, and what the tensors of a file or the settings of a folder say.

Legend: D width, N patches of the position grid, p patch size, V vocabulary, M width of an MLP.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from distill.encoders.text_tips import VOCABULARY

CONTEXT_LENGTH = 64
HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16, 1536: 24}
"""Attention heads by the width of the released models, in both towers (tipsv2.md section 9). No tensor shows them."""

HEAD_WIDTH = 64
"""Of models as wide as none that is released: every released one but So400m has heads of this width."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of both towers, which are equally wide."""

    width: int
    depth: int
    num_heads: int
    mlp_width: int
    """What the first linear layer of an MLP returns; with SwiGLU gate and value together."""
    swiglu: bool = False
    patch_size: int = 14
    grid: int = 32
    """Rows and columns of position embeddings."""
    text_depth: int = 12
    text_heads: int
    text_mlp_width: int
    vocabulary: int = VOCABULARY
    context_length: int = CONTEXT_LENGTH


def _released(width: int, depth: int, mlp_width: int, **other: int) -> Sizes:
    heads = HEADS[width]
    sizes = {"width": width, "depth": depth, "num_heads": heads, "mlp_width": mlp_width}
    return Sizes(**sizes | {"text_heads": heads, "text_mlp_width": mlp_width} | other)


RELEASED = {
    "s14": _released(384, 12, 1536),
    "b14": _released(768, 12, 3072),
    "l14": _released(1024, 24, 4096),
    "so14": _released(1152, 27, 4304, text_depth=27),
    "g14": _released(1536, 40, 8192, swiglu=True, text_mlp_width=6144),
}
"""By the names of the released files. s14 is of TIPS only."""


def sizes_of(vision: Mapping[str, Tensor], text: Mapping[str, Tensor], *, vision_file: Path, text_file: Path) -> Sizes:
    """What the shapes of both towers' tensors, under their released names, say; the files are named in errors.

    ValueError, naming the tensor, where one is missing or has a shape that no TIPS model has.
    """
    swiglu = "blocks.0.mlp.w12.weight" in vision
    positions = _shape(vision, "pos_embed", "1 1+N D", vision_file)
    kernel = _shape(vision, "patch_embed.proj.weight", "D 3 p p", vision_file)
    inner = _shape(vision, f"blocks.0.mlp.{'w12' if swiglu else 'fc1'}.weight", "M D", vision_file)
    tokens = _shape(text, "token_embedding.weight", "V D", text_file)
    text_inner = _shape(text, "transformer.resblocks.0.mlp.c_fc.weight", "M D", text_file)
    width, grid = positions[2], math.isqrt(max(positions[1] - 1, 0))
    if grid**2 + 1 != positions[1] or grid == 0:
        raise ValueError(f"{vision_file}: pos_embed should hold CLS and a square of patches, got {list(positions)}")
    if tokens[1] != width:
        raise ValueError(f"{vision_file} is {width} wide and {text_file} {tokens[1]}: they are no pair")
    return Sizes(
        width=width,
        depth=_depth(vision, "blocks."),
        num_heads=_heads(width, vision_file),
        mlp_width=inner[0],
        swiglu=swiglu,
        patch_size=kernel[2],
        grid=grid,
        text_depth=_depth(text, "transformer.resblocks."),
        text_heads=_heads(width, text_file),
        text_mlp_width=text_inner[0],
        vocabulary=tokens[0],
    )


def _shape(tensors: Mapping[str, Tensor], name: str, axes: str, file: Path) -> tuple[int, ...]:
    if name not in tensors:
        raise ValueError(f"{file} lacks the tensor {name}")
    shape, expected = tuple(tensors[name].shape), axes.split()
    if len(shape) != len(expected):
        raise ValueError(f"{file}: {name} should have shape [{', '.join(expected)}], got {list(shape)}")
    return shape


def _depth(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Blocks up to the last that the file has a tensor of; strict loading misses what it lacks of them."""
    return 1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in tensors if name.startswith(prefix))


def _heads(width: int, file: Path) -> int:
    if width not in HEADS and width % HEAD_WIDTH:
        raise ValueError(
            f"{file} is {width} wide: no released TIPS is, and heads of {HEAD_WIDTH} do not divide that; their widths "
            f"are {', '.join(map(str, HEADS))}"
        )
    return HEADS.get(width, width // HEAD_WIDTH)
