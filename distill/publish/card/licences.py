"""What the licences of known teachers ask of a student, and under which licence it may be published.

Whether weights that learnt from a model's outputs are a work derived from it is not settled by law. Some licences say
so themselves (Gemma's names distillation); where one does not, it is read here the careful way, as if it did. What is
said here is a summary in our words to start from, and no legal advice: the licence's own text counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

NO_ADVICE = (
    "Whether a student that learnt from a model's outputs is a work derived from it is not settled; here every licence "
    "is read the careful way, as if it were. This is a summary and no legal advice: the licence's own text counts."
)
NOT_CHOSEN = "unknown"
"""The hub's word for weights that nobody has put under a licence."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What one licence is known to say about works derived from what it covers."""

    title: str
    url: str
    """Where its text is: the source of `says`."""
    says: str
    """In our words."""
    own: bool = False
    """Derived works are to be given on under this licence itself, or bound to its restrictions."""
    noncommercial: bool = False
    """Derived works are for non-commercial use only, some for research only."""
    copy: bool = False
    """A copy of its text has to go along with derived works."""
    notice: str = ""
    """Words that have to go along too."""
    on_hub: bool = True
    """Whether the hub lists it; others are `other` there, with a name and a link."""


KEEP = "Anything may be done with derived works while the copyright notice and the text of the licence are kept."
CREATIVE = "https://creativecommons.org/licenses"
TERMS: dict[str, Terms] = {
    "apache-2.0": Terms(
        title="Apache License 2.0",
        url="https://www.apache.org/licenses/LICENSE-2.0",
        says="Derived works may be under any licence; notices are kept and changes are stated (section 4).",
    ),
    "mit": Terms(title="MIT License", url="https://opensource.org/license/mit", says=KEEP),
    "bsd-3-clause": Terms(
        title="BSD 3-Clause License", url="https://opensource.org/license/bsd-3-clause", says=f"{KEEP} No endorsement."
    ),
    "bsd-2-clause": Terms(title="BSD 2-Clause License", url="https://opensource.org/license/bsd-2-clause", says=KEEP),
    "cc0-1.0": Terms(
        title="CC0 1.0", url="https://creativecommons.org/publicdomain/zero/1.0/", says="Asks for nothing."
    ),
    "cc-by-4.0": Terms(
        title="Creative Commons Attribution 4.0",
        url=f"{CREATIVE}/by/4.0/legalcode",
        says="Derived works may be under any licence that does not hinder keeping this one: name the makers, link the "
        "licence and say what was changed (section 3a).",
    ),
    "cc-by-sa-4.0": Terms(
        title="Creative Commons Attribution-ShareAlike 4.0",
        url=f"{CREATIVE}/by-sa/4.0/legalcode",
        says="Derived works are given on under the same licence, naming the makers and what was changed (section 3b).",
        own=True,
    ),
    "cc-by-nc-4.0": Terms(
        title="Creative Commons Attribution-NonCommercial 4.0",
        url=f"{CREATIVE}/by-nc/4.0/legalcode",
        says="Derived works may be made and shared for non-commercial purposes only (section 2a1), naming the makers "
        "and what was changed.",
        noncommercial=True,
    ),
    "cc-by-nc-sa-4.0": Terms(
        title="Creative Commons Attribution-NonCommercial-ShareAlike 4.0",
        url=f"{CREATIVE}/by-nc-sa/4.0/legalcode",
        says="Derived works are given on under the same licence and for non-commercial purposes only.",
        own=True,
        noncommercial=True,
    ),
    "dinov3-license": Terms(
        title="DINOv3 License",
        url="https://ai.meta.com/resources/models-and-libraries/dinov3-license/",
        says="Derived works may be sold, but are given on only under this agreement and with a copy of it (1.b.i); "
        "publications acknowledge DINOv3; no military, nuclear, espionage or weapons use. The text on Meta's page also "
        "asks to show the words below; the one in its repository does not.",
        own=True,
        copy=True,
        notice="Built with DINOv3",
        on_hub=False,
    ),
    "fair-noncommercial-research-license": Terms(
        title="FAIR Noncommercial Research License",
        url="https://huggingface.co/facebook/fair-noncommercial-research-license",
        says="The model, what is derived from it and its outputs are for non-commercial research only; derived works "
        "are given on only under this agreement and with a copy of it.",
        own=True,
        noncommercial=True,
        copy=True,
    ),
    "apple-amlr": Terms(
        title="Apple Machine Learning Research Model License",
        url="https://github.com/apple/ml-mobileclip/blob/main/LICENSE_MODELS",
        says="The model and its derivatives are for non-commercial research only; a copy of the agreement and the "
        "words below go along, and changes are disclosed.",
        own=True,
        noncommercial=True,
        copy=True,
        notice="Apple Machine Learning Research Model is licensed under the Apple Machine Learning Research Model "
        "License Agreement.",
    ),
    "gemma": Terms(
        title="Gemma Terms of Use",
        url="https://ai.google.dev/gemma/terms",
        says="Models distilled from it are named as derivatives (1.1e): they are given on with its use restrictions, a "
        "copy of the terms and the words below (3.1).",
        own=True,
        copy=True,
        notice="Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
    ),
    "nvidia-open-model-license": Terms(
        title="NVIDIA Open Model License",
        url="https://www.nvidia.com/en-us/agreements/enterprise-software/nvidia-open-model-license/",
        says="Derived models may be used commercially and given on under terms of one's own; a copy of the agreement "
        "and the words below go along (3.1).",
        copy=True,
        notice="Licensed by NVIDIA Corporation under the NVIDIA Open Model License",
        on_hub=False,
    ),
}
"""By the name that timm and model cards use, in lower case."""

FREE = tuple(name for name, terms in TERMS.items() if not terms.own and not terms.noncommercial)
"""Licences that leave the choice of the student's to whoever publishes it."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The licence of a student. `warnings` are sentences for whoever publishes it."""

    name: str
    """As the hub's metadata names it, or NOT_CHOSEN."""
    warnings: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    """Titles of licences, of the student and of what it learnt from, whose text has to go along."""


def terms_of(licence: str | None) -> Terms | None:
    return None if licence is None else TERMS.get(licence.lower())


def choose(licences: dict[str, str | None], *, asked: str | None) -> Choice:
    """The licence of a student of these sources: name to licence, None where nobody states one.

    `asked` is what the publisher wants; without it the most demanding of the sources' licences is taken, and NOT_CHOSEN
    where there are no sources. Raises ValueError where a source is of unknown terms and nothing is asked, and where
    what is asked promises more than a source gives.
    """
    asked = None if asked is None else asked.lower()
    unknown = {name: stated for name, stated in licences.items() if terms_of(stated) is None}
    if unknown and asked is None:
        raise ValueError(f"{_unknown_in_words(unknown)}; read it, and where it lets you, say under which licence the "
                         "student is published with --licence")  # fmt: skip
    owners = {name: stated.lower() for name, stated in licences.items() if stated and _is(stated, "own")}
    research = {name: stated.lower() for name, stated in licences.items() if stated and _is(stated, "noncommercial")}
    if len({*owners.values()}) > 1 or (owners and research and not {*owners.values()} & {*research.values()}):
        listed = " and ".join(f"{name} ({stated})" for name, stated in (owners | research).items())
        raise ValueError(f"the student learnt from {listed}, and no licence gives both what they ask for")
    name = asked or _most_demanding([*owners.values()], [*research.values()], [*licences.values()])
    for source, stated in owners.items():
        if name != stated:
            _refuse(source, stated, name, "wants derived works under that same licence")
    for source, stated in research.items():
        if not _is(name, "noncommercial"):
            _refuse(source, stated, name, "lets derived works be used non-commercially only")
    warnings = [f"{_unknown_in_words(unknown)}: --licence {name} is your word that it allows this"] if unknown else []
    if name == NOT_CHOSEN:
        warnings.append("no licence was chosen: others may look at these weights and not use them; --licence sets one")
    if _is(name, "noncommercial"):
        warnings.append(f"{TERMS[name].title}: the student is for non-commercial use only")
    for title in wants_copy([*licences.values()]):
        warnings.append(f"the {title} asks for a copy of its text to go along: --licence-text FILE")
    return Choice(name=name, warnings=tuple(warnings))


def metadata(name: str) -> dict[str, str]:
    """`license` as the hub wants it; those that it does not list have a name and, where known, a link."""
    terms = TERMS.get(name)
    if terms is None or terms.on_hub:
        return {"license": name}
    return {"license": "other", "license_name": name, "license_link": terms.url}


def wants_copy(licences: Sequence[str | None]) -> list[str]:
    """Titles of those whose text has to go along with derived works."""
    found = (terms_of(licence) for licence in licences)
    return list(dict.fromkeys(terms.title for terms in found if terms is not None and terms.copy))


def _most_demanding(owners: list[str], research: list[str], licences: Sequence[str | None]) -> str:
    others = [licence.lower() for licence in licences if licence]
    attributed = [licence for licence in others if licence == "cc-by-4.0"]
    return next(iter((*owners, *research, *attributed, *others)), NOT_CHOSEN)


def _refuse(source: str, stated: str, asked: str, why: str) -> None:
    raise ValueError(f"the student learnt from {source}, whose licence, {stated}, {why}: it cannot be published under "
                     f"{asked}; leave --licence out, or say {stated}")  # fmt: skip


def _is(licence: str, trait: str) -> bool:
    terms = terms_of(licence)
    return terms is not None and {"own": terms.own, "noncommercial": terms.noncommercial}[trait]


def _unknown_in_words(unknown: dict[str, str | None]) -> str:
    return "; ".join(
        f"nobody states the licence of {name}" if stated is None else f"{name} is under {stated}, not known here"
        for name, stated in unknown.items()
    )
