"""ImageNet-1K in folders by WordNet id. Any other folder of classes needs no entry: its path is enough."""

from pathlib import Path

from distill.eval.layouts.names import rows


def imagenet(folder: Path, split: str) -> dict[str, str]:
    """What the class of each folder is called, in the order of the labels."""
    return {wnid: name for wnid, name in rows("imagenet")}
