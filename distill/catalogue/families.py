"""The families of encoders that can teach, by the word before the colon of `teacher.model`, and what each gives."""

import textwrap
from dataclasses import dataclass

WIDTH = 80
"""Columns of a terminal."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """What is said of one kind of encoder."""

    title: str
    """What belongs to it, in one line."""
    names: str
    """What may follow the colon."""
    dense: str
    """What its patch tokens are."""
    text: str
    heads: str
    licence: str


FAMILIES: dict[str, Family] = {
    "timm": Family(
        title="image encoders of timm: DINOv2, DINOv3, SigLIP2, RADIO, TIPSv2, DeiT, ConvNeXt, any plain ViT or "
        "convnet",
        names="timm's name of the model, with or without its tag; weights: a file, or none for timm's own on the hub",
        dense="patch tokens after the final norm; the places of a convnet's last feature map, normed like the pooled "
        "one",
        text="none",
        heads="none",
        licence="as timm states it for the name, wherever the file came from",
    ),
    "open_clip": Family(
        title="CLIP, SigLIP, SigLIP2, PE-Core, EVA, ViTamin, MobileCLIP and ConvNeXt CLIP of open_clip",
        names="ARCHITECTURE or ARCHITECTURE:TAG with weights=FILE, a folder with open_clip_config.json and "
        "open_clip_model.safetensors, or hf-hub:OWNER/NAME",
        dense="in the space of its text: every place projected or pooled as if it were alone",
        text="of every model",
        heads="none",
        licence="as the folder's README.md states it",
    ),
    "tips": Family(
        title="TIPS and TIPSv2, as released (.npz) or of transformers' Tipsv2Model (extra: tips)",
        names="a folder with *_vision.npz, *_text.npz and tokenizer.model, one of the two files, a folder with "
        "config.json, model.safetensors and tokenizer.model, or a hub name OWNER/NAME; s14, b14, l14, so14, g14 with "
        "weights=random",
        dense="last hidden state, in the space of its text",
        text="of every model",
        heads="none: the release left them out",
        licence="CC-BY-4.0 as released; of a folder of transformers, as its README.md states it",
    ),
    "transformers": Family(
        title="DINOv2, DINOv3, SigLIP, SigLIP2 and CLIP of transformers (extra: hf)",
        names="a folder with config.json, preprocessor_config.json and model.safetensors, or a hub name OWNER/NAME",
        dense="last hidden state; CLIP's projected into the space of its text",
        text="of siglip, siglip2 and clip",
        heads="none",
        licence="as the folder's README.md states it",
    ),
    "distill": Family(
        title="encoders that were trained here, with their projection heads; the same as teacher.checkpoint",
        names="a run folder, for its newest whole checkpoint, or a checkpoint folder",
        dense="patch tokens after the final norm, or the places of a convnet's last feature map",
        text="where it was trained with captions",
        heads="where it was trained with prototypes",
        licence="yours",
    ),
}
"""A published name never changes meaning. Each is loaded by `teachers.families`."""


def families_text() -> str:
    """What belongs to every family and what it gives, in 80 columns."""
    lines = []
    for name, family in FAMILIES.items():
        rows = (
            (f"{name:<14}", family.title),
            ("  NAME        ", family.names),
            ("  patches     ", family.dense),
            ("  text tower  ", family.text),
            ("  heads       ", family.heads),
            ("  licence     ", family.licence),
        )
        lines += [*(wrapped(label, text) for label, text in rows), ""]
    lines.append("look at one:      distill teachers inspect FAMILY:NAME [--weights FILE]")
    lines.append("learn from it:    teacher.kind=frozen teacher.model=FAMILY:NAME, in a recipe")
    return "\n".join(lines)


def wrapped(label: str, text: str) -> str:
    """The text behind its label, and below itself where it is longer than a line."""
    return textwrap.fill(text, WIDTH, initial_indent=label, subsequent_indent=" " * len(label), break_on_hyphens=False)
