"""`distill data caption`: captioners of three kinds, tables that training reads, and what goes wrong."""

import json
import shlex
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tiny_captioners import WORDS, WRITERS
from tiny_data import picture_bytes, rows, write_folder, write_parquet
from tiny_runs import losses, train_alone

from distill import cli
from distill.captioning import work
from distill.captioning.captioner import Captioner, Question
from distill.captioning.pictures import SOURCE, Asked, open_pictures
from distill.captioning.prompts import NAMED, Prompt, named_prompt
from distill.captioning.tables import Shards
from distill.config import Columns, Data, Dataset, load_recipe
from distill.data.sources import open_source

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write(tmp_path_factory.mktemp("captioners") / name) for name, write in WRITERS.items()}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eight pictures in two folders, nothing known of them."""
    folder = tmp_path / "photos"
    for number in range(8):
        file = folder / ("even" if number % 2 == 0 else "odd") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture_bytes(number))
    return folder


def caption(pictures: Path, model: Path, *words: str | Path, granularity: str = "short") -> int:
    given = ["data", "caption", pictures, "--model", model, "--granularity", granularity, "--max-tokens", "5", *words]
    return cli.main([str(word) for word in given])


def read(folder: Path) -> list[dict]:
    return [row for shard in sorted(folder.glob("*.parquet")) for row in pq.read_table(shard).to_pylist()]


def picture(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", WRITERS)
def test_a_captioner_writes_words_that_depend_on_the_picture(kind: str, models: dict[str, Path]) -> None:
    captioner = Captioner(models[kind], device=CPU, max_tokens=5)
    texts = captioner.captions([Question(picture(number)) for number in range(6)])
    assert len(set(texts)) > 1 and all(set(text.split()) <= set(WORDS) and text for text in texts)
    assert texts == captioner.captions([Question(picture(number)) for number in range(6)])


@pytest.mark.parametrize("kind", ["blip", "chat"])
def test_prompts_of_any_length_are_answered_as_if_asked_alone_and_are_no_part_of_the_answer(
    kind: str, models: dict[str, Path]
) -> None:
    captioner = Captioner(models[kind], device=CPU, max_tokens=5)
    questions = [Question(picture(number), "the", "dog " * (number + 1)) for number in range(3)]
    alone = [captioner.captions([question])[0] for question in questions]
    assert captioner.captions(questions) == alone
    assert all(len(text.split()) <= 5 for text in alone)


def test_a_model_that_takes_no_prompt_says_so(models: dict[str, Path], photos: Path, tmp_path: Path, capsys) -> None:
    assert caption(photos, models["encoder_decoder"], "--prompt", "a photo of", "--to", tmp_path / "out") == 2
    assert "takes no prompt" in capsys.readouterr().err


def test_a_caption_of_the_web_cannot_pass_for_a_picture(models: dict[str, Path]) -> None:
    captioner = Captioner(models["chat"], device=CPU, max_tokens=3)
    assert captioner.without_control("a <image> dog[PAD]").split() == ["a", "dog"]


def test_the_prompt_of_tipsv2_quotes_the_alt_text_and_the_earlier_caption() -> None:
    prompt = named_prompt("tipsv2")
    assert prompt.text == NAMED["tipsv2"] and prompt.wanted == ("alt", "short")
    before, after = prompt.around({"alt": "IMG {short} 7", "short": "a dog"})
    assert before.endswith("Image:") and "1. IMG {short} 7\n2. a dog\n" in after


@pytest.mark.parametrize("text", ["of {colour}", "{image} and {image}"])
def test_a_prompt_with_places_that_mean_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--prompt"):
        Prompt(text)


def test_pictures_of_a_folder_go_into_a_table_that_needs_the_folder_no_more(
    models: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert caption(photos, models["blip"], "--to", tmp_path / "out") == 0
    table = read(tmp_path / "out")
    assert [row[SOURCE] for row in table] == [f"even/{n}.png" for n in (0, 2, 4, 6)] + [
        f"odd/{n}.png" for n in (1, 3, 5, 7)
    ]
    assert all(row["short"] and row["image"]["bytes"] == (photos / row[SOURCE]).read_bytes() for row in table)
    printed = capsys.readouterr()
    assert "8 of 8 captioned" in printed.err and "pictures/s" in printed.err
    assert "data.dataset.columns.short=short" in printed.out


def test_a_second_granularity_is_asked_for_with_the_first_and_training_reads_both(
    models: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    write_folder(photos, rows(8))
    for number in range(8):
        (photos / f"{number:03d}.png").unlink()
    lines = [{"file_name": f"{'even' if n % 2 == 0 else 'odd'}/{n}.png", "alt": f"photo {n}"} for n in range(8)]
    (photos / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert caption(photos, models["blip"], "--to", tmp_path / "one") == 0
    asked = ["--prompt", "tipsv2", "--to", tmp_path / "two"]
    assert caption(tmp_path / "one", models["chat"], *asked, granularity="detailed") == 0
    table = read(tmp_path / "two")
    assert len(table) == 8 and all(row["alt"] and row["short"] and row["detailed"] for row in table)
    words = ["data.source=dataset", "data.dataset.format=parquet", f"data.dataset.path={tmp_path / 'two'}"]
    words += [f"data.dataset.columns.{kind}={kind}" for kind in ("alt", "short", "detailed")]
    assert train_two_steps(tmp_path, *words) == 2


def train_two_steps(folder: Path, *words: str) -> int:
    """How many steps a recipe took whose contrastive loss reads the captions."""
    settings = [f"run.folder={folder}", "run.name=run", "run.log_every=1", "optim.steps=2", "data.batch_size=4"]
    recipe = load_recipe("smoke", [*settings, "run.device=cpu", "precision=fp32", *words])
    assert recipe.objective.contrastive.weight > 0
    assert train_alone(recipe) == 0
    return len(losses(folder / "run"))


def test_captions_in_place_keep_what_was_known_and_training_reads_them(models: dict[str, Path], tmp_path: Path) -> None:
    write_folder(tmp_path, rows(6))
    before = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert caption(tmp_path, models["blip"], "--in-place") == 0
    after = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert all(line.pop("short") for line in after) and after == before
    words = ["data.source=dataset", f"data.dataset.path={tmp_path}", "data.dataset.columns.short=short"]
    assert train_two_steps(tmp_path, *words) == 2


def test_a_killed_captioning_goes_on_with_what_is_missing(
    models: dict[str, Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "ROWS_PER_SHARD", 2)
    write = Shards.add

    def dies(self, captioned, schema):
        if self.next_number == 2:
            raise KeyboardInterrupt
        write(self, captioned, schema)

    monkeypatch.setattr(Shards, "add", dies)
    assert caption(photos, models["blip"], "--batch-size", "2", "--to", tmp_path / "out") == 130
    monkeypatch.setattr(Shards, "add", write)
    shards = {shard: shard.stat().st_mtime_ns for shard in (tmp_path / "out").glob("*.parquet")}
    assert len(shards) == 2 and not json.loads((tmp_path / "out/captioning-short.json").read_text())["finished"]
    asked: list[int] = []
    captions = Captioner.captions
    monkeypatch.setattr(Captioner, "captions", lambda self, all: asked.append(len(all)) or captions(self, all))
    assert caption(photos, models["blip"], "--batch-size", "2", "--to", tmp_path / "out") == 0
    assert sum(asked) == 4 and all(shard.stat().st_mtime_ns == written for shard, written in shards.items())
    assert caption(photos, models["blip"], "--to", tmp_path / "whole") == 0
    assert read(tmp_path / "out") == read(tmp_path / "whole")
    assert not list((tmp_path / "out").glob(".*unfinished"))
    (photos / "odd" / "9.png").write_bytes(picture_bytes(9))
    assert caption(photos, models["blip"], "--to", tmp_path / "out") == 0
    assert len(read(tmp_path / "out")) == 9 and sum(asked) == 4 + 8 + 1


def test_an_interruption_loses_no_caption_that_was_made(
    models: dict[str, Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions, calls = Captioner.captions, []

    def interrupted(self, questions):
        calls.append(len(questions))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return captions(self, questions)

    monkeypatch.setattr(Captioner, "captions", interrupted)
    assert caption(photos, models["blip"], "--batch-size", "2", "--to", tmp_path / "out") == 130
    assert len(read(tmp_path / "out")) == 4


def test_what_cannot_be_captioned_is_listed_and_the_others_are_captioned(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    samples = rows(6)
    samples[1]["image"]["bytes"] = b"no picture"
    samples[2]["web"] = ""
    (tmp_path / "in").mkdir()
    write_parquet(tmp_path / "in", samples, num_files=1)
    words = ["--prompt", "{image} {alt}", "--alt", "web", "--to", tmp_path / "out"]
    assert caption(tmp_path / "in", models["blip"], *words) == 0
    assert len(read(tmp_path / "out")) == 4
    record = json.loads((tmp_path / "out/captioning-short.json").read_text())
    assert record["finished"] and record["num_captioned"] == 4
    assert "cannot be opened" in record["not_captioned"]["part-0.parquet:1"]
    assert "no alt caption" in record["not_captioned"]["part-0.parquet:2"]
    assert "2 pictures not captioned" in capsys.readouterr().err


def test_parquet_keeps_its_columns_and_captions_that_are_there(models: dict[str, Path], tmp_path: Path) -> None:
    samples = [row | {"detailed": "written by hand" if n == 0 else None} for n, row in enumerate(rows(4))]
    (tmp_path / "in").mkdir()
    write_parquet(tmp_path / "in", samples, num_files=2)
    assert caption(tmp_path / "in", models["blip"], "--to", tmp_path / "out", granularity="detailed") == 0
    read_as = Dataset(format="parquet", path=str(tmp_path / "out"), columns=Columns(detailed="detailed"))
    samples_read = [open_source(Data(source="dataset", dataset=read_as)).read(number) for number in range(4)]
    assert all(sample.captions["detailed"] and sample.picture[:4] == b"\x89PNG" for sample in samples_read)
    table = {row["web"]: row for row in read(tmp_path / "out")}
    assert len(table) == 4 and table["alt 0"]["detailed"] == "written by hand"
    for row in samples:
        assert {key: table[row["web"]][key] for key in ("image", "captions", "long")} == {
            key: row[key] for key in ("image", "captions", "long")
        }


def test_another_model_or_prompt_is_refused_in_a_folder_of_captions(
    models: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert caption(photos, models["blip"], "--to", tmp_path / "out") == 0
    assert caption(photos, models["blip"], "--prompt", "a photo of", "--to", tmp_path / "out") == 2
    assert "another prompt" in capsys.readouterr().err
    assert caption(photos, models["chat"], "--to", tmp_path / "out") == 2
    assert "another model" in capsys.readouterr().err


def test_mistakes_are_one_message_and_write_nothing(
    models: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch
) -> None:
    to = ["--to", tmp_path / "out"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "0.tar").write_bytes(b"")

    def refused(message: str, *arguments: object) -> None:
        assert caption(*arguments) == 2
        assert message in capsys.readouterr().err and not list(tmp_path.glob("out/*.parquet"))

    refused("no such folder", tmp_path / "nowhere", models["blip"], *to)
    refused("neither parquet files nor pictures", tmp_path / "empty", models["blip"], *to)
    refused("unpack them", tmp_path / "tars", models["blip"], *to)
    refused("there is no folder", photos, Path("Salesforce/blip"), *to)
    refused("holds no image-to-text model", photos, tmp_path / "empty", *to)
    refused("no column 'web'", photos, models["blip"], "--alt", "web", *to)
    refused("--image nonsense names a column", photos, models["blip"], "--image", "nonsense", *to)
    (tmp_path / "afile").write_text("something")
    refused("afile is a file", photos, models["blip"], "--to", tmp_path / "afile")
    refused("Not a directory: ", photos, models["blip"], "--to", tmp_path / "afile" / "below")
    refused("is inside", photos, models["blip"], "--to", photos / "captions")
    monkeypatch.setitem(sys.modules, "transformers", None)
    refused("extra: hf", photos, models["blip"], *to)


def test_captions_of_another_granularity_do_not_count_as_done(
    models: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert caption(photos, models["blip"], "--to", tmp_path / "out") == 0
    before = read(tmp_path / "out")
    assert caption(photos, models["blip"], "--to", tmp_path / "out", granularity="detailed") == 2
    assert "holds short captions: to add detailed ones" in capsys.readouterr().err
    assert read(tmp_path / "out") == before and not (tmp_path / "out/captioning-detailed.json").exists()
    assert caption(tmp_path / "out", models["blip"], "--to", tmp_path / "two", granularity="detailed") == 0
    # The second folder has a column of short captions too, and still holds detailed ones.
    assert caption(tmp_path / "out", models["blip"], "--to", tmp_path / "two") == 2
    assert "holds detailed captions" in capsys.readouterr().err


@pytest.mark.parametrize("as_tables", [False, True])
def test_other_pictures_of_the_same_names_do_not_count_as_done(
    as_tables: bool, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for number, name in enumerate(("one", "two")):
        (tmp_path / name).mkdir()
        samples = rows(3 + number)[number:]
        if as_tables:
            write_parquet(tmp_path / name, samples, num_files=1)
        else:
            for place, sample in enumerate(samples):
                (tmp_path / name / f"{place}.png").write_bytes(sample["image"]["bytes"] + b" " * number)
    assert caption(tmp_path / "one", models["blip"], "--to", tmp_path / "out") == 0
    before = read(tmp_path / "out")
    assert caption(tmp_path / "two", models["blip"], "--to", tmp_path / "out") == 2
    assert "captions of other pictures" in capsys.readouterr().err and read(tmp_path / "out") == before
    if not as_tables:
        (tmp_path / "one" / "0.png").rename(tmp_path / "one" / "elsewhere.png")
        assert caption(tmp_path / "one", models["blip"], "--to", tmp_path / "out") == 2
        assert "(0.png is not among these)" in capsys.readouterr().err


@pytest.mark.parametrize("column", ["image", SOURCE])
def test_a_column_of_the_metadata_with_a_name_of_ours_is_refused(
    column: str, models: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (photos / "metadata.jsonl").write_text(json.dumps({"file_name": "even/0.png", column: "a number"}) + "\n")
    assert caption(photos, models["blip"], "--to", tmp_path / "out") == 2
    assert f"has a column {column!r}" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_the_printed_settings_can_be_pasted(
    models: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for words in (["--to", tmp_path / "my captions"], ["--in-place"]):
        spaced = photos.rename(tmp_path / "my photos") if photos.exists() else tmp_path / "my photos"
        assert caption(spaced, models["blip"], *words) == 0
        pasted = shlex.split(capsys.readouterr().out.splitlines()[-1])
        assert f"data.dataset.path={words[-1] if len(words) == 2 else spaced}" in pasted


def test_weights_that_lack_a_tensor_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    spoilt = tmp_path / "spoilt"
    spoilt.mkdir()
    for file in models["chat"].iterdir():
        (spoilt / file.name).write_bytes(file.read_bytes())
    tensors = load_file(spoilt / "model.safetensors")
    del tensors[next(name for name in tensors if "q_proj" in name)]
    save_file(tensors, spoilt / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lack 1 tensors"):
        Captioner(spoilt, device=CPU, max_tokens=3)


def test_pictures_named_by_paths_in_parquet_are_read(photos: Path, tmp_path: Path) -> None:
    files = sorted(str(file) for file in photos.rglob("*.png"))
    datasets.Dataset.from_list([{"photo": file} for file in files]).to_parquet(tmp_path / "paths.parquet")
    [part] = open_pictures(tmp_path / "paths.parquet", Asked(image="photo"))
    assert [str(row.picture()) for row in part.rows()] == files
