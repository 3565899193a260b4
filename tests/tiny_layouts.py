"""Made-up copies of data sets, a few pictures of 3 x 4 pixels each, in the folders that their archives unpack to."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

HEIGHT, WIDTH = 3, 4
GREY = 120
"""Of every made-up picture: JPEG keeps a plain one."""


def picture(file: Path, grey: int = GREY, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    save(file, np.full((*size, 3), grey, dtype=np.uint8))


def save(file: Path, values: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(file)


def filled(values: Sequence[int]) -> np.ndarray:
    """The values row by row, the last one to the end."""
    padded = [*values, *[values[-1]] * (HEIGHT * WIDTH - len(values))]
    return np.array(padded).reshape(HEIGHT, WIDTH)


def mask(file: Path, values: Sequence[int]) -> None:
    save(file, filled(values).astype(np.uint8))


def coloured(file: Path, colours: Sequence[tuple[int, int, int]]) -> None:
    places = filled(range(len(colours)))
    save(file, np.array(colours, dtype=np.uint8)[places])


def text(file: Path, content: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


def page(file: Path, content: object) -> None:
    text(file, json.dumps(content))


def ade20k(root: Path) -> None:
    top = root / "ADEChallengeData2016"
    for split in ("training", "validation"):
        for stem in ("ADE_00000002", "ADE_00000001"):
            picture(top / "images" / split / f"{stem}.jpg")
            mask(top / "annotations" / split / f"{stem}.png", [0, 1, 2, 150, 255])


def voc(root: Path) -> None:
    top = root / "VOCdevkit" / "VOC2012"
    for stem in ("2007_000033", "2007_000042", "2007_000061"):
        picture(top / "JPEGImages" / f"{stem}.jpg")
    for stem in ("2007_000033", "2007_000042"):
        indexed = Image.frombytes("P", (WIDTH, HEIGHT), filled([0, 1, 20, 255]).astype(np.uint8).tobytes())
        indexed.putpalette([value % 256 for value in range(768)])
        (top / "SegmentationClass").mkdir(parents=True, exist_ok=True)
        indexed.save(top / "SegmentationClass" / f"{stem}.png")
    text(top / "ImageSets" / "Segmentation" / "train.txt", "2007_000033\n")
    text(top / "ImageSets" / "Segmentation" / "val.txt", "2007_000042\n")


def context(root: Path) -> None:
    """As published: 459 categories in MATLAB files."""
    top = root / "VOCdevkit" / "VOC2010"
    for split, stem in (("train", "2008_000008"), ("val", "2008_000002")):
        picture(top / "JPEGImages" / f"{stem}.jpg")
        (top / "trainval").mkdir(parents=True, exist_ok=True)
        # No category, accordion, aeroplane, train, wood, wool.
        savemat(top / "trainval" / f"{stem}.mat", {"LabelMap": filled([0, 1, 2, 416, 458, 459]).astype(np.uint16)})
        text(top / "ImageSets" / "Main" / f"{split}.txt", f"{stem}\n")


def context_maps(root: Path) -> None:
    """As the field converts them: values 0 to 59."""
    top = root / "VOCdevkit" / "VOC2010"
    for split, stem in (("train", "2008_000008"), ("val", "2008_000002")):
        picture(top / "JPEGImages" / f"{stem}.jpg")
        mask(top / "SegmentationClassContext" / f"{stem}.png", [0, 0, 1, 52, 59, 0])
        text(top / "ImageSets" / "SegmentationContext" / f"{split}.txt", f"{stem}\n")


def cityscapes(root: Path) -> None:
    top = root / "cityscapes"
    for split, city in (("train", "aachen"), ("val", "munster"), ("val", "frankfurt")):
        stem = f"{city}_000000_000019"
        picture(top / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
        mask(top / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png", [0, 7, 8, 9, 11, 19, 26, 29, 33])
        mask(top / "gtFine" / split / city / f"{stem}_gtFine_instanceIds.png", [0])


def camvid(root: Path) -> None:
    for split in ("train", "val", "test"):
        picture(root / "CamVid" / split / f"0001TP_{split}.png")
        mask(root / "CamVid" / f"{split}annot" / f"0001TP_{split}.png", [0, 10, 11])


def msrc(root: Path) -> None:
    top = root / "MSRC_ObjCategImageDatabase_v2"
    for stem in ("1_1_s", "1_2_s", "2_1_s"):
        picture(top / "Images" / f"{stem}.bmp")
        # Void, building, horse, mountain, dog, boat.
        colours = [(0, 0, 0), (128, 0, 0), (128, 0, 128), (64, 0, 0), (128, 192, 128), (192, 64, 0)]
        coloured(top / "GroundTruth" / f"{stem}_GT.bmp", colours)
    text(top / "Train.txt", "1_1_s.bmp\n")
    text(top / "Test.txt", "2_1_s.bmp\n1_2_s.bmp\n")


def coco_stuff(root: Path) -> None:
    for split in ("train2017", "val2017"):
        picture(root / "coco" / split / "000000000139.jpg")
        values = [0, 10, 12, 89, 91, 181, 255]
        mask(root / "coco" / "stuffthingmaps" / split / "000000000139.png", values)
        mask(root / "coco" / "stuffthingmaps" / split / "000000000139_labelTrainIds.png", [0])


def coco_panoptic(root: Path) -> None:
    """Segments: void, a person, a crowd of persons, a rug; ids beyond one colour channel."""
    ids = [0, 7, 3 + 256 * 5, 1 + 256 * 2 + 65536 * 9]
    segments = [
        {"id": ids[1], "category_id": 1, "iscrowd": 0},
        {"id": ids[2], "category_id": 1, "iscrowd": 1},
        {"id": ids[3], "category_id": 200, "iscrowd": 0},
    ]
    for split in ("train2017", "val2017"):
        picture(root / "coco" / "images" / split / "000000000139.jpg")
        about = {"image_id": 139, "file_name": "000000000139.png", "segments_info": segments}
        page(root / "coco" / "annotations" / f"panoptic_{split}.json", {"annotations": [about]})
        colours = [(number % 256, number // 256 % 256, number // 65536) for number in ids]
        coloured(root / "coco" / "annotations" / f"panoptic_{split}" / "000000000139.png", colours)


def imagenet(root: Path) -> None:
    for split in ("train", "val"):
        for wnid in ("n15075141", "n01440764", "n02110185"):
            picture(root / "ImageNet" / split / wnid / f"{wnid}_1.JPEG")


def flickr30k(root: Path) -> None:
    images = [
        {"filename": "2.jpg", "split": "test", "sentences": [{"raw": " Two  dogs. \n"}, {"raw": "Dogs."}]},
        {"filename": "1.jpg", "split": "test", "sentences": [{"raw": "A man."}]},
        {"filename": "3.jpg", "split": "train", "sentences": [{"raw": "A boat."}]},
    ]
    page(root / "flickr30k" / "dataset_flickr30k.json", {"images": images, "dataset": "flickr30k"})
    for number in (1, 2, 3):
        picture(root / "flickr30k" / "flickr30k-images" / f"{number}.jpg")


def coco_karpathy(root: Path) -> None:
    sentences = [{"raw": f"caption {number}"} for number in range(7)]
    images = [
        {"filepath": "val2014", "filename": "v.jpg", "split": "test", "sentences": sentences},
        {"filepath": "val2014", "filename": "r.jpg", "split": "restval", "sentences": sentences[:1]},
        {"filepath": "train2014", "filename": "t.jpg", "split": "train", "sentences": sentences[1:2]},
    ]
    page(root / "coco" / "dataset_coco.json", {"images": images, "dataset": "coco"})
    for name in ("val2014/v.jpg", "val2014/r.jpg", "train2014/t.jpg"):
        picture(root / "coco" / name)


def coco_captions(root: Path) -> None:
    images = [{"id": 5, "file_name": "000000000005.jpg"}, {"id": 2, "file_name": "000000000002.jpg"}]
    annotations = [{"image_id": 5, "caption": f"five, {number}"} for number in range(6)]
    annotations.insert(2, {"image_id": 2, "caption": "two"})
    for split in ("train2017", "val2017"):
        about = {"images": images, "annotations": annotations}
        page(root / "coco" / "annotations" / f"captions_{split}.json", about)
        for each in images:
            picture(root / "coco" / split / each["file_name"])


def docci(root: Path) -> None:
    lines = [
        {"example_id": "train_00000", "split": "train", "image_file": "train_00000.jpg", "description": "A wall."},
        {"example_id": "test_00000", "split": "test", "image_file": "test_00000.jpg", "description": "A long one."},
        {"example_id": "qual_dev_0", "split": "qual_dev", "image_file": "qual_dev_0.jpg", "description": "Another."},
    ]
    text(root / "docci" / "docci_descriptions.jsonlines", "\n".join(json.dumps(line) for line in lines) + "\n")
    for line in lines:
        picture(root / "docci" / "images" / line["image_file"])


def sugarcrepe(root: Path) -> None:
    for kind in ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj"):
        about = {"filename": "000000085329.jpg", "caption": f"right {kind}", "negative_caption": f"wrong {kind}"}
        page(root / "sugar-crepe" / "data" / f"{kind}.json", {"0": about})
    picture(root / "coco" / "val2017" / "000000085329.jpg")


UNED = {
    "food2k": "food2k/Food2k_complete",
    "cars": "cars/car_ims",
    "sop": "sop/chair_final",
    "inshop": "deepfashion/inshop/img",
    "inat": "inat/train_val2018",
    "met": "met/MET",
    "gldv2": "gldv2/images/index",
    "rp2k": "rp2k/all/test",
}


def uned(root: Path) -> None:
    """Of every sub-set a dark instance and a light one, twice each; the last query of landmarks shows both.

    In the info files RP2k has letters that its unpacked folders spell by their code.
    """
    top = root / "UnED"
    for place, (subset, folder) in enumerate(UNED.items()):
        listed = []
        for number, grey in enumerate((20, 24, 220, 224)):
            letters = "水" if subset == "rp2k" else ""
            listed.append({"path": f"{folder}/{letters}{number}.jpg", "class_id": 10 * place + number // 2})
            picture(top / "images" / folder / f"{'#U6c34' if letters else ''}{number}.jpg", grey=grey + place)
        if subset in ("inshop", "met", "gldv2"):
            page(top / "info_files" / subset / "index.json", listed[::2])
            listed = listed[1::2]
        if subset == "gldv2":
            listed = [listed[0], {**listed[1], "class_id": [99, 10 * place, 10 * place + 1]}]
        page(top / "info_files" / subset / "test.json", listed)


def nyuv2(root: Path) -> None:
    """Depth as millimetres in training, as metres in test; normals both ways."""
    for split in ("train", "test"):
        picture(root / "nyuv2" / split / "rgb" / "00001.png")
    millimetres = filled([0, 1500, 65535]).astype(np.uint16)
    save(root / "nyuv2" / "train" / "depth" / "00001.png", millimetres)
    coloured(root / "nyuv2" / "train" / "normals" / "00001.png", [(0, 0, 0), (128, 128, 1), (255, 128, 128)])
    (root / "nyuv2" / "test" / "depth").mkdir()
    metres = filled([0, 1, 2]) * 0.75
    metres[0, 3] = np.nan
    np.save(root / "nyuv2" / "test" / "depth" / "00001.npy", metres)
    normals = np.zeros((HEIGHT, WIDTH, 3))
    normals[1] = (0, 3, -4)
    (root / "nyuv2" / "test" / "normals").mkdir()
    np.save(root / "nyuv2" / "test" / "normals" / "00001.npy", normals)


def navi(root: Path) -> None:
    """A wall 0.655 m away, with a hole."""
    for scene in ("3d_dollhouse_sink/multiview_00_pixel_5", "keywest_showpiece/wild_set"):
        folder = root / "navi_v1.5" / scene
        about = [
            {"filename": f"00{number}.jpg", "split": split, "camera": {"focal_length": 3024.0}, "image_size": [3, 4]}
            for number, split in enumerate(("val", "train"))
        ]
        page(folder / "annotations.json", about)
        for each in about:
            picture(folder / "images" / each["filename"])
            values = np.full((HEIGHT, WIDTH), 1000, dtype=np.uint16)
            values[0, 0] = values[0, 2] = 0
            save(folder / "depth" / each["filename"].replace("jpg", "png"), values)
