"""`duologue codec`: recordings to codes and back, with Mimi alone."""

import math
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from duologue.cli import codes as code_files
from duologue.cli import files, groups, options, report, terminal
from duologue.errors import CodeError, OptionError

if TYPE_CHECKING:
    from torch import Tensor

    from duologue.codec.mimi import Mimi

_PIECE_SECONDS: Final = 2.0  # of audio between two updates of the progress line

_HELP: Final = """
Turn recordings into codes and codes into sound, with the codec alone.

A frame of codes is what the speech model reads and writes; this shows what
the codec by itself keeps of a voice.

Examples:

  duologue codec encode speech.wav -o speech.safetensors
  duologue codec decode speech.safetensors -o again.wav
"""

Codebooks = Annotated[
    int | None,
    typer.Option(min=1, help="Only the first so many codebooks. Default: all that there are.", show_default=False),
]
CodecModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="A checkpoint that has a codec, or Mimi's own file, or a hub id. Default: the model of the package.",
        show_default=False,
        rich_help_panel="Model",
    ),
]


@dataclass(frozen=True)
class CodecSource(options.ModelSource):
    """Which codec to load."""

    model: CodecModel = None


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = options.command_group(_HELP)
    group.command("encode")(groups.grouped(encode))
    group.command("decode")(groups.grouped(decode))
    app.add_typer(group, name="codec")


def encode(
    audio: Annotated[
        str,
        typer.Argument(
            metavar="AUDIO", help="A recording of any common format, rate and channel count, or - for standard input."
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Ends in .safetensors or .npy; - sends safetensors to stdout."
        ),
    ],
    codebooks: Codebooks = None,
    *,
    source: CodecSource,
    machine: options.Machine,
    messages: options.Messages,
) -> None:
    """Turn a recording into codes: one integer tensor named codes, codebooks by frames.

    Fewer codebooks make a smaller file and a rougher sound. The last frame is
    filled up with silence.

    Examples:

      duologue codec encode speech.wav -o speech.safetensors
      duologue codec encode speech.mp3 -o speech.npy --codebooks 8 --json
    """
    stream = terminal.StandardOutput() if output == "-" else None
    code_files.check_suffix(output)

    from duologue.audio import read_audio

    recording = read_audio(files.audio_source(audio))  # before the model: bad input is told at once
    codec = options.load_codec(source, machine, messages.quiet)
    num_codebooks = _count(codebooks, codec.num_codebooks)

    import torch

    from duologue.audio import resample

    pcm = resample(*recording, codec.sample_rate).clamp(-1.0, 1.0)  # [S]
    device_of = next(codec.parameters()).device
    num_samples = len(pcm)
    num_frames = math.ceil(num_samples / codec.frame_size)
    pcm = torch.nn.functional.pad(pcm, (0, num_frames * codec.frame_size - num_samples))
    piece = _piece_frames(codec) * codec.frame_size
    started = time.perf_counter()
    state = codec.init_encoder_state(1)
    parts = []
    with terminal.progress(not messages.quiet) as show:
        for index in range(0, len(pcm), piece):
            show(f"{index / codec.sample_rate:.0f} of {num_samples / codec.sample_rate:.0f} s encoded …")
            part = pcm[None, None, index : index + piece].to(device_of)
            parts.append(codec.encode(part, state, num_codebooks=num_codebooks)[0].cpu())
    total_s = time.perf_counter() - started
    encoded = torch.cat(parts, dim=-1)  # [K, T]
    metadata = {
        "sample_rate": str(codec.sample_rate),
        "frame_rate": f"{codec.frame_rate:g}",
        "num_samples": str(num_samples),
    }
    suffix = ".npy" if output.lower().endswith(".npy") else ".safetensors"
    data = code_files.encode_codes(encoded, metadata, suffix)
    if stream is not None:
        stream.write(data)
    else:
        code_files.write_atomically(output, data)
    _finish(output, codec, encoded.shape, num_samples, total_s, messages)


def decode(
    codes: Annotated[
        str, typer.Argument(metavar="CODES", help="A file of codes, .safetensors or .npy, or - for standard input.")
    ],
    output: options.Output,
    codebooks: Codebooks = None,
    *,
    source: CodecSource,
    machine: options.Machine,
    messages: options.Messages,
) -> None:
    """Turn codes back into sound.

    The codes must come from the same codec. With --codebooks, hear what the
    first few alone carry.

    Examples:

      duologue codec decode speech.safetensors -o again.wav
      duologue codec decode speech.npy -o rough.wav --codebooks 2
      duologue codec decode speech.npy -o - | aplay -q
    """
    target = files.audio_target(output)
    if codes == "-" and sys.stdin is None:
        raise OptionError("standard input is closed; pipe codes into it")
    read = code_files.read_codes(files.name_of_input(codes), sys.stdin.buffer if codes == "-" else None)
    codec = options.load_codec(source, machine, messages.quiet)

    from duologue.audio import StreamWriter

    _check_codes(files.name_of_input(codes), read.codes, codec)
    wanted = read.codes[: _count(codebooks, len(read.codes))]  # [K, T]
    device_of = next(codec.parameters()).device
    num_samples = wanted.shape[-1] * codec.frame_size
    if read.num_samples is not None and num_samples - codec.frame_size < read.num_samples <= num_samples:
        num_samples = read.num_samples
    piece = _piece_frames(codec)
    compute_s = 0.0
    state = codec.init_decoder_state(1)
    with terminal.progress(not messages.quiet) as show, StreamWriter(target, codec.sample_rate) as writer:
        for index in range(0, wanted.shape[-1], piece):
            started = time.perf_counter()
            pcm = codec.decode(wanted[None, :, index : index + piece].to(device_of), state)[0, 0].cpu()  # [S]
            compute_s += time.perf_counter() - started
            writer.write(pcm[: num_samples - writer.num_samples])
            show(f"{writer.num_samples / codec.sample_rate:.0f} of {num_samples / codec.sample_rate:.0f} s decoded …")
    _finish(output, codec, wanted.shape, num_samples, compute_s, messages)


def _check_codes(name: str, codes: "Tensor", codec: "Mimi") -> None:
    """Raise `CodeError` for what the codec cannot decode, before the first sound is out."""
    if len(codes) > codec.num_codebooks:
        raise CodeError(f"{name} has {len(codes)} codebooks, but this codec has {codec.num_codebooks}")
    lowest, highest = int(codes.min()), int(codes.max())
    if lowest < 0 or highest >= codec.config.codebook_size:
        raise CodeError(
            f"{name} has the code {lowest if lowest < 0 else highest}; expected 0..{codec.config.codebook_size - 1}"
        )


def _count(codebooks: int | None, most: int) -> int:
    if codebooks is not None and codebooks > most:
        raise OptionError(f"--codebooks {codebooks}; there are {most}, so expected 1 to {most}")
    return codebooks if codebooks is not None else most


def _piece_frames(codec: "Mimi") -> int:
    return max(1, round(_PIECE_SECONDS * codec.frame_rate))


def _finish(
    output: str, codec: "Mimi", shape: Any, num_samples: int, total_s: float, messages: options.Messages
) -> None:
    """The last line of either command."""
    num_codebooks, num_frames = shape
    seconds = num_samples / codec.sample_rate
    bitrate = codec.frame_rate * num_codebooks * math.log2(codec.config.codebook_size)
    if messages.as_json:
        payload = {
            "output": output,
            "seconds": seconds,
            "sample_rate": codec.sample_rate,
            "num_codebooks": num_codebooks,
            "num_frames": num_frames,
            "frame_rate": codec.frame_rate,
            "bits_per_second": bitrate,
            "total_seconds": total_s,
            "real_time_factor": report.real_time_factor(total_s, seconds),
        }
        terminal.emit_json(payload, report.json_stream(output))
    elif not messages.quiet:
        terminal.say(
            f"{report.name_of(output)}: {num_frames} frames of {num_codebooks} codes, {bitrate / 1000:.2f} kbit/s, "
            + report.timing(seconds, total_s, None)
        )
