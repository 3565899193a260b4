"""Models of transformers (extra: hf): DINOv2, DINOv3, SigLIP, SigLIP2 and CLIP, from a folder or the hub.

What patches are: the tokens after the model's final norm. DINO's and SigLIP's are just that, and SigLIP's CLS token is
what its attention pooling makes of them. CLIP norms and projects its CLS token only; here patches go the same way, so
that they share the space of its text. DINOv3 ConvNeXt's are the places of the last feature map, and its CLS token is
their mean, both normed.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from distill.contracts import Statistics
from distill.extras import optional_module, quiet
from teachers.families.folders import HUB_NAME, first_line, hub_folder, licence_on_card, read_settings
from teachers.families.hf_towers import CLIP, CONVNEXT, DINOV2, DINOV3, NAFLEX, SIGLIP, HfImage, HfText, Layout
from teachers.families.pretrained import RANDOM, Pretrained


@dataclass(frozen=True)
class Kind:
    """What one `model_type` of a config.json is: its class in transformers, and how to read it."""

    model: str
    layout: Layout
    with_text: bool = False
    with_projections: bool = False
    """Both towers end in a linear layer of the two-tower model itself."""


KINDS = {
    "dinov2": Kind("Dinov2Model", DINOV2),
    "dinov2_with_registers": Kind("Dinov2WithRegistersModel", DINOV2),
    "dinov3_vit": Kind("DINOv3ViTModel", DINOV3),
    "dinov3_convnext": Kind("DINOv3ConvNextModel", CONVNEXT),
    "siglip": Kind("SiglipModel", SIGLIP, with_text=True),
    "siglip_vision_model": Kind("SiglipVisionModel", SIGLIP),
    "siglip2": Kind("Siglip2Model", NAFLEX, with_text=True),
    "siglip2_vision_model": Kind("Siglip2VisionModel", NAFLEX),
    "clip": Kind("CLIPModel", CLIP, with_text=True, with_projections=True),
    "clip_vision_model": Kind("CLIPVisionModel", CLIP),
}
"""SigLIP2 checkpoints of one fixed resolution are of type siglip; siglip2 is NaFlex."""

HEADS = {"classifier", "logit_bias", "logit_scale", "text_model", "text_projection", "visual_projection"}
"""Parts of checkpoints that an image tower alone does not have; any other surplus tensor is a mistake."""

TOKENIZERS = ("tokenizer.json", "spiece.model", "tokenizer.model", "vocab.json")
SAVED = "name a folder that transformers' save_pretrained wrote"
ANY_STATISTICS = Statistics(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""For random weights without a preprocessor_config.json, which know no pixels yet."""


def load(name: str, weights: str | None) -> Pretrained:
    """The encoder in a folder that `save_pretrained` wrote, or of a hub name, in float32.

    `weights` is None, for the folder's own safetensors, or `random`, for which config.json is enough. Raises ValueError
    for what does not exist, is of an unknown type, or does not fill every tensor.
    """
    if weights not in (None, RANDOM):
        raise ValueError(
            f"transformers:{name} brings its own weights: leave weights out, or set {RANDOM}; got {weights}"
        )
    folder = _folder(name, with_weights=weights is None)
    kind = _kind(folder)
    with quiet(_transformers()):
        config = _config(folder)
        model = _model(folder, config, kind, weights)
        text = _text(folder, model, kind, weights) if kind.with_text else None
    preprocessor = _preprocessor(folder)
    if preprocessor is None and weights is None:
        raise ValueError(
            f"{folder} has no preprocessor_config.json, so nobody knows what pixels its weights expect; copy there the "
            "one of the released model"
        )
    image = _image(folder, model, kind, preprocessor)
    if text is not None and text.width != image.width:
        raise ValueError(
            f"{folder}: image embeddings are {image.width} wide and text embeddings {text.width}; they share no space"
        )
    vision = config.vision_config if kind.with_text else config
    return Pretrained(
        name=f"transformers:{name}",
        image=image.eval(),
        text=None if text is None else text.eval(),
        heads=None,
        image_size=_image_size(folder, preprocessor or _size_in(vision, kind), image.patch_size),
        temperature=math.exp(-model.logit_scale.item()) if kind.with_text else None,
        licence=licence_on_card(folder),
        source=weights or name,
        files=() if weights == RANDOM else tuple(sorted(folder.glob("*.safetensors"))),
    )


def _transformers() -> Any:
    return optional_module("transformers", needed_by="transformers:…")


def _folder(name: str, *, with_weights: bool) -> Path:
    """The folder itself, or that of a model on the hub."""
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ValueError(f"transformers:{name} is a file; name the folder that holds it and its config.json")
    if HUB_NAME.fullmatch(name):
        _transformers()
    wanted = ["*.json", "*.txt", "*.model", "README.md"] + ["model*.safetensors"] * with_weights
    return hub_folder(name, asked=f"transformers:{name}", wanted=wanted)


def _kind(folder: Path) -> Kind:
    settings = read_settings(folder / "config.json", hint=SAVED)
    model_type = settings.get("model_type")
    if str(model_type).startswith("tipsv2"):
        raise ValueError(f"{folder} is of type {model_type}: use tips:{folder}")
    if model_type not in KINDS:
        raise ValueError(f"{folder} is of type {model_type}; known are {', '.join(KINDS)}")
    return KINDS[model_type]


def _config(folder: Path) -> Any:
    from huggingface_hub.errors import StrictDataclassError

    try:
        return _transformers().AutoConfig.from_pretrained(folder, local_files_only=True)
    except (ValueError, TypeError, OSError, StrictDataclassError) as problem:
        raise ValueError(
            f"{folder}/config.json is not one that transformers accepts: {first_line(problem)}"
        ) from problem


def _model(folder: Path, config: Any, kind: Kind, weights: str | None) -> nn.Module:
    """The whole model in float32, every tensor from the folder unless random weights are asked for."""
    architecture = getattr(_transformers(), kind.model)
    if weights == RANDOM:
        return architecture(config).float()
    _check_files(folder)
    try:
        model, report = architecture.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
            # Reported below, with the shapes, instead of an error without them.
            ignore_mismatched_sizes=True,
        )
    except (SafetensorError, OSError, RuntimeError) as problem:
        raise ValueError(f"{folder} holds no complete safetensors weights: {first_line(problem)}") from problem
    _check_report(report, folder)
    return model


def _check_files(folder: Path) -> None:
    """transformers would say the same in eight lines."""
    if any((folder / file).is_file() for file in ("model.safetensors", "model.safetensors.index.json")):
        return
    if pickled := sorted(folder.glob("pytorch_model*.bin")):
        raise ValueError(
            f"{folder} holds pickled weights only ({pickled[0].name}), and unpickling could run anything; where you "
            "trust them, load the folder with transformers' from_pretrained and write it anew with save_pretrained"
        )
    raise ValueError(
        f"{folder} holds no model.safetensors; its weights stay random only where weights={RANDOM} asks for it"
    )


def _check_report(report: dict, folder: Path) -> None:
    """Refuse weights that left a tensor random, or brought one that the model has no place for."""
    for name, given, expected in sorted(report["mismatched_keys"]):
        raise ValueError(f"{folder}: {name} should have shape {list(expected)}, got {list(given)}")
    missing = sorted(report["missing_keys"])
    surplus = sorted(name for name in report["unexpected_keys"] if name.split(".")[0] not in HEADS)
    for problem, names in (("lacks", missing), ("has no place for", surplus)):
        if names:
            others = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(f"{folder}: the model of its config.json {problem} the tensor {names[0]}{others}")


def _image(folder: Path, model: nn.Module, kind: Kind, preprocessor: dict | None) -> HfImage:
    vision = model.vision_model if kind.with_text else model
    projection = model.visual_projection if kind.with_projections else None
    if kind.layout is CONVNEXT:
        width, patch_size = vision.config.hidden_sizes[-1], 4 * 2 ** (len(vision.config.hidden_sizes) - 1)
    else:
        width, patch_size = vision.config.hidden_size, vision.config.patch_size
    if not isinstance(patch_size, int):
        raise ValueError(f"{folder}: patch_size is {patch_size}; patches must be squares, given by one number")
    if kind.layout in (SIGLIP, NAFLEX) and not vision.use_head:
        raise ValueError(f"{folder} has no attention pooling (vision_use_head=false), so it has no CLS token to offer")
    return HfImage(
        vision,
        layout=kind.layout,
        width=width if projection is None else projection.out_features,
        patch_size=patch_size,
        statistics=ANY_STATISTICS if preprocessor is None else _statistics(folder, preprocessor),
        projection=projection,
    )


def _text(folder: Path, model: nn.Module, kind: Kind, weights: str | None) -> HfText:
    """The text tower; only with random weights it may lack a tokenizer."""
    projection = model.text_projection if kind.with_projections else None
    last = model.text_model.head if projection is None else projection
    has_tokenizer = any((folder / file).is_file() for file in TOKENIZERS)
    if not has_tokenizer and weights is None:
        raise ValueError(f"{folder} has no tokenizer for its text tower: copy {' or '.join(TOKENIZERS)} there")
    tokenizer = _tokenizer(folder) if has_tokenizer else None
    return HfText(model.text_model, width=last.out_features, projection=projection, tokenizer=tokenizer)


def _tokenizer(folder: Path) -> Any:
    try:
        tokenizer = _transformers().AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as problem:  # a damaged tokenizer.json raises a bare Exception
        raise ValueError(f"{folder}: its tokenizer cannot be read: {first_line(problem)}") from problem
    if tokenizer.pad_token is None:
        raise ValueError(f"{folder}: its tokenizer names no pad_token; add it to tokenizer_config.json")
    return tokenizer


def _preprocessor(folder: Path) -> dict | None:
    """Settings of the image processor; newer releases keep them in the processor's file."""
    if (folder / "preprocessor_config.json").is_file():
        return read_settings(folder / "preprocessor_config.json", hint=SAVED)
    if (folder / "processor_config.json").is_file():
        return read_settings(folder / "processor_config.json", hint=SAVED).get("image_processor")
    return None


def _statistics(folder: Path, preprocessor: dict) -> Statistics:
    factor = preprocessor.get("rescale_factor", 1 / 255)
    if not math.isclose(factor, 1 / 255, rel_tol=1e-3):
        raise ValueError(f"{folder}: its image processor scales pixels by {factor}; only 1/255 is supported")
    if not preprocessor.get("do_normalize", True):
        return Statistics(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    mean, std = preprocessor.get("image_mean"), preprocessor.get("image_std")
    if not all(isinstance(value, list) and len(value) == 3 for value in (mean, std)):
        raise ValueError(f"{folder}: preprocessor_config.json should give image_mean and image_std of three channels")
    return Statistics(mean=tuple(map(float, mean)), std=tuple(map(float, std)))


def _size_in(config: Any, kind: Kind) -> dict:
    """The size that a config.json names, in the words of an image processor."""
    return {"max_num_patches": config.num_patches} if kind.layout is NAFLEX else {"size": config.image_size}


def _image_size(folder: Path, preprocessor: dict, patch_size: int) -> int:
    """Side of the pictures its makers show it, cut to whole patches: a convolution ignores the rest (SigLIP's 384
    pixels hold 27 patches of 14)."""
    if "max_num_patches" in preprocessor:
        return math.isqrt(preprocessor["max_num_patches"]) * patch_size
    cropped = "crop_size" in preprocessor and preprocessor.get("do_center_crop", True)
    size = preprocessor.get("crop_size" if cropped else "size")
    sides = {*size.values()} if isinstance(size, dict) else {*size} if isinstance(size, list | tuple) else {size}
    side = sides.pop() if sides else None
    if sides or not isinstance(side, int) or side < patch_size:
        raise ValueError(f"{folder}: pictures of {size} pixels are not squares of {patch_size} pixels or more")
    return side // patch_size * patch_size
