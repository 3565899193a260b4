"""What a captioner is asked: a text with places for the picture and for captions that the picture has already."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from distill.config import Granularity

PICTURE = "{image}"
PLACES = re.compile(r"\{(\w*)\}")
TIPSV2 = (
    "Based on the existing captions for the image, "
    "create a new caption that accurately describes what is in the image.\n"
    "Image: {image}\n"
    "Captions:\n1. {alt}\n2. {short}\n"
    "Return just the new caption and nothing else."
)
"""The prompt of TIPSv2's detailed captions, from the web caption and an earlier synthetic one; published by the author
bingyic in issue 38 of google-deepmind/tips. Line breaks are ours."""

NAMED = {"tipsv2": TIPSV2}
"""Prompts that `--prompt` knows by name."""


@dataclass(frozen=True)
class Prompt:
    """A text in which {image} stands for the picture, {alt}, {short} and {detailed} for its captions; may be empty."""

    text: str = ""

    def __post_init__(self) -> None:
        for place in PLACES.findall(self.text):
            if place not in ("image", *get_args(Granularity)):
                known = ", ".join(f"{{{kind}}}" for kind in ("image", *get_args(Granularity)))
                raise ValueError(f"--prompt: {{{place}}} is none of {known}")
        if self.text.count(PICTURE) > 1:
            raise ValueError("--prompt: {image} stands in it more than once, and there is one picture")

    @property
    def wanted(self) -> tuple[Granularity, ...]:
        """The captions it quotes."""
        return tuple(kind for kind in get_args(Granularity) if f"{{{kind}}}" in self.text)

    def around(self, captions: Mapping[Granularity, str]) -> tuple[str, str]:
        """What stands before the picture and after it; all of it after where {image} is left out."""
        before, picture, after = self.text.partition(PICTURE)
        parts = (before, after) if picture else ("", before)
        # In one pass: a caption that holds braces is a caption.
        before, after = (PLACES.sub(lambda place: captions[place[1]], part).strip() for part in parts)
        return before, after


def named_prompt(text: str) -> Prompt:
    """The prompt of a name, or the text itself. Raises ValueError for places that it does not know."""
    return Prompt(NAMED.get(text, text))
