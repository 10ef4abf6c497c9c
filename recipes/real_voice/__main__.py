"""Command line of the recipe; see `python -m recipes.real_voice --help`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from duologue.checkpoints import Checkpoint, load_checkpoint
from duologue.cli.tuning import Conversations, OwnSpeech, in_alphabet, read_conversations, save_tuned, tune
from duologue.data.hearing import Transcriber
from duologue.data.prepare import PrepareConfig, prepare
from duologue.data.rehearsal import rehearse
from duologue.data.shards import TurnStore, first_codebooks
from duologue.data.sources import find_conversations
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
_RATES = {"full": 3e-4, "lora": 6e-4}
_BLENDS = {"full": 1.0, "lora": 0.9}
_REHEARSED_SHARE, _SELF_TRAINED_SHARE = 0.25, 0.35


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.real_voice",
        description="Fine-tunes a model on one person's recordings, in full and by LoRA, on all of them and on a few "
        "minutes, and measures before and after: words, likeness to the person, quality, and the same of the voices "
        "that the model had. Beside the recordings is learned what the model said before in its voices, and what a "
        "first model, tuned on the recordings alone, said well in the person's. Any folder that duologue prepare reads "
        "will do, and with --language one in another language. Needs the extras prepare, train, lora and eval.",
    )
    parser.add_argument("--source", type=Path, default=Path("../shared/corpus/kathleen/manifest-train.jsonl"))
    parser.add_argument(
        "--heldout",
        type=Path,
        default=Path("../shared/corpus/kathleen/manifest-heldout.jsonl"),
        help="recordings of the same person, with text, that are not learned; or a text file, a sentence a line",
    )
    parser.add_argument("--voice", default="kathleen", help="the person's name, as the source has it or is to have it")
    parser.add_argument(
        "--language",
        default="en",
        metavar="CODE",
        help="what is spoken, as a code for Whisper (default: en); a model that reads phonemes learns another language "
        "from the recordings alone, and its own voices go",
    )
    parser.add_argument(
        "--alphabet",
        metavar="espeak:VOICE",
        help="phonemes of another language, for a model that reads phonemes (default: espeak:CODE)",
    )
    parser.add_argument("--model", default="parlor", help="what to start from (default: the bundled model)")
    parser.add_argument("--speech-minutes", type=float, nargs="+", default=[5, 20, 1000], help="amounts to learn from")
    parser.add_argument("--methods", nargs="+", choices=_METHODS, default=list(_METHODS))
    parser.add_argument(
        "--rehearse",
        type=Path,
        metavar="LINES",
        default=LINES,
        help="a text file, a sentence a line, for the model to speak before it is tuned and every second one for the "
        "first tuned model; what was understood is learned beside the recordings (default: 480 lines of this recipe)",
    )
    parser.add_argument("--no-rehearsal", action="store_true", help="learn the recordings alone")
    parser.add_argument("--learning-rate", type=float, help="(default: 3e-4 in full, 6e-4 by LoRA)")
    parser.add_argument("--train-minutes", type=float, default=10, help="computing time of each run (default: 10)")
    parser.add_argument(
        "--first-minutes", type=float, default=6, help="computing time of the first model of each amount (default: 6)"
    )
    parser.add_argument("--lines", type=int, default=20, help="held-out lines to speak (default: 20)")
    parser.add_argument("--others", type=int, default=2, help="other voices of the model to measure (default: 2)")
    parser.add_argument("--work", type=Path, default=Path("runs/real_voice"))
    parser.add_argument("--threads", type=int, default=2, help="processor threads (default: 2)")
    arguments = parser.parse_args()
    return run_safely(lambda _, report: run(arguments, report), arguments.threads)


def run(arguments: argparse.Namespace, report: Report) -> None:
    """Prepares, tunes for every amount and method, and prints the table; what is there is not made again."""
    base, is_new_language = starting_point(arguments)
    config = PrepareConfig(TurnConfig(voice=arguments.voice, language=arguments.language), codec=arguments.model)
    made = prepared(arguments.source, arguments.work / "data", config, report, workers=arguments.threads)
    turns = first_codebooks(made, base.model.num_codebooks)
    spoken = held_out_lines(arguments.heldout, arguments.lines)
    num_others = 0 if is_new_language else arguments.others
    results: dict[str, list[Heard]] = {}

    def measure(name: str, model: str | Path) -> None:
        path = arguments.work / "heard" / f"{name.replace(' ', '_')}.json"
        # Of their own each time: beside a Whisper of several threads training takes more than twice as long.
        instruments = Instruments(arguments.work, threads=arguments.threads, offline=True, language=arguments.language)
        results[name] = hear(model, spoken, arguments.voice, num_others, instruments, path)
        report(json.dumps({name: [heard.figures() for heard in results[name]]}))

    start = arguments.work / "before"
    # All speak after one prompt, also the untuned model: likeness to another one would be another measure.
    prompts = first_minutes(turns, min(arguments.speech_minutes), base.codec.frame_rate)
    if not start.exists():
        save_tuned(start, base.model, base, prompts, num_voices=1, keeps_voices=not is_new_language)
    measure("before", start)
    own, lines = None, list[str]()
    if not (is_new_language or arguments.no_rehearsal):
        lines = sentences(arguments.rehearse, "the lines")
        said = own_speech(lines, arguments.work / "own", base, arguments.model, None, report)
        own = OwnSpeech(said, _REHEARSED_SHARE)
    for minutes in arguments.speech_minutes:
        chosen = first_minutes(turns, minutes, base.codec.frame_rate)
        amount = "all" if chosen == turns else f"{minutes:g}"
        if f"{arguments.methods[0]} {amount}" in results:
            continue  # of two amounts more than there is
        again = None if own is None else said_again(arguments, amount, chosen, prompts, lines, report)
        for method in arguments.methods:
            name = f"{method} {amount}"
            out = arguments.work / name.replace(" ", "_")
            if not (out / "model").exists():
                tune(
                    starting_point(arguments)[0],
                    chosen,
                    tuning(base, arguments.learning_rate or _RATES[method], method, arguments.train_minutes),
                    out,
                    num_voices=1,
                    keeps_voices=not is_new_language,
                    prompts=prompts,
                    rehearsal=own,
                    self_training=again,
                    blend=1.0 if is_new_language else _BLENDS[method],
                )
            measure(name, out / "model")
    print(f"\n{markdown(results)}")


def starting_point(arguments: argparse.Namespace) -> tuple[Checkpoint, bool]:
    """The model, and whether it reads other phonemes now than it was trained on, those of the recordings' language."""
    base = load_checkpoint(find_source(arguments.model))
    reads_english = base.model.config.text.espeak_voice is not None and arguments.language != "en"
    alphabet = arguments.alphabet or (f"espeak:{arguments.language}" if reads_english else None)
    return (base, False) if alphabet is None else (in_alphabet(base, alphabet), True)


def prepared(source: Path, folder: Path, config: PrepareConfig, report: Report, *, workers: int = 1) -> Conversations:
    """The source's turns, all in the one voice of `config`."""
    for progress in prepare(find_conversations(source), folder, config, cache=folder.parent, workers=workers):
        report(f"prepared: {progress.done} of {progress.total} shards")
    store = TurnStore(folder)
    voice = config.turns.voice
    assert voice is not None
    return [[replace(turn, voice=voice) for turn in conversation] for conversation in store.conversations]


def said_again(
    arguments: argparse.Namespace,
    amount: str,
    chosen: Conversations,
    prompts: Conversations,
    lines: Sequence[str],
    report: Report,
) -> OwnSpeech:
    """Every second line in the person's voice, by a first model that is tuned on the chosen recordings alone.

    Alone they bring the likeness and cost words; what is understood of that model's speech has the words as well.
    """
    base = starting_point(arguments)[0]
    first = arguments.work / f"first_{amount}"
    if not (first / "model").exists():
        config = tuning(base, _RATES["full"], "full", arguments.first_minutes)
        tune(base, chosen, config, first, num_voices=1, prompts=prompts)
    folder = arguments.work / f"own_{amount}"
    said = own_speech(lines[::2], folder, base, first / "model", arguments.voice, report)
    return OwnSpeech(said, _SELF_TRAINED_SHARE)


def own_speech(
    lines: Sequence[str], folder: Path, base: Checkpoint, model: str | Path, voice: str | None, report: Report
) -> Conversations:
    """What a model makes of the lines and a recogniser understands, in one voice, or in all of the model's by turns."""
    transcriber = Transcriber(None, language="en", cache=folder.parent)
    voices = None if voice is None else [voice]
    for progress in rehearse(load(model), lines, folder, voices=voices, transcriber=transcriber):
        report(f"{folder.name}: {progress.done} of {progress.total} lines spoken, {progress.kept} kept")
    return read_conversations([folder], base)


def sentences(path: Path, name: str) -> list[str]:
    """The lines of a text file that are not empty; `name` is what an error calls it."""
    return [line for line in read_text(path, name).splitlines() if line.strip()]


def held_out_lines(source: Path, count: int) -> list[str]:
    """Texts of the held-out recordings, or lines of a text file, spread over them."""
    if source.suffix == ".txt":
        texts = sentences(source, "the held-out lines")
    else:
        texts = [
            utterance.text
            for conversation in find_conversations(source).conversations
            for part in conversation.parts
            for utterance in part.utterances
            if utterance.text
        ]
    if len(texts) < count:
        raise OptionError(f"--lines {count}, but {source} has {len(texts)} with text")
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


def tuning(base: Checkpoint, rate: float, method: str, minutes: float) -> CSMTrainConfig:
    """Gentle rates and some dropout: minutes of speech are soon known by heart."""
    loop = LoopConfig(
        num_steps=100_000,
        budget_minutes=minutes,
        learning_rate=rate,
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


if __name__ == "__main__":
    sys.exit(main())
