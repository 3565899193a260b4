"""What is measured of a finished run, what every picture leaves behind, and when a measurement is still right."""

import json
import shutil
import stat
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_runs import tiny, trained

from distill.config import Recipe, load_recipe
from distill.data.scenes import SceneWorld
from distill.encoders.dual import build_dual
from distill.eval import TaskResult, registry
from distill.eval.prompts import class_embeddings
from distill.eval.tasks.linear_segmentation import LinearSettings
from distill.study import measure as measuring
from distill.study.measure import FORMAT, measure, measure_run, measurements, measuring_fingerprint, write_pictures
from distill.trained import load_trained

SEGMENTATIONS = ("zero_shot_segmentation/value", "zero_shot_segmentation/final", "linear_segmentation")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps, measured on 16 pictures; not to be changed."""
    folder = trained(tmp_path_factory.mktemp("runs") / "run", "optim.steps=3", "evaluate.num_images=8")
    measure_run(folder)
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> dict:
    return json.loads((run / "scores.json").read_text(), parse_constant=pytest.fail)


@pytest.fixture(scope="module")
def pictures(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "pictures.safetensors")


def recipe_with(*overrides: str) -> Recipe:
    return load_recipe("smoke", list(overrides))


def test_measured_scores_are_shares_and_json_can_hold_them(run, page):
    assert page["format"] == FORMAT == 2
    assert page["num_images"] == 16  # twice evaluate.num_images
    assert all(score is None or 0 <= score <= 1 for score in page["scores"].values())
    assert set(page["per_class"]) == set(SEGMENTATIONS)
    recipe = load_trained(run).recipe
    names = SceneWorld(recipe.data.scenes, recipe.data.image_size).class_names
    assert list(page["per_class"]["linear_segmentation"]) == names


def test_measuring_again_gives_what_the_file_says_and_the_features_differ(run, page):
    again = measure(run)
    assert set(again) == set(page)
    for key in set(page) - {"seconds", "environment"}:
        assert again[key] == page[key], key
    value, final = (page["scores"][f"zero_shot_segmentation/{kind}/pixel_accuracy"] for kind in ("value", "final"))
    assert value != final


def test_every_segmentation_score_follows_from_the_pictures(page, pictures):
    for task in SEGMENTATIONS:
        scores = {name.removeprefix(f"{task}/"): value for name, value in page["scores"].items()}
        names = list(page["per_class"][task])
        hits, union = (pictures[f"{task}/{name}"].sum(0).double() for name in ("intersection", "union"))
        assert pictures[f"{task}/union"].shape == (16, len(names))
        known = union > 0
        assert (hits / union)[known].mean().item() == pytest.approx(scores["miou"], abs=1e-15)  # an order of adding
        for name, iou, occurs in zip(names, (hits / union).tolist(), known, strict=True):
            assert page["per_class"][task][name] == (iou if occurs else None)
        correct, labelled = (pictures[f"{task}/{name}"].sum().item() for name in ("correct", "labelled"))
        assert correct / labelled == scores["pixel_accuracy"]


def test_every_other_score_follows_from_the_pictures(page, pictures):
    for kind in ("value", "final"):
        task = f"zero_shot_segmentation/{kind}"
        right, labelled = (pictures[f"{task}/patches_{name}"].sum().item() for name in ("right", "labelled"))
        assert right / labelled == page["scores"][f"{task}/patch_accuracy"]
    recalls = [name for name in page["scores"] if name.startswith("retrieval/")]
    assert len(recalls) == 12
    for name in recalls:
        cls = "cls1_" if "/cls1_" in name else ""
        weight = pictures[f"retrieval/{cls}num_captions"].double()
        weighted = (
            (pictures[name] * weight).sum() / weight.sum() if "text_to_image" in name else pictures[name].double()
        )
        assert weighted.mean().item() == pytest.approx(page["scores"][name], abs=1e-12)


def test_patches_are_counted_as_one_would_patch_by_patch(run, pictures):
    trained_run = load_trained(run)
    encoder, recipe = trained_run.encoder.eval(), trained_run.recipe
    world = SceneWorld(recipe.data.scenes, recipe.data.image_size)
    drawn, side = world.render(torch.arange(16), "heldout"), encoder.image.patch_size
    names_KD = class_embeddings(encoder, world.class_names, templates="plain")
    with torch.no_grad():
        found = encoder.image.values(drawn.pixels)
    rows, columns = found.grid
    right = torch.zeros(16)
    for image in range(16):
        for row in range(rows):
            for column in range(columns):
                patch = drawn.mask[image, row * side : (row + 1) * side, column * side : (column + 1) * side]
                truth = max(range(len(names_KD)), key=lambda k, p=patch: (p == k).sum().item())
                features = found.patches[image, row * columns + column]
                said = torch.nn.functional.cosine_similarity(names_KD, features[None]).argmax().item()
                right[image] += said == truth
    # An ulp may decide a patch between two equally close names.
    assert (pictures["zero_shot_segmentation/value/patches_right"] - right).abs().sum() <= 1
    assert len(right.unique()) > 1
    assert pictures["zero_shot_segmentation/value/patches_labelled"].tolist() == [rows * columns] * 16


def test_the_two_files_name_the_same_measurement_and_leave_nothing_else(run, page):
    with safe_open(run / "pictures.safetensors", framework="pt") as file:
        assert file.metadata() == {"measured": page["measured"]}
    assert not list(run.glob(".*"))
    assert stat.S_IMODE((run / "pictures.safetensors").stat().st_mode) == 0o644


def test_whole_numbers_are_written_in_few_bytes_and_stay_what_they_are(tmp_path):
    counts = {f"to_{top}": torch.tensor([0, top], dtype=torch.int32) for top in (255, 256, 2**15 - 1, 2**15)}
    per_picture = counts | {"share": torch.tensor([0.5, 1 / 3]), "row": torch.arange(6).int().view(2, 3).T}
    result = TaskResult(values={}, per_class={}, per_picture=per_picture, settings={}, num_images=2)
    write_pictures(tmp_path / "pictures.safetensors", {"task/kind": result}, measured="0" * 16)
    found = load_file(tmp_path / "pictures.safetensors")
    assert set(found) == {f"task/kind/{name}" for name in per_picture}
    for name, values in per_picture.items():
        torch.testing.assert_close(found[f"task/kind/{name}"], values, rtol=0, atol=0, check_dtype=False)
    kinds = [found[f"task/kind/{name}"].dtype for name in [*counts, "share"]]
    assert kinds == [torch.uint8, torch.int16, torch.int16, torch.int32, torch.float32]


def test_a_measurement_that_breaks_off_leaves_the_old_files_whole(run, page, monkeypatch):
    before = {name: (run / name).read_bytes() for name in ("pictures.safetensors", "scores.json")}

    def half(tensors: dict, path: Path, metadata: dict) -> None:
        path.write_bytes(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(measuring, "save_file", half)
    with pytest.raises(OSError, match="disk is full"):
        measure_run(run, num_images=4)
    assert {name: (run / name).read_bytes() for name in before} == before
    assert not list(run.glob("*unfinished*")) and not list(run.glob(".*unfinished*"))


def test_without_a_text_tower_only_the_probe_is_measured():
    recipe = recipe_with("student.text.kind=none", "objective.contrastive.weight=0", "evaluate.tasks=[]")
    found = measurements(build_dual(recipe.student, recipe.data.image_size), recipe, 4)
    assert set(found) == {"linear_segmentation"}
    assert measuring_fingerprint(recipe) != measuring_fingerprint(recipe_with())


def test_the_fingerprint_is_known_before_anything_is_measured(run, page):
    recipe = tiny(run, "optim.steps=3", "evaluate.num_images=8")
    assert measuring_fingerprint(recipe) == page["measured"]
    assert measuring_fingerprint(recipe, 16) == page["measured"]
    assert int(page["measured"], 16) >= 0 and len(page["measured"]) == 16


def test_a_run_can_be_measured_anew_in_another_way_without_training(run, page, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    wanted = tiny(run, "optim.steps=3", "evaluate.num_images=3", "evaluate.templates=tcl")
    measure_run(copy, wanted)
    found = json.loads((copy / "scores.json").read_text())
    assert found["measured"] == measuring_fingerprint(wanted) != page["measured"]
    assert found["num_images"] == 6
    assert found["settings"]["zero_shot_segmentation/value"]["templates"] == "tcl"
    assert len(load_file(copy / "pictures.safetensors")["linear_segmentation/union"]) == 6


@pytest.mark.parametrize(
    "override",
    [
        "evaluate.templates=tcl",
        "evaluate.mode=slide",
        "evaluate.probe=linear",
        "evaluate.precision=bf16",
        "evaluate.background=threshold",
        "evaluate.background_score=0.5",
        "evaluate.num_images=9",
        "evaluate.segmentation=a_folder",
        "evaluate.segmentation=hf:a_folder",
        "data.image_size=40",
        "data.scenes.tier=hard",
        "data.scenes.split=compositional",
        "data.scenes.world_seed=1",
        "data.scenes.num_train=5",
        "student.image.num_cls=1",
    ],
)
def test_everything_that_decides_what_is_measured_alone_changes_the_fingerprint(override):
    assert measuring_fingerprint(recipe_with(override)) != measuring_fingerprint(recipe_with())


@pytest.mark.parametrize(
    "override",
    [
        "seed=3",
        "optim.lr=0.5",
        "masking.ratio=0.5",
        "data.batch_size=4",
        "data.scenes.num_train=5000",
        "data.scenes.cache=somewhere",
        "evaluate.features=final",
        "evaluate.every=2",
        "run.device=cpu",
    ],
)
def test_how_a_run_was_trained_leaves_the_fingerprint_alone(override):
    assert measuring_fingerprint(recipe_with(override)) == measuring_fingerprint(recipe_with())


def test_two_folders_are_two_measurements_and_their_scenes_do_not_matter():
    first, second, moved = (
        measuring_fingerprint(recipe_with(f"evaluate.segmentation={name}", *more))
        for name, more in (("a", []), ("b", []), ("a", ["data.scenes.world_seed=1"]))
    )
    assert first != second
    assert first == moved


def test_what_is_trained_or_where_folders_lie_is_another_measurement():
    asked = (
        ["evaluate.probe_steps=50"],
        ["evaluate.probe=linear"],
        ["evaluate.probe=linear", "evaluate.probe_steps=50"],
    )
    plain, trained, shorter = (measuring_fingerprint(recipe_with(*words)) for words in asked)
    assert plain == measuring_fingerprint(recipe_with()) and trained != shorter
    first, second = (
        measuring_fingerprint(recipe_with("evaluate.segmentation=ade20k", f"evaluate.root={root}")) for root in "ab"
    )
    assert first != second
    of_a_folder = [["evaluate.segmentation=some/folder", *more] for more in ([], ["evaluate.root=elsewhere"])]
    unread, also_unread = (measuring_fingerprint(recipe_with(*words)) for words in of_a_folder)
    assert unread == also_unread


def test_how_a_table_is_read_counts_only_where_one_is_read():
    columns = "evaluate.columns.mask=annotation"
    first, second = (
        measuring_fingerprint(recipe_with("evaluate.segmentation=hf:a", *more)) for more in ([], [columns])
    )
    assert first != second
    assert measuring_fingerprint(recipe_with(columns)) == measuring_fingerprint(recipe_with())


def test_what_was_measured_before_there_were_windows_for_linear_probes_is_still_what_is_asked_for():
    assert measuring_fingerprint(Recipe()) == "3b1c217501f41fcf"


def test_a_task_or_a_format_that_changes_in_the_code_changes_the_fingerprint(monkeypatch):
    before = measuring_fingerprint(recipe_with())
    with monkeypatch.context() as changed:
        changed.setattr(registry, "LinearSettings", partial(LinearSettings, batch_size=7))
        assert measuring_fingerprint(recipe_with()) == before  # memory, not results
        changed.setattr(registry, "LinearSettings", partial(LinearSettings, ridge=1.0))
        assert measuring_fingerprint(recipe_with()) != before
    monkeypatch.setattr(measuring, "FORMAT", FORMAT + 1)
    assert measuring_fingerprint(recipe_with()) != before


def test_the_fingerprint_needs_no_weights_and_no_folder(tmp_path):
    recipe = replace(recipe_with(f"evaluate.segmentation={tmp_path / 'not there'}"), name="not trained")
    assert len(measuring_fingerprint(recipe)) == 16
