"""Evaluation data read through `datasets` by column map: tables and folders on disk, their splits, names and errors."""

import json
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from oracles import know_nothing
from PIL import Image
from tiny_data import picture_bytes

from distill.config import load_recipe
from distill.contracts import SegmentationSet
from distill.data.splits import open_split
from distill.eval import evaluation_data
from distill.eval.command import evaluation_words
from distill.eval.in_training import evaluate_in_training
from distill.eval.registry import check_read
from distill.eval.sets import check_words
from distill.eval.tasks.knn import ClassifiedPictures
from distill.eval.tasks.retrieval import CaptionedPictures

NAMES = ["tabby_cat", "dog"]
CLASSES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def row(number: int, **said: Any) -> dict[str, Any]:
    return {"image": {"bytes": picture_bytes(number), "path": None}, **said}


def classes(count: int, first: int = 0) -> datasets.Dataset:
    rows = [row(first + number, label=number % 2) for number in range(count)]
    return datasets.Dataset.from_list(rows, features=CLASSES)


def encoded(values: np.ndarray, kind: str = "PNG") -> bytes:
    file = BytesIO()
    Image.fromarray(values).save(file, kind)
    return file.getvalue()


def recipe(tasks: str, **settings: str):
    words = [f"evaluate.{key}={value}" for key, value in settings.items()]
    return load_recipe("smoke", [f"evaluate.tasks=[{tasks}]", "data.image_size=32", *words])


def save_parquet(folder: Path, train: int = 4, scored: int = 3, name: str = "validation") -> None:
    for split, rows in (("train", classes(train)), (name, classes(scored, first=50))):
        file = folder / "data" / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(file)


def save_arrow(folder: Path) -> None:
    datasets.DatasetDict({"train": classes(4), "validation": classes(3, first=50)}).save_to_disk(folder)


def save_arrow_files(folder: Path) -> None:
    for split, rows in (("train", classes(4)), ("val", classes(3, first=50))):
        rows.save_to_disk(folder / "saved")
        (folder / split).mkdir(parents=True)
        (folder / "saved" / "data-00000-of-00001.arrow").rename(folder / split / "data.arrow")


def save_pictures(folder: Path) -> None:
    """Without metadata: the folder's name is the class, and a class may lack pictures in one split."""
    for split, first, count in (("train", 0, 4), ("val", 50, 3)):
        for number in range(count):
            file = folder / split / NAMES[number % 2] / f"{split}_{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture_bytes(first + number))


SAVED = {"parquet": save_parquet, "save_to_disk": save_arrow, "arrow": save_arrow_files, "pictures": save_pictures}


@pytest.mark.parametrize("kind", SAVED)
def test_classes_come_from_every_kind_of_files_with_their_splits_and_names(kind: str, tmp_path: Path):
    SAVED[kind](tmp_path / "set")
    data = evaluation_data(recipe("knn", classes=f"hf:{tmp_path}/set"), None)
    names = sorted(NAMES) if kind == "pictures" else NAMES
    expected = [names.index(NAMES[number % 2]) for number in range(4)]
    for found, first, count in ((data.classes_train, 0, 4), (data.classes, 50, 3)):
        assert isinstance(found, ClassifiedPictures) and len(found) == count
        assert found.class_names == names and set(found.prompts) == {"tabby cat", "dog"}
        pixels, labels = found.batch(0, 10)
        order = sorted(range(count), key=lambda number: (NAMES[number % 2], number)) if kind == "pictures" else None
        places = order or list(range(count))
        assert labels.tolist() == [expected[place] for place in places]
        single = torch.stack([found.batch(place, place + 1)[0][0] for place in range(count)])
        assert torch.equal(single, pixels) and pixels.shape == (count, 3, 32, 32)
        shown = open_split(str(tmp_path / "set"), "val" if first else "train")
        assert len(shown) == count
    assert len(evaluation_data(recipe("knn", classes=f"hf:{tmp_path}/set"), 2).classes) == 2


def test_pictures_are_those_of_a_folder_of_classes(tmp_path: Path):
    save_pictures(tmp_path / "set")
    ours = evaluation_data(recipe("knn", classes=str(tmp_path / "set")), None)
    tables = evaluation_data(recipe("knn", classes=f"hf:{tmp_path}/set"), None)
    for one, other in ((ours.classes_train, tables.classes_train), (ours.classes, tables.classes)):
        assert one.class_names == other.class_names and one.prompts == other.prompts
        for mine, theirs in zip(one.batch(0, 9), other.batch(0, 9), strict=True):
            assert torch.equal(mine, theirs)


def test_the_scored_split_is_the_first_there_is_or_the_one_that_is_named(tmp_path: Path):
    save_parquet(tmp_path, name="validation")
    classes(5, first=70).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    place = f"hf:{tmp_path}"
    assert len(evaluation_data(recipe("health", classes=place), None).classes) == 3
    assert len(evaluation_data(recipe("health", classes=place, split="test"), None).classes) == 5
    assert len(evaluation_data(recipe("health", classes=f"{place}/data/test-*.parquet"), None).classes) == 5
    with pytest.raises(ValueError, match=r"has no val split, which would be called dev2; there are test, train, valid"):
        evaluation_data(recipe("health", classes=place, split="dev2"), None)
    classes(2).to_parquet(tmp_path / "all.parquet")
    assert len(evaluation_data(recipe("health", classes=f"{place}/all.parquet"), None).classes) == 2
    with pytest.raises(ValueError, match=r"evaluate\.classes=hf:.*no train split.*no file says which split"):
        evaluation_data(recipe("knn", classes=f"{place}/all.parquet"), None)


def test_labels_are_named_by_a_file_by_their_feature_or_by_themselves(tmp_path: Path):
    numbers = [row(number, kind={"number": number % 3 - 1, "name": "ab"[number % 2]}) for number in range(4)]
    datasets.Dataset.from_list(numbers).to_parquet(tmp_path / "val.parquet")
    place = f"hf:{tmp_path}"
    with pytest.raises(ValueError, match=r"values of 'kind\.number' have no names.*evaluate\.class_names=FILE"):
        evaluation_data(recipe("health", classes=place, **{"columns.label": "kind.number"}), None)
    (tmp_path / "names.txt").write_text("# two of them\nred fox\nwolf\n")
    settings = {"columns.label": "kind.number", "class_names": str(tmp_path / "names.txt")}
    found = evaluation_data(recipe("health", classes=place, **settings), None).classes
    assert found.class_names == ["red fox", "wolf"] and found.batch(0, 4)[1].tolist() == [-1, 0, 1, -1]
    found = evaluation_data(recipe("health", classes=place, **{"columns.label": "kind.name"}), 2).classes
    assert found.class_names == ["a", "b"] and found.batch(0, 4)[1].tolist() == [0, 0]
    settings = {"columns.label": "kind.name", "class_names": str(tmp_path / "names.txt")}
    (tmp_path / "names.txt").write_text("b\tbird\na\tbird\n")
    found = evaluation_data(recipe("health", classes=place, **settings), None).classes
    assert found.class_names == ["bird (0)", "bird (1)"] and found.prompts == ["bird", "bird"]
    assert found.batch(0, 4)[1].tolist() == [1, 0, 1, 0]
    (tmp_path / "names.txt").write_text("b\tbird\n")
    with pytest.raises(ValueError, match=r"row 0: label a has no name"):
        evaluation_data(recipe("health", classes=place, **settings), None)


def test_a_class_may_be_called_none_or_minus_one(tmp_path: Path):
    """Only nothing at all and the number -1 are no class."""
    said = ["None", "-1", "cat", None]
    datasets.Dataset.from_list([row(number, label=value) for number, value in enumerate(said)]).to_parquet(
        tmp_path / "val.parquet"
    )
    found = evaluation_data(recipe("health", classes=f"hf:{tmp_path}"), None).classes
    assert found.class_names == ["-1", "None", "cat"] and found.labels == [1, 0, 2, -1]


def test_texts_name_the_classes_of_both_splits_though_one_may_lack_a_class(tmp_path: Path):
    for split, said in (("train", "abcd"), ("val", "dbe")):
        rows = [row(number, label=value) for number, value in enumerate(said)]
        datasets.Dataset.from_list(rows).to_parquet(tmp_path / f"{split}.parquet")
    data = evaluation_data(recipe("knn", classes=f"hf:{tmp_path}"), None)
    assert data.classes.class_names == data.classes_train.class_names == [*"abcde"]
    assert data.classes_train.labels == [0, 1, 2, 3] and data.classes.labels == [3, 1, 4]


def test_the_split_that_is_trained_on_is_not_scored(tmp_path: Path):
    save_parquet(tmp_path / "set")
    settings = {"classes": f"hf:{tmp_path}/set", "split": "train"}
    for task in ("knn", "linear_classification"):
        with pytest.raises(ValueError, match="split=train would score the pictures that are trained on"):
            evaluation_data(recipe(task, **settings), None)
    assert len(evaluation_data(recipe("health", **settings), None).classes) == 4


def test_words_about_tables_and_indices_are_refused_where_they_do_nothing():
    folder, table = recipe("knn", classes="fl").evaluate, recipe("knn", classes="hf:fl").evaluate
    for word in ("split", "columns", "class_names"):
        with pytest.raises(ValueError, match=rf"evaluate\.{word} does nothing in knn .* evaluate\.classes=hf:PLACE"):
            check_words("knn", [f"evaluate.{word}=x"], folder)
        with pytest.raises(ValueError, match=f"{word} does nothing in retrieval"):
            check_words("retrieval", [word], table)
        with pytest.raises(ValueError, match=f"{word} does nothing in depth .* it never reads"):
            check_words("depth", [word], table)
        check_words("knn", [f"evaluate.{word}=x", "evaluate.classes=hf:fl"], table)
    check_words("instance_retrieval", ["index", "instances"], folder)
    check_words("knn", ["classes", "root"], folder)


def test_a_task_hears_nothing_that_it_does_not_read():
    for word in ("index=merged", "templates=tcl", "segmentation=ade20k", "columns.mask=m", "num_images=8", "root=x"):
        heard = word.split("=")[0].split(".")[0] in ("columns", "num_images", "root")
        with nullcontext() if heard else pytest.raises(ValueError, match=r"^evaluate\.\w+ does nothing in knn, which"):
            check_read("knn", [f"evaluate.{word}"])
    check_read("instance_retrieval", ["evaluate.index=merged", "evaluate.instances=uned", "run.device=cpu"])


def captioned(folder: Path) -> None:
    rows = [row(1, texts=["a cat", " ", "cats"], alt="one"), row(2, texts=["a dog"], alt="two")]
    folder.mkdir()
    datasets.Dataset.from_list(rows).to_parquet(folder / "test.parquet")


def test_captions_are_one_text_or_a_list_of_them(tmp_path: Path):
    captioned(tmp_path / "set")
    place = f"hf:{tmp_path}/set"
    data = evaluation_data(recipe("retrieval", segmentation=place, **{"columns.captions": "texts"}), None).captions
    assert isinstance(data[0], CaptionedPictures) and data[0].captions == [["a cat", "cats"], ["a dog"]]
    assert data[0].pixels(0, 2).shape == (2, 3, 32, 32)
    data = evaluation_data(recipe("retrieval", segmentation=place, **{"columns.captions": "alt"}), None).captions
    assert data[1].captions == [["one"], ["two"]]
    (tmp_path / "folder").mkdir()
    for number in (1, 2):
        (tmp_path / "folder" / f"{number}.png").write_bytes(picture_bytes(number))
    lines = [{"file_name": f"{number}.png", "captions": text} for number, text in ((2, "two"), (1, ""))]
    (tmp_path / "folder" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match=r"folder, row 1 has no captions in 'captions'"):
        evaluation_data(recipe("retrieval", segmentation=f"hf:{tmp_path}/folder"), None)
    data = evaluation_data(recipe("retrieval", segmentation=f"hf:{tmp_path}/folder"), 1).captions
    assert data[0].captions == [["two"]]


MASK = np.array([[0, 1, 2], [255, 1, 0]], dtype=np.uint8)
PICTURE = encoded(np.full((2, 3, 3), 100, dtype=np.uint8))


def test_masks_are_pictures_named_by_a_file_or_rows_of_named_numbers(tmp_path: Path):
    as_picture = {"image": {"bytes": PICTURE, "path": None}, "annotation": {"bytes": encoded(MASK), "path": None}}
    features = datasets.Features({"image": datasets.Image(), "annotation": datasets.Image()})
    datasets.Dataset.from_list([as_picture], features=features).to_parquet(tmp_path / "validation.parquet")
    (tmp_path / "names.txt").write_text("0\t\n2\tsky\n1\tsea\n")
    place = {"segmentation": f"hf:{tmp_path}", "columns.mask": "annotation"}
    named = evaluation_data(
        recipe("zero_shot_segmentation", **place, class_names=str(tmp_path / "names.txt")), None
    ).segmentation
    assert isinstance(named, SegmentationSet) and named.class_names == ["sky", "sea"] and len(named) == 1
    pixels, labels = named[0]
    assert labels.tolist() == [[255, 1, 0], [255, 1, 255]] and pixels.shape == (3, 2, 3)
    with pytest.raises(ValueError, match="have no names"):
        evaluation_data(recipe("zero_shot_segmentation", **place), None)
    kind = datasets.List(datasets.List(datasets.ClassLabel(names=["sky", "sea", "sand"])))
    rows = [{"image": {"bytes": PICTURE, "path": None}, "mask": [[0, 1, 2], [-1, 1, 0]]}]
    features = datasets.Features({"image": datasets.Image(), "mask": kind})
    datasets.Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "saved")
    data = evaluation_data(recipe("zero_shot_segmentation", segmentation=f"hf:{tmp_path}/saved"), None).segmentation
    assert data.class_names == ["sky", "sea", "sand"] and data[0][1].tolist() == MASK.tolist()


def test_metadata_may_name_masks_beside_the_pictures(tmp_path: Path):
    for split in ("train", "val"):
        (tmp_path / split / "masks").mkdir(parents=True)
        (tmp_path / split / "1.png").write_bytes(PICTURE)
        (tmp_path / split / "masks" / "1.png").write_bytes(encoded(MASK))
        (tmp_path / split / "metadata.csv").write_text("file_name,mask_file_name\n1.png,masks/1.png\n")
    (tmp_path / "names.txt").write_text("sky\nsea\nsand\n")
    settings = {"segmentation": f"hf:{tmp_path}", "class_names": str(tmp_path / "names.txt")}
    data = evaluation_data(recipe("linear_segmentation", **settings), None)
    assert len(data.segmentation) == len(data.segmentation_train) == 1
    assert data.segmentation[0][1].tolist() == MASK.tolist()
    (tmp_path / "val" / "masks" / "1.png").write_bytes(encoded(MASK[:1]))
    with pytest.raises(ValueError, match=r"row 0: the mask is \(1, 3\) and its picture \(2, 3\)"):
        data.segmentation[0]
    (tmp_path / "val" / "masks" / "1.png").write_bytes(encoded(MASK + 7))
    with pytest.raises(ValueError, match=r"row 0: id 7 is no class"):
        data.segmentation[0]
    (tmp_path / "val" / "masks" / "1.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"the mask of .*row 0 cannot be read"):
        data.segmentation[0]


@pytest.mark.parametrize(
    ("place", "settings", "said"),
    [
        ("set", {"columns.label": "kind"}, "no column 'kind'; the data has image, label: say which is the label with"),
        ("set", {"columns.image": "png"}, r"no column 'png'; the data has image, label.*evaluate\.columns\.image"),
        ("nowhere/cifar10", {}, "there is no .*nowhere/cifar10' here. Names on a hub are not read"),
        ("empty", {}, r"holds no \.parquet, no \.arrow and no picture files"),
        ("broken", {}, "Parquet files cannot be read"),
        ("lost", {}, "cannot be read as a saved data set"),
        ("set", {"class_names": "nowhere.txt"}, r"nowhere\.txt cannot be read"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(place: str, settings: dict[str, str], said: str, tmp_path: Path):
    save_parquet(tmp_path / "set")
    for name, file in (("empty", "notes.md"), ("broken", "val.parquet"), ("lost", "state.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("nothing")
    with pytest.raises(ValueError, match=rf"evaluate\.classes=hf:.*{said}"):
        evaluation_data(recipe("health", classes=f"hf:{tmp_path}/{place}", **settings), None)


def test_a_broken_picture_is_named_by_its_row(tmp_path: Path):
    rows = [row(1, label="a"), {"image": {"bytes": b"nothing", "path": None}, "label": "b"}]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "val.parquet")
    data = evaluation_data(recipe("health", classes=f"hf:{tmp_path}"), None).classes
    with pytest.raises(ValueError, match=r"row 1.*cannot be opened"):
        data.batch(0, 2)


def test_every_task_that_reads_tables_runs_on_them(tmp_path: Path):
    save_parquet(tmp_path / "classes", train=12, scored=6)
    captioned(tmp_path / "captions")
    settings = {"classes": f"hf:{tmp_path}/classes", "columns": "{captions: texts}"}
    scores = evaluate_in_training(know_nothing(), recipe("knn, zero_shot_classification", **settings))
    assert set(scores) >= {"knn/accuracy", "zero_shot_classification/top1"}
    found = recipe("retrieval", segmentation=f"hf:{tmp_path}/captions", columns="{captions: texts}")
    assert "retrieval/image_to_text_r1" in evaluate_in_training(know_nothing(), found)


def test_columns_are_settings_of_the_command_line():
    words = ["columns.label=kind", "evaluate.columns={mask: map}", "class_names=names.txt", "split=test"]
    assert evaluation_words(words) == [f"evaluate.{word.removeprefix('evaluate.')}" for word in words]
    with pytest.raises(ValueError, match="columns"):
        load_recipe("smoke", evaluation_words(["columns.labels=kind"]))
