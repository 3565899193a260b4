"""The pages of recipes/distill that expect released files take two steps with files and towers shrunk."""

import json
from pathlib import Path

import pytest
from tiny_data import rows, write_folder, write_tars
from tiny_released import RELEASED
from tiny_runs import losses, train_alone

from distill.config import by_teacher, list_recipes, load_recipe

SMALL = [
    *("precision=fp32", "compile=false", "data.batch_size=4", "optim.steps=2", "run.workers=1", "run.device=cpu"),
    *("run.log_every=1", "evaluate.tasks=[]", "evaluate.segmentation=null", "data.dataset.shuffle_buffer=4"),
]
TOWERS = {
    "distill/tipsv2_vitb": [
        *("data.image_size=56", "data.views.num_local=2", "data.views.local_size=28"),
        *("student.image.width=48", "student.image.depth=2", "student.image.num_heads=3", "student.text.width=48"),
        *("student.text.depth=1", "student.text.num_heads=2", "student.head.num_prototypes=16"),
        *("student.head.hidden=32", "student.head.bottleneck=16"),
    ],
    "distill/clip_mobilenet": ["data.image_size=64", "student.image.model=timm:mobilenetv3_small_050"],
    "distill/siglip2_dinov3_vits": [
        *("data.image_size=48", "student.image.width=48", "student.image.depth=10", "student.image.num_heads=3"),
        *("student.text.width=32", "student.text.depth=1", "student.text.num_heads=2"),
    ],
}
TEACHERS = {
    "distill/tipsv2_vitb": {"teacher": ("tips", "pair")},
    "distill/clip_mobilenet": {"teacher": ("open_clip", "folder")},
    "distill/siglip2_dinov3_vits": {
        "teacher.members.siglip2": ("open_clip", "folder"),
        "teacher.members.dinov3": ("timm", "class token"),
    },
}
"""For every page the teachers' sections, and what is written for each."""


def pictures(name: str, folder: Path, samples: list[dict]) -> list[str]:
    """Settings that name data of the kind the page expects."""
    folder.mkdir()
    if load_recipe(name).data.dataset.format == "imagefolder":
        write_folder(folder, samples)
        return [f"data.dataset.path={folder}"]
    write_tars(folder, samples, num_shards=2)
    captions = ", short: json.captions, detailed: json.long" if load_recipe(name).data.dataset.columns.short else ""
    columns = f"{{image: png, alt: txt{captions}}}"
    return [f"data.dataset.path={folder}/*.tar", f"data.dataset.columns={columns}"]


def test_every_page_that_expects_released_files_is_tried():
    expecting = {
        name
        for name, _ in list_recipes()
        if name.startswith("distill/") and any("weights/" in f"{model}" for model in models_of(name))
    }
    assert expecting == set(TOWERS) == set(TEACHERS)


def models_of(name: str) -> list[str | None]:
    return [alone.teacher.model for alone in by_teacher(load_recipe(name, NEEDED.get(name, []))).values()]


NEEDED = {"distill/vanilla": ["teacher.checkpoint=run"]}


def photos(folder: Path) -> list[dict]:
    """Real pictures with their captions, as `rows` has made-up ones."""
    captions = json.loads((folder / "captions_val.json").read_text())
    return [
        {
            "image": {"bytes": (folder / "images" / "val" / file).read_bytes(), "path": file},
            "web": texts[0],
            "captions": texts,
            "long": " ".join(texts),
        }
        for file, texts in list(captions.items())[:16]
    ]


@pytest.mark.parametrize("name", TOWERS)
def test_two_steps_with_everything_shrunk(name: str, tmp_path: Path):
    check_two_steps(name, tmp_path, rows(16))


@pytest.mark.real_data
@pytest.mark.parametrize("name", TOWERS)
def test_two_steps_on_real_photos_with_the_towers_shrunk(name: str, tmp_path: Path, shared_data: Path):
    check_two_steps(name, tmp_path, photos(shared_data / "coco_panoptic"))


def check_two_steps(name: str, tmp_path: Path, samples: list[dict]):
    words = [*SMALL, *TOWERS[name], *pictures(name, tmp_path / "data", samples)]
    for section, (family, kind) in TEACHERS[name].items():
        given = RELEASED[family][kind](tmp_path / family)
        words += [f"{section}.model={given.model}"]
        words += [f"{section}.weights={given.weights}"] if given.weights else []
        if family == "tips":
            words.append(f"student.text.tokenizer={tmp_path}/tips/tokenizer.model")
    recipe = load_recipe(name, [*words, f"run.folder={tmp_path}", "run.name=run"])
    assert train_alone(recipe) == 0
    assert len(losses(tmp_path / "run")) == 2
