"""open_clip's image-text models: CLIP, SigLIP, SigLIP2, PE-Core, EVA, ViTamin, MobileCLIP, ConvNeXt CLIP.

The temperature is 1 / exp(logit_scale). Models trained with the sigmoid loss (SigLIP) also have a logit_bias, which is
left out here: it is the same for every pair of picture and text, so neither rankings nor a softmax hear it.
"""

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
from open_clip.model import CustomTextCLIP, convert_to_custom_text_state_dict
from open_clip.timm_model import TimmModel
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from timm.models import get_model_args
from torch import nn

from distill.contracts import ImageEncoder
from distill.encoders.weights import load_strictly, read_tensors
from distill.extras import check_installed
from teachers.families.folders import first_line
from teachers.families.open_clip_names import CONFIG, Described, describe
from teachers.families.open_clip_towers import ClipText, TimmTransformer, image_tower, is_plain
from teachers.families.pretrained import Pretrained

NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
"""Numbers among the tensors of OpenAI's scripted models."""


def load(name: str, weights: str | None) -> Pretrained:
    """The model in a folder, on the hub (`hf-hub:`), or of a name that open_clip knows, in float32.

    `weights` is the file of a model named by its architecture, `random`, or None for folders and hub names, which bring
    their own. Raises ValueError for what does not exist, does not fit, or gives no dense tokens.
    """
    asked = f"open_clip:{name}"
    described = describe(name, weights)
    width = described.config["embed_dim"]
    try:
        model = _build(described.config)
        image = image_tower(model.visual, width=width, statistics=described.statistics)
    except ValueError as problem:
        raise ValueError(f"{asked} cannot be a teacher: {problem}") from problem
    if described.file is not None:
        _fill(model, described.file)
    projection = model.text.text_projection
    text_width = model.text.width if projection is None else width
    text = ClipText(model.text, width=text_width, find_tokenizer=_tokenizer_finder(described))
    return Pretrained(
        name=asked,
        image=image.eval(),
        text=text.eval(),
        heads=None,
        image_size=_image_size(image, asked),
        temperature=math.exp(-model.logit_scale.item()),
        licence=described.licence,
        source=described.source,
        files=() if described.file is None else (described.file,),
    )


def _build(config: dict[str, Any]) -> CustomTextCLIP:
    """The model with random weights, its image tower open to pictures of any size.

    Built with a text tower of its own, which open_clip does for some models only; `_fill` renames the others' tensors.
    """
    if "multimodal_cfg" in config:
        raise ValueError("it is a CoCa, whose image tower pools by learnt queries, which mix all places")
    if config["text_cfg"].get("hf_model_name"):
        raise ValueError(
            f"its text tower {config['text_cfg']['hf_model_name']} is one of transformers, not of open_clip"
        )
    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    arguments["vision_cfg"] = config["vision_cfg"] | {"timm_model_pretrained": False}
    try:
        model = CustomTextCLIP(**arguments)
    except (TypeError, ValueError, KeyError, RuntimeError, AssertionError, ZeroDivisionError) as problem:
        raise ValueError(f"open_clip cannot build it: {first_line(problem)}") from problem
    visual = model.visual
    if isinstance(visual, TimmModel) and is_plain(visual.trunk):
        # open_clip offers no way to ask for it, and rotary positions are fixed when the trunk is made.
        arguments = get_model_args(visual.trunk) | {"dynamic_img_size": True}
        visual.trunk = timm.create_model(config["vision_cfg"]["timm_model_name"], **arguments)
    return model


def _fill(model: nn.Module, path: Path) -> None:
    """Every tensor from the file, be it a checkpoint of open_clip's training or older than its present names."""
    tensors = {name.removeprefix("module."): value for name, value in read_tensors(path).items()}
    tensors = convert_to_custom_text_state_dict({k: tensors[k] for k in tensors.keys() - set(NOT_WEIGHTS)})
    for name in ("logit_scale", "logit_bias"):
        if name in tensors and tensors[name].numel() == 1:
            tensors[name] = tensors[name].reshape(model.logit_scale.shape)
    load_strictly(model, tensors, what=str(path))


def _image_size(image: ImageEncoder, asked: str) -> int:
    """Side of the pictures it was trained on, cut to whole patches: a convolution ignores the rest."""
    visual = image.visual
    size = visual.trunk.patch_embed.img_size if isinstance(image, TimmTransformer) else visual.image_size
    if size[0] != size[1]:
        raise ValueError(f"{asked} was trained on pictures of {size[0]} x {size[1]} pixels, which are not squares")
    return size[0] // image.patch_size * image.patch_size


def _tokenizer_finder(described: Described) -> Callable[[], Any]:
    text = described.config["text_cfg"]
    settings = json.dumps(text.get("tokenizer_kwargs") or {}, sort_keys=True)
    return functools.partial(
        _tokenizer, described.tokenizer, text.get("context_length", 77), text.get("tokenizer_mode"), settings
    )


@functools.cache
def _tokenizer(place: str | None, context_length: int, mode: str | None, settings: str) -> Any:
    """One for all towers that need the same. `settings` are open_clip's tokenizer_kwargs, as JSON."""
    arguments = json.loads(settings) | {"context_length": context_length}
    if place is None:
        return SimpleTokenizer(**arguments)
    check_installed("transformers", needed_by=f"the tokenizer {place}")
    try:
        return HFTokenizer(place, tokenizer_mode=mode, **arguments)
    except Exception as problem:  # what is not there raises OSError, a damaged tokenizer.json a bare Exception
        raise ValueError(
            f"the tokenizer {place} cannot be had: {first_line(problem)}; name a folder that holds the model with its "
            f"tokenizer and {CONFIG}"
        ) from problem
