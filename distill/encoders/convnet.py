"""Convolutional networks of timm behind the ImageEncoder contract: the places of the last feature map are patches.

Legend: B images, N patches (places), D width, h x w feature map.
"""

import torch
from jaxtyping import Bool, Float
from timm.models import group_parameters
from torch import Tensor, nn

from distill.config import ImageTower
from distill.contracts import ImageEncoder, Statistics, Tokens
from distill.encoders.batch_norm import batch_norms, is_trained
from distill.encoders.timm_names import create, known_name

OWN_ARGUMENTS = {
    "pretrained": "weights are never downloaded",
    "num_classes": "an encoder has no classifier",
    "global_pool": "an encoder returns every place; its CLS token is the pooled picture",
    "features_only": "an encoder returns its last feature map",
}
"""Arguments of timm models that do not belong in `extra`, and what to do instead."""

NO_BLOCKS = (
    "the stages of a convnet have grids and widths of their own, and the final norm fits the last one only: it has no "
    "tokens of earlier blocks to give; probe it with a linear head"
)
"""Why `intermediate` of convnets refuses. Resampled to the last grid, stages would still have a width each, and DPT
heads and cosines with text need one for all."""

TRANSFORMER_SIZES = ("patch_size", "width", "depth", "num_heads")


class TimmConvNet(ImageEncoder):
    """A timm convnet, with its pixel statistics and the colour of hidden patches inside.

    `patch_size` is the stride of the last feature map. The CLS token is the pooled map, and patches are its places,
    each taken through the network's final norm, where it has one, as if it were the whole picture: a place and the
    picture live in one space. Hidden patches are painted over in the pixels with a learnt colour. `state_dict()`
    keeps timm's own names under `model.`.
    """

    can_hide = True

    def __init__(self, model: nn.Module, *, statistics: Statistics, image_size: int):
        """Leaves out of `model` what no token passes, such as a projection behind the pooling; `left_out` names it.

        ValueError when the network does not end in a feature map with channels first.
        """
        super().__init__()
        self.model = model
        self.width = model.num_features
        self.num_cls = 1
        self.patch_size = model.feature_info[-1]["reduction"]
        # Else the pooled map goes on into layers of the classifier, and it is the map that is kept.
        self.pools_in_head = model.head_hidden_size == self.width
        self.mask_pixel = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.keep_statistics(statistics)
        self.left_out = self._try_out(image_size)
        self._layers = depths(model)
        self.num_layers = max(self._layers.values())

    def forward(
        self,
        pixels: Float[Tensor, "B 3 H W"],
        hidden: Bool[Tensor, "B N"] | None = None,
        *,
        layers: tuple[int, ...] = (),
        drop: bool = False,
    ) -> Tokens:
        """The pooled map, and its places in row-major order.

        ValueError for `layers`, because stages have other grids, and for `drop`, because convolutions need every place.
        """
        if layers:
            raise ValueError(
                f"layers {list(layers)} are asked for, but the stages of a convnet have grids of their own; "
                "take several layers of a vision transformer"
            )
        if drop:
            raise ValueError("a convnet needs every place of a picture and can drop none; set masking.how=replace")
        grid = self.grid(*pixels.shape[-2:])
        map_BDhw = self.model.forward_features(self._painted(self.standardise(pixels), hidden, grid))
        places = map_BDhw.flatten(2).transpose(1, 2)
        if not self.pools_in_head:
            return Tokens(cls=places.mean(dim=1, keepdim=True), patches=places, grid=grid)
        pooled_BD = self.model.forward_head(map_BDhw, pre_logits=True)
        alone = self.model.forward_head(places.flatten(0, 1)[..., None, None], pre_logits=True)
        return Tokens(cls=pooled_BD.unsqueeze(1), patches=alone.view_as(places), grid=grid)

    def values(self, pixels: Float[Tensor, "B 3 H W"]) -> Tokens:
        """The same as `forward`: no attention mixes the last places, so there is nothing to leave out."""
        return self(pixels)

    def intermediate(self, pixels: Float[Tensor, "B 3 H W"], blocks: tuple[int, ...]) -> tuple[Tokens, ...]:
        """ValueError: what earlier stages say lives in no space that the last one's tokens share."""
        raise ValueError(NO_BLOCKS)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of the last feature map; ValueError unless both sides are multiples of its stride."""
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"a picture of {height} x {width} pixels does not fit a convnet of stride {self.patch_size}; "
                f"use multiples of {self.patch_size}"
            )
        return height // self.patch_size, width // self.patch_size

    def layer_of(self, parameter_name: str) -> int:
        """Depth of a parameter of this tower as timm groups them: 0 the stem, then stages; the head counts with the
        last of `num_layers`, the colour of hidden patches with the stem."""
        return self._layers.get(parameter_name.removeprefix("model."), 0)

    def set_gradient_checkpointing(self, enable: bool) -> None:
        """Recompute stages in the backward pass; ValueError when timm cannot do it for this network."""
        if not enable:
            return
        try:
            self.model.set_grad_checkpointing(True)
        except AssertionError as problem:
            raise ValueError(f"student.image.gradient_checkpointing: {type(self.model).__name__}: {problem}") from None

    def train(self, mode: bool = True) -> "TimmConvNet":
        """Batch norms that are not trained stay in eval whatever is asked: their statistics must not drift."""
        super().train(mode)
        for norm in batch_norms(self):
            norm.train(mode and is_trained(norm))
        return self

    def _painted(
        self, pixels: Float[Tensor, "B 3 H W"], hidden: Bool[Tensor, "B N"] | None, grid: tuple[int, int]
    ) -> Float[Tensor, "B 3 H W"]:
        """Standardised pixels with hidden patches in one colour."""
        if hidden is None:
            # DistributedDataParallel refuses parameters outside the graph: the colour takes part in every pass.
            return pixels + 0 * self.mask_pixel
        covered = hidden.view(-1, 1, *grid)
        covered = covered.repeat_interleave(self.patch_size, dim=2).repeat_interleave(self.patch_size, dim=3)
        return torch.where(covered, self.mask_pixel.to(pixels.dtype), pixels)

    @torch.enable_grad()
    def _try_out(self, image_size: int) -> tuple[str, ...]:
        """Show it one black picture: networks differ too much in what they return for names to tell.

        Modules that no token passed are replaced by nothing, because data parallelism refuses parameters without
        gradients; returns their names.
        """
        name, expected = type(self.model).__name__, (1, self.width, *self.grid(image_size, image_size))
        self.eval()
        try:
            found = self.model.forward_features(torch.zeros(1, 3, image_size, image_size))
        except (RuntimeError, AssertionError) as problem:
            raise ValueError(f"{name} does not take pictures of {image_size} pixels: {problem}") from problem
        if not isinstance(found, Tensor) or found.shape != expected:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"{name} ends in {shape}, not in a feature map {expected}; use a plain vision transformer or a "
                "convnet such as timm:convnext_tiny"
            )
        tokens = self(torch.zeros(1, 3, image_size, image_size))
        names = [name for name, _ in self.model.named_parameters()]
        heard = torch.autograd.grad(
            tokens.cls.sum() + tokens.patches.sum(), list(self.model.parameters()), allow_unused=True
        )
        self.train()
        deaf = {name for name, gradient in zip(names, heard, strict=True) if gradient is None}
        children = [name for name, child in self.model.named_children() if next(child.parameters(), None) is not None]
        left_out = tuple(child for child in children if all(n in deaf for n in names if n.startswith(f"{child}.")))
        for child in left_out:
            setattr(self.model, child, nn.Identity())
        alone = sorted(n for n in deaf if not n.startswith(tuple(f"{child}." for child in left_out)))
        if alone:
            raise ValueError(f"{name} has parameters that no token passes ({', '.join(alone[:3])}); use another model")
        return left_out


def build_convnet(settings: ImageTower, image_size: int, statistics: Statistics) -> TimmConvNet:
    """The tower with random weights. ValueError for settings that mean nothing here, and as `TimmConvNet`."""
    name = known_name(settings.model)
    for key in settings.extra:
        if key in OWN_ARGUMENTS:
            raise ValueError(f"extra.{key} is not yours to set: {OWN_ARGUMENTS[key]}")
    for key in TRANSFORMER_SIZES:
        if getattr(settings, key) is not None:
            raise ValueError(f"timm:{name} is a convnet and has no {key}; set what it has in extra")
    if settings.num_cls != 1:
        raise ValueError(f"timm:{name} is a convnet with one pooled token: set num_cls=1")
    return TimmConvNet(create_convnet(name, settings.extra), statistics=statistics, image_size=image_size)


def create_convnet(name: str, arguments: dict) -> nn.Module:
    """timm's model `name` with random weights, made with `arguments`. ValueError when it names no feature map."""
    model = create(name, arguments | {"pretrained": False, "num_classes": 0})
    for needed in ("num_features", "head_hidden_size", "feature_info", "forward_head", "group_matcher"):
        if not hasattr(model, needed):
            raise ValueError(f"timm:{name} has no {needed}, by which its feature map is found; use another model")
    return model


def depths(model: nn.Module) -> dict[str, int]:
    """Depth of every parameter: timm's coarse groups, the stem and the stages; what follows the last feature map
    counts with its stage."""
    groups = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    last = f"{model.feature_info[-1]['module']}."
    # Of some networks the last feature map is what a module without parameters lets pass.
    of_last = [group for name, group in groups.items() if name.startswith(last)] or [*groups.values()]
    return {name: min(group, max(of_last)) for name, group in groups.items()}
