"""The pages of recipes/distill that expect released files take two steps with files and towers shrunk."""

from pathlib import Path

import pytest
from tiny_data import rows, write_folder, write_tars
from tiny_released import RELEASED
from tiny_runs import losses, train_alone

from distill.config import list_recipes, load_recipe

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
}
FAMILIES = {"distill/tipsv2_vitb": ("tips", "pair"), "distill/clip_mobilenet": ("open_clip", "folder")}


def pictures(name: str, folder: Path) -> list[str]:
    """Settings that name data of the kind the page expects."""
    folder.mkdir()
    if load_recipe(name).data.dataset.format == "imagefolder":
        write_folder(folder, rows(8))
        return [f"data.dataset.path={folder}"]
    write_tars(folder, rows(16), num_shards=2)
    columns = "{image: png, alt: txt, short: json.captions, detailed: json.long}"
    return [f"data.dataset.path={folder}/*.tar", f"data.dataset.columns={columns}"]


def test_every_page_that_expects_released_files_is_tried():
    expecting = {
        name
        for name, _ in list_recipes()
        if name.startswith("distill/") and "weights/" in (load_recipe(name, NEEDED.get(name, [])).teacher.model or "")
    }
    assert expecting == set(TOWERS) == set(FAMILIES)


NEEDED = {"distill/vanilla": ["teacher.checkpoint=run"]}


@pytest.mark.parametrize("name", TOWERS)
def test_two_steps_with_everything_shrunk(name: str, tmp_path: Path):
    family, kind = FAMILIES[name]
    given = RELEASED[family][kind](tmp_path / "released")
    words = [*SMALL, *TOWERS[name], *pictures(name, tmp_path / "data"), f"teacher.model={given.model}"]
    if family == "tips":
        words.append(f"student.text.tokenizer={tmp_path}/released/tokenizer.model")
    recipe = load_recipe(name, [*words, f"run.folder={tmp_path}", "run.name=run"])
    assert train_alone(recipe) == 0
    assert len(losses(tmp_path / "run")) == 2
