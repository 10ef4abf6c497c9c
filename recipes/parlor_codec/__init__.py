"""Parlor's codec: a small Mimi, from recordings of conversations to a checkpoint and its trade-off table.

`python -m recipes.parlor_codec` trains it, `python -m recipes.parlor_codec.evaluate` measures round trips, and
`python -m recipes.parlor_codec.adapt` fits the decoder of an existing codec to new recordings.
"""
