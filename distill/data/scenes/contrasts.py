"""Captions that are wrong in one detail: the negatives of compositional pairs, written from the picture's content."""

from dataclasses import replace

import numpy as np

from distill.data.scenes.captions import Content, contents, detailed
from distill.data.scenes.hashing import Draws
from distill.data.scenes.sampling import Parameters
from distill.data.scenes.vocabulary import COLOUR_NAMES

Contrast = tuple[str, str, str]
"""Category, caption, wrong caption."""
_NO_CHANCE = [0.0] * 24
"""The caption's lead: none."""


def contrasts(
    parameters: Parameters, *, indices: np.ndarray, world_seed: int, split: str, num_things: int
) -> list[list[Contrast]]:
    """Of every picture its `detailed` caption against the same caption with the nearest thing replaced by a shape that
    is not there (`replace_obj`), with that thing in a colour that no thing or texture has (`replace_att`), and, where
    two things differ in shape and colour, with their colours exchanged (`swap_att`)."""
    draws = Draws(world_seed, split, indices)("contrasts", 2).tolist()
    found = []
    for content, (shape, colour) in zip(contents(parameters), draws, strict=True):
        wrong = {
            "replace_obj": _other_shape(content, shape, num_things),
            "replace_att": _other_colour(content, colour),
            "swap_att": _swapped(content),
        }
        right = detailed(content, _NO_CHANCE)
        found.append([(name, right, detailed(each, _NO_CHANCE)) for name, each in wrong.items() if each is not None])
    return found


def _other_shape(content: Content, draw: float, num_things: int) -> Content | None:
    absent = sorted(set(range(num_things)) - {kind for kind, _, _ in content.things})
    if not absent:
        return None
    _, colour, place = content.things[-1]
    return replace(content, things=[*content.things[:-1], (absent[int(draw * len(absent))], colour, place)])


def _other_colour(content: Content, draw: float) -> Content:
    seen = {colour for _, colour, _ in content.things} | {colour for _, colour in content.stuff}
    absent = sorted(set(range(len(COLOUR_NAMES))) - seen)
    kind, _, place = content.things[-1]
    return replace(content, things=[*content.things[:-1], (kind, absent[int(draw * len(absent))], place)])


def _swapped(content: Content) -> Content | None:
    """The nearest thing and the nearest of those that differ from it in both exchange their colours."""
    kind, colour, place = content.things[-1]
    for number in reversed(range(len(content.things) - 1)):
        other_kind, other_colour, other_place = content.things[number]
        if other_kind == kind or other_colour == colour:
            continue
        things = list(content.things)
        things[number], things[-1] = (other_kind, colour, other_place), (kind, other_colour, place)
        # Others at the same places may make up for the exchange: then the words are still true.
        return None if sorted(things) == sorted(content.things) else replace(content, things=things)
    return None
