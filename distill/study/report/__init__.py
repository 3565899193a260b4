"""The report of a study: what is found, for a person in a hurry first, as files that need nothing else."""
