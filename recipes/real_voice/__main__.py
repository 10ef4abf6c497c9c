"""Command line of the recipe; see `python -m recipes.real_voice --help`."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from duologue.checkpoints import Checkpoint, load_checkpoint
from duologue.cli.tuning import Conversations, Rehearsal, read_conversations, save_tuned, tune
from duologue.data.hearing import Transcriber
from duologue.data.prepare import PrepareConfig, prepare
from duologue.data.rehearsal import rehearse
from duologue.data.shards import TurnStore, first_codebooks
from duologue.data.sources import Found, find_conversations
from duologue.data.turns import TurnConfig
from duologue.engine.load import find_source, load
from duologue.errors import OptionError
from duologue.eval.files import read_text
from duologue.eval.instruments import Instruments
from duologue.train.csm import CSMTrainConfig, guided_text_masking
from duologue.train.loop import LoopConfig
from duologue.train.lora import LoraConfig
from recipes.real_voice.hearing import Heard, hear, markdown
from recipes.work import Report, run_safely

_METHODS = ("full", "lora")
LINES = Path(__file__).with_name("lines.txt")
_RATES = {"full": 2e-4, "lora": 6e-4}
_BLENDS = {"full": 1.0, "lora": 0.9}
_OWN_SHARE = 0.3


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.real_voice",
        description="Fine-tunes a model on one person's recordings, in full and by LoRA, on all of them and on a few "
        "minutes, and measures before and after: words, likeness to the person, quality, and the same of the voices "
        "that the model had. Any folder that duologue prepare reads will do. Needs the extras prepare, train, lora and eval.",
    )
    parser.add_argument("--source", type=Path, default=Path("../shared/corpus/kathleen/manifest-train.jsonl"))
    parser.add_argument(
        "--heldout",
        type=Path,
        default=Path("../shared/corpus/kathleen/manifest-heldout.jsonl"),
        help="recordings of the same person, with text, that are not learned",
    )
    parser.add_argument("--voice", default="kathleen", help="the person's name, as the source has it or is to have it")
    parser.add_argument("--model", default="parlor", help="what to start from (default: the bundled model)")
    parser.add_argument("--speech-minutes", type=float, nargs="+", default=[5, 20, 1000], help="amounts to learn from")
    parser.add_argument("--methods", nargs="+", choices=_METHODS, default=list(_METHODS))
    parser.add_argument(
        "--rehearse",
        type=Path,
        metavar="LINES",
        default=LINES,
        help="a text file, a sentence a line: the model speaks it first, and learns what was understood beside the "
        "recordings, so that it forgets less (default: 480 lines of this recipe)",
    )
    parser.add_argument("--no-rehearsal", action="store_true", help="learn the recordings alone")
    parser.add_argument("--train-minutes", type=float, default=10, help="computing time of each run (default: 10)")
    parser.add_argument("--lines", type=int, default=20, help="held-out lines to speak (default: 20)")
    parser.add_argument("--others", type=int, default=2, help="other voices of the model to measure (default: 2)")
    parser.add_argument("--work", type=Path, default=Path("runs/real_voice"))
    parser.add_argument("--threads", type=int, default=2, help="processor threads (default: 2)")
    arguments = parser.parse_args()
    return run_safely(lambda _, report: run(arguments, report), arguments.threads)


def run(arguments: argparse.Namespace, report: Report) -> None:
    """Prepares, tunes for every amount and method, and prints the table; what is there is not made again."""
    base = load_checkpoint(find_source(arguments.model))
    made = prepared(
        arguments.source, arguments.work / "data", arguments.voice, arguments.model, report, workers=arguments.threads
    )
    turns = first_codebooks(made, base.model.num_codebooks)
    instruments = Instruments(arguments.work, offline=True)
    lines = held_out_lines(find_conversations(arguments.heldout), arguments.lines)
    results: dict[str, list[Heard]] = {}

    def measure(name: str, model: str | Path) -> None:
        path = arguments.work / "heard" / f"{name.replace(' ', '_')}.json"
        results[name] = hear(model, lines, arguments.voice, arguments.others, instruments, path)
        report(json.dumps({name: [heard.figures() for heard in results[name]]}))

    start = with_voice(base, turns, arguments.voice, arguments.work / "before")
    measure("before", start)
    own = None
    if not arguments.no_rehearsal:
        text = read_text(arguments.rehearse, "the lines")
        own = own_speech(text, arguments.work / "own", base, arguments.model, report)
    for minutes in arguments.speech_minutes:
        chosen = first_minutes(turns, minutes, base.codec.frame_rate)
        for method in arguments.methods:
            name = f"{method} {'all' if chosen == turns else f'{minutes:g}'}"
            if name not in results:
                out = arguments.work / name.replace(" ", "_")
                if not (out / "model").exists():
                    config = tuning(base, method, arguments.train_minutes)
                    start_from = load_checkpoint(find_source(arguments.model))
                    tune(start_from, chosen, config, out, num_voices=1, rehearsal=own, blend=_BLENDS[method])
                measure(name, out / "model")
    print(f"\n{markdown(results)}")


def prepared(source: Path, folder: Path, voice: str, model: str, report: Report, *, workers: int = 1) -> Conversations:
    """The source's turns, all in one voice."""
    config = PrepareConfig(TurnConfig(voice=voice), codec=model)
    for progress in prepare(find_conversations(source), folder, config, cache=folder.parent, workers=workers):
        report(f"prepared: {progress.done} of {progress.total} shards")
    store = TurnStore(folder)
    return [[replace(turn, voice=voice) for turn in conversation] for conversation in store.conversations]


def own_speech(text: str, folder: Path, base: Checkpoint, model: str, report: Report) -> Rehearsal:
    """What the model makes of the lines of a text and a recogniser understands, in the model's voices by turns."""
    transcriber = Transcriber(None, language="en", cache=folder.parent)
    for progress in rehearse(load(model), text.splitlines(), folder, transcriber=transcriber):
        report(f"spoken: {progress.done} of {progress.total} lines, {progress.kept} kept")
    return Rehearsal(read_conversations([folder], base), _OWN_SHARE)


def held_out_lines(found: Found, count: int) -> list[str]:
    """Texts of the held-out recordings, spread over them."""
    texts = [
        utterance.text
        for conversation in found.conversations
        for part in conversation.parts
        for utterance in part.utterances
        if utterance.text
    ]
    if len(texts) < count:
        raise OptionError(f"--lines {count}, but the held-out recordings have {len(texts)} with text")
    return texts[:: len(texts) // count][:count]


def first_minutes(turns: Conversations, minutes: float, frame_rate: float) -> Conversations:
    """Conversations from the start until they last so long; all of them where they are shorter."""
    chosen, frames = [], 0
    for conversation in turns:
        if frames >= minutes * 60 * frame_rate:
            break
        chosen.append(conversation)
        frames += sum(turn.codes.shape[1] for turn in conversation)
    return chosen


def tuning(base: Checkpoint, method: str, minutes: float) -> CSMTrainConfig:
    """Gentle rates and some dropout: minutes of speech are soon known by heart."""
    loop = LoopConfig(
        num_steps=100_000,
        budget_minutes=minutes,
        learning_rate=_RATES[method],
        weight_decay=0.05,
        warmup_steps=20,
        autocast="auto",
        ema_decay=0.99,
        save_every=100,
        evaluate_every=100,
    )
    return CSMTrainConfig(
        model=base.model.config,
        loop=loop,
        lora=LoraConfig(rank=16, alpha=32.0) if method == "lora" else None,
        depth_share=0.5,
        dropout=0.1,
        text_masking=guided_text_masking(base.model.config),
    )


def with_voice(base: Checkpoint, turns: Conversations, voice: str, folder: Path) -> Path:
    """The untuned model with a prompt of the voice, as the tuned ones will have it."""
    if not folder.exists():
        save_tuned(folder, base.model, base, turns, num_voices=1)
    return folder


if __name__ == "__main__":
    sys.exit(main())
