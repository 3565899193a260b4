"""Data sets in the layouts of their archives: exact labels from tiny copies, and what is said about missing ones."""

import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import open_clip
import pytest
import tiny_layouts
import torch
from PIL import Image
from rich.console import Console
from scipy.io import savemat
from timm.data import ImageNetInfo
from torch import Tensor

from distill import cli
from distill.catalogue.data_sets import DATA_SETS
from distill.catalogue.layout import find
from distill.catalogue.listing import show
from distill.config import load_recipe
from distill.contracts import ImageEncoder, SegmentationSet, Tokens
from distill.encoders.dual import DualEncoder
from distill.eval import TASKS, evaluation_data
from distill.eval.command import evaluation_words
from distill.eval.in_training import evaluate_in_training
from distill.eval.layouts import (
    open_captions,
    open_classes,
    open_depth,
    open_instances,
    open_normals,
    open_pairs,
    open_segmentation,
)
from distill.eval.layouts.geometry import normals_from_depth
from distill.eval.layouts.names import FOLDER, ids, names, rows
from distill.eval.layouts.registry import READERS
from distill.eval.naming import PLACE_OF
from distill.eval.pictures.things import num_things_of
from distill.eval.tasks.knn import ClassifiedPictures
from distill.eval.tasks.retrieval import CaptionedPictures

NO = 255

BUILD: dict[str, Callable[[Path], None]] = {
    "ade20k": tiny_layouts.ade20k,
    "voc21": tiny_layouts.voc,
    "voc20": tiny_layouts.voc,
    "context60": tiny_layouts.context,
    "context59": tiny_layouts.context,
    "cityscapes": tiny_layouts.cityscapes,
    "camvid": tiny_layouts.camvid,
    "msrc": tiny_layouts.msrc,
    "coco_stuff": tiny_layouts.coco_stuff,
    "coco_panoptic": tiny_layouts.coco_panoptic,
    "imagenet": tiny_layouts.imagenet,
    "flickr30k": tiny_layouts.flickr30k,
    "coco_karpathy": tiny_layouts.coco_karpathy,
    "coco_captions": tiny_layouts.coco_captions,
    "docci": tiny_layouts.docci,
    "sugarcrepe": tiny_layouts.sugarcrepe,
    "uned": tiny_layouts.uned,
    "nyuv2": tiny_layouts.nyuv2,
    "navi": tiny_layouts.navi,
}

LABELS: dict[str, tuple[list[int], int, int]] = {
    "ade20k": ([NO, 0, 1, 149, NO], 150, 2),
    "voc21": ([0, 1, 20, NO], 21, 1),
    "voc20": ([NO, 0, 19, NO], 20, 1),
    "context60": ([0, 0, 1, 52, 59, 0], 60, 1),
    "context59": ([NO, NO, 0, 51, 58, NO], 59, 1),
    "cityscapes": ([NO, 0, 1, NO, 2, 6, 13, NO, 18], 19, 2),
    "camvid": ([0, 10, NO], 11, 1),
    "msrc": ([NO, 0, NO, NO, 18, 20], 21, 2),
    "coco_stuff": ([0, 10, 11, 79, 80, 170, NO], 171, 1),
    "coco_panoptic": ([NO, 0, 0, 132], 133, 1),
}
"""Labels of the tiny copy's first pixels, number of classes, number of pictures of the split that papers report on."""

COUNTS = {
    "ade20k": 150,
    "voc": 21,
    "context": 60,
    "cityscapes": 19,
    "camvid": 11,
    "msrc": 21,
    "coco_stuff": 171,
    "coco_panoptic": 133,
    "imagenet": 1000,
}
MASKS = [name for name, data in DATA_SETS.items() if data.kind == "segmentation"]


class Brightness(ImageEncoder):
    """The direction of a picture is its brightness, from dark to light through a quarter of a circle."""

    num_cls, width, patch_size = 1, 2, 8

    @classmethod
    def encoder(cls) -> DualEncoder:
        return DualEncoder(cls(), None)

    def forward(self, pixels: Tensor, hidden: Tensor | None = None) -> Tokens:
        angle = pixels.mean((1, 2, 3)) * torch.pi / 2
        found = torch.stack([angle.cos(), angle.sin()], dim=1)[:, None]
        return Tokens(cls=found, patches=found, grid=(1, 1))


def opened(name: str, root: Path, role: str = "val", limit: int | None = None) -> object:
    """Any data set, by what its kind is opened with."""
    kind = DATA_SETS[name].kind
    if kind == "segmentation":
        return open_segmentation(name, role, root=root, limit=limit)
    if kind == "classes":
        return open_classes(name, role, image_size=8, root=root, limit=limit)
    if kind == "captions":
        return open_captions(name, role, image_size=8, root=root, limit=limit)
    if kind == "instances":
        return open_instances(name, image_size=8, root=root, limit=limit)
    return open_pairs(name, image_size=8, root=root) if kind == "pairs" else open_depth(name, role, root=root)


def expected_labels(first: list[int]) -> Tensor:
    return torch.from_numpy(tiny_layouts.filled(first))


def test_every_data_set_and_every_list_of_names_is_looked_at():
    assert set(BUILD) == set(DATA_SETS) == set(READERS) and set(LABELS) == set(MASKS) and len(MASKS) == 10
    assert set(COUNTS) == {file.stem for file in FOLDER.glob("*.txt")}
    served = {task for data in DATA_SETS.values() for task in data.tasks}
    assert served == {*TASKS, "agreement"}


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_data_set_names_every_task_that_is_measured_on_its_kind(name: str):
    """Captions are asked for by the setting that also names masks."""
    measured = {task for task in PLACE_OF if PLACE_OF[task] == PLACE_OF[DATA_SETS[name].tasks[0]]}
    assert {*DATA_SETS[name].tasks} in (measured, measured - {"retrieval"}, {"retrieval"})


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_missing_data_set_is_named_with_its_layout_and_where_it_comes_from(name: str, tmp_path: Path):
    data = DATA_SETS[name]
    with pytest.raises(ValueError, match="was not found") as caught:
        opened(name, tmp_path)
    said = str(caught.value)
    assert said.startswith(f"{name}, split {data.splits['val']}") and data.page in said and str(tmp_path) in said
    assert all(line in said for line in data.tree.splitlines()) and data.folders[0] in said
    assert find(data, tmp_path) is None


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_tiny_copy_of_every_data_set_is_found_in_each_of_its_splits(name: str, tmp_path: Path):
    BUILD[name](tmp_path)
    for role in DATA_SETS[name].splits:
        assert find(DATA_SETS[name], tmp_path, role=role) is not None
        assert len(opened(name, tmp_path, role)) >= 1


@pytest.mark.parametrize("name", DATA_SETS)
def test_every_folder_name_of_a_data_set_is_found_and_no_need_is_idle(name: str, tmp_path: Path):
    data = DATA_SETS[name]
    BUILD[name](tmp_path / "built")
    built = find(data, tmp_path / "built")
    for number, folder in enumerate(data.folders):
        place = tmp_path / str(number) / folder
        shutil.copytree(built, place, dirs_exist_ok=True)
        assert find(data, tmp_path / str(number)) == place
    for need in data.needs["val"]:
        top = tmp_path / "lacking"
        shutil.copytree(tmp_path / "built", top)
        for one in [need] if isinstance(need, str) else need:
            remove(one, [top / folder for folder in data.folders])
        with pytest.raises(ValueError, match=r"is there, but lacks|was not found"):
            opened(name, top)
        shutil.rmtree(top)


def remove(pattern: str, folders: list[Path]) -> None:
    for path in [path for folder in folders if folder.is_dir() for path in folder.glob(pattern)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("name", MASKS)
def test_masks_are_read_with_exact_labels(name: str, tmp_path: Path):
    BUILD[name](tmp_path)
    first, num_classes, num_pictures = LABELS[name]
    data = open_segmentation(name, root=tmp_path)
    assert isinstance(data, SegmentationSet) and data.ignore == NO
    assert len(data) == num_pictures and len(data.class_names) == len(set(data.class_names)) == num_classes
    for index in range(len(data)):
        pixels, labels = data[index]
        assert torch.equal(labels, expected_labels(first))
        assert pixels.shape == (3, *labels.shape) and (pixels - tiny_layouts.GREY / 255).abs().max() < 0.01


@pytest.mark.parametrize("name", ["context59", "context60"])
def test_context_is_the_same_from_the_published_annotations_and_from_converted_maps(name: str, tmp_path: Path):
    tiny_layouts.context(tmp_path / "published")
    tiny_layouts.context_maps(tmp_path / "converted")
    both = [open_segmentation(name, root=tmp_path / way)[0][1] for way in ("published", "converted")]
    assert torch.equal(*both) and torch.equal(both[0], expected_labels(LABELS[name][0]))


@pytest.mark.parametrize("name", MASKS)
def test_a_value_that_is_no_class_is_refused(name: str, tmp_path: Path):
    BUILD[name](tmp_path)
    _, file = open_segmentation(name, root=tmp_path).files[0]
    if file.suffix == ".mat":
        savemat(file, {"LabelMap": np.full((3, 4), 460)})
    else:
        values = np.full((3, 4), 200 if name != "coco_stuff" else 11, dtype=np.uint8)
        Image.fromarray(values).convert("RGB" if name in ("msrc", "coco_panoptic") else "L").save(file)
    with pytest.raises(ValueError, match=file.name):
        open_segmentation(name, root=tmp_path)[0]


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_of_another_size_and_a_mask_without_a_picture_are_refused(name: str, tmp_path: Path):
    BUILD[name](tmp_path)
    picture, mask = open_segmentation(name, root=tmp_path).files[0]
    tiny_layouts.picture(picture, size=(5, 5))
    with pytest.raises(ValueError, match=r"\(3, 4\) and its picture \(5, 5\)"):
        open_segmentation(name, root=tmp_path)[0]
    picture.unlink()
    with pytest.raises(ValueError, match=rf"{mask.name} has no picture {picture.stem}"):
        open_segmentation(name, root=tmp_path)


@pytest.mark.parametrize("name", ["voc21", "msrc", "context60", "coco_panoptic"])
def test_a_mask_that_is_listed_and_not_there_is_refused(name: str, tmp_path: Path):
    BUILD[name](tmp_path)
    _, mask = open_segmentation(name, root=tmp_path).files[0]
    mask.unlink()
    with pytest.raises(ValueError, match=f"{mask.name}: no such file"):
        open_segmentation(name, root=tmp_path)


def test_a_context_annotation_that_is_no_matlab_file_is_refused(tmp_path: Path):
    tiny_layouts.context(tmp_path)
    _, file = open_segmentation("context60", root=tmp_path).files[0]
    file.write_text("no MATLAB file")
    with pytest.raises(ValueError, match=f"{file.name}: expected a MATLAB file"):
        open_segmentation("context60", root=tmp_path)[0]


def test_things_are_told_from_stuff_only_where_the_data_set_does(tmp_path: Path):
    for name in MASKS:
        BUILD[name](tmp_path)
        data = open_segmentation(name, root=tmp_path)
        assert num_things_of(data) == (80 if name.startswith("coco_") else None)


def test_msrc_without_its_lists_is_evaluated_whole_and_has_no_training_split(tmp_path: Path):
    tiny_layouts.msrc(tmp_path)
    for name in ("Train", "Test"):
        (tmp_path / "MSRC_ObjCategImageDatabase_v2" / f"{name}.txt").unlink()
    assert len(open_segmentation("msrc", root=tmp_path)) == 3
    with pytest.raises(ValueError, match=r"lacks Train\.txt"):
        open_segmentation("msrc", "train", root=tmp_path)


def test_panoptic_annotations_with_another_category_are_refused(tmp_path: Path):
    tiny_layouts.coco_panoptic(tmp_path)
    file = tmp_path / "coco" / "annotations" / "panoptic_val2017.json"
    file.write_text(file.read_text().replace('"category_id": 200', '"category_id": 12'))
    with pytest.raises(ValueError, match="133 categories"):
        open_segmentation("coco_panoptic", root=tmp_path)


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_lists_of_names_are_complete_and_state_their_source(name: str, count: int):
    assert len(rows(name)) == len(names(name)) == count
    assert all(each == each.strip() and each for each in names(name))
    assert "# Source: " in (FOLDER / f"{name}.txt").read_text()
    if name != "imagenet":
        assert len(set(names(name))) == count


def test_ids_of_the_data_sets_are_as_published():
    assert set(range(182)) - set(ids("coco_stuff")) == {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
    panoptic = ids("coco_panoptic")
    assert panoptic[:80] == [number + 1 for number in ids("coco_stuff")[:80]] and panoptic[-1] == 200
    assert [row[1] for row in rows("coco_panoptic")[:80]] == names("coco_stuff")[:80]
    assert ids("cityscapes") == [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]
    assert names("context")[1:] == sorted(names("context")[1:])
    assert all(low < high for low, high in pairwise(ids("context"))) and set(names("voc")) - set(names("context")) == {
        "diningtable"
    }


def test_imagenet_has_the_ids_of_timm_and_the_names_of_open_clip():
    assert [row[0] for row in rows("imagenet")] == ImageNetInfo("imagenet-1k").label_names()
    assert names("imagenet") == list(open_clip.IMAGENET_CLASSNAMES)


def test_imagenet_folders_get_the_label_of_their_id_among_all_thousand(tmp_path: Path):
    tiny_layouts.imagenet(tmp_path)
    data = open_classes("imagenet", image_size=8, root=tmp_path)
    assert isinstance(data, ClassifiedPictures) and len(data.class_names) == 1000
    pixels, labels = data.batch(0, 3)
    assert labels.tolist() == [0, 250, 999] and pixels.shape == (3, 3, 8, 8)
    assert [data.class_names[label] for label in labels] == ["tench", "Siberian Husky", "toilet paper"]
    (tmp_path / "ImageNet" / "val" / "n00000000").mkdir()
    with pytest.raises(ValueError, match="no class n00000000"):
        open_classes("imagenet", image_size=8, root=tmp_path)


CAPTIONS = {
    ("flickr30k", "val"): {"2.jpg": ["Two dogs.", "Dogs."], "1.jpg": ["A man."]},
    ("flickr30k", "train"): {"3.jpg": ["A boat."]},
    ("coco_karpathy", "val"): {"v.jpg": [f"caption {number}" for number in range(5)]},
    ("coco_karpathy", "train"): {"t.jpg": ["caption 1"], "r.jpg": ["caption 0"]},
    ("coco_captions", "val"): {
        "000000000002.jpg": ["two"],
        "000000000005.jpg": [f"five, {number}" for number in range(5)],
    },
    ("docci", "val"): {"test_00000.jpg": ["A long one."]},
    ("docci", "train"): {"train_00000.jpg": ["A wall."]},
}


@pytest.mark.parametrize(("name", "role"), CAPTIONS)
def test_captions_belong_to_their_pictures(name: str, role: str, tmp_path: Path):
    BUILD[name](tmp_path)
    data = open_captions(name, role, image_size=8, root=tmp_path)
    assert isinstance(data, CaptionedPictures)
    assert {file.name: said for file, said in zip(data.files, data.captions, strict=True)} == CAPTIONS[name, role]
    assert data.pixels(0, len(data)).shape == (len(data), 3, 8, 8)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("flickr30k", "flickr30k/dataset_flickr30k.json"),
        ("coco_karpathy", "coco/dataset_coco.json"),
        ("coco_captions", "coco/annotations/captions_val2017.json"),
        ("docci", "docci/docci_descriptions.jsonlines"),
        ("sugarcrepe", "sugar-crepe/data/swap_obj.json"),
        ("navi", "navi_v1.5/keywest_showpiece/wild_set/annotations.json"),
        ("coco_panoptic", "coco/annotations/panoptic_val2017.json"),
    ],
)
@pytest.mark.parametrize(
    "content", ["{", "{}", '{"images": [{}], "annotations": [{}]}', '[{"split": "val"}]', '{"0": 1}']
)
def test_annotations_that_say_something_else_are_refused_with_the_file_s_name(
    name: str, file: str, content: str, tmp_path: Path
):
    BUILD[name](tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=Path(file).name):
        opened(name, tmp_path)


def test_sugarcrepe_asks_all_seven_kinds_of_questions(tmp_path: Path):
    tiny_layouts.sugarcrepe(tmp_path)
    data = open_pairs("sugarcrepe", image_size=8, root=tmp_path)
    kinds = ["add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj"]
    assert [pair.category for pair in data.pairs] == kinds and data.pixels(0, 7).shape == (len(data), 3, 8, 8)
    assert {pair.picture for pair in data.pairs} == set(range(len(data)))
    assert all(
        (each.caption, each.negative) == (f"right {each.category}", f"wrong {each.category}") for each in data.pairs
    )


def test_uned_asks_eight_sub_sets_and_no_picture_finds_itself(tmp_path: Path):
    tiny_layouts.uned(tmp_path)
    opened = {subset.name: subset for subset in open_instances("uned", image_size=8, root=tmp_path)}
    assert list(opened) == ["food2k", "cars", "sop", "inshop", "inat", "met", "gldv2", "rp2k"]
    assert {name for name, subset in opened.items() if subset.query is not None} == {"inshop", "met", "gldv2"}
    assert all(len(subset.index) == (4 if subset.query is None else 2) for subset in opened.values())
    assert opened["cars"].index.class_names == ["10", "11"] and opened["met"].query.batch(0, 2)[1].tolist() == [0, 1]
    landmarks = opened["gldv2"]
    assert landmarks.query.class_names == landmarks.index.class_names == ["60", "61", "99"]
    assert landmarks.query.batch(0, 2)[1].tolist() == [0, 2] and landmarks.also == {1: (0, 1)}
    assert opened["rp2k"].index.batch(0, 4)[0].shape == (4, 3, 8, 8)
    alone = open_instances("uned", image_size=8, root=tmp_path, limit=1)
    assert [subset.index.class_names for subset in alone] == [[f"{10 * place}"] for place in range(8)]
    assert {len(subset.index) for subset in alone} == {2, 1} and len(alone[6].query) == 2
    settings = {"instances": "uned", "root": str(tmp_path)}
    scores = evaluate_in_training(Brightness.encoder(), recipe("instance_retrieval", **settings, index="own"))
    assert scores == {"instance_retrieval/r1": 1.0}
    # Merged, and by default: the nearest grey is often that of another sub-set.
    merged = evaluate_in_training(Brightness.encoder(), recipe("instance_retrieval", **settings, index="merged"))
    assert merged == evaluate_in_training(Brightness.encoder(), recipe("instance_retrieval", **settings))
    assert 0 <= merged["instance_retrieval/r1"] < 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"path": "a.jpg"}]', "expected a list of path and class_id"),
        ('[{"path": "a.jpg", "class_id": "7"}]', "class_id 7"),
        ('{"path": "a.jpg"}', "expected a list"),
        ("[]", "lists nothing"),
        ('[{"path": "a.jpg", "class_id": [1, 2]}]', "more than one class_id"),
    ],
)
def test_info_files_that_say_something_else_are_refused(content: str, said: str, tmp_path: Path):
    tiny_layouts.uned(tmp_path)
    (tmp_path / "UnED" / "info_files" / "cars" / "test.json").write_text(content)
    with pytest.raises(ValueError, match=rf"cars.*{said}"):
        open_instances("uned", image_size=8, root=tmp_path)


def test_nyuv2_depth_is_in_metres_and_zero_where_unknown(tmp_path: Path):
    tiny_layouts.nyuv2(tmp_path)
    pixels, depth = open_depth("nyuv2", "train", root=tmp_path)[0]
    assert pixels.shape == (3, 3, 4)
    torch.testing.assert_close(depth, torch.from_numpy(tiny_layouts.filled([0, 1500, 65535])) / 1000, check_dtype=False)
    _, depth = open_depth("nyuv2", root=tmp_path)[0]
    assert depth[0].tolist() == [0, 0.75, 1.5, 0]


def test_nyuv2_normals_are_unit_vectors_and_zero_where_unknown(tmp_path: Path):
    tiny_layouts.nyuv2(tmp_path)
    _, normals = open_normals("nyuv2", "train", root=tmp_path)[0]
    assert normals[:, 0, :3].T.tolist() == [[0, 0, 0], [0, 0, -1], [1, 0, 0]]
    _, normals = open_normals("nyuv2", root=tmp_path)[0]
    torch.testing.assert_close(normals[:, 1], torch.tensor([0, 0.6, -0.8])[:, None].expand(3, 4))
    assert not normals[:, 0].any()
    shutil.rmtree(tmp_path / "nyuv2" / "test" / "normals")
    with pytest.raises(ValueError, match="came without normals"):
        open_normals("nyuv2", root=tmp_path)[0]


def test_navi_takes_the_split_of_its_annotations_and_computes_normals_from_disparity(tmp_path: Path):
    tiny_layouts.navi(tmp_path)
    data = open_depth("navi", root=tmp_path)
    assert [view.picture.name for view in data.views] == ["000.jpg"] * 2
    assert [view.picture.name for view in open_depth("navi", "train", root=tmp_path).views] == ["001.jpg"] * 2
    _, depth = data[0]
    expected = torch.full((3, 4), 0.65535)
    expected[0, 0] = expected[0, 2] = 0
    torch.testing.assert_close(depth, expected)
    _, normals = open_normals("navi", root=tmp_path)[0]
    torch.testing.assert_close(normals[:, 1, 1], torch.tensor([0.0, 0.0, -1.0]))
    normals[:, 1, 1] = 0
    assert not normals.any()  # border, and next to the hole


def test_normals_from_depth_are_those_of_a_plane():
    """A plane n·p = -1 seen by a camera of focal length 50: depth from the ray, normals as given; float32's 1e-4."""
    normal = torch.tensor([0.3, -0.2, -1.0])
    rows, columns = torch.arange(20)[:, None] - 9.5, torch.arange(30)[None, :] - 14.5
    depth = -1 / (normal[0] * columns / 50 + normal[1] * rows / 50 + normal[2])
    found = normals_from_depth(depth, focal=50.0)[:, 1:-1, 1:-1]
    torch.testing.assert_close(found, (normal / normal.norm())[:, None, None].expand_as(found), atol=1e-4, rtol=0)


def test_a_limit_takes_pictures_evenly_spaced(tmp_path: Path):
    top = tmp_path / "ADEChallengeData2016"
    for number in range(7):
        tiny_layouts.picture(top / "images" / "validation" / f"{number}.jpg")
        tiny_layouts.mask(top / "annotations" / "validation" / f"{number}.png", [number + 1])
    data = open_segmentation("ade20k", root=tmp_path, limit=3)
    assert [mask.stem for _, mask in data.files] == ["0", "2", "4"] and data[2][1][0, 0] == 4


def test_the_root_is_the_argument_or_else_the_environment_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("DISTILL_DATA", raising=False)
    tiny_layouts.camvid(tmp_path)
    with pytest.raises(ValueError, match="set DISTILL_DATA"):
        open_segmentation("camvid")
    monkeypatch.setenv("DISTILL_DATA", str(tmp_path))
    assert len(open_segmentation("camvid")) == 1
    with pytest.raises(ValueError, match="is not a folder"):
        open_segmentation("camvid", root=tmp_path / "elsewhere")


def test_a_recipe_s_root_is_looked_in_by_every_kind_of_task_before_the_environment_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DISTILL_DATA", str(tmp_path / "nowhere"))
    for name in ("camvid", "imagenet", "docci", "sugarcrepe", "nyuv2"):
        BUILD[name](tmp_path)
    named = {"segmentation": "camvid", "classes": "imagenet", "pairs": "sugarcrepe", "geometry": "nyuv2"}
    tasks = "linear_segmentation, knn, compositional_pairs, depth, normals"
    data = evaluation_data(recipe(tasks, root=str(tmp_path), **named), None)
    assert len(data.segmentation) == len(data.depth) == len(data.normals) == 1 and len(data.pairs.pairs) == 7
    assert len(data.classes_train) == 3
    assert len(evaluation_data(recipe("retrieval", root=str(tmp_path), segmentation="docci"), None).captions[0]) == 1
    with pytest.raises(ValueError, match=r"nowhere is not a folder; evaluate\.root or DISTILL_DATA"):
        evaluation_data(recipe("knn", classes="imagenet"), None)


@pytest.mark.parametrize("word", ["root=/data", "evaluate.root=/data", "data.root=/data"])
def test_the_command_line_takes_the_root_as_a_setting_of_the_evaluation_or_of_the_data(word: str):
    assert evaluation_words([word]) == ["evaluate.root=/data"]
    with pytest.raises(ValueError, match=r"'data\.size=1' is no setting of an evaluation; they are .*root"):
        evaluation_words(["data.size=1"])


def recipe(tasks: str, **settings: str):
    overrides = [f"evaluate.{key}={value}" for key, value in settings.items()]
    return load_recipe("smoke", [f"evaluate.tasks=[{tasks}]", "data.image_size=32", *overrides])


def test_recipes_take_names_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DISTILL_DATA", str(tmp_path))
    for build in (tiny_layouts.ade20k, tiny_layouts.imagenet, tiny_layouts.flickr30k):
        build(tmp_path)
    data = evaluation_data(recipe("linear_segmentation, knn", segmentation="ade20k", classes="imagenet"), None)
    assert (len(data.segmentation), len(data.segmentation_train)) == (2, 2) and len(data.classes.class_names) == 1000
    assert len(evaluation_data(recipe("linear_segmentation", segmentation="ade20k"), 1).segmentation) == 1
    assert len(evaluation_data(recipe("retrieval", segmentation="flickr30k"), None).captions[0]) == 2
    folder = tmp_path / "flowers"
    for split in ("train", "val"):
        tiny_layouts.picture(folder / split / "rose" / "1.jpg")
    assert evaluation_data(recipe("knn", classes=str(folder)), None).classes.class_names == ["rose"]


@pytest.mark.parametrize(
    ("tasks", "settings", "said"),
    [
        (
            "zero_shot_segmentation",
            {"segmentation": "ade"},
            r"evaluate\.segmentation=ade: not a folder, and .*ade20k, voc",
        ),
        ("zero_shot_segmentation", {"segmentation": "imagenet"}, "no data set of the kind segmentation"),
        (
            "zero_shot_segmentation",
            {"segmentation": "ade20k"},
            r"evaluate\.segmentation=ade20k: ade20k, split validation, was not",
        ),
        ("retrieval", {"segmentation": "ade20k"}, "no data set of the kind captions; there are flickr30k"),
        ("knn", {"classes": "cifar"}, r"evaluate\.classes=cifar: not a folder, and .*imagenet"),
    ],
)
def test_what_is_neither_a_folder_nor_a_known_name_is_refused(
    tasks: str, settings: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DISTILL_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=said):
        evaluation_data(recipe(tasks, **settings), None)


def listed(*names: str, root: Path | None) -> str:
    console = Console(width=200)
    with console.capture() as caught:
        show(names, root, console=console)
    return caught.get()


def test_the_list_shows_every_data_set_and_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("DISTILL_DATA", raising=False)
    tiny_layouts.camvid(tmp_path)
    (tmp_path / "CamVid" / "trainannot").rename(tmp_path / "CamVid" / "other")
    lines = listed(root=tmp_path).splitlines()
    split = [[cell.strip() for cell in line.split("│")] for line in lines if "│" in line]
    cells = {row[1]: row[3:5] for row in split}
    assert set(DATA_SETS) <= set(cells)
    assert cells.pop("camvid") == ["missing", "found"]
    assert cells.pop("sugarcrepe") == cells.pop("uned") == ["-", "missing"]
    assert all(each == ["missing", "missing"] for each in cells.values())
    assert all(", ".join(data.tasks) in "\n".join(lines) for data in DATA_SETS.values())
    assert "DISTILL_DATA is not set" in listed(root=None)


@pytest.mark.parametrize("name", DATA_SETS)
def test_the_list_tells_one_data_set_s_layout(name: str, tmp_path: Path):
    said = listed(name, root=tmp_path)
    data = DATA_SETS[name]
    assert data.page in said and data.title in said and all(line in said for line in data.tree.splitlines())


def test_eval_list_stands_beside_eval_run(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert cli.main(["eval", "list", "--root", str(tmp_path)]) == 0
    assert "coco_panoptic" in capsys.readouterr().out
    assert cli.main(["eval", "list", "nosuch"]) == 2 and "there is no data set nosuch" in capsys.readouterr().err
    assert cli.main(["eval", "list", "--root", str(tmp_path / "no")]) == 2
    assert cli.main(["eval", str(tmp_path / "list"), "knn"]) == 2
    assert "no such run" in capsys.readouterr().err
