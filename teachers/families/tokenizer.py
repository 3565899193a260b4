"""Where a SentencePiece model of a TIPS text tower comes from, told by what lies beside it."""

import re
from dataclasses import dataclass
from pathlib import Path

from teachers.families.folders import licence_on_card, read_settings
from teachers.families.tips_files import LICENCE, VISION

OF_THE_RELEASE = f"tips_*{VISION}"
"""Google's names; what distill publishes in the same layout is called otherwise, and is no release of theirs."""
IN_THE_CACHE = re.compile(r"models--([\w.-]+?)--([\w.-]+)")
"""What the hub's cache calls the folder of OWNER/NAME."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """The released model that a tokenizer lies beside."""

    name: str
    """OWNER/NAME of the hub, or that of a file or folder, without where it lies."""
    licence: str
    """As stated for the model."""


def release_of(tokenizer: Path) -> Release | None:
    """None where nothing beside it says so: it was made here, or moved away from its model."""
    folder = tokenizer.parent
    if pairs := sorted(folder.glob(OF_THE_RELEASE)):
        return Release(name=pairs[0].name.removesuffix(VISION), licence=LICENCE)
    try:
        settings = read_settings(folder / "config.json", hint="")
    except ValueError:
        return None
    licence = licence_on_card(folder)
    if settings.get("model_type") != "tipsv2" or licence is None:
        return None
    cached = [IN_THE_CACHE.fullmatch(part.name) for part in folder.absolute().parents]
    names = ["/".join(found.groups()) for found in cached if found]
    return Release(name=names[0] if names else folder.resolve().name, licence=licence)
