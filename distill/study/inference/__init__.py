"""What a study's numbers show, and how surely: pure functions on plain arrays, whatever the unit of the scores.

A study has cells (settings), seeds and held-out pictures. The cells of one seed are related: a student's teacher is
the pretraining cell of the same seed, so they share its luck. All runs are measured on the same pictures. Seeds are
few, three as a rule; pictures are hundreds. Three choices follow.

The seed is what is repeated. Every quantity is a contrast of cells, computed within each seed and then averaged over
seeds. That stays valid however the cells of one seed are correlated. A residual pooled over cells would take them for
independent, and call the luck of one teacher an effect of all its students.

Seeds get Student's t, exact for normally distributed seeds. A percentile bootstrap over n seeds never leaves the range
of their n values, and with three it is that range. The range misses the truth whenever all three fall on one side of
it, so it covers 1 - 2 (1/2)^3 = 75 % where 95 % are promised.

Pictures get a bootstrap: there are enough of them, and mIoU is a ratio of sums, not a mean over pictures. Every run
sees the same resamples, so comparisons are paired on the same pictures.
"""

from distill.study.inference.bootstrap import PictureSpread, picture_spread
from distill.study.inference.contrasts import Contrast, Run, contrast_by_seed, difference, seeds_with
from distill.study.inference.effects import Cells, Level, Where, interaction, main_effect
from distill.study.inference.estimates import Estimate, Interval, bootstrap_over_seeds, estimate, half_width
from distill.study.inference.linear_model import Coefficient, linear_model
from distill.study.inference.verdicts import (
    Decision,
    Equal,
    Expectation,
    More,
    Verdict,
    decide,
    judge,
    opposite,
    seeds_needed,
)

__all__ = [
    "Cells",
    "Coefficient",
    "Contrast",
    "Decision",
    "Equal",
    "Estimate",
    "Expectation",
    "Interval",
    "Level",
    "More",
    "PictureSpread",
    "Run",
    "Verdict",
    "Where",
    "bootstrap_over_seeds",
    "contrast_by_seed",
    "decide",
    "difference",
    "estimate",
    "half_width",
    "interaction",
    "judge",
    "linear_model",
    "main_effect",
    "opposite",
    "picture_spread",
    "seeds_needed",
    "seeds_with",
]
