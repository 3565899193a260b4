"""Carrying a study out: order, failures, claims on a job, places on a machine, and being killed."""

import io
import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from rich.console import Console
from safetensors.numpy import save_file

from distill.exit_codes import BUSY
from distill.study.cells import load_study
from distill.study.jobs import Job, error_of, is_done, jobs_of, pack, state_of
from distill.study.measure import measuring_fingerprint
from distill.study.run.live import Watch, duration, glimpse
from distill.study.run.local import LocalRunner, Share, environment_of, shares
from distill.study.run.schedule import Progress, carry_out
from distill.study.run.work import claimed, work

METRIC = "zero_shot_segmentation/value/miou"
STEPS = 8
PAGE: dict[str, Any] = {
    "name": "tiny",
    "title": "Four cells, one of which fails",
    "metrics": {METRIC: "zero-shot mIoU"},
    "scales": {
        "mini": {
            "recipe": "smoke",
            "expect": "a minute",
            "seeds": [0],
            "set": {"optim.steps": STEPS, "evaluate.num_images": 8, "run.checkpoint_every": 2, "run.log_every": 1},
        }
    },
    "cells": [
        {"name": "base", "title": "the teacher"},
        {"name": "student", "title": "", "set": {"teacher.kind": "frozen", "teacher.checkpoint": "cell:base"}},
        {"name": "wide", "title": "", "set": {"student.image.width": 60}},
        {"name": "narrow", "title": "", "set": {"student.image.width": 36}},
        {"name": "broken", "title": "too fast", "set": {"optim.lr": 1e30, "optim.clip": 0}},
        {"name": "orphan", "title": "", "set": {"teacher.kind": "frozen", "teacher.checkpoint": "cell:broken"}},
    ],
}


def write(folder: Path, *, cells: tuple[str, ...] = ("base", "student", "broken", "orphan")) -> str:
    page = {**PAGE, "cells": [cell for cell in PAGE["cells"] if cell["name"] in cells]}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(page, sort_keys=False))
    return str(path)


def jobs_in(folder: Path, **options: Any) -> dict[str, Job]:
    jobs = jobs_of(load_study(write(folder, **options)), folder / "store")
    return {job.cell.name: job for job in jobs}


def finish(job: Job) -> None:
    """Leave what a finished and measured run leaves."""
    (job.folder / "checkpoints" / f"step_{job.recipe.optim.steps:08d}").mkdir(parents=True, exist_ok=True)
    (job.folder / "summary.json").write_text(json.dumps({"seconds": 2.0}))
    measured = measuring_fingerprint(job.recipe)
    save_file({"one": np.zeros(1)}, job.folder / "pictures.safetensors", metadata={"measured": measured})
    (job.folder / "scores.json").write_text(json.dumps({"measured": measured}))


@dataclass
class Actor:
    """A place whose job ends after `polls` looks with `code`."""

    job: Job
    code: int
    polls: int = 2
    stopped: bool = False

    def poll(self) -> int | None:
        self.polls -= 1
        if self.stopped:
            return 75
        if self.polls > 0:
            return None
        if self.code == 0:
            finish(self.job)
        return self.code

    def stop(self) -> None:
        self.stopped = True


@dataclass
class Stage:
    """A runner that plays: `codes` are the exit codes of a cell's attempts, 0 when there are no more."""

    codes: dict[str, list[int]] = field(default_factory=dict)
    places: int = 2
    started: list[str] = field(default_factory=list)
    most: int = 0

    def start(self, job: Job) -> Actor:
        self.started.append(job.cell.name)
        codes = self.codes.get(job.cell.name, [])
        return Actor(job, codes.pop(0) if codes else 0)

    def play(self, jobs: dict[str, Job], stopped: Callable[[], bool] = lambda: False) -> Progress:
        def look(progress: Progress) -> None:
            self.most = max(self.most, len(progress.running))
            waiting = {job.name for job in progress.waiting}
            assert not waiting & (progress.running.keys() | progress.ended.keys())

        return carry_out(list(jobs.values()), runner=self, look=look, stopped=stopped, pause_seconds=0)


def outcomes(progress: Progress) -> dict[str, str]:
    return {job.cell.name: outcome for job, outcome in progress.ended.values()}


def test_a_failed_cell_stops_only_those_that_need_it_and_keeps_its_error(tmp_path):
    jobs = jobs_in(tmp_path)
    stage = Stage({"broken": [3]})
    found = outcomes(stage.play(jobs))
    assert found == {"base": "done", "student": "done", "broken": "failed", "orphan": "blocked"}
    assert stage.started.index("base") < stage.started.index("student")
    assert "orphan" not in stage.started
    assert "not finite" in json.loads((jobs["broken"].folder / "error.json").read_text())["message"]
    assert [state_of(job) for job in jobs.values()] == ["done", "done", "failed", "blocked"]


def test_no_more_jobs_run_at_once_than_there_are_places(tmp_path):
    for places in (1, 2):
        folder = tmp_path / str(places)
        folder.mkdir()
        stage = Stage(places=places)
        stage.play(jobs_in(folder))
        assert stage.most == places


def test_what_is_done_is_not_started_again_and_what_failed_is_tried_again(tmp_path):
    jobs = jobs_in(tmp_path)
    Stage({"broken": [1]}).play(jobs)
    again = Stage()
    assert set(outcomes(again.play(jobs)).values()) == {"done"}
    assert again.started == ["broken", "orphan"]


def test_a_job_that_was_asked_to_end_by_others_goes_on(tmp_path):
    jobs = jobs_in(tmp_path, cells=("base",))
    stage = Stage({"base": [75, 75]})
    assert outcomes(stage.play(jobs)) == {"base": "done"}
    assert stage.started == ["base"] * 3
    endless = Stage({"base": [75] * 9})
    (jobs["base"].folder / "scores.json").unlink()
    assert outcomes(endless.play(jobs)) == {"base": "failed"}


def test_a_killed_job_is_a_failure_that_says_so(tmp_path):
    jobs = jobs_in(tmp_path, cells=("base",))
    Stage({"base": [-9]}).play(jobs)
    assert "ended by signal 9 (no memory left?); its last words: nothing" in error_of(jobs["base"])


def test_a_job_that_ends_well_without_results_is_a_failure(tmp_path, monkeypatch):
    jobs = jobs_in(tmp_path, cells=("base",))
    monkeypatch.setattr("test_study_run.finish", lambda job: None)
    assert outcomes(Stage().play(jobs)) == {"base": "failed"}


def test_an_end_by_sigterm_outside_of_the_training_is_an_interruption(tmp_path):
    stage = Stage({"base": [-15, 0]})
    assert outcomes(stage.play(jobs_in(tmp_path, cells=("base",)))) == {"base": "done"}


def test_an_error_of_an_earlier_call_is_not_told_again(tmp_path):
    jobs = jobs_in(tmp_path, cells=("base",))
    jobs["base"].folder.mkdir(parents=True)
    (jobs["base"].folder / "error.json").write_text('{"message": "CUDA out of memory"}')
    Stage({"base": [2]}).play(jobs)
    assert error_of(jobs["base"]) == "ended with code 2: nothing"
    (jobs["base"].folder / "error.json").write_text("{")
    assert error_of(jobs["base"]) == "an error whose record, error.json, is damaged"


def test_results_count_without_their_checkpoints_unless_somebody_still_needs_one(tmp_path):
    jobs = jobs_in(tmp_path, cells=("base", "student"))
    Stage().play(jobs)
    for job in jobs.values():
        shutil.rmtree(job.folder / "checkpoints")
    idle = Stage()
    assert set(outcomes(idle.play(jobs)).values()) == {"done"}
    assert idle.started == []
    (jobs["student"].folder / "scores.json").unlink()
    shutil.rmtree(jobs["student"].folder)
    anew = Stage()
    assert set(outcomes(anew.play(jobs)).values()) == {"done"}
    assert anew.started == ["base", "student"]


def test_packed_results_count_in_another_store_without_checkpoints(tmp_path):
    jobs = jobs_in(tmp_path, cells=("base", "student"))
    finish(jobs["base"])
    (jobs["base"].folder / "recipe.yaml").write_text("name: x")
    assert pack(list(jobs.values()), tmp_path / "small") == 1
    moved = jobs_of(load_study(write(tmp_path, cells=("base", "student"))), tmp_path / "small")
    assert [is_done(job) for job in moved] == [True, False]
    assert sorted(path.name for path in moved[0].folder.iterdir()) == [
        *("pictures.safetensors", "recipe.yaml", "scores.json", "summary.json")
    ]


def test_files_of_two_measurements_are_no_result(tmp_path):
    job = jobs_in(tmp_path, cells=("base",))["base"]
    finish(job)
    assert is_done(job)
    save_file({"one": np.zeros(1)}, job.folder / "pictures.safetensors", metadata={"measured": "another"})
    assert not is_done(job)
    (job.folder / "scores.json").write_text("[]")
    with pytest.raises(ValueError, match="delete it to measure this run again"):
        is_done(job)


def test_a_job_of_another_process_is_waited_for_and_taken_over(tmp_path):
    jobs = jobs_in(tmp_path, cells=("base",))
    stage = Stage({"base": [BUSY, BUSY, 0]})
    assert outcomes(stage.play(jobs)) == {"base": "done"}
    assert stage.started == ["base"] * 3


def test_being_stopped_asks_running_jobs_to_end_and_starts_nothing_new(tmp_path):
    jobs = jobs_in(tmp_path)
    stage = Stage(places=1)
    found = outcomes(stage.play(jobs, stopped=lambda: bool(stage.started)))
    assert found == {"base": "interrupted"}
    assert stage.started == ["base"]


def test_only_one_process_can_claim_a_job(tmp_path):
    job = jobs_in(tmp_path, cells=("base",))["base"]
    attempt = (
        "from distill.study.jobs import *; from distill.study.cells import *; from distill.study.run.work import *;"
        "from pathlib import Path; import sys;"
        "[job] = jobs_of(load_study(sys.argv[1]), Path(sys.argv[2])); sys.exit(work(job))"
    )
    with claimed(job) as mine:
        assert mine
        assert state_of(job) == "running"
        words = [sys.executable, "-c", attempt, write(tmp_path, cells=("base",)), str(tmp_path / "store")]
        assert subprocess.run(words, check=False).returncode == BUSY
        with claimed(job) as second:
            assert not second
    assert state_of(job) == "new"
    assert not job.folder.exists()


def test_an_error_inside_a_job_is_left_in_its_folder(tmp_path, monkeypatch):
    job = jobs_in(tmp_path, cells=("base",))["base"]

    def fails(recipe: Any) -> int:
        raise RuntimeError("the disk is full\nreally")

    monkeypatch.setattr("distill.train.loop.train", fails)
    assert work(job) == 1
    found = json.loads((job.folder / "error.json").read_text())
    assert found["message"] == "RuntimeError: the disk is full\nreally"
    assert "Traceback" in found["traceback"]


@pytest.mark.parametrize(
    ("workers", "cores", "gpus", "expected"),
    [
        (None, 1, 0, [Share(1, None)]),
        (None, 2, 0, [Share(1, None)] * 2),
        (None, 4, 0, [Share(2, None)] * 2),
        (None, 64, 0, [Share(8, None)] * 8),
        (3, 64, 0, [Share(21, None)] * 3),
        (None, 16, 2, [Share(8, 0), Share(8, 1)]),
        (4, 16, 2, [Share(4, 0), Share(4, 1), Share(4, 0), Share(4, 1)]),
    ],
)
def test_cores_and_gpus_are_shared_out(workers, cores, gpus, expected):
    assert shares(workers=workers, cores=cores, gpus=gpus) == expected


def test_a_worker_sees_its_own_threads_and_gpu_only(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    found = environment_of(Share(3, 1))
    assert found["OMP_NUM_THREADS"] == "3"
    assert found["CUDA_VISIBLE_DEVICES"] == "6"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert environment_of(Share(3, 1))["CUDA_VISIBLE_DEVICES"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert environment_of(Share(None, None))["OMP_NUM_THREADS"] == "7"


def test_a_glimpse_ignores_a_line_that_is_being_written(tmp_path):
    assert glimpse(tmp_path).step == 0
    lines = [json.dumps({"step": 3, "loss": 2.5}), json.dumps({"step": 4, "evaluate/x": 1.0}), '{"step": 5, "los']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert (glimpse(tmp_path).step, glimpse(tmp_path).loss) == (3, 2.5)


def test_the_table_shows_running_failed_and_waiting_cells(tmp_path):
    jobs = jobs_in(tmp_path)
    watch = Watch(list(jobs.values()), title="tiny", places=2)
    jobs["base"].folder.mkdir(parents=True)
    (jobs["base"].folder / "metrics.jsonl").write_text('{"step": 4, "loss": 1.5}\n')
    (jobs["broken"].folder).mkdir(parents=True)
    (jobs["broken"].folder / "error.json").write_text('{"message": "no memory"}')
    progress = Progress(waiting=[jobs["student"]], running={"base-seed0": (jobs["base"], Actor(jobs["base"], 0))})
    progress.ended["broken-seed0"] = (jobs["broken"], "failed")
    watch.look(progress)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(watch.table(progress), watch.footer(progress))
    text = console.export_text()
    assert "training" in text
    assert f"4/{STEPS}" in text
    assert "1.500" in text
    assert "after base" in text
    assert "no memory" in text
    assert "0 of 4 done, 1 failed" in text


def test_without_a_terminal_there_is_a_line_for_every_change_and_none_for_what_was_done_before(tmp_path):
    jobs = jobs_in(tmp_path)
    finish(jobs["base"])
    console = Console(width=200, record=True, file=io.StringIO())
    watch = Watch(list(jobs.values()), title="tiny", places=2, console=console)
    stage = Stage({"broken": [3]})
    carry_out(list(jobs.values()), runner=stage, look=watch.look, stopped=lambda: False, pause_seconds=0)
    lines = console.export_text().splitlines()
    assert lines[0].endswith("1 of 4 runs are done already")
    assert sum("student-seed0 done" in line for line in lines) == 1
    assert sum("broken-seed0 failed: the loss was not finite" in line for line in lines) == 1
    assert not any("base-seed0" in line for line in lines)


def test_durations_are_readable():
    assert [duration(s) for s in (3, 700, 20_000, 900_000)] == ["3 s", "12 min", "5.6 h", "10.4 days"]


def run_words(page: str, store: Path) -> list[str]:
    return [sys.executable, "-m", "distill", "study", "run", page, "--to", str(store), "--workers", "2"]


def scores(store: Path) -> dict[str, Any]:
    """Key to scores and the last losses: what has to be equal, whatever happened on the way."""
    found = {}
    for path in (store / "runs").glob("*/scores.json"):
        lines = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
        losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
        assert sorted(losses) == list(range(1, STEPS + 1))
        found[path.parent.name] = (json.loads(path.read_text())["scores"], losses)
    return found


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("cells", "kills"),
    [(("base", "student"), 3), pytest.param(("base", "student", "wide", "narrow"), 20, marks=pytest.mark.slow)],
)
def test_a_study_killed_again_and_again_ends_with_the_numbers_of_an_undisturbed_one(tmp_path, cells, kills):
    """Everything dies at once, as when a machine goes down; then only the schedule, then a worker; and so on."""
    page = write(tmp_path, cells=cells)
    began = time.monotonic()
    calm = subprocess.run(run_words(page, tmp_path / "calm"), check=False, capture_output=True, text=True)
    whole = time.monotonic() - began
    assert calm.returncode == 0, calm.stderr
    generator = random.Random(0)
    shaken, killed = tmp_path / "shaken", 0
    victims = itertools.cycle(("all", "schedule", "worker"))
    while killed < kills:
        after = whole * generator.uniform(0.2, 0.7)
        if not kill_at_random(run_words(page, shaken), victims=next(victims), after=after):
            # It was done before its time came: a cell is made to be done again.
            shutil.rmtree(generator.choice([job.folder for job in jobs_of(load_study(page), shaken) if is_done(job)]))
            continue
        killed += 1
    last = subprocess.run(run_words(page, shaken), check=False, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    assert scores(shaken) == scores(tmp_path / "calm")
    assert len(scores(shaken)) == len(cells)


def kill_at_random(words: list[str], *, victims: str, after: float) -> bool:
    """Whether there was anything left to kill."""
    process = psutil.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(after)
    if process.poll() is not None:
        return False
    workers = process.children(recursive=True)
    chosen = {"all": [process, *workers], "schedule": [process], "worker": workers[:1] or [process]}[victims]
    for each in chosen:
        each.send_signal(signal.SIGKILL)
    psutil.wait_procs([process, *workers], timeout=60)
    if process.poll() is None:
        process.wait()
    return True


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cell_of_two_processes_is_trained_under_accelerate_and_measured(tmp_path):
    page = write(tmp_path, cells=("base",))
    [job] = jobs_of(load_study(page, overrides=["run.device=cpu"]), tmp_path / "store")
    assert work(job, launch="cpu_2") == 0
    assert is_done(job)
    last = job.folder / "checkpoints" / f"step_{STEPS:08d}" / "state.json"
    assert json.loads(last.read_text())["processes"] == 2


def test_a_failing_cell_is_named_and_the_others_are_reported(tmp_path):
    page = write(tmp_path, cells=("base", "broken"))
    done = subprocess.run(run_words(page, tmp_path / "store"), check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "failed: broken-seed0" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "store" / "tiny-mini" / "report.html").exists()
    status = subprocess.run(
        [sys.executable, "-m", "distill", "study", "status", page, "--to", str(tmp_path / "store")],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "1 done, 1 failed" in status.stdout


def test_local_workers_carry_a_job_out_and_give_their_share_back(tmp_path):
    page = write(tmp_path, cells=("base",))
    [job] = jobs_of(load_study(page), tmp_path / "store")
    runner = LocalRunner([page, "--to", str(tmp_path / "store")], shares=[Share(1, None)])
    place = runner.start(job)
    assert runner.free == []
    assert place.process.wait(timeout=100) == 0
    assert place.poll() == 0
    assert runner.free == [Share(1, None)]
    assert is_done(job)
    assert "finished" in job.log.read_text()
