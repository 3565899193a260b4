"""Confusion, ranks, votes and the ridge probe against scikit-learn and plain loops; ties and absences as stated."""

import math

import numpy as np
import pytest
import torch
from oracles import Largest, Listed, Scrambled, all_knowing, know_nothing, painted
from sklearn.linear_model import Ridge
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import jaccard_score
from sklearn.neighbors import KNeighborsClassifier

from distill.eval import metrics, votes
from distill.eval.metrics import count_pixels, hit_ranks, intersection_over_union, segmentation_result
from distill.eval.tasks import retrieval
from distill.eval.tasks.knn import KnnSettings, accuracy_result, classify
from distill.eval.tasks.linear_segmentation import LinearSettings, Moments, evaluate, fit, patch_shares
from distill.eval.tasks.retrieval import RetrievalSettings
from distill.eval.votes import neighbour_votes


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def drawn(high: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def test_counts_and_iou_agree_with_scikit_learn_in_every_picture_and_over_all():
    label, prediction = drawn(6, 3, 20, 30), drawn(6, 3, 20, 30, seed=1)
    label[0, :5] = 255
    label[2, label[2] == 4] = 255  # a class that one picture lacks
    found = count_pixels(prediction, label, num_classes=6, ignore=255)
    for picture in range(3):
        kept = label[picture] != 255
        confusion = sklearn_confusion(label[picture][kept], prediction[picture][kept], labels=range(6))
        hits = confusion.diagonal()
        assert found.intersection_NK[picture].tolist() == hits.tolist()
        assert found.union_NK[picture].tolist() == (confusion.sum(0) + confusion.sum(1) - hits).tolist()
        assert found.labelled_N[picture] == kept.sum()
    kept = label != 255
    iou = intersection_over_union(found.intersection_NK.sum(0), found.union_NK.sum(0))
    expected = jaccard_score(label[kept], prediction[kept], average=None)
    assert iou.tolist() == pytest.approx(expected.tolist(), abs=1e-15)


def test_a_class_that_never_occurs_has_no_iou_and_one_only_predicted_has_zero():
    label, prediction = torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 0, 1, 3]]])
    counts = count_pixels(prediction, label, num_classes=4, ignore=255)
    iou = intersection_over_union(counts.intersection_NK[0], counts.union_NK[0]).tolist()
    assert iou[0] == 1.0 and iou[1] == 0.5 and math.isnan(iou[2]) and iou[3] == 0.0


def test_a_picture_without_any_label_counts_nothing_and_shifts_no_other():
    label, prediction = drawn(4, 3, 8, 9), drawn(4, 3, 8, 9, seed=1)
    label[1] = 255
    found = count_pixels(prediction, label, num_classes=4, ignore=255)
    assert found.labelled_N.tolist() == [72, 0, 72]
    assert not found.union_NK[1].any()
    alone = count_pixels(prediction[2:], label[2:], num_classes=4, ignore=255)
    assert torch.equal(found.intersection_NK[2:], alone.intersection_NK)
    assert torch.equal(found.union_NK[2:], alone.union_NK)


def test_the_scores_of_a_segmentation_follow_from_what_its_pictures_contributed():
    label, prediction = drawn(5, 7, 12, 10), drawn(5, 7, 12, 10, seed=1)
    label[label == 4] = 255
    prediction[prediction == 4] = 0  # the last class never occurs
    found = segmentation_result(
        count_pixels(prediction, label, num_classes=5, ignore=255), class_names=[*"abcde"], num_things=2, settings={}
    )
    hits, union = (found.per_picture[name].sum(0).double() for name in ("intersection", "union"))
    assert (hits[:4] / union[:4]).mean().item() == found.values["miou"]
    assert (hits[:2] / union[:2]).mean().item() == found.values["miou_things"]
    correct, labelled = (found.per_picture[name].sum().item() for name in ("correct", "labelled"))
    assert correct / labelled == found.values["pixel_accuracy"]
    assert {name: (values.dtype, len(values)) for name, values in found.per_picture.items()} == dict.fromkeys(
        ("intersection", "union", "correct", "labelled"), (torch.int32, 7)
    )
    assert found.num_images == 7


@pytest.mark.parametrize("num_neighbours", [1, 3, 5, 8])
def test_neighbours_vote_like_scikit_learn_where_votes_decide(num_neighbours):
    gallery, query = (torch.nn.functional.normalize(random(n, 6, seed=n), dim=1) for n in (60, 200))
    label = drawn(4, 60)
    found = neighbour_votes(query, gallery, label, num_neighbours=num_neighbours, num_classes=4)
    reference = KNeighborsClassifier(num_neighbours, metric="cosine", algorithm="brute").fit(gallery, label)
    votes = np.round(reference.predict_proba(query) * num_neighbours)
    clear = torch.from_numpy((votes == votes.max(1, keepdims=True)).sum(1) == 1)
    assert clear.sum() > 80
    assert torch.equal(found[clear], torch.from_numpy(reference.predict(query))[clear])


def test_equal_votes_go_to_the_more_similar_class_then_to_the_lower_one():
    query = torch.tensor([[1.0, 0.0]])

    def vote(gallery, label):
        return neighbour_votes(
            query, torch.tensor(gallery), torch.tensor(label), num_neighbours=4, num_classes=3
        ).item()

    assert vote([[0.9, 0.0], [0.5, 0.0], [0.8, 0.0], [0.7, 0.0]], [0, 0, 2, 2]) == 2
    assert vote([[0.75, 0.0], [0.75, 0.0], [0.75, 0.0], [0.75, 0.0]], [2, 1, 2, 1]) == 1


def test_of_equally_similar_neighbours_at_the_edge_the_earlier_counts():
    query = torch.tensor([[1.0, 0.0]])
    gallery = torch.tensor([[0.5, 0.3], [0.5, -0.3], [0.9, 0.0], [0.5, 0.7]])
    for label, expected in (([1, 0, 1, 0], 1), ([0, 1, 0, 1], 0), ([0, 0, 1, 1], 1)):
        found = neighbour_votes(query, gallery, torch.tensor(label), num_neighbours=2, num_classes=2)
        assert found.item() == expected


def test_too_few_training_pictures_for_the_neighbours_are_refused():
    with pytest.raises(ValueError, match="too few for 5"):
        classify(random(2, 3), random(4, 3), drawn(2, 4), num_classes=2, settings=KnnSettings())


def test_votes_in_chunks_are_the_same(monkeypatch):
    query, gallery, label = random(50, 5), random(30, 5, seed=1), drawn(3, 30)
    reference = classify(query, gallery, label, num_classes=3, settings=KnnSettings())
    monkeypatch.setattr(votes, "MAX_ELEMENTS", 100)
    assert torch.equal(classify(query, gallery, label, num_classes=3, settings=KnnSettings()), reference)


def test_a_class_without_pictures_counts_in_no_accuracy():
    found = accuracy_result(
        torch.tensor([0, 0, 1, 2]), torch.tensor([0, 0, 0, 1]), class_names=["a", "b", "c"], settings={}
    )
    assert found.values == pytest.approx({"accuracy": 0.5, "class_accuracy": 1 / 3})
    assert math.isnan(found.per_class["c"])


def votes_by_table(query, gallery, label, *, num_neighbours, num_classes):
    """The definition, with all products and all votes at once."""
    similarity = query.double() @ gallery.double().T
    edge = similarity.topk(num_neighbours, dim=1).values[:, -1:]
    nearer, on_edge = similarity > edge, similarity == edge
    room = num_neighbours - nearer.sum(1, keepdim=True)
    chosen = (nearer | (on_edge & (on_edge.cumsum(1) <= room))).double()
    onehot = torch.nn.functional.one_hot(label, num_classes).double()
    votes, weight = chosen @ onehot, (chosen * similarity) @ onehot
    return weight.masked_fill(votes != votes.amax(1, keepdim=True), -torch.inf).argmax(1)


@pytest.mark.parametrize("elements", [2**24, 300, 40, 1])
@pytest.mark.parametrize("num_neighbours", [1, 2, 5, 17, 40])
def test_votes_in_parts_of_the_gallery_keep_every_tie_as_a_table_of_all_products_has_it(
    elements, num_neighbours, monkeypatch
):
    """Small whole numbers tie in most rows, at the edge and in the votes, and their sums are exact."""
    monkeypatch.setattr(votes, "MAX_ELEMENTS", elements)
    for seed, high in ((0, 2), (1, 3), (2, 6)):
        gallery, query = (drawn(high, n, 4, seed=seed + n).float() - 1 for n in (40, 30))
        label = drawn(7, 40, seed=seed)
        asked = {"num_neighbours": num_neighbours, "num_classes": 9}
        expected = votes_by_table(query, gallery, label, **asked)
        assert torch.equal(neighbour_votes(query, gallery, label, **asked), expected), (seed, high)
    similarity, place = votes.nearest(query, gallery, num_neighbours=num_neighbours)
    every, order = (query.double() @ gallery.double().T).sort(dim=1, descending=True, stable=True)
    assert torch.equal(similarity, every[:, :num_neighbours]) and torch.equal(place, order[:, :num_neighbours])


def test_the_right_answers_of_neighbours_are_kept_picture_by_picture():
    found = accuracy_result(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), class_names=["a", "b"], settings={})
    assert found.per_picture["correct"].tolist() == [1, 0, 1]
    assert found.per_picture["correct"].double().mean().item() == found.values["accuracy"]


def test_ranks_agree_with_sorting():
    query, gallery = random(40, 6), random(70, 6, seed=1)
    own = torch.rand(40, 70, generator=torch.Generator().manual_seed(2)) < 0.05
    own[range(40), range(40)] = True
    order = (query @ gallery.T).argsort(dim=1, descending=True)
    expected = [next(rank for rank, item in enumerate(row) if own[q, item]) for q, row in enumerate(order.tolist())]
    assert hit_ranks(query, gallery, own_QG=own).tolist() == expected


def test_ties_and_nan_count_against_the_query():
    own = torch.eye(4, dtype=torch.bool)
    assert hit_ranks(torch.ones(4, 3), torch.ones(4, 3), own_QG=own).tolist() == [3, 3, 3, 3]
    assert hit_ranks(torch.full((4, 3), torch.nan), torch.ones(4, 3), own_QG=own).tolist() == [3, 3, 3, 3]


class Captioned:
    def __init__(self, pictures: torch.Tensor, captions: list[list[str]]):
        self.pictures, self.captions = pictures, captions

    def __len__(self) -> int:
        return len(self.pictures)

    def pixels(self, start: int, stop: int) -> torch.Tensor:
        return self.pictures[start:stop]


def captioned(count: int = 30, *, per_picture: int = 3) -> Captioned:
    captions = [[f"picture {number}, caption {each}" for each in range(per_picture)] for number in range(count)]
    return Captioned(torch.rand(count, 3, 14, 14, generator=torch.Generator().manual_seed(0)), captions)


@pytest.mark.parametrize("cls", [0, 1])
def test_recall_agrees_with_loops_over_pictures_and_captions(cls, monkeypatch):
    encoder, data = know_nothing(), captioned()
    image = encoder.image(data.pictures).cls[:, cls].detach().double()
    texts = [(picture, text) for picture, each in enumerate(data.captions) for text in each]
    text = encoder.encode_text([text for _, text in texts]).double()
    similarity = torch.nn.functional.cosine_similarity(image[:, None], text[None], dim=2)
    expected = {}
    for k in (1, 5, 10):
        tops = similarity.topk(k, dim=1).indices.tolist()
        expected[f"image_to_text_r{k}"] = np.mean([any(texts[t][0] == p for t in top) for p, top in enumerate(tops)])
        tops = similarity.T.topk(k, dim=1).indices.tolist()
        expected[f"text_to_image_r{k}"] = np.mean([texts[t][0] in top for t, top in enumerate(tops)])
    found = retrieval.evaluate(encoder, data, RetrievalSettings(cls=cls))
    assert found.values == pytest.approx(expected, abs=1e-12)
    assert 0 < found.values["image_to_text_r5"] < 1
    monkeypatch.setattr(retrieval, "MAX_ELEMENTS", 100)
    assert retrieval.evaluate(encoder, data, RetrievalSettings(cls=cls, batch_size=7)).values == found.values


def test_retrieval_never_holds_all_similarities_at_once(monkeypatch):
    monkeypatch.setattr(retrieval, "MAX_ELEMENTS", 20_000)
    encoder, data = know_nothing(width=8), captioned(400, per_picture=2)
    with Largest() as largest:
        retrieval._ranks(
            torch.rand(400, 8), torch.rand(800, 8), query=torch.arange(400).repeat_interleave(2), item=torch.arange(800)
        )
    assert 0 < largest.elements <= 20_000 < 400 * 800
    assert len(retrieval.evaluate(encoder, data, RetrievalSettings()).values) == 6


def test_a_hundred_thousand_captions_need_no_more_memory_than_the_bound():
    num_texts, num_pictures = 100_000, 400
    owner = torch.arange(num_texts) % num_pictures
    with Largest() as largest:
        ranks = retrieval._ranks(
            random(num_pictures, 4), random(num_texts, 4, seed=1), query=owner, item=torch.arange(num_texts)
        )
    assert len(ranks) == num_pictures
    assert num_texts < largest.elements <= metrics.MAX_ELEMENTS < num_texts * num_pictures


def test_recall_is_the_mean_over_pictures_weighted_by_their_captions():
    data = captioned()
    data.captions = [texts[: 1 + number % 3] for number, texts in enumerate(data.captions)]
    found = retrieval.evaluate(know_nothing(), data, RetrievalSettings())
    weight = found.per_picture["num_captions"]
    assert weight.tolist() == [len(texts) for texts in data.captions]
    for k in (1, 5, 10):
        hits = found.per_picture[f"image_to_text_r{k}"]
        assert hits.dtype == torch.uint8
        assert hits.double().mean().item() == found.values[f"image_to_text_r{k}"]
        share = found.per_picture[f"text_to_image_r{k}"].double()
        # float32 shares of thirds: 6e-9 was measured.
        assert (share * weight).sum().item() / weight.sum().item() == pytest.approx(
            found.values[f"text_to_image_r{k}"], abs=1e-7
        )
    assert 0 < found.values["text_to_image_r5"] < 1


def test_hits_belong_to_the_picture_whose_captions_they_are():
    names = ["red", "blue"]
    pictures = torch.stack([painted(torch.full((8, 8), number)) for number in (0, 1)])
    # The blue picture is called red as well by mistake: its own best caption is a stranger's equal.
    data = Captioned(pictures, [["a red one"], ["red", "a blue one", "another red one"]])
    found = retrieval.evaluate(all_knowing(names), data, RetrievalSettings()).per_picture
    assert found["image_to_text_r1"].tolist() == [0, 1]
    assert found["text_to_image_r1"].tolist() == pytest.approx([1, 1 / 3])


def test_equal_captions_are_right_for_each_of_their_owners():
    names = ["red", "blue"]
    labels = torch.stack([torch.full((8, 8), number) for number in (0, 0, 1)])
    pictures = torch.stack([painted(label) for label in labels])
    data = Captioned(pictures, [["a red one"], ["a red one"], ["a blue one", "a red one"]])
    # Both red pictures tie for `a red one` and own it; the blue one finds `a blue one`.
    assert set(retrieval.evaluate(all_knowing(names), data, RetrievalSettings()).values.values()) == {1.0}


def test_an_encoder_that_maps_everything_to_one_point_retrieves_nothing():
    encoder = all_knowing(["picture"], patch_size=14)
    found = retrieval.evaluate(encoder, captioned(), RetrievalSettings())
    assert set(found.values.values()) == {0.0}


def test_pictures_without_captions_and_cls_tokens_that_are_absent_are_refused():
    data = captioned()
    data.captions[4] = []
    with pytest.raises(ValueError, match="at least one caption"):
        retrieval.evaluate(know_nothing(), data, RetrievalSettings())
    encoder = know_nothing()
    encoder.image.num_cls = 1
    with pytest.raises(ValueError, match="cls=1"):
        retrieval.evaluate(encoder, captioned(), RetrievalSettings(cls=1))


@pytest.mark.parametrize("ridge", [1e-4, 0.3])
def test_the_probe_is_ridge_regression_on_standardised_features(ridge):
    features, targets = random(200, 7) * torch.arange(1, 8) + 3, random(200, 4, seed=1)
    features[:, 2] = 5.0  # a constant feature must not divide by zero
    moments = Moments()
    for part in (slice(0, 120), slice(120, 200)):
        moments.add(features[part], targets[part])
    found = moments.solve(ridge)
    deviation = features.std(0, correction=0)
    deviation[2] = 1
    standard = (features - features.mean(0)) / deviation
    reference = Ridge(alpha=ridge * 200).fit(standard, targets).predict(standard)
    # float32 weights: the worst deviation measured was 2e-6.
    np.testing.assert_allclose(features.float() @ found.weight_KD.T + found.bias_K, reference, atol=1e-5)


def test_patch_targets_are_the_shares_of_labelled_pixels():
    labels = drawn(5, 2, 12, 18)
    labels[labels == 4] = 255
    labels[0, :6, :6] = 255
    found = patch_shares(labels, grid=(2, 3), patch_size=6, num_classes=4, ignore=255)
    rows = []
    for picture in labels.tolist():
        for top in (0, 6):
            for left in (0, 6, 12):
                seen = [picture[y][x] for y in range(top, top + 6) for x in range(left, left + 6)]
                seen = [label for label in seen if label != 255]
                rows.append([seen.count(label) / max(len(seen), 1) for label in range(4)])
    np.testing.assert_allclose(found, rows, atol=1e-12)
    assert found[0].sum() == 0


def painted_set(count: int, *, seed: int) -> Listed:
    blocks = drawn(4, count, 3, 4, seed=seed).repeat_interleave(8, 1).repeat_interleave(8, 2)
    return Listed([(painted(labels), labels) for labels in blocks], ["a", "b", "c", "d", "never seen"])


def test_the_probe_learns_what_is_linear_in_the_features_and_never_names_an_absent_class():
    settings = LinearSettings(short_side=None)
    train, val = painted_set(20, seed=1), painted_set(10, seed=2)
    found = evaluate(all_knowing(train.class_names), train, val, settings)
    assert found.values["pixel_accuracy"] > 0.9  # corners are rounded by bilinear maps
    assert math.isnan(found.per_class["never seen"])
    nothing = all_knowing(train.class_names)
    nothing.image.forward = lambda pixels: Scrambled(width=5, patch_size=8)(torch.rand_like(pixels))
    assert evaluate(nothing, train, val, settings).values["miou"] < 0.3


def test_the_probe_does_not_depend_on_batches_and_leaves_out_unlabelled_patches():
    train = painted_set(9, seed=1)
    reference = fit(Scrambled(width=6, patch_size=8), train, LinearSettings(short_side=None, batch_size=9))
    batched = fit(Scrambled(width=6, patch_size=8), train, LinearSettings(short_side=None, batch_size=2))
    torch.testing.assert_close(batched.weight_KD, reference.weight_KD, rtol=1e-4, atol=1e-6)
    noise = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0))
    train.items.append((noise, torch.full((24, 32), 255)))
    silent = fit(Scrambled(width=6, patch_size=8), train, LinearSettings(short_side=None))
    torch.testing.assert_close(silent.weight_KD, reference.weight_KD, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("change", [{"features": "value"}, {"ridge": 1.0}, {"short_side": 16}, {"precision": "bf16"}])
def test_every_setting_of_the_probe_alone_changes_it(change):
    train = painted_set(9, seed=1)
    settings = LinearSettings(short_side=None)
    before = fit(Scrambled(width=6, patch_size=8), train, settings)
    after = fit(Scrambled(width=6, patch_size=8), train, LinearSettings(**({"short_side": None} | change)))
    assert not torch.equal(before.weight_KD, after.weight_KD)


def test_sets_with_different_classes_are_refused():
    other = painted_set(2, seed=0)
    other.class_names = ["x", *other.class_names[1:]]
    with pytest.raises(ValueError, match="different classes"):
        evaluate(know_nothing(), other, painted_set(2, seed=0), LinearSettings())


def test_the_bound_on_temporary_tensors_is_what_it_says():
    assert metrics.MAX_ELEMENTS * 4 == 64 * 2**20
