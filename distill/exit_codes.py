"""Exit codes of the `distill` command. 2 is a user's mistake, 130 Ctrl-C."""

FINISHED = 0
FAILED = 1
DIVERGED = 3
"""A loss was not finite; the last good checkpoint is kept."""
BUSY = 73
"""Somebody else is carrying this run of a study out."""
INTERRUPTED = 75
"""EX_TEMPFAIL: ended on request, goes on from its checkpoint when the same command is given again."""
