"""How fast a generator speaks on this machine: what its listeners wait for, and how many it can serve.

Compute time only, through the same streams and scheduler that listeners use. A limit stands beside the figures: the
bytes of weights that a frame reads, over the memory's measured bandwidth.
"""

from __future__ import annotations

import math
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise

import torch

from duologue.engine.context import CodedSegment
from duologue.engine.conversation import Conversation
from duologue.engine.generator import Generator
from duologue.engine.pages import large_pages
from duologue.engine.scheduler import Scheduler
from duologue.engine.speech import Speech
from duologue.engine.stopping import NO_POLICY
from duologue.errors import DuologueWarning, OptionError
from duologue.model.csm import CSM
from duologue.nn.operators import registered

LINE = "The train to the coast leaves a little later than usual, so there is time for another cup of tea."
# For the memory's bandwidth: far more than any cache holds.
_PROBE_BYTES, _PROBE_ROW = 512 * 2**20, 2048
_NEXT_CHUNKS = 12
_ANSWER_FRAMES = 5


@dataclass(frozen=True)
class Case:
    """A turn after `history_s` seconds of conversation, known already unless it `is_cold`: then all is read for it.

    What is known is so because the model has just made the turn before, a short one.
    """

    history_s: float = 0.0
    is_cold: bool = False


@dataclass(frozen=True)
class Latency:
    """What one listener waits for, in seconds: each first chunk, and each time between two chunks.

    `frame_s` is how long a frame lasts; `num_rows` how much stood before the first frame, what the model had no room
    for left out.
    """

    case: Case
    first_s: tuple[float, ...]
    gaps_s: tuple[float, ...]
    frame_s: float
    num_rows: int = 0

    @property
    def real_time_factor(self) -> float:
        """Mean time between two chunks over what a chunk lasts."""
        return sum(self.gaps_s) / len(self.gaps_s) / self.frame_s


@dataclass(frozen=True)
class Load:
    """What listeners who came at the same moment got: the audio of all in seconds, and the time until the last ended.

    `first_s` is when each heard something; `underruns` counts chunks that came after a player needed them.
    """

    num_streams: int
    audio_s: float
    total_s: float
    first_s: tuple[float, ...]
    underruns: int

    @property
    def aggregate(self) -> float:
        """Seconds of audio a second, all together."""
        return self.audio_s / self.total_s

    @property
    def real_time_factor(self) -> float:
        """Of each stream: below 1 nobody waits."""
        return self.num_streams / self.aggregate


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent do not exceed."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(percent / 100 * len(ranked)) - 1)]


def bandwidth() -> float:
    """Bytes a second that are read of memory like a model's with torch's threads; the best of several.

    By a sum, and where our own operators are loaded by them as well, which read several places side by side.
    """
    with large_pages():
        probe = torch.ones(_PROBE_BYTES // 4)
    reading: list[Callable[[], object]] = [probe.sum]
    own = registered()
    if own is not None:
        weights = probe.view(-1, _PROBE_ROW)
        reading.append(lambda: own.multiply(weights[:1], weights))
    best = math.inf
    for read in reading * 5:
        started = time.perf_counter()
        read()
        best = min(best, time.perf_counter() - started)
    return _PROBE_BYTES / best


def frame_bytes(model: CSM, bytes_per_weight: float) -> float:
    """Bytes of weights that one frame reads: the backbone once, the depth decoder once a codebook, every head."""
    config = model.config

    def of(dim: int, ffn_dim: int, heads: int, kv_heads: int, head_size: int, layers: int) -> int:
        return layers * (2 * dim * heads * head_size + 2 * dim * kv_heads * head_size + 3 * dim * ffn_dim)

    backbone, depth = (
        of(one.dim, one.ffn_dim, one.num_heads, one.num_kv_heads, one.head_size, one.num_layers)
        for one in (config.backbone, config.depth)
    )
    heads = config.audio_vocab_size * (config.backbone.dim + (config.num_codebooks - 1) * config.depth.dim)
    projection = config.num_codebooks * config.backbone.dim * config.depth.dim
    return bytes_per_weight * (backbone + (config.num_codebooks - 1) * depth + heads + projection)


def measure_latency(
    generator: Generator,
    cases: Sequence[Case] = (Case(),),
    *,
    repeats: int = 5,
    text: str = LINE,
    voice: str | None = None,
) -> list[Latency]:
    """What a listener waits for in each case, `repeats` turns each.

    A turn of every case comes before the next one of any: where the machine is slower for a while, all have it alike
    and their ratio stays. A cold turn reads its voice prompt anew as well. Raises `OptionError` where a history does
    not fit, or the model ends its speech too soon to be timed.
    """
    if repeats < 1:
        raise OptionError(f"repeats {repeats}; expected 1 or more")
    found = [Latency(case, (), (), 1 / generator.codec.frame_rate) for case in cases]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DuologueWarning)
        conversations = [_begun(generator, case, voice) for case in cases]
        for seed in range(repeats):
            for place, (case, known) in enumerate(zip(cases, conversations, strict=True)):
                conversation = known.fork()
                if case.is_cold:
                    generator.prefixes.clear()
                else:
                    _answer(conversation)
                times = [time.perf_counter()]
                with conversation.stream_say(text, 0, seed=seed, stopping=NO_POLICY) as stream:
                    for _ in islice(stream, 1 + _NEXT_CHUNKS):
                        times.append(time.perf_counter())
                    num_rows = stream.num_rows
                found[place] = replace(_with_turn(found[place], times), num_rows=num_rows)
    if not all(one.gaps_s for one in found):
        raise OptionError("the model ends its speech before a second chunk: nothing can be timed")
    return found


def measure_speaking(generator: Generator, *, repeats: int = 3, text: str = LINE) -> list[float]:
    """Real-time factors of `speak`, which makes a sentence as a whole, codec included."""
    if repeats < 1:
        raise OptionError(f"repeats {repeats}; expected 1 or more")
    factors = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DuologueWarning)
        for seed in range(repeats):
            started = time.perf_counter()
            duration_s = generator.speak(text, 0, seed=seed, stopping=NO_POLICY).duration_s
            if duration_s:
                factors.append((time.perf_counter() - started) / duration_s)
    if not factors:
        raise OptionError("the model says nothing: nothing can be timed")
    return factors


def measure_load(generator: Generator, num_streams: int, *, seconds: float = 3.0, text: str = LINE) -> Load:
    """`num_streams` listeners who ask at the same moment, each for up to `seconds` of speech."""
    speeches: list[Speech] = []
    first: list[float] = []
    late = [0] * num_streams
    frame_s = 1 / generator.codec.frame_rate
    with warnings.catch_warnings(), Scheduler(generator, max_streams=num_streams) as scheduler:
        warnings.simplefilter("ignore", DuologueWarning)
        started = time.perf_counter()

        def listen(index: int) -> None:
            stream = scheduler.submit(text, index, max_audio_length_ms=1000 * seconds, seed=index, stopping=NO_POLICY)
            begun = None
            for number, _ in enumerate(stream):
                now = time.perf_counter() - started
                if begun is None:
                    begun = now
                    first.append(now)
                late[index] += now > begun + number * frame_s
            if stream.result is not None:
                speeches.append(stream.result)

        threads = [threading.Thread(target=listen, args=(index,)) for index in range(num_streams)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        total = time.perf_counter() - started
    return Load(num_streams, sum(speech.duration_s for speech in speeches), total, tuple(first), sum(late))


def _begun(generator: Generator, case: Case, voice: str | None) -> Conversation:
    """What was said before a turn of the case; unless it is cold, the model has read it and made a turn of its own."""
    conversation = Conversation(generator, None if voice is None else {0: voice})
    for turn in _history(generator, case.history_s):
        conversation.append(turn)
    if not case.is_cold:
        _answer(conversation)
    return conversation


def _answer(conversation: Conversation) -> None:
    """A turn of the model's own that is cut short; it has asked for as much room as a longer one."""
    with conversation.stream_say("Yes.", 0, seed=0, stopping=NO_POLICY) as stream:
        for _ in islice(stream, _ANSWER_FRAMES):
            pass
        stream.interrupt()


def _with_turn(found: Latency, times: Sequence[float]) -> Latency:
    """One more turn, from when it was asked for to its last chunk; nothing where it had no chunk."""
    if len(times) < 2:
        return found
    gaps = tuple(after - before for before, after in pairwise(times[1:]))
    return replace(found, first_s=(*found.first_s, times[1] - times[0]), gaps_s=found.gaps_s + gaps)


def _history(generator: Generator, seconds: float) -> list[CodedSegment]:
    """Turns of two speakers that last so long, of the model's own making."""
    if not seconds:
        return []
    wanted = round(seconds * generator.codec.frame_rate)
    if wanted > generator.max_rows // 2 + generator.max_rows // 4:
        raise OptionError(f"a history of {seconds:g} s does not fit the model's {generator.max_rows} rows")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DuologueWarning)
        made = generator.speak(LINE, 1, max_audio_length_ms=6000, seed=1, stopping=NO_POLICY).codes
    if not made.shape[1]:
        raise OptionError("the model says nothing: no history can be made")
    turns: list[CodedSegment] = []
    while wanted:
        codes = made[:, :wanted].roll(len(turns), dims=1)  # no two alike: each is to be read
        turns.append(CodedSegment(1 - len(turns) % 2, LINE, codes))
        wanted -= codes.shape[1]
    return turns
