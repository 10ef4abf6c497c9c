"""One HTML file that asks people which of two clips sounds more natural, without saying whose they are.

The page holds sounds and trials under random ids; which is whose is in the key alone. It draws the order of the trials
and the sides of the clips from the rater's id, so that every rater has an own order that can be drawn again.
"""

from __future__ import annotations

import hashlib
import html
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from duologue.errors import EvaluationError
from duologue.eval.files import write_text
from duologue.eval.listening import sounds
from duologue.eval.listening.key import Condition, Key, Kind, Trial, read_key
from duologue.eval.listening.pairs import Pair, Pairing

DEFAULT_TITLE: Final = "Listening test"
DEFAULT_NUM_CHECKS: Final = 4
KEY_NAME: Final = "key.json"

_ID_BITS: Final = 40
_KINDS: Final[tuple[Kind, ...]] = ("identical", "degraded")

Show = Callable[[str], None]
SoundName = tuple[object, ...]
"""What a sound is, before it gets its random id: ("clip", pair, side), ("turn", path) or ("check", number, side)."""


@dataclass(frozen=True)
class PageOptions:
    """How the test is made. `max_pairs` None takes all pairs; a smaller number takes that many at random."""

    title: str = DEFAULT_TITLE
    seed: int = 0
    max_pairs: int | None = None
    num_checks: int = DEFAULT_NUM_CHECKS
    sound_format: sounds.SoundFormat = "mp3"
    keep_loudness: bool = False

    def __post_init__(self) -> None:
        """Raises `EvaluationError` for an option outside its range."""
        if not self.title.strip():
            raise EvaluationError("the title is empty; give a few words that raters may read")
        if self.max_pairs is not None and self.max_pairs < 1:
            raise EvaluationError(f"{self.max_pairs} pairs were asked for; expected 1 or more")
        if self.num_checks < 0:
            raise EvaluationError(f"{self.num_checks} attention checks were asked for; expected 0 or more")


@dataclass(frozen=True)
class ListeningPage:
    """The page, its key, and what is on it: pairs, those of them that come with a context, trials and checks."""

    html: str
    key: Key
    num_pairs: int
    num_with_context: int
    num_trials: int
    num_checks: int


@dataclass(frozen=True)
class _Question:
    """A trial before its sounds have ids: a pair, or a check made from it."""

    kind: Kind
    condition: Condition
    pair: Pair
    first: SoundName
    second: SoundName


@dataclass
class _SoundTable:
    """Every sound once: `pcm [num_samples]` float32 and rate in Hz by name."""

    keep_loudness: bool
    table: dict[SoundName, tuple[Tensor, int]] = field(default_factory=dict)

    def read(self, name: SoundName, path: Path) -> None:
        if name not in self.table:
            self.table[name] = sounds.load(path, self.keep_loudness)

    def encode(self, sound_format: sounds.SoundFormat) -> dict[SoundName, str]:
        """The sounds as `data:` URIs, all at one rate."""
        rate = min(sounds.MAX_SAMPLE_RATE, max(rate for _, rate in self.table.values()))
        return {name: sounds.data_uri(*sound, rate, sound_format) for name, sound in self.table.items()}


def build_page(pairing: Pairing, options: PageOptions | None = None, show: Show | None = None) -> ListeningPage:
    """Make the page and its key: the same clips, options and seed give the same bytes.

    Each pair is asked without context, and again with its context where it has one. `show` is told what is being done.

    Raises:
        EvaluationError: no pairs.
        AudioError: a clip that is missing, empty, longer than 5 minutes or not audio; it names the file.
    """
    options = options or PageOptions()
    show = show or (lambda text: None)
    if not pairing.pairs:
        raise EvaluationError("there are no pairs to compare; give two folders with ids in common")
    pairs = list(pairing.pairs)
    if options.max_pairs is not None and options.max_pairs < len(pairs):
        chosen = set(random.Random(f"{options.seed}/pairs").sample(range(len(pairs)), options.max_pairs))
        pairs = [pair for index, pair in enumerate(pairs) if index in chosen]
    table = _SoundTable(options.keep_loudness)
    for number, pair in enumerate(pairs, start=1):
        show(f"reading pair {number} of {len(pairs)} …")
        table.read(_clip(pair, 0), pair.first)
        table.read(_clip(pair, 1), pair.second)
        for turn in pair.context:
            if turn.path is not None:
                table.read(_turn(turn.path), turn.path)
    questions = _questions(pairs) + _checks(pairs, options, table)
    show(f"encoding {len(table.table)} sounds …")
    uris = table.encode(options.sound_format)
    test = _digest(questions, uris, options)
    draws = random.Random(f"{options.seed}/{test}")
    names = list(uris)
    ids = dict(zip(names, _random_ids(draws, len(names)), strict=True))
    trials = [
        (Trial(identifier, item.kind, item.condition, item.pair.id, ids[item.first], ids[item.second]), item)
        for identifier, item in zip(_random_ids(draws, len(questions)), questions, strict=True)
    ]
    trials.sort(key=lambda entry: entry[0].id)
    content = {
        "test": test,
        "title": options.title,
        "trials": [_trial_on_page(trial, item, ids) for trial, item in trials],
        "sounds": {ids[name]: uris[name] for name in sorted(names, key=lambda name: ids[name])},
    }
    return ListeningPage(
        html=_render(options.title, content),
        key=Key.make(
            test,
            options.title,
            options.seed,
            pairing.first_name,
            pairing.second_name,
            tuple(trial for trial, _ in trials),
        ),
        num_pairs=len(pairs),
        num_with_context=sum(1 for pair in pairs if pair.context),
        num_trials=len(trials),
        num_checks=options.num_checks,
    )


def write_page(page: ListeningPage, path: Path, key_path: Path | None = None) -> Path:
    """Write the page, and its key beside it unless told where; returns the key's path.

    Raises `EvaluationError` where the key of another page would be lost, and where the system refuses.
    """
    key_path = key_path or path.with_name(KEY_NAME)
    if key_path.absolute() == path.absolute():
        raise EvaluationError(f"{path} cannot be both the page and its key; give the key another name")
    if key_path.is_file():
        try:
            other = read_key(key_path).test
        except EvaluationError:
            raise EvaluationError(
                f"{key_path} is there and is no key of a page; name another file with --key"
            ) from None
        if other != page.key.test:
            raise EvaluationError(
                f"{key_path} belongs to another page (test {other}), whose ratings could not be read without it; "
                "name another file with --key, or delete it"
            )
    write_text(key_path, page.key.to_json())  # first: a page without a key is of no use
    write_text(path, page.html)
    return key_path


def _clip(pair: Pair, side: int) -> SoundName:
    return "clip", pair.id, side


def _turn(path: Path) -> SoundName:
    return "turn", str(path)


def _questions(pairs: list[Pair]) -> list[_Question]:
    plain = [_Question("pair", "no context", pair, _clip(pair, 0), _clip(pair, 1)) for pair in pairs]
    return plain + [
        _Question("pair", "context", pair, _clip(pair, 0), _clip(pair, 1)) for pair in pairs if pair.context
    ]


def _checks(pairs: list[Pair], options: PageOptions, table: _SoundTable) -> list[_Question]:
    """Questions with a known answer, alternately an identical and a spoiled pair, in each condition that there is."""
    draws = random.Random(f"{options.seed}/checks")
    pools: list[tuple[Condition, list[Pair]]] = [("no context", pairs)]
    if any(pair.context for pair in pairs):
        pools.append(("context", [pair for pair in pairs if pair.context]))
    checks = []
    for number in range(options.num_checks):
        kind = _KINDS[number % len(_KINDS)]
        condition, pool = pools[number // len(_KINDS) % len(pools)]
        pair = draws.choice(pool)
        pcm, rate = table.table[_clip(pair, draws.randrange(2))]
        first: SoundName = ("check", number, 0)
        second: SoundName = ("check", number, 1)
        seed = draws.getrandbits(32)
        table.table[first] = pcm, rate
        table.table[second] = (pcm if kind == "identical" else sounds.degrade(pcm, rate, seed)), rate
        checks.append(_Question(kind, condition, pair, first, second))
    return checks


def _digest(questions: list[_Question], uris: dict[SoundName, str], options: PageOptions) -> str:
    """The name of the test: 16 hexadecimal digits of all that raters see and hear, and of the seed."""
    seen = hashlib.sha256(f"{options.seed}\n{options.title}\n".encode("utf-8", "surrogatepass"))
    for question in questions:
        heard = [question.first, question.second]
        heard += [_turn(turn.path) for turn in question.pair.context if turn.path is not None]
        words = [question.kind, question.condition, question.pair.id, question.pair.text]
        words += [f"{turn.speaker}: {turn.text}" for turn in question.pair.context]
        seen.update(json.dumps([words, [hashlib.sha256(uris[name].encode()).hexdigest() for name in heard]]).encode())
    return seen.hexdigest()[:16]


def _random_ids(draws: random.Random, count: int) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        found[f"{draws.getrandbits(_ID_BITS):010x}"] = None
    return list(found)


def _trial_on_page(trial: Trial, question: _Question, ids: dict[SoundName, str]) -> dict[str, Any]:
    turns = question.pair.context if trial.condition == "context" else ()
    return {
        "id": trial.id,
        "clips": sorted((trial.first, trial.second)),  # by random id: the order says nothing
        "text": question.pair.text,
        "context": trial.condition == "context",
        "turns": [
            {
                "speaker": turn.speaker,
                "text": turn.text,
                "sound": None if turn.path is None else ids[_turn(turn.path)],
            }
            for turn in turns
        ],
    }


def _render(title: str, content: dict[str, Any]) -> str:
    assets = resources.files(__package__)
    parts = {
        "title": html.escape(title),
        "style": (assets / "page.css").read_text(encoding="utf-8"),
        "script": (assets / "page.js").read_text(encoding="utf-8"),
        "content": json.dumps(content).replace("<", "\\u003c"),  # no text may end the script element
    }
    template = (assets / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)
