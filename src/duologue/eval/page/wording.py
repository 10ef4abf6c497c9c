"""What was heard held against what should have been said, word by word, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from duologue.errors import EvaluationError
from duologue.eval.lines import load_lines
from duologue.eval.page.markup import Html, element, join
from duologue.eval.report import SuiteReport
from duologue.eval.words import WordScorer

Kind = Literal["equal", "substitute", "delete", "insert"]


@dataclass(frozen=True)
class Piece:
    """Words that were heard as they stand in the text, or that differ: `wanted` in the text, `found` in the sound."""

    kind: Kind
    wanted: tuple[str, ...]
    found: tuple[str, ...]


class WordMarker:
    """Aligns words after the scorer's normaliser, by the alignment that the scorer counts with."""

    def __init__(self) -> None:
        """Raises `EvaluationError` where the extra `eval` is not installed."""
        self._scorer = WordScorer()
        import jiwer  # there, or the scorer had raised

        self._jiwer: Any = jiwer

    def pieces(self, text: str, heard: str, accepted: Sequence[str] = ()) -> list[Piece]:
        """The alignment with the accepted reading that is nearest to what was heard; with the text by default."""
        reading = min(accepted or (text,), key=lambda reading: self._scorer(reading, heard).errors)
        wanted, found = self._scorer.normalize(reading).split(), self._scorer.normalize(heard).split()
        if not wanted:
            return [Piece("insert", (), tuple(found))] if found else []
        aligned = self._jiwer.process_words(" ".join(wanted), " ".join(found)).alignments[0]
        return [
            Piece(
                chunk.type,
                tuple(wanted[chunk.ref_start_idx : chunk.ref_end_idx]),
                tuple(found[chunk.hyp_start_idx : chunk.hyp_end_idx]),
            )
            for chunk in aligned
        ]


def marked(pieces: Sequence[Piece]) -> Html:
    """The words in a row: those that are missing struck out, those that are not in the text marked as added."""
    return join(*(_piece(piece) for piece in pieces), between=" ")


def _piece(piece: Piece) -> Html:
    wanted, found = " ".join(piece.wanted), " ".join(piece.found)
    if piece.kind == "equal":
        return join(found)
    if piece.kind == "substitute":
        return join(
            element("del", wanted, class_="instead", title="this word of the text was heard as another"),
            element("ins", found, class_="instead", title="heard instead"),
            between=" ",
        )
    if piece.kind == "delete":
        return element("del", wanted, class_="missing", title="missing")
    return element("ins", found, class_="added", title="not in the text")


def accepted_readings(suite: SuiteReport) -> dict[tuple[str, str], tuple[str, ...]]:
    """By id and text, the readings that count as right besides the text, where the lists are still those of the run."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for name, about in suite.lists.items():
        try:
            lines = load_lines(name)
        except EvaluationError:
            continue  # a list that another version of the package had
        if isinstance(about, dict) and about.get("fingerprint") == lines.fingerprint:
            found |= {(line.id, line.text): line.accepted for line in lines if line.accepted}
    return found
