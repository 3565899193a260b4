"""The image tower that a recipe's student asks for."""

from distill.config import ImageTower
from distill.contracts import Statistics
from distill.encoders.convnet import TimmConvNet, build_convnet
from distill.encoders.timm_names import kind_of, timm_statistics
from distill.encoders.vit import TimmViT, build_vit


def build_image_tower(
    settings: ImageTower, image_size: int, statistics: Statistics | None = None
) -> TimmViT | TimmConvNet:
    """The tower with random weights, for pictures of `image_size` pixels.

    Pixel statistics are the model's own unless given. Raises ValueError for unknown models, models without patches or
    a feature map, arguments timm refuses, and sizes that do not fit.
    """
    build = {"transformer": build_vit, "convnet": build_convnet}[kind_of(settings.model)]
    tower = build(settings, image_size, statistics or timm_statistics(settings.model))
    tower.set_gradient_checkpointing(settings.gradient_checkpointing)
    return tower
