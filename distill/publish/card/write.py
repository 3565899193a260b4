"""Writing the card and what goes with it into a published folder."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import ModelCard

from distill import __version__
from distill.config import load_recipe
from distill.publish.card import opening, results, sections
from distill.publish.card.facts import Facts
from distill.publish.card.metadata import metadata
from distill.publish.card.provenance import published_recipe
from distill.publish.proof.record import Proof, holds_text
from distill.publish.student import Subject
from distill.train.journal import whole, write_atomically

CARD, RECIPE, PICTURE, LICENCE = "README.md", "recipe.yaml", "features.png", "LICENSE"
FILES = (CARD, RECIPE, PICTURE, LICENCE)
"""Everything that is written here."""
PNG = b"\x89PNG\r\n\x1a\n"
CAPTION = "What it makes of pictures."
"""Of a picture that was given; nobody knows more about it here."""


def check_files(*, picture: Path | None, licence_text: Path | None, page: Path | None) -> None:
    """Raises ValueError for a picture that is no PNG, a licence's text that is none, and a page that cannot be read."""
    for option, path in (("--picture", picture), ("--licence-text", licence_text)):
        if path is not None and not path.is_file():
            raise ValueError(f"{option} {path}: no such file")
    if picture is not None:
        with picture.open("rb") as file:
            if file.read(len(PNG)) != PNG:
                raise ValueError(f"{picture} is no PNG")
    if licence_text is not None:
        try:
            empty = not licence_text.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError as problem:
            raise ValueError(f"--licence-text {licence_text} is no text in UTF-8") from problem
        if empty:
            raise ValueError(f"--licence-text {licence_text} is empty")
    if page is not None:
        load_recipe(str(page))


def write_card(
    folder: Path,
    *,
    facts: Facts,
    subject: Subject,
    proof: Proof,
    text: str = "",
    picture: Path | None = None,
    caption: str | None = None,
    datasets: Sequence[str] = (),
) -> None:
    """README.md with the hub's metadata; recipe.yaml; a copy of `picture` (features.png); `text` as LICENSE.

    `facts` are those of the subject, `datasets` names on the hub. A features.png that the folder holds already is shown
    too, with its `caption`.
    """
    if picture is not None:
        _write_bytes(folder / PICTURE, picture.read_bytes())
    if text:
        write_atomically(folder / LICENCE, text)
    write_atomically(folder / RECIPE, published_recipe(facts.recipe))
    with_text = facts.with_text and holds_text(proof)
    parts = {
        "": opening.opening(facts, with_text=with_text),
        "Load it": sections.loading(subject, proof, folder),
        "What it learnt from": sections.learnt_from(facts),
        "Licence": sections.licence(facts, text),
        "Measured": results.evaluation(facts),
        "The same weights in every format": sections.proven(proof),
        "Training": sections.training(facts),
        "Limits": opening.limits(facts, with_text=with_text),
        "Citation": sections.citation(__version__),
    }
    if (folder / PICTURE).is_file():
        shown = caption or CAPTION
        parts[""] += f"\n\n![{shown}]({PICTURE})\n\n*{shown}*"
    body = "\n\n".join(f"## {name}\n\n{text}" if name else text for name, text in parts.items())
    front = metadata(facts, proof, with_text=with_text, datasets=datasets)
    card = ModelCard(f"---\n{front.to_yaml()}\n---\n\n# {facts.title}\n\n{body}\n")
    write_atomically(folder / CARD, str(card))


def _write_bytes(path: Path, content: bytes) -> None:
    with whole(path) as unfinished:
        unfinished.write_bytes(content)
