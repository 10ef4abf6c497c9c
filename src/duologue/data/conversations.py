"""The row sequences that the speech model learns from, drawn from coded turns.

A training sequence is a run of turns of one conversation, now and then led by another turn in the voice of each
speaker, as a voice prompt leads generation. Speaker ids are drawn afresh for every sequence, so that a voice can only
be told from its own audio in the context. Turns of one speaker in a row can become one, so that long ones are learned
from short ones. The batch of a step depends on the seed and the step alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter

import numpy as np
import torch

from duologue.data.shards import CodedTurn
from duologue.errors import TrainingError
from duologue.frames import RowBatch, audio_rows, join_rows, text_rows

_TRIES = 100
_POOL = 3

TextEncoder = Callable[[str, int], list[int]]
"""Text and speaker id to the token ids of a segment's text rows, special tokens included.

Turns that became one have a line of text each.
"""


@dataclass(frozen=True)
class _Entry:
    turn: CodedTurn
    num_rows: int


class _Draw:
    """Draws indices, each as often as its weight says."""

    def __init__(self, weights: Iterable[float]) -> None:
        self._below = np.cumsum(list(weights))

    def __call__(self, random: np.random.Generator) -> int:
        index = np.searchsorted(self._below, random.random() * self._below[-1], side="right")
        return min(int(index), len(self._below) - 1)


def fitting(conversations: Sequence[Sequence[CodedTurn]], encode: TextEncoder, longest: int) -> list[list[CodedTurn]]:
    """The conversations without turns of more than `longest` rows, each of which cuts its conversation in two."""
    return [
        list(piece)
        for conversation in conversations
        for fits, piece in groupby(conversation, lambda turn: _num_rows(turn, encode) <= longest)
        if fits
    ]


def _num_rows(turn: CodedTurn, encode: TextEncoder) -> int:
    return len(encode(turn.text, 0)) + int(turn.codes.shape[1]) + 1


class SequenceSampler:
    """Draws batches of about `batch_rows` rows, all sequences of a batch about equally long."""

    def __init__(
        self,
        conversations: Sequence[Sequence[CodedTurn]],
        encode: TextEncoder,
        *,
        batch_rows: int,
        lengths: Sequence[int],
        seed: int,
        weight: Callable[[CodedTurn], float] | None = None,
        max_speakers: int = 4,
        prompt_share: float = 0.5,
        merge_share: float = 0.0,
    ) -> None:
        """`encode` makes the text rows; speaker ids are drawn from `0..max_speakers - 1`.

        `lengths` are the sequence lengths, in rows, to choose from; `weight` favours some turns, also as
        prompts (default: 1 for all). `prompt_share` of the sequences with room get another turn in front, and again;
        `merge_share` of the turns that follow one of the same voice are joined with it.
        """
        self.merge_share = merge_share
        self.batch_rows, self.lengths, self.seed = batch_rows, tuple(lengths), seed
        self.max_speakers, self.prompt_share = max_speakers, prompt_share
        self._encode, self._ids = encode, dict[tuple[str, int], list[int]]()
        longest = max(self.lengths)
        self.conversations = [
            [_Entry(turn, _num_rows(turn, self._text_ids)) for turn in turns]
            for turns in fitting(conversations, self._text_ids, longest)
        ]
        if not self.conversations:
            raise TrainingError(f"no turn fits a sequence of {longest} rows: nothing to train on")
        by_voice: dict[str, list[_Entry]] = defaultdict(list)
        for entries in self.conversations:
            for entry in entries:
                by_voice[entry.turn.voice].append(entry)
        self.num_codebooks = int(self.conversations[0][0].turn.codes.shape[0])

        def weight_of(entry: _Entry) -> float:
            return 1.0 if weight is None else weight(entry.turn)

        self._draw = _Draw(sum(entry.num_rows * weight_of(entry) for entry in turns) for turns in self.conversations)
        self._by_voice = {voice: (turns, _Draw(map(weight_of, turns))) for voice, turns in by_voice.items()}

    def __call__(self, step: int, longest: int | None = None) -> RowBatch:
        """The batch of a step; `longest` leaves out sequence lengths above it, for an easy start."""
        random = np.random.default_rng((self.seed, step))
        allowed = [n for n in self.lengths if longest is None or n <= longest] or [min(self.lengths)]
        length = int(random.choice(allowed))
        pool = [self._sequence(length, random) for _ in range(_POOL * max(1, self.batch_rows // length))]
        # Neighbours by length share a batch: little of it is padding.
        by_length = sorted(
            ((sum(_num_rows(turn, self._text_ids) for turn, _ in sequence), sequence) for sequence in pool),
            key=itemgetter(0),
        )
        first = int(random.integers(len(pool)))
        batch: list[list[tuple[CodedTurn, int]]] = []
        most = 0
        for num_rows, sequence in by_length[first:] + by_length[:first][::-1]:
            most = max(most, num_rows)
            if batch and most * (len(batch) + 1) > self.batch_rows:
                break
            batch.append(sequence)
        return self._collate(batch)

    def _text_ids(self, text: str, speaker: int) -> list[int]:
        if "\n" in text:  # hardly ever drawn again
            return self._encode(text, speaker)
        key = (text, speaker)
        if key not in self._ids:
            self._ids[key] = self._encode(text, speaker)
        return self._ids[key]

    def _sequence(self, length: int, random: np.random.Generator) -> list[tuple[CodedTurn, int]]:
        """Turns and the speaker ids they get: at most `length` rows, unless hardly any turn is as short as that."""
        for _ in range(_TRIES):
            conversation = self.conversations[self._draw(random)]
            first = int(random.integers(len(conversation)))
            if conversation[first].num_rows <= length:
                break
        turns: list[CodedTurn] = []
        taken: set[int] = set()
        room = length
        for entry in conversation[first:]:
            if turns and entry.num_rows > room:
                break
            turns.append(entry.turn)
            taken.add(id(entry))
            room -= entry.num_rows
        speakers = list(dict.fromkeys(turn.speaker for turn in turns))
        leads = [(turn.voice, turn.speaker) for turn in turns]
        while room > 0 and (len(conversation) == 1 or random.random() < self.prompt_share):
            voice, speaker = leads[int(random.integers(len(leads)))]
            choices, draw = self._by_voice[voice]
            lead = choices[draw(random)]
            if lead.num_rows > room or id(lead) in taken:  # no turn leads itself: it would be learned by copying
                break
            taken.add(id(lead))
            turns.insert(0, replace(lead.turn, speaker=speaker))
            room -= lead.num_rows
        turns = self._merged(turns, random)
        ids = random.permutation(self.max_speakers)
        return [(turn, int(ids[speakers.index(turn.speaker) % self.max_speakers])) for turn in turns]

    def _merged(self, turns: list[CodedTurn], random: np.random.Generator) -> list[CodedTurn]:
        """Turns of which some that follow one of the same voice are joined with it."""
        if not self.merge_share:
            return turns
        merged = turns[:1]
        for turn in turns[1:]:
            before = merged[-1]
            same = (turn.voice, turn.speaker) == (before.voice, before.speaker)
            if same and random.random() < self.merge_share:
                codes = np.concatenate((before.codes, turn.codes), axis=1)
                merged[-1] = replace(before, text=f"{before.text}\n{turn.text}", codes=codes)
            else:
                merged.append(turn)
        return merged

    def _collate(self, sequences: list[list[tuple[CodedTurn, int]]]) -> RowBatch:
        rows = [
            [
                (
                    text_rows(self._text_ids(turn.text, speaker), self.num_codebooks),
                    audio_rows(torch.from_numpy(turn.codes.astype(np.int64))),
                )
                for turn, speaker in sequence
            ]
            for sequence in sequences
        ]
        length = max(sum(len(text) + len(audio) for text, audio in sequence) for sequence in rows)
        size = (len(rows), length)
        tokens = torch.zeros(*size, self.num_codebooks + 1, dtype=torch.int64)
        mask = torch.zeros(*size, self.num_codebooks + 1, dtype=torch.bool)
        scored = torch.zeros(size, dtype=torch.bool)
        turn = torch.full(size, -1)
        for index, sequence in enumerate(rows):
            joined = join_rows([part for pair in sequence for part in pair])
            tokens[index, : len(joined)], mask[index, : len(joined)] = joined.tokens, joined.mask
            position = 0
            for number, (text, audio) in enumerate(sequence):
                turn[index, position : position + len(text) + len(audio)] = number
                position += len(text)
                scored[index, position : position + len(audio)] = True
                position += len(audio)
        return RowBatch(tokens, mask, scored, turn)
