"""TIPS models where they lie: released pairs of .npz files, and folders of transformers' Tipsv2Model."""

import math
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distill.encoders.weights import read_safetensors
from teachers.families.folders import first_line, licence_on_card, read_settings
from teachers.families.pretrained import RANDOM
from teachers.families.tips_sizes import Sizes, sizes_of

VISION, TEXT = "_vision.npz", "_text.npz"
TOKENIZER = "tokenizer.model"
LICENCE = "CC-BY-4.0"
"""Of the released weights (tipsv2.md section 10)."""

DOWNLOADS = "https://storage.googleapis.com/tips_data"
TOKENIZER_AT = f"{DOWNLOADS}/v1_0/checkpoints/{TOKENIZER}"
SAVED = "name a folder that save_pretrained of transformers' Tipsv2Model wrote"
SHARDS = "model.safetensors.index.json"

BUILT_IN = {
    "vision_config": {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "num_register_tokens": 1, "qkv_bias": True},
    "text_config": {"hidden_act": "relu", "layer_norm_eps": 1e-5, "scale_sqrt_depth": True},
}
"""Settings that our towers have built in."""

LEFT_OUT = {
    "vision_config": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "mlp_ratio": 4,
        "use_swiglu_ffn": False,
        "image_size": 448,
        "patch_size": 14,
    },
    "text_config": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "vocab_size": 32000,
        "max_position_embeddings": 64,
    },
}
"""What transformers takes for settings that a config.json leaves out."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A model as it lies there; without tensors where only its settings were asked for."""

    sizes: Sizes
    tokenizer: Path | None
    temperature: float | None
    licence: str | None
    files: tuple[Path, ...] = ()
    """Of its weights."""
    vision: dict[str, Tensor] | None = None
    """Under the names of the released files, as is `text`."""
    text: dict[str, Tensor] | None = None


def read_pair(path: Path) -> Found:
    """The pair of .npz files in a folder, or that one of the two belongs to, with the tokenizer beside them.

    ValueError when one of the three is missing, is not what its name says, or when the folder holds several pairs.
    """
    vision_file, text_file = _pair(path)
    tokenizer = vision_file.parent / TOKENIZER
    if not tokenizer.is_file():
        raise ValueError(f"{vision_file} has no {TOKENIZER} beside it; download {TOKENIZER_AT}")
    vision, text = _read_npz(vision_file), _read_npz(text_file)
    temperature = text.pop("temperature", None)
    if temperature is not None and temperature.numel() != 1:
        raise ValueError(f"{text_file}: temperature should be one number, got shape {list(temperature.shape)}")
    return Found(
        sizes=sizes_of(vision, text, vision_file=vision_file, text_file=text_file),
        tokenizer=tokenizer,
        temperature=None if temperature is None else temperature.item(),
        licence=LICENCE,
        files=(vision_file, text_file),
        vision=vision,
        text=text,
    )


def read_folder(folder: Path, *, with_weights: bool) -> Found:
    """The model in a folder that save_pretrained wrote, or of the hub. Its sizes are what config.json says.

    ValueError when a file is missing or damaged, or when the settings are those of another model.
    """
    settings = read_settings(folder / "config.json", hint=SAVED)
    if settings.get("model_type") != "tipsv2":
        raise ValueError(f"{folder} is of type {settings.get('model_type')}, not tipsv2; {SAVED}")
    tokenizer = folder / TOKENIZER
    found = Found(
        sizes=_sizes_in(settings, folder),
        tokenizer=tokenizer if tokenizer.is_file() else None,
        temperature=settings.get("temperature_init_value"),
        licence=licence_on_card(folder),
    )
    if not with_weights:
        return found
    if found.tokenizer is None:
        raise ValueError(f"{folder} has no {TOKENIZER}, which transformers does not write; download {TOKENIZER_AT}")
    tensors = _read_safetensors(folder)
    temperature = tensors.pop("temperature", None)
    vision, text = _part(tensors, "vision_encoder."), _part(tensors, "text_encoder.")
    if len(vision) + len(text) < len(tensors):
        strange = min(name for name in tensors if not name.startswith(("vision_encoder.", "text_encoder.")))
        raise ValueError(f"{folder}: Tipsv2Model has no place for the tensor {strange}; {SAVED}")
    # transformers gives the layers of a GELU MLP back under another name than it takes them.
    renamed = {name: name.replace(".mlp.c_fc.", ".mlp.fc1.").replace(".mlp.c_proj.", ".mlp.fc2.") for name in vision}
    return replace(
        found,
        temperature=found.temperature if temperature is None else temperature.item(),
        files=tuple(sorted(folder.glob("*.safetensors"))),
        vision={renamed[name]: vision[name] for name in vision},
        text=text,
    )


def _pair(path: Path) -> tuple[Path, Path]:
    if path.is_dir():
        stems = sorted({_stem(file) for ending in (VISION, TEXT) for file in path.glob(f"*{ending}")})
        if not stems:
            raise ValueError(f"{path} holds neither config.json nor a pair of files *{VISION} and *{TEXT}")
        if len(stems) > 1:
            files = ", ".join(f"{stem}{VISION}" for stem in stems)
            raise ValueError(f"{path} holds {len(stems)} models; name one of them: {files}")
        stem = stems[0]
    elif path.name.endswith((VISION, TEXT)):
        stem = _stem(path)
    else:
        raise ValueError(f"{path} is not named like a file of TIPS, *{VISION} or *{TEXT}")
    pair = stem.with_name(stem.name + VISION), stem.with_name(stem.name + TEXT)
    for half, other in (pair, pair[::-1]):
        if not half.is_file():
            raise ValueError(f"{half} is missing: {other.name} is one half of a model, and both are needed")
    return pair


def _stem(file: Path) -> Path:
    return file.with_name(file.name.removesuffix(VISION).removesuffix(TEXT))


def _read_npz(path: Path) -> dict[str, Tensor]:
    """Every array of a file in float32. Nothing is unpickled."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a complete .npz file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except ValueError as problem:
        raise ValueError(
            f"{path} holds more than arrays of numbers, and unpickling it could run anything ({first_line(problem)}); "
            "where you trust it, load it with numpy and write its arrays with numpy.savez"
        ) from problem
    except (zipfile.BadZipFile, OSError, EOFError) as problem:
        raise ValueError(f"{path} is not a complete .npz file: {first_line(problem)}") from problem
    if any("/" in name for name in arrays):
        raise ValueError(
            f"{path} is of the JAX release (its names are joined by /), which has other norms and another GELU; use "
            f"the file of the same model from checkpoints/pytorch under {DOWNLOADS}"
        )
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            raise ValueError(f"{path}: {name} should hold floating-point numbers, got {array.dtype}")
    return {name: torch.from_numpy(array.astype(np.float32, copy=False)) for name, array in arrays.items()}


def _read_safetensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder, from one file or from shards."""
    if (folder / "model.safetensors").is_file():
        return read_safetensors(folder / "model.safetensors")
    if not (folder / SHARDS).is_file():
        raise ValueError(
            f"{folder} holds no model.safetensors; its weights stay random only where weights={RANDOM} asks for it"
        )
    files = read_settings(folder / SHARDS, hint=SAVED).get("weight_map", {})
    return {
        name: value for file in sorted({*files.values()}) for name, value in read_safetensors(folder / file).items()
    }


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """One tower's tensors in float32, whatever precision they were saved in."""
    return {name.removeprefix(prefix): value.float() for name, value in tensors.items() if name.startswith(prefix)}


def _sizes_in(settings: dict, folder: Path) -> Sizes:
    """What a config.json says; ValueError where it says what our towers are not, or nothing they can be."""
    for part, built_in in BUILT_IN.items():
        for key, value in built_in.items():
            stated = settings.get(part, {}).get(key, value)
            if stated != value:
                raise ValueError(f"{folder}/config.json: {part}.{key} is {stated}; only {value} is supported")
    vision, text = (LEFT_OUT[part] | _known(settings, part, folder) for part in LEFT_OUT)
    if vision["hidden_size"] != text["hidden_size"]:
        raise ValueError(
            f"{folder}/config.json: the image tower is {vision['hidden_size']} wide and the text tower "
            f"{text['hidden_size']}: they are no pair"
        )
    mlp_width = int(vision["hidden_size"] * vision["mlp_ratio"])
    if vision["use_swiglu_ffn"]:
        # Two thirds of it, rounded up to a multiple of 8, for the gate and for the value.
        mlp_width = 2 * (math.ceil(int(mlp_width * 2 / 3) / 8) * 8)
    return Sizes(
        width=vision["hidden_size"],
        depth=vision["num_hidden_layers"],
        num_heads=vision["num_attention_heads"],
        mlp_width=mlp_width,
        swiglu=vision["use_swiglu_ffn"],
        patch_size=vision["patch_size"],
        grid=vision["image_size"] // vision["patch_size"],
        text_depth=text["num_hidden_layers"],
        text_heads=text["num_attention_heads"],
        text_mlp_width=text["intermediate_size"],
        vocabulary=text["vocab_size"],
        context_length=text["max_position_embeddings"],
    )


def _known(settings: dict, part: str, folder: Path) -> dict:
    """The settings of one tower that decide its sizes, each a number."""
    found = {key: value for key, value in (settings.get(part) or {}).items() if key in LEFT_OUT[part]}
    for key, value in found.items():
        if not isinstance(value, int | float) or value < 0:
            raise ValueError(f"{folder}/config.json: {part}.{key} should be a number, got {value}")
    return found
