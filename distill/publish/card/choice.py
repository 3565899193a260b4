"""Under which licence a student may be published, given those of what it learnt from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from distill.publish.card.licences import (
    NOT_CHOSEN,
    TERMS,
    going_along,
    holds,
    named_by,
    terms_of,
    wants_copy,
    wants_kept,
)
from distill.publish.card.names import UNNAMED, named
from distill.publish.card.sources import Source, given_along, licences_of, lost


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The licence of a student. `warnings` are sentences for whoever publishes it."""

    name: str
    """As the hub's metadata names it, or NOT_CHOSEN."""
    warnings: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    """Titles of licences, of the student and of what it learnt from, whose text has to go along."""
    sources: tuple[str, ...] = ()
    """Names of the licences of what it learnt from, where they are stated."""


def choose_for(sources: tuple[Source, ...], *, asked: str | None, text: str = "") -> Choice:
    """The licence of a student of these sources, as `choose` has it, and what to mind of files that go along."""
    found = choose(licences_of(sources), asked=asked, text=text, lost=lost(sources))
    unstated = [f"nobody states the licence of the tokenizer {each.name}: see that you may give it on"
                for each in given_along(sources) if each.licence is None]  # fmt: skip
    return replace(found, warnings=(*found.warnings, *unstated))


def choose(
    licences: Mapping[str, str | None], *, asked: str | None, text: str = "", lost: Mapping[str, str] | None = None
) -> Choice:
    """The licence of a student of these sources: name to licence, None where nobody states one.

    `asked` is what the publisher wants; without it the most demanding of the sources' licences is taken, and NOT_CHOSEN
    where there are no sources. `text` is what goes along as LICENSE, `lost` why sources of no licence could not be
    looked at, by name. Raises ValueError where a source is of unknown terms and nothing is asked, where what is asked
    promises more than a source gives, and as `named` does.
    """
    stated = {name: named_by(each) for name, each in licences.items() if each}
    asked = None if asked is None else named(asked, beside=(*TERMS, *stated.values()))
    unknown = {name: each for name, each in licences.items() if terms_of(each) is None}
    told = _in_words(unknown, lost or {})
    if unknown and asked is None:
        raise ValueError(f"{told}; {_advice(unknown, lost or {})}say under which licence the student is published with "
                         "--licence")  # fmt: skip
    name = _allowed(stated, asked)
    warnings = [f"{told}: --licence {name} is your word that it allows this"] if unknown else []
    if name == NOT_CHOSEN:
        warnings.append("no licence was chosen: others may look at these weights and not use them; --licence sets one")
    if _is(name, "noncommercial"):
        warnings.append(f"{TERMS[name].title}: the student is for non-commercial use only")
    warnings += _missing([*stated.values()], text)
    texts = tuple(wants_copy([name, *stated.values()]))
    return Choice(name=name, warnings=tuple(warnings), texts=texts, sources=tuple(dict.fromkeys(stated.values())))


def _allowed(stated: dict[str, str], asked: str | None) -> str:
    """What is asked, or the most demanding; ValueError where the sources do not let it be."""
    owners = {source: licence for source, licence in stated.items() if _is(licence, "own")}
    research = {source: licence for source, licence in stated.items() if _is(licence, "noncommercial")}
    if len({*owners.values()}) > 1 or (owners and research and not {*owners.values()} & {*research.values()}):
        listed = " and ".join(f"{source} ({licence})" for source, licence in (owners | research).items())
        raise ValueError(f"the student learnt from {listed}, and no licence gives both what they ask for")
    attributed = [licence for licence in stated.values() if licence == "cc-by-4.0"]
    demanding = (*owners.values(), *research.values(), *attributed, *stated.values(), NOT_CHOSEN)
    name = asked or demanding[0]
    for source, licence in owners.items():
        if name != licence:
            _refuse(source, licence, name, "wants derived works under that same licence")
    for source, licence in research.items():
        if not _is(name, "noncommercial"):
            _refuse(source, licence, name, "lets derived works be used non-commercially only")
    return name


def _missing(licences: Sequence[str], text: str) -> list[str]:
    """What is said of licences whose text has to go along, or should, and does not."""
    absent = [terms for terms in going_along(licences) if not holds(text, terms)]
    said = [f"the {terms.title} asks for a copy of its text to go along: --licence-text FILE" for terms in absent
            if terms.copy]  # fmt: skip
    return [*said, *wants_kept(licences, text)]


def _refuse(source: str, stated: str, asked: str, why: str) -> None:
    raise ValueError(f"the student learnt from {source}, whose licence, {stated}, {why}: it cannot be published under "
                     f"{asked}; leave --licence out, or say {stated}")  # fmt: skip


def _is(licence: str, trait: str) -> bool:
    terms = terms_of(licence)
    return terms is not None and {"own": terms.own, "noncommercial": terms.noncommercial}[trait]


def _in_words(unknown: Mapping[str, str | None], lost: Mapping[str, str]) -> str:
    return "; ".join(_one_in_words(name, stated, lost.get(name)) for name, stated in unknown.items())


def _one_in_words(name: str, stated: str | None, why: str | None) -> str:
    if why is not None:
        return f"the licence of {name} could not be looked up ({why})"
    if stated is None or stated.lower() == NOT_CHOSEN:
        return f"nobody states the licence of {name}"
    if stated.lower() == UNNAMED:
        return f"{name} is under a licence of its own, which it does not name"
    return f"{name} is under {stated}, not known here"


def _advice(unknown: Mapping[str, str | None], lost: Mapping[str, str]) -> str:
    """What to do first."""
    if unknown.keys() <= lost.keys():
        return "give the command where the training was started, with these files in place, or "
    return "read it, and where it lets you, "
