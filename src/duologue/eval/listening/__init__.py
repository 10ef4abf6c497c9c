"""The listening test: a page on which people compare two systems blind, and what their ratings say.

Sources: ITU-T P.800 (1996), annex E, for the seven-point comparison category rating; Sesame, "Crossing the uncanny
valley of conversational voice" (2025), for asking it with and without the conversation that came before.
"""

from duologue.eval.listening.key import Key, Trial, read_key
from duologue.eval.listening.opinion import Comparison, ConditionOpinion, ItemOpinion, compare_opinions
from duologue.eval.listening.page import ListeningPage, PageOptions, build_page, write_page
from duologue.eval.listening.pairs import Pair, Pairing, Turn, pair_folders
from duologue.eval.listening.ratings import Answer, RaterFile, read_ratings

__all__ = [
    "Answer",
    "Comparison",
    "ConditionOpinion",
    "ItemOpinion",
    "Key",
    "ListeningPage",
    "PageOptions",
    "Pair",
    "Pairing",
    "RaterFile",
    "Trial",
    "Turn",
    "build_page",
    "compare_opinions",
    "pair_folders",
    "read_key",
    "read_ratings",
    "write_page",
]
