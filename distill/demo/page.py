"""The page: what stands where, and what is looked at again when a visitor does something (extra: demo)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from distill.demo import maps
from distill.demo.limits import read_upload
from distill.demo.maps import HEADINGS, MIDDLE, Looker
from distill.demo.markup import HINT, header, notice
from distill.show.content import as_bytes, framed
from distill.show.pictures import Picture

STYLE = Path(__file__).with_name("page.css")
PHOTO_CLASSES = "person, animal, plant, building, road, sky, water"
"""Where no scenes say what there is to name."""
KEEP_SECONDS = 3600
"""Uploaded files are deleted after it; what was read of them is kept until the page is closed."""

EVENT = {"concurrency_id": "looking", "concurrency_limit": 1, "api_visibility": "private", "show_progress": "minimal"}
"""One at a time: models take all cores, or one GPU. Nothing but the page calls the functions."""
CHOICE = {**EVENT, "concurrency_id": "choosing", "trigger_mode": "multiple"}
"""Done at once, each, in the order of clicks. Looking takes longer and reads what was chosen last: were it given
clicks, those made meanwhile would be lost."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What events read and write."""

    chosen: gr.State
    """The Picture that is looked at."""
    turn: gr.State
    """How many pictures were chosen so far: its change is a new picture."""
    point: gr.State
    """Where the ring is: x and y, shares of width and height."""
    picture: gr.Image
    upload: gr.File
    examples: gr.Gallery
    notice: gr.HTML
    basis: gr.Radio
    classes: gr.Textbox
    query: gr.Textbox
    go: tuple[gr.Button, gr.Button]
    """Of the two texts."""
    maps: dict[str, gr.HTML]


def build(looker: Looker, examples: list[Picture]) -> gr.Blocks:
    """The page before it is served. The first example is shown when it is opened."""
    keep = (KEEP_SECONDS, KEEP_SECONDS)
    with gr.Blocks(title="distill demo", analytics_enabled=False, delete_cache=keep, fill_width=True) as page:
        parts = _lay_out(looker, examples)
        _choose(page, parts, looker, examples)
        _look(parts, looker)
    return page


def _lay_out(looker: Looker, examples: list[Picture]) -> Parts:
    with gr.Row(elem_id="page"):
        with gr.Column(scale=0, min_width=320, elem_id="asked"):
            gr.HTML(header([model.title for model in looker.models]), elem_id="header")
            said = gr.HTML(elem_id="notice")
            picture = gr.Image(
                label="the picture",
                show_label=False,  # Gradio's label would cover a corner of it
                interactive=False,
                format="png",
                buttons=[],
                elem_id="picture",
            )
            gr.HTML(HINT, elem_id="hint", padding=False)
            shown = gr.Gallery(
                [as_bytes(framed(each, looker.looking.frame)) for each in examples],
                label="examples",
                show_label=False,
                columns=4,
                height="auto",
                object_fit="cover",
                allow_preview=False,
                interactive=False,
                buttons=[],
                elem_id="examples",
            )
            upload = gr.File(
                label="a picture of yours", show_label=False, file_types=["image"], height=90, elem_id="upload"
            )
            asked = _ask(looker, examples)
        with gr.Column(scale=1, min_width=320, elem_id="maps"):
            sections = {what: gr.HTML(elem_id=what, container=False) for what in HEADINGS}
    return Parts(
        chosen=gr.State(None),
        turn=gr.State(0),
        point=gr.State(MIDDLE),
        picture=picture,
        upload=upload,
        examples=shown,
        notice=said,
        maps=sections,
        **asked,
    )


def _ask(looker: Looker, examples: list[Picture]) -> dict[str, Any]:
    """Texts and choices; those that no model can use are not seen."""
    truth = examples[0].truth
    names = ", ".join(truth.class_names) if truth else PHOTO_CLASSES
    readable = bool(looker.readers)
    classes = gr.Textbox(
        names, label="class names, with commas between", lines=3, max_lines=8, visible=readable, elem_id="classes"
    )
    segment = gr.Button("Segment", visible=readable, size="sm", elem_id="segment")
    query = gr.Textbox(
        names.partition(",")[0], label="a text to look for", max_lines=1, visible=readable, elem_id="query"
    )
    find = gr.Button("Look for it", visible=readable, size="sm", elem_id="find")
    basis = gr.Radio(
        list(looker.bases),
        value=looker.basis,
        label="colours of principal components, across models",
        visible=len(looker.models) > 1,
        elem_id="basis",
    )
    return {"classes": classes, "query": query, "basis": basis, "go": (segment, find)}


def _choose(page: gr.Blocks, parts: Parts, looker: Looker, examples: list[Picture]) -> None:
    """What leads to a picture: opening the page, an example, an upload."""

    def taken(file: str | None, turn: int) -> tuple:
        if file is None:
            return (gr.skip(),) * 5
        try:
            found = read_upload(Path(file), looker.limits, looker.models, image_size=looker.looking.image_size)
        except ValueError as error:
            return gr.skip(), gr.skip(), gr.skip(), notice(str(error)), None
        return found, turn + 1, MIDDLE, "", None

    def picked(turn: int, event: gr.SelectData) -> tuple:
        return examples[event.index], turn + 1, MIDDLE, ""

    def clicked(picture: Picture, event: gr.SelectData) -> tuple[float, float]:
        height, width = looker.looking.frame.size_of(picture)
        x, y = ((place + 0.5) / length for place, length in zip(event.index, (width, height), strict=True))
        return min(max(x, 0.0), 1.0), min(max(y, 0.0), 1.0)

    def first(turn: int) -> tuple[Picture, int]:
        return examples[0], turn + 1

    page.load(first, parts.turn, [parts.chosen, parts.turn], **EVENT)
    outputs = [parts.chosen, parts.turn, parts.point, parts.notice]
    parts.examples.select(picked, parts.turn, outputs, **CHOICE)
    parts.picture.select(clicked, parts.chosen, parts.point, **CHOICE)
    # The field is emptied at once, so that the next picture can be dropped there.
    parts.upload.upload(taken, [parts.upload, parts.turn], [*outputs, parts.upload], **CHOICE)


def _look(parts: Parts, looker: Looker) -> None:
    """A new picture is looked at in every way; a changed text or point in its own way only."""

    def again(triggers: list[Callable], look: Callable, *inputs: Any, to: Any) -> None:
        gr.on(triggers, look, [parts.chosen, *inputs], to, trigger_mode="always_last", **EVENT)

    def of(look: Callable) -> Callable:
        return lambda picture, *rest: look(looker, picture, *rest)

    new, (segment, find), sections = parts.turn.change, parts.go, parts.maps
    again([new, parts.point.change], of(maps.similarity), parts.point, to=[parts.picture, sections["similarity"]])
    again([new, parts.basis.change], of(maps.pca), parts.basis, to=sections["pca"])
    again([new, segment.click], of(maps.segmentation), parts.classes, to=sections["segmentation"])
    again([new, find.click, parts.query.submit], of(maps.heat), parts.query, to=sections["heat"])
    again([new], of(maps.depth), to=sections["depth"])
    again([new], of(maps.normals), to=sections["normals"])
