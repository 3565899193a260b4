"""Every metric against an implementation of somebody else's on random inputs, and edge cases with their stated results.

Others: torchmetrics, scikit-learn and scipy. What no library counts in the same way is in `test_eval_metrics.py` and
`test_geometry.py`, against loops.
"""

import math

import numpy as np
import pytest
import torch
from oracles import Listed, all_knowing, know_nothing, painted
from scipy.spatial.distance import cdist
from sklearn.metrics import accuracy_score, balanced_accuracy_score, root_mean_squared_error
from sklearn.neighbors import NearestNeighbors
from test_eval_metrics import Captioned, captioned, drawn, random
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex
from torchmetrics.regression import CosineSimilarity, MeanSquaredError
from torchmetrics.retrieval import RetrievalHitRate

from distill.eval.geometry import angle_degrees, depth_result, depth_sums, normals_result, normals_sums
from distill.eval.metrics import count_pixels, hit_ranks, segmentation_result
from distill.eval.tasks import retrieval
from distill.eval.tasks.knn import accuracy_result
from distill.eval.tasks.retrieval import RetrievalSettings
from distill.eval.tasks.zero_shot_classification import class_ranks
from distill.eval.tasks.zero_shot_segmentation import ZeroShotSettings
from distill.eval.tasks.zero_shot_segmentation import evaluate as segment
from distill.eval.votes import neighbour_votes

SEEDS = range(3)


@pytest.mark.parametrize("seed", SEEDS)
def test_miou_and_pixel_accuracy_are_torchmetrics_s(seed):
    label, prediction = drawn(7, 4, 15, 11, seed=seed), drawn(7, 4, 15, 11, seed=seed + 10)
    label[drawn(10, 4, 15, 11, seed=seed + 20) == 0] = 255
    counts = count_pixels(prediction, label, num_classes=7, ignore=255)
    found = segmentation_result(counts, class_names=[*"abcdefg"], num_things=None, settings={})
    each = MulticlassJaccardIndex(7, average="none", ignore_index=255)(prediction, label)
    # torchmetrics divides in float32.
    assert list(found.per_class.values()) == pytest.approx(each.tolist(), abs=1e-6)
    assert found.values["miou"] == pytest.approx(each.mean().item(), abs=1e-6)
    accuracy = MulticlassAccuracy(7, average="micro", ignore_index=255)(prediction, label).item()
    assert found.values["pixel_accuracy"] == pytest.approx(accuracy, abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("num_neighbours", [1, 4, 9])
def test_neighbours_are_scikit_learn_s_and_votes_weigh_as_it_says_them(num_neighbours, seed):
    """With no vote left to ties: the class with most neighbours, then the larger sum of similarities."""
    gallery, query = (torch.nn.functional.normalize(random(n, 5, seed=seed + n), dim=1) for n in (50, 120))
    label = drawn(5, 50, seed=seed)
    found = neighbour_votes(query, gallery, label, num_neighbours=num_neighbours, num_classes=5)
    search = NearestNeighbors(n_neighbors=num_neighbours, metric="cosine", algorithm="brute").fit(gallery)
    distance, place = search.kneighbors(query)
    for row, (far, near) in enumerate(zip(distance, place, strict=True)):
        of = label[torch.from_numpy(near)].numpy()
        tally = {number: ((of == number).sum(), (1 - far)[of == number].sum()) for number in set(of.tolist())}
        assert found[row] == max(tally, key=tally.__getitem__), row


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recall_at_k_is_torchmetrics_s_hit_rate(k):
    query, gallery = (torch.nn.functional.normalize(random(n, 6, seed=n), dim=1) for n in (40, 90))
    own = torch.zeros(40, 90, dtype=torch.bool)
    own[drawn(40, 90, seed=3), torch.arange(90)] = True  # every item has one owner, as captions have
    own[torch.arange(40), torch.arange(40)] = True
    similarity = query @ gallery.T
    rows = torch.arange(40)[:, None].expand_as(similarity)
    expected = RetrievalHitRate(top_k=k)(similarity.flatten(), own.flatten(), indexes=rows.flatten()).item()
    recall = (hit_ranks(query, gallery, own_QG=own) < k).double().mean().item()
    assert recall == pytest.approx(expected, abs=1e-6)
    assert 0 < recall < 1


def test_top_1_and_top_5_are_torchmetrics_s():
    image, text, label = random(300, 8), random(20, 8, seed=1), drawn(20, 300)
    rank = class_ranks(image, text, label)
    for k in (1, 5):
        expected = MulticlassAccuracy(20, top_k=k, average="micro")(image @ text.T, label).item()
        assert (rank < k).double().mean().item() == pytest.approx(expected, abs=1e-6)


def test_accuracy_and_class_accuracy_are_scikit_learn_s():
    predicted, label = drawn(6, 200), drawn(6, 200, seed=1)
    found = accuracy_result(predicted, label, class_names=[*"abcdef"], settings={}).values
    assert found["accuracy"] == pytest.approx(accuracy_score(label, predicted), abs=1e-12)
    assert found["class_accuracy"] == pytest.approx(balanced_accuracy_score(label, predicted), abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_depth_errors_are_torchmetrics_s_and_scikit_learn_s(seed):
    generator = torch.Generator().manual_seed(seed)
    prediction, truth = (0.3 + 8 * torch.rand(5, 9, 13, generator=generator) for _ in range(2))
    valid = torch.rand(5, 9, 13, generator=generator) < 0.8
    found = depth_result(depth_sums(prediction, truth, valid), {}).values
    squared = [MeanSquaredError(squared=False)(prediction[i][valid[i]], truth[i][valid[i]]).item() for i in range(5)]
    # float32 sums on the other side.
    assert found["rmse_metres"] == pytest.approx(np.mean(squared), abs=1e-5)
    p, d = prediction[valid].double().numpy(), truth[valid].double().numpy()
    assert found["pooled_rmse_metres"] == pytest.approx(root_mean_squared_error(d, p), abs=1e-12)
    # Near enough by a factor: the larger of the two ratios is a distance of logarithms.
    apart = (prediction.double().log() - truth.double().log()).abs()
    for power in (1, 2, 3):
        near = [(apart[i][valid[i]] < power * math.log(1.25)).double().mean().item() for i in range(5)]
        assert found[f"delta{power}"] == pytest.approx(np.mean(near), abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_angles_are_those_of_scipy_s_and_torchmetrics_s_cosines(seed):
    ours, theirs = random(1, 3, 6, 7, seed=seed), random(1, 3, 6, 7, seed=seed + 5)
    rows = [each[0].flatten(1).T for each in (ours, theirs)]
    by_scipy = np.rad2deg(np.arccos(1 - np.diag(cdist(*(row.numpy() for row in rows), metric="cosine"))))
    found = angle_degrees(ours.float(), theirs.float()).flatten().numpy()
    np.testing.assert_allclose(found, by_scipy, atol=1e-4)
    valid = torch.ones(1, 6, 7, dtype=torch.bool)
    result = normals_result(normals_sums(ours.float(), theirs.float(), valid), {}).values
    cosine = CosineSimilarity(reduction="none")(*rows)
    assert result["mean_degrees"] == pytest.approx(cosine.arccos().rad2deg().mean().item(), abs=1e-3)
    assert result["rmse_degrees"] == pytest.approx(np.sqrt((by_scipy**2).mean()), abs=1e-3)


# What happens at the edges, as the docstrings state it.


def test_a_set_whose_only_class_fills_every_pixel_scores_one_and_the_others_nothing():
    labels = torch.zeros(14, 14, dtype=torch.long)
    names = ["cat", "dog", "tree"]
    found = segment(all_knowing(names, patch_size=7), Listed([(painted(labels), labels)], names), ZeroShotSettings())
    assert found.values == {"miou": 1.0, "pixel_accuracy": 1.0}
    assert math.isnan(found.per_class["dog"]) and math.isnan(found.per_class["tree"])


def test_a_picture_with_nothing_but_ignored_pixels_changes_no_score():
    generator = torch.Generator().manual_seed(0)
    names = ["cat", "dog", "tree"]
    items = [(torch.rand(3, 21, 28, generator=generator), torch.randint(3, (21, 28), generator=generator))]
    silent = (torch.rand(3, 21, 28, generator=generator), torch.full((21, 28), 255))
    settings = ZeroShotSettings(short_side=None)
    alone, beside = (segment(know_nothing(), Listed(each, names), settings) for each in (items, [*items, silent]))
    assert beside.values == alone.values and beside.num_images == 2
    assert not beside.per_picture["labelled"][1] and not beside.per_picture["union"][1].any()


def test_things_that_are_all_absent_have_no_mean():
    counts = count_pixels(
        torch.ones(1, 2, 2, dtype=torch.long), torch.ones(1, 2, 2, dtype=torch.long), num_classes=2, ignore=255
    )
    found = segmentation_result(counts, class_names=["thing", "stuff"], num_things=1, settings={})
    assert math.isnan(found.values["miou_things"]) and found.values["miou_stuff"] == found.values["miou"] == 1.0


def test_one_picture_with_one_caption_finds_it_at_every_rank():
    found = retrieval.evaluate(know_nothing(), captioned(1, per_picture=1), RetrievalSettings())
    assert set(found.values.values()) == {1.0}


def test_fewer_pictures_than_ranks_are_all_among_the_first():
    found = retrieval.evaluate(know_nothing(), captioned(4, per_picture=1), RetrievalSettings())
    assert found.values["image_to_text_r5"] == found.values["text_to_image_r10"] == 1.0
    assert found.values["image_to_text_r1"] < 1.0


def test_captions_that_are_all_the_same_are_right_for_all_of_their_owners():
    data = captioned(6, per_picture=1)
    data = Captioned(data.pictures, [["the same"]] * 6)
    assert set(retrieval.evaluate(know_nothing(), data, RetrievalSettings()).values.values()) == {1.0}


def test_of_votes_for_every_class_alike_the_most_similar_one_wins():
    gallery = torch.eye(4)
    query = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    votes = neighbour_votes(query, gallery, torch.tensor([3, 2, 1, 0]), num_neighbours=4, num_classes=4)
    assert votes.tolist() == [2]
