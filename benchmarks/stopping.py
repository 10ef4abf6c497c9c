"""How often speech does not stop, with and without the rules of `StopPolicy`.

`python -m benchmarks.stopping` speaks 300 lines of the evaluation's lists in the shipped voices in turn, without rules
and with a cap of 30 s, eight at a time. The rules change nothing before they act, so what they would have done is read
off the same speech: which utterances they stop, and whether any of those would have ended by itself.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import islice

import torch

import duologue
from benchmarks.reporting import add_options, finish, header, table
from duologue.engine.generator import Generator
from duologue.engine.scheduled import ScheduledSpeech
from duologue.engine.scheduler import Scheduler
from duologue.engine.speech import Speech
from duologue.engine.stopping import NO_POLICY, StopPolicy, StopWatch
from duologue.errors import DuologueError, DuologueWarning, OptionError
from duologue.eval.lines import load_lines

LISTS = ("stopping", "robustness", "intelligibility", "homographs", "similarity", "context", "pronunciation")


def texts(count: int) -> list[str]:
    """The first different lines of the lists, those that are hardest to stop first."""
    found = list(dict.fromkeys(line.text for name in LISTS for line in load_lines(name)))
    if len(found) < count:
        raise OptionError(f"--lines {count}: the lists have {len(found)}")
    return found[:count]


def spoken(generator: Generator, lines: list[str], cap_s: float, streams: int) -> Iterator[Speech]:
    """All lines without a rule, in order."""
    with Scheduler(generator, max_streams=streams, max_waiting=len(lines)) as scheduler:
        rest = iter(enumerate(lines))
        names = generator.voices.shipped_names or ("none",)

        def submit(index: int, text: str) -> ScheduledSpeech:
            voice = names[index % len(names)]
            return scheduler.submit(text, 0, (), 1000 * cap_s, seed=index, voice=voice, stopping=NO_POLICY)

        waiting = [submit(*item) for item in islice(rest, 2 * streams)]
        while waiting:
            stream = waiting.pop(0)
            for _ in stream:
                pass
            assert stream.result is not None
            yield stream.result
            waiting += [submit(*item) for item in islice(rest, 1)]


def stopped_by(speech: Speech, text: str, policy: StopPolicy, frame_rate: float) -> str:
    """How the speech would have ended under `policy`."""
    watch = StopWatch(policy, text, frame_rate)
    size = len(speech.audio) // max(1, speech.codes.shape[1])
    for frame, chunk in zip(speech.codes.T, speech.audio.split(size) if size else (), strict=True):
        reason = watch(frame, chunk)
        if reason is not None:
            return reason
    return speech.stop_reason


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stopping", description=__doc__)
    parser.add_argument("--model", default="parlor", help="what speaks (default: the bundled model)")
    parser.add_argument("--quantize", help="int8 (default: as it is)")
    parser.add_argument("--lines", type=int, default=300, help="utterances (default: 300)")
    parser.add_argument("--cap", type=float, default=30.0, help="seconds (default: 30)")
    parser.add_argument("--streams", type=int, default=8, help="at a time (default: 8)")
    add_options(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    without: Counter[str] = Counter()
    under: Counter[str] = Counter()
    wrong = []
    try:
        lines = texts(arguments.lines)
        generator = duologue.load(arguments.model, quantize=arguments.quantize)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DuologueWarning)
            speeches = spoken(generator, lines, arguments.cap, arguments.streams)
            for number, (text, speech) in enumerate(zip(lines, speeches, strict=True), 1):
                reason = stopped_by(speech, text, StopPolicy(), generator.codec.frame_rate)
                without[speech.stop_reason] += 1
                under[reason] += 1
                if reason not in ("end", "cap"):
                    print(f"{reason}, {speech.stop_reason} after {speech.duration_s:.1f} s: {text}", file=sys.stderr)
                    wrong += [text] if speech.stop_reason == "end" else []
                if number % 50 == 0:
                    print(f"{number} of {len(lines)}", file=sys.stderr, flush=True)
    except DuologueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    reasons = ["end", "length", "silence", "repetition", "cap"]
    rows = [[name, *(found[reason] for reason in reasons)] for name, found in (("no rule", without), ("rules", under))]
    finish(
        [
            *header(f"Stopping of {arguments.model}, {len(lines)} utterances", arguments.threads),
            *table(["", *reasons], rows),
            f"Reached the cap of {arguments.cap:g} s: {without['cap'] / len(lines):.1%} without the rules, "
            f"{under['cap'] / len(lines):.1%} with them. The rules stopped {len(wrong)} that would have ended.",
        ],
        arguments.out,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
