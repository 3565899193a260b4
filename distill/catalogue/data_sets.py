"""Every data set by the name that recipes and the command line use."""

from distill.catalogue.geometry import GEOMETRY
from distill.catalogue.layout import DataSet
from distill.catalogue.masks import COCO_MASKS, SEGMENTATION
from distill.catalogue.pictures import CAPTIONS, CLASSES, INSTANCES, PAIRS

DATA_SETS: dict[str, DataSet] = SEGMENTATION | COCO_MASKS | CLASSES | CAPTIONS | PAIRS | INSTANCES | GEOMETRY
"""A published name never changes meaning."""
