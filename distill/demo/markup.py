"""Content of `distill.show` as HTML. Whatever is text is escaped here, once, and nowhere else.

Legend: (H, W) pixels.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from matplotlib.colors import to_hex
from PIL import Image

from distill.show.colours import scaled, swatch
from distill.show.content import Content, Row, Scale

RAMP_STEPS = 9
"""Colours of a scale between which the browser goes evenly."""
MOST_COLUMNS = 4
HINT = "<p>Click a point in it, to see what is like it.</p>"

Kind = Literal["plain", "truth", "said"]
"""Of a panel: the picture itself, which narrow pages leave out; what is known about it; what a model makes of it."""


def section(heading: str, content: Content | str, asides: Iterable[str] = ()) -> str:
    """One kind of map: its panels side by side, with their words, or the sentence that says why there are none.

    `asides` are sentences about some of the models. The picture itself stands first where no truth does, so that a
    model has the same column in every section.
    """
    sentences = [content, *asides] if isinstance(content, str) else asides
    said = "".join(f'<p class="why">{escape(_sentence(each))}</p>' for each in sentences)
    if not isinstance(content, str):
        picture, *others = content.rows
        rows = others if others[0].title == "truth" else content.rows
        kinds = ["plain" if row is picture else "truth" if row.title == "truth" else "said" for row in rows]
        panels = "".join(figure(row, about=heading, kind=kind) for row, kind in zip(rows, kinds, strict=True))
        said += (
            f'<div class="panels" style="--columns: {min(len(rows), MOST_COLUMNS)}">{panels}</div>'
            f'{legend(content.legend)}<p class="note">{escape(content.note)}</p>'
        )
    return f'<section class="map"><h2>{escape(heading)}</h2>{said}</section>'


def header(titles: Sequence[str]) -> str:
    """Who looks."""
    named = " beside ".join(f"<strong>{escape(title)}</strong>" for title in titles)
    return f"<h1>distill demo</h1><p>{named}</p>"


def figure(row: Row, *, about: str, kind: Kind) -> str:
    """The row's first panel with its title and words."""
    panel = row.panels[0]
    below = f' <span class="below">{escape(panel.below)}</span>' if panel.below and kind == "said" else ""
    ramp = "" if row.scale is None else scale(row.scale)
    return (
        f'<figure class="{kind}"><img src="{image_uri(panel.rgb)}" alt="{escape(f"{about}: {row.title}")}">'
        f"<figcaption>{escape(row.title)}{below}{ramp}</figcaption></figure>"
    )


def scale(ends: Scale) -> str:
    """A ramp of the colours as they are seen over pictures, between the numbers they stand for."""
    ramp = swatch(scaled(np.linspace(0, 1, RAMP_STEPS)[None], low=0.0, high=1.0), opacity=ends.opacity)[0]
    colours = ", ".join(to_hex(colour) for colour in ramp)
    low, high = map(escape, ends.ends)
    return (
        f'<span class="scale"><span>{low}</span><i style="background: linear-gradient(to right, {colours})"></i>'
        f"<span>{high}</span></span>"
    )


def legend(entries: Iterable[tuple[str, tuple[float, float, float]]]) -> str:
    listed = "".join(f'<li><i style="background: {to_hex(colour)}"></i>{escape(name)}</li>' for name, colour in entries)
    return f'<ul class="legend">{listed}</ul>' if listed else ""


def notice(text: str) -> str:
    """What the page has to say about what was sent; empty for nothing."""
    return f'<p class="notice" role="alert">{escape(_sentence(text))}</p>' if text else ""


def image_uri(rgb: UInt8[np.ndarray, "H W 3"]) -> str:
    """A PNG inside of the page."""
    written = io.BytesIO()
    Image.fromarray(rgb).save(written, format="PNG", compress_level=3)
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"


def _sentence(text: str) -> str:
    """With a capital and a full stop."""
    stop = "" if text.endswith((".", "?", "!")) else "."
    return f"{text[:1].upper()}{text[1:]}{stop}"
