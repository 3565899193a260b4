"""Slurm through submitit, with submitit's own stand-ins for a cluster."""

import sys
import time
from pathlib import Path
from typing import Any

import pytest
from test_study_run import write

from distill.exit_codes import BUSY, FAILED, INTERRUPTED
from distill.study.cells import load_study
from distill.study.jobs import Job, error_of, is_done, jobs_of
from distill.study.run.slurm import Command, SlurmPlace, SlurmRunner
from distill.study.run.work import claimed

submitit = pytest.importorskip("submitit")


def runner_in(folder: Path, **options: Any) -> SlurmRunner:
    words = [write(folder, cells=("base",)), "--to", str(folder / "store")]
    return SlurmRunner(words, folder=folder / "slurm", places=None, settings=["timeout_min=5"], **options)


def job_in(folder: Path) -> Job:
    [job] = jobs_of(load_study(write(folder, cells=("base",))), folder / "store")
    return job


def wait(place: SlurmPlace) -> int:
    for _ in range(400):
        code = place.poll()
        if code is not None:
            return code
        time.sleep(0.25)
    raise AssertionError("the job does not end")


def test_a_job_runs_in_a_process_of_its_own_and_leaves_its_results(tmp_path):
    job = job_in(tmp_path)
    assert wait(runner_in(tmp_path, cluster="local").start(job)) == 0
    assert is_done(job)
    assert "finished" in job.log.read_text()


def test_a_job_that_somebody_else_carries_out_says_so(tmp_path):
    job = job_in(tmp_path)
    with claimed(job):
        assert wait(runner_in(tmp_path, cluster="local").start(job)) == BUSY
    assert not is_done(job)


def test_a_stopped_job_counts_as_interrupted(tmp_path):
    place = runner_in(tmp_path, cluster="local").start(job_in(tmp_path))
    place.stop()
    assert wait(place) == INTERRUPTED


def test_a_job_that_the_cluster_loses_is_a_failure_with_its_reason(tmp_path):
    class Lost:
        job_id = "17"

        def done(self) -> bool:
            return True

        def exception(self) -> Exception:
            return RuntimeError("node failure")

    job = job_in(tmp_path)
    assert SlurmPlace(Lost(), job).poll() == FAILED
    assert error_of(job) == "the Slurm job 17 failed: node failure"


def test_before_a_time_limit_the_same_command_is_queued_again(tmp_path):
    command = Command(["first"], tmp_path / "log.txt")
    again = command.checkpoint()
    assert again.function.words == ["first"]
    assert again.function.log == tmp_path / "log.txt"


def test_settings_have_submitits_names_and_slurms_own(tmp_path):
    words = ["partition=gpu", "timeout_min=30", "gpus_per_node=1", "slurm_comment=study"]
    runner = SlurmRunner(["first"], folder=tmp_path, places=3, settings=words, cluster="debug")
    assert runner.places == 3
    assert runner.executor.parameters["timeout_min"] == 30
    assert runner.executor.parameters["gpus_per_node"] == 1
    with pytest.raises(ValueError, match="key=value"):
        SlurmRunner(["first"], folder=tmp_path, places=3, settings=["partition"], cluster="debug")
    with pytest.raises(ValueError, match="submitit refuses"):
        SlurmRunner(["first"], folder=tmp_path, places=3, settings=["timeout_minutes=3"], cluster="debug")


def test_without_slurm_the_reason_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="submitit refuses"):
        SlurmRunner(["first"], folder=tmp_path, places=None, settings=[])


def test_a_missing_submitit_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ValueError, match=r"running on Slurm needs the package submitit \(extra: slurm\)"):
        runner_in(tmp_path)
