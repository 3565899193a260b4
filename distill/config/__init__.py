"""Recipes: typed settings, read from YAML pages and the command line."""

from distill.config.schema import *  # noqa: F403
