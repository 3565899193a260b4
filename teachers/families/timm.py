"""Models of timm: plain vision transformers and networks that end in a feature map, from files or the hub.

DINOv2, DINOv3, SigLIP2 (its image tower), RADIO, the image towers of TIPSv2 and CLIP, DeiT, ConvNeXt, ResNet and what
else timm has of these kinds. Pixel statistics, picture size and licence are those that timm states for the name.
"""

from pathlib import Path

import timm
import torch
from timm.models import get_pretrained_cfg

from distill.encoders.convnet import TimmConvNet, create_convnet
from distill.encoders.timm_names import kind_of, known_name, timm_input_size, timm_statistics
from distill.encoders.timm_weights import load_timm_weights
from distill.encoders.vit import TimmViT, create_vit, wrap_vit
from teachers.families.pretrained import RANDOM, Pretrained, existing


def load(name: str, weights: str | None) -> Pretrained:
    """timm's model with the weights of a file, in float32; at the size its weights were trained with.

    `weights`: a file of timm's, or one its makers released and timm can translate; None for the file that timm names
    on the hub; or `random`. Raises ValueError for what does not exist or does not fit.
    """
    if "/" in name or Path(name).exists():
        raise ValueError(f"timm:{name} is a path; timm's models go by their names, and the path of a file is weights")
    name = known_name(name)
    stated = get_pretrained_cfg(name)
    image, image_size = _tower(name)
    source, files = weights, ()
    if weights is None:
        source, files = stated.hf_hub_id, (_from_hub(name),)
    elif weights != RANDOM:
        files = (existing(weights, what=f"timm:{name}"),)
    for file in files:
        load_timm_weights(image, file)
    return Pretrained(
        name=f"timm:{name}",
        image=image.eval(),
        text=None,
        heads=None,
        image_size=image_size,
        temperature=None,
        licence=None if weights == RANDOM else stated.license,
        source=source,
        files=files,
        cls=_cls(image),
    )


def _tower(name: str) -> tuple[TimmViT | TimmConvNet, int]:
    """The tower with random weights, and the side of its pictures in pixels, cut to whole patches: a convolution
    ignores the rest (SigLIP's 384 pixels hold 27 patches of 14)."""
    side, statistics = timm_input_size(name), timm_statistics(name)
    if kind_of(name) == "convnet":
        model = create_convnet(name, {})
        side -= side % model.feature_info[-1]["reduction"]
        return TimmConvNet(model, statistics=statistics, image_size=side), side
    side -= side % _patch_size(name)
    return wrap_vit(create_vit(name, {"img_size": side}), name, num_cls=None, statistics=statistics), side


def _patch_size(name: str) -> int:
    with torch.device("meta"):
        return timm.create_model(name, pretrained=False).patch_embed.patch_size[0]


def _from_hub(name: str) -> Path:
    """timm's own file, in the local cache of the hub; downloaded first where the hub may be asked."""
    stated = get_pretrained_cfg(name)
    if not stated.hf_hub_id:
        raise ValueError(f"timm:{name} has no weights on the hub; name a file that holds some as its weights")
    from huggingface_hub import constants, hf_hub_download

    try:
        return Path(hf_hub_download(stated.hf_hub_id, stated.hf_hub_filename or "model.safetensors"))
    except OSError as problem:
        where = f"timm:{name}: its weights, {stated.hf_hub_id} on the hub,"
        if constants.HF_HUB_OFFLINE:
            raise ValueError(
                f"{where} are not in the local cache, and HF_HUB_OFFLINE=1 forbids to download them; name a file that "
                f"holds them as its weights, or ask for {RANDOM} ones"
            ) from problem
        raise ValueError(f"{where} cannot be had: {str(problem).splitlines()[0]}") from problem


def _cls(image: TimmViT | TimmConvNet) -> str:
    if isinstance(image, TimmConvNet):
        return "the average of all places"
    if image.num_cls == 2:
        return "the class token, and the only register"
    return "the class token" if image.model.attn_pool is None else "what attention pools of all patches"
