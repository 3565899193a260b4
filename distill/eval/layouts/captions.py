"""Pictures with captions: Flickr30k, COCO and DOCCI; and SugarCrepe's pairs of a right and a wrong caption."""

import json
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from distill.catalogue.layout import one_of
from distill.catalogue.pictures import SUGARCREPE_PICTURES
from distill.eval.layouts.coco import pictures_of
from distill.eval.pictures.datasets import read_squares, spread
from distill.eval.pictures.files import read_object
from distill.eval.pictures.pairs import CaptionPair, read_pairs

MOST_CAPTIONS = 5
"""Of a COCO picture: the first five, as in the papers; a few have six or seven."""
PAIR_KINDS = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")

Captioned = list[tuple[Path, list[str]]]


class ListedCaptions:
    """Whole pictures, made square, with their captions. A limit takes them evenly spaced over the list."""

    def __init__(self, listed: Captioned, *, image_size: int, limit: int | None = None):
        self.image_size = image_size
        kept = [listed[index] for index in spread(len(listed), limit)]
        self.files: list[Path] = [file for file, _ in kept]
        self.captions: list[list[str]] = [captions for _, captions in kept]

    def __len__(self) -> int:
        return len(self.files)

    def pixels(self, start: int, stop: int) -> Float[Tensor, "B 3 H W"]:
        return read_squares(self.files[start:stop], self.image_size)


def flickr30k(folder: Path, split: str) -> Captioned:
    """Karpathy's split; its test part has 1000 pictures with five captions each."""
    pictures = one_of(folder, "flickr30k-images", "flickr30k_images", "images")
    file = folder / "dataset_flickr30k.json"
    return [(pictures / each["filename"], _sentences(each)) for each in _karpathy(file, split)]


def coco_karpathy(folder: Path, split: str) -> Captioned:
    """Karpathy's split of COCO 2014; its test part has 5000 pictures. `train` takes in his `restval`."""
    file = folder / "dataset_coco.json"
    return [
        (pictures_of(folder, each["filepath"]) / each["filename"], _sentences(each)[:MOST_CAPTIONS])
        for part in ([split, "restval"] if split == "train" else [split])
        for each in _karpathy(file, part)
    ]


def coco_captions(folder: Path, split: str) -> Captioned:
    """The captions of COCO 2017 as published."""
    file = folder / "annotations" / f"captions_{split}.json"
    page, pictures = read_object(file), pictures_of(folder, split)
    try:
        captions: dict[int, list[str]] = {each["id"]: [] for each in page["images"]}
        for each in page["annotations"]:
            captions[each["image_id"]].append(_one_line(each["caption"]))
        listed = [
            (pictures / each["file_name"], captions[each["id"]][:MOST_CAPTIONS])
            for each in sorted(page["images"], key=lambda each: each["file_name"])
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file}: expected images and annotations with captions ({error!r})") from error
    return _with_captions(listed, file)


def docci(folder: Path, split: str) -> Captioned:
    """One long description each; the test part has 5000 pictures."""
    file = folder / "docci_descriptions.jsonlines"
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        listed = [
            (folder / "images" / each["image_file"], [_one_line(each["description"])])
            for each in lines
            if each["split"] == split
        ]
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file}: expected lines with image_file, split and description ({error!r})") from error
    return _with_captions(listed, file)


def sugarcrepe(root: Path, split: str) -> list[CaptionPair]:
    """All seven kinds, in the order of their names and of the files."""
    folder = one_of(root, "sugar-crepe/data", "sugarcrepe")
    pictures = one_of(root, *SUGARCREPE_PICTURES)
    files = [folder / f"{kind}.json" for kind in PAIR_KINDS]
    return [pair for file in files for pair in read_pairs(file, lambda row: pictures / row["filename"])]


def _karpathy(file: Path, split: str) -> list[dict]:
    """What Karpathy's file says about each picture of a split."""
    try:
        chosen = [each for each in read_object(file)["images"] if each["split"] == split]
        if not all(each["sentences"] and each["filename"] for each in chosen):
            raise ValueError(f"{file}: a picture of split {split} has no captions")
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file}: expected images with split, filename and sentences ({error!r})") from error
    if not chosen and split != "restval":
        raise ValueError(f"{file} has no pictures of split {split}")
    return chosen


def _sentences(picture: dict) -> list[str]:
    return [_one_line(sentence["raw"]) for sentence in picture["sentences"]]


def _with_captions(listed: Captioned, file: Path) -> Captioned:
    if not listed or not all(captions for _, captions in listed):
        raise ValueError(f"{file}: a picture has no captions, or there are no pictures")
    return listed


def _one_line(caption: str) -> str:
    return " ".join(caption.split())
