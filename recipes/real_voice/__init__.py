"""A model learns a person's voice from recordings: in full and by LoRA, from minutes and from more, and what it costs.

`python -m recipes.real_voice --help`.
"""
