"""Under which licence a student may be published, given those of what it learnt from."""

from collections.abc import Sequence
from dataclasses import dataclass

from distill.publish.card.licences import (
    ASK_NOTHING,
    NOT_CHOSEN,
    TERMS,
    going_along,
    holds,
    is_noncommercial,
    is_own,
    named_by,
    terms_of,
    wants_copy,
    wants_kept,
)
from distill.publish.card.names import UNNAMED, named
from distill.publish.card.sources import Source, given_along, licensed

Stated = Sequence[tuple[str, str]]
"""Names of sources and of their licences."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The licence of a student. `warnings` are sentences for whoever publishes it."""

    name: str
    """As the hub's metadata names it, or NOT_CHOSEN."""
    warnings: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    """Names of licences, of the student and of what it learnt from, whose text has to go along."""
    sources: tuple[str, ...] = ()
    """Names of the licences of what it learnt from, where they are stated."""


def choose_for(sources: tuple[Source, ...], *, asked: str | None, text: str = "") -> Choice:
    """The licence of a student of these sources, and what to mind of files that go along.

    `asked` is what the publisher wants; without it the most demanding of the sources' licences is taken, and NOT_CHOSEN
    where there are no sources. `text` is what goes along as LICENSE. Raises ValueError where a source is of unknown
    terms and nothing is asked, where what is asked promises more than a source gives, and as `named` does.
    """
    counted = licensed(sources)
    stated = [(each.name, named_by(each.licence)) for each in counted if each.licence]
    licences = [licence for _, licence in stated]
    asked = None if asked is None else named(asked, beside=(*TERMS, *licences))
    unknown = [each for each in counted if terms_of(each.licence) is None]
    told = "; ".join(dict.fromkeys(map(_in_words, unknown)))
    if unknown and asked is None:
        raise ValueError(f"{told}; {_advice(unknown)}say under which licence the student is published with --licence")
    name = _allowed(stated, asked)
    warnings = [f"{told}: --licence {name} is your word that it allows this"] if unknown else []
    warnings += [*_of_the_chosen(name, licences), *_missing(name, licences, text)]
    warnings += [f"nobody states the licence of the tokenizer {each.name}: see that you may give it on"
                 for each in given_along(sources) if each.licence is None]  # fmt: skip
    texts, stated_once = tuple(wants_copy([name, *licences])), tuple(dict.fromkeys(licences))
    return Choice(name=name, warnings=tuple(warnings), texts=texts, sources=stated_once)


def _allowed(stated: Stated, asked: str | None) -> str:
    """What is asked, or the most demanding; ValueError where the sources do not let it be."""
    owners = [(source, licence) for source, licence in stated if _is_own(licence)]
    research = [(source, licence) for source, licence in stated if is_noncommercial(licence)]
    own = {licence for _, licence in owners}
    if len(own) > 1 or (own and research and not own & {licence for _, licence in research}):
        listed = " and ".join(f"{source} ({licence})" for source, licence in dict.fromkeys([*owners, *research]))
        raise ValueError(f"the student learnt from {listed}, and no licence known here gives both what they ask for")
    free = sorted((licence for _, licence in stated), key=_rank)
    demanding = (*own, *(licence for _, licence in research), *free, NOT_CHOSEN)
    name = asked or demanding[0]
    for source, licence in owners:
        if name != licence:
            why = "wants derived works under that same licence"
            if TERMS[licence].bound:
                why = "binds derived works to its restrictions, which only that same licence is known here to hand on"
            raise ValueError(_refusal(source, licence, why, name))
    for source, licence in research:
        if not is_noncommercial(name) and not is_own(name):
            why = "lets derived works be used non-commercially only"
            raise ValueError(_refusal(source, licence, why, f"{name}, no non-commercial licence known here"))
    return name


def _refusal(source: str, stated: str, why: str, asked: str) -> str:
    advice = f"leave --licence out, or say {stated}" if terms_of(stated) is not None else f"say {stated}"
    said = f"the student learnt from {source}, whose licence, {stated}, {why}"
    return f"{said}: it cannot be published under {asked}; {advice}"


def _rank(licence: str) -> tuple[int, int]:
    """Of free licences the most demanding first: a copy, then names, then notices, then nothing; else as in TERMS."""
    terms = terms_of(licence)
    if terms is None:
        return 4, 0
    asks = (terms.copy, terms.credit, terms.keep, True)
    return asks.index(True), [*TERMS].index(licence)


def _is_own(licence: str) -> bool:
    terms = terms_of(licence)
    return terms is not None and terms.own


def _of_the_chosen(name: str, licences: Sequence[str]) -> list[str]:
    """What is said of the licence of the student, given those of its sources."""
    said = []
    if name == NOT_CHOSEN:
        said.append("no licence was chosen: others may look at these weights and not use them; --licence sets one")
    if is_noncommercial(name):
        said.append(f"{TERMS[name].title if name in TERMS else name}: the student is for non-commercial use only")
    if is_own(name) and any(map(is_noncommercial, licences)):
        said.append(f"the student is for non-commercial use only, and that {name} says so is your word")
    known = [terms for terms in map(terms_of, dict.fromkeys(licences)) if terms is not None]
    owed = [f"the {terms.title}" for terms in known if terms.copy or terms.credit or terms.keep]
    if name in ASK_NOTHING and owed:
        said.append(f"{name} asks nothing of others, yet names and notices have to be kept as {' and '.join(owed)} "
                    f"{'ask' if len(owed) > 1 else 'asks'}")  # fmt: skip
    return said


def _missing(name: str, licences: Sequence[str], text: str) -> list[str]:
    """What is said of licences whose text has to go along, or should, and does not. A publisher's own notices are
    theirs to write."""
    absent = [terms for terms in going_along([name, *licences]) if terms.copy and not holds(text, terms)]
    said = [f"the {terms.title} asks for a copy of its text to go along: --licence-text FILE" for terms in absent]
    return [*said, *wants_kept(licences, text)]


def _in_words(source: Source) -> str:
    """Why a source's terms are not known."""
    stated = source.licence
    if source.problem is not None and stated is None:
        return f"the licence of {source.name} could not be looked up ({source.problem})"
    if stated is None or stated.lower() == NOT_CHOSEN:
        return f"nobody states the licence of {source.name}"
    if stated.lower() == UNNAMED:
        return f"{source.name} is under a licence of its own, which it does not name"
    return f"{source.name} is under {stated}, not known here"


def _advice(unknown: Sequence[Source]) -> str:
    """What to do first."""
    if all(source.problem is not None for source in unknown):
        return "give the command where the training was started, with these files in place, or "
    return "read it, and where it lets you, "
