"""What can be shown of encoders, one file for each kind of map: `VIEWS`."""

from distill.show.views import geometry, parts, pca, segmentation, similarity
from distill.show.views.view import Looking, View

VIEWS: dict[str, View] = {
    "pca": View(settings=pca.PcaSettings, show=pca.show, about="patch features in their principal colours"),
    "segmentation": View(
        settings=segmentation.SegmentationSettings,
        show=segmentation.show,
        about="zero-shot segmentation by class names",
    ),
    "heat": View(settings=similarity.HeatSettings, show=similarity.show_heat, about="how alike patches are to a text"),
    "similarity": View(
        settings=similarity.PointSettings,
        show=similarity.show_point,
        about="how alike patches are to the one at a point",
    ),
    "parts": View(settings=parts.PartsSettings, show=parts.show, about="k-means parts of all pictures together"),
    "depth": View(settings=geometry.GeometrySettings, show=geometry.show_depth, about="depth, read out by a probe"),
    "normals": View(
        settings=geometry.GeometrySettings, show=geometry.show_normals, about="surface normals, read out by a probe"
    ),
}
"""By the word of the command line. A published name never changes meaning."""

__all__ = ["VIEWS", "Looking", "View"]
