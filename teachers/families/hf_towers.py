"""Vision and text models of transformers behind the encoder contracts.

Legend: B images or texts, N patches, T tokens of the model (N and what it puts before them), L caption tokens, D width,
p patch size, h x w patch grid.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from distill.contracts import ImageEncoder, Statistics, TextEncoder, Tokens
from distill.encoders.convnet import NO_BLOCKS
from teachers.families.pretrained import sees_everything

BEFORE_THE_LAYERS = ("embeddings", "pre_layrnorm")
"""Modules that come before the first layer; whatever else is outside the layers comes after the last."""

TEXT_LAYERS = "encoder.layers"


@dataclass(frozen=True)
class Layout:
    """How to ask one architecture for its tokens, and where its parts are."""

    run: Callable[[nn.Module, Tensor, tuple[int, int]], Any]
    """(model, standardised pixels, grid) to the model's own output."""
    read: Callable[[nn.Module, Any, int], tuple[Tensor, Tensor]]
    """(model, its output, N) to (CLS token [B, 1, D], patches [B, N, D])."""
    layers: str
    """Path of its list of layers."""
    attention: str | None
    """Path of the attention inside a layer; None for convnets."""
    out_proj: str = "o_proj"
    """What the attention calls its last linear layer; the value's is `v_proj` everywhere."""
    norm: str = ""
    """Path of the norm behind the last layer, which every token passes; of models that have layers of one width."""
    pooling: str = ""
    """Path of the attention pooling that makes the CLS token of the normed patches; empty where there is a CLS token.
    """


class HfImage(ImageEncoder):
    """An image model of transformers, with its pixel statistics inside. `state_dict()` keeps its names under `model.`.

    One CLS token; registers are dropped. `projection` takes CLS and patches alike into the space of a text tower.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        layout: Layout,
        width: int,
        patch_size: int,
        statistics: Statistics,
        projection: nn.Linear | None,
    ):
        """`width` is that of the tokens, behind the projection where there is one."""
        super().__init__()
        self.model = model
        self.projection = projection
        self.layout = layout
        self.width = width
        self.num_cls = 1
        self.patch_size = patch_size
        self.num_layers = len(model.get_submodule(layout.layers))
        self.gives_blocks = layout.attention is not None
        self.keep_statistics(statistics)

    def forward(self, pixels: Float[Tensor, "B 3 H W"], hidden: Bool[Tensor, "B N"] | None = None) -> Tokens:
        """Tokens after the final norm. Position embeddings are resampled by the model itself."""
        sees_everything(hidden)
        grid = self.grid(*pixels.shape[-2:])
        output = self.layout.run(self.model, self.standardise(pixels), grid)
        return self._projected(*self.layout.read(self.model, output, grid[0] * grid[1]), grid)

    def values(self, pixels: Float[Tensor, "B 3 H W"]) -> Tokens:
        """Value features: in the last layer every token attends to itself only; residual and MLP stay.

        tipsv2.md section 7, after MaskCLIP. Convnets have no attention: their tokens are those of `forward`.
        """
        if self.layout.attention is None:
            return self(pixels)
        last = self.model.get_submodule(self.layout.layers)[-1]
        attention = last.get_submodule(self.layout.attention)
        hook = attention.register_forward_hook(_attending_to_itself(self.layout.out_proj), with_kwargs=True)
        try:
            return self(pixels)
        finally:
            hook.remove()

    def intermediate(self, pixels: Float[Tensor, "B 3 H W"], blocks: tuple[int, ...]) -> tuple[Tokens, ...]:
        """Tokens as each of these layers leaves them, from 1 to `num_layers`, behind the final norm, and the pooling
        and the projection where there are any.

        Raises ValueError for a layer that is not there, and for convnets.
        """
        if not self.gives_blocks:
            raise ValueError(NO_BLOCKS)
        self.check_blocks(blocks)
        grid, found = self.grid(*pixels.shape[-2:]), {}
        layers = self.model.get_submodule(self.layout.layers)
        hooks = [layers[number - 1].register_forward_hook(_keeping(found, number)) for number in set(blocks)]
        try:
            self.layout.run(self.model, self.standardise(pixels), grid)
        finally:
            for hook in hooks:
                hook.remove()
        return tuple(self._as_if_last(found[number], grid) for number in blocks)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of patches; ValueError unless both sides are multiples of the patch size."""
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"a picture of {height} x {width} pixels does not split into patches of {self.patch_size}; "
                f"use multiples of {self.patch_size}"
            )
        return height // self.patch_size, width // self.patch_size

    def layer_of(self, parameter_name: str) -> int:
        """Depth of a parameter: 0 embeddings, i for layer (of a convnet: stage) i of `num_layers`; norms, pooling and
        projection behind the last count with it."""
        return _depth(parameter_name, layers=self.layout.layers, num_layers=self.num_layers)

    def _as_if_last(self, x_BTD: Float[Tensor, "B T D"], grid: tuple[int, int]) -> Tokens:
        """What the model makes of a layer's tokens when no layer follows."""
        normed_BTD = self.model.get_submodule(self.layout.norm)(x_BTD)
        if self.layout.pooling:
            cls = self.model.get_submodule(self.layout.pooling)(normed_BTD).unsqueeze(1)
        else:
            cls = normed_BTD[:, :1]
        return self._projected(cls, normed_BTD[:, -grid[0] * grid[1] :], grid)

    def _projected(self, cls: Tensor, patches: Tensor, grid: tuple[int, int]) -> Tokens:
        if self.projection is not None:
            cls, patches = self.projection(cls), self.projection(patches)
        return Tokens(cls=cls, patches=patches, grid=grid)


class HfText(TextEncoder):
    """A text model of transformers with its tokenizer: what `get_text_features` of the two-tower model returns.

    Padding is not masked: SigLIP was trained to read it, and CLIP is causal and reads what comes before.
    """

    def __init__(self, model: nn.Module, *, width: int, projection: nn.Linear | None, tokenizer: Any | None):
        """`tokenizer` is one of transformers; without one (random weights) only ids are accepted."""
        super().__init__()
        self.model = model
        self.projection = projection
        self.tokenizer = tokenizer
        self.width = width
        self.context_length = model.config.max_position_embeddings
        self.num_layers = len(model.get_submodule(TEXT_LAYERS))
        # SigLIP2 was trained on lower-cased text. Its files say so, but the tokenizer they name does not do it.
        self.lower_case = tokenizer is not None and bool(tokenizer.init_kwargs.get("do_lower_case", False))

    def tokenize(self, texts: list[str]) -> Int[Tensor, "B L"]:
        """Token ids with the tokenizer's own start and end, cut or padded to the context length."""
        if self.tokenizer is None:
            raise ValueError("this text tower was built without a tokenizer; put its files beside its config.json")
        if not texts:
            return torch.zeros(0, self.context_length, dtype=torch.long)
        if self.lower_case:
            texts = [text.lower() for text in texts]
        rows = self.tokenizer(texts, padding="max_length", truncation=True, max_length=self.context_length)
        return torch.tensor(rows["input_ids"], dtype=torch.long)

    def forward(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        pooled = self.model(input_ids=ids).pooler_output
        return pooled if self.projection is None else self.projection(pooled)

    def layer_of(self, parameter_name: str) -> int:
        """Depth of a parameter: 0 embeddings, i for layer i of `num_layers`; what follows counts with the last."""
        return _depth(parameter_name, layers=TEXT_LAYERS, num_layers=self.num_layers)


def _depth(parameter_name: str, *, layers: str, num_layers: int) -> int:
    name = parameter_name.removeprefix("model.")
    if name.startswith(f"{layers}."):
        return int(name.removeprefix(f"{layers}.").split(".")[0]) + 1
    return 0 if name.split(".")[0] in BEFORE_THE_LAYERS else num_layers


def _attending_to_itself(out_proj: str) -> Callable:
    """A forward hook that answers for an attention module as if its attention map were the identity."""

    def hook(attention: nn.Module, args: tuple, kwargs: dict, output: tuple) -> tuple[Tensor, None]:
        x_BTD = args[0] if args else kwargs["hidden_states"]
        return attention.get_submodule(out_proj)(attention.v_proj(x_BTD)), None

    return hook


def _keeping(found: dict[int, Tensor], number: int) -> Callable:
    """A forward hook that keeps what a layer returns."""

    def hook(layer: nn.Module, args: tuple, output: Tensor) -> None:
        found[number] = output

    return hook


def _run_plain(model: nn.Module, pixels: Float[Tensor, "B 3 H W"], grid: tuple[int, int]) -> Any:
    """For models that fit any picture unasked."""
    return model(pixels)


def _run_resampled(model: nn.Module, pixels: Float[Tensor, "B 3 H W"], grid: tuple[int, int]) -> Any:
    return model(pixels, interpolate_pos_encoding=True)


def _run_patchified(model: nn.Module, pixels: Float[Tensor, "B 3 H W"], grid: tuple[int, int]) -> Any:
    """NaFlex takes rows of patches, channels last inside a patch as its image processor cuts them, and their grids."""
    patches_B3hpwp = pixels.unflatten(3, (grid[1], -1)).unflatten(2, (grid[0], -1))
    patches_BNE = patches_B3hpwp.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    # The model reads the grids number by number: on the CPU nothing waits for a GPU. A whole batch has no padding.
    grids = torch.tensor([grid] * len(pixels))
    return model(patches_BNE, pixel_attention_mask=None, spatial_shapes=grids)


def _read_first(model: nn.Module, output: Any, num_patches: int) -> tuple[Tensor, Tensor]:
    """CLS comes first, patches last, and registers between them."""
    x_BTD = output.last_hidden_state
    return x_BTD[:, :1], x_BTD[:, -num_patches:]


def _read_pooled(model: nn.Module, output: Any, num_patches: int) -> tuple[Tensor, Tensor]:
    """There is no CLS token: attention pooling makes one of all patches."""
    return output.pooler_output.unsqueeze(1), output.last_hidden_state


def _read_unnormed(model: nn.Module, output: Any, num_patches: int) -> tuple[Tensor, Tensor]:
    """CLIP norms nothing but its CLS token; here patches pass the same norm, to live where CLS lives."""
    x_BTD = model.post_layernorm(output.last_hidden_state)
    return x_BTD[:, :1], x_BTD[:, -num_patches:]


DINOV2 = Layout(run=_run_plain, read=_read_first, layers="encoder.layer", attention="attention", norm="layernorm")
DINOV3 = Layout(run=_run_plain, read=_read_first, layers="model.layer", attention="attention", norm="norm")
CONVNEXT = Layout(run=_run_plain, read=_read_first, layers="model.stages", attention=None)
_SIGLIP: dict[str, Any] = {"layers": "encoder.layers", "attention": "self_attn", "out_proj": "out_proj"}
_SIGLIP |= {"norm": "post_layernorm", "pooling": "head"}
SIGLIP = Layout(run=_run_resampled, read=_read_pooled, **_SIGLIP)
NAFLEX = Layout(run=_run_patchified, read=_read_pooled, **_SIGLIP)
CLIP = Layout(run=_run_resampled, read=_read_unnormed, **_SIGLIP | {"pooling": ""})
