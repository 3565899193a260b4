"""Reading pictures and captions from every format, and what happens to those that cannot be read."""

import csv
import io
import logging
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_data import (
    COLUMNS,
    TAR_COLUMNS,
    letters,
    picture_bytes,
    rows,
    shared_data,
    spelled,
    write_folder,
    write_parquet,
    write_tars,
)

from distill.config import Columns, Contrastive, Data, Dataset, Objective, Optim, Recipe, Views
from distill.data.broken import BrokenSample, BrokenTally
from distill.data.captions import CaptionDraw, CaptionReader, draw_captions
from distill.data.draws import EpochOrder, generator_for
from distill.data.loader import BatchStream
from distill.data.pictures import MAX_PIXELS, load_rgb, open_picture, upright_aspect
from distill.data.sources import DatasetSource, StreamSource, open_source

WRITERS = {"parquet": write_parquet, "imagefolder": write_folder, "webdataset": write_tars}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def settings(path: Path, kind: str, **changes) -> Dataset:
    columns = Columns(**(TAR_COLUMNS if kind == "webdataset" else COLUMNS))
    return Dataset(**({"format": kind, "path": str(path), "columns": columns} | changes))


def recipe(dataset: Dataset, *, steps: int = 4, batch_size: int = 8, contrastive: float = 1.0) -> Recipe:
    return Recipe(
        data=Data(source="dataset", dataset=dataset, batch_size=batch_size, image_size=16),
        objective=Objective(contrastive=Contrastive(weight=contrastive)),
        optim=Optim(steps=steps),
    )


def read_all(page: Recipe) -> tuple[list[str], BatchStream]:
    """The names of everything a run reads."""
    stream = BatchStream(
        page, source=open_source(page.data), grid=(2, 2), tokenize=letters, rank=0, world=1, device="cpu"
    )
    return [name for batch in stream for name in batch.ids], stream


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_yields_each_picture_with_its_captions(kind, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    WRITERS[kind](folder, rows(10))
    source = open_source(Data(source="dataset", dataset=settings(folder, kind)))
    assert isinstance(source, DatasetSource) and len(source) == 10
    assert source.granularities == ("alt", "short", "detailed")
    seen = set()
    for index in range(10):
        sample = source.read(index)
        number = int(sample.captions["alt"][0].split()[1])
        seen.add(number)
        assert sample.captions["short"] == [f"short {number} a", f"short {number} b"]
        assert sample.captions["detailed"] == [f"detailed {number}"]
        assert f"{number:03d}" in sample.name and str(tmp_path) not in sample.name
        picture = sample.picture if isinstance(sample.picture, bytes) else sample.picture.read_bytes()
        assert picture == picture_bytes(number)
    assert seen == set(range(10))


@pytest.mark.parametrize("kind", WRITERS)
def test_streaming_reads_the_same_samples_as_reading_by_index(kind, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    WRITERS[kind](folder, rows(16))
    names = {}
    for streaming in (False, True):
        page = recipe(settings(folder, kind, streaming=streaming, shuffle_buffer=6), steps=2)
        assert isinstance(open_source(page.data), StreamSource) == streaming
        names[streaming], _ = read_all(page)
    assert sorted(names[True]) == sorted(names[False])
    assert len(set(names[True])) == 16
    assert names[True] != names[False]


def test_an_image_folder_may_keep_its_captions_in_a_csv(tmp_path):
    samples = rows(4)
    with (tmp_path / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "web"])
        for sample in samples:
            (tmp_path / sample["image"]["path"]).write_bytes(sample["image"]["bytes"])
            table.writerow([sample["image"]["path"], sample["web"]])
    source = open_source(Data(source="dataset", dataset=settings(tmp_path, "imagefolder", columns=Columns(alt="web"))))
    assert sorted(source.read(index).captions["alt"][0] for index in range(4)) == [f"alt {n}" for n in range(4)]


def test_captions_may_be_one_string_or_a_list_in_a_file_of_their_own(tmp_path, caplog):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(picture_bytes(number))
    captions = tmp_path / "captions.json"
    captions.write_text('{"0.png": "one", "1.png": ["two", "three"], "gone.png": "nothing"}')
    dataset = Dataset(path=str(tmp_path), captions_file=str(captions))
    with caplog.at_level(logging.WARNING):
        source = open_source(Data(source="dataset", dataset=dataset))
    assert "1 files that are not among the 3 pictures" in caplog.text
    assert [source.read(index).captions for index in range(3)] == [{"short": ["one"]}, {"short": ["two", "three"]}, {}]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "0.png").write_bytes(picture_bytes(7))
    captions.write_text('{"0.png": "one", "other/0.png": "seven"}')
    below = open_source(Data(source="dataset", dataset=dataset))
    told = {below.read(index).name: below.read(index).captions.get("short") for index in range(4)}
    assert told == {"0.png": ["one"], "1.png": None, "2.png": None, "other/0.png": ["seven"]}
    mapped = replace(dataset, columns=Columns(alt="caption"))
    assert open_source(Data(source="dataset", dataset=mapped)).read(0).captions == {"alt": ["one"]}


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_pictures_may_be_plain_bytes(streaming, tmp_path):
    table = [{"image": picture_bytes(number), "web": f"alt {number}"} for number in range(8)]
    datasets.Dataset.from_list(table).to_parquet(tmp_path / "part.parquet")
    dataset = settings(tmp_path, "parquet", columns=Columns(alt="web"), streaming=streaming)
    names, stream = read_all(recipe(dataset, steps=1))
    assert len(set(names)) == 8 and stream.broken.num_broken == 0
    assert all("row" in name for name in names)


def test_a_name_on_a_hub_is_refused_with_a_way_out():
    with pytest.raises(ValueError, match="Names on a hub are not read"):
        open_source(Data(source="dataset", dataset=Dataset(format="parquet", path="someone/pictures")))


def test_a_folder_without_such_files_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no files ending in tar"):
        open_source(Data(source="dataset", dataset=Dataset(format="webdataset", path=str(tmp_path))))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_column_that_is_not_there_is_refused_with_those_that_are(streaming, tmp_path):
    write_parquet(tmp_path, rows(4))
    wrong = settings(tmp_path, "parquet", columns=Columns(alt="text"), streaming=streaming)
    with pytest.raises(ValueError, match=r"no column 'text'; the data has .*captions"):
        open_source(Data(source="dataset", dataset=wrong))


def test_captions_are_demanded_only_by_a_loss_that_reads_them(tmp_path):
    write_parquet(tmp_path, rows(8))
    bare = settings(tmp_path, "parquet", columns=Columns())
    with pytest.raises(ValueError, match="the data set names none"):
        read_all(recipe(bare))
    names, _ = read_all(recipe(bare, contrastive=0.0))
    assert len(names) == 32


def test_a_captions_file_goes_with_image_folders_only(tmp_path):
    write_parquet(tmp_path, rows(4))
    with pytest.raises(ValueError, match="goes with format=imagefolder"):
        open_source(Data(source="dataset", dataset=settings(tmp_path, "parquet", captions_file="captions.json")))


def spoil(sample: dict, **changes) -> dict:
    return sample | changes


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_broken_picture_is_skipped_counted_and_named(kind, streaming, tmp_path, caplog):
    folder = tmp_path / "data"
    folder.mkdir()
    samples = rows(16)
    samples[5]["image"]["bytes"] = picture_bytes(5, size=(64, 64))[:300]
    WRITERS[kind](folder, samples)
    page = recipe(settings(folder, kind, streaming=streaming, shuffle_buffer=8, max_broken_share=0.2))
    with caplog.at_level(logging.WARNING):
        names, stream = read_all(page)
    summary = stream.broken.summary()
    assert not any("005" in name for name in names) and len(names) == 32
    assert summary["num_broken"] >= 2 and summary["num_read"] == 32 + summary["num_broken"]
    assert len(summary["named"]) == 1 and "005" in summary["named"][0] and "cannot be decoded" in summary["named"][0]
    assert caplog.text.count("005") == 1


def test_an_empty_caption_is_broken_and_an_absent_one_is_replaced_by_another_kind(tmp_path, caplog):
    samples = rows(8)
    samples[2] = spoil(samples[2], web=None)
    samples[3] = spoil(samples[3], web="  ")
    samples[4] = spoil(samples[4], web=None, captions=None, long=None)
    write_parquet(tmp_path, samples, num_files=1)
    page = recipe(settings(tmp_path, "parquet", max_broken_share=0.5), steps=6)
    source = open_source(page.data)
    with caplog.at_level(logging.WARNING):
        stream = BatchStream(page, source=source, grid=(2, 2), tokenize=letters, rank=0, world=1, device="cpu")
        read = {
            (name, spelled(ids)) for batch in stream for name, ids in zip(batch.ids, batch.captions[0], strict=True)
        }
    assert {text for name, text in read if name == "002.png"} <= {"short 2 a", "short 2 b"}
    assert {text for name, text in read if name == "001.png"} == {"alt 1"}
    assert not {name for name, _ in read} & {"003.png", "004.png"}
    assert sorted(stream.broken.named) == ["003.png: its 'alt' caption is empty", "004.png: it has no caption"]
    assert caplog.text.count("some samples have no 'alt' caption; their 'short' caption is read") == 1


@pytest.mark.parametrize("streaming", [False, True])
def test_a_shard_that_was_cut_short_yields_the_samples_before_the_cut(streaming, tmp_path, caplog):
    write_tars(tmp_path, rows(16), num_shards=2)
    shard = tmp_path / "shard-1.tar"
    whole = shard.read_bytes()
    # 1, 3, 5, ... lie in this shard; cut within the picture of number 7.
    shard.write_bytes(whole[: whole.index(picture_bytes(7)) + 100])
    dataset = settings(tmp_path, "webdataset", streaming=streaming, shuffle_buffer=4, max_broken_share=0.5)
    page = recipe(dataset, steps=6)
    with caplog.at_level(logging.WARNING):
        names, stream = read_all(page)
    numbers = {int(name[-3:]) for name in names}
    assert numbers == {0, 2, 4, 6, 8, 10, 12, 14} | {1, 3, 5}
    assert any("shard-1.tar" in line and "cut short" in line for line in stream.broken.named)
    assert "shard-1.tar" in caplog.text


@pytest.mark.parametrize("cut", [512 * 5, 10, 0])
def test_a_shard_cut_at_any_place_is_named(cut, tmp_path):
    write_tars(tmp_path, rows(8), num_shards=2)
    shard = tmp_path / "shard-0.tar"
    shard.write_bytes(shard.read_bytes()[:cut])
    _, stream = read_all(recipe(settings(tmp_path, "webdataset"), steps=3))
    assert any("shard-0.tar" in line and "cut short" in line for line in stream.broken.named)


def test_too_many_broken_samples_end_the_run_with_examples(tmp_path):
    samples = rows(20)
    for number in range(0, 20, 4):
        samples[number]["image"]["bytes"] = b"not a picture"
    write_parquet(tmp_path, samples)
    with pytest.raises(ValueError, match=r"(?s)samples read so far were broken.*max_broken_share=0\.05.*\.png: cannot"):
        read_all(recipe(settings(tmp_path, "parquet"), steps=20))
    names, _ = read_all(recipe(settings(tmp_path, "parquet", max_broken_share=0.5), steps=20))
    assert len(names) == 160


def test_data_without_one_good_sample_ends_at_once(tmp_path):
    samples = rows(8)
    for sample in samples:
        sample["image"]["bytes"] = b"not a picture"
    write_parquet(tmp_path, samples)
    with pytest.raises(ValueError, match="100 samples in a row were broken"):
        read_all(recipe(settings(tmp_path, "parquet", max_broken_share=1.0)))


def test_a_few_broken_samples_at_the_start_are_no_verdict():
    tally = BrokenTally()
    tally.add(num_read=20, broken=[BrokenSample(f"{number}.jpg", "is cut") for number in range(4)])
    tally.check(0.05)
    tally.add(num_read=20, broken=[BrokenSample(f"{number}.png", "is cut") for number in range(2)])
    with pytest.raises(ValueError, match="6 of the 40 samples"):
        tally.check(0.05)
    assert BrokenTally.from_summary(tally.summary()) == tally


def huge_png() -> bytes:
    """A few bytes that claim more pixels than any picture may have."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    side = int(MAX_PIXELS**0.5) + 10
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_broken_before_it_is_decoded():
    with pytest.raises(BrokenSample, match=r"bomb: has 89\d\dx89\d\d pixels, more than 80,000,000"):
        open_picture(huge_png(), name="bomb")


def test_a_picture_that_lies_on_its_side_is_put_upright():
    pixels = np.zeros((4, 8, 3), dtype=np.uint8)
    pixels[:, :4] = 255
    lying = Image.fromarray(pixels)
    exif = lying.getexif()
    exif[0x0112] = 6  # Turn by 90 degrees clockwise to see it upright.
    file = io.BytesIO()
    lying.save(file, "PNG", exif=exif)
    opened = open_picture(file.getvalue(), name="lying")
    assert upright_aspect(opened, name="lying") == 0.5
    upright = load_rgb(opened, side=4, name="lying")
    assert upright.size == (4, 8)
    assert upright.getpixel((0, 0)) == (255, 255, 255) and upright.getpixel((0, 7)) == (0, 0, 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_kind_of_picture_becomes_rgb(mode):
    grey = Image.new("RGBA", (6, 6), (128, 128, 128, 255))
    if mode in ("I;16", "I", "F"):
        picture = Image.fromarray(np.full((6, 6), 128 * 256 + 128, dtype=np.uint16))
        picture = picture if mode == "I;16" else Image.fromarray(np.full((6, 6), 128, dtype=np.int32)).convert(mode)
    else:
        picture = grey if mode in ("LA", "RGBA") else grey.convert("RGB")
        picture = picture.quantize(4) if mode == "P" else picture.convert(mode)
    file = io.BytesIO()
    picture.save(file, "TIFF")
    loaded = load_rgb(open_picture(file.getvalue(), name=mode), side=6, name=mode)
    assert loaded.mode == "RGB"
    if mode != "1":
        assert all(abs(level - 128) <= 2 for level in loaded.getpixel((2, 2)))


def test_what_is_transparent_is_seen_on_white():
    file = io.BytesIO()
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(file, "PNG")
    assert load_rgb(open_picture(file.getvalue(), name="clear"), side=4, name="clear").getpixel((1, 1)) == (255,) * 3


def test_a_large_jpeg_is_decoded_small_and_looks_the_same():
    smooth = Image.fromarray(np.linspace(0, 255, 1600 * 1200, dtype=np.uint8).reshape(1200, 1600)).convert("RGB")
    file = io.BytesIO()
    smooth.save(file, "JPEG", quality=95)
    small = load_rgb(open_picture(file.getvalue(), name="large"), side=64, name="large")
    assert small.size == (200, 150)
    expected = np.asarray(smooth.resize((200, 150), Image.Resampling.BOX)).astype(int)
    assert np.abs(np.asarray(small).astype(int) - expected).max() <= 3


def test_an_epoch_reads_every_sample_once_in_a_new_order():
    order = EpochOrder(7, seed=3)
    numbers = torch.cat([order.indices(first, count=4) for first in range(0, 28, 4)]).split(7)
    assert all(sorted(epoch.tolist()) == list(range(7)) for epoch in numbers)
    assert len({tuple(epoch.tolist()) for epoch in numbers}) == 4
    assert torch.equal(EpochOrder(7, seed=3).indices(5, count=20), torch.cat(numbers)[5:25])
    assert not torch.equal(EpochOrder(7, seed=4).indices(0, count=28), torch.cat(numbers))


def test_each_cls_token_draws_uniformly_from_its_own_kinds():
    drawn = draw_captions(3000, settings=Contrastive(), num_cls=2, generator=generator_for(0))
    assert {draw.granularity for draw in drawn[0]} == {"alt"}
    share = sum(draw.granularity == "short" for draw in drawn[1]) / 3000
    assert abs(share - 0.5) < 0.04
    assert len(draw_captions(4, settings=Contrastive(), num_cls=1, generator=generator_for(0))) == 1


def test_several_captions_of_one_kind_are_drawn_uniformly():
    reader = CaptionReader()
    texts = {"short": ["a", "b", "", "c"]}
    drawn = [reader.read(texts, CaptionDraw("short", (n + 0.5) / 30), name="x") for n in range(30)]
    assert [drawn.count(text) for text in "abc"] == [10, 10, 10]


@pytest.mark.real_data
@pytest.mark.parametrize("streaming", [False, True])
def test_real_photos_with_their_captions_become_batches(streaming):
    photos = shared_data("coco_captions")
    dataset = Dataset(
        path=str(photos / "images" / "train"),
        captions_file=str(photos / "captions_train.json"),
        streaming=streaming,
        shuffle_buffer=25,
    )
    page = recipe(dataset, steps=2, batch_size=25)
    page = replace(page, data=replace(page.data, image_size=64, views=Views(global_scale=(0.5, 1.0), flip=0.5)))
    source = open_source(page.data)
    stream = BatchStream(page, source=source, grid=(4, 4), tokenize=letters, rank=0, world=1, device="cpu")
    batches = list(stream)
    assert len({name for batch in batches for name in batch.ids}) == 50
    assert stream.broken.num_broken == 0
    for batch in batches:
        assert 0.2 < float(batch.pixels.mean()) < 0.7 and float(batch.pixels.std()) > 0.15
        assert len({spelled(ids) for ids in batch.captions[0]}) > 20
