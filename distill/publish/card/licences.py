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
    bound: bool = False
    """Of `own`: its restrictions have to be handed on, not its name. Only under the name is it sure that they are."""
    noncommercial: bool = False
    """Derived works are for non-commercial use only, some for research only."""
    copy: bool = False
    """A copy of its text has to go along with derived works, without which none is sent to the hub."""
    keep: bool = False
    """Its text and notices are to be kept in what is made of it, as licences of software have it: said, never insisted
    upon, since whether a student is that is not settled."""
    credit: bool = False
    """Its makers are to be named."""
    phrases: tuple[str, ...] = ()
    """Words of its text, of those that no notice and no other licence quotes, by which a file is seen to hold it."""
    unlike: str = ""
    """Words of another licence whose text has the first of `phrases` too."""
    notice: str = ""
    """Words that have to go along too."""


KEEP = "Anything may be done with derived works while its copyright notice and its text go along with them."
BSD = "Redistribution and use in source and binary forms"
ENDORSEMENT = "endorse or promote products derived from this software"
"""What the BSD licence of three clauses says more than that of two."""
CREATIVE = "https://creativecommons.org/licenses"
TERMS: dict[str, Terms] = {
    "apache-2.0": Terms(
        title="Apache License 2.0",
        url="https://www.apache.org/licenses/LICENSE-2.0",
        says="Derived works may be under any licence; its text and the notices go along, and changes are stated "
        "(section 4).",
        keep=True,
        phrases=("TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION",),
    ),
    "mit": Terms(
        title="MIT License",
        url="https://opensource.org/license/mit",
        says=KEEP,
        keep=True,
        phrases=("The above copyright notice and this permission notice", "substantial portions of the Software"),
    ),
    "bsd-3-clause": Terms(
        title="BSD 3-Clause License",
        url="https://opensource.org/license/bsd-3-clause",
        says=f"{KEEP} No endorsement.",
        keep=True,
        phrases=(BSD, ENDORSEMENT),
    ),
    "bsd-2-clause": Terms(
        title="BSD 2-Clause License",
        url="https://opensource.org/license/bsd-2-clause",
        says=KEEP,
        keep=True,
        phrases=(BSD,),
        unlike=ENDORSEMENT,
    ),
    "cc0-1.0": Terms(
        title="CC0 1.0", url="https://creativecommons.org/publicdomain/zero/1.0/", says="Asks for nothing."
    ),
    "cc-by-4.0": Terms(
        title="Creative Commons Attribution 4.0",
        url=f"{CREATIVE}/by/4.0/legalcode",
        says="Derived works may be under any licence that does not hinder keeping this one: name the makers, link the "
        "licence and say what was changed (section 3a).",
        credit=True,
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
        phrases=("modification of the DINO Materials",),
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
        phrases=("FAIR Noncommercial Research License", "Research Materials"),
    ),
    "apple-amlr": Terms(
        title="Apple Machine Learning Research Model License",
        url="https://github.com/apple/ml-mobileclip/blob/main/LICENSE_MODELS",
        says="The model and its derivatives are for non-commercial research only; a copy of the agreement and the "
        "words below go along, and changes are disclosed.",
        own=True,
        bound=True,
        noncommercial=True,
        copy=True,
        phrases=("non-commercial scientific research and academic development", "No Other License"),
        notice="Apple Machine Learning Research Model is licensed under the Apple Machine Learning Research Model "
        "License Agreement.",
    ),
    "gemma": Terms(
        title="Gemma Terms of Use",
        url="https://ai.google.dev/gemma/terms",
        says="Models distilled from it are named as derivatives (1.1e): they are given on with its use restrictions, a "
        "copy of the terms and the words below (3.1).",
        own=True,
        bound=True,
        copy=True,
        phrases=("performing or displaying any portion or element of Gemma",),
        notice="Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
    ),
    "nvidia-open-model-license": Terms(
        title="NVIDIA Open Model License",
        url="https://www.nvidia.com/en-us/agreements/enterprise-software/nvidia-open-model-license/",
        says="Derived models may be used commercially and given on under terms of one's own; a copy of the agreement "
        "and the words below go along (3.1).",
        copy=True,
        phrases=("governs Your use of the Models that NVIDIA provides to You",),
        notice="Licensed by NVIDIA Corporation under the NVIDIA Open Model License",
    ),
}
"""By the name that timm and model cards use, in lower case; what the hub does not list has a name of its own there."""

ASK_NOTHING = ("cc0-1.0", "unlicense", "wtfpl", "pddl")
"""Licences under which nobody has to keep a name or a notice."""

_BARE = {bare(terms.title): name for name, terms in TERMS.items()} | {bare(name): name for name in (*HUB, *TERMS)}


def named_by(stated: str) -> str:
    """The name of what a model's card or library states, which may be written `Apache 2.0`, or as a title; others in
    lower case."""
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


def is_noncommercial(name: str) -> bool:
    """Whether it is known to allow non-commercial use only: by its terms, or by the hub's name for it."""
    terms = terms_of(name)
    return terms.noncommercial if terms is not None else name in HUB and "-nc-" in name


def check_text(name: str, *, has_text: bool, sources: Sequence[str] = ()) -> None:
    """ValueError for a licence that a publisher made and gives no text of, and for a text without a licence, where
    none of the licences of what the student learnt from, `sources`, wants one either."""
    if name == NOT_CHOSEN and has_text and not going_along(sources):
        raise ValueError("--licence-text is the text of a licence, and none was chosen: say which with --licence")
    if is_own(name) and not has_text:
        raise ValueError(f"--licence {name}: the hub knows no such licence, so its text has to go along, with "
                         "--licence-text FILE")  # fmt: skip


def wants_copy(licences: Sequence[str | None]) -> list[str]:
    """Names of those whose text has to go along with derived works."""
    return [name for name in _names(licences) if TERMS[name].copy]


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
    """Whether a file that goes along looks as if the text of this licence stood in it; a mention does not count.

    False for those whose text nobody asks for: no words of theirs are known here.
    """
    found = _plain(text)
    counts = [found.count(_plain(phrase)) for phrase in terms.phrases]
    other = found.count(_plain(terms.unlike)) if terms.unlike else 0
    return bool(counts) and all(counts) and counts[0] > other


def _known(licences: Sequence[str | None]) -> list[Terms]:
    return [TERMS[name] for name in _names(licences)]


def _names(licences: Sequence[str | None]) -> list[str]:
    return [name for name in dict.fromkeys(named_by(each) for each in licences if each) if name in TERMS]


def _plain(text: str) -> str:
    """Words alone: texts are broken into lines and set in many ways."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))
