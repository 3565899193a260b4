"""Towers around open_clip's models: dense tokens in the space that pictures and texts share.

A patch token is what its place alone would give: the head that turns the whole picture into its embedding is applied
to every place as if nothing else were there. Norms, projections and MLPs act on each token anyway; an average, or an
attention pooling that has one token to look at, passes that token's value.

Legend: B images, N patches, P prefix tokens (class token, registers), T = P + N, M = B N places, D width of the trunk,
E width of the shared space, h x w feature map, L caption tokens.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, TextTransformer, VisionTransformer
from timm.models import eva, vision_transformer
from torch import Tensor, nn

from distill.contracts import ImageEncoder, Statistics, TextEncoder, Tokens
from distill.encoders.convnet import NO_BLOCKS, depths
from distill.encoders.vit import block_on_values
from teachers.families.pretrained import sees_everything

MOST_AT_ONCE = 1 << 15
"""Places per call of a head: CUDA's attention kernels take fewer than 65,536 sequences."""

BEHIND_BLOCKS = ("norm", "fc_norm", "attn_pool", "head")
"""Parts of timm's transformers that follow the last block."""


class ClipViT(ImageEncoder):
    """open_clip's own vision transformer. Patches pass `ln_post` and `proj`, as the class token does."""

    gives_blocks = True

    def __init__(self, visual: VisionTransformer, *, statistics: Statistics):
        super().__init__()
        self.visual = visual
        self.width = visual.output_dim
        self.num_cls = 1
        self.patch_size = visual.patch_size[0]
        self.num_layers = len(visual.transformer.resblocks)
        self.keep_statistics(statistics)

    def forward(self, pixels: Float[Tensor, "B 3 H W"], hidden: Bool[Tensor, "B N"] | None = None) -> Tokens:
        sees_everything(hidden)
        grid = self.grid(*pixels.shape[-2:])
        return self._tokens(self.visual.transformer(self._embed(pixels, grid)), grid)

    def values(self, pixels: Float[Tensor, "B 3 H W"]) -> Tokens:
        grid = self.grid(*pixels.shape[-2:])
        x_BTD = self._embed(pixels, grid)
        *blocks, last = self.visual.transformer.resblocks
        for block in blocks:
            x_BTD = block(x_BTD)
        return self._tokens(_clip_block_on_values(last, x_BTD), grid)

    def intermediate(self, pixels: Float[Tensor, "B 3 H W"], blocks: tuple[int, ...]) -> tuple[Tokens, ...]:
        """Tokens as each of these blocks leaves them, behind `ln_post` and `proj`; ValueError for one not there."""
        self.check_blocks(blocks)
        grid, found = self.grid(*pixels.shape[-2:]), {}
        x_BTD = self._embed(pixels, grid)
        for number, block in enumerate(self.visual.transformer.resblocks, 1):
            x_BTD = block(x_BTD)
            if number in blocks:
                found[number] = self._tokens(x_BTD, grid)
        return tuple(found[number] for number in blocks)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of patches; ValueError unless both sides are multiples of the patch size."""
        return split(height, width, self.patch_size)

    def layer_of(self, parameter_name: str) -> int:
        """Depth: 0 embeddings, i for block i; `ln_post` and `proj` count with the last of `num_layers`."""
        parts = parameter_name.split(".")
        if parts[1:3] == ["transformer", "resblocks"]:
            return int(parts[3]) + 1
        return self.num_layers if parts[1] in ("ln_post", "proj") else 0

    def _embed(self, pixels: Float[Tensor, "B 3 H W"], grid: tuple[int, int]) -> Float[Tensor, "B T D"]:
        visual = self.visual
        patches_BND = visual.conv1(self.standardise(pixels)).flatten(2).transpose(1, 2)
        cls_B1D = visual.class_embedding.to(patches_BND.dtype).expand(len(pixels), 1, -1)
        x_BTD = torch.cat([cls_B1D, patches_BND], dim=1)
        return visual.ln_pre(x_BTD + self._positions(grid).to(x_BTD.dtype))

    def _positions(self, grid: tuple[int, int]) -> Float[Tensor, "T D"]:
        """Position embeddings on this grid, resampled as open_clip does when it loads weights of another size."""
        native, positions_TD = self.visual.grid_size, self.visual.positional_embedding
        if grid == native:
            return positions_TD
        map_1Dhw = positions_TD[1:].T.unflatten(1, native).unsqueeze(0)
        map_1Dhw = F.interpolate(map_1Dhw, size=grid, mode="bicubic", antialias=True, align_corners=False)
        return torch.cat([positions_TD[:1], map_1Dhw[0].flatten(1).T])

    def _tokens(self, x_BTD: Float[Tensor, "B T D"], grid: tuple[int, int]) -> Tokens:
        visual = self.visual
        normed_BTD = visual.ln_post(x_BTD)
        if visual.pool_type == "tok":
            pooled_BD = normed_BTD[:, 0]
        elif visual.final_ln_after_pool:
            pooled_BD = visual.ln_post(x_BTD[:, 1:].mean(dim=1))
        else:
            pooled_BD = normed_BTD[:, 1:].mean(dim=1)
        return Tokens(cls=(pooled_BD @ visual.proj).unsqueeze(1), patches=normed_BTD[:, 1:] @ visual.proj, grid=grid)


class TimmTransformer(ImageEncoder):
    """A plain ViT of timm as open_clip's image tower: SigLIP, SigLIP2, PE-Core, EVA, MobileCLIP-B, ViTamin.

    The trunk must have been made with `dynamic_img_size=True`; timm then resamples its positions itself.
    """

    gives_blocks = True

    def __init__(self, visual: TimmModel, *, width: int, statistics: Statistics):
        """`width` is that of the shared space."""
        super().__init__()
        self.visual = visual
        self.width = width
        self.num_cls = 1
        self.patch_size = visual.trunk.patch_embed.feat_ratio()
        self.num_layers = len(visual.trunk.blocks)
        self.keep_statistics(statistics)

    def forward(self, pixels: Float[Tensor, "B 3 H W"], hidden: Bool[Tensor, "B N"] | None = None) -> Tokens:
        sees_everything(hidden)
        grid = self.grid(*pixels.shape[-2:])
        return self._tokens(self.visual.trunk.forward_features(self.standardise(pixels)), grid)

    def values(self, pixels: Float[Tensor, "B 3 H W"]) -> Tokens:
        grid = self.grid(*pixels.shape[-2:])
        trunk = self.visual.trunk
        x_BTD = _after_blocks(trunk, self.standardise(pixels), (self.num_layers - 1,))[0]
        return self._tokens(trunk.norm(block_on_values(trunk.blocks[-1], x_BTD)), grid)

    def intermediate(self, pixels: Float[Tensor, "B 3 H W"], blocks: tuple[int, ...]) -> tuple[Tokens, ...]:
        """Tokens as each of these blocks leaves them, behind norm, pooling and head; ValueError for one not there."""
        self.check_blocks(blocks)
        grid, trunk, needed = self.grid(*pixels.shape[-2:]), self.visual.trunk, tuple(sorted(set(blocks)))
        left = _after_blocks(trunk, self.standardise(pixels), needed)
        found = {number: self._tokens(trunk.norm(x_BTD), grid) for number, x_BTD in zip(needed, left, strict=True)}
        return tuple(found[number] for number in blocks)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of patches; ValueError unless both sides are multiples of the patch size."""
        return split(height, width, self.patch_size)

    def layer_of(self, parameter_name: str) -> int:
        """Depth: 0 embeddings, i for block i; norms, pooling and heads count with the last of `num_layers`."""
        parts = parameter_name.split(".")
        if parts[1:3] == ["trunk", "blocks"]:
            return int(parts[3]) + 1
        behind = parts[1:2] == ["head"] or (parts[1:2] == ["trunk"] and parts[2] in BEHIND_BLOCKS)
        return self.num_layers if behind else 0

    def _tokens(self, x_BTD: Float[Tensor, "B T D"], grid: tuple[int, int]) -> Tokens:
        num_prefix = self.visual.trunk.num_prefix_tokens
        # A picture of which every token says the same: whatever the pooling leaves out, it cannot leave out this.
        same_MTD = x_BTD[:, num_prefix:].flatten(0, 1).unsqueeze(1).expand(-1, num_prefix + 1, -1)
        return _pooled(self.visual, x_BTD, same_MTD, grid)


class TimmMap(ImageEncoder):
    """A network of timm that ends in a feature map, as open_clip's image tower: ConvNeXt, ResNet, FastViT (MobileCLIP).

    `patch_size` is the map's stride.
    """

    def __init__(self, visual: TimmModel, *, width: int, statistics: Statistics):
        """`width` is that of the shared space."""
        super().__init__()
        self.visual = visual
        self.width = width
        self.num_cls = 1
        self.patch_size = visual.trunk.feature_info[-1]["reduction"]
        self._layers = depths(visual.trunk)
        self.num_layers = max(self._layers.values())
        self.keep_statistics(statistics)

    def forward(self, pixels: Float[Tensor, "B 3 H W"], hidden: Bool[Tensor, "B N"] | None = None) -> Tokens:
        sees_everything(hidden)
        grid = self.grid(*pixels.shape[-2:])
        map_BDhw = self.visual.trunk.forward_features(self.standardise(pixels))
        alone_MD11 = map_BDhw.flatten(2).transpose(1, 2).flatten(0, 1)[..., None, None]
        return _pooled(self.visual, map_BDhw, alone_MD11, grid)

    def values(self, pixels: Float[Tensor, "B 3 H W"]) -> Tokens:
        """The same as `forward`: convolutions have no attention to leave out, and FastViT's sits among them."""
        return self(pixels)

    def intermediate(self, pixels: Float[Tensor, "B 3 H W"], blocks: tuple[int, ...]) -> tuple[Tokens, ...]:
        """ValueError: what earlier stages say lives in no space that the last one's tokens share."""
        raise ValueError(NO_BLOCKS)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of the last feature map; ValueError unless both sides are multiples of its stride."""
        return split(height, width, self.patch_size)

    def layer_of(self, parameter_name: str) -> int:
        """Depth as timm groups them: 0 the stem, then stages; what follows counts with the last of `num_layers`."""
        if parameter_name.startswith("visual.trunk."):
            return self._layers[parameter_name.removeprefix("visual.trunk.")]
        return self.num_layers


class ClipText(TextEncoder):
    """open_clip's text transformer and the tokenizer of its model, which is looked for when first needed."""

    def __init__(self, model: TextTransformer, *, width: int, find_tokenizer: Callable[[], Any]):
        """`find_tokenizer` returns one of open_clip's tokenizers, always the same, or raises ValueError."""
        super().__init__()
        self.model = model
        self.width = width
        self.num_layers = len(model.transformer.resblocks)
        self._find_tokenizer = find_tokenizer

    def tokenize(self, texts: list[str]) -> Int[Tensor, "B L"]:
        """What open_clip's tokenizer returns; ValueError when it cannot be had, or is another model's."""
        tokenizer = self._find_tokenizer()
        if not texts:
            return torch.zeros(0, self.model.context_length, dtype=torch.long)
        ids = tokenizer(texts)
        if ids.max() >= self.model.vocab_size:
            raise ValueError(
                f"the tokenizer gives token {ids.max()}, but the text tower knows {self.model.vocab_size} tokens: "
                "it belongs to another model; check hf_tokenizer_name in open_clip_config.json"
            )
        return ids

    def forward(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        return self.model(ids)

    def layer_of(self, parameter_name: str) -> int:
        """Depth of a parameter: 0 embeddings, i for block i of `num_layers`; what follows counts with the last."""
        parts = parameter_name.split(".")
        if parts[1:3] == ["transformer", "resblocks"]:
            return int(parts[3]) + 1
        return self.num_layers if parts[1] in ("ln_final", "text_projection") else 0


def image_tower(visual: nn.Module, *, width: int, statistics: Statistics) -> ImageEncoder:
    """The tower around open_clip's image tower, `width` that of the shared space.

    ValueError, naming what it is built of, where a place of the picture has no embedding of its own.
    """
    if isinstance(visual, VisionTransformer):
        _check_clip(visual)
        return ClipViT(visual, statistics=statistics)
    if not isinstance(visual, TimmModel):
        raise ValueError(f"its image tower is a {type(visual).__name__}, which pools by attention over a fixed grid")
    if "pool" in dict(visual.head.named_children()):
        raise ValueError(f"its image tower pools by {type(visual.head.pool).__name__}, which has a fixed grid")
    if is_plain(visual.trunk):
        _check_plain(visual.trunk)
        return TimmTransformer(visual, width=width, statistics=statistics)
    _check_map(visual.trunk)
    return TimmMap(visual, width=width, statistics=statistics)


def is_plain(trunk: nn.Module) -> bool:
    """Whether it is a vision transformer of timm that takes `dynamic_img_size`."""
    return type(trunk) in (vision_transformer.VisionTransformer, eva.Eva)


def split(height: int, width: int, patch_size: int) -> tuple[int, int]:
    """(rows, columns) of patches; ValueError unless both sides are multiples of `patch_size`."""
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"a picture of {height} x {width} pixels does not split into patches of {patch_size}; "
            f"use multiples of {patch_size}"
        )
    return height // patch_size, width // patch_size


def _pooled(visual: TimmModel, whole: Tensor, alone: Tensor, grid: tuple[int, int]) -> Tokens:
    """What trunk and head make of the whole picture, and of every place alone."""
    cls_BE = visual.head(visual.trunk.forward_head(whole))
    parts = [visual.head(visual.trunk.forward_head(part)) for part in alone.split(MOST_AT_ONCE)]
    return Tokens(cls=cls_BE.unsqueeze(1), patches=torch.cat(parts).unflatten(0, (len(whole), -1)), grid=grid)


def _after_blocks(
    trunk: vision_transformer.VisionTransformer | eva.Eva, pixels: Float[Tensor, "B 3 H W"], blocks: tuple[int, ...]
) -> list[Float[Tensor, "B T D"]]:
    """Every token as these blocks, counted from 1 and rising, leave it; no block runs after the last of them."""
    has_prefix = trunk.num_prefix_tokens > 0
    found = trunk.forward_intermediates(
        pixels,
        indices=[number - 1 for number in blocks],
        return_prefix_tokens=has_prefix,
        stop_early=True,
        output_fmt="NLC",
        intermediates_only=True,
    )
    return [torch.cat([each[1], each[0]], dim=1) for each in found] if has_prefix else found


def _clip_block_on_values(block: ResidualAttentionBlock, x_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
    """One block whose attention map is the identity."""
    attention = block.attn
    weight, bias = attention.in_proj_weight.chunk(3)[2], attention.in_proj_bias.chunk(3)[2]
    x_BTD = x_BTD + block.ls_1(attention.out_proj(F.linear(block.ln_1(x_BTD), weight, bias)))
    return x_BTD + block.ls_2(block.mlp(block.ln_2(x_BTD)))


def _check_clip(visual: VisionTransformer) -> None:
    if visual.attn_pool is not None or visual.pool_type == "none":
        raise ValueError("its image tower pools by CoCa's learnt queries, which mix all places")
    if visual.patch_size[0] != visual.patch_size[1]:
        raise ValueError(f"its patches of {visual.patch_size[0]} x {visual.patch_size[1]} pixels are not squares")
    last = visual.transformer.resblocks[-1]
    if type(last) is not ResidualAttentionBlock:
        raise ValueError(f"its image tower has no value features: it is built of {type(last).__name__}")


def _check_plain(trunk: nn.Module) -> None:
    last = trunk.blocks[-1]
    attentions = (vision_transformer.Attention, eva.AttentionRope, eva.EvaAttention)
    if type(last) not in (vision_transformer.Block, eva.EvaBlock) or type(last.attn) not in attentions:
        raise ValueError(f"its image tower has no value features: it is built of {type(last).__name__}")
    if isinstance(last.attn, eva.AttentionRope) and last.attn.num_kv_groups > 1:
        raise ValueError("its image tower has no value features: its heads share values")
    if len(trunk.blocks) < 2:
        raise ValueError("its image tower has one block; two are the fewest")
    if not trunk.global_pool:
        raise ValueError("its image tower pools nothing (timm_pool is empty and so is the trunk's own)")


def _check_map(trunk: nn.Module) -> None:
    """Show it one black picture: networks differ too much in what they return for names to tell."""
    name = type(trunk).__name__
    if not hasattr(trunk, "feature_info") or not hasattr(trunk, "forward_head"):
        raise ValueError(f"its image tower is a {name}, which names no feature map to take patches from")
    side = 2 * trunk.feature_info[-1]["reduction"]
    problem = f"its image tower is a {name}, neither a plain vision transformer nor a network that takes any size"
    trunk.eval()
    try:
        with torch.no_grad():
            found = trunk.forward_features(torch.zeros(1, 3, side, side))
    except (RuntimeError, AssertionError) as refusal:
        raise ValueError(f"{problem}: {str(refusal).splitlines()[0]}") from refusal
    if not isinstance(found, Tensor) or found.shape != (1, trunk.num_features, 2, 2):
        raise ValueError(f"{problem} and ends in a feature map with channels first")
