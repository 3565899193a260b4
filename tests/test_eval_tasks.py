"""Tasks as users meet them: from a recipe and folders of pictures, in training, and by `distill eval`."""

import dataclasses
import json
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from oracles import know_nothing
from PIL import Image

from distill import __version__
from distill.config import Evaluate, ImageTower, Recipe, Scenes, Student, TextTower, save_recipe
from distill.config.data import Data, Dataset
from distill.data.scenes import SceneWorld
from distill.encoders.dual import build_dual
from distill.eval import TASKS, evaluation_data
from distill.eval.command import evaluate_checkpoint, load_encoder
from distill.eval.in_training import evaluate_in_training, measuring, run_task
from distill.eval.metrics import is_error
from distill.eval.pictures.datasets import (
    ClassFolder,
    FolderCaptions,
    FolderSegmentation,
    SceneClasses,
    SceneMasks,
    largest_thing,
    spread,
)
from distill.eval.tasks import knn
from distill.eval.tasks.knn import KnnSettings
from distill.train import checkpoint
from distill.train.checkpoint import find

TINY = Recipe(
    student=Student(
        image=ImageTower(patch_size=8, width=32, depth=2, num_heads=2),
        text=TextTower(width=16, depth=1, num_heads=2, context_length=32),
    ),
    data=Data(image_size=32),
    evaluate=Evaluate(tasks=tuple(TASKS), num_images=12),
)


def asking(recipe: Recipe = TINY, **changes) -> Recipe:
    return dataclasses.replace(recipe, evaluate=dataclasses.replace(recipe.evaluate, **changes))


@pytest.fixture(scope="module")
def tiny_encoder():
    torch.manual_seed(0)
    return build_dual(TINY.student, TINY.data.image_size)


@pytest.fixture
def masks_folder(tmp_path):
    """Two classes of stuff around one thing in file order, so that labels and ids differ; pictures of two sizes."""
    classes = [
        {"id": 7, "name": "sky-merged", "prompt": "sky", "isthing": 0},
        {"id": 3, "name": "dog", "prompt": "dog", "isthing": 1},
        {"id": 200, "name": "grass-merged", "prompt": "grass", "isthing": 0},
    ]
    (tmp_path / "classes.json").write_text(json.dumps({"ignore": 0, "classes": classes}))
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / kind / split).mkdir(parents=True)
        for number, size in enumerate([(40, 56), (40, 56), (48, 33), (40, 56)]):
            ids = draw.choice([0, 3, 7, 200], size).astype(np.uint8)
            Image.fromarray(ids).save(tmp_path / "masks" / split / f"{number}.png")
            picture = draw.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / "images" / split / f"{number}.jpg")
        captions = {f"{number}.jpg": [f"picture {number}", f"again {number}"] for number in range(4)}
        (tmp_path / f"captions_{split}.json").write_text(json.dumps(captions))
    return tmp_path


@pytest.fixture
def classes_folder(tmp_path):
    """Red and blue pictures: any encoder tells them apart."""
    for split, count in (("train", 6), ("val", 3)):
        for name, colour in (("red", (200, 20, 20)), ("blue", (20, 20, 200))):
            folder = tmp_path / "classes" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                shade = np.clip(np.array(colour) + 8 * number - 20, 0, 255).astype(np.uint8)
                Image.fromarray(np.tile(shade, (30, 24, 1))).save(folder / f"{number}.png")
    return tmp_path / "classes"


def test_the_registry_holds_exactly_the_tasks_a_recipe_can_ask_for():
    known = get_args(get_args(get_type_hints(Evaluate)["tasks"])[0])
    assert len(TASKS) == 12
    assert set(TASKS) == set(known)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_measures_the_procedural_world(task, tiny_encoder):
    scores = evaluate_in_training(tiny_encoder, TINY, 12, (task,))
    assert scores
    for name, value in scores.items():
        assert name.startswith(f"{task}/")
        assert 0 <= value <= (180 if is_error(name) else 1) or np.isnan(value)
    assert evaluate_in_training(tiny_encoder, TINY, 12, (task,)) == pytest.approx(scores, nan_ok=True)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_says_what_each_picture_contributed(task, tiny_encoder):
    found = run_task(tiny_encoder, task, data=evaluation_data(TINY, 12), recipe=TINY)
    assert found.per_picture
    for name, values in found.per_picture.items():
        assert len(values) == found.num_images, name
        assert values.device.type == "cpu", name
    if task == "retrieval":
        for name in ("image_to_text_r1", "text_to_image_r5", "cls1_image_to_text_r1", "cls1_text_to_image_r5"):
            assert found.per_picture[name].double().mean().item() == pytest.approx(found.values[name], abs=1e-12)


def test_scores_come_in_the_order_of_the_tasks_with_each_headline_first(tiny_encoder):
    scores = list(evaluate_in_training(tiny_encoder, TINY, 8, ("knn", "zero_shot_segmentation", "retrieval")))
    assert scores[0] == "knn/accuracy"
    firsts = [name for place, name in enumerate(scores) if name.split("/")[0] not in str(scores[:place])]
    assert firsts == ["knn/accuracy", "zero_shot_segmentation/miou", "retrieval/image_to_text_r1"]
    assert "retrieval/cls1_text_to_image_r5" in scores


def test_evaluation_leaves_modes_gradients_weights_and_random_numbers_alone(tiny_encoder):
    tiny_encoder.train()
    tiny_encoder.text.eval()
    before = {name: value.clone() for name, value in tiny_encoder.state_dict().items()}
    modes = [module.training for module in tiny_encoder.modules()]
    state = torch.get_rng_state()
    evaluate_in_training(tiny_encoder, asking(num_images=8))
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in tiny_encoder.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in tiny_encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in tiny_encoder.parameters())


def test_modes_come_back_even_after_an_error():
    module = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(2, 2).eval())
    with pytest.raises(RuntimeError), measuring(module):
        assert not module[0].training
        raise RuntimeError
    assert module.training and module[0].training and not module[1].training


@pytest.mark.parametrize("change", [{"templates": "tcl"}, {"features": "final"}, {"num_images": 9}])
def test_a_recipe_s_settings_reach_zero_shot_segmentation(change, tiny_encoder):
    tasks = ("zero_shot_segmentation",)
    before = evaluate_in_training(tiny_encoder, TINY, tasks=tasks)
    assert evaluate_in_training(tiny_encoder, asking(**change), tasks=tasks) != before


@pytest.mark.parametrize(
    "change",
    [
        {"tasks": ("zero_shot_segmentation",)},
        {"tasks": ("linear_segmentation",)},
        {"tasks": ("linear_segmentation",), "probe": "linear", "probe_steps": 2},
    ],
)
def test_sliding_reaches_every_kind_of_segmentation(change, masks_folder, tiny_encoder):
    recipe = asking(segmentation=str(masks_folder), **change)
    assert evaluate_in_training(tiny_encoder, recipe) != evaluate_in_training(
        tiny_encoder, asking(recipe, mode="slide")
    )


def test_a_folder_s_ids_become_labels_with_things_first(masks_folder):
    data = FolderSegmentation(masks_folder, "val")
    assert data.class_names == ["dog", "sky", "grass"]
    assert data.num_things == 1
    assert len(data) == 4
    pixels, labels = data[2]
    assert pixels.shape == (3, 48, 33) and pixels.dtype == torch.float32 and pixels.min() >= 0 and pixels.max() <= 1
    ids = np.array(Image.open(masks_folder / "masks/val/2.png"))
    for number, label in ((0, 255), (3, 0), (7, 1), (200, 2)):
        assert (labels.numpy()[ids == number] == label).all()


def test_a_folder_can_be_read_smaller(masks_folder):
    pixels, labels = FolderSegmentation(masks_folder, "val", short_side=20)[2]
    assert pixels.shape == (3, 29, 20) and labels.shape == (29, 20)
    assert set(labels.unique().tolist()) <= {0, 1, 2, 255}


def test_folders_that_do_not_fit_are_refused_with_a_reason(masks_folder, tmp_path):
    with pytest.raises(ValueError, match="masks"):
        FolderSegmentation(masks_folder, "test")
    Image.fromarray(np.full((40, 56), 9, dtype=np.uint8)).save(masks_folder / "masks/val/0.png")
    with pytest.raises(ValueError, match="id 9 is not in"):
        FolderSegmentation(masks_folder, "val")[0]
    Image.fromarray(np.full((4, 5), 3, dtype=np.uint8)).save(masks_folder / "masks/val/1.png")
    with pytest.raises(ValueError, match=r"\(4, 5\)"):
        FolderSegmentation(masks_folder, "val")[1]
    (masks_folder / "images/val/2.jpg").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"2\.jpg"):
        FolderSegmentation(masks_folder, "val")[2]
    (masks_folder / "classes.json").write_text("[]")
    with pytest.raises(ValueError, match="expected"):
        FolderSegmentation(masks_folder, "val")
    with pytest.raises(ValueError, match="holds no CLASS"):
        ClassFolder(tmp_path, "absent", image_size=8)


@pytest.mark.parametrize("task", ["zero_shot_segmentation", "linear_segmentation", "retrieval"])
def test_folders_serve_their_tasks(task, masks_folder, tiny_encoder):
    recipe = asking(segmentation=str(masks_folder), tasks=(task,))
    recipe = dataclasses.replace(recipe, data=Data(image_size=32, source="dataset", dataset=Dataset(path="unused")))
    scores = evaluate_in_training(tiny_encoder, recipe)
    assert next(iter(scores.values())) >= 0


def test_captions_of_a_folder_come_with_their_pictures(masks_folder):
    data = FolderCaptions(masks_folder, "val", image_size=16, limit=2)
    assert data.captions == [["picture 0", "again 0"], ["picture 2", "again 2"]]
    assert data.pixels(0, 2).shape == (2, 3, 16, 16)


@pytest.mark.parametrize("pooled", ["cls", "patch_mean", "both"])
def test_neighbours_tell_red_from_blue_pictures(pooled, classes_folder):
    train, val = (ClassFolder(classes_folder, split, image_size=14) for split in ("train", "val"))
    assert train.class_names == ["blue", "red"] and len(train) == 12 and len(val) == 6
    found = knn.evaluate(know_nothing(), train, val, KnnSettings(pooled=pooled))
    assert found.values == {"accuracy": 1.0, "class_accuracy": 1.0}
    assert found.per_class == {"blue": 1.0, "red": 1.0}


def test_pooling_chooses_the_features(classes_folder):
    data = ClassFolder(classes_folder, "val", image_size=14)
    cls, mean, both = (
        knn.pooled_features(know_nothing().image, data, KnnSettings(pooled=pooled))[0]
        for pooled in ("cls", "patch_mean", "both")
    )
    torch.testing.assert_close(both, torch.cat([cls, mean], dim=1) / 2**0.5)


def test_a_limit_takes_pictures_from_every_class(classes_folder):
    data = ClassFolder(classes_folder, "train", image_size=8, limit=4)
    assert sorted(data.batch(0, 4)[1].tolist()) == [0, 0, 1, 1]
    assert spread(10, 3) == [0, 3, 6] and spread(3, 10) == [0, 1, 2] and spread(3, None) == [0, 1, 2]


def test_a_scene_belongs_to_the_thing_that_covers_most_of_it():
    masks = torch.tensor([[[0, 1, 1], [5, 5, 5]], [[5, 5, 5], [5, 5, 5]], [[2, 0, 5], [5, 5, 5]]])
    assert largest_thing(masks, num_things=3).tolist() == [1, -1, 0]
    world = SceneWorld(Scenes(), 32)
    pixels, labels = SceneClasses(world, "heldout", 6).batch(0, 6)
    drawn_pixels, drawn_masks = SceneMasks(world, "heldout", 6).batch(0, 6)
    assert torch.equal(pixels, drawn_pixels)
    assert torch.equal(labels, largest_thing(drawn_masks, num_things=world.num_things))


def test_pictures_without_a_class_are_left_out():
    class Sometimes:
        class_names = ("a", "b")
        ignore = -1

        def __len__(self) -> int:
            return 4

        def batch(self, start: int, stop: int):
            return torch.rand(4, 3, 14, 14)[start:stop], torch.tensor([0, -1, 1, -1])[start:stop]

    features, labels = knn.pooled_features(know_nothing().image, Sometimes(), KnnSettings(batch_size=3))
    assert labels.tolist() == [0, 1] and len(features) == 2


def test_the_probe_is_fitted_on_pictures_that_are_not_scored():
    data = evaluation_data(TINY, 4)
    assert not torch.equal(data.segmentation[0][0], data.segmentation_train[0][0])


def test_a_task_without_data_says_which_setting_brings_it():
    recipe = dataclasses.replace(TINY, data=Data(source="dataset", dataset=Dataset(path="somewhere")))
    for task, key in (
        *(("retrieval", "segmentation"), ("linear_segmentation", "segmentation"), ("knn", "classes")),
        *(("health", "classes"), ("compositional_pairs", "pairs"), ("instance_retrieval", "instances")),
        *(("depth", "geometry"), ("normals", "geometry")),
    ):
        with pytest.raises(ValueError, match=rf"evaluate\.{key}=FOLDER"):
            evaluation_data(asking(recipe, tasks=(task,)), 4)
    with pytest.raises(ValueError, match=r"evaluate\.classes=nowhere"):
        evaluation_data(asking(classes="nowhere", tasks=("knn",)), 4)


def written(folder, step, recipe, **parts):
    """A checkpoint of these parts, sealed."""
    for name, tensors in {"objective": {}, **parts}.items():
        checkpoint.write_part(folder, step, name, tensors)
    save_recipe(recipe, checkpoint.unfinished_folder(folder, step) / "recipe.yaml")
    checkpoint.publish(folder, step)


@pytest.fixture
def run(tmp_path, tiny_encoder):
    """A run folder with one checkpoint whose teacher has another image tower than the student."""
    folder = tmp_path / "run"
    student = {f"encoder.{name}": value for name, value in tiny_encoder.state_dict().items()}
    teacher = {f"image.{name}": value + 0.1 for name, value in tiny_encoder.image.state_dict().items()}
    written(folder, 7, TINY, student=student, teacher=teacher | {"heads.weight": torch.zeros(2)})
    return folder


def test_the_student_loads_from_a_run_and_from_a_checkpoint_folder(run, tiny_encoder):
    for path in (run, run / "checkpoints" / "step_00000007"):
        encoder, recipe = load_encoder(path)
        assert recipe == dataclasses.replace(TINY, name=recipe.name)
        assert not encoder.training
        for name, value in tiny_encoder.state_dict().items():
            assert torch.equal(encoder.state_dict()[name], value)


def test_the_teacher_is_its_image_tower_beside_the_student_s_text(run, tiny_encoder):
    encoder, _ = load_encoder(run, "teacher")
    name = "image.mask_token"
    torch.testing.assert_close(encoder.state_dict()[name], tiny_encoder.state_dict()[name] + 0.1)
    for name, value in tiny_encoder.text.state_dict().items():
        assert torch.equal(encoder.text.state_dict()[name], value)


def test_a_teacher_that_was_not_kept_and_weights_that_do_not_fit_are_refused(run, tiny_encoder):
    folder = run.with_name("bare")
    student = {f"encoder.{name}": value for name, value in tiny_encoder.state_dict().items()}
    written(folder, 1, TINY, student=dict(list(student.items())[3:]))
    with pytest.raises(ValueError, match="does not fit the model: missing"):
        load_encoder(folder)
    written(folder, 2, TINY, student=student)
    with pytest.raises(ValueError, match="side=teacher"):
        load_encoder(folder, "teacher")


def test_the_command_prints_a_table_and_writes_the_result_with_its_settings(run, capsys):
    assert evaluate_checkpoint(run, "zero_shot_segmentation", ["templates=tcl", "evaluate.num_images=5"]) == 0
    assert "miou" in capsys.readouterr().out
    page = json.loads((run / "eval" / "zero_shot_segmentation.json").read_text())
    assert page["data_set"] == "scenes, held out" and page["distill"] == __version__
    assert page["data"] == {"segmentation": {"num_images": 5, "sha256": page["data"]["segmentation"]["sha256"]}}
    assert page["step"] == 7 and page["side"] == "student" and page["num_images"] == 5
    assert page["settings"]["templates"] == "tcl"
    assert page["settings"]["window"] == 32 and page["settings"]["stride"] == 24
    expected = evaluate_in_training(load_encoder(run)[0], asking(templates="tcl"), 5, ("zero_shot_segmentation",))
    assert page["values"]["miou"] == pytest.approx(expected["zero_shot_segmentation/miou"], abs=1e-12)
    assert list((run / "eval").iterdir()) == [run / "eval" / "zero_shot_segmentation.json"]


def test_alarms_stand_below_the_table_and_in_the_file(run, capsys):
    evaluate_checkpoint(run, "health", ["num_images=5"])
    notes = json.loads((run / "eval" / "health.json").read_text())["notes"]
    assert notes[0].startswith("effective rank of the patch features")
    assert notes[0] in capsys.readouterr().out


def test_the_teacher_s_scores_lie_beside_the_student_s(run):
    for side in ("student", "teacher"):
        evaluate_checkpoint(run, "knn", [f"side={side}"])
    student, teacher = (json.loads((run / "eval" / name).read_text()) for name in ("knn.json", "knn.teacher.json"))
    assert (student["side"], teacher["side"]) == ("student", "teacher")
    assert student["num_images"] == 12


def test_the_command_measures_folders_whole_unless_told_otherwise(run, masks_folder):
    recipe = asking(segmentation=str(masks_folder), num_images=2)
    written(run, 8, recipe, student=find(run).tensors("student"))
    for words, count in (([], 4), (["num_images=3"], 3)):
        evaluate_checkpoint(run, "retrieval", words)
        assert json.loads((run / "eval" / "retrieval.json").read_text())["num_images"] == count


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["side=both"], "expected one of student, teacher, untrained"),
        (["optim.lr=1"], "no setting of an evaluation"),
        (["every=3"], "setting of training"),
        (["baselines=true"], "setting of training"),
        (["templates"], "no setting of an evaluation"),
        (["templates=clip"], "templates"),
    ],
)
def test_words_that_mean_nothing_are_refused(words, message, run):
    with pytest.raises(ValueError, match=message):
        evaluate_checkpoint(run, "knn", words)


def test_an_unknown_task_lists_the_known_ones(run, tiny_encoder):
    with pytest.raises(ValueError, match="zero_shot_segmentation, linear_segmentation, retrieval, knn"):
        evaluate_checkpoint(run, "breadth")


@pytest.mark.real_data
def test_real_photos_with_masks_captions_and_classes_can_be_measured(shared_data, tiny_encoder):
    folders = {"segmentation": "coco_panoptic", "classes": "flowers5", "pairs": "sugarcrepe_subset"}
    folders |= {"geometry": "depth_samples"}
    recipe = asking(**{key: str(shared_data / name) for key, name in folders.items()})
    scores = evaluate_in_training(tiny_encoder, recipe, 8)
    assert {name.split("/")[0] for name in scores} == set(TASKS)
    assert len(FolderSegmentation(shared_data / "coco_panoptic", "val").class_names) == 133
    assert FolderSegmentation(shared_data / "coco_panoptic", "val").num_things == 80
