"""ConvNeXt and ConvNeXt V2 of timm under the names that transformers has for the same layers."""

from typing import Any

import torch
from timm.layers.activations import GELU
from timm.models.convnext import ConvNeXt
from torch import Tensor, nn

from distill.contracts import ImageEncoder
from distill.encoders.convnet import TimmConvNet

THEIRS = {
    "stem.0.": "embeddings.patch_embeddings.",
    "stem.1.": "embeddings.layernorm.",
    "head.norm.": "layernorm.",
    "stages.": "encoder.stages.",
    ".downsample.": ".downsampling_layer.",
    ".blocks.": ".layers.",
    ".conv_dw.": ".dwconv.",
    ".norm.": ".layernorm.",
    ".mlp.fc1.": ".pwconv1.",
    ".mlp.fc2.": ".pwconv2.",
    ".mlp.grn.": ".grn.",
}
SCALE = ".gamma"
EPSILON = 1e-6
"""Of every norm in transformers but the last, whose is a setting."""


def in_transformers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by their names there; 1 x 1 convolutions, which small models have for MLPs, as linear layers."""
    named = {}
    for name, value in tensors.items():
        value = value.flatten(1) if name.endswith((".mlp.fc1.weight", ".mlp.fc2.weight")) else value
        value = value.view(1, 1, 1, -1) if ".grn." in name else value
        for ours, theirs in THEIRS.items():
            name = name.replace(ours, theirs)
        named[f"{name.removesuffix(SCALE)}.layer_scale_parameter" if name.endswith(SCALE) else name] = value
    return named


def settings(tower: ImageEncoder) -> tuple[str, dict[str, Any]] | None:
    """The model type in transformers and its settings; None for networks that are no such thing.

    Whether they are is found by building the same: every tensor has to have its place and shape there.
    """
    if not isinstance(tower, TimmConvNet) or type(tower.model) is not ConvNeXt or not tower.pools_in_head:
        return None
    model = tower.model
    blocks = [stage.blocks[0] for stage in model.stages]
    exact = all(isinstance(block.mlp.act, GELU | nn.GELU) for stage in model.stages for block in stage.blocks)
    epsilons = {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)}
    # A denser map (output_stride) is made by other strides and dilations, which no tensor shows.
    patch = model.stem[0].kernel_size[0]
    usual = tower.patch_size == patch * 2 ** (len(blocks) - 1)
    if not exact or not usual or epsilons != {EPSILON}:
        return None
    kind = "convnextv2" if "stages.0.blocks.0.mlp.grn.weight" in model.state_dict() else "convnext"
    found = {
        "hidden_sizes": [block.conv_dw.out_channels for block in blocks],
        "depths": [len(stage.blocks) for stage in model.stages],
        "num_stages": len(blocks),
        "patch_size": patch,
        "layer_norm_eps": EPSILON,
        "hidden_act": "gelu",
    }
    return (kind, found) if _fits(kind, found, in_transformers(model.state_dict())) else None


def _fits(kind: str, found: dict[str, Any], tensors: dict[str, Tensor]) -> bool:
    from transformers import AutoConfig, AutoModel

    with torch.device("meta"):
        expected = AutoModel.from_config(AutoConfig.for_model(kind, **found)).state_dict()
    return {name: value.shape for name, value in expected.items()} == {
        name: value.shape for name, value in tensors.items()
    }
