"""Data sets with depth and surface normals."""

from distill.catalogue.layout import DataSet

GEOMETRY: dict[str, DataSet] = {
    "nyuv2": DataSet(
        title="NYU Depth v2, labelled frames unpacked to files",
        kind="geometry",
        tasks=("depth", "normals"),
        page=(
            "https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html (nyu_depth_v2_labeled.mat, splits.mat: write each "
            "frame out; normals of Ladicky et al. or others)"
        ),
        folders=("nyuv2", "NYUv2", "nyu_depth_v2"),
        tree=(
            "{train,test}/rgb/NAME.png | NAME.jpg\n"
            "{train,test}/depth/NAME.npy (metres) | NAME.png (16-bit millimetres), 0: unknown\n"
            "{train,test}/normals/NAME.npy (H, W, 3) | NAME.png (1 + 127 (component + 1)), for the task of normals"
        ),
        needs={"train": ("train/rgb", "train/depth"), "val": ("test/rgb", "test/depth")},
        splits={"train": "train", "val": "test"},
    ),
    "navi": DataSet(
        title="NAVI, photos of 36 objects with depth; normals are computed from it",
        kind="geometry",
        tasks=("depth", "normals"),
        page="https://navidataset.github.io (navi_v1.5.tar.gz or navi_v1.0.tar.gz)",
        folders=("navi_v1.5", "navi_v1.0", "navi_v1", "navi"),
        tree=(
            "OBJECT/{multiview_*,wild_set}/annotations.json\n"
            "OBJECT/{multiview_*,wild_set}/images/*.jpg\nOBJECT/{multiview_*,wild_set}/depth/*.png"
        ),
        needs=dict.fromkeys(("train", "val"), (("*/multiview*/annotations.json", "*/wild_set/annotations.json"),)),
        splits={"train": "train", "val": "val"},
    ),
}
