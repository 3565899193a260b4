"""Runs are found again: by later versions, and by nothing but what decides their result."""

from pathlib import Path

import pytest

from distill.config import load_recipe
from distill.config.compare import recipe_dict
from distill.study.cells import load_study
from distill.study.jobs import jobs_of
from distill.study.keys import FORMER, PLACES, SINCE, key_of

WRITTEN_DOWN = {
    "ibot": "7bedc36707",
    "ibotpp": "e033824535",
    "vanilla": "31e0556051",
    "partial-50-all": "47b4718aae",
}
"""Of the bridge at mini scale, seed 0, from the version whose runs are recorded under benchmarks/results."""

OTHERS = {
    "data.views.fixed": "data.views.fixed=2 data.views.flip=0.5",
    "masking.how": "masking.how=drop objective.patch.supervise=visible",
    "teacher.match": "teacher.kind=frozen teacher.checkpoint=run teacher.match=features",
    "objective.features.loss": "objective.features.loss=smooth_l1",
    "objective.features.student_layers": "objective.features.student_layers=[2]",
    "objective.features.adapter_hidden": "objective.features.adapter=mlp objective.features.adapter_hidden=8",
}
FEATURES = ["teacher.kind=frozen", "teacher.checkpoint=run", "objective.patch.target=features"]


def test_runs_that_were_written_down_are_found_again():
    """A new setting belongs into `SINCE`, or every run of before is trained again."""
    found = {job.cell.name: job.key for job in jobs_of(load_study("bridge"), Path("nowhere"), seeds=[0])}
    assert {name: found[name] for name in WRITTEN_DOWN} == WRITTEN_DOWN


def test_settings_since_then_are_what_they_were_by_default():
    values = recipe_dict(load_recipe("ibot"))
    for place, before in SINCE.items():
        section, _, name = place.rpartition(".")
        found = values
        for each in section.split("."):
            found = found[each]
        assert found[name] == (list(before) if isinstance(before, tuple) else before), place
    assert not set(SINCE) & {*FORMER, *PLACES}


@pytest.mark.parametrize("place", OTHERS)
def test_settings_since_then_count_where_they_change_something(place: str):
    more = FEATURES if place.startswith("objective.features") else []
    words = OTHERS[place].split()
    plain = [word for word in words if not word.startswith(f"{place}=")]
    assert key_of(load_recipe("ibot", [*more, *words])) != key_of(load_recipe("ibot", [*more, *plain]))


def test_what_is_spelt_differently_counts_as_it_was_spelt():
    keys = {
        how: key_of(load_recipe("ibot", [*FEATURES, f"objective.features.standardise={how}"]))
        for how in ("none", "mean_std", "phi_s", "true", "false")
    }
    assert keys["true"] == keys["mean_std"] and keys["false"] == keys["none"]
    assert len(set(keys.values())) == 3


def test_where_features_are_kept_does_not_count():
    frozen = ["teacher.kind=frozen", "teacher.checkpoint=run"]
    live, here, there = (
        key_of(load_recipe("ibot", [*frozen, *words]))
        for words in ((), ("teacher.cache=here",), ("teacher.cache=there",))
    )
    assert live == here == there
    assert key_of(load_recipe("ibot", [*frozen, "teacher.cache=here", "teacher.cache_storage=int8"])) != live
