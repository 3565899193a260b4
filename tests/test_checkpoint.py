"""Checkpoints on disk: whole or not there, checked before they are trusted, and nothing pickled."""

import json
import random
import stat
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tiny_runs import tiny, train_alone, trained

from distill.train import checkpoint
from distill.train.checkpoint import BrokenCheckpoint, folder_of

EVERY_TWO = ("optim.steps=6", "run.checkpoint_every=2", "run.keep=2")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a momentum teacher and checkpoints of steps 4 and 6."""
    return trained(tmp_path_factory.mktemp("checkpoint") / "run", *EVERY_TWO)


def write_small(run: Path, step: int) -> Path:
    """A checkpoint of a few bytes."""
    checkpoint.write_part(run, step, "student", {"weight": torch.arange(4.0) + step})
    checkpoint.write_part(run, step, "state.json", {"step": step})
    return checkpoint.publish(run, step)


def test_the_files_are_safetensors_json_and_yaml_and_nothing_else(run: Path):
    files = [path for path in (run / "checkpoints").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".json", ".yaml"}
    names = {path.name for path in files}
    assert names >= {"student.safetensors", "teacher.safetensors", "optimizer.safetensors", "rank_0.safetensors"}
    for path in files:
        start = path.read_bytes()[:2]
        assert start[:1] != b"\x80" and not zipfile.is_zipfile(path), f"{path.name} looks like a pickle"
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as content:
                assert len(list(content.keys())) > 0 or path.name == "objective.safetensors"
        elif path.suffix == ".json":
            json.loads(path.read_text())
        assert stat.S_IMODE(path.stat().st_mode) == 0o644, f"{path.name} cannot be shared"


def test_a_frozen_teacher_is_not_written(run: Path, tmp_path: Path):
    words = ("teacher.kind=frozen", f"teacher.checkpoint={run}", "optim.steps=1")
    student = checkpoint.find(trained(tmp_path / "student", *words))
    assert not student.has("teacher")
    assert checkpoint.find(run).has("teacher")


def test_a_finished_run_left_nothing_unfinished(run: Path):
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step_00000004", "step_00000006"]
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoints",
        "metrics.jsonl",
        "recipe.yaml",
        "summary.json",
    ]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
@pytest.mark.parametrize("name", ["student.safetensors", "optimizer.safetensors", "state.json", "data_0.json"])
def test_a_damaged_file_is_noticed(name: str, damage: str, run: Path, tmp_path: Path):
    folder = copied(folder_of(run, 6), tmp_path)
    harm(folder / name, damage)
    with pytest.raises(BrokenCheckpoint, match=name):
        checkpoint.verify(folder)


def harm(path: Path, damage: str) -> None:
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[:-1])
    elif damage == "missing":
        path.unlink()
    else:
        content[random.Random(0).randrange(len(content))] ^= 1 << 3
        path.write_bytes(content)


def copied(folder: Path, to: Path) -> Path:
    """A copy that may be harmed."""
    new = to / folder.name
    new.mkdir()
    for path in folder.iterdir():
        (new / path.name).write_bytes(path.read_bytes())
    return new


def test_no_flipped_bit_of_a_manifest_leads_to_another_checkpoint(tmp_path: Path):
    folder = write_small(tmp_path, 4)
    manifest = folder / "manifest.json"
    whole, noticed = manifest.read_bytes(), 0
    for place in range(len(whole)):
        for bit in range(8):
            manifest.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            try:
                assert checkpoint.verify(folder).step == 4
            except ValueError:
                noticed += 1
    assert noticed > 0.8 * 8 * len(whole)  # what is left is blank space and the name of the first key


def test_the_newest_whole_checkpoint_is_used_and_the_broken_one_named(tmp_path: Path):
    for step in (2, 4, 6):
        write_small(tmp_path, step)
    harm(folder_of(tmp_path, 6) / "student.safetensors", "flipped")
    harm(folder_of(tmp_path, 4) / "manifest.json", "missing")
    said: list[str] = []
    found = checkpoint.latest(tmp_path, say=said.append)
    assert found is not None and found.step == 2
    assert len(said) == 2
    assert "step_00000006: student.safetensors does not match its checksum" in said[0]
    assert "step_00000004" in said[1]


def test_without_any_whole_checkpoint_nothing_is_started_over(tmp_path: Path):
    write_small(tmp_path, 2)
    harm(folder_of(tmp_path, 2) / "student.safetensors", "truncated")
    with pytest.raises(ValueError, match=r"none of the 1 checkpoints .* is whole"):
        checkpoint.latest(tmp_path, say=lambda message: None)


def test_a_run_without_checkpoints_starts_from_the_beginning(tmp_path: Path):
    assert checkpoint.latest(tmp_path, say=lambda message: None) is None


def test_a_checkpoint_of_a_newer_format_is_refused_and_not_passed_over(tmp_path: Path):
    write_small(tmp_path, 2)
    manifest = write_small(tmp_path, 4) / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": checkpoint.FORMAT + 1}))
    with pytest.raises(ValueError, match="newer version"):
        checkpoint.latest(tmp_path, say=lambda message: None)


def test_centres_of_the_first_format_are_read_by_the_names_of_today(tmp_path: Path):
    former = {"patch_balance.centre": torch.ones(3), "standardise_cls.mean": torch.zeros(2)}
    checkpoint.write_part(tmp_path, 1, "objective", former)
    checkpoint.write_part(tmp_path, 1, "student", former)
    checkpoint.publish(tmp_path, 1)
    found = checkpoint.find(tmp_path)
    names = {"transfer.prototypes.patch_balance.centre", "transfer.features.standardise_cls.mean"}
    assert set(found.tensors("objective")) == names
    assert set(found.tensors("student")) == set(former)


def test_a_crash_before_publishing_leaves_no_visible_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def crash(*arguments: object) -> None:
        raise KeyboardInterrupt

    write_small(tmp_path, 2)
    monkeypatch.setattr(checkpoint.os, "rename", crash)
    with pytest.raises(KeyboardInterrupt):
        write_small(tmp_path, 4)
    monkeypatch.undo()
    assert checkpoint.all_steps(tmp_path) == [2]
    assert checkpoint.latest(tmp_path, say=pytest.fail).step == 2
    checkpoint.clear_unfinished(tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000002"]


def test_a_run_that_crashed_while_writing_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Path):
    """The crash comes after every file of step 4 was written, and before it is published."""
    recipe = tiny(tmp_path / "run", *EVERY_TWO)
    publish = checkpoint.publish

    def crash(folder: Path, step: int) -> Path:
        if step == 4:
            raise KeyboardInterrupt
        return publish(folder, step)

    monkeypatch.setattr(checkpoint, "publish", crash)
    with pytest.raises(KeyboardInterrupt):
        train_alone(recipe)
    monkeypatch.undo()
    assert checkpoint.all_steps(tmp_path / "run") == [2]
    assert (tmp_path / "run" / "checkpoints" / ".unfinished_00000004").exists()
    assert train_alone(recipe) == 0
    assert same_student(tmp_path / "run", run)


def same_student(one: Path, other: Path) -> bool:
    ours, theirs = (checkpoint.find(folder).tensors("student") for folder in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_publishing_again_replaces_a_broken_checkpoint_of_the_same_step(tmp_path: Path):
    harm(write_small(tmp_path, 2) / "student.safetensors", "flipped")
    write_small(tmp_path, 2)
    assert checkpoint.latest(tmp_path, say=pytest.fail).step == 2


def test_pruning_keeps_the_last_ones_and_the_best(tmp_path: Path):
    for step in (2, 4, 6, 8, 10):
        write_small(tmp_path, step)
    checkpoint.prune(tmp_path, keep=2, best=4, newest=10)
    assert checkpoint.all_steps(tmp_path) == [4, 8, 10]
    checkpoint.prune(tmp_path, keep=1, best=None, newest=10)
    assert checkpoint.all_steps(tmp_path) == [10]


def test_a_broken_checkpoint_ahead_of_the_run_displaces_no_whole_one(tmp_path: Path):
    for step in (10, 12, 20):
        write_small(tmp_path, step)
    checkpoint.prune(tmp_path, keep=1, best=10, newest=12)
    assert checkpoint.all_steps(tmp_path) == [10, 12, 20]


def test_what_was_measured_best_has_a_checkpoint(tmp_path: Path):
    words = ("optim.steps=7", "run.keep=1", "evaluate.tasks=[retrieval]", "evaluate.every=3", "evaluate.num_images=16")
    run = trained(tmp_path / "run", *words)
    best = json.loads((run / "summary.json").read_text())["best"]
    assert best[1] in (3, 6, 7)
    assert checkpoint.all_steps(run) == sorted({best[1], 7})


def test_find_takes_a_run_or_a_checkpoint_folder_and_refuses_others(run: Path, tmp_path: Path):
    assert checkpoint.find(run).step == 6
    assert checkpoint.find(folder_of(run, 4)).step == 4
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="neither a run folder nor a checkpoint folder"):
            checkpoint.find(path)
