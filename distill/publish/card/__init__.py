"""The page that goes with published weights: what they are, where they come from, and what one may do with them."""

from distill.publish.card.facts import Facts, gather
from distill.publish.card.write import FILES, PICTURE, check_files, write_card

__all__ = ["FILES", "PICTURE", "Facts", "check_files", "gather", "write_card"]
