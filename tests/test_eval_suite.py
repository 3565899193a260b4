"""Suites: many measurements in one go, kept and gone on with, beside published numbers and beside each other."""

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import tiny_layouts
from rich.console import Console
from safetensors.numpy import load_file
from tiny_inputs import write_classes, write_geometry, write_masks
from tiny_runs import trained

from distill import cli
from distill.config import Evaluate, RecipeError, load_recipe
from distill.config.pages import catalogue
from distill.eval import TASKS
from distill.eval.in_training import run_task
from distill.eval.registry import READS
from distill.eval.remembered import remembering
from distill.eval.sets import evaluation_data
from distill.eval.suite import measure
from distill.eval.suite.comparison import Compared, Interval, Score, compare, interval_of, resampled
from distill.eval.suite.fingerprints import fingerprints
from distill.eval.suite.measure import Outcome, carry_out, read
from distill.eval.suite.page import PLACES, Measure, Suite, read_suite
from distill.eval.suite.subject import Subject, of_a_run
from distill.eval.suite.tables import beside, cell, columns_of, page
from distill.resampling import PictureCounts, PictureValues, picture_statistics, score

QUIET = Console(quiet=True)
LIMIT = 24


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """Two seeds of a tiny run with two CLS tokens."""
    home = tmp_path_factory.mktemp("runs")
    return tuple(trained(home / name, f"seed={seed}") for seed, name in enumerate(("one", "two")))


@pytest.fixture
def scenes() -> Suite:
    return read_suite("scenes")


def subject(run: Path) -> Subject:
    return of_a_run(run, side="student", image_size=None)


def carried_out(one: Subject, suite: Suite, *words: str, limit: int | None = LIMIT) -> Outcome:
    full = [f"evaluate.{word}" for word in words]
    return carry_out(one, suite, words=full, limit=limit, device="cpu", console=QUIET)


@pytest.mark.parametrize("name", catalogue("suite"))
def test_every_suite_that_comes_with_distill_can_be_read(name: str):
    suite = read_suite(name)
    assert suite.measures and suite.title
    assert {each.task for each in suite.measures.values()} <= set(TASKS)


def test_the_suites_of_the_paper_and_of_scenes_have_every_task_the_paper_has():
    of_paper = {each.task for each in read_suite("tipsv2").measures.values()}
    assert of_paper == set(TASKS) - {"health", "alignment"}
    assert {each.task for each in read_suite("scenes").measures.values()} == set(TASKS)


def test_every_number_is_what_the_task_says_alone(runs, scenes):
    one = subject(runs[0])
    found = carried_out(one, scenes)
    assert list(found.measured) == list(scenes.measures) and not found.missing and not found.failed
    for name, kept in found.measured.items():
        recipe = one.recipe(
            [f"evaluate.tasks=[{kept.task}]", f"evaluate.features={kept.settings.get('features', 'value')}"]
        )
        alone = run_task(one.encoder, kept.task, data=evaluation_data(recipe, LIMIT), recipe=recipe)
        for value, number in alone.values.items():
            told = np.nan if kept.values[value] is None else kept.values[value]
            assert told == pytest.approx(number, abs=1e-6, nan_ok=True), f"{name}/{value}"


def test_every_task_looks_in_the_precision_that_is_asked_for(runs, scenes):
    one = subject(runs[0])
    exact, quick = carried_out(one, scenes), carried_out(one, scenes, "precision=bf16", limit=LIMIT)
    for name, kept in quick.measured.items():
        assert kept.settings["precision"] == "bf16" and exact.measured[name].settings["precision"] == "fp32"
    seen = [name for name, kept in quick.measured.items() if kept.values != exact.measured[name].values]
    assert {"depth", "health", "normals", "linear_segmentation"} <= set(seen)


def test_pictures_tell_the_values_again_in_every_task(runs, scenes):
    found = carried_out(subject(runs[0]), scenes)
    told = set()
    for name, kept in found.measured.items():
        arrays = load_file(found.folder / f"{name}.safetensors")
        for value, number in kept.values.items():
            statistics = picture_statistics(arrays, value)
            if statistics is not None:
                told.add(kept.task)
                assert score(statistics) == pytest.approx(number, abs=1e-6), f"{name}/{value}"
    assert told == {kept.task for kept in found.measured.values()} - {"health"}


def test_what_is_kept_is_not_measured_again(runs, scenes, monkeypatch):
    first = carried_out(subject(runs[1]), scenes)
    monkeypatch.setattr(measure, "run_task", lambda *_, **__: pytest.fail("it was measured again"))
    again = carried_out(subject(runs[1]), scenes)
    assert again == first


def test_other_settings_weights_and_pictures_are_measured_again(runs, scenes, monkeypatch):
    calls: list[str] = []
    real = run_task

    def counted(encoder, task, **others):
        calls.append(task)
        return real(encoder, task, **others)

    few = Suite(title="few", name="few", measures={"depth": scenes.measures["depth"], "knn": scenes.measures["knn"]})
    monkeypatch.setattr(measure, "run_task", counted)
    one = subject(runs[0])
    carried_out(one, few)
    assert calls == ["depth", "knn"]
    carried_out(one, few, "templates=tcl", "hidden_ratio=0.5")  # neither of the two reads these
    assert len(calls) == 2
    carried_out(one, few, "depth_crop=none")
    assert calls[2:] == ["depth"]
    carried_out(one, few, limit=LIMIT + 1)
    assert len(calls) == 5
    changed = Subject(**vars(one) | {"who": one.who | {"weights_sha256": "another"}})
    carried_out(changed, few)
    assert len(calls) == 7


@pytest.mark.parametrize("task", TASKS)
def test_a_task_reads_the_settings_that_are_said_of_it(task: str, runs):
    """What makes a kept measurement stale, and two encoders incomparable, is exactly this."""
    read: set[str] = set()

    class Watched(Evaluate):
        def __getattribute__(self, name: str):
            read.add(name)
            return super().__getattribute__(name)

    one = subject(runs[0])
    recipe = one.recipe([f"evaluate.tasks=[{task}]"])
    data = evaluation_data(recipe, 12)
    heard: set[str] = set()
    for probe in ("ridge", "linear") if "probe" in READS[task] else ("ridge",):
        asked = replace(recipe, evaluate=Watched(**vars(recipe.evaluate) | {"probe": probe, "probe_steps": 1}))
        read.clear()
        run_task(one.encoder, task, data=data, recipe=asked)
        heard |= read
    named = {each.name for each in fields(Evaluate)} - {"tasks", *PLACES}
    assert heard & named == set(READS[task])


def test_how_a_training_was_evaluated_does_not_count(runs, scenes, tmp_path: Path):
    one = subject(runs[0])
    text = one.page.read_text().replace("features: value", "features: final").replace("mode: whole", "mode: slide")
    (tmp_path / "recipe.yaml").write_text(text.replace("  precision: fp32", "  precision: bf16"))
    assert text != one.page.read_text()
    other = Subject(**vars(one) | {"page": tmp_path / "recipe.yaml", "home": tmp_path})
    ours, theirs = (carried_out(each, scenes) for each in (one, other))
    for name, kept in theirs.measured.items():
        assert kept.values == ours.measured[name].values and kept.settings == ours.measured[name].settings


def test_sides_steps_and_sizes_have_folders_and_names_of_their_own(runs, scenes):
    (step,) = runs[0].glob("checkpoints/step_*")
    made = [
        subject(runs[0]),
        of_a_run(runs[0], side="untrained", image_size=None),
        of_a_run(runs[0], side="teacher", image_size=None),
        of_a_run(step, side="student", image_size=None),
        of_a_run(runs[0], side="student", image_size=64),
    ]
    assert len({measure.folder_of(each, scenes, None) for each in made}) == len(made)
    assert len({each.name for each in made}) == len(made)


def test_neighbours_with_other_pictures_are_not_taken_for_the_same(runs):
    few = Suite(
        title="few",
        name="neighbours",
        measures={
            "near": Measure(task="knn", evaluate={"num_images": 40}),
            "named": Measure(task="zero_shot_classification", evaluate={"num_images": 20}),
        },
    )
    found = carried_out(subject(runs[0]), few, limit=None)
    assert found.measured["named"].identity["data"]["classes"]["num_images"] == 20
    assert found.measured["named"].num_images <= 20 < found.measured["near"].num_images


def test_a_label_that_moved_makes_a_kept_measurement_stale(runs, tmp_path: Path):
    write_classes(tmp_path, alike=False)
    place = tmp_path
    suite = Suite(title="c", name="moved", measures={"knn": Measure(task="knn", evaluate={"classes": str(place)})})
    first = carried_out(subject(runs[0]), suite, limit=None)
    one, other, *_ = sorted(each for each in (place / "val").iterdir() if each.is_dir())
    moved = next(one.iterdir())
    moved.rename(other / f"moved{moved.suffix}")
    again = carried_out(subject(runs[0]), suite, limit=None)
    assert first.measured["knn"].identity["data"] != again.measured["knn"].identity["data"]


def test_an_error_of_any_kind_does_not_stop_the_others(runs, scenes, monkeypatch):
    def failing(encoder, task, **others):
        if task == "knn":
            raise RuntimeError("CUDA out of memory")
        return run_task(encoder, task, **others)

    monkeypatch.setattr(measure, "run_task", failing)
    few = Suite(title="few", name="errors", measures={name: scenes.measures[name] for name in ("knn", "depth")})
    found = carried_out(subject(runs[0]), few)
    assert found.failed == {"knn": "RuntimeError: CUDA out of memory"} and "depth" in found.measured


def test_pictures_that_are_not_a_measurements_own_are_refused(runs, scenes):
    found = carried_out(subject(runs[0]), scenes, limit=23)
    shutil.copy(found.folder / "depth.safetensors", found.folder / "normals.safetensors")
    with pytest.raises(ValueError, match="written by another measurement"):
        compare([found], ["normals/rmse_degrees"])


def test_a_suite_that_was_stopped_goes_on_with_the_measurement_that_was_not_finished(runs, scenes, monkeypatch):
    real = run_task

    def stopped(encoder, task, **others):
        if task == "normals":
            raise KeyboardInterrupt
        return real(encoder, task, **others)

    one = subject(runs[0])
    monkeypatch.setattr(measure, "run_task", stopped)
    with pytest.raises(KeyboardInterrupt):
        carried_out(one, scenes, limit=20)
    folder = one.home / "scenes-limit20"
    done = {file.stem for file in folder.glob("*.json")}
    assert "depth" in done and "normals" not in done
    assert not [file for file in folder.iterdir() if "unfinished" in file.name]
    monkeypatch.setattr(measure, "run_task", real)
    assert list(carried_out(one, scenes, limit=20).measured) == list(scenes.measures)


def test_a_page_that_was_cut_short_is_measured_again(runs, scenes):
    one = subject(runs[0])
    found = carried_out(one, scenes, limit=21)
    (found.folder / "knn.json").write_text('{"format": 1, "val')
    (found.folder / "depth.safetensors").unlink()
    again = carried_out(one, scenes, limit=21)
    assert {name: kept.values for name, kept in again.measured.items()} == {
        name: kept.values for name, kept in found.measured.items()
    }


def test_one_measurement_that_fails_is_told_and_does_not_stop_the_others(runs, scenes, monkeypatch):
    real = run_task

    def failing(encoder, task, **others):
        if task == "retrieval":
            raise ValueError("the features are not finite")
        return real(encoder, task, **others)

    monkeypatch.setattr(measure, "run_task", failing)
    found = carried_out(subject(runs[0]), scenes, limit=22)
    assert found.failed == {"retrieval": "the features are not finite"}
    assert set(found.measured) == set(scenes.measures) - {"retrieval"}
    assert "retrieval FAILED: the features are not finite" in page(scenes, [found], compare([found], []))


def test_inside_remembering_the_encoder_sees_a_set_once(runs):
    one = subject(runs[0])
    recipe = one.recipe(["evaluate.tasks=[knn, linear_classification, zero_shot_classification]"])
    data = evaluation_data(recipe, LIMIT)
    seen: list[int] = []
    hook = one.encoder.image.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    texts: list[int] = []
    spoken = one.encoder.text.register_forward_pre_hook(lambda _, inputs: texts.append(len(inputs[0])))
    with remembering():
        kept = [run_task(one.encoder, task, data=data, recipe=recipe) for task in recipe.evaluate.tasks]
    assert sum(seen) == len(data.classes) + len(data.classes_train)
    once = sum(texts)
    alone = [run_task(one.encoder, task, data=data, recipe=recipe) for task in recipe.evaluate.tasks]
    assert sum(seen) > 3 * (len(data.classes) + len(data.classes_train))
    assert sum(texts) == 3 * once  # alone, each of the two CLS tokens asks for the class names
    hook.remove(), spoken.remove()
    for with_memory, without in zip(kept, alone, strict=True):
        assert with_memory.values == without.values


def test_intervals_are_a_paired_bootstrap_over_pictures(runs, scenes):
    found = [carried_out(subject(run), scenes) for run in runs]
    (compared,) = compare(found, ["zero_shot_value/miou"])
    counts = [load_file(each.folder / "zero_shot_value.safetensors") for each in found]
    generator = np.random.default_rng(0)
    drawn = generator.multinomial(LIMIT, np.full(LIMIT, 1 / LIMIT), size=1000)
    by_hand = []
    for weight_N in drawn:
        rows = np.repeat(np.arange(LIMIT), weight_N)
        hit, union = ([each[key][rows].sum(0) for each in counts] for key in ("intersection", "union"))
        mious = [np.mean(h[u > 0] / u[u > 0]) for h, u in zip(hit, union, strict=True)]
        by_hand.append(mious[1] - mious[0])
    low, high = np.quantile(by_hand, [0.025, 0.975])
    assert compared.alike == (True, True)
    assert (compared.differences[1].low, compared.differences[1].high) == pytest.approx((low, high), abs=1e-12)


def test_an_encoder_differs_from_itself_by_nothing(runs, scenes):
    found = carried_out(subject(runs[0]), scenes)
    for compared in compare([found, found], columns_of(scenes, [found])):
        if compared.differences[1] is not None:
            assert (compared.differences[1].low, compared.differences[1].high) == (0, 0)
            assert not compared.differences[1].decided


def test_the_chunks_of_resamples_change_nothing_but_memory(monkeypatch):
    generator = np.random.default_rng(1)
    values = PictureValues(generator.random(500))
    whole = resampled(values)
    monkeypatch.setattr("distill.eval.suite.comparison.MAX_WEIGHTS", 500 * 37)
    assert resampled(values).shape == whole.shape == (1000,)
    # Other draws of the same distribution: the interval is the same to its own error.
    few, all_ = interval_of(resampled(values)), interval_of(whole)
    assert few.low == pytest.approx(all_.low, abs=0.01) and few.high == pytest.approx(all_.high, abs=0.01)


def test_encoders_that_saw_other_pictures_are_not_subtracted(runs, scenes):
    found = [carried_out(subject(runs[0]), scenes), carried_out(subject(runs[1]), scenes, limit=LIMIT + 1)]
    columns = columns_of(scenes, found)
    compared = compare(found, columns)
    assert not any(each.alike[1] for each in compared)
    assert all(each.differences == (None, None) for each in compared)
    assert "measured otherwise" in page(scenes, found, compared)


def test_a_fingerprint_shows_other_pictures_sizes_and_limits(runs):
    one = subject(runs[0])

    def prints(*, limit: int = LIMIT, **world: int) -> dict:
        recipe = one.recipe(["evaluate.tasks=[knn, retrieval]"])
        scenes = replace(recipe.data.scenes, **world)
        return fingerprints(evaluation_data(replace(recipe, data=replace(recipe.data, scenes=scenes)), limit))

    usual = prints()
    assert usual == prints() and usual["captions_1"] != usual["captions_2"]
    for other in (prints(world_seed=5), prints(limit=LIMIT + 1)):
        assert other.keys() == usual.keys()
        assert all(other[name] != usual[name] for name in usual)


def counted(key: str, place: str, **settings: str) -> dict:
    """The fingerprints of what a setting names."""
    task = {"segmentation": "linear_segmentation", "geometry": "depth", "classes": "knn"}[key]
    words = [f"evaluate.tasks=[{task}]", f"evaluate.{key}={place}", *(f"evaluate.{k}={v}" for k, v in settings.items())]
    return fingerprints(evaluation_data(load_recipe("smoke", words), None))


def test_a_fingerprint_shows_what_changed_in_files(tmp_path: Path):
    """Whatever the kind of set: a picture, a truth, and what a mask's values mean."""
    data, masks, views = tmp_path / "data", tmp_path / "masks", tmp_path / "views"
    tiny_layouts.nyuv2(data)
    write_masks(masks, shift=0)
    write_geometry(views, shift=0)
    files = {
        ("geometry", "nyuv2"): [data / "nyuv2/test/rgb/00001.png", data / "nyuv2/test/depth/00001.npy"],
        ("segmentation", str(masks)): [masks / "images/val/00.jpg", masks / "masks/val/00.png", masks / "classes.json"],
        ("geometry", str(views)): [views / "1_rgb.jpg", views / "1_depth_mm.png"],
    }
    for (key, place), changing in files.items():
        before = counted(key, place, root=str(data))
        assert before == counted(key, place, root=str(data))
        for file in changing:
            kept = file.read_bytes()
            meant = file.suffix == ".json"  # of the same length, as every change here
            file.write_bytes(kept.replace(b'"id": 1', b'"id": 7') if meant else kept[:-1] + bytes([kept[-1] ^ 1]))
            assert counted(key, place, root=str(data)) != before, file
            file.write_bytes(kept)


def test_a_damaged_measurement_is_measured_again(runs, scenes):
    first = carried_out(subject(runs[0]), scenes)
    name = next(iter(first.measured))
    for file, damaged in ((f"{name}.safetensors", b"short"), (f"{name}.json", b"[]"), (f"{name}.json", b"\xff\xfe")):
        (first.folder / file).write_bytes(damaged)
        assert read(first.folder, name) is None
        again = carried_out(subject(runs[0]), scenes)
        assert read(again.folder, name) is not None and again.measured[name].values == first.measured[name].values


def test_an_encoder_that_is_named_twice_is_refused_before_anything_is_measured(runs, capsys):
    assert cli.main(["eval", str(runs[0]), f"{runs[0]}/", "--suite", "scenes", "--limit", "5"]) == 2
    assert capsys.readouterr().err == f"distill: error: {runs[0]}/ is named twice\n"


def test_published_rows_stand_beside_what_was_found(runs, tmp_path: Path, monkeypatch, capsys):
    for name in ("ade20k", "voc", "flickr30k", "imagenet", "nyuv2", "sugarcrepe"):
        vars(tiny_layouts)[name](tmp_path / "data")
    monkeypatch.setenv("DISTILL_DATA", str(tmp_path / "nowhere"))
    words = ["--limit", "5", "probe_steps=2", "classifier=lbfgs", "depth_crop=none", "run.device=cpu"]
    words += ["classifier_reads=last", f"root={tmp_path / 'data'}"]
    assert cli.main(["eval", str(runs[0]), "--suite", "tipsv2", *words]) == 1
    told = capsys.readouterr().out
    assert "not measured here: context59, context60" in told
    folder = runs[0] / "eval" / "tipsv2-limit5"
    text = (folder / "eval.md").read_text()
    for row in (
        "| TIPSv2 L/14 | 37.1 | 33.9 | 44.4 | 24.7 |",
        "| DINOv3 L/16 | 54.9 | 0.352 | 82.3 | 63.7 | 45.6 | 24.7 |",
    ):
        assert row in text
    assert "A quick look at 5 pictures of each set, not a result" in text and "**one (5 pictures a set)**" in text
    kept = json.loads((folder / "eval.json").read_text())["encoders"][0]
    assert {"voc21", "voc20", "ade150", "ade150_slide", "flickr30k", "imagenet_zero_shot", "nyu_depth"} <= set(
        kept["measured"]
    )
    assert {"cityscapes", "uned"} <= set(kept["missing"]) and "cityscapes" in text
    assert set(kept["failed"]) == {"imagenet_knn"}, "two training pictures are no neighbourhood"
    called = {name: found["data_set"] for name, found in kept["measured"].items()}
    assert (called["ade150"], called["nyu_depth"]) == ("ADE20K", "NYU Depth v2")
    identity = kept["measured"]["ade150"]["identity"]
    assert identity["data"]["segmentation"]["sha256"] and len(identity["weights_sha256"]) == 64


def test_on_the_terminal_every_value_has_its_unit_as_that_of_one_task():
    def compared(column: str, first: float, second: float) -> Compared:
        scores = tuple(
            Score(value=value, interval=Interval(low=value / 2, high=value * 2)) for value in (first, second)
        )
        differences = (None, Interval(low=0.01, high=0.1))
        return Compared(column=column, scores=scores, differences=differences, alike=(True, True))

    depth, knn = compared("depth/rmse_metres", 2.08, 1.04), compared("knn/accuracy", 0.062, 0.0744)
    assert [cell(depth, 0), cell(knn, 0)] == ["2.080 m [1.040, 4.160]", "6.20 % [3.10, 12.40]"]
    assert [beside(depth, 1), beside(knn, 1)] == ["1.040 m (-1.040*)", "7.44 % (+1.24*)"]
    assert beside(knn, 0) == "6.20 %"
    assert cell(compared("normals/rmse_degrees", 20.0, 20.0), 1) == "20.000 ° [10.000, 40.000]"


def test_several_encoders_stand_in_one_page(runs, tmp_path: Path, capsys):
    words = ["--suite", "scenes", "--limit", str(LIMIT), "--to", str(tmp_path / "both")]
    assert cli.main(["eval", *map(str, runs), *words]) == 0
    assert "(" in capsys.readouterr().out
    text = (tmp_path / "both" / "comparison.md").read_text()
    assert "| value | two (24 pictures a set) − one (24 pictures a set) |" in text
    compared = json.loads((tmp_path / "both" / "comparison.json").read_text())["compared"]
    assert all(len(each["scores"]) == 2 for each in compared)
    assert (runs[1] / "eval" / f"scenes-limit{LIMIT}" / "eval.md").is_file()


def test_an_encoder_without_text_leaves_out_what_needs_one(tmp_path: Path, monkeypatch, scenes):
    monkeypatch.chdir(tmp_path)
    words = ["weights=random", "image_size=64", "--limit", "12"]
    assert cli.main(["eval", "timm:test_vit", "--suite", "scenes", *words]) == 0
    (file,) = tmp_path.glob("runs/eval/timm-test-vit-*/scenes-64px-limit12/eval.json")
    kept = json.loads(file.read_text())["encoders"][0]
    assert kept["missing"]["retrieval"] == "the encoder has no text tower"
    assert "depth" in kept["measured"] and "retrieval" not in kept["measured"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--suite", "nothing"], "no suite of this name"),
        (["--suite", "scenes", "--limit", "1"], "at least 5"),
        (["--suite", "scenes", "num_images=5"], "--limit N"),
        (["--suite", "scenes", "optim.lr=1"], "no setting of an evaluation"),
        (["--suite", "scenes", "weights=file"], "of one encoder"),
        (["--suite", "scenes", "image_size=50"], "image_size=50"),
        (["--suite", "samples"], "nothing of the suite samples can be measured here"),
        (["--suite", "scenes", "side=teachr"], "side=teachr"),
        (["nowhere", "--suite", "scenes"], "no FAMILY:NAME"),
        ([], "no task is named"),
        (["segment"], "segment is no task"),
        (["knn", "--to", "folder"], "--to is where"),
    ],
)
def test_mistakes_are_told_and_exit_with_2(words: list[str], said: str, runs, monkeypatch, capsys):
    monkeypatch.delenv("DISTILL_DATA", raising=False)
    assert cli.main(["eval", str(runs[0]), *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title: t", "at least one measurement"),
        ("title: t\nmeasures: {a: {}}", "task is missing"),
        ("title: t\nmeasures: {a: {task: knnn}}", "there is no task 'knnn'; did you mean knn"),
        ("title: t\nmeasures: {a: {task: knn, evaluate: {clases: x}}}", "did you mean classes"),
        (
            "title: t\nmeasures: {a: {task: knn}}\ntables: [{title: x, source: s, columns: {A: b/miou}}]",
            "measurement 'b'",
        ),
        (
            "title: t\nmeasures: {a: {task: knn}}\n"
            "tables: [{title: x, source: s, columns: {A: a/accuracy}, rows: {M: [1.0, 2.0]}}]",
            "M has 2 numbers for 1 columns",
        ),
        ("- a", "expected `key: value` lines"),
    ],
)
def test_what_is_wrong_in_a_page_is_told_with_its_name(text: str, said: str, tmp_path: Path):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"mine\.yaml") as caught:
        read_suite(str(tmp_path / "mine.yaml"))
    assert said in str(caught.value)


def test_statistics_of_instances_weigh_collections_and_not_queries():
    arrays = {"r1": np.array([1, 1, 1, 0], np.uint8), "subset": np.array([0, 0, 0, 1], np.int32)}
    statistics = picture_statistics(arrays, "r1")
    assert isinstance(statistics, PictureCounts) and score(statistics) == 0.5
