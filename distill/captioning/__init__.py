"""Captions for pictures that lack those of a granularity: `distill data caption`, with a model that the user names."""
