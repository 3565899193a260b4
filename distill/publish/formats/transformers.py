"""transformers: a folder that AutoModel and AutoProcessor, or AutoImageProcessor, load.

Of students with a text tower of TIPS it is a Tipsv2Model, of others the image tower: as DINOv2 with or without
registers, as the image tower of TIPSv2 where positions are resampled its way, as ConvNeXt, and whatever else timm
builds as transformers' wrapper of timm.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.encoders.text_tips import EPSILON, TipsText
from distill.extras import optional_module, quiet
from distill.publish.formats import convnext, timm
from distill.publish.formats.plain import PlainViT, gated_ratio, in_transformers, plain, ratio, why_not_plain
from distill.publish.student import DTYPES, Dtype, Subject, stored

TOKENIZER = "tokenizer.model"
CONTEXT_LENGTH = 64
"""To which transformers' processor of TIPSv2 pads, whatever its settings say."""
PROBES = ("a red circle", "two small dogs, and a cat!", "7 × Äpfel")
"""Texts by which tokenizers are told apart."""
WRAPPER = "timm_wrapper"
SHARD_SIZE = "5GB"
BILINEAR = 2
"""Pillow's number."""


def refusal(subject: Subject) -> str | None:
    """Why transformers cannot hold the student, or its image tower; None where it can."""
    library()
    if isinstance(subject.text, TipsText):
        return why_not_tips(subject)
    return timm.refusal(subject) if kind_of(subject) == WRAPPER else None


def library() -> Any:
    """ValueError naming the extra where the package is missing."""
    return optional_module("transformers", needed_by="the transformers format")


def why_not_tips(subject: Subject) -> str | None:
    """Why the student is no Tipsv2Model; None where it is one."""
    problem = why_not_plain(subject.image)
    if problem is not None:
        return f"{problem}, and transformers has text towers of TIPS only beside a plain one"
    found = plain(subject.image)
    if found.gated and gated_ratio(found.inner, subject.image.width) is None:
        return f"transformers makes no gated MLP {found.inner} wide"
    if subject.text.tokenizer is None:
        return "its text tower has no SentencePiece model"
    return _why_not_tokenizer(subject.text)


def kind_of(subject: Subject) -> str:
    """transformers' model type of the student, or of its image tower."""
    if isinstance(subject.text, TipsText):
        return "tipsv2"
    if convnext.settings(subject.image) is not None:
        return convnext.settings(subject.image)[0]
    if why_not_plain(subject.image) is not None:
        return WRAPPER
    found = plain(subject.image)
    if found.gated and gated_ratio(found.inner, subject.image.width) is None:
        return WRAPPER
    if subject.image.interpolation == "bilinear":
        return "tipsv2_vision_model"
    if not isinstance(_mlp_ratio(found, subject.image.width), int):
        return WRAPPER
    return "dinov2_with_registers" if found.num_registers else "dinov2"


def has_shards(subject: Subject) -> bool:
    """Whether large weights are cut into several files; of its wrapper of timm there is one."""
    return kind_of(subject) != WRAPPER


def write(subject: Subject, folder: Path, *, dtype: Dtype, max_shard_size: str | None) -> None:
    """config.json, weights (in shards where they are larger than `max_shard_size`, 5 GB by default), the processor."""
    kind = kind_of(subject)
    if kind == WRAPPER:
        timm.write(subject, folder, dtype=dtype)
        return
    config = library().AutoConfig.for_model(kind, **_settings(subject, kind))
    with torch.device("meta"):
        model = library().AutoModel.from_config(config)
    tensors = {name: stored(value, dtype) for name, value in _tensors(subject, kind).items()}
    _fill(model, tensors)
    model.config.dtype = DTYPES[dtype]
    with quiet(library()):
        model.save_pretrained(folder, max_shard_size=max_shard_size or SHARD_SIZE)
        for file in folder.glob("*.safetensors"):
            file.chmod(0o644)  # safetensors makes them private
        _write_processor(subject, folder, kind)


def _settings(subject: Subject, kind: str) -> dict[str, Any]:
    if kind.startswith("convnext"):
        return convnext.settings(subject.image)[1] | {"image_size": subject.image_size}
    if kind != "tipsv2":
        return _vision_settings(subject)
    text = subject.text
    block = text.transformer["resblocks"][0]
    return {
        "temperature_init_value": subject.temperature,
        "vision_config": _vision_settings(subject),
        "text_config": {
            "vocab_size": text.token_embedding.num_embeddings,
            "hidden_size": text.width,
            "intermediate_size": block.mlp["c_fc"].out_features,
            "num_hidden_layers": text.num_layers,
            "num_attention_heads": block.attn.num_heads,
            # Positions are no parameters: a longer table says the same about short texts.
            "max_position_embeddings": max(text.context_length, CONTEXT_LENGTH),
            "layer_norm_eps": EPSILON,
        },
    }


def _vision_settings(subject: Subject) -> dict[str, Any]:
    tower = subject.image
    found = plain(tower)
    registers = {"num_register_tokens": found.num_registers} if kind_of(subject) != "dinov2" else {}
    return registers | {
        "hidden_size": tower.width,
        "num_hidden_layers": found.depth,
        "num_attention_heads": found.num_heads,
        "mlp_ratio": _mlp_ratio(found, tower.width),
        "use_swiglu_ffn": found.gated,
        "layer_norm_eps": found.epsilon,
        "image_size": tower.model.patch_embed.img_size[0],
        "patch_size": tower.patch_size,
    }


def _mlp_ratio(found: PlainViT, width: int) -> int | float:
    return gated_ratio(found.inner, width) if found.gated else ratio(found.inner, width)


def _tensors(subject: Subject, kind: str) -> dict[str, Tensor]:
    if kind.startswith("convnext"):
        return convnext.in_transformers(subject.image.model.state_dict())
    vision = in_transformers(plain(subject.image))
    if kind != "tipsv2":
        return vision
    tensors = {f"vision_model.{name}": value for name, value in vision.items()}
    tensors |= {f"text_model.{name}": value for name, value in _text_in_transformers(subject.text).items()}
    return tensors | {"temperature": torch.tensor(subject.temperature)}


def _text_in_transformers(text: TipsText) -> dict[str, Tensor]:
    theirs = {
        "token_embedding.": "embeddings.token_embedding.",
        "transformer.resblocks.": "encoder.layers.",
        "ln_final.": "final_layer_norm.",
        ".ln_1.": ".layer_norm1.",
        ".ln_2.": ".layer_norm2.",
        ".attn.": ".self_attn.",
        ".mlp.c_fc.": ".mlp.fc1.",
        ".mlp.c_proj.": ".mlp.fc2.",
    }
    named = {}
    for name, value in text.state_dict().items():
        for part, other in theirs.items():
            name = name.replace(part, other)
        if ".in_proj_" in name:
            parts = [name.replace("in_proj_", f"{letter}_proj.") for letter in "qkv"]
            named |= dict(zip(parts, value.chunk(3), strict=True))
        else:
            named[name] = value
    return named


def _fill(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Give the model exactly these tensors, in the precision they have."""
    expected = {name: value.shape for name, value in model.state_dict().items()}
    given = {name: value.shape for name, value in tensors.items()}
    assert expected == given, {*expected.items()} ^ {*given.items()}
    model.load_state_dict(tensors, assign=True)


def _write_processor(subject: Subject, folder: Path, kind: str) -> None:
    side = subject.image_size
    with_statistics = subject.mean != [0, 0, 0] or subject.std != [1, 1, 1]
    images = {
        "image_processor_type": "Tipsv2ImageProcessor" if kind.startswith("tipsv2") else "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": BILINEAR,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": with_statistics,
        "image_mean": subject.mean,
        "image_std": subject.std,
    }
    if kind != "tipsv2":
        (folder / "preprocessor_config.json").write_text(json.dumps(images, indent=2) + "\n", encoding="utf-8")
        return
    transformers = library()
    shutil.copyfile(subject.text.tokenizer, folder / TOKENIZER)
    tokenizer = _tokenizer(folder, subject.text.context_length)
    pictures = transformers.Tipsv2ImageProcessor(**{key: images[key] for key in images if "type" not in key})
    transformers.Tipsv2Processor(image_processor=pictures, tokenizer=tokenizer).save_pretrained(folder)


def _tokenizer(folder: Path, context_length: int) -> Any:
    """transformers' own tokenizer, made of the SentencePiece model in the folder."""
    return library().Tipsv2Tokenizer.from_pretrained(folder, model_max_length=context_length)


def _why_not_tokenizer(text: TipsText) -> str | None:
    """What transformers makes of the SentencePiece model has to cut words as it does."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder, quiet(library()):
        shutil.copyfile(text.tokenizer, Path(folder) / TOKENIZER)
        try:
            tokenizer = _tokenizer(Path(folder), text.context_length)
        except (ValueError, OSError, KeyError, AttributeError, TypeError) as problem:
            return f"transformers cannot read its SentencePiece model ({str(problem).splitlines()[0]})"
        length = {"padding": "max_length", "truncation": True, "max_length": text.context_length}
        ids = tokenizer(list(PROBES), **length)["input_ids"]
    if ids != text.tokenize(list(PROBES)).tolist():
        return "transformers cuts words otherwise than its SentencePiece model does, which is no BPE with byte fallback"
    return None
