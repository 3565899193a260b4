"""Patch-text alignment: shares against a count by hand, encoders that know all or nothing, and what is left out."""

import pytest
import torch
from jaxtyping import Bool, Float
from oracles import Listed, Painted, Spoken, all_knowing, know_nothing, painted
from torch import Tensor, nn

from distill.config import ImageTower, Scenes, Student, TextTower
from distill.contracts import Tokens
from distill.data.scenes import SceneWorld
from distill.encoders.dual import DualEncoder, build_dual
from distill.eval import EvaluationData
from distill.eval.pictures.datasets import SceneMasks
from distill.eval.prompts import class_embeddings
from distill.eval.tasks import alignment
from distill.eval.tasks.alignment import UNLABELLED, AlignmentSettings, right_patches
from distill.eval.tasks.zero_shot_segmentation import ZeroShotSettings
from distill.study.measure import count_patches

NAMES = ["sky", "dog", "mud", "fig"]
PLAIN = {"templates": "plain", "short_side": None}


class Veiled(Painted):
    """Sees what was painted; says class 0 of what is hidden, and in block 1 of 3 of everything."""

    can_hide = gives_blocks = True
    num_layers = 3

    def forward(self, pixels: Float[Tensor, "B 3 H W"], hidden: Bool[Tensor, "B N"] | None = None) -> Tokens:
        found = super().forward(pixels)
        return found if hidden is None else self._always_first(found, hidden)

    def intermediate(self, pixels: Float[Tensor, "B 3 H W"], blocks: tuple[int, ...]) -> tuple[Tokens, ...]:
        found = self(pixels)
        everything = torch.ones(found.patches.shape[:2], dtype=torch.bool)
        return tuple(self._always_first(found, everything) if number == 1 else found for number in blocks)

    def _always_first(self, found: Tokens, where: Bool[Tensor, "B N"]) -> Tokens:
        first = torch.eye(self.width)[0]
        return Tokens(cls=found.cls, patches=torch.where(where[..., None], first, found.patches), grid=found.grid)


def veiled() -> DualEncoder:
    return DualEncoder(Veiled(num_classes=len(NAMES), patch_size=8), Spoken(NAMES))


def labelled(count: int, *, rows: int = 4, columns: int = 6) -> Listed:
    """Pictures whose patches of 8 pixels have one class each; the first patch of each has no label."""
    generator = torch.Generator().manual_seed(0)
    items = []
    for _ in range(count):
        label = torch.randint(len(NAMES), (rows, columns), generator=generator)
        label = label.repeat_interleave(8, 0).repeat_interleave(8, 1)
        pixels = painted(label)
        label[:8, :8] = 255
        items.append((pixels, label))
    return Listed(items, NAMES)


@pytest.fixture(scope="module")
def small() -> DualEncoder:
    torch.manual_seed(0)
    student = Student(
        image=ImageTower(patch_size=8, width=32, depth=3, num_heads=2, num_cls=2),
        text=TextTower(width=16, depth=1, num_heads=2, context_length=32),
    )
    return build_dual(student, 32).eval()


@pytest.fixture(scope="module")
def scenes() -> SceneMasks:
    return SceneMasks(SceneWorld(Scenes(num_train=16), 32), "heldout", 10)


def test_who_sees_everything_is_right_everywhere_and_who_sees_the_visible_only_there():
    data = labelled(5)
    found = alignment.evaluate(veiled(), data, AlignmentSettings(**PLAIN))
    values = found.values
    assert list(values) == ["right", "right_visible", "right_hidden", "right_value", "right_layer1", "right_layer2"]
    assert values["right"] == values["right_value"] == values["right_visible"] == values["right_layer2"] == 1
    firsts = sum((label[::8, ::8] == 0).sum().item() for _, label in data.items)
    assert values["right_layer1"] == firsts / (5 * 23)
    hidden = found.per_picture["right_hidden"].sum().item() / found.per_picture["labelled_hidden"].sum().item()
    assert values["right_hidden"] == hidden and 0.1 < hidden < 0.5
    assert found.per_class == dict.fromkeys(NAMES, 1.0)


def test_three_quarters_are_hidden_and_unlabelled_patches_are_left_out():
    sums = alignment.evaluate(veiled(), labelled(40), AlignmentSettings(**PLAIN)).per_picture
    assert sums["labelled"].tolist() == [23] * 40
    assert (sums["labelled_visible"] + sums["labelled_hidden"]).tolist() == [23] * 40
    # 18 of 24 are hidden; the patch without a label is one of them in some pictures only.
    assert set(sums["labelled_hidden"].tolist()) == {17, 18}
    half = alignment.evaluate(veiled(), labelled(4), AlignmentSettings(hidden_ratio=0.5, **PLAIN)).per_picture
    assert set(half["labelled_hidden"].tolist()) <= {11, 12}


def test_every_value_follows_from_the_sums_over_pictures(small, scenes):
    found = alignment.evaluate(small, scenes, AlignmentSettings(**PLAIN))
    for name, value in found.values.items():
        of = name.replace("right", "labelled") if name in ("right_visible", "right_hidden") else "labelled"
        assert value == found.per_picture[name].sum().item() / found.per_picture[of].sum().item(), name
        assert found.per_picture[name].dtype == torch.int and len(found.per_picture[name]) == 10


def test_a_patch_is_right_when_its_own_name_is_closer_than_any_other_one():
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(3, 7, 5, generator=generator)
    text = nn.functional.normalize(torch.randn(6, 5, generator=generator), dim=1)
    labels = torch.randint(-1, 6, (3, 7), generator=generator)
    found = right_patches(patches, text, labels)
    for place in range(3):
        for patch in range(7):
            cosines = [nn.functional.cosine_similarity(patches[place, patch], each, dim=0).item() for each in text]
            label = labels[place, patch].item()
            assert found[place, patch].item() == (label != UNLABELLED and cosines.index(max(cosines)) == label)


def test_names_that_are_equally_close_are_wrong_and_a_single_name_is_right():
    patches = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, 1, 0], [1, 0, -1]])
    assert not right_patches(patches, torch.ones(2, 4), labels).any()
    assert not right_patches(torch.zeros(2, 3, 4), torch.eye(4), labels).any()
    assert right_patches(patches, torch.ones(1, 4), labels.clamp(max=0)).sum() == 5


def test_the_first_of_equally_large_classes_is_a_patch_s_own():
    label = torch.zeros(8, 8, dtype=torch.long)
    label[:4] = 2
    label[4:] = 1
    found = alignment.patch_labels(
        label[None], Tokens(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2), (1, 1)), 8, num_classes=4, ignore=255
    )
    assert found.tolist() == [[1]]


def test_final_and_value_tokens_are_those_of_the_study_s_patch_accuracy(small, scenes):
    found = alignment.evaluate(small, scenes, AlignmentSettings(**PLAIN))
    data = EvaluationData(image_size=32, short_side=None, segmentation=scenes)
    for features, name in (("final", "right"), ("value", "right_value")):
        settings = ZeroShotSettings(templates="plain", features=features, short_side=None)
        counted = count_patches(small, data, settings=settings)
        assert torch.equal(counted.right_N, found.per_picture[name])
        assert torch.equal(counted.labelled_N, found.per_picture["labelled"])


@torch.no_grad()
def test_layers_and_hidden_passes_are_the_tower_s_own(small, scenes):
    """By hand, from what the tower itself says of the whole set in one batch."""
    found = alignment.evaluate(small, scenes, AlignmentSettings(**PLAIN)).per_picture
    pixels, labels = scenes.batch(0, 10)
    text = class_embeddings(small, scenes.class_names, templates="plain")
    label = alignment.patch_labels(
        labels, small.image(pixels), 8, num_classes=len(scenes.class_names), ignore=scenes.ignore
    )
    for number, each in enumerate(small.image.intermediate(pixels, (1, 2)), 1):
        right = right_patches(each.patches, text, label).sum(1)
        assert torch.equal(right.int(), found[f"right_layer{number}"])
    hidden = torch.cat([alignment._hidden(place, (4, 4), AlignmentSettings()) for place in range(10)])
    assert hidden.sum(1).tolist() == [12] * 10 and len({tuple(row) for row in hidden.tolist()}) == 10
    right = right_patches(small.image(pixels, hidden).patches, text, label)
    assert torch.equal((right & ~hidden).sum(1).int(), found["right_visible"])
    assert torch.equal((right & hidden).sum(1).int(), found["right_hidden"])


def test_results_do_not_depend_on_the_batch_size_nor_touch_random_numbers(small, scenes):
    state = torch.get_rng_state()
    first, second = (
        alignment.evaluate(small, scenes, AlignmentSettings(batch_size=size, **PLAIN)).per_picture for size in (3, 10)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(values, second[name]) for name, values in first.items())


def test_pictures_of_several_sizes_are_measured():
    items = [*labelled(2).items, *labelled(2, rows=3, columns=5).items]
    sums = alignment.evaluate(veiled(), Listed(items, NAMES), AlignmentSettings(**PLAIN)).per_picture
    assert sums["labelled"].tolist() == [23, 23, 14, 14] == sums["right"].tolist()
    assert (sums["labelled_hidden"] + sums["labelled_visible"]).tolist() == [23, 23, 14, 14]


def test_what_a_tower_cannot_do_is_left_out_and_said():
    found = alignment.evaluate(all_knowing(NAMES), labelled(3), AlignmentSettings(**PLAIN))
    assert list(found.values) == ["right", "right_value"]
    assert any("right_hidden; nothing can be hidden" in note for note in found.notes)
    assert any("last block only" in note for note in found.notes)
    asked = AlignmentSettings(hidden_ratio=0.0, **PLAIN)
    whole = alignment.evaluate(veiled(), labelled(3), asked)
    assert "right_hidden" not in whole.values and len(whole.notes) == 1


def test_a_random_encoder_lands_at_chance_which_a_note_states():
    pictures = [
        (torch.rand(3, 28, 28, generator=torch.Generator().manual_seed(number)), label.repeat_interleave(7, 0))
        for number, label in enumerate(
            torch.randint(4, (60, 4, 4), generator=torch.Generator().manual_seed(1)).repeat_interleave(7, 2)
        )
    ]
    found = alignment.evaluate(know_nothing(), Listed(pictures, NAMES), AlignmentSettings(**PLAIN))
    # 960 patches, labels independent of pictures: four standard deviations of a share of a quarter.
    assert found.values["right"] == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 960) ** 0.5)
    assert found.notes[0].startswith("by chance: 25.0%, one of 4 names; always saying")


def test_nothing_labelled_and_settings_that_mean_nothing_are_refused(small):
    blank = [(torch.rand(3, 16, 16), torch.full((16, 16), 255))]
    with pytest.raises(ValueError, match="nothing to score"):
        alignment.evaluate(small, Listed(blank, NAMES), AlignmentSettings(**PLAIN))
    with pytest.raises(ValueError, match="hidden_ratio"):
        AlignmentSettings(hidden_ratio=1.0)
    with pytest.raises(ValueError, match="templates"):
        AlignmentSettings(templates="none")
    with pytest.raises(ValueError, match="no text tower"):
        alignment.evaluate(DualEncoder(small.image, None), labelled(1), AlignmentSettings(**PLAIN))
