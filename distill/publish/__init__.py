"""A trained student in the formats of other libraries, with the proof that they say what the student says."""
