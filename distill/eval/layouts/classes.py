"""ImageNet-1K in folders by WordNet id. Any other folder of classes needs no entry: its path is enough."""

from pathlib import Path

from distill.eval.layouts.dataset import DataSet
from distill.eval.layouts.names import rows


def imagenet(folder: Path, split: str) -> dict[str, str]:
    """What the class of each folder is called, in the order of the labels."""
    return {wnid: name for wnid, name in rows("imagenet")}


CLASSES: dict[str, DataSet] = {
    "imagenet": DataSet(
        title="ImageNet-1K, 1000 classes",
        kind="classes",
        tasks=("zero_shot_classification", "knn", "linear_classification"),
        page="https://image-net.org (ILSVRC2012_img_val.tar sorted into folders, ILSVRC2012_img_train.tar)",
        folders=("ImageNet", "imagenet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC"),
        tree="{train,val}/n01440764/*.JPEG (a folder for each of the 1000 WordNet ids)",
        needs={"train": ("train",), "val": ("val",)},
        splits={"train": "train", "val": "val"},
        read=imagenet,
    ),
}
