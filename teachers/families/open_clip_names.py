"""What a name of the open_clip family stands for: the description of a model, and where its weights are.

A name and a file of weights do not say how pixels were standardised, nor which GELU was trained. A tag of open_clip's
says both, as in ViT-B-16:openai; so does a folder in the layout of the hub. Without either, open_clip's own weights of
that name say it where they agree with each other and with the name, and its defaults where it has none.
"""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip

from distill.contracts import Statistics
from teachers.families.folders import hub_folder, licence_on_card, read_settings
from teachers.families.pretrained import RANDOM, existing

HUB = "hf-hub:"
CONFIG = "open_clip_config.json"
SAFE_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
TORCH_WEIGHTS = "open_clip_pytorch_model.bin"
SMALL_FILES = ["*.json", "*.txt", "*.model", "README.md"]
TOKENIZERS = ("tokenizer.json", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "vocab.txt", "vocab.json")
DEFAULT_STATISTICS = Statistics(mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD)
"""Those open_clip trains with unless told otherwise."""


@dataclass(frozen=True)
class Described:
    """A model before it is built."""

    config: dict[str, Any]
    """open_clip's model_cfg: embed_dim, vision_cfg, text_cfg and what else it may hold."""
    statistics: Statistics
    file: Path | None
    """Of the weights; None for random ones."""
    tokenizer: str | None
    """Folder or hub name of a tokenizer of transformers; None for CLIP's, which open_clip brings."""
    licence: str | None
    source: str


def describe(name: str, weights: str | None) -> Described:
    """What ARCHITECTURE, ARCHITECTURE:TAG, hf-hub:OWNER/NAME or a folder stands for; `weights` as for `load`.

    ValueError when nothing of that name exists, when its weights are missing, and when nobody knows what the weights
    expect.
    """
    asked = f"open_clip:{name}"
    if name.partition(":")[0] in open_clip.list_models():
        return _by_name(name, asked, weights)
    if weights not in (None, RANDOM):
        raise ValueError(
            f"{asked} is no architecture of open_clip ({_nearest(name)}), and folders and names of the hub bring their "
            f"own weights: leave weights out, or set {RANDOM}; got {weights}"
        )
    if name.startswith(HUB):
        return _in_folder(_of_hub(name, asked, with_weights=weights is None), name, weights)
    if Path(name).is_dir():
        return _in_folder(Path(name), name, weights)
    if Path(name).exists():
        raise ValueError(f"{asked} is a file: set weights to it, and name its architecture, as in open_clip:ViT-B-16")
    raise ValueError(
        f"{asked} is neither a folder nor an architecture of open_clip ({_nearest(name)}); names of the hub start "
        f"with {HUB}"
    )


def _by_name(name: str, asked: str, weights: str | None) -> Described:
    architecture, _, tag = name.partition(":")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag and tag not in tags:
        raise ValueError(f"{asked}: open_clip knows no such weights of {architecture}; known are {_some(tags)}")
    if weights is None:
        raise ValueError(
            f"{asked} needs its weights: set them to a file, or name a folder or {HUB}OWNER/NAME that holds them; they "
            f"stay random only where weights={RANDOM} asks for it"
        )
    config = open_clip.get_model_config(architecture)
    quick_gelu = config.get("quick_gelu", False)
    expected = [_expected(architecture, known) for known in ([tag] if tag else tags)]
    if weights != RANDOM:
        existing(weights, what=asked)
    if weights != RANDOM and not tag and expected and {*expected} != {(expected[0][0], quick_gelu)}:
        raise ValueError(
            f"{asked}: open_clip's weights of {architecture} differ in pixel statistics or in their GELU; say whose "
            f"{weights} are, as {asked}:TAG with one of {_some(tags)}, or put them in a folder with their {CONFIG}"
        )
    statistics, expected_gelu = expected[0] if expected else (DEFAULT_STATISTICS, quick_gelu)
    return Described(
        config=config | {"quick_gelu": expected_gelu if tag else quick_gelu},
        statistics=statistics,
        file=None if weights == RANDOM else Path(weights),
        tokenizer=config["text_cfg"].get("hf_tokenizer_name"),
        licence=None,
        source=weights,
    )


def _expected(architecture: str, tag: str) -> tuple[Statistics, bool]:
    """What open_clip says of its own weights: how they see pixels, and whether their GELU is the quick one."""
    stated = open_clip.get_pretrained_cfg(architecture, tag)
    statistics = Statistics(mean=tuple(stated["mean"]), std=tuple(stated["std"]))
    return statistics, stated.get("quick_gelu", False)


def _of_hub(name: str, asked: str, *, with_weights: bool) -> Path:
    """Older models are there without safetensors."""
    place = name.removeprefix(HUB)
    folder = hub_folder(place, asked=asked, wanted=SMALL_FILES + list(SAFE_WEIGHTS) * with_weights)
    if with_weights and not any((folder / file).is_file() for file in SAFE_WEIGHTS):
        return hub_folder(place, asked=asked, wanted=[*SMALL_FILES, TORCH_WEIGHTS])
    return folder


def _in_folder(folder: Path, name: str, weights: str | None) -> Described:
    is_transformers = (folder / "config.json").is_file()
    own_layout = "name a folder in the layout of open_clip's models on the hub"
    hint = f"its config.json looks like transformers:{folder}" if is_transformers else own_layout
    settings = read_settings(folder / CONFIG, hint=hint)
    config, pixels = settings.get("model_cfg"), settings.get("preprocess_cfg", {})
    parts = [config.get(part) for part in ("vision_cfg", "text_cfg")] if isinstance(config, dict) else []
    if not parts or "embed_dim" not in config or not all(isinstance(part, dict) for part in parts):
        raise ValueError(
            f"{folder / CONFIG} describes no model: its model_cfg needs embed_dim, vision_cfg and text_cfg"
        )
    stated = [pixels.get("mean"), pixels.get("std")] if isinstance(pixels, dict) else []
    is_stated = bool(stated) and all(isinstance(value, list) and len(value) == 3 for value in stated)
    if not is_stated and weights is None:
        raise ValueError(
            f"{folder / CONFIG} does not say what pixels its weights expect: its preprocess_cfg needs mean and std of "
            "three channels"
        )
    mean, std = (tuple(map(float, value)) for value in stated) if is_stated else (None, None)
    return Described(
        config=config,
        statistics=Statistics(mean=mean, std=std) if is_stated else DEFAULT_STATISTICS,
        file=_weights_in(folder) if weights is None else None,
        tokenizer=_tokenizer_in(folder, config, required=weights is None and not name.startswith(HUB)),
        licence=licence_on_card(folder),
        source=weights or name,
    )


def _weights_in(folder: Path) -> Path:
    for file in (*SAFE_WEIGHTS, TORCH_WEIGHTS):
        if (folder / file).is_file():
            return folder / file
    raise ValueError(
        f"{folder} holds no {SAFE_WEIGHTS[0]}; its weights stay random only where weights={RANDOM} asks for it"
    )


def _tokenizer_in(folder: Path, config: dict, *, required: bool) -> str | None:
    """The folder itself where it holds a tokenizer; else, unless it is `required`, the one its settings name."""
    named = config["text_cfg"].get("hf_tokenizer_name")
    if not named:
        return None
    if any((folder / file).is_file() for file in TOKENIZERS):
        return str(folder)
    if required:
        raise ValueError(f"{folder} has no tokenizer for its text tower: copy {' or '.join(TOKENIZERS[:3])} there")
    return named


def _nearest(name: str) -> str:
    nearest = difflib.get_close_matches(name.partition(":")[0], open_clip.list_models(), n=3, cutoff=0)
    return f"the nearest are {', '.join(nearest)}"


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5]) or "none"
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
