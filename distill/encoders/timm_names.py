"""What timm knows by name: whether a model exists, which kind of tower it makes, and how its weights see pixels."""

import difflib
from typing import Literal

import timm
from timm.models import get_pretrained_cfg, model_entrypoint

from distill.contracts import Statistics

TRANSFORMERS = ("vision_transformer", "eva", "deit")
"""Modules of timm whose models are plain transformers on one patch grid."""


def known_name(model: str) -> str:
    """timm's name of the model, with its tag; ValueError with the nearest names otherwise."""
    name = model.removeprefix("timm:")
    if timm.is_model(name):
        try:
            get_pretrained_cfg(name)
        except RuntimeError:
            architecture, _, tag = name.partition(".")
            known = timm.list_pretrained(f"{architecture}.*")
            raise ValueError(f"timm knows no weights {tag} of {architecture}, but {', '.join(known)}") from None
        return name
    nearest = ", ".join(f"timm:{known}" for known in difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0))
    raise ValueError(f"timm:{name} is not a model of timm; the nearest that are: {nearest}")


def kind_of(model: str) -> Literal["transformer", "convnet"]:
    """Which tower a model is built into. What timm calls a hybrid counts as a convnet: it ends in a feature map."""
    module = model_entrypoint(known_name(model)).__module__.rpartition(".")[2]
    return "transformer" if module in TRANSFORMERS else "convnet"


def timm_statistics(model: str) -> Statistics:
    """Pixel statistics that timm's weights of this model were trained with; `model` with or without `timm:`."""
    settings = get_pretrained_cfg(known_name(model))
    return Statistics(mean=tuple(settings.mean), std=tuple(settings.std))


def timm_input_size(model: str) -> int:
    """Side of the pictures that timm's weights of this model were trained with, pixels."""
    return get_pretrained_cfg(known_name(model)).input_size[-1]


def create(name: str, arguments: dict):
    """A model of timm; its complaints (unknown argument, heads that do not divide the width) become one sentence."""
    try:
        return timm.create_model(name, **arguments)
    except (TypeError, AssertionError, RuntimeError, ValueError) as problem:
        raise ValueError(f"timm cannot build {name} with {arguments}: {problem}") from problem
