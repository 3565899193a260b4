"""`distill publish RUN --to FOLDER`: all of it or nothing, each refusal in one sentence, and a card with a picture."""

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny_runs import trained
from tiny_teachers import PARTS, partial

from distill.cli import main
from distill.eval.command import load_encoder
from distill.publish import command, picture, place
from distill.publish.formats import timm
from distill.publish.hub import prepare
from distill.publish.place import whole
from distill.publish.proof import prove as prove_module
from distill.publish.proof.prove import Mismatch
from distill.publish.student import load_subject
from distill.show.views import VIEWS


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "done", "optim.steps=1", "optim.warmup=0")


def spoilt(run: Path, folder: Path, change) -> Path:
    """A copy of the run whose tensors went through `change`, sealed again; its one checkpoint."""
    checkpoint = next((run / "checkpoints").glob("step_*"))
    copied = folder / "checkpoints" / checkpoint.name
    copied.parent.mkdir()
    subprocess.run(["cp", "-r", str(checkpoint), str(copied)], check=True)
    tensors = load_file(copied / "student.safetensors")
    change(tensors)
    save_file(tensors, copied / "student.safetensors")
    reseal(copied, "student.safetensors")
    return copied


def reseal(checkpoint: Path, changed: str, **manifest: int) -> None:
    """Its manifest knows nothing of a file that was changed, and says `manifest`."""
    page = json.loads((checkpoint / "manifest.json").read_text()) | manifest
    page["sha256"].pop(changed, None)
    (checkpoint / "manifest.json").write_text(json.dumps(page))


def test_a_run_is_published_with_its_proof(run, tmp_path, capsys, shared_data):
    target = tmp_path / "new" / "published"
    photos = str(shared_data / "coco_captions" / "images")
    words = ["publish", str(run), "--to", str(target), "--formats", "timm", "--dtype", "fp16", "--photos", photos]
    assert main(words) == 0
    proof = json.loads((target / "proof.json").read_text())
    assert proof["formats"]["timm"]["files"] == ["timm/config.json", "timm/model.safetensors"]
    assert proof["dtype"] == "fp16" and 0 < proof["rounding"]["text"] < 0.01 and proof["image_size"] == 32
    assert proof["num_pictures"] == 8 and proof["pictures"] == "photos of the folder images"
    assert sorted(path.name for path in target.parent.iterdir()) == ["published"]
    assert "timm 1." in capsys.readouterr().out
    tensors, encoder = load_file(target / "timm" / "model.safetensors"), load_encoder(run)[0]
    assert tensors.keys() == encoder.image.model.state_dict().keys()  # no heads, no mask token, no optimiser
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_library_that_says_something_else_stops_the_publication(run, tmp_path, monkeypatch):
    def says_nothing_right(name, words, place):
        save_file({quantity: torch.zeros(8, 48) for quantity in ("cls", "cls2")}, words[2])
        return {"library": "timm", "version": "0"}

    monkeypatch.setattr(prove_module, "_run", says_nothing_right)
    with pytest.raises(Mismatch, match="the timm format gives no patches"):
        command.publish(run, tmp_path / "published", command.Wish(formats=("timm",)))
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_mismatch_stops_the_publication(run, tmp_path, monkeypatch):
    honest = timm.save

    def dishonest(tensors, path, *, dtype):
        honest({name: value + 1e-3 for name, value in tensors.items()}, path, dtype=dtype)

    monkeypatch.setattr(timm, "save", dishonest)
    with pytest.raises(Mismatch, match=r"timm 1\.\S+ makes of the timm format is not the student: it differs in cls"):
        command.publish(run, tmp_path / "new" / "published", command.Wish(formats=("timm",)))
    assert not any(tmp_path.iterdir())


def refused(run: Path, folder: Path, capsys) -> str:
    """What publishing says where it refuses; and that nothing is left of it."""
    before = sorted(folder.rglob("*"))
    assert main(["publish", str(run), "--to", str(folder / "new" / "published"), "--formats", "timm"]) == 2
    assert sorted(folder.rglob("*")) == before
    (message,) = capsys.readouterr().err.splitlines()
    return message


def test_a_name_too_long_for_the_disk_is_one_sentence_and_leaves_nothing(run, tmp_path, capsys):
    # 240 letters are a name, but not with the ending of what is unfinished.
    target = tmp_path / "new" / ("a" * 240)
    assert main(["publish", str(run), "--to", str(target), "--formats", "timm"]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("distill: error: File name too long: ") and not any(tmp_path.iterdir())


def test_bad_runs_are_refused_in_one_sentence(run, tmp_path, capsys):
    assert "is neither a run folder nor" in refused(tmp_path, tmp_path, capsys)
    broken = spoilt(run, tmp_path, lambda tensors: tensors["encoder.image.model.norm.bias"][3:5].fill_(torch.nan))
    assert "image.model.norm.bias holds NaN or infinity; the run has kept no earlier" in refused(
        tmp_path, tmp_path, capsys
    )
    recipe = (broken / "recipe.yaml").read_text()
    (broken / "recipe.yaml").write_text(recipe.replace("steps: 1\n", "steps: 9\n"))
    reseal(broken, "recipe.yaml")
    message = refused(tmp_path, tmp_path, capsys)
    assert "is of step 1 of 9: this run is not finished" in message and f"or publish {broken} as it is" in message
    reseal(broken, "recipe.yaml", format=99)
    assert "was written by a newer version (format 99" in refused(tmp_path, tmp_path, capsys)


def test_an_earlier_checkpoint_is_published_where_it_is_named(tmp_path, capsys):
    words = ("optim.steps=2", "optim.warmup=0", "run.checkpoint_every=1", "evaluate.tasks=[]")
    run = trained(tmp_path / "run", *words)
    first, last = (run / "checkpoints" / f"step_{step:08d}" for step in (1, 2))
    tensors = load_file(last / "student.safetensors")
    tensors["encoder.image.model.norm.bias"][:] = torch.inf
    save_file(tensors, last / "student.safetensors")
    reseal(last, "student.safetensors")
    capsys.readouterr()
    message = refused(run, tmp_path, capsys)
    assert message.endswith(f"norm.bias holds NaN or infinity; publish an earlier checkpoint, such as {first}")
    assert main(["publish", str(first), "--to", str(tmp_path / "published"), "--formats", "timm", "--no-picture"]) == 0
    assert "these are the weights of step 1 of 2, and the card says so" in capsys.readouterr().out
    card = (tmp_path / "published" / "README.md").read_text()
    assert "for 1 step, of 2 that the whole training has" in card and "seconds for all its 2 steps on " in card


def test_a_teacher_that_learnt_nothing_is_not_published(run, tmp_path, capsys):
    fewer = ("optim.steps=1", "optim.warmup=0", "evaluate.tasks=[]")
    taught = trained(tmp_path / "taught", *fewer, "teacher.kind=frozen", f"teacher.checkpoint={run}")
    capsys.readouterr()
    assert main(["publish", str(taught), "--to", str(tmp_path / "out"), "--side", "teacher"]) == 2
    assert f"--side teacher: the teacher of {taught} is frozen and learnt nothing" in capsys.readouterr().err


def test_what_does_not_fit_into_fp16_is_said(run, tmp_path, capsys):
    large = spoilt(run, tmp_path, lambda tensors: tensors["encoder.image.model.norm.bias"][0].fill_(1e6))
    words = ["publish", str(large), "--to", str(tmp_path / "out"), "--formats", "timm", "--dtype", "fp16"]
    assert main(words) == 2
    assert "in fp16: image.model.norm.bias holds NaN or infinity; choose --dtype bf16 or fp32" in (
        capsys.readouterr().err
    )


def test_results_that_cannot_be_read_are_named_before_the_work_and_earlier_ones_after(
    run, tmp_path, capsys, monkeypatch
):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "eval" / "scenes").mkdir(parents=True)
    (copy / "eval" / "notes.json").write_text('{"of": "mine"}')
    (copy / "eval" / "list.json").write_text("[]")
    (copy / "eval" / "scenes" / "eval.json").write_text('{"format": 0, "encoders": []}')
    words = ["publish", str(copy), "--to", str(tmp_path / "out"), "--formats", "timm", "--no-picture"]
    assert main(words) == 0
    assert "\neval/scenes/eval.json is of an earlier version of distill and not in the card" in capsys.readouterr().out
    (copy / "eval" / "broken.json").write_text('{"format": ')
    monkeypatch.setattr(command, "whole", lambda target: pytest.fail("work was begun"))
    assert main([*words[:3], str(tmp_path / "other"), *words[4:]]) == 2
    assert "broken.json cannot be read" in capsys.readouterr().err


def test_a_card_speaks_of_the_text_tower_where_some_format_holds_it(run, tmp_path):
    words = ["publish", str(run), "--no-picture", "--to"]
    assert main([*words, str(tmp_path / "image"), "--formats", "timm"]) == 0
    card = (tmp_path / "image" / "README.md").read_text()
    assert "pipeline_tag: image-feature-extraction" in card and "done is an image encoder." in card
    assert " texts. Below" not in card and "- It has no text tower" in card
    assert "The text tower that it was trained beside is not here." in card
    assert main([*words, str(tmp_path / "both"), "--formats", "timm,open_clip"]) == 0
    card = (tmp_path / "both" / "README.md").read_text()
    assert "pipeline_tag: zero-shot-image-classification" in card and "done is a pair of encoders" in card
    assert ", and 5 texts. Below" in card and "no text tower" not in card and "is not here" not in card


def test_photos_are_named_by_their_folder_and_a_broken_one_by_its_file(run, tmp_path, capsys, monkeypatch):
    photos = tmp_path / "shots"
    photos.mkdir()
    Image.linear_gradient("L").save(photos / "a.png")
    monkeypatch.chdir(photos)
    words = ["publish", str(run), "--formats", "timm", "--photos", ".", "--to"]
    assert main([*words, str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "photos of the folder shots of 32" in said and "features.png shows photos of the folder shots:" in said
    (photos / "b.png").write_text("no picture")
    assert main([*words, str(tmp_path / "other")]) == 2
    assert "--photos: b.png cannot be read as a picture; remove or repair it\n" in capsys.readouterr().err


def test_the_row_before_training_is_what_was_published_before_its_first_step(run, tmp_path, monkeypatch):
    fewer = ("optim.steps=1", "optim.warmup=0", "evaluate.tasks=[]", "student.text.kind=none")
    partly = trained(tmp_path / "partly", *fewer, *partial(run, *PARTS["blocks"]), "objective.contrastive.weight=0")
    for side, given, start in (("student", run, (run, "untrained")), ("teacher", partly, (run, "student"))):
        rows: list[list] = []
        monkeypatch.setitem(
            picture.VIEWS, "pca", replace(VIEWS["pca"], show=lambda models, *_, kept=rows: kept.append(models))
        )
        monkeypatch.setattr(picture, "draw", lambda *_: None)
        subject = load_subject(given, side=side)
        assert picture.draw_features(subject, None, tmp_path / "features.png").missing is None
        ((now, before),) = rows
        expected = load_encoder(*start)[0].image.state_dict()
        assert now.encoder is subject.encoder and before.title == "before training"
        found = before.encoder.image.state_dict()
        assert all(torch.equal(found[name], value) for name, value in expected.items())
        assert any(not torch.equal(found[name], value) for name, value in now.encoder.image.state_dict().items())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--picture", "{}/none.png"], "--picture {}/none.png: no such file"),
        (["--picture", "{}/text"], "{}/text is no PNG"),
        (["--picture", "{}/text", "--no-picture"], "--picture and --no-picture contradict each other"),
        (["--licence-text", "{}/none"], "--licence-text {}/none: no such file"),
        (["--licence-text", "{}/noise"], "--licence-text {}/noise is no text in UTF-8"),
        (["--licence-text", "{}/empty"], "--licence-text {}/empty is empty"),
        (["--licence", "apache2"], "--licence apache2: the hub knows no such licence"),
        (["--licence", "lab-terms"], "its text has to go along, with --licence-text FILE"),
        (["--page", "{}/none.yaml"], "'{}/none.yaml': no such file"),
        (["--data", "a b"], "a b is no name of the hub"),
        (["--push", "alone"], "alone is no name of the hub, which look like OWNER/NAME"),
        (["--max-shard-size", "1"], "--max-shard-size 1: expected a whole number and its unit"),
        (["--max-shard-size", "1GB", "--formats", "timm"], "--max-shard-size 1GB is heard by models of transformers'"),
    ],
)
def test_options_that_cannot_be_heard_are_refused_before_the_work(run, tmp_path, capsys, monkeypatch, words, told):
    (tmp_path / "text").write_text("no picture")
    (tmp_path / "noise").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty").write_text(" \n")
    monkeypatch.setattr(command, "whole", lambda target: pytest.fail("work was begun"))
    given = [word.format(tmp_path) for word in words]
    assert main(["publish", str(run), "--to", str(tmp_path / "out"), *given]) == 2
    assert told.format(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGHUP])
def test_who_is_asked_to_end_leaves_nothing(run, tmp_path, capsys, monkeypatch, asked):
    def ended(name, cases):
        (left,) = tmp_path.iterdir()
        assert left.name.startswith(".published.") and left.name.endswith(".unfinished")
        os.kill(os.getpid(), asked)
        time.sleep(60)

    monkeypatch.setattr(command, "prove", ended)
    before = signal.signal(asked, signal.SIG_DFL)  # whoever runs the tests may ignore it
    try:
        assert main(["publish", str(run), "--to", str(tmp_path / "published"), "--formats", "timm"]) == 130
        assert not any(tmp_path.iterdir()) and signal.getsignal(asked) is signal.SIG_DFL
    finally:
        signal.signal(asked, before)


def test_what_a_killed_publication_left_goes_with_the_next(tmp_path):
    dead, other = tmp_path / f".out.{'0' * 12}.unfinished", tmp_path / f".outer.{'0' * 12}.unfinished"
    for folder in (dead, other):
        (folder / "timm").mkdir(parents=True)
    with whole(tmp_path / "out"):
        assert not dead.exists() and other.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "out"]


@pytest.mark.parametrize("full", [True, False])
def test_of_two_publications_of_one_place_the_later_is_told(tmp_path, full):
    told = r"out was made meanwhile by somebody else; nothing was published$"
    with pytest.raises(ValueError, match=told), whole(tmp_path / "out") as first:
        with whole(tmp_path / "out") as second:  # neither takes the other's for one that was killed
            assert first.exists() and second.exists()
            if full:
                (second / "timm").mkdir()
        (first / "onnx").mkdir()
    assert [path.name for path in tmp_path.rglob("*")] == (["out", "timm"] if full else ["out"])


def test_a_folder_that_is_just_begun_is_not_swept(tmp_path, monkeypatch):
    """Between its making and its lock another publication of the same place may look."""
    honest = place._held

    def looked_at_before(folder):
        if folder.suffix == ".begun":
            place._sweep(tmp_path / "out")
        return honest(folder)

    monkeypatch.setattr(place, "_held", looked_at_before)
    with whole(tmp_path / "out") as folder:
        place._sweep(tmp_path / "out")
        assert folder.exists()


def test_who_ignores_a_closed_terminal_goes_on(monkeypatch):
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with place.interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_card_shows_what_the_student_sees(run, tmp_path, capsys, shared_data):
    words = ["publish", str(run), "--formats", "timm", "--to"]
    assert main([*words, str(tmp_path / "scenes")]) == 0
    assert "features.png" not in capsys.readouterr().out
    card = (tmp_path / "scenes" / "README.md").read_text()
    assert "](features.png)" in card and "Below are those that it had before its training." in card
    with Image.open(tmp_path / "scenes" / "features.png") as picture:
        assert picture.width == 1350
    photos = ["--photos", str(shared_data / "coco_captions")]
    assert main([*words, str(tmp_path / "photos"), *photos]) == 0
    said = capsys.readouterr().out
    assert (
        "features.png shows photos of the folder coco_captions: give it on only if you may; --no-picture leaves it out"
        in said
    )
    assert any(
        "shows photos of the folder coco_captions" in each
        for each in prepare(tmp_path / "photos", "a/b", private=True).warnings
    )
    assert main([*words, str(tmp_path / "none"), *photos, "--no-picture"]) == 0
    assert not (tmp_path / "none" / "features.png").exists()
    assert "features.png" not in (tmp_path / "none" / "README.md").read_text() + capsys.readouterr().out


@pytest.mark.parametrize(
    "problem",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_disk_that_fills_up_is_one_sentence(run, tmp_path, capsys, monkeypatch, problem):
    def full(tensors, path, *, dtype):
        path.write_bytes(b"half")
        raise problem

    monkeypatch.setattr(timm, "save", full)
    assert "is full; nothing was published" in refused(run, tmp_path, capsys)


def test_a_small_disk_is_left_as_it_was(run, tmp_path, capsys, monkeypatch):
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("this user may not mount a file system")
    try:
        assert "is too full: 0 MB are free" in refused(run, place, capsys)
        monkeypatch.setattr(command, "check_room", lambda *arguments: None)
        assert "is full; nothing was published" in refused(run, place, capsys)
    finally:
        subprocess.run(["umount", str(place)], check=True)
