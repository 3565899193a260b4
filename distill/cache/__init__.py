"""A teacher that is run once: its features of every fixed view, written to a folder and read from there.

FOLDER/
    index.json                 what was cached of what, and size and SHA-256 of every file beside it; appears last
    basis.safetensors          mean and principal components of the patches, where they are kept as such
    shard_00000.safetensors    features of a run of views, in the order of their keys
    plan.json, shard_*.json    while the folder is being written: the index so far, and one sum a shard

Nothing is pickled, and no file appears before it is whole. `storage`, `basis`, `index`, `shards` and `reader` know
neither teachers nor data; `identity`, `estimate`, `write` and `command` stand above `distill.compose`.
"""
