"""Zero-shot and linear classification: against scikit-learn and torch's optimisers, at the ceiling and at chance."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from oracles import Scrambled, all_knowing, know_nothing, painted
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import top_k_accuracy_score

from distill.config import Evaluate
from distill.contracts import Tokens
from distill.encoders.dual import DualEncoder
from distill.eval import EvaluationData
from distill.eval.pictures.datasets import ClassFolder
from distill.eval.probes.linear_heads import descend, minimise
from distill.eval.prompts import TEMPLATES
from distill.eval.registry import classifier
from distill.eval.tasks import linear_classification, zero_shot_classification
from distill.eval.tasks.linear_classification import LinearClassificationSettings, choose, fit, held_out, parts_of
from distill.eval.tasks.zero_shot_classification import ZeroShotClassificationSettings, class_ranks

QUICK = {"blocks": (1,), "pooled": ("both",), "steps": 40, "rates": (1e-2, 1e-1), "penalties": (1e-2, 1e-4)}


class Classified:
    """Given pictures with given classes."""

    ignore = -1

    def __init__(self, pictures: torch.Tensor, labels: torch.Tensor, class_names: list[str]):
        self.pictures, self.labels, self.class_names, self.prompts = pictures, labels, class_names, class_names

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.pictures[start:stop], self.labels[start:stop]


def noise(count: int, num_classes: int, *, seed: int = 0) -> Classified:
    """Pictures that say nothing of their classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, num_classes, (count,), generator=generator)
    names = [f"the {number}th kind" for number in range(num_classes)]
    return Classified(torch.rand(count, 3, 14, 14, generator=generator), labels, names)


def plain(labels: list[int], class_names: list[str]) -> Classified:
    """Pictures painted all over with their class."""
    pictures = torch.stack([painted(torch.full((16, 16), label)) for label in labels])
    return Classified(pictures, torch.tensor(labels), class_names)


def test_clip_s_eighty_templates_are_there():
    assert len(set(TEMPLATES["imagenet80"])) == 80
    assert all(template.count("{}") == 1 for template in TEMPLATES["imagenet80"])
    assert set(TEMPLATES["tcl"][:8]) <= set(TEMPLATES["imagenet80"])


@pytest.mark.parametrize("cls", [0, 1])
def test_top_1_and_top_5_agree_with_scikit_learn(cls, monkeypatch):
    encoder, data = know_nothing(), noise(150, 12)
    settings = ZeroShotClassificationSettings(cls=cls, templates="tcl")
    found = zero_shot_classification.evaluate(encoder, data, settings)
    image = torch.nn.functional.normalize(encoder.image(data.pictures).cls[:, cls].double(), dim=1)
    sentences = [[template.format(name) for template in TEMPLATES["tcl"]] for name in data.class_names]
    text = torch.stack(
        [torch.nn.functional.normalize(encoder.encode_text(each).double(), dim=1).mean(0) for each in sentences]
    )
    scores = (image @ torch.nn.functional.normalize(text, dim=1).T).detach().numpy()
    for k in (1, 5):
        expected = top_k_accuracy_score(data.labels, scores, k=k, labels=range(12))
        assert found.values[f"top{k}"] == pytest.approx(expected, abs=1e-12)
        assert found.per_picture[f"top{k}"].double().mean().item() == pytest.approx(expected, abs=1e-12)
    assert np.mean(list(found.per_class.values())) == pytest.approx(found.values["class_top1"])
    monkeypatch.setattr(zero_shot_classification, "MAX_ELEMENTS", 50)
    again = ZeroShotClassificationSettings(cls=cls, templates="tcl", batch_size=7)
    assert zero_shot_classification.evaluate(encoder, data, again).values == found.values


def test_of_equally_similar_classes_the_earlier_comes_first():
    assert class_ranks(torch.ones(3, 2), torch.ones(4, 2), torch.tensor([0, 2, 3])).tolist() == [0, 2, 3]
    names = ["red", "blue", "red"]
    data = plain([0, 0, 1], ["a", "b", "c"])
    data.prompts, data.labels = names, torch.tensor([0, 2, 1])
    found = zero_shot_classification.evaluate(all_knowing(["red", "blue"]), data, ZeroShotClassificationSettings())
    assert found.per_class == {"a": 1.0, "b": 1.0, "c": 0.0}


def test_an_encoder_that_maps_everything_to_one_point_names_the_first_class():
    data = noise(100, 4)
    encoder = all_knowing(["kind"], patch_size=7)
    found = zero_shot_classification.evaluate(encoder, data, ZeroShotClassificationSettings())
    assert found.values["top1"] == (data.labels == 0).double().mean().item()
    assert found.values["class_top1"] == 0.25


def test_a_class_without_pictures_counts_in_no_mean_and_pictures_without_a_class_in_nothing():
    names = ["red", "blue", "green"]
    data = plain([0, 1, 1, 2], names)
    data.labels[3] = -1
    found = zero_shot_classification.evaluate(all_knowing(names), data, ZeroShotClassificationSettings())
    assert found.values == {"top1": 1.0, "class_top1": 1.0} and found.num_images == 3
    assert math.isnan(found.per_class["green"])
    data.labels[:] = -1
    with pytest.raises(ValueError, match="no picture has a class"):
        zero_shot_classification.evaluate(all_knowing(names), data, ZeroShotClassificationSettings())


def test_an_all_knowing_encoder_names_every_class_and_one_that_knows_nothing_guesses():
    names = ["red", "blue", "green", "grey", "pink", "teal", "gold"]
    known = zero_shot_classification.evaluate(
        all_knowing(names), plain([*range(7)] * 3, names), ZeroShotClassificationSettings()
    )
    assert known.values == {"top1": 1.0, "top5": 1.0, "class_top1": 1.0}
    found = zero_shot_classification.evaluate(know_nothing(), noise(2000, 8), ZeroShotClassificationSettings())
    # Four standard deviations of a share of 2,000 guesses.
    assert found.values["top1"] == pytest.approx(1 / 8, abs=0.03)
    assert found.values["top5"] == pytest.approx(5 / 8, abs=0.044)


def test_every_setting_of_zero_shot_classification_is_heard_and_impossible_ones_are_refused():
    encoder, data = know_nothing(), noise(200, 12)
    seen, plain_tokens = [], encoder.image.forward

    def noted(pixels: torch.Tensor):
        seen.append(torch.is_autocast_enabled("cpu"))
        return plain_tokens(pixels)

    encoder.image.forward = noted
    base = {"templates": "plain"}
    before = zero_shot_classification.evaluate(encoder, data, ZeroShotClassificationSettings(**base))
    for change in ({"templates": "imagenet80"}, {"cls": 1}):
        settings = ZeroShotClassificationSettings(**(base | change))
        after = zero_shot_classification.evaluate(encoder, data, settings)
        assert any(not torch.equal(after.per_picture[key], before.per_picture[key]) for key in ("top1", "top5")), change
    assert not any(seen)
    zero_shot_classification.evaluate(encoder, data, ZeroShotClassificationSettings(precision="bf16", **base))
    assert seen[-1]  # the order of a few classes withstands rounding
    with pytest.raises(ValueError, match="choose one of plain, tcl, imagenet80"):
        ZeroShotClassificationSettings(templates="none")
    encoder.image.num_cls = 1
    with pytest.raises(ValueError, match="cls=1"):
        zero_shot_classification.evaluate(encoder, data, ZeroShotClassificationSettings(cls=1))


def test_folders_say_what_their_classes_are_called(tmp_path):
    for name in ("n01440764", "n02012849", "great_cat"):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "val" / name / "a.png")
    data = ClassFolder(tmp_path, "val", image_size=8)
    assert data.class_names == ["great_cat", "n01440764", "n02012849"]
    assert data.prompts == ["great cat", "tench", "crane bird"]
    (tmp_path / "names.json").write_text(json.dumps({"great_cat": "lion", "n01440764": "fish", "n02012849": "bird"}))
    assert ClassFolder(tmp_path, "val", image_size=8).prompts == ["lion", "fish", "bird"]
    (tmp_path / "names.json").write_text(json.dumps({"great_cat": "lion"}))
    with pytest.raises(ValueError, match="what n01440764 is called"):
        ClassFolder(tmp_path, "val", image_size=8)


def clouds(count: int, *, width: int = 6, num_classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features around a centre for each class, on different scales."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(num_classes, width, generator=torch.Generator().manual_seed(9))
    label = torch.randint(0, num_classes, (count,), generator=generator)
    scale = torch.arange(1, width + 1)
    return (centre[label] + torch.randn(count, width, generator=generator)) * scale + 2, label


@pytest.mark.parametrize("penalty", [1e-1, 1e-3])
def test_the_minimum_is_scikit_learn_s_logistic_regression(penalty):
    x, label = clouds(120)
    x[:, 3] = 5.0  # a constant feature must not divide by zero
    found = minimise(x, label, num_classes=4, penalties=(1.0, penalty))
    deviation = x.std(0, correction=0)
    deviation[3] = 1
    z = ((x - x.mean(0)) / deviation).double().numpy()
    reference = LogisticRegression(C=1 / (120 * penalty), tol=1e-8, max_iter=5000).fit(z, label)
    scores = x @ found.weight_RKD[1].T + found.bias_RK[1]
    # float32 heads: the worst difference of two probabilities measured was 1.9e-6.
    np.testing.assert_allclose(scores.softmax(1), reference.predict_proba(z), atol=2e-5)


def test_descent_is_torch_s_sgd_with_a_half_cosine():
    x, label = clouds(50)
    rates, steps, batch_size = (1e-2, 3e-1), 30, 20
    found = descend(x, label, num_classes=4, rates=rates, steps=steps, batch_size=batch_size, seed=3)
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(2, 4, 6, generator=generator) * 0.01
    batches = [part for _ in range(15) for part in torch.randperm(50, generator=generator)[:40].split(20)]
    for number, rate in enumerate(rates):
        layer = torch.nn.Linear(6, 4)
        layer.weight.data, layer.bias.data = start[number].clone(), torch.zeros(4)
        optimiser = torch.optim.SGD(layer.parameters(), lr=rate * batch_size / 256, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for rows in batches[:steps]:
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(layer(x[rows]), label[rows]).backward()
            optimiser.step()
            schedule.step()
        # float32: the worst difference measured was 7e-8 of weights up to 0.7.
        torch.testing.assert_close(found.weight_RKD[number], layer.weight.data, atol=1e-6, rtol=0)
        torch.testing.assert_close(found.bias_RK[number], layer.bias.data, atol=1e-6, rtol=0)


def test_every_tenth_picture_of_a_class_is_held_out_but_never_its_only_one():
    label = torch.tensor([1, 0, *[1] * 10, 2, 0])
    assert held_out(label).nonzero().flatten().tolist() == [0, 1, 11]


def test_a_candidate_is_chosen_on_pictures_that_were_not_fitted():
    x, label = clouds(100)
    settings = LinearClassificationSettings(solver="lbfgs", penalties=(1e3, 1e-2))
    chosen, right = choose(x, label, num_classes=4, settings=settings)
    assert chosen == 1 and 0 < right <= held_out(label).sum()
    alone = torch.arange(4)
    settings = LinearClassificationSettings(solver="lbfgs", penalties=(1e-1, 1e-2, 1e-3))
    assert choose(x[:4], alone, num_classes=4, settings=settings) == (1, 0)


@pytest.mark.parametrize("choose_on", ["held_out", "scored"])
@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
def test_a_linear_head_reads_what_an_encoder_knows_and_guesses_where_it_knows_nothing(solver, choose_on):
    settings = LinearClassificationSettings(solver=solver, choose_on=choose_on, **QUICK)
    names = ["red", "blue", "green"]
    train, val = plain([0, 1, 2] * 6, names), plain([0, 1, 2, 2], names)
    found = linear_classification.evaluate(all_knowing(names), train, val, settings)
    assert found.values == {"accuracy": 1.0, "class_accuracy": 1.0}
    assert found.settings["chosen"] in settings.rates + settings.penalties
    guessed = linear_classification.evaluate(know_nothing(), noise(100, 4), noise(1000, 4, seed=1), settings)
    # Four standard deviations of a share of 1,000 guesses.
    assert guessed.values["accuracy"] == pytest.approx(1 / 4, abs=0.055)


@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
def test_the_head_does_not_depend_on_the_encoder_s_batches(solver):
    train, val = noise(40, 3), noise(60, 3, seed=1)
    results = [
        linear_classification.evaluate(
            know_nothing(), train, val, LinearClassificationSettings(solver=solver, batch_size=size, **QUICK)
        )
        for size in (60, 9)
    ]
    assert torch.equal(results[0].per_picture["correct"], results[1].per_picture["correct"])


@pytest.mark.parametrize(
    "change",
    [{"solver": "lbfgs"}, {"rates": (1e-3, 1e-1)}, {"steps": 41}, {"step_size": 16}, {"seed": 1}],
)
def test_every_setting_of_the_head_alone_changes_it(change):
    x, label = clouds(50)
    before, after = (
        fit(x, label, num_classes=4, settings=LinearClassificationSettings(**(QUICK | each))) for each in ({}, change)
    )
    assert not torch.equal(before.weight_RKD, after.weight_RKD)


@pytest.mark.parametrize("change", [{"pooled": ("cls",)}, {"penalties": (10.0,)}, {"precision": "bf16"}])
def test_what_is_read_and_how_it_is_fitted_changes_the_answers(change):
    encoder = know_nothing()
    plain_tokens = encoder.image.forward

    def with_another_cls(pixels: torch.Tensor):
        found = plain_tokens(pixels)
        return dataclasses.replace(found, cls=found.cls.flip(1))  # or CLS 1 is the patches' mean

    encoder.image.forward = with_another_cls
    train, val = noise(60, 3), noise(300, 3, seed=1)
    answers = [
        linear_classification.evaluate(
            encoder,
            train,
            val,
            LinearClassificationSettings(**(QUICK | {"solver": "lbfgs", "penalties": (1e-3,)} | each)),
        ).per_picture["correct"]
        for each in ({}, change)
    ]
    assert not torch.equal(*answers)


def test_what_no_head_can_be_fitted_to_is_refused():
    other = noise(10, 3)
    other.class_names = ["x", "y", "z"]
    with pytest.raises(ValueError, match="different classes"):
        linear_classification.evaluate(know_nothing(), other, noise(10, 3), LinearClassificationSettings(**QUICK))
    for wrong in (
        {"rates": ()},
        {"penalties": (0.0,)},
        {"steps": 0},
        {"step_size": 0},
        {"blocks": (0,)},
        {"pooled": ()},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            LinearClassificationSettings(**wrong)


class Blocks(Scrambled):
    """Five blocks; CLS of the earlier ones says what a linear map does not read out of the last one's."""

    num_layers = 5

    def intermediate(self, pixels: torch.Tensor, blocks: tuple[int, ...]) -> tuple[Tokens, ...]:
        last = self(pixels)
        waves = {
            number: dataclasses.replace(last, cls=3 * (last.cls * 10 * (6 - number)).sin()) for number in range(1, 5)
        }
        return tuple((waves | {5: last})[number] for number in blocks)


def blocky() -> DualEncoder:
    return DualEncoder(Blocks(width=12, patch_size=7), None)


def test_what_heads_read_is_cls_of_the_last_blocks_and_the_mean_patch_in_dinov2_s_order():
    encoder, data = blocky(), noise(9, 3)
    data.labels[4] = -1
    kept = torch.tensor([0, 1, 2, 3, 5, 6, 7, 8])
    found = parts_of(encoder.image, data, LinearClassificationSettings(batch_size=4))
    with torch.no_grad():
        blocks = encoder.image.intermediate(data.pictures[kept], (2, 3, 4, 5))
    cls, mean = torch.cat([each.cls[:, 0] for each in blocks], dim=1), blocks[-1].patches.mean(1)
    assert torch.equal(found.label_n, data.labels[kept])
    for num_blocks, width in ((1, 12), (4, 48)):
        assert torch.equal(found.read(num_blocks, "cls"), cls[:, -width:])
        assert torch.equal(found.read(num_blocks, "both"), torch.cat([cls[:, -width:], mean], dim=1))
        assert torch.equal(found.read(num_blocks, "patch_mean"), mean)
    settings = LinearClassificationSettings()
    assert (settings.blocks, settings.pooled, len(settings.rates)) == ((1, 4), ("cls", "both"), 13), "52 heads"


def test_what_heads_read_is_held_once():
    found = parts_of(blocky().image, noise(9, 3), LinearClassificationSettings(batch_size=4))
    storage = found.parts_nPD.untyped_storage()
    assert storage.nbytes() == 9 * 5 * 12 * 4
    for blocks in (1, 4):
        for pooled in ("cls", "both", "patch_mean"):
            assert found.read(blocks, pooled).untyped_storage().data_ptr() == storage.data_ptr()


@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
def test_heads_that_are_given_rows_are_those_of_these_rows_alone(solver):
    x, label = clouds(60)
    rows, settings = (
        torch.arange(60)[torch.arange(60) % 3 > 0],
        LinearClassificationSettings(**QUICK | {"solver": solver}),
    )
    some = fit(x, label, num_classes=4, settings=settings, rows_m=rows)
    alone = fit(x[rows], label[rows], num_classes=4, settings=settings)
    assert torch.equal(some.weight_RKD, alone.weight_RKD) and torch.equal(some.bias_RK, alone.bias_RK)
    assert torch.equal(some.classes(x, rows), alone.classes(x[rows]))


@pytest.mark.parametrize("choose_on", ["held_out", "scored"])
@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
def test_what_is_read_is_chosen_like_the_rate_and_then_read_alone(solver, choose_on):
    """The answers of each choice come from fitting it alone; the class is told by an early block only."""
    encoder, train, val = blocky(), noise(400, 2), noise(60, 2, seed=1)
    for data in (train, val):
        with torch.no_grad():
            early = encoder.image.intermediate(data.pictures, (2,))[0].cls[:, 0, 0]
        data.labels = (early > early.median()).long()
    asked = LinearClassificationSettings(
        solver=solver, choose_on=choose_on, steps=200, rates=(1e-2, 1.0), penalties=(1e-2, 1e-4)
    )
    found = linear_classification.evaluate(encoder, train, val, asked)
    assert found.settings["read"]["blocks"] == 4 and found.values["accuracy"] > 0.7
    one = dataclasses.replace(
        asked, blocks=(found.settings["read"]["blocks"],), pooled=(found.settings["read"]["pooled"],)
    )
    alone = linear_classification.evaluate(encoder, train, val, one)
    assert torch.equal(alone.per_picture["correct"], found.per_picture["correct"])
    assert alone.settings["chosen"] == found.settings["chosen"]
    if choose_on == "scored":
        each = [
            linear_classification.evaluate(
                encoder, train, val, dataclasses.replace(asked, blocks=(blocks,), pooled=(pooled,))
            ).values["accuracy"]
            for blocks in asked.blocks
            for pooled in asked.pooled
        ]
        assert found.values["accuracy"] == max(each) > min(each)


def test_towers_without_four_blocks_or_without_earlier_ones_are_refused():
    encoder, train = blocky(), noise(8, 2)
    with pytest.raises(ValueError, match="the last 6 blocks cannot be read of a tower of 5"):
        linear_classification.evaluate(encoder, train, train, LinearClassificationSettings(blocks=(6,)))
    deaf = know_nothing()
    deaf.image.num_layers = 12
    with pytest.raises(ValueError, match="last block only"):
        linear_classification.evaluate(deaf, train, train, LinearClassificationSettings())


def test_what_heads_read_is_a_setting_of_recipes():
    data = EvaluationData(image_size=14, short_side=None, classes=noise(30, 2, seed=1), classes_train=noise(40, 2))
    reads = [
        classifier(blocky(), data, Evaluate(tasks=("linear_classification",), classifier_reads=each)).settings
        for each in ("last", "dinov2")
    ]
    assert (reads[0]["blocks"], reads[0]["pooled"]) == ((1,), ("both",))
    assert (reads[1]["blocks"], reads[1]["pooled"]) == ((1, 4), ("cls", "both"))
