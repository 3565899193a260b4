"""A run that ends early, however it ends, goes on as if nothing had happened, or says why it does not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from tiny_data import TAR_COLUMNS, rows, write_tars
from tiny_runs import losses, numbers, own_accelerator, start, tiny, to_the_bit, train_alone, trained, words

from distill.cli import main
from distill.exit_codes import DIVERGED, FINISHED, INTERRUPTED
from distill.train import checkpoint
from distill.train.loop import Training

STEPS = 14
BASE = (f"optim.steps={STEPS}", "run.checkpoint_every=2")
RANDOM = ("data.views.flip=0.5", "data.views.global_scale=[0.4, 1.0]", "student.image.extra={drop_path_rate: 0.2}")
"""What draws random numbers during a run: the data from the step, stochastic depth from torch's generator."""
KINDS = {
    "full momentum, adamw": (*RANDOM,),
    "full momentum, adafactor, sinkhorn": ("optim.name=adafactor", "objective.prototypes.balance=sinkhorn"),
    "head-only momentum, adamw, crops": ("teacher.scope=head", "objective.cls.weight=1", "data.views.num_local=2"),
    "head-only momentum, adafactor": ("teacher.scope=head", "optim.name=adafactor", *RANDOM),
    "evaluated": ("evaluate.tasks=[retrieval]", "evaluate.every=3", "evaluate.num_images=8", *RANDOM),
}
SECONDS = 60
"""After which a child that does nothing is a failure."""


def kill_at_random(child: BaseProcess, run: Path, draw: random.Random) -> bool:
    """SIGKILL after some more lines in the journal and a moment; False when the run was faster."""
    wanted, deadline = count_lines(run) + draw.randint(1, 4), time.monotonic() + SECONDS
    while child.is_alive() and count_lines(run) < wanted:
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.001)
    time.sleep(draw.uniform(0, 0.05))
    child.kill()
    child.join()
    return child.exitcode == -signal.SIGKILL


def count_lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def same_weights(one: Path, other: Path, *, names: tuple[str, ...]) -> bool:
    for name in names:
        ours, theirs = checkpoint.find(one).tensors(name), checkpoint.find(other).tensors(name)
        if ours.keys() != theirs.keys() or not all(torch.equal(ours[key], theirs[key]) for key in ours):
            return False
    return True


def killed_until_finished(arguments: list[str], run: Path, *, seed: int) -> int:
    """Carry out a run that is killed again and again; how often it was."""
    draw, kills = random.Random(seed), 0
    while kills < 4 and kill_at_random(start(arguments), run, draw):
        kills += 1
    child = start(arguments)
    child.join(SECONDS)
    assert child.exitcode == FINISHED
    return kills


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_at_random_moments_goes_on_to_the_bit(kind: str, tmp_path: Path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    child = start(words(whole, *BASE, *KINDS[kind]))
    kills = killed_until_finished(words(killed, *BASE, *KINDS[kind]), killed, seed=len(kind))
    child.join(SECONDS)
    assert kills >= 2, "the run was too fast to be killed"
    assert len(losses(killed)) == STEPS
    assert to_the_bit(killed) == to_the_bit(whole)
    assert same_weights(killed, whole, names=("student", "teacher", "optimizer", "objective"))
    summaries = [json.loads((run / "summary.json").read_text()) for run in (whole, killed)]
    for summary in summaries:
        for cost in ("seconds", "seconds_per_step", "peak_bytes", "evaluations"):
            summary.pop(cost)
        for cost in ("evaluate_seconds", "evaluate_share"):
            summary["scores"].pop(cost, None)
    assert summaries[0] == summaries[1]


def test_a_killed_run_on_a_stream_goes_on_to_the_bit(tmp_path: Path):
    """The stream's place is part of the checkpoint: its shuffling blocks straddle the steps."""
    (tmp_path / "tars").mkdir()
    write_tars(tmp_path / "tars", rows(40), num_shards=2)
    columns = ", ".join(f"{kind}: {column}" for kind, column in TAR_COLUMNS.items())
    stream = ["data.source=dataset", "data.dataset.format=webdataset", f"data.dataset.path={tmp_path}/tars"]
    stream += [f"data.dataset.columns={{{columns}}}", "data.dataset.streaming=true", "data.dataset.shuffle_buffer=12"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert killed_until_finished(words(killed, *BASE, *stream), killed, seed=1) >= 2
    trained(whole, *BASE, *stream)
    assert to_the_bit(killed) == to_the_bit(whole)


@pytest.fixture(scope="module")
def command_line(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """A run by `python -m distill` that was asked to end in its middle: folder, exit code, what it said."""
    run = tmp_path_factory.mktemp("terminated") / "run"
    arguments = words(run, "optim.steps=2000")
    command = [sys.executable, "-m", "distill", "train", "smoke", *arguments]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    deadline = time.monotonic() + SECONDS
    while count_lines(run) < 3 and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.terminate()
    _, said = child.communicate(timeout=SECONDS)
    return run, child.returncode, said


def test_a_request_to_end_writes_a_checkpoint_and_exits_with_75(command_line: tuple[Path, int, str]):
    run, code, said = command_line
    assert code == INTERRUPTED == 75, said
    assert "the same command goes on" in said and "Traceback" not in said
    reached = numbers(run)[-1]["step"]
    assert 3 <= reached < 2000
    assert checkpoint.all_steps(run) == [reached]


def test_after_a_request_to_end_the_run_goes_on_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = trained(tmp_path / "whole", *BASE)
    log = Training._log

    def terminate_at_5(training: Training, *arguments: object) -> None:
        log(training, *arguments)
        if training.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    recipe = tiny(tmp_path / "ended", *BASE)
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Training, "_log", terminate_at_5)
    assert train_alone(recipe) == INTERRUPTED
    assert signal.getsignal(signal.SIGTERM) is handler
    assert checkpoint.all_steps(tmp_path / "ended") == [4, 5]
    assert not (tmp_path / "ended" / "summary.json").exists()
    monkeypatch.undo()
    assert train_alone(recipe) == FINISHED
    assert to_the_bit(tmp_path / "ended") == to_the_bit(whole)
    assert same_weights(tmp_path / "ended", whole, names=("student", "teacher", "optimizer", "objective"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    evaluated = ("evaluate.tasks=[retrieval]", "evaluate.num_images=8")
    return trained(tmp_path_factory.mktemp("finished") / "run", "run.checkpoint_every=2", *evaluated)


def again(run: Path, *overrides: str) -> list[str]:
    evaluated = ("evaluate.tasks=[retrieval]", "evaluate.num_images=8")
    return ["train", "smoke", *words(run, "run.checkpoint_every=2", *evaluated, *overrides)]


def test_a_run_that_never_took_a_step_may_be_started_with_another_recipe(tmp_path: Path):
    missing = ("teacher.kind=frozen", f"teacher.checkpoint={tmp_path}/nowhere")
    with own_accelerator():
        assert main(["train", "smoke", *words(tmp_path / "run", *missing)]) == 2
    assert (tmp_path / "run" / "recipe.yaml").exists()
    with own_accelerator():
        assert main(["train", "smoke", *words(tmp_path / "run", "optim.steps=1")]) == 0


def test_another_recipe_in_the_same_folder_is_refused_with_a_diff(finished: Path, capsys: pytest.CaptureFixture):
    before = to_the_bit(finished), (finished / "recipe.yaml").read_text()
    assert main(again(finished, "optim.lr=0.1", "teacher.scope=head")) == 2
    said = capsys.readouterr().err
    assert "was started with a different recipe" in said and "run.name=NAME" in said
    assert "optim.lr: 0.0015 -> 0.1" in said and 'teacher.scope: "encoder_and_head" -> "head"' in said
    assert before == (to_the_bit(finished), (finished / "recipe.yaml").read_text())


def test_a_finished_run_given_again_stays_as_it_is(finished: Path):
    before = [(finished / name).read_text() for name in ("metrics.jsonl", "summary.json")]
    recipe = tiny(finished, *again(finished)[2:])
    assert train_alone(recipe) == FINISHED
    assert [(finished / name).read_text() for name in ("metrics.jsonl", "summary.json")] == before


def test_settings_of_the_run_may_differ_when_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = trained(tmp_path / "whole", *BASE)
    run = tmp_path / "run"
    child = start(words(run, *BASE))
    kill_at_random(child, run, random.Random(3))
    different = ("run.workers=3", "run.prefetch=1", "run.keep=1", "run.checkpoint_every=5", "run.log_every=1")
    trained(run, *BASE, *different)
    assert to_the_bit(run) == to_the_bit(whole)


@pytest.mark.parametrize("damage", [0.5, None], ids=["truncated", "flipped"])
def test_a_damaged_checkpoint_is_passed_over_and_the_run_is_the_same(
    damage: float | None, tmp_path: Path, capsys: pytest.CaptureFixture
):
    run = trained(tmp_path / "run", "run.checkpoint_every=2")
    # Copies: loaded tensors lie in the file that is about to be damaged.
    whole = to_the_bit(run)
    student = {name: value.clone() for name, value in checkpoint.find(run).tensors("student").items()}
    (run / "summary.json").unlink()
    file = checkpoint.folder_of(run, 6) / "student.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content if damage is None else content[: int(damage * len(content))])
    capsys.readouterr()
    trained(run, "run.checkpoint_every=2")
    said = "".join(capsys.readouterr())
    assert "passing over a broken checkpoint" in said and "student.safetensors does not match" in said
    assert "going on after step 4" in said
    assert to_the_bit(run) == whole
    assert all(torch.equal(student[name], value) for name, value in checkpoint.find(run).tensors("student").items())


def test_without_a_whole_checkpoint_the_command_refuses(tmp_path: Path, capsys: pytest.CaptureFixture):
    run = trained(tmp_path / "run", "optim.steps=2")
    (checkpoint.folder_of(run, 2) / "optimizer.safetensors").write_bytes(b"")
    assert main(["train", "smoke", *words(run, "optim.steps=2")]) == 2
    assert "none of the 1 checkpoints" in capsys.readouterr().err


def diverge(run: Path, *overrides: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """A run whose weights are poisoned after step 4."""
    log = Training._log

    def poison(training: Training, *arguments: object) -> None:
        log(training, *arguments)
        if training.step == 4:
            with torch.no_grad():
                next(training.parts.learner.encoder.image.parameters()).fill_(float("nan"))

    monkeypatch.setattr(Training, "_log", poison)
    code = train_alone(tiny(run, "run.checkpoint_every=3", "optim.steps=9", *overrides))
    monkeypatch.undo()
    return code


@pytest.mark.parametrize(
    "overrides", [(), ("optim.accumulate=2",), ("run.log_every=9",)], ids=lambda words: "".join(words)
)
def test_a_loss_that_is_not_finite_ends_the_run_with_3(
    overrides: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    run = tmp_path / "run"
    if overrides == ("run.log_every=9",):
        overrides = (*overrides, "optim.lr=1e30")
        code = train_alone(tiny(run, "run.checkpoint_every=3", "optim.steps=9", "optim.warmup=0.4", *overrides))
    else:
        code = diverge(run, *overrides, monkeypatch=monkeypatch)
        assert numbers(run)[-1]["step"] == 4
        assert checkpoint.all_steps(run) == [3]
        assert all(value.isfinite().all() for value in checkpoint.find(run).tensors("student").values())
    assert code == DIVERGED == 3
    said = capsys.readouterr().err
    assert "stopped: step " in said and "samples of the batch: scene " in said and "last good checkpoint" in said
    assert "contrastive/first" in said and "gradient norm" in said and "not finite" in said


def test_a_diverged_run_that_is_given_again_goes_on_from_its_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = tmp_path / "run"
    assert diverge(run, monkeypatch=monkeypatch) == DIVERGED
    trained(run, "run.checkpoint_every=3", "optim.steps=9")
    assert to_the_bit(run) == to_the_bit(trained(tmp_path / "whole", "run.checkpoint_every=3", "optim.steps=9"))
