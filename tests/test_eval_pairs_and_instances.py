"""Compositional pairs and instance retrieval: against loops, at the ceiling, at chance, on edges, and from files."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from oracles import all_knowing, know_nothing, painted
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from distill.config import Scenes
from distill.data.scenes import SceneWorld
from distill.data.scenes.captions import contents
from distill.data.scenes.vocabulary import COLOUR_NAMES, THINGS
from distill.eval.pictures.instances import folder_instances, scene_instances
from distill.eval.pictures.pairs import ScenePairs, folder_pairs
from distill.eval.tasks import compositional_pairs, instance_retrieval
from distill.eval.tasks.compositional_pairs import Pair, PairSettings
from distill.eval.tasks.instance_retrieval import InstanceSettings, InstanceSubset, nearest_is_own


class Contrasted:
    left_out = 0

    def __init__(self, pictures: torch.Tensor, pairs: list[Pair]):
        self.pictures, self.pairs = pictures, pairs

    def __len__(self) -> int:
        return len(self.pictures)

    def pixels(self, start: int, stop: int) -> torch.Tensor:
        return self.pictures[start:stop]


def random_pairs(count: int, *, per_picture: int = 2) -> Contrasted:
    pairs = [
        Pair(picture=number, caption=f"{number} is {each}", negative=f"{each} not {number}", category="ab"[each % 2])
        for number in range(count)
        for each in range(per_picture)
    ]
    return Contrasted(torch.rand(count, 3, 14, 14, generator=torch.Generator().manual_seed(0)), pairs)


@pytest.mark.parametrize("cls", [0, 1])
def test_accuracy_of_pairs_agrees_with_a_loop(cls):
    encoder, data = know_nothing(), random_pairs(40)
    found = compositional_pairs.evaluate(encoder, data, PairSettings(cls=cls, batch_size=7))
    right: dict[str, list[bool]] = {"a": [], "b": []}
    for pair in data.pairs:
        image = encoder.image(data.pictures[pair.picture][None]).cls[0, cls].detach().double()
        own, other = encoder.encode_text([pair.caption, pair.negative]).double()
        similar = [torch.cosine_similarity(image, text, dim=0).item() for text in (own, other)]
        right[pair.category].append(similar[0] > similar[1])
    assert found.per_class == {name: sum(each) / len(each) for name, each in right.items()}
    assert found.values["accuracy"] == sum(right["a"] + right["b"]) / 80
    assert found.values["category_accuracy"] == pytest.approx(sum(found.per_class.values()) / 2)
    assert found.per_picture["right"].sum().item() == sum(right["a"] + right["b"])
    assert found.per_picture["pairs"].tolist() == [[1, 1]] * 40
    assert 0 < found.values["accuracy"] < 1


def test_pairs_at_the_ceiling_and_at_chance():
    names = ["red", "blue"]
    pictures = torch.stack([painted(torch.full((8, 8), number)) for number in (0, 1)])
    pairs = [
        Pair(picture=number, caption=f"a {names[number]} one", negative=f"a {names[1 - number]} one", category="swap")
        for number in (0, 1)
    ]
    known = compositional_pairs.evaluate(all_knowing(names), Contrasted(pictures, pairs), PairSettings())
    assert known.values == {"accuracy": 1.0, "category_accuracy": 1.0}
    data = random_pairs(1000, per_picture=1)
    coins = (torch.rand(1000, generator=torch.Generator().manual_seed(1)) < 0.5).tolist()
    data.pairs = [
        dataclasses.replace(pair, caption=pair.negative, negative=pair.caption) if coin else pair
        for pair, coin in zip(data.pairs, coins, strict=True)
    ]
    guessed = compositional_pairs.evaluate(know_nothing(), data, PairSettings())
    # Four standard deviations of a share of 1,000 coins.
    assert guessed.values["accuracy"] == pytest.approx(0.5, abs=0.063)


def test_captions_that_are_equally_similar_are_a_mistake_and_no_pairs_are_refused():
    found = compositional_pairs.evaluate(all_knowing([" "], patch_size=7), random_pairs(5), PairSettings())
    assert found.values == {"accuracy": 0.0, "category_accuracy": 0.0}
    with pytest.raises(ValueError, match="no pairs"):
        compositional_pairs.evaluate(know_nothing(), random_pairs(5, per_picture=0), PairSettings())
    encoder = know_nothing()
    encoder.image.num_cls = 1
    with pytest.raises(ValueError, match="cls=1"):
        compositional_pairs.evaluate(encoder, random_pairs(5), PairSettings(cls=1))


@pytest.fixture
def sugar(tmp_path):
    """Both layouts in one folder; one picture's set is absent."""
    for name in ("photos", "pairs/val2017"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("photos/1.jpg", "pairs/val2017/2.jpg"):
        Image.new("RGB", (20, 10), "red").save(tmp_path / name)
    lists = {
        "add_att": [{"image": "photos/1.jpg", "caption": "a dog", "negative_caption": "a blue dog"}],
        "swap_obj": [{"image": "elsewhere/7.jpg", "caption": "a cat", "negative_caption": "a hat"}],
    }
    (tmp_path / "pairs" / "some.json").write_text(json.dumps(lists))
    rows = {"0": {"filename": "2.jpg", "caption": "a cup on a table", "negative_caption": "a table on a cup"}}
    (tmp_path / "pairs" / "swap_obj.json").write_text(json.dumps(rows))
    return tmp_path


def test_both_layouts_of_pairs_are_read_and_what_lacks_its_pictures_is_counted(sugar):
    data = folder_pairs(sugar / "pairs", image_size=14)
    assert data.pairs == [
        Pair(picture=1, caption="a dog", negative="a blue dog", category="add_att"),
        Pair(picture=0, caption="a cup on a table", negative="a table on a cup", category="swap_obj"),
    ]
    assert data.pixels(0, 2).shape == (2, 3, 14, 14)
    found = compositional_pairs.evaluate(know_nothing(), data, PairSettings())
    assert found.settings["left_out"] == 1 and "1 pairs were left out" in found.notes[0]
    assert [pair.category for pair in folder_pairs(sugar / "pairs", image_size=14, limit=1).pairs] == ["swap_obj"]


def test_folders_of_pairs_that_do_not_fit_are_refused(sugar, tmp_path):
    (sugar / "photos" / "1.jpg").unlink()
    with pytest.raises(ValueError, match=r"some\.json.*1\.jpg is not there"):
        folder_pairs(sugar / "pairs", image_size=14)
    for page in ('{"0": {"caption": "a"}}', "[1]", "{"):
        (sugar / "pairs" / "some.json").write_text(page)
        with pytest.raises(ValueError, match=r"some\.json.*(expected|cannot be read)"):
            folder_pairs(sugar / "pairs", image_size=14)
    with pytest.raises(ValueError, match="holds no pairs"):
        folder_pairs(tmp_path / "photos", image_size=14)


@pytest.mark.parametrize("tier", ["easy", "medium", "hard"])
def test_a_scene_s_wrong_captions_are_wrong_in_the_detail_they_say(tier):
    world = SceneWorld(Scenes(tier=tier), 32)
    indices = torch.arange(120)
    written = world.contrasts(indices, "heldout")
    seen = set()
    for content, pairs in zip(contents(world.parameters(indices, "heldout")), written, strict=True):
        kinds = {THINGS[kind].name for kind, _, _ in content.things}
        colours = {COLOUR_NAMES[colour] for colour in [c for _, c, _ in content.things] + [c for _, c in content.stuff]}
        assert [name for name, _, _ in pairs][:2] == ["replace_obj", "replace_att"]
        for name, right, wrong in pairs:
            seen.add(name)
            assert right != wrong
            new = set(wrong.replace(",", "").split()) - set(right.replace(",", "").split())
            if name == "replace_obj":
                assert {word.removesuffix("s").removesuffix("e") for word in new} - {
                    word.removesuffix("s").removesuffix("e") for word in kinds
                }
            if name == "replace_att":
                assert new & set(COLOUR_NAMES) and not new & colours
            if name == "swap_att":
                assert not new & (set(COLOUR_NAMES) - colours)
    assert seen == {"replace_obj", "replace_att", "swap_att"}
    assert world.contrasts(indices[5:7], "heldout") == written[5:7]


def test_scenes_with_pairs_are_the_held_out_ones():
    world = SceneWorld(Scenes(), 32)
    data = ScenePairs(world, 6)
    assert {pair.picture for pair in data.pairs} == set(range(6))
    assert torch.equal(data.pixels(2, 9), world.render(torch.arange(2, 6), "heldout").pixels)


class Instances:
    ignore = -1

    def __init__(self, pictures: torch.Tensor, labels: list[int], class_names: list[str]):
        self.pictures, self.labels, self.class_names = pictures, torch.tensor(labels), class_names

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.pictures[start:stop], self.labels[start:stop]


def random_units(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("chunk", [30, 2**24])
def test_the_nearest_picture_agrees_with_scikit_learn(chunk, monkeypatch):
    monkeypatch.setattr(instance_retrieval, "MAX_ELEMENTS", chunk)
    gallery, query = random_units(60, 5), random_units(80, 5, seed=1)
    gallery_label, query_label = torch.arange(60) % 7, torch.arange(80) % 7
    search = NearestNeighbors(metric="cosine", algorithm="brute").fit(gallery)
    first = torch.from_numpy(search.kneighbors(query, 1, return_distance=False)[:, 0])
    labels = {"query_label_QM": query_label[:, None], "gallery_label_G": gallery_label}
    found = nearest_is_own(query, gallery, **labels, itself=None)
    assert torch.equal(found, gallery_label[first] == query_label)
    second = torch.from_numpy(search.kneighbors(gallery[10:50], 2, return_distance=False)[:, 1])
    labels["query_label_QM"] = gallery_label[10:50, None]
    found = nearest_is_own(gallery[10:50], gallery, **labels, itself=10)
    assert torch.equal(found, gallery_label[second] == gallery_label[10:50])


def test_ties_and_queries_without_a_counterpart_are_missed():
    same = torch.ones(2, 3)
    labels = {"query_label_QM": torch.tensor([[0], [5]]), "gallery_label_G": torch.tensor([0, 1])}
    assert nearest_is_own(same, same, **labels, itself=None).tolist() == [False, False]
    one = torch.ones(1, 3)
    labels = {"query_label_QM": torch.tensor([[0]]), "gallery_label_G": torch.tensor([0])}
    assert nearest_is_own(one, one, **labels, itself=None).tolist() == [True]
    assert nearest_is_own(one, one, **labels, itself=0).tolist() == [False]


def test_a_query_that_shows_several_instances_is_answered_by_any_of_them():
    gallery, query = random_units(60, 5), random_units(80, 5, seed=1)
    gallery_label, query_label = torch.arange(60) % 7, torch.arange(80) % 7
    several = torch.stack([query_label, (query_label + 3) % 7, torch.full_like(query_label, -1)], dim=1)
    found = nearest_is_own(query, gallery, query_label_QM=several, gallery_label_G=gallery_label, itself=None)
    nearest = gallery_label[(query @ gallery.T).argmax(1)]
    assert torch.equal(found, (nearest == several[:, 0]) | (nearest == several[:, 1]))
    encoder, names = all_knowing(["red", "blue", "green"]), ["x", "y", "z"]
    subset = InstanceSubset(
        name="pots",
        index=colours([0, 1], [0, 1], names),
        query=colours([1, 1, 0], [0, 2, 2], names),
        also={0: (1,), 2: (1, 2)},
    )
    assert instance_retrieval.evaluate(encoder, [subset], InstanceSettings()).per_picture["r1"].tolist() == [1, 0, 0]
    before = InstanceSubset(name="before", index=colours([2], [0], names), query=colours([2], [0], names))
    merged = instance_retrieval.evaluate(encoder, [before, subset], InstanceSettings(index="merged"))
    assert merged.per_picture["r1"].tolist() == [1, 1, 0, 0]


def colours(classes: list[int], labels: list[int], names: list[str]) -> Instances:
    return Instances(torch.stack([painted(torch.full((8, 8), number)) for number in classes]), labels, names)


def test_the_mean_over_sub_sets_counts_each_alike_and_a_merged_index_brings_strangers():
    encoder = all_knowing(["red", "blue", "green"])
    pots = InstanceSubset(
        name="pots",
        index=colours([0, 1], [0, 1], ["x", "y"]),
        query=colours([0, 1, 1], [0, 1, 1], ["x", "y"]),
    )
    # Of two red pictures each finds the other; the blue one has no other of its kind.
    pans = InstanceSubset(name="pans", index=colours([2, 2, 1], [0, 0, 1], ["z", "w"]), query=None)
    found = instance_retrieval.evaluate(encoder, [pots, pans], InstanceSettings())
    assert found.per_class == {"pots": 1.0, "pans": pytest.approx(2 / 3)}
    assert found.values == {"r1": pytest.approx((1 + 2 / 3) / 2)}
    assert found.per_picture["r1"].tolist() == [1, 1, 1, 1, 1, 0]
    assert found.per_picture["subset"].tolist() == [0, 0, 0, 1, 1, 1]
    merged = instance_retrieval.evaluate(encoder, [pots, pans], InstanceSettings(index="merged"))
    # The blue pan is as similar to the blue queries as the blue pot.
    assert merged.per_picture["r1"].tolist() == [1, 0, 0, 1, 1, 0]


def test_instances_at_chance():
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(1200, 3, 14, 14, generator=generator)
    labels = [number % 10 for number in range(200)]
    names = [str(number) for number in range(10)]
    subset = InstanceSubset(
        name="noise",
        index=Instances(pictures[:200], labels, names),
        query=Instances(pictures[200:], [number % 10 for number in range(1000)], names),
    )
    found = instance_retrieval.evaluate(know_nothing(), [subset], InstanceSettings())
    # Four standard deviations of a share of 1,000 guesses.
    assert found.values["r1"] == pytest.approx(0.1, abs=0.038)
    other = instance_retrieval.evaluate(know_nothing(), [subset], InstanceSettings(cls=1))
    assert not torch.equal(found.per_picture["r1"], other.per_picture["r1"])
    with pytest.raises(ValueError, match="no sub-sets"):
        instance_retrieval.evaluate(know_nothing(), [], InstanceSettings())


def picture_of(folder: Path, name: str, colour: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 9), colour).save(folder / name)


def test_sub_sets_of_a_folder_are_found_with_and_without_queries(tmp_path):
    for instance, colour in (("cup", "red"), ("lamp", "blue"), ("never asked", "green")):
        picture_of(tmp_path / "pots" / "index" / instance, "a.png", colour)
    for instance, colour in (("cup", "red"), ("lamp", "blue")):
        picture_of(tmp_path / "pots" / "query" / instance, "b.png", colour)
        picture_of(tmp_path / "pans" / "index" / instance, "a.png", colour)
        picture_of(tmp_path / "pans" / "index" / instance, "b.png", colour)
    pans, pots = folder_instances(tmp_path, image_size=14)
    assert (pans.name, pots.name, pans.query) == ("pans", "pots", None)
    assert len(pots.index) == 3 and len(pots.query) == 2 and pots.query.class_names == pots.index.class_names
    found = instance_retrieval.evaluate(know_nothing(), [pans, pots], InstanceSettings())
    assert found.values == {"r1": 1.0} and set(found.per_class) == {"pans", "pots"}
    (alone,) = folder_instances(tmp_path / "pots", image_size=14, limit=1)
    assert alone.index.class_names == ["cup"] and len(alone.index) == len(alone.query) == 1
    with pytest.raises(ValueError, match="index/INSTANCE/picture"):
        folder_instances(tmp_path / "pots" / "query", image_size=14)


def test_a_part_of_a_scene_asks_for_the_whole():
    world = SceneWorld(Scenes(), 32)
    (subset,) = scene_instances(world, 6)
    whole, label = subset.index.batch(0, 6)
    parts, asked = subset.query.batch(2, 6)
    assert torch.equal(label[2:], asked) and parts.shape == (4, 3, 32, 32)
    window = whole[3][:, 8:, 8:]  # picture 3 shows its lower right corner
    expected = torch.nn.functional.interpolate(window[None], (32, 32), mode="bilinear")[0]
    assert torch.equal(parts[1], expected)


@pytest.mark.real_data
def test_sugarcrepe_s_real_pairs_are_read_by_category(shared_data):
    data = folder_pairs(shared_data / "sugarcrepe_subset", image_size=28)
    assert len({pair.category for pair in data.pairs}) == 7
    assert len(data.pairs) + data.left_out == 317
    found = compositional_pairs.evaluate(know_nothing(), data, PairSettings())
    # Longer captions differ from shorter ones for this text tower, so its guesses are not fair coins.
    assert 0.3 < found.values["accuracy"] < 0.7
