"""`distill publish RUN --to FOLDER`: write a student in every format it can have, prove each, and only then show it."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from distill.publish.card import PICTURE, Facts, check_files, gather, write_card
from distill.publish.hub import check_name, push
from distill.publish.picture import Drawn, draw_features
from distill.publish.place import check_room, interruptible, whole
from distill.publish.plan import Plan, check_shard_size, num_bytes, plan, write
from distill.publish.proof import record
from distill.publish.proof.prove import PIXEL_TOLERANCE, TOLERANCE, Case, Found, allowed, differences, prove
from distill.publish.proof.questions import TEXTS, Questions, ask, expected
from distill.publish.proof.record import Proof
from distill.publish.student import Dtype, Side, Subject, load_subject, rounded


@dataclass(frozen=True, kw_only=True)
class Wish:
    """How a student is to be published. `formats` is None for all that apply."""

    formats: tuple[str, ...] | None = None
    dtype: Dtype = "fp32"
    side: Side = "student"
    photos: Path | None = None
    max_shard_size: str | None = None
    """None for that of the format which has shards."""
    licence: str | None = None
    """The student's; None for what those of its teachers ask for. What follows is of its card, as of `write_card`."""
    licence_text: Path | None = None
    picture: Path | None = None
    """A PNG to be shown instead of the one that is drawn."""
    draws: bool = True
    """Whether a picture is drawn where none is given."""
    page: Path | None = None
    datasets: tuple[str, ...] = ()


PIXELS = "photo_pixels"
"""The one quantity that no library agrees on to the last digit: how a photo is made smaller."""
OF_WRITING = (
    *("formats", "dtype", "side", "photos", "max_shard_size"),
    *("licence", "licence_text", "picture", "no_picture", "page", "data"),
)
OF_SENDING = ("upload", "public", "update")
"""Options that mean something with --to, and with --push."""


def run(options: argparse.Namespace) -> int:
    """Write a folder, send one, or both. ValueError for options that would not be heard."""
    given = vars(options)
    for needed, names in (("to", OF_WRITING), ("push", OF_SENDING)):
        unheard = [name for name in names if given[name] and given[needed] is None]
        if unheard:
            raise ValueError(f"--{unheard[0].replace('_', '-')} is heard with --{needed} only")
    if options.to is None and options.push is None:
        raise ValueError(
            f"say where to: --to FOLDER writes what {options.run} trained, --push OWNER/NAME sends a folder that was "
            "published to the hub"
        )
    if options.push is not None:
        check_name(options.push)
    folder = options.run
    if options.to is not None:
        with interruptible():
            write_folder(options)
        folder = options.to
    if options.push is not None:
        push(folder, options.push, really=options.upload, private=not options.public, update=options.update)
    return 0


def write_folder(options: argparse.Namespace) -> None:
    """With a table of what was proven."""
    formats = None if options.formats is None else tuple(options.formats.split(","))
    wish = Wish(
        formats=formats,
        dtype=options.dtype or "fp32",
        side=options.side or "student",
        photos=options.photos,
        max_shard_size=options.max_shard_size,
        licence=options.licence,
        licence_text=options.licence_text,
        picture=options.picture,
        draws=not options.no_picture,
        page=options.page,
        datasets=tuple(options.data),
    )
    done = publish(options.run, options.to, wish)
    Console().print(table_of(done.proof, options.to))
    for note in (*done.notes, *_notes(done.proof, options.to)):
        print(note)


@dataclass(frozen=True, kw_only=True)
class Published:
    """What was proven, and what whoever publishes it should hear."""

    proof: Proof
    notes: tuple[str, ...]


def publish(path: Path, target: Path, wish: Wish) -> Published:
    """Write the encoder of a run or checkpoint folder into the folder `target`, which is not there before.

    Everything is written beside it first and loaded back; on any failure nothing is left. Raises ValueError for a
    target that exists, a run that is not finished, weights that are not finite, formats that do not apply, files that
    the card cannot take, a licence that its teachers' do not allow, a full disk, and (Mismatch) where a library makes
    something else of its format than the student is.
    """
    if target.exists() or target.is_symlink():
        raise ValueError(f"{target} exists already; name a folder that does not, or delete it first")
    if wish.picture is not None and not wish.draws:
        raise ValueError("--picture and --no-picture contradict each other")
    for name in wish.datasets:
        check_name(name, owned=False)
    check_files(picture=wish.picture, licence_text=wish.licence_text, page=wish.page)
    subject = load_subject(path, side=wish.side)
    text = "" if wish.licence_text is None else wish.licence_text.read_text(encoding="utf-8")
    facts = gather(subject, licence=wish.licence, text=text, page=wish.page)
    subject = replace(subject, licence=facts.licence.name)
    planned = plan(subject, wish.formats, dtype=wish.dtype)
    check_shard_size(wish.max_shard_size, planned, subject)
    questions = ask(subject, wish.photos)
    with whole(target) as unfinished:
        check_room(num_bytes(subject, planned, dtype=wish.dtype), unfinished)
        found = {name: _carry_out(name, planned, subject, questions, wish, unfinished) for name in planned.formats}
        drawn = None
        if wish.picture is None and wish.draws:
            drawn = draw_features(subject, wish.photos, unfinished / PICTURE)
        proof = Proof(
            formats={name: one.proof(unfinished / name, unfinished) for name, one in found.items()},
            refused=planned.refused,
            dtype=wish.dtype,
            rounding=_rounding(subject, questions, wish.dtype),
            num_pictures=len(questions.pictures),
            pictures=questions.about,
            image_size=subject.image_size,
            num_texts=0 if subject.text is None else len(TEXTS),
            tolerance=TOLERANCE,
            texts_wanted=facts.licence.texts,
            source_licences=facts.licence.sources,
            photos_shown=None if drawn is None else drawn.photos,
            pixel_tolerance=PIXEL_TOLERANCE,
        )
        record.write(proof, unfinished)
        write_card(
            unfinished,
            facts=facts,
            subject=subject,
            proof=proof,
            text=text,
            picture=wish.picture,
            caption=None if drawn is None else drawn.caption,
            datasets=wish.datasets,
        )
    return Published(proof=proof, notes=(*facts.licence.warnings, *_of_the_step(facts), *_of_the_picture(drawn)))


def table_of(proof: Proof, target: Path) -> Table:
    """Formats, what proved them, their sizes and worst differences, and why others do not apply."""
    title = f"{target}: {proof.dtype}, compared on {proof.num_pictures} {proof.pictures} of {proof.image_size} pixels"
    table = Table("format", title=title, title_justify="left", min_width=min(len(title), 100))
    table.add_column("loaded by", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("worst difference, or why there is none")
    table.add_column("pixels", justify="right", no_wrap=True)
    for name, found in proof.formats.items():
        said = {quantity: value for quantity, value in found.differences.items() if quantity != PIXELS}
        quantity = max(said, key=lambda quantity: said[quantity] / allowed(quantity))
        pixels = f"{found.differences[PIXELS]:.1e}" if PIXELS in found.differences else "–"
        size = f"{found.bytes / 1e6:.1f} MB"
        table.add_row(name, f"{found.library} {found.version}", size, f"{said[quantity]:.1e}, {quantity}", pixels)
    for name, reason in proof.refused.items():
        table.add_row(name, "–", "–", reason, "–", style="dim")
    return table


def _notes(proof: Proof, target: Path) -> Iterator[str]:
    if proof.rounding:
        listed = ", ".join(f"{name} {value:.1e}" for name, value in proof.rounding.items())
        yield f"{proof.dtype} weights differ from the student's own by {listed}"
    if "onnx" in proof.formats and "wide_cls" not in proof.formats["onnx"].differences:
        yield f"onnx: the image graph takes pictures of {proof.image_size} pixels only"
    if "open_clip" in proof.formats and "open_clip/config.json" in proof.formats["open_clip"].files:
        yield f"open_clip has to be told where this image tower's sizes are: load it as {target}/README.md does"


def _of_the_step(facts: Facts) -> Iterator[str]:
    steps = facts.recipe.optim.steps
    if facts.step < steps:
        yield f"these are the weights of step {facts.step} of {steps}, and the card says so"
    for name in facts.passed_over:
        yield f"{name} is of an earlier version of distill and not in the card: measure again to have it there"


def _of_the_picture(drawn: Drawn | None) -> Iterator[str]:
    if drawn is None:
        return
    if drawn.photos is not None:
        yield f"{PICTURE} shows {drawn.photos}: give it on only if you may; --no-picture leaves it out"
    if drawn.missing is not None:
        yield f"{PICTURE} has no row from before the training: {drawn.missing}"


def _carry_out(name: str, planned: Plan, subject: Subject, questions: Questions, wish: Wish, unfinished: Path) -> Found:
    """Write one format and prove it."""
    folder = unfinished / name
    folder.mkdir()
    held = write(name, subject, folder, dtype=wish.dtype, max_shard_size=wish.max_shard_size)
    case = Case(folder=folder, subject=held, questions=questions, with_text=planned.formats[name])
    return prove(name, [case])[0]


def _rounding(subject: Subject, questions: Questions, dtype: Dtype) -> dict[str, float]:
    if dtype == "fp32":
        return {}
    ours, theirs = expected(questions, subject), expected(questions, rounded(subject, dtype))
    judged = {name: value for name, value in theirs.items() if name in ("cls", "cls2", "patches", "text", "logits")}
    return differences(judged, ours, temperature=subject.temperature)
