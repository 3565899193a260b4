"""Fixed views: crops and flips as a pure function of (seed, sample, view), never of step, epoch or rank.

Legend: B views. A view's key is `sample * num_views + view`; two views of one sample are two keys, mirrored or not,
because no teacher's features of a mirrored picture are its features mirrored.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from distill.config import Data
from distill.config.data import MAX_FIXED_VIEWS
from distill.data.draws import derived_seed
from distill.data.pictures import load_rgb, open_picture, upright_aspect
from distill.data.scenes.hashing import uniforms
from distill.data.sources import Sample
from distill.data.views import crop_picture, needed_side, place_crops


def num_views(data: Data) -> int:
    """Fixed views of each sample; 1 where every view is the whole picture."""
    return max(1, data.views.fixed)


def key_of(
    samples: Int[Tensor, " B"] | int, views: Int[Tensor, " B"] | int, *, num_views: int
) -> Int[Tensor, " B"] | int:
    """What features of these views are stored under."""
    return samples * num_views + views


def fixed_draws(
    samples: Int[Tensor, " B"], views: Int[Tensor, " B"], *, seed: int, flip: float
) -> tuple[Float[Tensor, "B 4"], Bool[Tensor, " B"]]:
    """Draws of crops as `draw_crops` makes them, and flips with probability `flip`.

    They do not depend on how many views a sample has, so a larger number adds views and changes none.
    """
    places = (samples * MAX_FIXED_VIEWS + views).numpy()
    numbers = torch.from_numpy(uniforms(derived_seed(seed, "fixed views"), np.asarray(places), 5))
    return numbers[:, :4].contiguous(), numbers[:, 4] < flip


def global_view(
    sample: Sample, crop: Float[Tensor, " 4"], *, flip: bool, scale: tuple[float, float], size: int
) -> UInt8[Tensor, "3 V V"]:
    """One view of an encoded picture, decoded for this view alone, so that it is the same wherever it is cut.

    Raises BrokenSample.
    """
    picture = open_picture(sample.picture, name=sample.name)
    box = place_crops(crop[None], scale=scale, aspect=upright_aspect(picture, name=sample.name))
    picture = load_rgb(picture, side=needed_side(box, size=size), name=sample.name)
    return crop_picture(picture, tuple(box[0].tolist()), flip=flip, size=size)
