"""The card's sections in Markdown, each from the facts it speaks of."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from distill.publish.card.facts import Facts
from distill.publish.card.licences import NO_ADVICE, NOT_CHOSEN, TERMS, going_along, holds, terms_of
from distill.publish.card.loading import FOLDER, PICTURE, blocks, place_of
from distill.publish.card.names import HUB, UNNAMED
from distill.publish.card.provenance import data_in_words, fingerprint
from distill.publish.card.sources import TOKENIZER, Source, distinct
from distill.publish.proof.record import Proof, holds_text
from distill.publish.student import Subject

MOVED = (
    "open_clip makes this image tower, whose sizes are none of timm's own, of the config.json beside its own, and has "
    "to be told where that is: hence `vision_cfg`."
)
PAPER = """\
@inproceedings{tipsv2,
  title     = {TIPSv2: Advancing Vision-Language Pretraining with Enhanced Patch-Text Alignment},
  author    = {Cao, Bingyi and Chen, Koert and Maninis, Kevis-Kokitsi and Chen, Kaifeng and Karpur, Arjun and
               Xia, Ye and Dua, Sahil and Dabral, Tanmaya and Han, Guangxing and Han, Bohyung and Ainslie, Joshua and
               Bewley, Alex and Jacob, Mithun and Wagner, René and Ramos, Washington and Choromanski, Krzysztof and
               Seyedhosseini, Mojtaba and Zhou, Howard and Araujo, André},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2026},
  url       = {https://arxiv.org/abs/2604.12012}
}"""
SOFTWARE = """\
@software{distill,
  title   = {distill: distillation and iBOT++ pretraining of image and image-text encoders},
  author  = {{The distill authors}},
  version = {VERSION}
}"""


QUANTITIES = {
    "cls": "CLS 1",
    "cls2": "CLS 2",
    "patches": "patches",
    "text": "texts",
    "logits": "cosines of pictures and texts",
    "wide_cls": "CLS 1, other size",
    "wide_patches": "patches, other size",
    "photo_pixels": "prepared pixels",
    "photo_cls": "CLS 1 of prepared pixels",
    "feature_pipeline": "pipeline image-feature-extraction",
    "zero_shot_pipeline": "pipeline zero-shot-image-classification",
}
"""What a proof compares, in the order in which the card tells it."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe in a cell would end it, and angle brackets would be taken for HTML."""
    cells = [[cell.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def details(title: str, text: str) -> str:
    """Shown when it is asked for."""
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def loading(subject: Subject, proof: Proof, folder: Path) -> str:
    """Every block is complete; `FOLDER` and `PICTURE` stand for the reader's own."""
    said = (
        f'`{FOLDER}` is this folder: a local path, or what `huggingface_hub.snapshot_download("OWNER/NAME")` returns. '
        f"`{PICTURE}` is any picture. None of it needs the toolkit that trained the model."
    )
    found = blocks(folder, proof, subject=subject)
    parts = [said, *(f"**{name}**\n\n```python\n{code}```" for name, code in found.items())]
    if "open_clip" in proof.formats and "open_clip/config.json" in proof.formats["open_clip"].files:
        parts.append(MOVED)
    return "\n\n".join(parts)


def learnt_from(facts: Facts) -> str:
    own = "Nobody else's weights: it started at random and its only teacher is its own moving average."
    if not facts.sources:
        return own
    rows = [_row(source, depth) for source, depth in _flat(facts.sources)]
    found = table(["role", "encoder or file", "weights", "licence", "SHA-256"], rows)
    return found if any(source.role != TOKENIZER for source in facts.sources) else f"{own}\n\n{found}"


def licence(facts: Facts, text: str) -> str:
    """What was chosen, what the licences of all sources are known to ask, and whose texts `text`, of LICENSE, holds."""
    chosen, terms = facts.licence.name, TERMS.get(facts.licence.name)
    link = f"[{terms.title}]({terms.url})" if terms is not None else f"`{chosen}`"
    if terms is None and chosen not in HUB:
        link += ", a licence of its own, whose text is in [LICENSE](LICENSE)"
    elif text:
        holds_it = terms is not None and holds(text, terms)
        link += ", whose text is in [LICENSE](LICENSE)" if holds_it else "; what goes along is in [LICENSE](LICENSE)"
    first = f"This model is published under {link}."
    if chosen == NOT_CHOSEN:
        first = "Whoever published this model chose no licence: without one it may be looked at and not used by others."
    sources = distinct(facts.sources)
    names = [source.name for source in sources]
    points = [_asks(source, shared=names.count(source.name) > 1) for source in sources]
    along = _along(sources, text)
    parts = [first, "\n".join(points), along, NO_ADVICE] if points else [first]
    return "\n\n".join(part for part in parts if part)


def proven(proof: Proof) -> str:
    """The comparison that `proof.json` holds."""
    quantities = list(dict.fromkeys(name for found in proof.formats.values() for name in found.differences))
    formats = proof.formats.values()
    rows = [
        ["folder", *(f"`{place_of(found)}`" for found in formats)],
        ["size", *(_size(found.bytes) for found in formats)],
        ["loaded by", *(f"{found.library} {found.version}" for found in formats)],
    ]
    for name in [each for each in QUANTITIES if each in quantities]:
        worst = [_difference(found.differences[name]) if name in found.differences else "" for found in formats]
        rows.append([_quantity(name, quantities), *worst])
    texts = f", and {proof.num_texts} texts" if proof.num_texts and holds_text(proof) else ""
    said = (
        f"Weights are stored in {proof.dtype}. Every format was loaded by its own library, in a process without the "
        f"toolkit that trained the model, and compared with the model as it was trained: on {proof.num_pictures} "
        f"{proof.pictures} at {proof.image_size} pixels{texts}. Below are the largest absolute differences; all of it "
        "is in `proof.json`."
    )
    parts = [said, table(["", *proof.formats], rows), "\n".join(_meanings(proof, quantities))]
    if proof.rounding:
        listed = ", ".join(f"{_quantity(name, proof.rounding)} {value:.1e}" for name, value in proof.rounding.items())
        parts.append(f"Rounding the weights to {proof.dtype} by itself changes what the model says by {listed}.")
    if proof.refused:
        listed = "\n".join(f"- {name}: {why}." for name, why in proof.refused.items())
        parts.append(f"Formats that do not apply:\n\n{listed}")
    return "\n\n".join(part for part in parts if part)


def _quantity(name: str, names: Iterable[str]) -> str:
    """CLS tokens count from 1 where there are two."""
    return QUANTITIES[name] if "cls2" in names else QUANTITIES[name].replace("CLS 1", "CLS")


def _meanings(proof: Proof, quantities: Sequence[str]) -> Iterator[str]:
    """What the rows are, of those that are there."""
    if quantities:
        yield (
            f"- Differences of tokens and texts are shares of the vector's length. Nothing but the prepared pixels may "
            f"differ by more than {proof.tolerance:.0e}."
        )
    if {"wide_cls", "wide_patches"} & {*quantities}:
        yield "- “Other size”: pictures that are no squares, of another size than in training, which the model takes."
    if "photo_pixels" in quantities:
        yield (
            "- “Prepared”: pictures that are no squares, as the library prepares them for the model: whole, stretched "
            f"to a square, bilinear; in [0, 1]. Libraries round in places of their own, so pixels may differ by "
            f"up to {proof.pixel_tolerance:.3f}; CLS is compared on the library's own pixels."
        )


def _difference(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def training(facts: Facts) -> str:
    """Data, recipe, and the study that the recipe comes from."""
    found, recipe = fingerprint(facts.recipe.data), facts.recipe
    parts, files, told = [], "", "It was not there any more when this was written, so it has no fingerprint."
    if found is not None:
        short, what = found
        made_of = (
            f"The first {len(short)} digits of the SHA-256 of:\n\n```json\n{json.dumps(what, sort_keys=True)}\n```"
        )
        parts.append(details("What the data's fingerprint is made of", made_of))
        files = f", {what['num_files']:,} files" if "num_files" in what else ""
        told = f"Its fingerprint, as this is written, is `{short}`."
    sums = " and of ".join(f"{name} `{value}`" for name, value in facts.sums.items())
    points = [
        f"- Data: {data_in_words(recipe.data)}{files}. {told}",
        f"- Recipe: every setting is in [recipe.yaml](recipe.yaml); seed {recipe.seed}. {_stands_on(facts)}",
        f"- Checkpoint: step {facts.step:,}; SHA-256 of {sums}.",
    ]
    if facts.summary:
        points.append(_of_the_run(facts))
    parts.insert(0, "\n".join(points))
    if facts.stands_on is not None and facts.stands_on.header:
        quoted = f"```text\n{facts.stands_on.header}\n```"
        without = ", without these changes" if facts.stands_on.changed else ""
        parts.append(details(f"What the page {facts.stands_on.page} says of itself{without}", quoted))
    return "\n\n".join(parts)


def citation(version: str) -> str:
    return f"```bibtex\n{PAPER}\n\n{SOFTWARE.replace('VERSION', version)}\n```"


def _asks(source: Source, *, shared: bool) -> str:
    """One point of the list: what a source is under, and what that asks for. Where others share its name, its sum."""
    known, its = terms_of(source.licence), source.licence
    name = f"`{source.name}`"
    if shared and source.sha256:
        name += f" (SHA-256 `{source.sha256[:8]}…`)"
    if known is not None:
        notice = f" The words: “{known.notice}”." if known.notice else ""
        return f"- {name} is under the [{known.title}]({known.url}). {known.says}{notice}"
    if its is None or its.lower() == NOT_CHOSEN:
        what = "comes without any statement of a licence"
    else:
        which = "a licence of its own" if its.lower() == UNNAMED else f"`{its}`"
        what = f"is under {which}, whose terms are not known here"
    what_for = "it may be given on with this student" if source.role == TOKENIZER else "this student may be published"
    return f"- {name} {what}: that {what_for} as it is, its publisher states."


def _along(sources: Sequence[Source], text: str) -> str:
    """Where the texts are that their licences ask for, and what was changed, as some want to hear."""
    wanted = going_along([source.licence for source in sources])
    here = [f"the {terms.title}" for terms in wanted if holds(text, terms)]
    elsewhere = [f"the {terms.title}" for terms in wanted if not holds(text, terms)]
    said = [f"[LICENSE](LICENSE) holds the text of {' and of '.join(here)}."] if here else []
    said += [f"The text of {' and of '.join(elsewhere)} is behind its link above."] if elsewhere else []
    if any(source.role != TOKENIZER for source in sources):
        said.append("Training made other weights than theirs, as the section Training tells.")
    for source in (each for each in sources if each.role == TOKENIZER):
        terms, owed = terms_of(source.licence), ""
        if terms is not None and terms is not TERMS["cc0-1.0"]:
            owed = f", so what its licence, the {terms.title}, asks for is owed in any case"
        said.append(f"The tokenizer's file goes along unchanged{owed}.")
    return " ".join(said)


def _flat(sources: Sequence[Source], depth: int = 0) -> list[tuple[Source, int]]:
    """A run of ours is followed by what it learnt from."""
    return [pair for each in sources for pair in [(each, depth), *_flat(each.behind, depth + 1)]]


def _row(source: Source, depth: int) -> list[str]:
    inward = "↳ " * depth
    own = "trained with this toolkit" if source.is_own else "not stated"
    unseen = "of no known release" if source.role == TOKENIZER else "not found any more"
    return [
        f"{inward}{source.role}",
        f"`{source.name}`",
        source.weights or unseen,
        source.licence or own,
        f"`{source.sha256}`" if source.sha256 else "not recorded",
    ]


def _stands_on(facts: Facts) -> str:
    found = facts.stands_on
    if found is None:
        return "distill comes with no recipe of its name."
    by = f", which the study `{found.study}` promoted" if found.study else ""
    if not found.changed:
        return f"It is the page `{found.page}`{by}, unchanged."
    changes = "; ".join(f"`{change}`" for change in found.changed)
    return f"It stands on the page `{found.page}`{by}, with these settings changed: {changes}."


def _of_the_run(facts: Facts) -> str:
    """The time is that of all steps."""
    summary, where = facts.summary, facts.summary["environment"]
    machine = f"{where['hardware']}, torch {where['torch']}, distill {where['distill']}"
    whole = "" if summary["steps"] == facts.step else f" for all its {summary['steps']:,} steps"
    return f"- Run: {_took(summary['seconds'])}{whole} on {machine}."


def _took(seconds: float) -> str:
    for unit, of in (("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * of:
            return f"{seconds / of:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
