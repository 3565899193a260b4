"""ADE20K, PASCAL VOC and Context, Cityscapes, CamVid and MSRC as their archives unpack. COCO's are in `coco`."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from scipy.io import loadmat
from torch import Tensor

from distill.eval.layouts.names import ids, names, rows
from distill.eval.layouts.pairing import by_stem, listed
from distill.eval.layouts.pixel_maps import Decode, MaskFiles, by_colour, by_id, id_table, in_order, labels_of
from distill.eval.pictures.datasets import IGNORE


def ade20k(folder: Path, split: str) -> MaskFiles:
    """Mask value 0 is ignored, 1 to 150 are the classes."""
    masks, classes = sorted((folder / "annotations" / split).glob("*.png")), names("ade20k")
    return MaskFiles(
        files=by_stem(masks, folder / "images" / split),
        class_names=classes,
        decode=in_order(len(classes), first=1, ignored=(0, IGNORE)),
    )


def voc21(folder: Path, split: str) -> MaskFiles:
    """Values are labels, 0 is background, 255 the border of an object."""
    return _voc(folder, split, first=0)


def voc20(folder: Path, split: str) -> MaskFiles:
    """As `voc21`, with background ignored."""
    return _voc(folder, split, first=1)


def _voc(folder: Path, split: str, *, first: int) -> MaskFiles:
    stems = listed(folder / "ImageSets" / "Segmentation" / f"{split}.txt")
    masks, classes = [folder / "SegmentationClass" / f"{stem}.png" for stem in stems], names("voc")[first:]
    return MaskFiles(
        files=by_stem(masks, folder / "JPEGImages"),
        class_names=classes,
        decode=in_order(len(classes), first=first, ignored=(*range(first), IGNORE)),
    )


def context60(folder: Path, split: str) -> MaskFiles:
    """The 59 classes and background, which is all of the other 400 categories."""
    return _context(folder, split, first=0)


def context59(folder: Path, split: str) -> MaskFiles:
    """As `context60`, with background ignored."""
    return _context(folder, split, first=1)


def _context(folder: Path, split: str, *, first: int) -> MaskFiles:
    """From the maps of 60 values that the field converts them to, or else from the annotations as published."""
    converted, classes = folder / "SegmentationClassContext", names("context")[first:]
    if converted.is_dir():
        stems = listed(folder / "ImageSets" / "SegmentationContext" / f"{split}.txt")
        labels = [converted / f"{stem}.png" for stem in stems]
        decode = in_order(len(classes), first=first, ignored=(*range(first), IGNORE))
    else:
        stems = listed(folder / "ImageSets" / "Main" / f"{split}.txt")
        labels = [folder / "trainval" / f"{stem}.mat" for stem in stems]
        decode = context_annotation(first)
    return MaskFiles(files=by_stem(labels, folder / "JPEGImages"), class_names=classes, decode=decode)


def context_annotation(first: int) -> Decode:
    """For a MATLAB file whose `LabelMap` holds 459 categories; those that are no class go to background."""
    background = IGNORE if first else 0
    label_of_id = {category: label for label, category in enumerate(ids("context")[first:])}
    table = id_table(dict.fromkeys(range(460), background) | label_of_id, ignored=())

    def decode(file: Path) -> Int[Tensor, "H W"]:
        try:
            categories = loadmat(file)["LabelMap"]
        except Exception as error:  # The reader raises whatever it stumbles over.
            raise ValueError(f"{file}: expected a MATLAB file with a LabelMap ({error!r})") from error
        return labels_of(torch.from_numpy(categories.astype(np.int64)), table, file)

    return decode


def cityscapes(folder: Path, split: str) -> MaskFiles:
    """Ids to the 19 trainIds; the other ids are ignored."""
    files = []
    for city in sorted((folder / "gtFine" / split).glob("*/")):
        masks = sorted(city.glob("*_gtFine_labelIds.png"))
        pictures = folder / "leftImg8bit" / split / city.name
        if masks:
            files += by_stem(masks, pictures, ending="_gtFine_labelIds", picture_ending="_leftImg8bit")
    if not files:
        raise ValueError(f"{folder / 'gtFine' / split} holds no CITY/*_gtFine_labelIds.png")
    decode = by_id({id: label for label, id in enumerate(ids("cityscapes"))}, ignored=set(range(34)) | {IGNORE})
    return MaskFiles(files=files, class_names=names("cityscapes"), decode=decode)


def camvid(folder: Path, split: str) -> MaskFiles:
    """Values 0 to 10 are SegNet's 11 classes, 11 is unlabelled."""
    masks, classes = sorted((folder / f"{split}annot").glob("*.png")), names("camvid")
    return MaskFiles(
        files=by_stem(masks, folder / split),
        class_names=classes,
        decode=in_order(len(classes), ignored=(len(classes), IGNORE)),
    )


def msrc(folder: Path, split: str) -> MaskFiles:
    """Colours to 21 classes. Without the lists of the splits, `Test` is all pictures."""
    names_file, truth = folder / f"{split}.txt", folder / "GroundTruth"
    if names_file.exists():
        masks = [truth / f"{Path(name).stem}_GT.bmp" for name in listed(names_file)]
    else:
        masks = sorted(truth.glob("*_GT.bmp"))
    colours = {_colour(row[0]): label for label, row in enumerate(rows("msrc"))}
    return MaskFiles(
        files=by_stem(masks, folder / "Images", ending="_GT"),
        class_names=names("msrc"),
        decode=by_colour(colours, ignored=[(0, 0, 0), (128, 0, 128), (64, 0, 0)]),
    )


def _colour(text: str) -> tuple[int, int, int]:
    red, green, blue = map(int, text.split())
    return red, green, blue
