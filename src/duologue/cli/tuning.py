"""Fine-tuning as a whole, for `train` and for recipes: prepared conversations in, a checkpoint and voices out."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import torch

from duologue.audio import write_audio
from duologue.checkpoints import Checkpoint, load_codec, save_checkpoint
from duologue.codec.mimi import Mimi
from duologue.data.conversations import SequenceSampler, fitting
from duologue.data.prompts import Named, write_order, write_voices
from duologue.data.shards import CodedTurn, TurnStore, first_codebooks
from duologue.engine.context import CodedSegment
from duologue.engine.generator import Generator
from duologue.engine.voices import VoiceLibrary, codec_fingerprint
from duologue.errors import CheckpointError, DuologueWarning, OptionError, TrainingError
from duologue.model.csm import CSM
from duologue.text import TextTokenizer
from duologue.train.board import Board
from duologue.train.csm import CSMTrainConfig, train_csm, validation_losses
from duologue.train.distributed import World

Conversations = Sequence[Sequence[CodedTurn]]

_SHORTEST_ROWS: Final = 96
_LENGTH_STEP: Final = 1.45  # between the lengths of sequences that a batch may have
_HELD_OUT_EVERY: Final = 20  # conversations
_VALIDATION_BATCHES: Final = 3
_SAMPLE_MS: Final = 10_000
_SAMPLE_FRAMES: Final = 45


@dataclass(frozen=True)
class Batching:
    """`rows` a batch, text and frames; sequences of at most `longest`; turns that are longer are left out.

    By default half a minute of speech, as much as `prepare` makes of a turn, has room with its text as phonemes.
    """

    rows: int = 2400
    longest: int = 960


@dataclass(frozen=True)
class OwnSpeech:
    """What a model said itself, and the share that it has of all rows that are learned."""

    conversations: Conversations
    share: float


def read_conversations(folders: Sequence[Path], base: Checkpoint) -> list[list[CodedTurn]]:
    """All conversations of prepared folders, with as many codebooks as the model speaks.

    Raises `DataError` for a folder that was not prepared with the model's codec.
    """
    fingerprint, count = codec_fingerprint(base.codec), base.model.num_codebooks
    stores = [TurnStore(folder, fingerprint=fingerprint) for folder in folders]
    return first_codebooks([turns for store in stores for turns in store.conversations], count)


def in_alphabet(base: Checkpoint, alphabet: str) -> Checkpoint:
    """`base`, which reads phonemes, with those of another language: `alphabet` is "espeak:" and an eSpeak voice.

    Where that is not an English one, numbers and signs are eSpeak's to read. The weights are what they were and have to
    be trained; so are the voices, whose prompts are in the language before. Raises `ConfigError` for another alphabet,
    `OptionError` for a voice that eSpeak lacks and for a model that reads letters.
    """
    text = replace(base.model.config.text, alphabet=alphabet)
    if not text.espeak_voice or not base.model.config.text.espeak_voice:
        raise OptionError(
            f"alphabet {alphabet!r}: expected 'espeak:' and a voice, such as 'espeak:es', for a model that reads "
            f"phonemes; this one's is {base.model.config.text.alphabet!r} (letters are of any language)"
        )
    text = replace(text, normalize=text.espeak_voice.startswith("en"))
    tokenizer = TextTokenizer.from_file(base.folder / "tokenizer.json", text)
    tokenizer.prepare("a")  # whether there is such a voice
    base.model.config = replace(base.model.config, text=text)
    return replace(base, tokenizer=tokenizer)


def tune(
    base: Checkpoint,
    conversations: Conversations,
    config: CSMTrainConfig,
    out: Path,
    *,
    batching: Batching | None = None,
    rehearsal: OwnSpeech | None = None,
    self_training: OwnSpeech | None = None,
    blend: float = 1.0,
    num_voices: int = 4,
    keeps_voices: bool = True,
    prompts: Conversations | None = None,
    device: torch.device | str = "cpu",
    world: World | None = None,
    board: Board | None = None,
    quiet: bool = False,
) -> CSM:
    """Trains `base` on the conversations, or goes on with what `out/run` holds; the checkpoint goes to `out/model`.

    Beside them it learns `rehearsal`, what the model said before in its voices, so that it forgets less, and
    `self_training`, what a model that was tuned on the same conversations said in their voices: that one is near to
    the voice and slips on words, and what was understood of it has both (Gulcehre et al., "Reinforced self-training
    (ReST) for language modeling", 2023).

    A twentieth of the conversations is held out, for losses and for a line spoken now and then, in `out/samples`. The
    checkpoint has `num_voices` of the conversations' voices, in front of those of `base` if it `keeps_voices`, with
    prompts from `prompts` (default: the conversations); its weights lie at `blend` of the way from those of `base` to
    the trained ones (see `draw_back`).

    Raises `OptionError` where the shares of those two leave nothing of the conversations.
    """
    shares = [0.0 if own is None else own.share for own in (rehearsal, self_training)]
    if sum(shares) >= 1:
        raise OptionError(
            f"{shares[0]:g} of what is learned rehearsed and {shares[1]:g} self-training: nothing is left of the data"
        )
    world, batching = world or World(), batching or Batching()
    base.model.float()
    data = _Data(base, batching, is_telling=world.is_first)
    usable = data.fitting(conversations)
    held_out = usable[::_HELD_OUT_EVERY]
    learned = [turns for index, turns in enumerate(usable) if index % _HELD_OUT_EVERY] or held_out
    rehearsal, self_training = (
        own and replace(own, conversations=data.fitting(own.conversations)) for own in (rehearsal, self_training)
    )
    seed = config.loop.seed
    draw = data.sampler(learned, seed=seed + 1 + 1000 * world.rank, rehearsal=rehearsal, self_training=self_training)
    judge = _Judge(base, held_out, data.sampler(held_out, seed=seed), out, world, board, device)
    model = train_csm(
        config,
        lambda index, _: draw(index),
        out / "run",
        initial=base.model.state_dict(),
        description={
            "batching": asdict(batching),
            "data": _digest(usable),
            "rehearsal": rehearsal and [_digest(rehearsal.conversations), rehearsal.share],
            "self_training": self_training and [_digest(self_training.conversations), self_training.share],
        },
        evaluate=judge,
        device=device,
        world=world,
        board=board,
        quiet=quiet,
    )
    draw_back(model, base.model, blend)
    if world.is_first:
        save_tuned(
            out / "model", model, base, prompts or conversations, num_voices=num_voices, keeps_voices=keeps_voices
        )
    world.wait()
    return model


@torch.no_grad()
def draw_back(tuned: CSM, base: CSM, blend: float) -> None:
    """Moves the weights of `tuned` in place to `blend` of the way from those of `base`, of the same shape.

    Below 1 more is left of what `base` can do, and less of what was learned. Source: Wortsman et al., "Robust
    fine-tuning of zero-shot models" (2022).
    """
    if blend != 1:
        before = base.state_dict()
        for name, weight in tuned.state_dict().items():
            weight.lerp_(before[name].to(weight), 1 - blend)


class _Data:
    """Conversations as batches of a model's rows."""

    def __init__(self, base: Checkpoint, batching: Batching, *, is_telling: bool) -> None:
        self._tokenizer, self._rows, self._is_telling = base.tokenizer, batching.rows, is_telling
        self._longest = min(batching.longest, base.model.config.backbone.max_positions, batching.rows)
        self._prepared: dict[str, str] = {}

    def fitting(self, conversations: Conversations) -> list[list[CodedTurn]]:
        """The turns that a sequence has room for; warns of the others."""
        kept = fitting(conversations, self._encode, self._longest)
        count, total = (sum(map(len, turns)) for turns in (kept, conversations))
        if 0 < count < total and self._is_telling:  # where none is left the sampler says so
            warnings.warn(
                f"{total - count} of {total} turns have more than {self._longest} rows and are left out",
                DuologueWarning,
                stacklevel=3,
            )
        return kept

    def sampler(
        self,
        conversations: Conversations,
        *,
        seed: int,
        rehearsal: OwnSpeech | None = None,
        self_training: OwnSpeech | None = None,
    ) -> SequenceSampler:
        """Draws batches of conversations that fit, and of a model's own speech beside them."""
        if rehearsal is not None:
            rehearsal = replace(rehearsal, conversations=_renamed(rehearsal.conversations))
        beside = [own for own in (rehearsal, self_training) if own is not None]
        num_frames, rest = _num_frames(conversations), 1 - sum(own.share for own in beside)
        weights: dict[int, float] = {}  # of turns by identity: one voice has turns of both kinds
        for own in beside:
            if not own.conversations:
                raise TrainingError(f"of the model's own speech no turn fits a sequence of {self._longest} rows")
            weight = own.share / rest * num_frames / _num_frames(own.conversations)
            weights |= {id(turn): weight for turns in own.conversations for turn in turns}
            conversations = [*conversations, *own.conversations]
        lengths = [self._longest]
        while lengths[-1] / _LENGTH_STEP >= _SHORTEST_ROWS:
            lengths.append(round(lengths[-1] / _LENGTH_STEP))
        return SequenceSampler(
            conversations,
            self._encode,
            batch_rows=self._rows,
            lengths=lengths[::-1],
            seed=seed,
            weight=lambda turn: weights.get(id(turn), 1.0),
        )

    def _encode(self, text: str, speaker: int) -> list[int]:
        if text not in self._prepared:
            self._prepared[text] = self._tokenizer.prepare(text)
        return self._tokenizer.encode_prepared(self._prepared[text], speaker)


def _renamed(conversations: Conversations) -> list[list[CodedTurn]]:
    """A model's own speech in voices of other names than any recording's: neither leads the other."""
    return [[replace(turn, voice=f"{turn.voice} of the model") for turn in turns] for turns in conversations]


def _digest(conversations: Conversations) -> str:
    """What tells these conversations from others."""
    digest = hashlib.blake2b(digest_size=16)
    for turns in conversations:
        for turn in turns:
            digest.update(json.dumps([turn.voice, turn.speaker, turn.text, turn.codes.shape]).encode())
            digest.update(turn.codes.tobytes())
        digest.update(b"|")
    return digest.hexdigest()


def _num_frames(conversations: Conversations) -> int:
    return sum(turn.codes.shape[1] for turns in conversations for turn in turns)


class _Judge:
    """What is logged on the way: losses on held-out batches, and a held-out line spoken in its voice, as a file."""

    def __init__(
        self,
        base: Checkpoint,
        held_out: Conversations,
        draw: SequenceSampler,
        out: Path,
        world: World,
        board: Board | None,
        device: torch.device | str,
    ) -> None:
        self.base, self.out, self.world, self.board, self.device = base, out, world, board, device
        self.batches = [draw(index).to(device) for index in range(_VALIDATION_BATCHES)]
        turns = sorted(
            (turn for turns in held_out for turn in turns), key=lambda turn: abs(turn.codes.shape[1] - _SAMPLE_FRAMES)
        )
        self.line = turns[0]
        self.prompt = next((turn for turn in turns[1:] if turn.voice == self.line.voice), None)

    def __call__(self, model: CSM, step: int) -> dict[str, float]:
        losses = validation_losses(model, self.batches)
        if not self.world.is_sharding:  # a sharded model is called as a whole only
            self._speak(model, step)
        return losses

    def _speak(self, model: CSM, step: int) -> None:
        generator = Generator(model, self.base.codec.to(self.device), self.base.tokenizer)
        context = []
        if self.prompt is not None:
            codes = torch.from_numpy(self.prompt.codes.astype("int64"))
            context.append(CodedSegment(0, self.prompt.text, codes))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a model in the making does not stop
            audio = generator.generate(self.line.text, 0, context, _SAMPLE_MS, seed=0, voice="none", normalize=False)
        folder = self.out / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        if len(audio):
            write_audio(folder / f"step-{step:06d}.wav", audio, generator.sample_rate)
            if self.board is not None:
                self.board.sound("sample", audio, generator.sample_rate, step)


def save_tuned(
    folder: Path,
    model: CSM,
    base: Checkpoint,
    conversations: Conversations,
    *,
    num_voices: int,
    keeps_voices: bool = True,
) -> None:
    """Writes a checkpoint, with voices of the conversations first and, kept, those of `base` after them."""
    heard = Counter({turn.voice: 0 for turns in conversations for turn in turns})
    for turns in conversations:
        for turn in turns:
            heard[turn.voice] += turn.codes.shape[1]
    named = [Named(name, voice, "from the data it was trained on") for name, voice in _names(heard, num_voices)]
    with _voices_folder(base if keeps_voices else None) as (voices, old):
        new = write_voices(voices, conversations, named, fingerprint=codec_fingerprint(base.codec))
        write_order(voices, [*new, *(name for name in old if name not in new)])
        tokenizer = base.folder / "tokenizer.json"
        codec = _whole_codec(base)
        save_checkpoint(folder, "native", model=model, codec=codec, tokenizer_path=tokenizer, voices_folder=voices)


def _whole_codec(base: Checkpoint) -> Mimi:
    """The codec with the codebooks that the model does not speak; as it was loaded where it came from elsewhere."""
    try:
        return load_codec(base.folder)
    except CheckpointError:
        return base.codec


def _names(heard: Counter[str], count: int) -> Iterator[tuple[str, str]]:
    """Names that a voice may have, for the voices heard most."""
    taken: set[str] = set()
    for voice, _ in heard.most_common(count):
        plain = re.sub(r"[^a-z0-9]+", "-", Path(voice).stem.lower() if "/" in voice else voice.lower()).strip("-")
        name = plain[:32] or "voice"
        while name in taken:
            name = f"{name}-2"
        taken.add(name)
        yield name, voice


@contextlib.contextmanager
def _voices_folder(base: Checkpoint | None) -> Iterator[tuple[Path, list[str]]]:
    """A folder with the voices of a checkpoint, and their names in order; it goes away."""
    with tempfile.TemporaryDirectory() as place:
        folder, names = Path(place) / "voices", []
        if base is not None and (base.folder / "voices").is_dir():
            shutil.copytree(base.folder / "voices", folder)
            names = list(VoiceLibrary(base.codec, folder).shipped_names)
        yield folder, names
