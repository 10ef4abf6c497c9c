"""When an utterance is over that the model does not end by itself.

CSM ends its speech with a frame of zeros, and sometimes does not: it goes on in silence, holds a sound, or begins to
babble. Rules over the frames and the audio so far find that; they are wide enough to leave slow and careful speech
alone, and an utterance says which of them stopped it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from duologue.engine.sampling import check_number
from duologue.errors import OptionError

StopReason = Literal["end", "cap", "interrupted", "length", "silence", "repetition"]

# A text of any length may take this long.
_SLACK_S = 3.0
# Digits that nobody has spelled out are words.
_BYTES_PER_DIGIT = 6
# Silence lies this far below the loudest frame, and whatever came before, below the second one (of full scale).
_QUIET, _SILENT = 0.02, 0.001
# Repeated frames come in turns of at most so many.
_LONGEST_TURN = 6
_LONGEST_S = 3600.0
_MAX_BIAS = 100.0


@dataclass(frozen=True)
class StopPolicy:
    """Rules that end an utterance; None turns one off. Raises `OptionError` for values out of range.

    - `seconds_per_byte`: longer than three seconds and so much for each byte of the text in UTF-8 (a letter in Latin
      script, of which the corpus takes 0.06 s; a digit counts as six), it stops by "length".
    - `silence_s`: after so much silence in a row, by "silence".
    - `repetition_s`: where the semantic codes have gone round in a circle for so long, by "repetition".
    - `end_bias` is added to the logit of the code that begins the frame of zeros: above 0 a model ends sooner.
    """

    seconds_per_byte: float | None = 0.25
    silence_s: float | None = 3.0
    repetition_s: float | None = 3.0
    end_bias: float = 0.0

    def __post_init__(self) -> None:
        for name in ("seconds_per_byte", "silence_s", "repetition_s"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, check_number(name, value, 0, _LONGEST_S))
                if not getattr(self, name):
                    raise OptionError(f"{name} 0; expected more, or None for no such rule")
        object.__setattr__(self, "end_bias", check_number("end_bias", self.end_bias, -_MAX_BIAS, _MAX_BIAS))


NO_POLICY = StopPolicy(None, None, None)
"""Only the model's own end and the cap."""


class StopWatch:
    """Follows one utterance under a policy."""

    def __init__(self, policy: StopPolicy, text: str, frame_rate: float) -> None:
        def frames(seconds: float | None) -> int | None:
            return None if seconds is None else max(1, round(seconds * frame_rate))

        per_byte = policy.seconds_per_byte
        self._most = frames(None if per_byte is None else _SLACK_S + per_byte * spoken_bytes(text))
        self._silence, self._repetition = frames(policy.silence_s), frames(policy.repetition_s)
        self._semantic: list[int] = []
        self._loudest, self._num_silent = 0.0, 0
        self._repeated = [0] * (_LONGEST_TURN + 1)  # frames in a row that equal the one so many before them

    def __call__(self, frame: Tensor, chunk: Tensor) -> StopReason | None:
        """Hears the next frame `[K]` and its audio; the rule by which the utterance is over after it, if any."""
        self._follow(int(frame[0]), float(chunk.square().mean().sqrt()) if len(chunk) else 0.0)
        if self._most is not None and len(self._semantic) >= self._most:
            return "length"
        if self._silence is not None and self._num_silent >= self._silence:
            return "silence"
        if self._repetition is not None and max(self._repeated) >= self._repetition:
            return "repetition"
        return None

    def _follow(self, code: int, level: float) -> None:
        self._loudest = max(self._loudest, level)
        self._num_silent = self._num_silent + 1 if level < max(_SILENT, _QUIET * self._loudest) else 0
        self._semantic.append(code)
        for turn in range(1, min(_LONGEST_TURN, len(self._semantic) - 1) + 1):
            is_same = self._semantic[-1 - turn] == code
            self._repeated[turn] = self._repeated[turn] + 1 if is_same else 0


def spoken_bytes(text: str) -> int:
    """The length of a text in UTF-8, digits counted as the words that they are."""
    return sum(_BYTES_PER_DIGIT if character.isdigit() else len(character.encode()) for character in text)
