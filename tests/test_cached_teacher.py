"""Training from a cache is training with the live teacher on the same fixed views, for every way to train."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from test_ranks import ended, start_ranks
from tiny_inputs import captioned, write_parquet, write_timm
from tiny_runs import losses, own_accelerator, tiny, to_the_bit, train_alone, trained, words

from distill import cli, compose
from distill import trained as trained_encoders
from distill.cache.index import INDEX, shard_name
from distill.exit_codes import FINISHED, INTERRUPTED
from distill.study.cells import load_study
from distill.study.comparable import settings_of
from distill.study.jobs import Job, jobs_of
from distill.study.keys import key_of
from distill.study.run.work import work
from distill.train import checkpoint
from distill.train.loop import Training

# Two epochs and a half: both views of a sample, and the first again.
VIEWS = (
    *("data.scenes.num_train=16", "data.batch_size=8", "optim.steps=5", "optim.warmup=0"),
    *("data.views.fixed=2", "data.views.flip=0.5", "data.views.global_scale=[0.4, 1.0]"),
)
OWN = ("teacher.kind=frozen", "teacher.checkpoint=@run")
TIMM = (
    *("teacher.kind=frozen", "teacher.model=timm:vit_tiny_patch16_224", "teacher.weights=@timm/first.safetensors"),
    *("objective.patch.target=features", "teacher.image_size=48"),
)
PHOTOS = (
    *("data.source=dataset", "data.dataset.format=parquet", "data.dataset.path=@photos"),
    *("data.dataset.columns.alt=txt", "data.dataset.max_broken_share=1"),
    *("objective.cls.weight=1", "data.views.num_local=1", "data.views.local_size=16"),
)
CASES = {
    "our own prototypes": OWN,
    "our own prototypes, accumulated": (*OWN, "optim.accumulate=2", "objective.prototypes.balance=sinkhorn"),
    "features of timm at another resolution": TIMM,
    "photos with local crops": (*OWN, *PHOTOS),
    "whole scenes, which have one view": (
        *OWN,
        *("data.views.fixed=0", "data.views.flip=0", "data.views.global_scale=[1.0, 1.0]"),
    ),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained teacher, a timm model, and photos of which two are broken."""
    folder = tmp_path_factory.mktemp("inputs")
    trained(folder / "run", "optim.steps=2", "objective.cls.weight=1", "data.views.num_local=1")
    write_timm(folder / "timm")
    samples = captioned(shift=0)[:16]
    for sample in samples[3::8]:
        sample["image"]["bytes"] = b"no picture"
    write_parquet(folder / "photos", samples)
    return folder


@pytest.fixture(scope="module")
def outcome(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[float]]:
    """Losses of a tiny run; every run is carried out once, and a cache is written where a case first asks for one."""
    known: dict[tuple[str, ...], list[float]] = {}
    caches = tmp_path_factory.mktemp("caches")

    def outcome_of(case: str, *settings: str, cached: bool = False) -> list[float]:
        key = (case, *settings, str(cached))
        if key not in known:
            place = (f"teacher.cache={caches}/{len(known)}",) if cached else ()
            run = tmp_path_factory.mktemp("outcome") / "run"
            placed = [word.replace("@", f"{inputs}/") for word in (*VIEWS, *CASES[case])]
            known[key] = losses(trained(run, *placed, *place, *settings))
        return known[key]

    return outcome_of


def furthest(ours: list[float], theirs: list[float]) -> float:
    """The largest relative difference."""
    assert len(ours) == len(theirs) == 5
    return max(abs(one - other) / abs(other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_from_fp32_the_losses_are_those_of_the_live_teacher(case: str, outcome: Callable[..., list[float]]):
    # Measured in all five cases: every bit is the same.
    assert furthest(outcome(case, cached=True), outcome(case)) <= 1e-6


# Largest relative difference of five steps, measured: fp16 2.1e-5, int8 4.9e-4, 12 of 48 components 2.4e-2; for the
# features of timm 7.5e-6, 3.5e-5 and 4.2e-3.
BOUNDS = {
    "teacher.cache_storage=fp16": (1e-7, 1e-4),
    "teacher.cache_storage=int8": (1e-6, 2e-3),
    "teacher.cache_components=12": (1e-4, 1e-1),
}


@pytest.mark.parametrize("setting", BOUNDS)
def test_other_storages_move_the_losses_a_little(setting: str, outcome: Callable[..., list[float]]):
    moved = furthest(outcome("our own prototypes", setting, cached=True), outcome("our own prototypes"))
    low, high = BOUNDS[setting]
    assert low < moved < high


def settings(inputs: Path, *more: str, case: str = "our own prototypes") -> list[str]:
    return [word.replace("@", f"{inputs}/") for word in (*VIEWS, *CASES[case], *more)]


@pytest.fixture(scope="module")
def cache(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The setting of a finished cache of `our own prototypes`."""
    folder = tmp_path_factory.mktemp("cache")
    setting = f"teacher.cache={folder}/features"
    trained(folder / "run", *settings(inputs, setting))
    return setting


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_no_tower_of_the_teacher_is_built_and_its_heads_and_centres_are_there(
    inputs: Path, cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    crops = ("objective.cls.weight=1", "data.views.num_local=1")
    built, build = [], compose.build_dual
    for module in (compose, trained_encoders):
        monkeypatch.setattr(module, "build_dual", lambda *arguments: built.append(1) or build(*arguments))
    live = compose.compose(tiny(tmp_path, *settings(inputs, *crops)))
    assert len(built) == 2
    cached = compose.compose(tiny(tmp_path, *settings(inputs, *crops, cache)))
    assert len(built) == 3
    assert cached.teacher.image is None
    assert all(name.startswith("heads.") for name, _ in cached.teacher.named_parameters())
    assert same(cached.teacher.heads.state_dict(), live.teacher.heads.state_dict())
    assert same(cached.objective.state_dict(), live.objective.state_dict())
    assert float(cached.objective.state_dict()["transfer.prototypes.cls_balance.centre"].abs().sum()) > 0
    assert not cached.teacher.train().training and not any(p.requires_grad for p in cached.teacher.parameters())


def test_a_student_may_start_from_a_teacher_that_is_cached(inputs: Path, cache: str, tmp_path: Path):
    inits = [f"student.{part}.init=teacher" for part in ("image", "text", "head")]
    cached, live = (compose.compose(tiny(tmp_path, *settings(inputs, *inits, *more))) for more in ([cache], []))
    assert same(cached.learner.state_dict(), live.learner.state_dict())
    assert cached.teacher.image is None


def test_whoever_was_loaded_to_teach_the_student_starts_with_the_same_weights(inputs: Path, cache: str, tmp_path: Path):
    """So cells that differ in their teacher differ in nothing else. Pretraining starts as the teachers of ours did."""
    kinds = (settings(inputs), settings(inputs, cache), settings(inputs, case="features of timm at another resolution"))
    starts = [compose.compose(tiny(tmp_path, *kind)).learner.encoder.state_dict() for kind in kinds]
    assert all(same(start, starts[0]) for start in starts)
    assert not same(compose.compose(tiny(tmp_path)).learner.encoder.state_dict(), starts[0])


def test_a_run_from_a_cache_that_is_interrupted_goes_on_to_the_bit_wherever_the_cache_was_moved(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = trained(tmp_path / "whole", *settings(inputs, f"teacher.cache={tmp_path}/features"))
    log = Training._log

    def terminate_at_3(training: Training, *arguments: object) -> None:
        log(training, *arguments)
        if training.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Training, "_log", terminate_at_3)
    ended_early = tiny(tmp_path / "ended", *settings(inputs, f"teacher.cache={tmp_path}/features"))
    assert train_alone(ended_early) == INTERRUPTED
    monkeypatch.undo()
    (tmp_path / "features").rename(tmp_path / "moved")
    moved = replace(ended_early, teacher=replace(ended_early.teacher, cache=str(tmp_path / "moved")))
    assert train_alone(moved) == FINISHED
    assert to_the_bit(tmp_path / "ended") == to_the_bit(whole)
    assert same(*(checkpoint.find(run).tensors("student") for run in (tmp_path / "ended", whole)))
    assert not (tmp_path / "features").exists()


def test_two_processes_write_one_cache_and_train_from_it_as_one_does(
    inputs: Path, outcome: Callable[..., list[float]], tmp_path: Path
):
    two = start_ranks(words(tmp_path / "two", *settings(inputs, f"teacher.cache={tmp_path}/features")))
    assert ended(two) == [0, 0]
    # Data parallelism sums in another order; as in test_ranks.
    assert furthest(losses(tmp_path / "two"), outcome("our own prototypes")) <= 1e-5
    assert sorted(path.name for path in (tmp_path / "features").glob("[!.]*")) == [INDEX, shard_name(0)]


def test_the_teachers_own_scores_are_measured_although_it_is_not_run(inputs: Path, cache: str, tmp_path: Path):
    asked = ("evaluate.baselines=true", "evaluate.tasks=[retrieval]", "evaluate.num_images=8", "optim.steps=1")
    for name, more in (("live", []), ("cached", [cache])):
        trained(tmp_path / name, *settings(inputs, *asked, *more))
    live, cached = (json.loads((tmp_path / name / "baselines.json").read_text()) for name in ("live", "cached"))
    for scores in (*live.values(), *cached.values()):
        scores.pop("evaluate_seconds", None)
    assert live == cached and live["teacher"] != live["untrained"]


def command(*arguments: str) -> int:
    with own_accelerator():
        return cli.main(list(arguments))


def test_the_command_line_plans_writes_and_refuses(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    chosen = words(tmp_path / "run", *settings(inputs))
    assert command("cache", "plan", "smoke", *chosen, "teacher.cache_components=7") == 0
    said = capsys.readouterr().out
    assert "32 views (16 samples, 2 of each)" in said and "4 x 4 patches and 2 CLS tokens of width 48" in said
    assert said.count("int8") == 2 and "the training looks at 40 views, 1.2 times the number in the cache" in said
    assert not list(tmp_path.iterdir())
    assert command("cache", "write", "smoke", *chosen) == 2
    assert "Give --to FOLDER" in capsys.readouterr().err
    place = ("--to", str(tmp_path / "features"))
    assert command("cache", "write", "smoke", *chosen, "teacher.cache_storage=int8", *place) == 0
    said = capsys.readouterr()
    assert "32 views, " in said.err and "is finished" in said.out
    other = ["teacher.cache_storage=int8", f"teacher.cache={tmp_path}/features"]
    assert command("train", "smoke", *chosen, *other, "data.views.flip=0.1") == 2
    assert "was written with another transform: flip is 0.5 there and 0.1 here" in capsys.readouterr().err


def jobs(folder: Path, *, seeds: list[int], student: dict[str, object]) -> dict[str, Job]:
    taught = {"teacher.kind": "frozen", "teacher.checkpoint": "cell:base"}
    page = {
        "name": "tiny",
        "title": "A teacher, and students of it",
        "metrics": {"retrieval/i2t": "R@1"},
        "scales": {
            "mini": {
                "recipe": "smoke",
                "expect": "seconds",
                "seeds": seeds,
                "set": {
                    "optim.steps": 2,
                    "evaluate.tasks": ["retrieval"],
                    "evaluate.num_images": 8,
                    "data.scenes.num_train": 20,
                    "data.batch_size": 8,
                    "run.device": "cpu",
                },
            }
        },
        "cells": [
            {"name": "base", "title": ""},
            {"name": "student", "title": "", "set": taught | student},
            {"name": "slow", "title": "", "set": taught | student | {"optim.lr": 1e-4}},
        ],
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(page))
    return {job.name: job for job in jobs_of(load_study(str(folder / "tiny.yaml")), folder / "store")}


def test_in_a_study_the_place_of_a_cache_decides_nothing_and_its_storage_does(tmp_path: Path):
    live = jobs(tmp_path, seeds=[0, 1], student={})
    here = jobs(tmp_path, seeds=[0, 1], student={"teacher.cache": "here"})
    there = jobs(tmp_path, seeds=[0, 1], student={"teacher.cache": "there"})
    coded = jobs(tmp_path, seeds=[0, 1], student={"teacher.cache": "here", "teacher.cache_storage": "int8"})
    for name in live:
        assert live[name].key == here[name].key == there[name].key
        assert (coded[name].key == live[name].key) == name.startswith("base")
    folders = {name: job.recipe.teacher.cache for name, job in here.items()}
    assert folders["base-seed0"] is None and Path(folders["student-seed0"]).parent == Path("here")
    assert folders["student-seed0"] == folders["slow-seed0"] != folders["student-seed1"]
    assert coded["student-seed0"].recipe.teacher.cache != folders["student-seed0"]
    assert settings_of(here["student-seed0"].recipe)["teacher.cache"] == folders["student-seed0"]
    assert key_of(here["student-seed0"].recipe) == key_of(there["student-seed0"].recipe)


def test_a_cell_of_a_study_writes_the_cache_and_the_next_one_reads_it(tmp_path: Path):
    made = jobs(tmp_path, seeds=[0], student={"teacher.cache": str(tmp_path / "features")})
    with own_accelerator():
        assert work(made["base-seed0"]) == 0
    with own_accelerator():
        assert work(made["student-seed0"]) == 0
    [folder] = (tmp_path / "features").iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.*")}
    with own_accelerator():
        assert work(made["slow-seed0"]) == 0
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.*")} == before
