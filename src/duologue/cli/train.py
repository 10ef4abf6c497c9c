"""`duologue train`: a model learns from prepared conversations, whole or by adapters."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from duologue.cli import groups, options, terminal
from duologue.errors import OptionError

if TYPE_CHECKING:
    from duologue.config import CSMConfig
    from duologue.train.csm import CSMTrainConfig

# What torchrun tells its processes.
RANK_VARIABLE: Final = "LOCAL_RANK"

_LENGTH: Final = "How long and how fast"
_LEARNING: Final = "What is learned"
_MEMORY: Final = "Memory"

_MAX_SHIPPED_VOICES: Final = 4
_FULL_RATE: Final = 2e-4
_LORA_RATE: Final = 1e-3


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
    rehearse: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="What the model can do and should not forget, as duologue rehearse wrote it, or prepare.",
            show_default=False,
            rich_help_panel=_LEARNING,
        ),
    ] = None
    rehearse_share: Annotated[
        float,
        typer.Option(min=0.01, max=0.99, help="How much of what is learned is that.", rich_help_panel=_LEARNING),
    ] = 0.3
    self_training: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="What a model tuned on DATA said in DATA's voice, as duologue rehearse --voice wrote it.",
            show_default=False,
            rich_help_panel=_LEARNING,
        ),
    ] = None
    self_training_share: Annotated[
        float,
        typer.Option(min=0.01, max=0.99, help="How much of what is learned is that.", rich_help_panel=_LEARNING),
    ] = 0.35
    blend: Annotated[
        float,
        typer.Option(
            min=0.05,
            max=1.0,
            help="How far the result lies from the weights before to those learned; below 1 less is forgotten.",
            rich_help_panel=_LEARNING,
        ),
    ] = 1.0
    alphabet: Annotated[
        str | None,
        typer.Option(
            metavar="espeak:VOICE",
            help="Whose phonemes are read, for a language that is new to a model that reads phonemes: espeak:es, say.",
            show_default=False,
            rich_help_panel=_LEARNING,
        ),
    ] = None
    voices: Annotated[
        int, typer.Option(min=0, help="So many of DATA's voices come with the result.", rich_help_panel=_LEARNING)
    ] = _MAX_SHIPPED_VOICES


@dataclass(frozen=True)
class Memory:
    """What decides how much memory is needed."""

    rows: Annotated[int, typer.Option(min=32, help="Rows a batch, text and frames.", rich_help_panel=_MEMORY)] = 2400
    max_rows: Annotated[
        int, typer.Option(min=32, help="Longest sequence; longer turns go.", rich_help_panel=_MEMORY)
    ] = 960
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

    A few minutes of speech in one voice cost the others, and words; with
    --rehearse, and with a --blend of 0.8 or so, less is lost. Nearest to the
    voice is a second run that learns with --self-training what the first one
    said well in that voice.

    Another language is learned like any other speech by a model that reads
    letters. The bundled one reads phonemes, and with --alphabet those of that
    language; the voices that it had are left out.

    A run that was interrupted, or killed, goes on where its last checkpoint
    was when the same command is given again; --rows, --accumulate,
    --checkpointing, --depth-share and --learning-rate may then be others.
    Under torchrun every process takes batches of its own.

    Examples:

      duologue train data/ -o tuned/
      duologue train data/ -o tuned/ --lora 16 --minutes 30
      duologue train data/ -o tuned/ --rehearse own/
      duologue train data/ -o tuned/ --rehearse own/ --self-training hers/
      duologue train spanish/ -o tuned/ --alphabet espeak:es-419
      duologue speak "Hello there." --model tuned/model -o hello.wav
      torchrun --nproc-per-node 8 -m duologue train data/ -o tuned/ --shard
    """
    from duologue.checkpoints import load_checkpoint
    from duologue.cli.tuning import Batching, OwnSpeech, in_alphabet, read_conversations, tune
    from duologue.engine.load import find_device, find_source
    from duologue.train.board import Board
    from duologue.train.distributed import joined

    if learning.alphabet is not None and learning.rehearse is not None:
        raise OptionError("--rehearse keeps what a model can say in its language; with --alphabet that is another one")
    if (out / "model").exists():
        raise OptionError(f"{out / 'model'} is there already: choose another folder, or take it away")
    is_quiet = messages.quiet or messages.as_json
    rank = os.environ.get(RANK_VARIABLE)
    options.prepare(machine, is_quiet)
    device = find_device(machine.device)

    def spoken(folder: Path | None, share: float) -> OwnSpeech | None:
        return None if folder is None else OwnSpeech(read_conversations([folder], base), share)

    with joined(None if rank is None else int(rank), is_sharding=memory.shard) as world:
        base = load_checkpoint(find_source(source.model), revision=source.revision, offline=source.offline)
        if learning.alphabet is not None:
            base = in_alphabet(base, learning.alphabet)
        tune(
            base,
            read_conversations(data, base),
            _config(base.model.config, length, learning, memory),
            out,
            batching=Batching(memory.rows, memory.max_rows),
            rehearsal=spoken(learning.rehearse, learning.rehearse_share),
            self_training=spoken(learning.self_training, learning.self_training_share),
            blend=learning.blend,
            num_voices=learning.voices,
            keeps_voices=learning.alphabet is None,
            device=device,
            world=world,
            board=Board(out / "run" / "board") if tensorboard and world.is_first else None,
            quiet=is_quiet,
        )
        if not world.is_first:
            return
    if messages.as_json:
        typer.echo(json.dumps({"model": str(out / "model"), "steps": length.steps}))
    elif not messages.quiet:
        terminal.say(f"{out / 'model'}: trained; hear it with duologue speak TEXT --model {out / 'model'} -o FILE")


def _config(model: "CSMConfig", length: Length, learning: Learning, memory: Memory) -> "CSMTrainConfig":
    from duologue.train.csm import CSMTrainConfig, guided_text_masking
    from duologue.train.loop import LoopConfig
    from duologue.train.lora import LoraConfig

    rate = length.learning_rate
    if rate is None:
        rate = _LORA_RATE if learning.lora else _FULL_RATE
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
        model=model,
        loop=loop,
        lora=LoraConfig(rank=learning.lora, alpha=2.0 * learning.lora) if learning.lora else None,
        learn=learning.learn,
        depth_share=learning.depth_share,
        dropout=learning.dropout,
        text_masking=guided_text_masking(model),
        checkpointing=memory.checkpointing,
    )
