"""Two processes are one: the same global batches, losses, gradients and logged numbers, and the same checkpoints."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from accelerate import Accelerator
from tiny_runs import losses, numbers, own_accelerator, start, tiny, trained, words

from distill.exit_codes import DIVERGED, INTERRUPTED
from distill.train import checkpoint, loop

SECONDS = 100
REPOSITORY = Path(__file__).parents[1]
STEPS = ("optim.steps=20",)
# Measured worst case of all numbers in 20 steps of Adam: 8.1e-7.
RELATIVE = 1e-5

CASES = {
    "centre": (),
    "sinkhorn, sigmoid, crops, accumulated": (
        "objective.prototypes.balance=sinkhorn",
        "objective.contrastive.kind=sigmoid",
        "objective.cls.weight=1",
        "data.views.num_local=2",
        "optim.accumulate=2",
    ),
    "head-only, unevenly masked, last blocks": (
        "teacher.scope=head",
        "masking.image_share=0.4",
        "student.image.update=last_k",
        "student.image.last_k=1",
        "student.text.update=freeze",
    ),
    "features, nothing hidden": (
        "teacher.kind=frozen",
        "teacher.checkpoint=@teacher",
        "objective.patch.target=features",
        "masking.ratio=0",
    ),
    "clusters, unevenly masked": (
        "teacher.kind=frozen",
        "teacher.checkpoint=@teacher",
        "objective.patch.target=clusters",
        "objective.prototypes.balance=sinkhorn",
        "masking.image_share=0.4",
    ),
    "phi_s, relations, ladder": (
        "teacher.kind=frozen",
        "teacher.checkpoint=@teacher",
        "objective.patch.target=features",
        "objective.features={standardise: phi_s, gram_weight: 0.5, rkd_weight: 0.5, student_layers: [1]}",
    ),
    "two teachers, balanced and dropped": (
        "teacher.kind=ensemble",
        "teacher.members={a: {checkpoint: @teacher}, b: {checkpoint: @teacher, image_size: 48, weight: 0.5}}",
        "teacher.members.b.features={loss: smooth_l1, standardise: phi_s, cls_weight: 0}",
        "teacher.balance=running_loss",
        "teacher.drop=0.5",
        "objective.patch.target=features",
    ),
    "nobody hears captions or CLS": (
        "teacher.kind=frozen",
        "teacher.checkpoint=@teacher",
        "objective.patch.target=features",
        "objective.features.cls_weight=0",
        "objective.contrastive.weight=0",
    ),
}
"""The last one has parameters that no loss reaches, on which data parallelism would wait for ever."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("teacher") / "run", "optim.steps=2")


def start_ranks(arguments: list[str], *, log: Path | None = None) -> list[BaseProcess]:
    """Two processes with what a launcher would tell them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    told = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [start(arguments, log=log, RANK=rank, LOCAL_RANK=rank, **told) for rank in ("0", "1")]


def ended(children: list[BaseProcess]) -> list[int | None]:
    """Exit codes; a process that does not end is ended, and its code is None."""
    for child in children:
        child.join(SECONDS)
    codes = [child.exitcode for child in children]
    for child in children:
        child.kill()
    return codes


def worst(run: Path, other: Path) -> float:
    """Largest relative difference of all logged numbers but the means over sorts of patches."""
    differences = []
    for ours, theirs in zip(numbers(run), numbers(other), strict=True):
        assert ours.keys() == theirs.keys()
        for key in [key for key in ours if not key.startswith("patch/")]:
            differences.append(abs(ours[key] - theirs[key]) / max(abs(theirs[key]), 1e-6))
    return max(differences)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_losses_of_one(case: str, teacher: Path, tmp_path: Path):
    settings = (*STEPS, *(word.replace("@teacher", str(teacher)) for word in CASES[case]))
    two = start_ranks(words(tmp_path / "two", *settings))
    trained(tmp_path / "one", *settings)
    assert ended(two) == [0, 0]
    assert checkpoint.find(tmp_path / "two").state()["processes"] == 2
    assert len(losses(tmp_path / "two")) == 20
    assert worst(tmp_path / "two", tmp_path / "one") < RELATIVE


LAUNCHERS = {
    "the page for two CPU processes": ["--config_file", "recipes/launch/cpu_2.yaml"],
    "words alone": [
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_accelerate_launches_two_processes_that_are_one(launcher: str, tmp_path: Path):
    command = [Path(sys.executable).parent / "accelerate", "launch", *LAUNCHERS[launcher], "-m", "distill", "train"]
    arguments = ["smoke", *words(tmp_path / "two", "run.device=auto")]
    done = subprocess.run([*command, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    assert checkpoint.find(tmp_path / "two").state()["processes"] == 2
    assert worst(tmp_path / "two", trained(tmp_path / "one")) < RELATIVE


def test_processes_that_would_train_alone_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As accelerate lets them where it was told of GPUs and finds none."""
    with own_accelerator():
        alone = Accelerator(cpu=True)
        monkeypatch.setattr(loop, "Accelerator", lambda **named: alone)
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(ValueError, match="2 processes were started and accelerate joins 1: each would train alone"):
            loop.build_accelerator(tiny(tmp_path))


def test_a_batch_that_does_not_split_over_the_processes_is_refused(tmp_path: Path):
    log = tmp_path / "log"
    two = start_ranks(words(tmp_path / "run", "data.batch_size=6", "optim.accumulate=2"), log=log)
    assert ended(two) == [1, 1]
    assert "does not split over 2 processes and optim.accumulate=2" in log.read_text()
    assert not (tmp_path / "run").exists()


def test_a_request_to_one_process_ends_both_and_one_process_goes_on(tmp_path: Path):
    run, settings = tmp_path / "run", ("optim.steps=300", "objective.prototypes.balance=sinkhorn")
    two = start_ranks(words(run, *settings))
    deadline = time.monotonic() + SECONDS
    while not (run / "metrics.jsonl").exists() or len(losses(run)) < 3:
        assert time.monotonic() < deadline and all(child.is_alive() for child in two)
        time.sleep(0.02)
    os.kill(two[1].pid, signal.SIGTERM)
    assert ended(two) == [INTERRUPTED, INTERRUPTED]
    (reached,) = checkpoint.all_steps(run)
    assert 3 <= reached < 300
    page = (run / "recipe.yaml").read_text()
    alone = start(words(run, *settings))
    while len(losses(run)) < reached + 3:
        assert time.monotonic() < deadline and alone.is_alive()
        time.sleep(0.02)
    alone.terminate()
    assert ended([alone]) == [INTERRUPTED]
    assert (run / "recipe.yaml").read_text() == page
    assert [line["step"] for line in numbers(run)] == list(range(1, checkpoint.all_steps(run)[-1] + 1))


def test_both_processes_end_when_the_loss_is_not_finite(tmp_path: Path):
    two = start_ranks(words(tmp_path / "run", "optim.lr=1e30"), log=tmp_path / "log")
    assert ended(two) == [DIVERGED, DIVERGED]
    said = (tmp_path / "log").read_text()
    assert said.count("stopped: step") == 1 and "not finite" in said


def test_every_process_leaves_its_generators_and_its_place_in_the_data(tmp_path: Path):
    assert ended(start_ranks(words(tmp_path / "run", "optim.steps=1"))) == [0, 0]
    folder = checkpoint.find(tmp_path / "run").folder
    sealed = json.loads((folder / "manifest.json").read_text())["sha256"]
    assert {"rank_0.safetensors", "rank_1.safetensors", "data_0.json", "data_1.json"} <= set(sealed)
