"""timm: the image tower as `timm.create_model("local-dir:FOLDER", pretrained=True)` builds it from the folder."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import get_model_args

from distill.encoders.convnet import TimmConvNet
from distill.encoders.vit import TimmViT
from distill.publish.student import INTERPOLATION, RESIZE_MODE, Dtype, Subject
from distill.publish.weights import save

FEATURES = {"features_only": True, "out_indices": [-1]}
"""Arguments that end a network of timm at its last feature map."""
CLASSIFIER = ("num_classes", "global_pool")


def refusal(subject: Subject) -> str | None:
    """Why timm cannot hold this tower; None where it can."""
    tower = subject.image
    if not isinstance(tower, TimmViT | TimmConvNet):
        return f"the image tower is a {type(tower).__name__}, which no model of timm is"
    name, arguments = described(tower)
    try:
        with torch.device("meta"):
            model = timm.create_model(name, **arguments)
    except (TypeError, AssertionError, RuntimeError, ValueError) as problem:
        return f"timm cannot build {name} with {arguments}: {str(problem).splitlines()[0]}"
    others = sorted(set(model.state_dict()) ^ set(tower.model.state_dict()))
    if others:
        return f"what timm builds of {name} has other tensors than the student, which ends before them ({others[0]})"
    return None


def described(tower: TimmViT | TimmConvNet) -> tuple[str, dict[str, Any]]:
    """timm's name of the tower's architecture, and the arguments that make it again, JSON all of them.

    The class token or the pooling of the tower is what the model returns; `forward_features` returns every token. A
    convnet that takes its CLS token before layers of its classifier returns a list with its last feature map.
    """
    arguments = get_model_args(tower.model) | {"num_classes": 0}
    if isinstance(tower, TimmViT):
        arguments["global_pool"] = "token" if tower.model.attn_pool is None else "map"
    elif not tower.pools_in_head:
        arguments = {key: value for key, value in arguments.items() if key not in CLASSIFIER} | FEATURES
    return tower.model.pretrained_cfg["architecture"], arguments


def write(subject: Subject, folder: Path, *, dtype: Dtype) -> None:
    """config.json and model.safetensors."""
    tower = subject.image
    write_config(subject, folder)
    save(tower.model.state_dict(), folder / "model.safetensors", dtype=dtype)


def write_config(subject: Subject, folder: Path) -> None:
    """timm's description of the tower, and of what it wants its pictures to be.

    What timm knows of weights of its own of this name is not true of these and left out.
    """
    name, arguments = described(subject.image)
    known, size = subject.image.model.pretrained_cfg, subject.image_size
    weights = {
        "tag": "distill",
        "custom_load": False,
        "input_size": [3, size, size],
        "fixed_input_size": False,
        "interpolation": INTERPOLATION,
        "crop_pct": 1.0,
        "crop_mode": RESIZE_MODE,
        "mean": subject.mean,
        "std": subject.std,
        "num_classes": 0,
        "pool_size": None,
        "first_conv": known["first_conv"],
        "classifier": known["classifier"],
    }
    page = {"architecture": name, "num_classes": 0, "num_features": subject.image.width, "tags": tags(subject)}
    weights |= {} if subject.licence is None else {"license": subject.licence}
    # timm reads it in pretrained_cfg too, and transformers' wrapper gives it a second time.
    page["model_args"] = {key: value for key, value in arguments.items() if key != "num_classes"}
    page["pretrained_cfg"] = weights
    (folder / "config.json").write_text(json.dumps(page, indent=2) + "\n", encoding="utf-8")


def tags(subject: Subject) -> list[str]:
    """What the hub's search finds it by."""
    how = "pretraining" if subject.recipe.teacher.kind == "momentum" else "distillation"
    return ["image-feature-extraction", "timm", how]
