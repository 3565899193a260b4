"""What a card says of measurements: in the field's words, side by side only where they compare, valid for the hub."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, metadata_load
from test_card import FEATURES, ONE_STEP, card_of, section
from tiny_runs import trained

from distill import __version__, cli
from distill.eval import TASKS
from distill.eval.command import AGREEMENT
from distill.publish.card.measured import HUB_TASKS, Measured, differing, measured
from distill.publish.card.words import TASK_WORDS, settings_in_words, shown, value_words, with_unit
from distill.train.checkpoint import find

FEW = 12
PAGE = f"title: few\nevaluate: {{num_images: {FEW}}}\nmeasures: {{near: {{task: knn}}, far: {{task: health}}}}\n"


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("once") / "captions", *ONE_STEP)


@pytest.fixture
def run(trained_once: Path, tmp_path: Path) -> Path:
    """Of one step, with captions and a momentum teacher; a copy that may be measured."""
    return shutil.copytree(trained_once, tmp_path / "captions")


@pytest.fixture
def suite(tmp_path: Path) -> str:
    (tmp_path / "few.yaml").write_text(PAGE)
    return str(tmp_path / "few.yaml")


def evaluated(run: Path, *words: str) -> None:
    assert cli.main(["eval", str(run), *words]) == 0


def found_in(run: Path, side: str = "student") -> list[Measured]:
    checkpoint = find(run)
    return measured(checkpoint.folder, step=checkpoint.step, side=side)


def edited(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def written(run: Path, *pages: dict[str, Any]) -> None:
    (run / "eval").mkdir(exist_ok=True)
    for page in pages:
        name = page["task"] if page["side"] == "student" else f"{page['task']}.{page['side']}"
        (run / "eval" / f"{name}.json").write_text(json.dumps(page))


def page_of(task: str, values: dict[str, float | None], **more: Any) -> dict[str, Any]:
    """As an earlier version wrote it: without fingerprints, the data's name and the version."""
    page = {"format": 1, "task": task, "side": "student", "step": 1, "num_images": 2000, "values": values}
    return page | {"per_class": {}, "notes": [], "settings": {}, "evaluate": {}} | more


def test_results_of_eval_stand_in_the_card_with_their_settings(run: Path, tmp_path: Path):
    _, text = card_of(run, tmp_path / "before")
    assert section(text, "Measured").strip() == "Not measured." and "Nothing was measured of it." in text
    page = page_of(
        "zero_shot_segmentation",
        {"miou": 0.1234, "pixel_accuracy": None},
        settings={"templates": "tcl", "window": 448, "short_side": None},
        evaluate={"segmentation": "/data/of/somebody/ade20k", "classes": None},
    )
    depth = page_of("depth", {"rmse_metres": 0.5}, evaluate={"geometry": None})
    before = page | {"side": "untrained", "step": 0, "values": {"miou": 0.02}}
    written(run, page, before, depth, page_of("knn", {"accuracy": 1.0}, step=7))
    data, text = card_of(run, tmp_path / "after")
    said = section(text, "Measured")
    assert "| task | data | pictures | measure | this model | untrained student |" in said
    assert "| **zero-shot segmentation** | folder ade20k | 2,000 | mIoU | 12.3 % | 2.0 % |" in said
    assert "pixel accuracy | – |" in said and "**depth** | scenes, held out" in said and "0.500 m" in said
    assert "- **zero-shot segmentation**, folder ade20k: tcl templates, window 448." in said
    assert "nearest" not in said and "/data/of" not in text and "↓: less is better." in said
    results = data["model-index"][0]["results"]
    assert [row["task"]["type"] for row in results] == ["image-segmentation", "depth-estimation"]
    [metric] = results[0]["metrics"]
    assert metric == {"type": "miou", "value": 12.34, "name": "zero-shot segmentation: mIoU (%)"}
    assert results[0]["dataset"] == {"name": "folder ade20k", "type": "folder-ade20k"}


def test_results_of_a_whole_suite_are_called_after_their_data_and_quick_looks_are_none(run: Path, suite: str):
    evaluated(run, "--suite", suite, "--limit", "6")
    assert found_in(run) == []
    evaluated(run, "--suite", suite)
    found = found_in(run)
    assert [(each.task, each.data) for each in found] == [("knn", "scenes, held out"), ("health", "scenes, held out")]
    assert [each.suite for each in found] == ["near of the suite few", "far of the suite few"]
    kept = json.loads((run / "eval" / "few" / "near.json").read_text())
    assert found[0].values == kept["values"] and found[0].num_images == kept["num_images"] == FEW


def test_what_was_measured_alike_stands_side_by_side(run: Path, beside: Path, suite: str):
    """In a suite or alone; the same result twice stands once."""
    shutil.copytree(beside / "eval", run / "eval")
    for side in ("student", "teacher"):
        evaluated(run, "--suite", suite, f"side={side}")
    near, far = found_in(run)
    assert near.others.keys() == {"moving average", "untrained student"} and far.others.keys() == {"moving average"}
    kept = json.loads((run / "eval" / "knn.untrained.json").read_text())
    assert near.others["untrained student"] == kept["values"]
    near, far = found_in(run, "teacher")
    assert near.others.keys() == {"student", "untrained student"} and far.others.keys() == {"student"}


@pytest.fixture(scope="module")
def beside(trained_once: Path, tmp_path_factory) -> Path:
    run = shutil.copytree(trained_once, tmp_path_factory.mktemp("beside") / "captions")
    for side in ("student", "untrained"):
        evaluated(run, "knn", f"num_images={FEW}", f"side={side}")
    return run


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"classes": {"num_images": FEW, "sha256": "of other pictures"}}},
        {"distill": "0.0.1"},
        {"settings": {"num_neighbours": 20}},
        {"num_images": FEW + 1},
        {"task": "linear_classification"},
        {"step": 3},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_was_measured_otherwise_does_not_stand_beside(beside: Path, changes: dict[str, Any], tmp_path: Path):
    run = shutil.copytree(beside, tmp_path / "captions")
    assert [each.others.keys() for each in found_in(run)] == [{"untrained student"}]
    edited(run / "eval" / "knn.untrained.json", **changes)
    assert [each.others for each in found_in(run)] == [{}]


def test_without_fingerprints_it_is_the_place_that_tells_pictures_apart(run: Path):
    page = page_of("knn", {"accuracy": 0.5}, evaluate={"classes": "/one/flowers", "split": None})
    before = page | {"side": "untrained", "step": 0}
    for classes, pairs in (("/one/flowers", {"untrained student"}), ("/another/flowers", set())):
        written(run, page, before | {"evaluate": {"classes": classes, "split": None}})
        [found] = found_in(run)
        assert found.others.keys() == pairs and found.data == "folder flowers"
    written(run, page, before | {"data": {}, "distill": __version__})
    assert found_in(run)[0].others == {}, "nobody knows whether these are the same pictures"


def test_a_frozen_teacher_that_is_a_run_of_ours_stands_beside(run: Path, suite: str, tmp_path: Path):
    student = trained(tmp_path / "student", *ONE_STEP, *FEATURES, f"teacher.checkpoint={run}")
    evaluated(student, "--suite", suite)
    assert [each.others for each in found_in(student)] == [{}, {}]
    evaluated(run, "--suite", suite)
    near, far = found_in(student)
    kept = json.loads((run / "eval" / "few" / "near.json").read_text())
    assert near.others == {"teacher": kept["values"]} and far.others.keys() == {"teacher"}
    evaluated(student, AGREEMENT, f"num_images={FEW}")
    *_, last = found_in(student)
    assert last.task == AGREEMENT and last.data == "scenes, held out"
    _, text = card_of(student, tmp_path / "out")
    assert "| measure | this model | teacher |" in text and "| neighbours in common by CLS 1 |" in text
    shutil.rmtree(run)
    assert found_in(student)[0].others == {}


def test_what_a_training_measured_at_its_end_counts(run: Path, tmp_path: Path):
    summary = json.loads((run / "summary.json").read_text())
    summary |= {
        "scores": {"knn/accuracy": 0.5, "evaluate_seconds": 2.0},
        "baselines": {"teacher": {"knn/accuracy": 0.75}},
        "teachers": [{"member": "", "image_size": 64}],
    }
    (run / "summary.json").write_text(json.dumps(summary))
    checkpoint = find(run).folder
    found = measured(checkpoint, step=1, side="student")
    assert found[0].notes == ("the teacher was shown the same pictures at 64 pixels",)
    assert measured(checkpoint, step=1, side="teacher") == [], "the training measured its student"
    edited(run / "summary.json", teachers=[])
    said = section(card_of(run, tmp_path / "out")[1], "Measured")
    label = "**nearest-neighbour classification** | scenes, held out | up to 32"
    assert f"{label} | accuracy | 50.0 % | 75.0 % |" in said and "at the end of training" in said
    edited(run / "summary.json", steps=2)  # the checkpoint is of an earlier step
    assert section(card_of(run, tmp_path / "out")[1], "Measured").strip() == "Not measured."


def test_scores_of_a_teacher_in_training_are_not_its_students(tmp_path: Path):
    words = ("optim.steps=1", "optim.warmup=0", "evaluate.tasks=[knn]", "evaluate.num_images=12")
    run = trained(tmp_path / "run", *words, "evaluate.side=teacher")
    assert found_in(run) == []
    [found] = found_in(run, "teacher")
    assert found.task == "knn"


def test_cls_tokens_count_from_1_in_every_place(run: Path, tmp_path: Path):
    for task in ("retrieval", "zero_shot_classification", "compositional_pairs", "instance_retrieval"):
        evaluated(run, task, f"num_images={FEW}")
    data, text = card_of(run, tmp_path / "out")
    said = section(text, "Measured")
    for row in ("image→text R@1, CLS 2", "image→text R@1, CLS 1", "top-1 accuracy, CLS 1", "top-1 accuracy, CLS 2"):
        assert f"| {row} |" in said
    assert "accuracy, CLS 2" in said and "CLS 0" not in text and not re.search(r"\bcls\d? ?\d", text)
    assert "**instance retrieval**, scenes, held out: CLS 1, index own" in said, (
        "whoever has one value says whose it is"
    )
    names = [metric["name"] for row in data["model-index"][0]["results"] for metric in row["metrics"]]
    assert "image–text retrieval: image→text R@1, CLS 2 (%)" in names
    assert value_words("image_to_text_r1", ["image_to_text_r1"]) == "image→text R@1", "there is one token alone"
    assert value_words("a/cls_cka", ["a/cls_cka", "b/cls_cka"]) == "CKA of CLS 1, a"


def test_notes_are_a_list_with_their_tasks(run: Path, tmp_path: Path):
    first = page_of("depth", {"rmse_metres": 0.5}, notes=["something | looks <odd>", "it really\ndoes."])
    written(run, first, page_of("knn", {"accuracy": 0.5}, notes=["alarm: it has collapsed"]))
    said = section(card_of(run, tmp_path / "out")[1], "Measured")
    assert said.split("Notes:\n\n")[1].split("\n\n")[0].splitlines() == [
        "- **nearest-neighbour classification**, scenes, held out: Alarm: it has collapsed.",
        "- **depth**, scenes, held out: Something | looks &lt;odd>.",
        "- **depth**, scenes, held out: It really does.",
    ]


def test_settings_are_told_as_far_as_they_were_heard():
    settings = {"head": "ridge", "training": {"steps": 10}, "ridge": 0.001, "decoder": None, "batch_size": 32}
    assert settings_in_words(settings) == "head ridge, ridge 0.001"
    trained_probe = settings | {"head": "linear", "training": {"steps": 10, "batch_size": 16, "zoom": [1.0, 2.0]}}
    assert settings_in_words(trained_probe) == "head linear, training (steps 10, batch size 16, zoom 1 and 2)"
    assert settings_in_words({"mode": "whole", "window": 48, "num_train_images": 2000}) == (
        "mode whole, 2,000 training pictures"
    )
    assert settings_in_words({"cls": 0, "pooled": ["cls", "both"], "crop": True}) == (
        "CLS 1, pooled CLS 1 and both, crop yes"
    )


def test_values_have_their_units():
    assert shown("rmse_metres", 1.70649) == "1.706 m" and shown("mean_degrees", 30.0) == "30.000 °"
    assert shown("miou", 0.1234) == "12.3 %" and shown("patch_loss", 3.56) == "3.5600" and shown("miou", None) == "–"
    assert with_unit("rmse_degrees", ["rmse_degrees"]) == "RMSE, mean of pictures (°)"
    assert with_unit("patch_loss", ["patch_loss"]) == "patch loss of the training"


@pytest.fixture(scope="module")
def everything(trained_once: Path, tmp_path_factory) -> Path:
    """A run of which every task was measured, some with several settings."""
    folder = tmp_path_factory.mktemp("everything")
    run, page = shutil.copytree(trained_once, folder / "run"), folder / "all.yaml"
    measures = [f"  {task}: {{task: {task}}}" for task in TASKS]
    measures.append("  final: {task: zero_shot_segmentation, evaluate: {features: final}}")
    page.write_text("\n".join(["title: all", f"evaluate: {{num_images: {FEW}}}", "measures:", *measures]))
    evaluated(run, "--suite", str(page))
    return run


def test_every_task_and_every_value_has_words(everything: Path):
    found = found_in(everything)
    assert {each.task for each in found} == {*TASKS} and {*TASKS, AGREEMENT} == TASK_WORDS.keys()
    assert TASKS.keys() - HUB_TASKS.keys() <= {"health", "alignment"} and HUB_TASKS.keys() <= TASKS.keys()
    for each in found:
        words = [value_words(name, each.values) for name in each.values]
        assert len({*words}) == len(words) and not [name for name in words if "_" in name or "cls" in name], words
    only = [each for each in found if each.task == "zero_shot_segmentation"]
    assert differing(only) == [{"features": "value"}, {"features": "final"}]
    assert differing([*only[:1], replace(only[0], num_images=5)]) == [{"num_images": FEW}, {"num_images": 5}]
    assert differing([*only[:1], replace(only[0], data="ADE20K", num_images=5)]) == [{}, {}]


def test_the_hub_reads_every_value_with_its_name(everything: Path, tmp_path: Path):
    card_of(everything, tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    kept = card.data.eval_results
    assert len(kept) == sum(len(each.values) for each in found_in(everything) if each.task in HUB_TASKS)
    assert len({(each.task_type, each.metric_name) for each in kept}) == len(kept)
    assert {each.task_type for each in kept} == {*HUB_TASKS.values()}
    assert {(each.dataset_name, each.dataset_type) for each in kept} == {("scenes, held out", "scenes-held-out")}
    raw = metadata_load(tmp_path / "out" / "README.md")
    assert raw["model-index"] == card.data.to_dict()["model-index"]
    kinds = [row["task"]["type"] for row in raw["model-index"][0]["results"]]
    assert len({*kinds}) == len(kinds), "the hub keeps one entry for a kind of task and a data set"


def test_what_is_no_benchmark_stands_apart(everything: Path, tmp_path: Path):
    said = section(card_of(everything, tmp_path / "out")[1], "Measured")
    first, apart = said.split("<details><summary>What its features are like: no benchmarks</summary>")
    assert "| **depth** |" in first and "| **health of the features** |" in apart and "| **health" not in first
    assert "Scenes are small pictures that a program draws" in first and "An empty place" not in said
    for table in re.findall(r"(?:^\|.*\n)+", said, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1
