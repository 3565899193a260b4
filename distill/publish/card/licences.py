"""What the licences of known teachers ask of a student.

Whether weights that learnt from a model's outputs are a work derived from it is not settled by law. Some licences say
so themselves (Gemma's names distillation); where one does not, it is read here the careful way, as if it did. What is
said here is a summary in our words to start from, and no legal advice: the licence's own text counts.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from distill.publish.card.names import HUB, UNNAMED, bare

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
    """A copy of its text has to go along with derived works, without which none is sent to the hub."""
    keep: bool = False
    """Its text and notices are to be kept in what is made of it, as licences of software have it: said, never insisted
    upon, since whether a student is that is not settled."""
    phrase: str = ""
    """Words of its text by which a file is seen to hold it; its title where there are none."""
    notice: str = ""
    """Words that have to go along too."""


KEEP = "Anything may be done with derived works while its copyright notice and its text go along with them."
BSD = "Redistribution and use in source and binary forms"
CREATIVE = "https://creativecommons.org/licenses"
TERMS: dict[str, Terms] = {
    "apache-2.0": Terms(
        title="Apache License 2.0",
        url="https://www.apache.org/licenses/LICENSE-2.0",
        says="Derived works may be under any licence; its text and the notices go along, and changes are stated "
        "(section 4).",
        keep=True,
        phrase="Apache License Version 2.0",
    ),
    "mit": Terms(
        title="MIT License",
        url="https://opensource.org/license/mit",
        says=KEEP,
        keep=True,
        phrase="Permission is hereby granted, free of charge",
    ),
    "bsd-3-clause": Terms(
        title="BSD 3-Clause License",
        url="https://opensource.org/license/bsd-3-clause",
        says=f"{KEEP} No endorsement.",
        keep=True,
        phrase=BSD,
    ),
    "bsd-2-clause": Terms(
        title="BSD 2-Clause License",
        url="https://opensource.org/license/bsd-2-clause",
        says=KEEP,
        keep=True,
        phrase=BSD,
    ),
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
    ),
}
"""By the name that timm and model cards use, in lower case; what the hub does not list has a name of its own there."""

FREE = tuple(name for name, terms in TERMS.items() if not terms.own and not terms.noncommercial)
"""Licences that leave the choice of the student's to whoever publishes it."""


_BARE = {bare(name): name for name in (*HUB, *TERMS)}


def named_by(stated: str) -> str:
    """The name of what a model's card or library states, which may be written `Apache 2.0`; others in lower case."""
    return _BARE.get(bare(stated), stated.lower())


def terms_of(licence: str | None) -> Terms | None:
    return None if licence is None else TERMS.get(named_by(licence))


def metadata(name: str) -> dict[str, str]:
    """`license` as the hub wants it; what it does not list has a name and a link, to LICENSE for a publisher's own."""
    if name in HUB:
        return {"license": name}
    terms = TERMS.get(name)
    return {"license": UNNAMED, "license_name": name, "license_link": "LICENSE" if terms is None else terms.url}


def is_own(name: str) -> bool:
    """Whether a publisher made it: its text can be read nowhere but in the folder."""
    return name not in HUB and name not in TERMS


def check_text(name: str, *, has_text: bool) -> None:
    """ValueError for a licence that a publisher made and gives no text of."""
    if is_own(name) and not has_text:
        raise ValueError(f"--licence {name}: the hub knows no such licence, so its text has to go along, with "
                         "--licence-text FILE")  # fmt: skip


def wants_copy(licences: Sequence[str | None]) -> list[str]:
    """Titles of those whose text has to go along with derived works."""
    return list(dict.fromkeys(terms.title for terms in _known(licences) if terms.copy))


def wants_kept(licences: Sequence[str | None], text: str) -> list[str]:
    """One sentence about those whose text should go along and does not stand in `text`, of the file LICENSE."""
    absent = [f"the {terms.title}" for terms in _known(licences) if terms.keep and not holds(text, terms)]
    wants = "want their" if len(absent) > 1 else "wants its"
    said = f"{' and '.join(absent)} {wants} text and notices kept: give them along with --licence-text FILE"
    return [said] if absent else []


def going_along(licences: Sequence[str | None]) -> list[Terms]:
    """Those whose text has to go along, or should."""
    return [terms for terms in _known(licences) if terms.copy or terms.keep]


def holds(text: str, terms: Terms) -> bool:
    """Whether a file that goes along looks as if this licence stood in it."""
    return _plain(terms.phrase or terms.title) in _plain(text)


def _known(licences: Sequence[str | None]) -> list[Terms]:
    return [TERMS[name] for name in dict.fromkeys(named_by(each) for each in licences if each) if name in TERMS]


def _plain(text: str) -> str:
    """Words alone: texts are broken into lines and set in many ways."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))
