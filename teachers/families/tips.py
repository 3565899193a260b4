"""TIPS and TIPSv2: the released .npz pairs and transformers' Tipsv2Model, in our own towers.

Both have two CLS tokens: CLS 1 was trained on web captions, CLS 2 (the register of the files) on synthetic ones. Pixels
are RGB in [0, 1], with no mean taken off. Training had a temperature for each token; one was released.
"""

from pathlib import Path

import torch
from torch import Tensor

from distill.encoders.text_tips import TipsText
from distill.encoders.timm_names import timm_statistics
from distill.encoders.vit import TimmViT, create_vit, wrap_vit
from distill.encoders.weights import check_shape, load_strictly
from teachers.families.folders import HUB_NAME, hub_folder
from teachers.families.pretrained import RANDOM, Pretrained
from teachers.families.tips_files import DOWNLOADS, TEXT, TOKENIZER, VISION, Found, read_folder, read_pair
from teachers.families.tips_sizes import RELEASED, Sizes

GELU, SWIGLU = "vit_base_patch14_reg1_tipsv2", "vit_giant_patch14_reg1_tipsv2"
"""timm's models with either MLP; all else about them is resized."""

IN_TIMM = {"register_tokens": "reg_token", "mlp.w12": "mlp.fc1", "mlp.w3": "mlp.fc2"}


def load(name: str, weights: str | None) -> Pretrained:
    """The model in a folder, in a pair of files, or on the hub, in float32.

    `weights` is None, for the model's own, or `random`: then a folder's config.json is enough, and s14, b14, l14, so14
    and g14 are the released sizes. Raises ValueError for what does not exist or does not fill every tensor.
    """
    asked = f"tips:{name}"
    if weights not in (None, RANDOM):
        raise ValueError(f"{asked} brings its own weights: leave weights out, or set {RANDOM}; got {weights}")
    found = _find(name, asked, with_weights=weights is None)
    image, text = _image_tower(found.sizes), _text_tower(found)
    if found.vision is not None:
        _fill_image(image, found.vision, what=name)
        load_strictly(text, found.text, what=f"{name} (text tower)")
    return Pretrained(
        name=asked,
        image=image.eval(),
        text=text.eval(),
        heads=None,
        image_size=found.sizes.grid * found.sizes.patch_size,
        temperature=found.temperature,
        licence=found.licence,
        source=weights or name,
        files=found.files,
    )


def _find(name: str, asked: str, *, with_weights: bool) -> Found:
    if name in RELEASED and not with_weights:
        return Found(sizes=RELEASED[name], tokenizer=None, temperature=None, licence=None)
    path = Path(name)
    if (path / "config.json").is_file():
        return read_folder(path, with_weights=with_weights)
    if path.exists() and not with_weights:
        raise ValueError(
            f"{asked} holds no config.json, which is all that weights={RANDOM} looks at; use a released size: "
            f"{', '.join(f'tips:{size}' for size in RELEASED)}"
        )
    if path.exists() or path.suffix == ".npz":
        return read_pair(path)
    if name in RELEASED:
        raise ValueError(
            f"{asked} has no weights: download its files *{VISION}, *{TEXT} and {TOKENIZER} from {DOWNLOADS} and name "
            f"their folder; its weights stay random only where weights={RANDOM} asks for it"
        )
    if not HUB_NAME.fullmatch(name):
        raise ValueError(
            f"{asked} is neither a folder, nor one of a pair of .npz files, nor a hub name OWNER/NAME, nor a released "
            f"size ({', '.join(RELEASED)})"
        )
    wanted = ["*.json", TOKENIZER, "README.md"] + ["model*.safetensors"] * with_weights
    return read_folder(hub_folder(name, asked=asked, wanted=wanted), with_weights=with_weights)


def _image_tower(sizes: Sizes) -> TimmViT:
    model = SWIGLU if sizes.swiglu else GELU
    arguments = {
        "img_size": sizes.grid * sizes.patch_size,
        "patch_size": sizes.patch_size,
        "embed_dim": sizes.width,
        "depth": sizes.depth,
        "num_heads": sizes.num_heads,
        # timm cuts the product with the width down to an integer: half of one keeps it from being the integer below.
        "mlp_ratio": (sizes.mlp_width + 0.5) / sizes.width,
    }
    return wrap_vit(create_vit(model, arguments), model, num_cls=2, statistics=timm_statistics(model))


def _text_tower(found: Found) -> TipsText:
    text = TipsText(
        width=found.sizes.width,
        depth=found.sizes.text_depth,
        num_heads=found.sizes.text_heads,
        mlp_width=found.sizes.text_mlp_width,
        context_length=found.sizes.context_length,
        tokenizer=None if found.tokenizer is None else str(found.tokenizer),
    )
    pieces = text.token_embedding.num_embeddings
    if found.tokenizer is not None and pieces != found.sizes.vocabulary:
        raise ValueError(
            f"{found.tokenizer} has {pieces} pieces, but the text tower knows {found.sizes.vocabulary} tokens: it "
            "belongs to another model"
        )
    return text


def _fill_image(tower: TimmViT, released: dict[str, Tensor], *, what: str) -> None:
    """timm adds no position to its CLS token: what the release adds is part of the token there."""
    model = tower.model
    changed = {
        "cls_token": model.cls_token,
        "pos_embed": torch.cat([model.cls_token, model.pos_embed], dim=1),
        "mask_token": tower.mask_token[0],
    }
    for name, target in changed.items():
        if name not in released:
            raise ValueError(f"{what} lacks the tensor {name}")
        check_shape(name, target, released[name], what=what)
    cls, positions = released["cls_token"], released["pos_embed"]
    tensors = {_in_timm(name): value for name, value in released.items() if name not in changed}
    tensors |= {"cls_token": cls + positions[:, :1], "pos_embed": positions[:, 1:]}
    load_strictly(model, tensors, what=f"{what} (image tower, in timm's names)")
    tower.mask_token.data.copy_(released["mask_token"])


def _in_timm(name: str) -> str:
    for released, timm in IN_TIMM.items():
        name = name.replace(released, timm)
    return name
