"""Names of licences: those that the hub knows, and a publisher's own."""

import difflib
import re
from collections.abc import Collection

_LISTED = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
openmdw-1.0 openmdw-1.1 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown
"""
HUB = tuple(_LISTED.split())
"""What `license` of a card may be, beside `other`: https://huggingface.co/docs/hub/repositories-licenses as of August
2026."""
UNNAMED = "other"
"""The hub's word for what it does not list; a name stands beside it."""
OWN = f"{UNNAMED}:"
PLAIN = re.compile(r"[a-z0-9][a-z0-9._+-]*")
NEAR = 0.75
"""As difflib measures it, between names as `bare` has them: `apache2` and `appache-2.0` are as near to apache-2.0."""


def bare(name: str) -> str:
    """What is left of a name when nobody minds case, signs, the `v` of versions and the word licence."""
    return re.sub(r"v(?=\d)", "", re.sub(r"licen[cs]e|[^a-z0-9+]", "", name.lower()))


def named(asked: str, *, beside: Collection[str] = ()) -> str:
    """A publisher's word for a licence as the card states it: one of the hub's, one of those `beside` it, or their own.

    One of their own is like none of these, or comes after `other:`. Raises ValueError for what is almost one of the
    known, for `other` alone, and for signs that no name on the hub has.
    """
    name = asked.strip().lower()
    known = dict.fromkeys(each for each in (*HUB, *beside) if PLAIN.fullmatch(each))
    own = name.removeprefix(OWN)
    if own in ("", UNNAMED):
        raise ValueError(f"--licence {asked} names no licence: say other:NAME with --licence-text FILE")
    if name in known:
        return name
    if own in HUB:  # after `other:`
        raise ValueError(f"--licence {asked}: the hub knows this one, so say --licence {own}")
    if own == name and (near := _near(name, known)):
        raise ValueError(f"--licence {asked}: the hub knows no such licence, and one of your own is other:NAME with "
                         f"--licence-text FILE; did you mean {' or '.join(near)}?")  # fmt: skip
    if not PLAIN.fullmatch(own):
        raise ValueError(f"--licence {asked}: names of licences hold letters, digits and . _ + - only")
    return own


def _near(name: str, known: Collection[str]) -> list[str]:
    """At most three that begin like it, the shortest and of these the newest first; else the one most like it."""
    short = {bare(each): each for each in known}
    begin = [each for key, each in short.items() if len(bare(name)) > 2 and key.startswith(bare(name))]
    begin = sorted(sorted(begin, reverse=True), key=len)
    return begin[:3] or [short[key] for key in difflib.get_close_matches(bare(name), short, n=1, cutoff=NEAR)]
