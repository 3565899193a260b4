"""Recipes: YAML pages of a lab book. Each page says where it comes from, how to run it and what to expect."""
