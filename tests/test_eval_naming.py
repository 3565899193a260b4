"""What data is called, from the settings that asked for it."""

from pathlib import Path

import pytest

from distill.catalogue.data_sets import DATA_SETS
from distill.eval import TASKS
from distill.eval.command import AGREEMENT
from distill.eval.naming import PLACE_OF, data_in_words, last_part


@pytest.mark.parametrize(
    ("task", "asked", "called"),
    [
        ("knn", {}, "scenes, held out"),
        ("knn", {"classes": None, "segmentation": "ade20k"}, "scenes, held out"),
        ("alignment", {"segmentation": "ade20k"}, "ADE20K"),
        ("retrieval", {"segmentation": "flickr30k"}, "Flickr30k"),
        ("linear_segmentation", {"segmentation": "voc20"}, "PASCAL VOC 2012, 20 classes without background"),
        ("health", {"classes": "/data/of/somebody/flowers5/"}, "folder flowers5"),
        (
            "agreement",
            {"classes": "hf:/data/birds/*/*.parquet", "split": "test"},
            "table birds/*/*.parquet, split test",
        ),
    ],
)
def test_data_is_called_what_people_call_it(task: str, asked: dict, called: str):
    assert data_in_words(task, asked) == called


def test_a_folder_that_is_called_like_a_data_set_is_that_folder(tmp_path: Path, monkeypatch):
    assert data_in_words("knn", {"classes": "imagenet"}) == "ImageNet-1K"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imagenet").mkdir()
    assert data_in_words("knn", {"classes": "imagenet"}) == "folder imagenet"
    monkeypatch.chdir(tmp_path / "imagenet")
    assert data_in_words("knn", {"classes": "."}) == "folder imagenet"


def test_the_last_part_of_a_path_is_no_pattern():
    for path, end in (("/a/b/", "b"), ("b", "b"), ("photos/*.jpg", "photos/*.jpg"), ("/a/b/*/c/*.jpg", "b/*/c/*.jpg")):
        assert last_part(path) == end
    assert last_part("../*.jpg") == "*.jpg" and last_part("/a/train-{000..099}.tar") == "a/train-{000..099}.tar"


def test_every_task_has_its_data():
    assert len(TASKS) > 8 and {*TASKS, AGREEMENT} == PLACE_OF.keys()
    titles = [
        data_in_words(task, {PLACE_OF[task]: name}) for name, data in DATA_SETS.items() for task in data.tasks[:1]
    ]
    assert len({*titles}) == len(DATA_SETS) > 10
