"""A teacher's features in a folder: what storage loses, that writing survives anything, and what is refused."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_data import picture_bytes
from tiny_inputs import captioned, write_parquet
from tiny_runs import process, tiny, trained

from distill.cache import write as writing
from distill.cache.basis import Moments, fit_basis
from distill.cache.estimate import duration, folder_bytes, size
from distill.cache.identity import identity_of
from distill.cache.index import BASIS, INDEX, PLAN, read_index, shard_name
from distill.cache.reader import Reader
from distill.cache.storage import STORAGES, Layout, decode, encode
from distill.cache.write import Writer, ensure_cache
from distill.compose import load_teacher
from distill.config import Recipe
from distill.contracts import Batch, Tokens
from distill.data.fixed import fixed_draws, key_of
from distill.data.loader import BatchStream
from distill.data.sources import open_source

CPU = torch.device("cpu")
SECONDS = 100
VIEWS = ("data.views.fixed=2", "data.views.flip=0.5", "data.views.global_scale=[0.4, 1.0]", "data.scenes.num_train=20")
SHARD = 21_000
"""Bytes of a shard: 6 views in fp32, so that 40 views are 7 shards."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("cache") / "run", "optim.steps=1")


@pytest.fixture(scope="module")
def cached(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """A recipe and its finished cache of seven shards."""
    folder = tmp_path_factory.mktemp("cached") / "features"
    recipe = taught(run, folder)
    written(recipe)
    return recipe, folder


def taught(run: Path, folder: Path, *words: str) -> Recipe:
    return tiny(folder, "teacher.kind=frozen", f"teacher.checkpoint={run}", f"teacher.cache={folder}", *VIEWS, *words)


def written(recipe: Recipe, *, shard_bytes: int = SHARD) -> Writer:
    writer = Writer(recipe, device=CPU, precision="no", shard_bytes=shard_bytes)
    writer.write(Path(recipe.teacher.cache), say=lambda text: None)
    return writer


def ensured(recipe: Recipe) -> list[str]:
    said: list[str] = []
    ensure_cache(recipe, device=CPU, precision="no", say=said.append)
    return said


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def features(*, storage: str = "fp32", components: int = 0) -> tuple[Tokens, Layout]:
    """Tokens with a channel a hundred times as large as the others, far from zero, and one that is constant."""
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(5, 12, 16, generator=generator)
    patches[:, :, 3] = 300 + patches[:, :, 3]
    patches[:, :, 4] = 0.25
    tokens = Tokens(cls=torch.randn(5, 2, 16, generator=generator), patches=patches, grid=(3, 4))
    return tokens, Layout(storage=storage, num_cls=2, grid=(3, 4), width=16, components=components)


def test_fp32_loses_nothing_and_a_view_takes_the_bytes_that_were_promised():
    for storage in STORAGES:
        tokens, layout = features(storage=storage)
        stored = encode(tokens, layout=layout, basis=None)
        assert sum(value.nbytes for value in stored.values()) == 5 * layout.bytes_per_view()
        assert {name: (value.dtype, tuple(value.shape[1:])) for name, value in stored.items()} == layout.tensors()
        if storage == "fp32":
            back = decode(stored, layout=layout, basis=None)
            assert torch.equal(back.cls, tokens.cls) and torch.equal(back.patches, tokens.patches)
            assert back.grid == (3, 4)


def test_fp16_is_off_by_at_most_a_2048th_and_refuses_what_it_cannot_hold():
    tokens, layout = features(storage="fp16")
    back = decode(encode(tokens, layout=layout, basis=None), layout=layout, basis=None)
    for ours, theirs in ((back.cls, tokens.cls), (back.patches, tokens.patches)):
        assert bool(((ours - theirs).abs() <= theirs.abs() * 2**-11 + 1e-7).all())
    tokens.patches[2, 3, 5] = 1e5
    with pytest.raises(ValueError, match=r"reach 100000, more than 16 bits hold .*teacher.cache_storage=fp32"):
        encode(tokens, layout=layout, basis=None)


def test_int8_is_off_by_at_most_half_a_step_of_its_channel_in_its_view():
    tokens, layout = features(storage="int8")
    back = decode(encode(tokens, layout=layout, basis=None), layout=layout, basis=None)
    ranges = tokens.patches.amax(1, keepdim=True) - tokens.patches.amin(1, keepdim=True)
    share = ((back.patches - tokens.patches).abs() / ranges.clamp(min=1e-9)).amax()
    # Half of 1/255, and the rounding of float32 beside 300.
    assert share <= 1 / 510 + 1e-4
    assert torch.equal(back.patches[:, :, 4], tokens.patches[:, :, 4])


def test_components_are_the_right_singular_vectors_and_keep_what_they_say():
    tokens, _ = features()
    patches = tokens.patches.flatten(0, 1)
    moments = Moments(16)
    for piece in patches.split(17):
        moments.add(piece)
    basis, kept = fit_basis(moments, 5)
    centred = patches.double().numpy() - patches.double().numpy().mean(0)
    _, values, vectors = np.linalg.svd(centred, full_matrices=False)
    assert kept == pytest.approx((values[:5] ** 2).sum() / (values**2).sum(), rel=1e-9)
    alignment = np.abs((basis.components.double().numpy() * vectors[:5]).sum(1))
    np.testing.assert_allclose(alignment, 1.0, atol=1e-6)
    lost = (basis.restored(basis.reduced(patches)) - patches).square().sum() / torch.from_numpy(centred).square().sum()
    assert float(lost) == pytest.approx(1 - kept, rel=1e-3)
    with pytest.raises(ValueError, match="only 60 patches to fit them to"):
        fit_basis(moments, 60)
    with pytest.raises(ValueError, match="patches are 16 wide, so fewer are kept"):
        features(components=16)


def test_fixed_views_follow_from_seed_sample_and_view_alone():
    samples, views = torch.tensor([3, 700_000, 3, 9]), torch.tensor([0, 1, 1, 0])
    crops, flips = fixed_draws(samples, views, seed=5, flip=0.5)
    turned, turned_flips = fixed_draws(samples.flip(0), views.flip(0), seed=5, flip=0.5)
    assert torch.equal(crops, turned.flip(0)) and torch.equal(flips, turned_flips.flip(0))
    assert len({tuple(crop) for crop in crops.tolist()}) == 4
    assert not torch.equal(crops, fixed_draws(samples, views, seed=6, flip=0.5)[0])
    many, mirrored = fixed_draws(torch.arange(4000), torch.zeros(4000, dtype=torch.int64), seed=0, flip=0.25)
    assert 0.22 < mirrored.float().mean() < 0.28
    # The mean of 4,000 uniform numbers has a deviation of 0.0046.
    assert bool(((many.mean(0) - 0.5).abs() < 0.02).all()) and many.min() >= 0 and many.max() < 1


def test_a_mirrored_view_is_another_key_with_other_features(run: Path, tmp_path: Path):
    """A stored map that is mirrored is not the teacher's map of the mirrored picture."""
    recipe = taught(run, tmp_path / "features", "data.views.global_scale=[1.0, 1.0]")
    written(recipe)
    samples = torch.arange(20)
    flips = torch.stack([fixed_draws(samples, torch.full((20,), view), seed=0, flip=0.5)[1] for view in (0, 1)])
    both = (flips[0] != flips[1]).nonzero()[:, 0]
    assert len(both) > 3
    mirrored, plain = (key_of(both, torch.where(flips[0, both], one, 1 - one), num_views=2) for one in (0, 1))
    reader = Reader(tmp_path / "features")
    as_is, of_mirrored = (decode(reader.gather(k), layout=reader.layout, basis=None) for k in (plain, mirrored))
    grid = as_is.patches.unflatten(1, as_is.grid)
    turned = grid.flip(2).flatten(1, 2)
    assert not torch.equal(plain, mirrored)
    assert float((turned - of_mirrored.patches).abs().max()) > 0.1
    pixels = open_source(recipe.data).render(both, device=CPU).flip(-1)
    batch = Batch(
        ids=[""] * len(both), pixels=pixels, hidden=torch.zeros(len(both), 0) > 0, captions=None, local_crops=None
    )
    live = load_teacher(recipe).targets(batch, None).tokens
    # Measured: 4.8e-7.
    torch.testing.assert_close(of_mirrored.patches, live.patches, rtol=0, atol=5e-6)


@pytest.mark.parametrize("source", ["scenes", "photos"])
def test_epochs_go_round_the_views_and_local_crops_stay_new(source: str, tmp_path: Path):
    words = [*VIEWS, "objective.cls.weight=1", "data.views.num_local=1", "data.views.local_size=16"]
    words += ["data.batch_size=20", "optim.steps=4", "student.text.kind=none", "objective.contrastive.weight=0"]
    if source == "photos":
        write_parquet(tmp_path / "photos", captioned(shift=0)[:20])
        words += ["data.source=dataset", "data.dataset.format=parquet", f"data.dataset.path={tmp_path}/photos"]
    recipe = tiny(tmp_path, *words)
    stream = BatchStream(
        recipe, source=open_source(recipe.data), grid=(4, 4), tokenize=None, rank=0, world=1, device="cpu"
    )
    seen = [dict(zip(b.ids, zip(b.pixels, b.local_crops[0], strict=True), strict=True)) for b in stream]
    assert len(seen) == 4 and seen[0].keys() == seen[1].keys() and len(seen[0]) == 20
    for name in seen[0]:
        pixels = [epoch[name][0] for epoch in seen]
        assert torch.equal(pixels[0], pixels[2]) and torch.equal(pixels[1], pixels[3])
        assert not torch.equal(pixels[0], pixels[1])
        assert not torch.equal(seen[0][name][1], seen[2][name][1])


def test_every_stored_view_is_what_the_teacher_says_about_what_the_loader_shows(cached: tuple[Recipe, Path]):
    recipe, folder = cached
    reader, teacher = Reader(folder), load_teacher(recipe)
    stream = BatchStream(
        recipe,
        source=open_source(recipe.data),
        grid=(4, 4),
        tokenize=lambda texts: torch.zeros(len(texts), 1, dtype=torch.int64),
        rank=0,
        world=1,
        device="cpu",
        lookup=reader.gather,
    )
    for batch in stream:
        live, stored = teacher.targets(batch, None).tokens, decode(batch.stored, layout=reader.layout, basis=None)
        # Measured over six batches: 7.2e-7.
        torch.testing.assert_close(stored.patches, live.patches, rtol=0, atol=5e-6)
        torch.testing.assert_close(stored.cls, live.cls, rtol=0, atol=5e-6)


@pytest.mark.parametrize("words", [(), ("teacher.cache_storage=int8", "teacher.cache_components=8")], ids=str)
def test_the_estimate_is_within_a_tenth_of_the_folder(words: tuple[str, ...], run: Path, tmp_path: Path):
    recipe = taught(run, tmp_path / "features", "data.scenes.num_train=200", *words)
    writer = written(recipe, shard_bytes=100_000)
    real = sum(len(content) for content in contents(tmp_path / "features").values())
    assert writer.estimate().bytes == folder_bytes(writer.index)
    assert real == pytest.approx(writer.estimate().bytes, rel=0.1)
    assert writer.estimate().num_views == 400 and writer.estimate().seconds > 0


def test_sizes_and_times_are_said_for_people():
    assert [size(340), size(12_345_678), size(2_600_000_000_000)] == ["340 B", "12.3 MB", "2.6 TB"]
    assert [duration(40.0), duration(720.0), duration(12_600.0)] == ["40 s", "12 min", "3.5 h"]


def test_a_writing_that_is_killed_goes_on_and_two_processes_write_the_same_bytes(
    cached: tuple[Recipe, Path], run: Path, tmp_path: Path
):
    recipe = taught(run, tmp_path / "features")
    first = process(write_slowly, recipe)
    deadline = time.monotonic() + SECONDS
    while not (tmp_path / "features" / shard_name(1)).exists():
        assert first.is_alive() and time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    found = contents(tmp_path / "features")
    assert PLAN in found and INDEX not in found and shard_name(6) not in found
    (tmp_path / "features" / f".{shard_name(5)}-1").write_bytes(b"what a killed writer left")
    both = [process(write_slowly, recipe) for _ in range(2)]
    for child in both:
        child.join(SECONDS)
    assert [child.exitcode for child in both] == [0, 0]
    assert contents(tmp_path / "features") == contents(cached[1])
    left = [path.name for path in (tmp_path / "features").iterdir() if path.name.startswith(".")]
    assert all(name.endswith(".lock") for name in left)


def write_slowly(recipe: Recipe) -> None:
    make = Writer._shard

    def slow(*arguments: object) -> dict[str, torch.Tensor]:
        time.sleep(0.15)  # so that a busy machine kills it before it has finished
        return make(*arguments)

    Writer._shard = slow
    written(recipe)


def test_a_finished_cache_is_neither_written_again_nor_announced(cached: tuple[Recipe, Path]):
    before = contents(cached[1])
    assert ensured(cached[0]) == []
    written(cached[0], shard_bytes=99_999)
    assert contents(cached[1]) == before
    assert set(before) == {INDEX, *(shard_name(number) for number in range(7))}


def test_a_cut_shard_is_refused_by_name_when_the_cache_is_opened(cached: tuple[Recipe, Path], tmp_path: Path):
    shutil.copytree(cached[1], tmp_path / "features")
    path = tmp_path / "features" / shard_name(3)
    os.truncate(path, path.stat().st_size - 8)
    with pytest.raises(ValueError, match=rf"{shard_name(3)} has .* it was cut or altered; delete the folder"):
        Reader(tmp_path / "features")
    path.unlink()
    with pytest.raises(ValueError, match=rf"{shard_name(3)} is missing"):
        Reader(tmp_path / "features")


def test_an_altered_shard_is_refused_by_name_when_it_is_read(cached: tuple[Recipe, Path], tmp_path: Path):
    shutil.copytree(cached[1], tmp_path / "features")
    path = tmp_path / "features" / shard_name(3)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    reader = Reader(tmp_path / "features")
    assert len(reader.gather(torch.tensor([0, 39]))["patches"]) == 2
    with pytest.raises(ValueError, match=rf"{shard_name(3)} does not match its checksum"):
        reader.gather(torch.tensor([0, 20]))


def test_rows_come_in_the_order_of_their_keys_from_all_shards(cached: tuple[Recipe, Path]):
    reader = Reader(cached[1])
    whole = torch.cat([load_file(cached[1] / shard_name(number))["patches"] for number in range(7)])
    keys = torch.randperm(40, generator=torch.Generator().manual_seed(0)).repeat(2)
    assert torch.equal(reader.gather(keys)["patches"], whole[keys])


OTHERS = {
    "teacher": ["teacher.checkpoint=@other"],
    "transform": ["data.views.flip=0.25"],
    "transform, by the teacher's resolution": ["teacher.image_size=48"],
    "transform, by the seed": ["seed=1"],
    "transform, by the number of views": ["data.views.fixed=3"],
    "data": ["data.scenes.tier=medium"],
    "data, by their number": ["data.scenes.num_train=19"],
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_teacher_transform_or_data_is_refused_by_its_name(
    name: str, cached: tuple[Recipe, Path], run: Path, tmp_path: Path
):
    words = [word.replace("@other", str(tmp_path / "other")) for word in OTHERS[name]]
    if name == "teacher":
        trained(tmp_path / "other", "optim.steps=1", "seed=1")
    with pytest.raises(ValueError) as caught:
        ensured(taught(run, cached[1], *words))
    part = name.partition(",")[0]
    assert f"was written with another {part}: " in str(caught.value)
    assert all(f"another {other}:" not in str(caught.value) for other in {"teacher", "transform", "data"} - {part})


def test_an_unfinished_cache_of_something_else_and_other_storages_are_refused(
    cached: tuple[Recipe, Path], run: Path, tmp_path: Path
):
    with pytest.raises(ValueError, match=r"holds teacher.cache_storage=fp32 .* asks for int8 and 0"):
        ensured(taught(run, cached[1], "teacher.cache_storage=int8"))
    shutil.copytree(cached[1], tmp_path / "features")
    (tmp_path / "features" / INDEX).rename(tmp_path / "features" / PLAN)
    with pytest.raises(ValueError, match=r"another transform: flip is 0\.5 there and 0\.25 here"):
        written(taught(run, tmp_path / "features", "data.views.flip=0.25"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="holds other files and no teacher cache"):
        ensured(taught(run, tmp_path / "mine"))


def test_a_damaged_index_and_a_full_disk_are_one_sentence(
    cached: tuple[Recipe, Path], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for content in ("{", '{"format": 1}', '{"format": 99}'):
        (tmp_path / INDEX).write_text(content)
        with pytest.raises(ValueError, match=r"index\.json cannot be read"):
            read_index(tmp_path / INDEX)
    full = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(writing, "disk_usage", lambda folder: full)
    with pytest.raises(ValueError, match=r"needs 1\d\d\.\d kB more, and 1.0 kB are free"):
        written(taught(run, tmp_path / "features"))


def test_a_teacher_is_its_weights_and_precision_wherever_it_lies(
    cached: tuple[Recipe, Path], run: Path, tmp_path: Path
):
    recipe = cached[0]
    assert identity_of(recipe, precision="no") != identity_of(recipe, precision="bf16")
    shutil.copytree(run, tmp_path / "moved")
    assert identity_of(taught(tmp_path / "moved", cached[1]), precision="no") == identity_of(recipe, precision="no")


def test_a_model_is_its_name_and_the_bytes_of_its_file(tmp_path: Path):
    def teacher_of(weights: Path) -> dict:
        named = ["teacher.kind=frozen", "teacher.model=timm:vit_tiny_patch16_224", f"teacher.weights={weights}"]
        recipe = tiny(tmp_path, *named, "objective.patch.target=features", *VIEWS)
        return identity_of(recipe, precision="no").teacher

    for name, content in (("one", b"12"), ("same", b"12"), ("other", b"13")):
        (tmp_path / name).write_bytes(content)
    one, same, other, missing = (teacher_of(tmp_path / name) for name in ("one", "same", "other", "missing"))
    assert one == same != other and one["model"] == "timm:vit_tiny_patch16_224"
    assert missing["weights"] == str(tmp_path / "missing") and "weights_sha256" not in missing


@pytest.fixture
def photos(tmp_path: Path) -> Callable[..., Recipe]:
    """A recipe on a folder of ten pictures, of which the fourth is broken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.png").write_bytes(picture_bytes(number) if number != 3 else b"no picture")

    def recipe(run: Path, *words: str) -> Recipe:
        data = ["data.source=dataset", f"data.dataset.path={folder}", "data.dataset.max_broken_share=0.5"]
        quiet = ["student.text.kind=none", "objective.contrastive.weight=0"]
        return taught(run, tmp_path / "features", *data, *quiet, *words)

    return recipe


def test_a_sample_that_was_broken_when_the_cache_was_written_is_not_made_up(
    photos: Callable[..., Recipe], run: Path, tmp_path: Path
):
    written(photos(run))
    reader = Reader(tmp_path / "features")
    assert len(reader.gather(torch.tensor([0, 5, 8, 19]))["cls"]) == 4
    with pytest.raises(ValueError, match=r"sample 3 could not be read when .* was written, and now it can"):
        reader.gather(torch.tensor([0, 7]))
    shutil.rmtree(tmp_path / "features")
    with pytest.raises(ValueError, match=r"of the \d+ samples read so far were broken"):
        written(photos(run, "data.dataset.max_broken_share=0"))


def test_changed_files_are_other_data(photos: Callable[..., Recipe], run: Path, tmp_path: Path):
    before = identity_of(photos(run), precision="no").data
    path = tmp_path / "photos" / "5.png"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    changed = identity_of(photos(run), precision="no").data
    assert changed["beginnings"] != before["beginnings"] and changed["names_and_sizes"] == before["names_and_sizes"]
    path.rename(tmp_path / "photos" / "55.png")
    assert identity_of(photos(run), precision="no").data["names_and_sizes"] != before["names_and_sizes"]
    (tmp_path / "photos").rename(tmp_path / "moved")
    moved = photos(run, f"data.dataset.path={tmp_path}/moved")
    assert identity_of(moved, precision="no").data["beginnings"] == changed["beginnings"]


def test_components_are_fitted_once_and_the_index_says_what_they_keep(run: Path, tmp_path: Path):
    recipe = taught(run, tmp_path / "features", "teacher.cache_components=6")
    written(recipe)
    index = read_index(tmp_path / "features" / INDEX)
    assert 0.5 < index.kept_variance < 1.0 and index.layout.components == 6
    path = tmp_path / "features" / BASIS
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"basis\.safetensors does not match its checksum"):
        Reader(tmp_path / "features").basis()
    assert json.loads((tmp_path / "features" / INDEX).read_text())["basis"]["size"] == path.stat().st_size
