"""Distillation and pretraining of image and image-text encoders: two corners of one grid, one trainer."""

__version__ = "0.1.0"
