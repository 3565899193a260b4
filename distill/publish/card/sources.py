"""Who a student learnt from: its teachers, what its towers start as, where those were trained here theirs, and the file
that cuts its texts into tokens."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm.models import get_pretrained_cfg

from distill.compose import RANDOM, load_pretrained, release_of
from distill.config import Recipe, by_teacher, recipe_from_file
from distill.encoders.weights import sha256_of_weights
from distill.eval.pictures.files import read_object
from distill.train.checkpoint import find

HUB = "hf-hub:"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
ROLES = {"frozen": "frozen teacher", "partial": "teacher, parts of which learnt too"}
TOKENIZER = "tokenizer"
"""The one source that goes into published folders as it is."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One encoder that a student learnt from or started as, or its tokenizer."""

    role: str
    name: str
    """FAMILY:NAME, or the name of a run or of the tokenizer's file; paths are cut to their last part."""
    weights: str | None = None
    """A file's name, a tag, a name on the hub, or `random`; of a tokenizer, the model that it was released with."""
    sha256: str | None = None
    licence: str | None = None
    """As stated for the weights; None where nobody states one."""
    is_own: bool = False
    """Trained here, by a run whose folder was found: what it learnt from is `behind` it, and it adds no licence."""
    behind: tuple["Source", ...] = ()
    hub: str | None = None
    """OWNER/NAME, where the weights are those of the hub."""
    problem: str | None = None
    """Why it could not be looked at, where neither it nor its run says anything; for the publisher, not for cards."""


def sources_of(checkpoint: Path) -> tuple[Source, ...]:
    """Everything that the student of a checkpoint folder learnt from, itself; a momentum teacher is no one else.

    What a finished run recorded of its teachers counts. Where it recorded nothing, as of a cached one, the teacher is
    loaded once more to ask it. Last comes the SentencePiece model of a TIPS text tower.
    """
    text = recipe_from_file(checkpoint / "recipe.yaml").student.text
    words = [tokenizer_of(Path(text.tokenizer))] if text.kind == "tips" and text.tokenizer is not None else []
    return (*encoders_of(checkpoint), *words)


def encoders_of(checkpoint: Path) -> tuple[Source, ...]:
    """Its teachers and what its towers started as."""
    recipe = recipe_from_file(checkpoint / "recipe.yaml")
    recorded = {each["member"]: each for each in run_summary(checkpoint).get("teachers", [])}
    starts = _starts(recipe)
    from_teacher = starts.pop("teacher", [])
    teachers = [
        _teacher(alone, member, recorded.get(member), starts=from_teacher)
        for member, alone in by_teacher(recipe).items()
        if alone.teacher.kind != "momentum"
    ]
    return (*teachers, *(own_run(Path(path), role=_in_words(towers)) for path, towers in starts.items()))


def run_summary(checkpoint: Path) -> dict[str, Any]:
    """What the run of a checkpoint folder wrote when it ended; empty when it has not, or lies elsewhere.

    Raises ValueError, naming it, for a file that cannot be read.
    """
    path = checkpoint.parent.parent / "summary.json"
    return read_object(path) if path.is_file() else {}


def leaves(sources: tuple[Source, ...]) -> Iterator[Source]:
    """Those that others made, however many of our own runs are in between; random weights are nobody's."""
    for source in sources:
        if source.is_own:
            yield from leaves(source.behind)
        elif source.weights != RANDOM:
            yield source


def distinct(sources: tuple[Source, ...]) -> list[Source]:
    """The leaves, each once. Names alone do not tell them apart: their paths are cut."""
    found = {(each.name, each.sha256, each.licence, each.problem): each for each in leaves(sources)}
    return [*found.values()]


def licensed(sources: tuple[Source, ...]) -> list[Source]:
    """All that others made, each once; of a tokenizer where its licence is stated: it may have been made here."""
    return [each for each in distinct(sources) if each.licence is not None or each.role != TOKENIZER]


def given_along(sources: tuple[Source, ...]) -> list[Source]:
    """What goes into published folders as it is."""
    return [source for source in sources if source.role == TOKENIZER]


def _teacher(recipe: Recipe, member: str, recorded: dict[str, Any] | None, *, starts: list[str]) -> Source:
    """`starts` are the towers that start as the teacher's; of an ensemble, as those of its one member with text."""
    settings = recipe.teacher
    begins = bool(starts) and (not member or (recorded is not None and recorded["with_text"]))
    role = f"{ROLES[settings.kind]}; {_in_words(starts)}" if begins else ROLES[settings.kind]
    role = f"{member}: {role}" if member else role
    model = settings.model or f"distill:{settings.checkpoint}"
    if model.startswith("distill:"):
        return own_run(Path(model.removeprefix("distill:")), role=role, recorded=recorded)
    recorded = recorded or _asked(model, settings.weights)
    hub = hub_name(model, recorded["source"])
    return Source(
        role=role,
        name=model if hub is not None else without_places(model),
        weights=recorded["source"] if hub is not None else without_places(recorded["source"]),
        sha256=recorded.get("weights_sha256"),
        licence=recorded["licence"],
        hub=hub,
        problem=recorded.get("problem"),
    )


def _asked(model: str, weights: str | None) -> dict[str, Any]:
    """What a run would have recorded; no licence, and the reason, when the teacher cannot be loaded any more."""
    try:
        found = load_pretrained(model, weights)
    except (ValueError, OSError) as problem:
        return {"source": weights or model.partition(":")[2], "licence": None, "problem": str(problem)}
    return {"source": found.source, "licence": found.licence, "weights_sha256": sha256_of_weights(found.files)}


def own_run(path: Path, *, role: str, recorded: dict[str, Any] | None = None) -> Source:
    """A run or checkpoint folder of ours; without licence and without what is behind it when it is gone.

    `recorded` is what a run that it taught wrote of it.
    """
    try:
        found = find(path)
    except ValueError as problem:
        sha256 = None if recorded is None else recorded["weights_sha256"]
        return Source(role=role, name=f"distill:{path.resolve().name}", sha256=sha256, problem=str(problem))
    sums = json.loads((found.folder / "manifest.json").read_text())["sha256"]
    return Source(
        role=role,
        name=f"distill:{found.folder.resolve().parent.parent.name}",
        weights=f"step {found.step}",
        sha256=sums["student.safetensors"],
        is_own=True,
        behind=encoders_of(found.folder),
    )


def tokenizer_of(path: Path) -> Source:
    """The file of a text tower's words, with the model that it was released with, where that is known."""
    found = release_of(path)
    return Source(
        role=TOKENIZER,
        name=path.name,
        weights=None if found is None else f"released with {found.name}",
        sha256=sha256_of_weights([path]) if path.is_file() else None,
        licence=None if found is None else found.licence,
    )


def _starts(recipe: Recipe) -> dict[str, list[str]]:
    """What towers start from, other than random weights, with the towers' names."""
    found: dict[str, list[str]] = {}
    towers = {"image": recipe.student.image, "text": recipe.student.text}
    for name, tower in towers.items():
        absent = name == "text" and recipe.student.text.kind == "none"
        if tower.init != RANDOM and not absent:
            found.setdefault(tower.init, []).append(name)
    return found


def _in_words(towers: list[str]) -> str:
    return f"start of its {' and '.join(towers)} tower{'s' if len(towers) > 1 else ''}"


def hub_name(model: str, weights: str) -> str | None:
    """OWNER/NAME, where the weights of FAMILY:NAME came from the hub and not from a file or folder here."""
    name = weights.removeprefix(HUB)
    family, _, asked = model.partition(":")
    known = get_pretrained_cfg(asked) if family == "timm" else None
    stated = known.hf_hub_id if known is not None else asked
    return name if weights == stated and HUB_NAME.fullmatch(name) and not Path(name).exists() else None


def without_places(text: str) -> str:
    """A name whose path, if it has one, is cut to its last part: where things lie is nobody's business."""
    family, colon, place = text.rpartition(":")
    return f"{family}{colon}{Path(place).name}"
