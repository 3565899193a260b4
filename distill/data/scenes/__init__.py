"""The embedded default data: a procedural world of small pictures with masks, depth, normals and captions.

`distill.data.scenes.cache` writes pictures to disk; it is imported on its own because it loads `datasets`.
"""

from distill.data.scenes.render import Pictures
from distill.data.scenes.tiers import TIERS, Tier
from distill.data.scenes.world import SceneSegmentation, SceneWorld, Split

__all__ = ["TIERS", "Pictures", "SceneSegmentation", "SceneWorld", "Split", "Tier"]
