"""`duologue train`: a model learns from prepared conversations, whole or by adapters."""

import contextlib
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from duologue.cli import groups, options, terminal
from duologue.errors import OptionError

if TYPE_CHECKING:
    from duologue.checkpoints import Checkpoint
    from duologue.data.conversations import SequenceSampler
    from duologue.data.shards import CodedTurn
    from duologue.model.csm import CSM
    from duologue.train.board import Board
    from duologue.train.csm import CSMTrainConfig
    from duologue.train.distributed import World

# What torchrun tells its processes.
RANK_VARIABLE: Final = "LOCAL_RANK"

_LENGTH: Final = "How long and how fast"
_LEARNING: Final = "What is learned"
_MEMORY: Final = "Memory"

_SHORTEST_ROWS: Final = 96
_LENGTH_STEP: Final = 1.45  # between the lengths of sequences that a batch may have
_HELD_OUT_EVERY: Final = 20  # conversations
_VALIDATION_BATCHES: Final = 3
_MAX_SHIPPED_VOICES: Final = 4
_FULL_RATE: Final = 2e-4
_LORA_RATE: Final = 1e-3
_SAMPLE_MS: Final = 10_000


@dataclass(frozen=True)
class Length:
    """How long and how fast."""

    steps: Annotated[int, typer.Option(min=1, help="Steps to take.", rich_help_panel=_LENGTH)] = 1000
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="End after so many minutes of computing, if --steps are not done by then.",
            show_default=False,
            rich_help_panel=_LENGTH,
        ),
    ] = None
    learning_rate: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Of AdamW. Default: 0.0002, or 0.001 with --lora.",
            show_default=False,
            rich_help_panel=_LENGTH,
        ),
    ] = None
    warmup: Annotated[int, typer.Option(min=0, help="Steps of a rising rate.", rich_help_panel=_LENGTH)] = 50
    seed: Annotated[int, typer.Option(min=0, help="Of batches, draws, and dropout.", rich_help_panel=_LENGTH)] = 0
    evaluate_every: Annotated[
        int, typer.Option(min=1, help="Steps between held-out losses and a sample.", rich_help_panel=_LENGTH)
    ] = 200
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.", rich_help_panel=_LENGTH)] = 200


@dataclass(frozen=True)
class Learning:
    """What is learned."""

    lora: Annotated[
        int, typer.Option(min=0, help="Rank of LoRA adapters; 0 trains all weights.", rich_help_panel=_LEARNING)
    ] = 0
    learn: Annotated[
        Literal["all", "last"],
        typer.Option(
            help="Every turn of a sequence, or the last with the others as context.", rich_help_panel=_LEARNING
        ),
    ] = "all"
    depth_share: Annotated[
        float,
        typer.Option(min=0.001, max=1.0, help="Share of frames through the depth decoder.", rich_help_panel=_LEARNING),
    ] = 1 / 16
    dropout: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="In both transformers.", rich_help_panel=_LEARNING)
    ] = 0.0
    voices: Annotated[
        int, typer.Option(min=0, help="So many of DATA's voices come with the result.", rich_help_panel=_LEARNING)
    ] = _MAX_SHIPPED_VOICES


@dataclass(frozen=True)
class Memory:
    """What decides how much memory is needed."""

    rows: Annotated[int, typer.Option(min=32, help="Rows a batch, text and frames.", rich_help_panel=_MEMORY)] = 2400
    max_rows: Annotated[
        int, typer.Option(min=32, help="Longest sequence; longer turns go.", rich_help_panel=_MEMORY)
    ] = 448
    accumulate: Annotated[int, typer.Option(min=1, help="Batches a step.", rich_help_panel=_MEMORY)] = 1
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Compute layers twice, keep less.", rich_help_panel=_MEMORY)
    ] = False
    shard: Annotated[
        bool, typer.Option("--shard", help="Under torchrun: spread the weights (FSDP2).", rich_help_panel=_MEMORY)
    ] = False


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train")(groups.grouped(train))


def train(
    data: Annotated[list[Path], typer.Argument(metavar="DATA...", help="Folders that duologue prepare wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the run and its result go.")],
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write curves and samples for TensorBoard.")
    ] = False,
    *,
    source: options.ModelSource,
    length: Length,
    learning: Learning,
    memory: Memory,
    machine: options.Machine,
    messages: options.Messages,
) -> None:
    """Fine-tune a model on prepared conversations.

    DATA must have been prepared with the codec of the model (--model there and
    here). A twentieth of the conversations is held out, for the losses and the
    samples in FOLDER/samples. The result, FOLDER/model, is a checkpoint like
    any other: speak with it, convert it, train it further.

    A run that was interrupted, or killed, goes on where its last checkpoint
    was when the same command is given again. Under torchrun every process
    takes batches of its own.

    Examples:

      duologue train data/ -o tuned/
      duologue train data/ -o tuned/ --lora 16 --minutes 30
      duologue speak "Hello there." --model tuned/model -o hello.wav
      torchrun --nproc-per-node 8 -m duologue train data/ -o tuned/ --model sesame/csm-1b --shard
    """
    from duologue.checkpoints import load_checkpoint
    from duologue.engine.load import find_device, find_source
    from duologue.train.board import Board
    from duologue.train.csm import train_csm
    from duologue.train.distributed import joined

    if (out / "model").exists():
        raise OptionError(f"{out / 'model'} is there already: choose another folder, or take it away")
    is_quiet = messages.quiet or messages.as_json
    rank = os.environ.get(RANK_VARIABLE)
    options.prepare(machine, is_quiet)
    device = find_device(machine.device)
    with joined(None if rank is None else int(rank), is_sharding=memory.shard) as world:
        base = load_checkpoint(find_source(source.model), revision=source.revision, offline=source.offline)
        base.model.float()
        conversations = _read(data, base)
        held_out = conversations[::_HELD_OUT_EVERY]
        learned = [turns for index, turns in enumerate(conversations) if index % _HELD_OUT_EVERY] or held_out
        config = _config(base, length, learning, memory)
        draw = _sampler(learned, base, memory, seed=length.seed + 1 + 1000 * world.rank)
        watch = tensorboard and world.is_first
        board = Board(out / "run" / "board") if watch else None
        judge = _Judge(base, held_out, _sampler(held_out, base, memory, seed=length.seed), out, world, board, device)
        model = train_csm(
            config,
            lambda index, _: draw(index),
            out / "run",
            initial=base.model.state_dict(),
            evaluate=judge,
            device=device,
            world=world,
            board=board,
            quiet=is_quiet,
        )
        if world.is_first:
            _save(out, model, base, conversations, learning.voices)
    if messages.as_json:
        typer.echo(f'{{"model": "{out / "model"}", "steps": {length.steps}}}')
    elif not messages.quiet:
        terminal.say(f"{out / 'model'}: trained; hear it with duologue speak TEXT --model {out / 'model'} -o FILE")


def _read(folders: list[Path], base: "Checkpoint") -> list[list["CodedTurn"]]:
    """All conversations, with as many codebooks as the model speaks."""
    from dataclasses import replace

    from duologue.data.shards import TurnStore
    from duologue.engine.voices import codec_fingerprint

    fingerprint, count = codec_fingerprint(base.codec), base.model.num_codebooks
    return [
        [replace(turn, codes=turn.codes[:count]) for turn in conversation]
        for folder in folders
        for conversation in TurnStore(folder, fingerprint=fingerprint).conversations
    ]


def _config(base: "Checkpoint", length: Length, learning: Learning, memory: Memory) -> "CSMTrainConfig":
    from duologue.train.csm import CSMTrainConfig
    from duologue.train.loop import LoopConfig
    from duologue.train.lora import LoraConfig

    rate = length.learning_rate or (_LORA_RATE if learning.lora else _FULL_RATE)
    loop = LoopConfig(
        num_steps=length.steps,
        budget_minutes=length.minutes,
        learning_rate=rate,
        warmup_steps=length.warmup,
        autocast="auto",
        accumulate=memory.accumulate,
        ema_decay=0.99,
        save_every=length.save_every,
        evaluate_every=length.evaluate_every,
        seed=length.seed,
    )
    return CSMTrainConfig(
        model=base.model.config,
        loop=loop,
        lora=LoraConfig(rank=learning.lora, alpha=2.0 * learning.lora) if learning.lora else None,
        learn=learning.learn,
        depth_share=learning.depth_share,
        dropout=learning.dropout,
        checkpointing=memory.checkpointing,
    )


def _sampler(
    conversations: list[list["CodedTurn"]], base: "Checkpoint", memory: Memory, *, seed: int
) -> "SequenceSampler":
    from duologue.data.conversations import SequenceSampler

    longest = min(memory.max_rows, base.model.config.backbone.max_positions, memory.rows)
    lengths = [longest]
    while lengths[-1] / _LENGTH_STEP >= _SHORTEST_ROWS:
        lengths.append(round(lengths[-1] / _LENGTH_STEP))
    prepared: dict[str, str] = {}

    def encode(text: str, speaker: int) -> list[int]:
        if text not in prepared:
            prepared[text] = base.tokenizer.prepare(text)
        return base.tokenizer.encode_prepared(prepared[text], speaker)

    return SequenceSampler(conversations, encode, batch_rows=memory.rows, lengths=lengths[::-1], seed=seed)


class _Judge:
    """What is logged on the way: losses on held-out batches, and a held-out line spoken in its voice, as a file."""

    def __init__(
        self,
        base: "Checkpoint",
        held_out: list[list["CodedTurn"]],
        draw: "SequenceSampler",
        out: Path,
        world: "World",
        board: "Board | None",
        device: Any,
    ) -> None:
        self.base, self.out, self.world, self.board, self.device = base, out, world, board, device
        self.batches = [draw(index).to(device) for index in range(_VALIDATION_BATCHES)]
        turns = sorted((turn for turns in held_out for turn in turns), key=lambda turn: abs(turn.codes.shape[1] - 45))
        self.line = turns[0]
        self.prompt = next((turn for turn in turns[1:] if turn.voice == self.line.voice), None)

    def __call__(self, model: "CSM", step: int) -> dict[str, float]:
        from duologue.train.csm import validation_losses

        losses = validation_losses(model, self.batches)
        if not self.world.is_sharding:  # a sharded model is called as a whole only
            self._speak(model, step)
        return losses

    def _speak(self, model: "CSM", step: int) -> None:
        import warnings

        import torch

        from duologue.audio import write_audio
        from duologue.engine.context import CodedSegment
        from duologue.engine.generator import Generator

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


def _save(out: Path, model: "CSM", base: "Checkpoint", conversations: list[list["CodedTurn"]], num_voices: int) -> None:
    """The checkpoint, with the voices of the data first and those of the model it came from after them."""
    from duologue.checkpoints import save_checkpoint
    from duologue.data.prompts import Named, write_order, write_voices
    from duologue.engine.voices import codec_fingerprint

    heard = Counter({turn.voice: 0 for turns in conversations for turn in turns})
    for turns in conversations:
        for turn in turns:
            heard[turn.voice] += turn.codes.shape[1]
    named = [Named(name, voice, "from the data it was trained on") for name, voice in _names(heard, num_voices)]
    with _voices_folder(base) as (folder, old):
        new = write_voices(folder, conversations, named, fingerprint=codec_fingerprint(base.codec))
        write_order(folder, [*new, *(name for name in old if name not in new)])
        tokenizer = base.folder / "tokenizer.json"
        save_checkpoint(
            out / "model", "native", model=model, codec=base.codec, tokenizer_path=tokenizer, voices_folder=folder
        )


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
def _voices_folder(base: "Checkpoint") -> Iterator[tuple[Path, list[str]]]:
    """A folder with the voices of a checkpoint, and their names in order; it goes away."""
    from duologue.engine.voices import VoiceLibrary

    shipped = base.folder / "voices"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "voices"
        if shipped.is_dir():
            shutil.copytree(shipped, folder)
        yield folder, list(VoiceLibrary(base.codec, shipped).shipped_names) if shipped.is_dir() else []
