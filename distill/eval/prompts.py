"""Class names as sentences, and the sentences as one embedding per class."""

import torch
from jaxtyping import Float
from open_clip import OPENAI_IMAGENET_TEMPLATES
from torch import Tensor

from distill.encoders.dual import DualEncoder
from distill.eval.features import unit
from distill.eval.remembered import text_features

TEMPLATES: dict[str, tuple[str, ...]] = {
    "plain": ("a photo of a {}.",),
    "tcl": (
        "itap of a {}.",
        "a bad photo of a {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
        "a photo of many {}.",
        "a photo of {}s.",
    ),
    "imagenet80": tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES),
}
"""Names of sets of templates. `tcl`: the nine that the TIPSv2 notebook takes from TCL (tipsv2.md section 7).
`imagenet80`: CLIP's eighty for ImageNet, as open_clip lists them; DINOv3's notebook uses them for segmentation too."""


def class_embeddings(encoder: DualEncoder, class_names: list[str], *, templates: str) -> Float[Tensor, "K D"]:
    """One unit vector per class: the normalised mean over templates of normalised embeddings."""
    sentences = [template.format(name) for name in class_names for template in TEMPLATES[templates]]
    each = text_features(encoder, sentences)
    return unit(each.unflatten(0, (len(class_names), len(TEMPLATES[templates]))).mean(1))


def check_templates(name: str) -> None:
    """Raise ValueError, with the known names, for an unknown set of templates."""
    if name not in TEMPLATES:
        raise ValueError(f"templates={name!r} is unknown; choose one of {', '.join(TEMPLATES)}")


def zeroed(embedding_KD: Float[Tensor, "K D"], index: int) -> Float[Tensor, "K D"]:
    """The embeddings with class `index` at the origin: its cosine with anything is 0."""
    keep_K1 = torch.ones_like(embedding_KD[:, :1])
    keep_K1[index] = 0
    return embedding_KD * keep_K1
