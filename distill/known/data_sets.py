"""Every data set by the name that recipes and the command line use."""

from distill.known.geometry import GEOMETRY
from distill.known.layout import DataSet
from distill.known.masks import COCO_MASKS, SEGMENTATION
from distill.known.pictures import CAPTIONS, CLASSES, INSTANCES, PAIRS

DATA_SETS: dict[str, DataSet] = SEGMENTATION | COCO_MASKS | CLASSES | CAPTIONS | PAIRS | INSTANCES | GEOMETRY
"""A published name never changes meaning."""
