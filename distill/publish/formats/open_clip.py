"""open_clip: both towers as `open_clip.create_model_and_transforms("local-dir:FOLDER")` builds them.

The image tower is open_clip's TimmModel, which makes models of timm by name and gives them no arguments. A tower whose
sizes are not those of the name is therefore named by the place of a config.json of timm, which lies in the folder
itself. As no file can know where its folder is going to be, whoever loads it says so; on the hub it is `hf-hub:` and
the name of the model there.
"""

import json
import math
from pathlib import Path

import torch

from distill.encoders.convnet import TimmConvNet
from distill.encoders.text_open_clip import OpenClipText
from distill.encoders.timm_names import timm_input_size
from distill.publish.formats import timm
from distill.publish.student import INTERPOLATION, RESIZE_MODE, Dtype, Subject
from distill.publish.weights import save

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
HERE = "local-dir:."
"""The folder itself: true where it is the working directory; elsewhere `vision_cfg` is given with its place."""
GIVEN_ANYWAY = ("num_classes", "global_pool", "in_chans", "dynamic_img_size")
"""Arguments of the tower that open_clip sets itself, or whose default does as well at the size of training."""


def refusal(subject: Subject) -> str | None:
    """Why open_clip cannot hold both towers; None where it can."""
    if subject.text is None:
        return "the student has no text tower"
    if not isinstance(subject.text, OpenClipText):
        return "its text tower is of TIPS (bidirectional, mean-pooled, SentencePiece), which open_clip does not build"
    if isinstance(subject.image, TimmConvNet) and not subject.image.pools_in_head:
        return (
            "its CLS token is taken before layers that timm's network has behind the pooling, and open_clip runs them"
        )
    return timm.refusal(subject)


def write(subject: Subject, folder: Path, *, dtype: Dtype) -> None:
    """open_clip_config.json and open_clip_model.safetensors; config.json of timm where a name is not enough."""
    name, arguments = timm.described(subject.image)
    if not is_named(subject):
        timm.write_config(subject, folder)
        name = HERE
    model = {
        "embed_dim": subject.image.width,
        "vision_cfg": {
            "timm_model_name": name,
            "timm_model_pretrained": False,
            "timm_pool": arguments["global_pool"],
            "timm_proj": "none",
            "image_size": [subject.image_size, subject.image_size],
        },
        "text_cfg": _text_cfg(subject.text),
        "custom_text": True,
    }
    if subject.logit_bias is not None:
        model["init_logit_bias"] = subject.logit_bias
    pixels = {
        "mean": subject.mean,
        "std": subject.std,
        "interpolation": INTERPOLATION,
        "resize_mode": RESIZE_MODE,
    }
    page = {"model_cfg": model, "preprocess_cfg": pixels}
    (folder / CONFIG).write_text(json.dumps(page, indent=2) + "\n", encoding="utf-8")
    tensors = {f"visual.trunk.{key}": value for key, value in subject.image.model.state_dict().items()}
    tensors |= {f"text.{key}": value for key, value in subject.text.model.state_dict().items()}
    tensors["logit_scale"] = torch.tensor(-math.log(subject.temperature))
    if subject.logit_bias is not None:
        tensors["logit_bias"] = torch.tensor(subject.logit_bias)
    save(tensors, folder / WEIGHTS, dtype=dtype)


def is_named(subject: Subject) -> bool:
    """Whether timm's name alone makes the tower, at the size it was trained at."""
    name, arguments = timm.described(subject.image)
    own = {key: value for key, value in arguments.items() if key not in GIVEN_ANYWAY}
    native = (timm_input_size(name),) * 2
    return not {key for key, value in own.items() if key != "img_size" or tuple(value) != native}


def _text_cfg(text: OpenClipText) -> dict[str, int]:
    model = text.model
    return {
        "context_length": model.context_length,
        "vocab_size": model.vocab_size,
        "width": model.width,
        "heads": model.heads,
        "layers": text.num_layers,
    }
