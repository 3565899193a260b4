"""Depth, normals and trained linear segmentation as tasks: what knows everything reaches the ceiling that its patch
grid allows, what knows nothing lands at the mean predictor, and every head runs from a recipe.

Measured, as shares of the mean predictor's RMSE (2.14 m, 20.1 degrees on these scenes; ceilings 0.50 and 0.39): on the
truth, ridge 0.50 and 0.39, linear 0.53 and 0.43, DPT by heart 0.42 and 0.70; on nothing, ridge 1.00 and 1.00, linear
0.99 of the geometric mean's and 1.00. Trained linear segmentation reaches an mIoU of 0.894 where ridge has 0.911.
"""

import dataclasses
import json
import re

import pytest
import tiny_layouts
import torch
from jaxtyping import Bool, Float
from oracles import Listed, Painted, know_nothing, painted
from safetensors.torch import save_file
from test_eval_tasks import TINY, asking, written
from tiny_runs import numbers, trained
from torch import Tensor, nn

from distill.config import Evaluate, InvalidCombination, Recipe, Scenes
from distill.contracts import ImageEncoder, Tokens
from distill.data.scenes import SceneWorld
from distill.encoders.dual import DualEncoder, build_dual
from distill.eval import evaluation_data
from distill.eval.command import evaluate_checkpoint
from distill.eval.geometry import EIGEN_CROP, Crop, depth_result, depth_sums, normals_result, normals_sums
from distill.eval.in_training import evaluate_in_training
from distill.eval.metrics import is_error
from distill.eval.pictures.geometry_sets import SceneGeometry
from distill.eval.probes import geometry_probes
from distill.eval.probes.dpt import DPTHead
from distill.eval.probes.probe_training import ProbeTraining
from distill.eval.tasks import depth, linear_segmentation, normals, trained_segmentation
from distill.eval.tasks.depth import DepthSettings
from distill.eval.tasks.linear_segmentation import LinearSettings
from distill.eval.tasks.normals import NormalsSettings
from distill.eval.tasks.trained_segmentation import NormedLinear, TrainedLinearSettings
from distill.train.checkpoint import find

PATCH = 4
QUICK = ProbeTraining(steps=200, lr=0.02, weight_decay=0.0, warmup=0.1, decay="cosine", batch_size=4, flip=0.0)
"""Nothing is mirrored: painted normals would then say what is no longer true."""
DPT = dataclasses.replace(QUICK, steps=200, lr=3e-3)


class Told(ImageEncoder):
    """A patch is the mean of what was painted into it, scaled; the same at every block, and in CLS the mean of all.

    With `deaf` it always says the same.
    """

    num_cls, num_layers = 1, 4

    def __init__(self, *, deaf: bool = False, patch_size: int = PATCH):
        super().__init__()
        self.width, self.patch_size, self.deaf = 8, patch_size, deaf
        mixed = torch.randn(8, 3, generator=torch.Generator().manual_seed(3))
        self.mixed = nn.Parameter(torch.linalg.qr(mixed).Q, requires_grad=False)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return height // self.patch_size, width // self.patch_size

    def forward(self, pixels: Float[Tensor, "B 3 H W"], hidden: Bool[Tensor, "B N"] | None = None) -> Tokens:
        means = nn.functional.avg_pool2d(pixels, self.patch_size).flatten(2).transpose(1, 2) * 4 - 2
        patches = (torch.zeros_like(means) if self.deaf else means) @ self.mixed.T + 0.5
        return Tokens(cls=patches.mean(1, keepdim=True), patches=patches, grid=self.grid(*pixels.shape[-2:]))

    def intermediate(self, pixels: Float[Tensor, "B 3 H W"], blocks: tuple[int, ...]) -> tuple[Tokens, ...]:
        return (self(pixels),) * len(blocks)


class TruthPainted:
    """Scenes whose pixels are their depth, in tens of metres, or their normals, moved into [0, 1]."""

    def __init__(self, split: str, num_images: int, what: str):
        self.scenes = SceneGeometry(SceneWorld(Scenes(num_train=64), 32), split, num_images, what)
        self.what = what

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pixels, truth = self.batch(index, index + 1)
        return pixels[0], truth[0]

    def batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        truth = self.scenes.batch(start, stop)[1]
        if self.what == "depth":
            return (truth[:, None] / 10).expand(-1, 3, -1, -1).contiguous(), truth
        return (truth + 1) / 2, truth


def told(*, deaf: bool = False, patch_size: int = PATCH) -> DualEncoder:
    return DualEncoder(Told(deaf=deaf, patch_size=patch_size), None)


@pytest.fixture(scope="module")
def deep() -> tuple[TruthPainted, TruthPainted]:
    return TruthPainted("train", 16, "depth"), TruthPainted("heldout", 12, "depth")


@pytest.fixture(scope="module")
def facing() -> tuple[TruthPainted, TruthPainted]:
    return TruthPainted("train", 16, "normals"), TruthPainted("heldout", 12, "normals")


def through_the_grid(truth: Tensor, *, unit: bool = False) -> Tensor:
    """What is left of a truth [B, K, H, W] that only patch means are known of, or their directions."""
    means = nn.functional.avg_pool2d(truth, PATCH)
    means = nn.functional.normalize(means, dim=1) if unit else means
    return nn.functional.interpolate(means, truth.shape[-2:], mode="bilinear")


def depth_of_nothing(train: TruthPainted, data: TruthPainted, *, of_logs: bool = False) -> float:
    """RMSE of the mean depth of the training pictures, or of the geometric mean."""
    truth = data.batch(0, len(data))[1]
    seen = train.batch(0, len(train))[1]
    guess = seen.log().mean().exp() if of_logs else seen.mean()
    return depth_result(depth_sums(guess.expand_as(truth), truth, truth > 0), {}).values["rmse_metres"]


def turn_of_nothing(train: TruthPainted, data: TruthPainted) -> float:
    """RMSE of the mean normal of the training pictures."""
    truth = data.batch(0, len(data))[1]
    guess = train.batch(0, len(train))[1].mean((0, 2, 3))[:, None, None].expand_as(truth)
    return normals_result(normals_sums(guess, truth, truth[:, 0] > -9), {}).values["rmse_degrees"]


def test_ridge_on_the_true_depth_reaches_what_the_patch_grid_allows(deep):
    truth = deep[1].batch(0, 12)[1]
    left = through_the_grid(truth[:, None])[:, 0]
    ceiling = depth_result(depth_sums(left, truth, truth > 0), {}).values
    found = depth.evaluate(told(), *deep, DepthSettings(head="ridge", short_side=None, ridge=1e-9)).values
    for name, value in ceiling.items():
        assert found[name] == pytest.approx(value, abs=1e-4), name
    assert found["rmse_metres"] < 0.6 * depth_of_nothing(*deep)


def test_ridge_on_the_true_normals_reaches_what_the_patch_grid_allows(facing):
    truth = facing[1].batch(0, 12)[1]
    left = through_the_grid(truth, unit=True)
    ceiling = normals_result(normals_sums(left, truth, truth[:, 0] > -9), {}).values
    found = normals.evaluate(told(), *facing, NormalsSettings(head="ridge", short_side=None, ridge=1e-9)).values
    for name, value in ceiling.items():
        assert found[name] == pytest.approx(value, abs=1e-4), name
    assert found["rmse_degrees"] < 0.5 * turn_of_nothing(*facing)


def test_a_trained_linear_layer_reads_depth_and_normals_that_are_there(deep, facing):
    settings = {"head": "linear", "training": QUICK, "short_side": None}
    found = depth.evaluate(told(), *deep, DepthSettings(num_bins=16, **settings)).values["rmse_metres"]
    turned = normals.evaluate(told(), *facing, NormalsSettings(**settings)).values["rmse_degrees"]
    assert found < 0.6 * depth_of_nothing(*deep)
    assert turned < 0.5 * turn_of_nothing(*facing)


def test_a_trained_dpt_head_reads_depth_and_normals_that_are_there(monkeypatch):
    """Four pictures, learnt by heart."""
    monkeypatch.setattr(geometry_probes, "CHANNELS", 16)
    deep, facing = ([TruthPainted("train", 4, what)] * 2 for what in ("depth", "normals"))
    settings = {"head": "dpt", "training": DPT, "short_side": None}
    found = depth.evaluate(told(patch_size=8), *deep, DepthSettings(num_bins=16, **settings)).values["rmse_metres"]
    turned = normals.evaluate(told(patch_size=8), *facing, NormalsSettings(**settings)).values["rmse_degrees"]
    assert found < 0.7 * depth_of_nothing(*deep)
    assert turned < 0.8 * turn_of_nothing(*facing)


@pytest.mark.parametrize(("head", "tolerance"), [("ridge", 1e-4), ("linear", 0.02)])
def test_features_that_say_nothing_land_at_the_mean_predictor(head, tolerance, deep, facing):
    """The trained layer's loss is one of log depths: its constant is their mean."""
    settings = {"head": head, "training": QUICK, "short_side": None}
    found = depth.evaluate(told(deaf=True), *deep, DepthSettings(num_bins=16, **settings)).values["rmse_metres"]
    turned = normals.evaluate(told(deaf=True), *facing, NormalsSettings(**settings)).values["rmse_degrees"]
    assert found == pytest.approx(depth_of_nothing(*deep, of_logs=head == "linear"), rel=tolerance)
    assert turned == pytest.approx(turn_of_nothing(*facing), rel=tolerance)


def test_features_of_noise_land_near_the_mean_predictor(deep):
    """A random layer on pixels of noise: nothing in it knows of depth."""

    class Noisy(TruthPainted):
        def batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
            pixels, truth = super().batch(start, stop)
            return torch.rand(pixels.shape, generator=torch.Generator().manual_seed(start)), truth

    sets = (Noisy("train", 48, "depth"), Noisy("heldout", 12, "depth"))
    found = depth.evaluate(know_nothing(patch_size=PATCH), *sets, DepthSettings(head="ridge", short_side=None)).values
    assert found["rmse_metres"] == pytest.approx(depth_of_nothing(*sets), rel=0.05)


def test_scores_do_not_depend_on_the_batch_size_and_come_again(deep):
    settings = DepthSettings(head="linear", training=dataclasses.replace(QUICK, steps=5), short_side=None, batch_size=5)
    state = torch.get_rng_state()
    first, second = (
        depth.evaluate(told(), *deep, each) for each in (settings, dataclasses.replace(settings, batch_size=12))
    )
    assert first.values == pytest.approx(second.values, abs=1e-6)
    for name, values in first.per_picture.items():
        torch.testing.assert_close(values, second.per_picture[name], rtol=1e-5, atol=1e-5)
    assert torch.equal(torch.get_rng_state(), state)
    other = dataclasses.replace(settings, training=dataclasses.replace(settings.training, seed=1))
    assert depth.evaluate(told(), *deep, other).values != first.values


def test_depths_beyond_the_far_end_do_not_count(deep):
    near = depth.evaluate(told(), *deep, DepthSettings(head="ridge", short_side=None, max_depth=5.0)).per_picture
    truth = deep[1].batch(0, 12)[1]
    assert near["valid"].tolist() == (truth <= 5.0).flatten(1).sum(1).tolist()
    assert 0 < near["valid"].sum() < truth.numel()


def test_only_pixels_inside_a_set_s_crop_are_scored_and_all_where_the_crop_is_not_wanted(deep):
    train, data = deep
    crop = Crop(size=(32, 32), rows=(3, 20), columns=(5, 30))
    inside, whole = data[0][1].clone(), [data[number] for number in range(len(data))]
    counted = torch.zeros(32, 32, dtype=torch.bool)
    counted[3:20, 5:30] = True
    cut = Listed([(pixels, depth * counted) for pixels, depth in whole], [])
    marked = Listed(whole, [])
    marked.crop = crop
    settings = DepthSettings(head="ridge", short_side=None)
    found = depth.evaluate(told(), train, marked, settings)
    expected = depth.evaluate(told(), train, cut, settings)
    assert found.values == expected.values and found.per_picture["valid"][0] == (inside * counted > 0).sum()
    assert (found.settings["crop"], expected.settings["crop"]) == ("eigen", "none")
    everything = depth.evaluate(told(), train, marked, dataclasses.replace(settings, crop="none"))
    assert everything.values == depth.evaluate(told(), train, Listed(whole, []), settings).values != found.values


def test_the_eigen_crop_is_that_of_nyuv2_and_refuses_maps_of_another_size(tmp_path):
    counted = EIGEN_CROP.counted((480, 640))
    assert counted.sum() == 426 * 560 and counted[45:471, 41:601].all()
    tiny_layouts.nyuv2(tmp_path)
    settings = {"tasks": ("depth",), "geometry": "nyuv2", "root": str(tmp_path)}
    encoder = DualEncoder(Told(patch_size=1), None)
    with pytest.raises(ValueError, match=r"for \(480, 640\) pixels and one has \(3, 4\).*evaluate\.depth_crop=none"):
        evaluate_in_training(encoder, asking(**settings))
    assert "depth/rmse_metres" in evaluate_in_training(encoder, asking(**settings, depth_crop="none"))


def test_a_released_decoder_is_scored_without_training(facing, tmp_path):
    torch.manual_seed(0)
    head = DPTHead(width=8, num_outputs=3, channels=8)
    save_file(head.state_dict(), tmp_path / "normals.safetensors")
    settings = NormalsSettings(decoder=str(tmp_path / "normals.safetensors"), short_side=None)
    found = normals.evaluate(told(), None, facing[1], settings)
    pixels, truth = facing[1].batch(0, 12)
    with torch.no_grad():
        maps = nn.functional.normalize(head(told().image.intermediate(pixels, (1, 2, 3, 4))), dim=1)
    large = nn.functional.interpolate(maps, truth.shape[-2:], mode="bilinear")
    expected = normals_result(normals_sums(large, truth, truth[:, 0] > -9), {})
    assert found.values["rmse_degrees"] == pytest.approx(expected.values["rmse_degrees"], abs=1e-4)
    assert found.settings["num_train_images"] == 0


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (DepthSettings, {"min_depth": 0.0}),
        (DepthSettings, {"num_bins": 1}),
        (DepthSettings, {"decoder": "file", "head": "linear"}),
        (NormalsSettings, {"ridge": 0.0}),
        (NormalsSettings, {"decoder": "file", "head": "ridge"}),
    ],
)
def test_settings_that_mean_nothing_are_refused(kind, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        kind(**wrong)


def test_the_released_protocols_are_the_defaults():
    assert DepthSettings().head == "linear" and DepthSettings().num_bins == 256
    assert (DepthSettings().min_depth, DepthSettings().max_depth) == (1e-3, 10.0)
    assert DepthSettings().training.steps == 38_400 and TrainedLinearSettings().training.steps == 40_000
    slides = TrainedLinearSettings()
    assert (slides.mode, slides.window, slides.stride, slides.short_side) == ("slide", 512, 341, 512)
    assert NormalsSettings().head == "dpt" and geometry_probes.CHANNELS == 256


def label_set(num_pictures: int, seed: int) -> Listed:
    """Pictures of four patches by five, each patch of one class that is painted in it; some pixels are ignored."""
    generator = torch.Generator().manual_seed(seed)
    items = []
    for _ in range(num_pictures):
        labels = torch.randint(4, (4, 5), generator=generator).repeat_interleave(8, 0).repeat_interleave(8, 1)
        pixels = painted(labels)
        labels[torch.rand(labels.shape, generator=generator) < 0.1] = 255
        items.append((pixels, labels))
    return Listed(items, [*"abcd"])


def test_a_trained_linear_probe_reads_classes_that_are_there():
    """Bilinear maps of one patch's class blur into the next, so the ceiling is that of the ridge probe."""
    image = Painted(num_classes=4, patch_size=8)
    encoder, sets = DualEncoder(image, None), (label_set(12, 0), label_set(6, 1))
    training = dataclasses.replace(QUICK, steps=60, lr=0.1)
    found = trained_segmentation.evaluate(
        encoder, *sets, TrainedLinearSettings(training=training, short_side=None)
    ).values
    ceiling = linear_segmentation.evaluate(encoder, *sets, LinearSettings(short_side=None)).values
    assert found["miou"] == pytest.approx(ceiling["miou"], abs=0.03)
    assert found["miou"] > 0.6


@pytest.mark.parametrize("probe", ["ridge", "linear"])
def test_linear_scores_are_averaged_over_windows_step_by_step(probe):
    """Re-derived window by window for windows of 24 every 16 on pictures of 32 x 40; every pixel's class agrees."""
    encoder, sets = know_nothing(patch_size=8), (label_set(6, 0), label_set(3, 1))
    windows = {"short_side": None, "mode": "slide", "window": 24, "stride": 16}
    if probe == "linear":
        training = dataclasses.replace(QUICK, steps=3)
        task, settings = trained_segmentation, TrainedLinearSettings(training=training, **windows)
    else:
        task, settings = linear_segmentation, LinearSettings(**windows)
    scores = task.fit(encoder.image, sets[0], settings)
    found = task.evaluate(encoder, *sets, settings)
    hits = []
    for pixels, labels in sets[1].items:
        said, seen = torch.zeros(4, 32, 40, dtype=torch.double), torch.zeros(32, 40)
        for top in (0, 8):
            for left in (0, 16):
                tokens = encoder.image(pixels[None, :, top : top + 24, left : left + 24]).patches[0].detach()
                maps = (tokens @ scores.weight_KD.T + scores.bias_K).T.unflatten(1, (3, 3)).double()[None]
                window = nn.functional.interpolate(maps.detach(), (24, 24), mode="bilinear")[0]
                said[:, top : top + 24, left : left + 24] += window
                seen[top : top + 24, left : left + 24] += 1
        predicted = (said / seen).argmax(0)
        hits.append(((predicted == labels) & (labels != 255)).sum().item())
    assert found.per_picture["correct"].tolist() == hits and (seen.min(), seen.max()) == (1, 4)
    one = task.evaluate(encoder, *sets, dataclasses.replace(settings, window=40, stride=40))
    assert one.values == task.evaluate(encoder, *sets, dataclasses.replace(settings, mode="whole")).values
    assert one.values != found.values
    with pytest.raises(ValueError, match="stride=25"):
        dataclasses.replace(settings, stride=25)


def test_classes_that_features_do_not_tell_land_at_the_most_frequent_one():
    class Deaf(Told):
        def __init__(self):
            super().__init__(deaf=True, patch_size=8)

    sets = (label_set(12, 0), label_set(6, 1))
    training = dataclasses.replace(QUICK, steps=60, lr=0.1)
    settings = TrainedLinearSettings(training=training, short_side=None)
    found = trained_segmentation.evaluate(DualEncoder(Deaf(), None), *sets, settings)
    assert sorted(found.per_class.values())[:3] == [0, 0, 0]
    with pytest.raises(ValueError, match="different classes"):
        trained_segmentation.evaluate(DualEncoder(Deaf(), None), sets[0], Listed([], ["a"]), settings)


@torch.no_grad()
def test_a_trained_probe_s_weights_say_what_its_layers_say():
    torch.manual_seed(0)
    head = NormedLinear(width=6, num_classes=3)
    for tensor in (*head.parameters(), head.norm.running_mean, head.norm.running_var):
        tensor.copy_(torch.rand_like(tensor) + 0.2)
    features = torch.randn(2, 6, 4, 5)
    torch.testing.assert_close(head.scores().of(features), head.eval()(features), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def tiny_encoder() -> DualEncoder:
    torch.manual_seed(0)
    return build_dual(TINY.student, TINY.data.image_size).eval()


@pytest.mark.parametrize("task", ["linear_segmentation", "depth", "normals"])
def test_probe_and_steps_reach_the_tasks(task, tiny_encoder, monkeypatch):
    monkeypatch.setattr(geometry_probes, "CHANNELS", 8)
    probes = ["ridge", "linear"] if task == "linear_segmentation" else ["ridge", "linear", "dpt"]
    asked = [(probe, 2) for probe in probes] + [("linear", 4)]
    scores = [
        evaluate_in_training(tiny_encoder, asking(tasks=(task,), probe=probe, probe_steps=steps), 6)
        for probe, steps in asked
    ]
    firsts = [next(iter(each.values())) for each in scores]
    assert len(set(firsts)) == len(asked)


def test_a_recipe_names_a_released_decoder_which_is_scored_without_training_pictures(tiny_encoder, tmp_path):
    torch.manual_seed(0)
    together = {}
    for what, outputs in (("depth", 4), ("normals", 3)):
        head = DPTHead(width=32, num_outputs=outputs, channels=8, relu=what == "depth")
        together |= {
            f"{what}_head.{name}".replace(".head.", f".{what}_head."): v for name, v in head.state_dict().items()
        }
    save_file(together, tmp_path / "model.safetensors")
    recipe = asking(tasks=("depth", "normals"), probe="dpt", decoder=str(tmp_path), num_images=6)
    data = evaluation_data(recipe, 6)
    assert data.depth_train is None and data.normals_train is None and len(data.depth) == 6
    scores = evaluate_in_training(tiny_encoder, recipe)
    settings = DepthSettings(head="dpt", decoder=str(tmp_path), short_side=32)
    expected = depth.evaluate(tiny_encoder, None, data.depth, settings).values
    assert {name: scores[f"depth/{name}"] for name in expected} == expected
    assert scores["normals/rmse_degrees"] > 0


@pytest.mark.parametrize("probe", ["ridge", "linear"])
def test_a_decoder_beside_another_probe_means_nothing(probe):
    with pytest.raises(InvalidCombination, match=r"set evaluate\.probe=dpt"):
        Recipe(evaluate=Evaluate(tasks=("depth",), decoder="file.npz", probe=probe))


def test_linear_segmentation_through_a_dpt_head_means_nothing():
    with pytest.raises(InvalidCombination, match="read linearly"):
        Recipe(evaluate=Evaluate(tasks=("depth", "linear_segmentation"), probe="dpt"))


def test_the_command_measures_depth_and_normals_of_a_run(tmp_path, tiny_encoder, capsys):
    student = {f"encoder.{name}": value for name, value in tiny_encoder.state_dict().items()}
    written(tmp_path / "run", 3, TINY, student=student)
    for task, unit in (("depth", " m"), ("normals", " °")):
        words = ["evaluate.num_images=6", "probe=linear", "probe_steps=3"]
        assert evaluate_checkpoint(tmp_path / "run", task, words) == 0
        lines = [[cell.strip() for cell in re.split("[│┃]", line)] for line in capsys.readouterr().out.splitlines()]
        cells = {line[1]: line[2] for line in lines if len(line) == 4}
        assert cells.pop("measure") == "value"
        for name, value in cells.items():
            assert value.endswith(unit if is_error(name) else " %"), f"{name} {value}"
        page = json.loads((tmp_path / "run" / "eval" / f"{task}.json").read_text())
        assert page["settings"]["training"]["steps"] == 3 and page["settings"]["head"] == "linear"
        assert page["num_images"] == 6 and page["settings"]["num_train_images"] == 6
        assert next(iter(page["values"])).startswith("rmse_")


def test_the_best_checkpoint_is_the_one_with_the_least_error(tmp_path):
    words = ("evaluate.tasks=[depth]", "evaluate.every=2", "evaluate.num_images=8", "optim.steps=6")
    run = trained(tmp_path / "run", *words)
    key = "evaluate/depth/rmse_metres"
    errors = {line["step"]: line[key] for line in numbers(run) if key in line}
    score, step = find(run).state()["best"]
    assert len(errors) == 3 and errors[step] == min(errors.values()) == -score


@pytest.mark.real_data
def test_real_samples_can_be_measured_by_every_probe(shared_data, tiny_encoder, monkeypatch):
    monkeypatch.setattr(geometry_probes, "CHANNELS", 8)
    for probe in ("ridge", "linear", "dpt"):
        recipe = asking(
            tasks=("depth", "normals"), geometry=str(shared_data / "depth_samples"), probe=probe, probe_steps=2
        )
        scores = evaluate_in_training(tiny_encoder, recipe)
        assert 0 < scores["depth/rmse_metres"] < 10 and 0 < scores["normals/rmse_degrees"] < 180
