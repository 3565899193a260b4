"""Vision transformers of timm behind the ImageEncoder contract.

Legend: B images, N patches, P prefix tokens (CLS and registers), T = P + N, C CLS tokens, D width.
"""

from dataclasses import replace

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from timm.layers import Attention, AttentionRope, resample_abs_pos_embed
from timm.models.eva import Eva, EvaAttention, EvaBlock
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from distill.config import ImageTower
from distill.contracts import ImageEncoder, Statistics, Tokens
from distill.encoders.dropping import only_visible, put_back, rope_of_visible, visible_patches
from distill.encoders.timm_names import create, known_name

PLAIN = (VisionTransformer, Eva)

OWN_ARGUMENTS = {
    "pretrained": "weights are never downloaded",
    "num_classes": "an encoder has no classifier",
    "global_pool": "an encoder returns every token",
    "img_size": "set data.image_size",
    "dynamic_img_size": "it is always on",
    "dynamic_img_pad": "pictures must be a multiple of the patch size",
    "patch_drop_rate": "every patch needs its token; hide patches with masking.ratio",
    "patch_size": "set patch_size of the tower",
    "embed_dim": "set width of the tower",
    "depth": "set depth of the tower",
    "num_heads": "set num_heads of the tower",
    "reg_tokens": "set num_cls of the tower",
    "num_reg_tokens": "set num_cls of the tower",
}
"""Arguments of timm models that do not belong in `extra`, and what to do instead."""


class TimmViT(ImageEncoder):
    """A timm ViT, with its pixel statistics and a mask token inside.

    CLS 1 is the class token, CLS 2 the first register (tipsv2.md section 9). Other registers see
    everything and are heard by nobody. Without a class token (SigLIP) CLS 1 is what attention pools from all tokens.
    `state_dict()` keeps timm's own names under `model.`.
    """

    can_hide = can_drop = gives_blocks = True

    def __init__(self, model: VisionTransformer | Eva, *, num_cls: int, statistics: Statistics, interpolation: str):
        """`interpolation`: how position embeddings are resampled, `bicubic` (timm) or `bilinear` (TIPSv2)."""
        super().__init__()
        self.model = model
        self.width = model.embed_dim
        self.num_cls = num_cls
        self.num_layers = len(model.blocks)
        self.num_positioned_prefix = 0 if model.no_embed_class else model.num_prefix_tokens
        self.patch_size = model.patch_embed.patch_size[0]
        self.interpolation = interpolation
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, self.width), std=0.02))
        self.keep_statistics(statistics)

    def forward(
        self,
        pixels: Float[Tensor, "B 3 H W"],
        hidden: Bool[Tensor, "B N"] | None = None,
        *,
        layers: tuple[int, ...] = (),
        drop: bool = False,
    ) -> Tokens:
        """Tokens after the final norm; hidden patches become the mask token before positions are added.

        `layers`: blocks, from 1 to `num_layers`, whose patches come along as the block leaves them, before the final
        norm. `drop` leaves hidden patches out instead: the blocks see prefix tokens and visible patches only, and nan
        stands in the places of the others. ValueError for a block that is not there, and when images to drop from
        do not all keep equally many patches.
        """
        self.check_blocks(layers)
        grid = self.grid(*pixels.shape[-2:])
        visible_BV = visible_patches(hidden) if drop and hidden is not None else None
        x_BTD = self._embed(pixels, hidden if visible_BV is None else None, grid)
        if visible_BV is not None:
            x_BTD = only_visible(x_BTD, visible_BV, num_prefix=self.model.num_prefix_tokens)
        kept = {}
        for number, (block, rope) in enumerate(zip(self.model.blocks, self._ropes(grid, visible_BV), strict=True), 1):
            x_BTD = self._run(block, x_BTD, rope)
            if number in layers:
                kept[number] = x_BTD[:, self.model.num_prefix_tokens :]
        tokens = replace(self._tokens(self.model.norm(x_BTD), grid), layers=tuple(kept[number] for number in layers))
        return tokens if visible_BV is None else _with_gaps(tokens, visible_BV)

    def values(self, pixels: Float[Tensor, "B 3 H W"]) -> Tokens:
        """Value features: in the last block every token attends to itself only; residual and MLP stay.

        tipsv2.md section 7, after MaskCLIP. Tokens are after the final norm.
        """
        grid = self.grid(*pixels.shape[-2:])
        x_BTD = self._embed(pixels, None, grid)
        for block, rope in zip(self.model.blocks[:-1], self._ropes(grid)[:-1], strict=True):
            x_BTD = self._run(block, x_BTD, rope)
        x_BTD = block_on_values(self.model.blocks[-1], x_BTD)
        return self._tokens(self.model.norm(x_BTD), grid)

    def intermediate(self, pixels: Float[Tensor, "B 3 H W"], blocks: tuple[int, ...]) -> tuple[Tokens, ...]:
        """Tokens as each of these blocks leaves them, from 1 to `num_layers`, behind the final norm.

        Raises ValueError for a block that is not there.
        """
        self.check_blocks(blocks)
        grid = self.grid(*pixels.shape[-2:])
        x_BTD = self._embed(pixels, None, grid)
        found = {}
        for number, (block, rope) in enumerate(zip(self.model.blocks, self._ropes(grid), strict=True), 1):
            x_BTD = self._run(block, x_BTD, rope)
            if number in blocks:
                found[number] = self._tokens(self.model.norm(x_BTD), grid)
        return tuple(found[number] for number in blocks)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of patches; ValueError unless both sides are multiples of the patch size."""
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"a picture of {height} x {width} pixels does not split into patches of {self.patch_size}; "
                f"use multiples of {self.patch_size}"
            )
        return height // self.patch_size, width // self.patch_size

    def blocks(self) -> list[nn.Module]:
        """Transformer blocks, first to last."""
        return list(self.model.blocks)

    def layer_of(self, parameter_name: str) -> int:
        """Depth of a parameter of this tower: 0 embeddings and tokens, i for block i of `num_layers`; what follows
        the last block counts with it."""
        parts = parameter_name.split(".")
        if parts[:2] == ["model", "blocks"]:
            return int(parts[2]) + 1
        return self.num_layers if parts[1:2] in (["norm"], ["attn_pool"]) else 0

    def set_gradient_checkpointing(self, enable: bool) -> None:
        """Recompute blocks in the backward pass instead of storing their activations."""
        self.model.set_grad_checkpointing(enable)

    def _embed(
        self, pixels: Float[Tensor, "B 3 H W"], hidden: Bool[Tensor, "B N"] | None, grid: tuple[int, int]
    ) -> Float[Tensor, "B T D"]:
        """What enters the first block."""
        model = self.model
        patches_BND = model.patch_embed(self.standardise(pixels)).flatten(1, 2)
        mask_token = self.mask_token.to(patches_BND.dtype)
        if hidden is not None:
            patches_BND = torch.where(hidden.unsqueeze(-1), mask_token, patches_BND)
        prefix_BPD = self._prefix(mask_token).expand(patches_BND.shape[0], -1, -1)
        if model.pos_embed is None:
            x_BTD = torch.cat([prefix_BPD, patches_BND], dim=1)
        elif model.no_embed_class:
            x_BTD = torch.cat([prefix_BPD, patches_BND + self._positions(grid)], dim=1)
        else:
            x_BTD = torch.cat([prefix_BPD, patches_BND], dim=1) + self._positions(grid)
        return model.norm_pre(model.pos_drop(x_BTD))

    def _prefix(self, mask_token: Tensor) -> Float[Tensor, "1 P D"]:
        """CLS and registers, none of which every model has."""
        tokens = [token for token in (self.model.cls_token, self.model.reg_token) if token is not None]
        return torch.cat([mask_token[:, :0], *tokens], dim=1)

    def _positions(self, grid: tuple[int, int]) -> Float[Tensor, "1 T D"]:
        """Position embeddings on this grid, with those of the prefix tokens where the model has them."""
        return resample_abs_pos_embed(
            self.model.pos_embed,
            new_size=list(grid),
            old_size=list(self.model.patch_embed.grid_size),
            num_prefix_tokens=self.num_positioned_prefix,
            interpolation=self.interpolation,
        )

    def _ropes(self, grid: tuple[int, int], visible_BV: Int[Tensor, "B V"] | None = None) -> list[Tensor | None]:
        """The rotary embedding of every block (None without), of visible patches where the others are dropped."""
        if isinstance(self.model, VisionTransformer) or self.model.rope is None:
            return [None] * self.num_layers
        rope = self.model.rope.get_embed(shape=list(grid))
        ropes = list(rope) if self.model.rope_mixed else [rope]
        if visible_BV is not None:
            ropes = [rope_of_visible(rope, visible_BV) for rope in ropes]
        return ropes if self.model.rope_mixed else ropes * self.num_layers

    def _run(self, block: nn.Module, x_BTD: Tensor, rope: Tensor | None) -> Tensor:
        arguments = (x_BTD,) if rope is None else (x_BTD, rope)
        if self.model.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *arguments, use_reentrant=False)
        return block(*arguments)

    def _tokens(self, x_BTD: Tensor, grid: tuple[int, int]) -> Tokens:
        pool = self.model.attn_pool
        cls = x_BTD[:, : self.num_cls] if pool is None else pool(x_BTD).unsqueeze(1)
        return Tokens(cls=cls, patches=x_BTD[:, self.model.num_prefix_tokens :], grid=grid)


def _with_gaps(tokens: Tokens, visible_BV: Int[Tensor, "B V"]) -> Tokens:
    """Tokens of visible patches only, on their whole grid."""
    rows, columns = tokens.grid
    patches, *layers = (
        put_back(part, visible_BV, num_patches=rows * columns) for part in (tokens.patches, *tokens.layers)
    )
    return replace(tokens, patches=patches, layers=tuple(layers))


def block_on_values(block: Block | EvaBlock, x_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
    """One pre-norm block whose attention map is the identity."""
    attention = block.attn
    x1_BTD = block.norm1(x_BTD)
    value_BTD = attention.norm(_value(attention, x1_BTD))
    if attention.gate is not None:
        value_BTD = value_BTD * attention.gate(x1_BTD).sigmoid()
    value_BTD = attention.proj(value_BTD)
    if isinstance(block, EvaBlock):
        x_BTD = x_BTD + (value_BTD if block.gamma_1 is None else block.gamma_1 * value_BTD)
        mlp_BTD = block.mlp(block.norm2(x_BTD))
        return x_BTD + (mlp_BTD if block.gamma_2 is None else block.gamma_2 * mlp_BTD)
    x_BTD = x_BTD + block.ls1(value_BTD)
    return x_BTD + block.ls2(block.mlp(block.norm2(x_BTD)))


def _value(attention: Attention | AttentionRope | EvaAttention, x_BTD: Tensor) -> Tensor:
    """The value projection alone: the last third of a fused qkv, or its own layer."""
    if attention.qkv is None:
        return attention.v_proj(x_BTD)
    weight = attention.qkv.weight.chunk(3)[2]
    if isinstance(attention, EvaAttention):
        return F.linear(x_BTD, weight, attention.v_bias)
    return F.linear(x_BTD, weight, None if attention.qkv.bias is None else attention.qkv.bias.chunk(3)[2])


def build_vit(settings: ImageTower, image_size: int, statistics: Statistics) -> TimmViT:
    """The tower with random weights, its position grid native to `image_size` pixels.

    A model without a class token keeps its attention pooling, where it has one (SigLIP), for a single CLS token.
    Raises ValueError for models that are not plain ViTs, arguments timm refuses, and sizes that do not fit the patches.
    """
    name = known_name(settings.model)
    arguments = _timm_arguments(settings, image_size)
    model = create_vit(name, arguments)
    if settings.num_cls == 2 and model.reg_token is None:
        registers = "reg_tokens" if isinstance(model, VisionTransformer) else "num_reg_tokens"
        model = create_vit(name, arguments | {registers: 1})
    if settings.num_cls == 2 and model.cls_token is None:
        raise ValueError(
            f"timm:{name} has no class token; give it one with extra.class_token=true, or set num_cls=1 where the "
            "model pools by attention"
        )
    for token in (model.cls_token, model.reg_token):
        if token is not None:
            # timm starts these at 1e-6, where two CLS tokens are twins until something tells them apart.
            nn.init.trunc_normal_(token, std=0.02)
    return wrap_vit(model, name, num_cls=settings.num_cls, statistics=statistics)


def create_vit(name: str, arguments: dict) -> VisionTransformer | Eva:
    """timm's model `name` with random weights, made with `arguments`, img_size among them, as an encoder.

    Raises ValueError when it is no plain ViT, lacks what a tower needs, or cannot be made.
    """
    # global_pool='' also puts the final norm where every token passes it.
    fixed = {"pretrained": False, "num_classes": 0, "global_pool": "", "dynamic_img_size": True}
    model = create(name, arguments | fixed)
    if type(model) in PLAIN and model.cls_token is None and _pools_by_attention(name):
        model = create(name, arguments | fixed | {"global_pool": "map"})
    _check_usable(model, name, arguments["img_size"])
    return model


def wrap_vit(model: VisionTransformer | Eva, name: str, *, num_cls: int | None, statistics: Statistics) -> TimmViT:
    """The model as a tower. Without `num_cls`, a class token and exactly one register are two CLS tokens, as in TIPS;
    else there is one."""
    if num_cls is None:
        num_cls = 2 if model.cls_token is not None and model.num_prefix_tokens == 2 else 1
    interpolation = "bilinear" if "tipsv2" in name else "bicubic"
    return TimmViT(model, num_cls=num_cls, statistics=statistics, interpolation=interpolation)


def _pools_by_attention(name: str) -> bool:
    with torch.device("meta"):
        return timm.create_model(name, pretrained=False).global_pool == "map"


def _timm_arguments(settings: ImageTower, image_size: int) -> dict:
    for key in settings.extra:
        if key in OWN_ARGUMENTS:
            raise ValueError(f"extra.{key} is not yours to set: {OWN_ARGUMENTS[key]}")
    sizes = {
        "patch_size": settings.patch_size,
        "embed_dim": settings.width,
        "depth": settings.depth,
        "num_heads": settings.num_heads,
    }
    chosen = {key: value for key, value in sizes.items() if value is not None}
    return settings.extra | chosen | {"img_size": image_size}


def _check_usable(model: nn.Module, name: str, image_size: int) -> None:
    if type(model) not in PLAIN:
        raise ValueError(f"timm:{name} is a {type(model).__name__}, not a plain vision transformer")
    if model.cls_token is None and model.attn_pool is None:
        raise ValueError(
            f"timm:{name} has no class token and no attention pooling; as a student, give it one with "
            "extra.class_token=true"
        )
    last = model.blocks[-1]
    if type(last) not in (Block, EvaBlock) or type(last.attn) not in (Attention, AttentionRope, EvaAttention):
        raise ValueError(f"timm:{name} has no value features: it is built of {type(last).__name__}; choose another ViT")
    if isinstance(last.attn, AttentionRope) and last.attn.num_kv_groups > 1:
        raise ValueError(f"timm:{name} has no value features: its heads share values; choose another ViT")
    patch_size = model.patch_embed.patch_size[0]
    if image_size % patch_size:
        raise ValueError(f"pictures of {image_size} pixels do not split into the {patch_size}-pixel patches of {name}")
