"""Parlor, the model inside the package, rebuilt end to end: `python -m recipes.parlor --corpus ../shared/corpus`.

Steps, each of which is skipped when its result is there: decode the recordings (`pcm`), let Whisper listen
(`features`), train the codec (`codec`), encode the turns (`turns`), train the speech model (`csm`), and put the
checkpoint and its voices together (`export`).
"""
