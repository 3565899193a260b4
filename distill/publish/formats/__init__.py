"""One module a format: whether this student can have it, and writing it."""
