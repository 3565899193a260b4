"""Docstrings of distill are prose with code between backticks: nothing else in them is meant as Markdown."""

import re
from typing import Any

import griffe

CODE = re.compile(r"(`[^`]*`)")
MEANT_LITERALLY = re.compile(r"([\[\]*<])")


class Prose(griffe.Extension):
    """Escapes brackets, stars and angles, which would become links, emphasis and tags: [0, 1], a * b, <image>."""

    def on_object(self, *, obj: griffe.Object, **others: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = plain(obj.docstring.value)


def plain(text: str) -> str:
    """The text as Markdown that shows it as it is; code between backticks stays."""
    return "".join(
        part if part.startswith("`") else MEANT_LITERALLY.sub(r"\\\1", part).replace("\\<", "&lt;")
        for part in CODE.split(text)
    )
