"""What an encoder's features look like from outside: finite, alive, about the picture, more than its colours.

A look, not a measurement: a few pictures tell whether weights were loaded, not how good they are.
Legend: B pictures, N patches, M = B N, C CLS tokens, D width, T texts.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from distill.contracts import Tokens
from distill.eval.features import patch_map, unit

TINY = 1e-30
"""Instead of zero below a fraction line."""

COLOURS = 0.5
"""Share of the patches' variance that colours may explain. Measured on 8 to 32 scenes: trained DeiT-Tiny 0.0, trained
here 0.28 to 0.47; random weights: ViTs 0.56 to 0.92 (SigLIP's 0.26), ConvNeXts 0.56 to 0.59, ResNets 0.28 to 0.42,
MobileNetV3 0.07. What lies above has most likely not been trained; what lies below may be random none the less."""


@dataclass(frozen=True)
class Look:
    """Statistics of features; nan for what cannot be said, such as about neighbours in a grid of one patch."""

    finite: bool
    within: float
    """Mean cosine between two patches of one picture."""
    across: float
    """Mean cosine between patches at the same place in two pictures."""
    by_place: float
    """Share of the patches' variance that their place alone explains, whatever the picture."""
    alive: float
    """Share of the patches' squared length that varies at all; the rest is the same everywhere."""
    cls_alive: float
    """The same for CLS 1, which has one vector a picture."""
    rank: float
    """Effective rank of the patches: exp of the entropy of the variance over principal directions (Roy and Vetterli,
    2007); at most `largest_rank`."""
    largest_rank: int
    largest_share: float
    """Share of the variance in the patches' largest dimension."""
    colours: float
    """Share of the variance, in pictures not used for fitting, that a linear map of each patch's 2 x 2 mean colours
    explains."""


@dataclass(frozen=True)
class TextLook:
    """Cosines between pictures' CLS 1 and texts, the i-th text being of the i-th picture, and between texts."""

    finite: bool
    own: float
    other: float
    between_texts: float


@torch.no_grad()
def look_at(tokens: Tokens, pixels: Float[Tensor, "B 3 H W"]) -> Look:
    """Statistics of the tokens of these pictures, in float64."""
    patches_BND, cls_BD = tokens.patches.double(), tokens.cls[:, 0].double()
    finite = bool(torch.isfinite(tokens.patches).all() and torch.isfinite(tokens.cls).all())
    if not finite:
        return Look(False, *[math.nan] * 6, min(patches_BND.flatten(0, 1).shape), *[math.nan] * 2)
    centred_BND = patches_BND - patches_BND.mean((0, 1))
    variance = centred_BND.square().sum().clamp(min=TINY)
    by_place = centred_BND.mean(0).square().sum() * len(centred_BND)
    shares_D = centred_BND.square().sum((0, 1)) / variance
    unit_BND = unit(patches_BND)
    return Look(
        finite=True,
        within=_mean_cosine(unit_BND),
        across=_mean_cosine(unit_BND.transpose(0, 1)),
        by_place=(by_place / variance).item(),
        alive=_alive(patches_BND.flatten(0, 1)),
        cls_alive=_alive(cls_BD),
        rank=effective_rank(centred_BND.flatten(0, 1)),
        largest_rank=min(len(centred_BND.flatten(0, 1)) - 1, centred_BND.shape[-1]),
        largest_share=shares_D.max().item(),
        colours=explained_by_colours(tokens, pixels),
    )


@torch.no_grad()
def look_at_texts(cls_BD: Float[Tensor, "B D"], texts_BD: Float[Tensor, "B D"]) -> TextLook:
    cosines_BB = unit(cls_BD.double()) @ unit(texts_BD.double()).T
    own = torch.eye(len(cosines_BB), dtype=torch.bool, device=cosines_BB.device)
    return TextLook(
        finite=bool(torch.isfinite(cosines_BB).all()),
        own=cosines_BB[own].mean().item(),
        other=cosines_BB[~own].mean().item(),
        between_texts=_mean_cosine(unit(texts_BD.double()).unsqueeze(0)),
    )


def effective_rank(centred_MD: Float[Tensor, "M D"]) -> float:
    """exp(-sum p log p) over the shares p of the variance in each principal direction."""
    return rank_of(torch.linalg.svdvals(centred_MD.double()).square())


def rank_of(variances_R: Float[Tensor, " R"]) -> float:
    """`effective_rank` from the variances in the principal directions; they need not sum to 1."""
    shares = variances_R.clamp(min=0) / variances_R.sum().clamp(min=TINY)
    return torch.exp(torch.special.entr(shares).sum()).item()


def explained_by_colours(tokens: Tokens, pixels: Float[Tensor, "B 3 H W"]) -> float:
    """R2 of ridge regression from the four mean colours of each patch to its features, fitted to the first half of the
    pictures and measured on the second; nan when there are too few patches to fit."""
    (rows, columns), half = tokens.grid, len(pixels) // 2
    small = functional.adaptive_avg_pool2d(pixels.double(), (2 * rows, 2 * columns))
    colours_BNE = functional.unfold(small, 2, stride=2).transpose(1, 2)
    colours_BNE = functional.pad(colours_BNE, (0, 1), value=1.0)
    features_BND = patch_map(tokens).double().flatten(2).transpose(1, 2)
    known_ME, known_MD = colours_BNE[:half].flatten(0, 1), features_BND[:half].flatten(0, 1)
    if len(known_ME) < 4 * known_ME.shape[1]:
        return math.nan
    ridge = 1e-5 * len(known_ME) * torch.eye(known_ME.shape[1], dtype=torch.float64, device=known_ME.device)
    weights_ED = torch.linalg.solve(known_ME.T @ known_ME + ridge, known_ME.T @ known_MD)
    asked_MD = features_BND[half:].flatten(0, 1)
    missed = (asked_MD - colours_BNE[half:].flatten(0, 1) @ weights_ED).square().sum()
    return (1 - missed / (asked_MD - known_MD.mean(0)).square().sum().clamp(min=TINY)).item()


def warnings(look: Look, text: TextLook | None = None) -> list[str]:
    """What looks wrong, one sentence each; none for features that look like those of a trained encoder."""
    if not look.finite or (text is not None and not text.finite):
        return ["some features are not finite: the weights are damaged, or overflow in this precision"]
    found = [
        (look.alive < 1e-3, "all patches of all pictures are nearly the same: these features have collapsed"),
        (look.cls_alive < 1e-3, "the CLS token is nearly the same for every picture"),
        (look.by_place > 0.9, "patches say where they are and hardly what is there: pictures make no difference"),
        (look.rank < 2, "patches differ along one direction only: these features have collapsed"),
        (
            look.colours > COLOURS,
            f"a linear map of each patch's colours explains {look.colours:.0%} of the variance, as with random "
            f"weights; in trained encoders it was less than {COLOURS:.0%}",
        ),
    ]
    if text is not None:
        found += [
            (text.between_texts > 0.999, "the text tower says nearly the same of every text"),
            (text.own <= text.other, "captions are no closer to their own picture than to others'"),
        ]
    return [sentence for wrong, sentence in found if wrong]


def _alive(vectors_MD: Float[Tensor, "M D"]) -> float:
    varying = (vectors_MD - vectors_MD.mean(0)).square().sum()
    return (varying / vectors_MD.square().sum().clamp(min=TINY)).item()


def _mean_cosine(unit_GND: Float[Tensor, "G N D"]) -> float:
    """Over all pairs of different vectors inside each group; nan for groups of one."""
    num = unit_GND.shape[1]
    if num < 2:
        return math.nan
    return ((unit_GND.sum(1).square().sum(-1) - num) / (num * (num - 1))).mean().item()
