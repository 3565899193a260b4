"""Errors, losses and views of depth and normals against loops in numpy and scipy; what cannot be scored as stated."""

import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from torch import Tensor

from distill.config import Scenes
from distill.data.scenes import SceneWorld
from distill.eval.geometry import (
    angle_degrees,
    depth_result,
    depth_sums,
    normals_result,
    normals_sums,
    sum_over_set,
    with_depth,
    with_normal,
)
from distill.eval.pictures.geometry_sets import FolderGeometry, SceneGeometry
from distill.eval.probes.geometry_losses import cosine_loss, expected_depth, log_depth_loss, log_gradient_loss
from distill.eval.probes.geometry_probes import patch_means
from distill.eval.probes.probe_training import ProbeTraining, RandomViews, flipped, mirrored_normals, rate

PLAIN = ProbeTraining(steps=10, lr=1.0, weight_decay=0.0, warmup=0.0, decay="linear")


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def depths(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Predictions and truths of 4 pictures; some pixels have no reading, some are too far, one picture has none."""
    truth = 0.5 + 11 * uniform(4, 9, 7, seed=seed)
    truth[uniform(4, 9, 7, seed=seed + 1) < 0.2] = 0
    truth[2] = 0
    return 0.1 + 9 * uniform(4, 9, 7, seed=seed + 2), truth


def vectors(seed: int = 0) -> tuple[Tensor, Tensor]:
    prediction, truth = (torch.nn.functional.normalize(uniform(3, 3, 6, 5, seed=seed + i) - 0.5, dim=1) for i in (0, 1))
    truth = truth.masked_fill(uniform(3, 1, 6, 5, seed=seed + 2) < 0.2, 0.0)
    truth[1] = 0
    return prediction, truth


def test_depth_errors_agree_with_numpy_picture_by_picture():
    prediction, truth = depths()
    found = depth_result(depth_sums(prediction, truth, with_depth(truth, max_depth=10.0)), {})
    pictures, pooled = [], []
    for p, d in zip(prediction.double().numpy(), truth.double().numpy(), strict=True):
        kept = (d > 0) & (d <= 10)
        if not kept.any():
            continue
        p, d = p[kept], d[kept]
        worse = np.maximum(p / d, d / p)
        pooled.append((p - d) ** 2)
        shares = [(worse < 1.25**power).mean() for power in (1, 2, 3)]
        pictures.append([np.sqrt(((p - d) ** 2).mean()), (np.abs(p - d) / d).mean(), *shares])
    assert len(pictures) == 3
    names = ("rmse_metres", "abs_rel", "delta1", "delta2", "delta3")
    assert [found.values[name] for name in names] == pytest.approx(np.mean(pictures, axis=0).tolist(), abs=1e-12)
    assert found.values["pooled_rmse_metres"] == pytest.approx(np.sqrt(np.concatenate(pooled).mean()), abs=1e-12)
    assert next(iter(found.values)) == "rmse_metres"
    assert found.num_images == 4 and found.per_picture["valid"][2] == 0


def test_angles_agree_with_scipy_rotations_down_to_the_smallest():
    for angle in (0.0, 1e-5, 11.25, 89.9, 90.0, 179.99, 180.0):
        axis = np.array([0.0, 0.6, 0.8])
        start = np.array([1.0, 0.0, 0.0])
        turned = Rotation.from_rotvec(np.deg2rad(angle) * axis).apply(start)
        both = (torch.tensor(each).view(1, 3, 1, 1) for each in (3.0 * start, turned))
        assert angle_degrees(*both).item() == pytest.approx(angle, abs=1e-9)


def test_a_prediction_that_points_nowhere_is_ninety_degrees_off():
    normals = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)
    assert angle_degrees(torch.zeros(1, 3, 1, 1), normals).item() == 90.0


def test_normal_errors_agree_with_numpy_picture_by_picture():
    prediction, truth = vectors()
    found = normals_result(normals_sums(prediction, truth, with_normal(truth)), {})
    pictures, pooled = [], []
    for p, n in zip(prediction.double().numpy(), truth.double().numpy(), strict=True):
        kept = np.linalg.norm(n, axis=0) > 0
        if not kept.any():
            continue
        angle = np.rad2deg(np.arccos(np.clip((p * n).sum(0)[kept], -1, 1)))
        pooled.append(angle**2)
        shares = [(angle < limit).mean() for limit in (11.25, 22.5, 30)]
        pictures.append([np.sqrt((angle**2).mean()), angle.mean(), *shares])
    assert len(pictures) == 2
    names = ("rmse_degrees", "mean_degrees", "share_under_11.25", "share_under_22.5", "share_under_30")
    # The arc cosine of float32 unit vectors is less exact than what it checks.
    assert [found.values[name] for name in names] == pytest.approx(np.mean(pictures, axis=0).tolist(), abs=1e-5)
    assert found.values["pooled_rmse_degrees"] == pytest.approx(np.sqrt(np.concatenate(pooled).mean()), abs=1e-5)


def test_where_nothing_is_valid_there_is_no_score():
    nothing = torch.zeros(2, 4, 4)
    with pytest.raises(ValueError, match="no pixel has a depth"):
        depth_result(depth_sums(nothing + 1, nothing, nothing > 0), {})
    with pytest.raises(ValueError, match="no pixel has a normal"):
        normals_result(normals_sums(torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), nothing > 0), {})
    with pytest.raises(ValueError, match="no pictures to score"):
        sum_over_set([], lambda pixels, truth: {}, batch_size=2)


def test_what_is_predicted_where_nothing_is_known_does_not_matter():
    prediction, truth = depths()
    valid = with_depth(truth, max_depth=10.0)
    spoilt = torch.where(valid, prediction, 7e3)
    before, after = (depth_sums(each, truth, valid) for each in (prediction, spoilt))
    assert all(torch.equal(before[name], after[name]) for name in before)
    for loss in (log_depth_loss, log_gradient_loss):
        assert torch.equal(loss(prediction, truth, valid), loss(spoilt, truth, valid))


def test_depth_is_the_mean_of_its_bins():
    scores = 4 * uniform(2, 7, 3, 5) - 2
    found = expected_depth(scores, min_depth=0.5, max_depth=9.5, floor=0.1)
    bins = np.linspace(0.5, 9.5, 7)
    for b, y, x in np.ndindex(2, 3, 5):
        weight = np.maximum(scores[b, :, y, x].numpy(), 0) + 0.1
        assert found[b, y, x].item() == pytest.approx((weight * bins).sum() / weight.sum(), abs=1e-5)
    nothing = expected_depth(torch.full((1, 7, 1, 1), -3.0), min_depth=0.5, max_depth=9.5, floor=0.1)
    assert nothing.item() == pytest.approx(5.0, abs=1e-6)


def test_the_scale_invariant_loss_agrees_with_its_formula():
    prediction, truth = depths()
    valid = with_depth(truth, max_depth=10.0)
    p, d = prediction[valid].double().numpy(), truth[valid].double().numpy()
    g = np.log(p + 1e-3) - np.log(d + 1e-3)
    assert log_depth_loss(prediction, truth, valid).item() == pytest.approx(
        np.sqrt(g.var(ddof=1) + 0.15 * g.mean() ** 2), abs=1e-6
    )
    only_scale = log_depth_loss(prediction, truth, valid, only_scale=True).item()
    assert only_scale == pytest.approx(np.sqrt(0.15) * abs(g.mean()), abs=1e-6)


def test_the_gradient_loss_agrees_with_loops():
    prediction, truth = 0.1 + uniform(2, 14, 15), uniform(2, 14, 15, seed=1)
    truth[uniform(2, 14, 15, seed=2) < 0.2] = 0
    expected = 0.0
    for stride in (1, 2, 4, 6):
        p, d = (each.double().numpy()[:, ::stride, ::stride] for each in (prediction, truth))
        error, total = np.log(p + 1e-3) - np.log(d + 1e-3), 0.0
        for b, y, x in np.ndindex(*d.shape):
            for other in ((b, y + 2, x), (b, y, x + 2)):
                inside = other[1] < d.shape[1] and other[2] < d.shape[2]
                if inside and d[b, y, x] > 0 and d[other] > 0:
                    total += abs(error[b, y, x] - error[other])
        expected += total / (d > 0).sum()
    found = log_gradient_loss(prediction, truth, truth > 0).item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_cosine_loss_agrees_with_numpy():
    prediction, truth = vectors()
    valid = with_normal(truth)
    cosine = (prediction * truth).sum(1)[valid].double().numpy()
    assert cosine_loss(2 * prediction, truth, valid).item() == pytest.approx(1 - cosine.mean(), abs=1e-6)


def test_losses_of_perfect_or_absent_truths_are_zero_with_finite_gradients():
    truth = 1 + uniform(1, 8, 8)
    for valid in (truth > 0, truth < 0):
        prediction = truth.clone().requires_grad_()
        (log_depth_loss(prediction, truth, valid) + log_gradient_loss(prediction, truth, valid)).backward()
        assert torch.isfinite(prediction.grad).all()
    normals = torch.zeros(1, 3, 4, 4)
    assert cosine_loss(normals + 1, normals, with_normal(normals)).item() == 0


def test_a_patch_is_worth_the_mean_of_its_valid_pixels():
    truth, valid = uniform(2, 3, 8, 12), uniform(2, 8, 12, seed=1) < 0.6
    valid[0, :4, :4] = False
    means, known = patch_means(truth, valid, grid=(2, 3), patch_size=4)
    for place, (b, row, column) in enumerate(np.ndindex(2, 2, 3)):
        window = (slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4))
        kept = valid[b][window]
        assert known[place] == kept.any()
        if kept.any():
            expected = truth[b][(slice(None), *window)][:, kept].double().mean(1)
            torch.testing.assert_close(means[place], expected, rtol=0, atol=1e-12)
    assert not known[0]


class Numbered:
    """Pictures whose truth is their own red channel, so that what views do to both can be compared."""

    def __init__(self, *sizes: tuple[int, int]):
        self.items = [uniform(3, *size, seed=number) for number, size in enumerate(sizes)]
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.read.append(index)
        return self.items[index], self.items[index][0]


def test_views_move_pictures_and_truths_alike():
    training = ProbeTraining(steps=1, lr=1.0, weight_decay=0.0, warmup=0.0, decay="linear", batch_size=6, flip=0.5)
    pixels, truth = RandomViews(Numbered((8, 11), (8, 8)), training, side=8, mirror=flipped).draw()
    assert torch.equal(pixels[:, 0], truth)
    assert len({each.numpy().tobytes() for each in truth}) > 2


def test_every_picture_comes_once_before_any_comes_again_and_is_read_once():
    data = Numbered(*[(8, 8)] * 6)
    training = ProbeTraining(steps=1, lr=1.0, weight_decay=0.0, warmup=0.0, decay="linear", batch_size=6, flip=0.0)
    views = RandomViews(data, training, side=None, mirror=flipped)
    first, second = views.draw()[1], views.draw()[1]
    assert sorted(data.read) == [0, 1, 2, 3, 4, 5]
    assert {each.numpy().tobytes() for each in first} == {each.numpy().tobytes() for each in second}
    with pytest.raises(ValueError, match="need a short_side"):
        RandomViews(Numbered((8, 8), (9, 9)), training, side=None, mirror=flipped).draw()


def test_zooming_in_shows_less_of_a_picture():
    ramp = torch.linspace(0, 1, 64).expand(3, 64, 64).contiguous()
    spans = []
    for zoom in ((1.0, 1.0), (4.0, 4.0)):
        training = ProbeTraining(steps=1, lr=1.0, weight_decay=0.0, warmup=0.0, decay="linear", batch_size=1, zoom=zoom)
        data = Numbered((64, 64))
        data.items = [ramp]
        truth = RandomViews(data, training, side=16, mirror=flipped).draw()[1]
        spans.append((truth.amax() - truth.amin()).item())
    assert spans[1] == pytest.approx(spans[0] / 4, rel=0.1)


def test_mirrored_normals_are_the_normals_of_the_mirrored_surface():
    """Of a surface z(x, y), the normal points along (-dz/dx, -dz/dy, 1)."""

    def normals_of(height: np.ndarray) -> Tensor:
        down, right = np.gradient(height)
        stacked = torch.from_numpy(np.stack([-right, down, np.ones_like(height)])).float()
        return torch.nn.functional.normalize(stacked, dim=0)

    height = uniform(9, 9).double().numpy()
    torch.testing.assert_close(mirrored_normals(normals_of(height)), normals_of(height[:, ::-1]))


def test_the_learning_rate_rises_and_falls():
    for decay in ("linear", "cosine"):
        training = ProbeTraining(steps=100, lr=1.0, weight_decay=0.0, warmup=0.2, decay=decay)
        rates = [rate(step, training) for step in range(100)]
        assert rates[19] == rates[20] == 1.0 and rates[0] == 0.05
        assert all(later < earlier for earlier, later in itertools.pairwise(rates[20:]))
        assert 0 < rates[-1] < 0.02
    middle = rates[60]
    assert middle == pytest.approx(0.5)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"zoom": (0.5, 1.0)}, {"warmup": 2.0}, {"decay": "step"}, {"lr": 0.0}, {"clip": -1.0}]
)
def test_settings_of_a_training_that_mean_nothing_are_refused(wrong):
    right = {"steps": 1, "lr": 1.0, "weight_decay": 0.0, "warmup": 0.0, "decay": "linear"}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ProbeTraining(**right | wrong)


def test_scenes_have_depth_and_normals_of_the_same_pictures():
    world = SceneWorld(Scenes(num_train=3), 32)
    depth, normals = (SceneGeometry(world, "heldout", 4, what) for what in ("depth", "normals"))
    pixels, metres = depth[3]
    assert torch.equal(pixels, normals.batch(2, 9)[0][1])
    assert metres.shape == (32, 32) and metres.min() > 0.5 and metres.max() < 10
    lengths = normals[0][1].norm(dim=0)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
    assert len(SceneGeometry(world, "train", 8, "depth")) == 3


def write(folder, name: str, size: tuple[int, int], *, seed: int) -> None:
    draw = np.random.default_rng(seed)
    Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{name}_rgb.jpg")
    millimetres = draw.integers(500, 9000, size, dtype=np.uint16)
    millimetres[0, 0] = 0
    Image.fromarray(millimetres).save(folder / f"{name}_depth_mm.png")
    stored = np.full((*size, 3), (128, 128, 1), dtype=np.uint8)
    stored[0, 0] = 0
    stored[0, 1] = (255, 128, 128)
    stored[1, 0] = (128, 1, 128)
    Image.fromarray(stored).save(folder / f"{name}_normal_derived.png")


def names_of(folder: FolderGeometry) -> list[str]:
    return [picture.name.removesuffix("_rgb.jpg") for picture, _ in folder.files]


def test_a_folder_brings_metres_and_normals_that_face_the_camera(tmp_path):
    for number, size in enumerate([(20, 24), (20, 24), (18, 30)]):
        write(tmp_path, f"room_{number}", size, seed=number)
    train, val = (FolderGeometry(tmp_path, split, "depth") for split in ("train", "val"))
    assert names_of(train) == ["room_0", "room_2"] and names_of(val) == ["room_1"]
    pixels, metres = train[1]
    assert pixels.shape == (3, 18, 30) and metres.shape == (18, 30)
    assert metres[0, 0] == 0 and metres[1:].min() >= 0.5 and metres.max() <= 9
    stored = np.array(Image.open(tmp_path / "room_2_depth_mm.png"))
    assert metres[3, 4].item() == pytest.approx(stored[3, 4] / 1000)
    normals = FolderGeometry(tmp_path, "val", "normals")[0][1]
    assert normals[:, 0, 0].tolist() == [0, 0, 0]
    for place, expected in (((5, 5), [0, 0, 1]), ((0, 1), [1, 0, 0]), ((1, 0), [0, 1, 0])):
        torch.testing.assert_close(normals[(slice(None), *place)], torch.tensor(expected).float(), rtol=0, atol=0.01)


def test_a_folder_with_splits_keeps_them_and_others_say_what_is_missing(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        for number in range(2):
            write(tmp_path / split, f"{split}_{number}", (12, 12), seed=number)
    assert names_of(FolderGeometry(tmp_path, "val", "normals")) == ["val_0", "val_1"]
    assert names_of(FolderGeometry(tmp_path, "train", "depth", limit=1)) == ["train_0"]
    with pytest.raises(ValueError, match="holds no NAME_depth_mm"):
        FolderGeometry(tmp_path / "val" / "nothing", "val", "depth")
    Image.fromarray(np.zeros((4, 4), dtype=np.uint16)).save(tmp_path / "val/val_0_depth_mm.png")
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        FolderGeometry(tmp_path, "val", "depth")[0]
    (tmp_path / "val/val_1_depth_mm.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="val_1_depth_mm"):
        FolderGeometry(tmp_path, "val", "depth")[1]


@pytest.mark.real_data
def test_the_real_samples_have_plausible_depth_and_normals(shared_data):
    cameras = json.loads((shared_data / "depth_samples" / "meta.json").read_text())
    for split in ("train", "val"):
        depth, normals = (FolderGeometry(shared_data / "depth_samples", split, what) for what in ("depth", "normals"))
        assert len(depth) == len(normals) == 3
        for index in range(3):
            metres, vectors_of = depth[index][1], normals[index][1]
            assert 0.7 < metres[metres > 0].median() < 5 and metres.max() < 10
            known = with_normal(vectors_of[None])[0]
            assert 0.7 < known.float().mean() <= 1
            # Every pixel has its own ray from the camera, and a surface that is seen faces it.
            camera = cameras[names_of(normals)[index]]
            down, right = torch.meshgrid(*(torch.arange(side) for side in metres.shape), indexing="ij")
            rays = ((right - camera["cx"]) / camera["fx"], (camera["cy"] - down) / camera["fy"], -torch.ones(1))
            along = sum(part * ray for part, ray in zip(vectors_of, rays, strict=True))
            assert (along[known] < 0.01).float().mean() > 0.99
