"""Weights of timm models from files, into the towers that wrap them."""

from collections.abc import Callable
from pathlib import Path

from timm.models import convnext, eva, vision_transformer
from torch import Tensor, nn

from distill.encoders.convnet import TimmConvNet
from distill.encoders.vit import TimmViT
from distill.encoders.weights import fit_positions, load_strictly, read_tensors

CONVERTERS: dict[type[nn.Module], Callable[[dict, nn.Module], dict]] = {
    vision_transformer.VisionTransformer: vision_transformer.checkpoint_filter_fn,
    eva.Eva: eva.checkpoint_filter_fn,
    convnext.ConvNeXt: convnext.checkpoint_filter_fn,
}
"""timm's own translation of the files that a model's makers released into its names."""


def load_timm_weights(tower: TimmViT | TimmConvNet, path: Path | str) -> None:
    """Load a file of timm's, or one its makers released and timm can translate; strictly, in the tower's precision.

    The file's classifier is left out and the mask token keeps its start. Position embeddings of another grid are
    resampled, and counts of batches that an old file lacks stay as they are. Any other missing, surplus or misshapen
    tensor is a ValueError.
    """
    tensors = read_tensors(path)
    convert = CONVERTERS.get(type(tower.model))
    if convert is not None and not _expected(tower) <= _without_classifier(tower, tensors).keys():
        tensors = _translated(convert, tower.model, tensors)
    tensors = _without_classifier(tower, tensors)
    if isinstance(tower, TimmViT):
        tensors |= _fitted_positions(tower, tensors)
    else:
        tensors = _counts(tower) | tensors
    load_strictly(tower.model, tensors, what=str(path))


def _translated(convert: Callable, model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """In timm's names. A file that timm cannot translate stays as it is, and loading says what it lacks."""
    try:
        return convert(dict(tensors), model)
    except (KeyError, RuntimeError, ValueError, AttributeError):
        return tensors


def _expected(tower: TimmViT | TimmConvNet) -> set[str]:
    return set(tower.model.state_dict())


def _without_classifier(tower: TimmViT | TimmConvNet, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what the tower has no place for: classifier, pooling, and what it left out of the network.

    In a ViT, a norm that sat behind the pooling is the encoder's final norm.
    """
    classifier = tower.model.pretrained_cfg["classifier"] or ()
    unwanted = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    if isinstance(tower, TimmConvNet):
        unwanted += tower.left_out
    elif tower.model.attn_pool is None:
        unwanted += ("attn_pool",)
    kept = {
        name: value for name, value in tensors.items() if not name.startswith(tuple(f"{part}." for part in unwanted))
    }
    if isinstance(tower, TimmConvNet) or "norm.weight" in kept:
        return {name: value for name, value in kept.items() if isinstance(tower, TimmConvNet) or not _is_fc_norm(name)}
    return {("norm." + name.removeprefix("fc_norm.") if _is_fc_norm(name) else name): kept[name] for name in kept}


def _counts(tower: TimmConvNet) -> dict[str, Tensor]:
    """How many batches each batch norm has seen, which old files do not say and no pass reads."""
    return {name: value for name, value in tower.model.state_dict().items() if name.endswith(".num_batches_tracked")}


def _is_fc_norm(name: str) -> bool:
    return name.startswith("fc_norm.")


def _fitted_positions(tower: TimmViT, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file's position embeddings on the tower's grid; nothing where they are as they should be."""
    positions = tower.model.pos_embed
    if positions is None or "pos_embed" not in tensors or tensors["pos_embed"].shape == positions.shape:
        return {}
    fitted = fit_positions(
        tensors["pos_embed"].float(),
        positions.detach(),
        num_prefix=tower.num_positioned_prefix,
        interpolation=tower.interpolation,
    )
    return {} if fitted is None else {"pos_embed": fitted}
