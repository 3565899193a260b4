"""Data sets in the layouts that people have on disk, all below one root; nothing is downloaded."""

from distill.eval.layouts.registry import (
    open_captions,
    open_classes,
    open_depth,
    open_instances,
    open_normals,
    open_pairs,
    open_segmentation,
)

__all__ = [
    "open_captions",
    "open_classes",
    "open_depth",
    "open_instances",
    "open_normals",
    "open_pairs",
    "open_segmentation",
]
