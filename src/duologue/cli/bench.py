"""`duologue bench`: how fast a model speaks here, and how many listeners it can serve."""

import sys
from typing import Annotated, Any

import typer

from duologue.cli import groups, options, terminal


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bench")(groups.grouped(bench))


def bench(
    streams: Annotated[
        list[int] | None,
        typer.Option("--streams", min=1, help="Listeners at once; give it several times. Default: 1, 2, 4 and 8."),
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long each of them listens.")] = 3.0,
    history: Annotated[float, typer.Option(help="Seconds of conversation before the longest turn.")] = 60.0,
    *,
    source: options.ModelSource,
    machine: options.SpeakingMachine,
    messages: options.Messages,
) -> None:
    """Measure speed on this machine: first audio, steady pace, listeners at once.

    Takes about a minute. Nothing else should run beside it.

    Examples:

      duologue bench
      duologue bench --quantize int8 --backend compiled
      duologue bench --model sesame/csm-1b --streams 1 --json
    """
    options.number_in("--seconds", seconds, 0.5, 60)
    options.number_in("--history", history, 0, 600)
    generator = options.load_generator(source, machine, messages.quiet)

    import torch

    from duologue.engine import bench as measuring
    from duologue.engine.machine import processor_name

    counts = sorted(set(streams or [1, 2, 4, 8]))
    with terminal.progress(not messages.quiet) as show:
        show("warming up …")
        measuring.measure_latency(generator, repeats=1)
        show("first audio …")
        cases = {"cold voice": measuring.Case(is_cold=True), "known voice": measuring.Case()}
        if history:
            cases[f"after {history:g} s"] = measuring.Case(history)
        timed = dict(zip(cases, measuring.measure_latency(generator, list(cases.values())), strict=True))
        show("a sentence as a whole …")
        whole = measuring.percentile(measuring.measure_speaking(generator), 50)
        loads = []
        for count in counts:
            show(f"{count} at once …")
            loads.append(measuring.measure_load(generator, count, seconds=seconds))
    sustained = max((load.num_streams for load in loads if load.real_time_factor < 1), default=0)
    where = processor_name() if generator.model.device.type == "cpu" else torch.cuda.get_device_name()
    payload: dict[str, Any] = {
        "machine": where,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "model": source.model or "parlor",
        "quantize": machine.quantize,
        "backend": machine.backend,
        "sustained_streams": sustained,
        "latency": [
            {
                "case": name,
                "history_s": one.case.history_s,
                "first_audio_s": {p: measuring.percentile(one.first_s, p) for p in (50, 95)},
                "gap_s": {p: measuring.percentile(one.gaps_s, p) for p in (50, 95)},
                "real_time_factor": one.real_time_factor,
            }
            for name, one in timed.items()
        ],
        "whole_sentence_real_time_factor": whole,
        "load": [
            {
                "streams": one.num_streams,
                "aggregate": one.aggregate,
                "real_time_factor": one.real_time_factor,
                "last_first_audio_s": max(one.first_s, default=None),
                "underruns": one.underruns,
            }
            for one in loads
        ],
    }
    if messages.as_json:
        terminal.emit_json(payload, sys.stdout)
        return
    typer.echo(f"{where}, {payload['threads']} threads, torch {payload['torch']}, {payload['model']}")
    typer.echo("\none listener        first audio   between chunks   real-time factor")
    for name, one in timed.items():
        first, gap = measuring.percentile(one.first_s, 50), measuring.percentile(one.gaps_s, 50)
        typer.echo(f"{name:<18} {1000 * first:>9.0f} ms {1000 * gap:>13.0f} ms {one.real_time_factor:>18.2f}")
    typer.echo(f"{'a sentence as a whole':<43} {whole:>29.2f}")
    typer.echo("\nat once   audio a second   real-time factor of each   last first audio   late chunks")
    for load in loads:
        last = f"{1000 * max(load.first_s):.0f} ms" if load.first_s else "-"
        typer.echo(
            f"{load.num_streams:>7} {load.aggregate:>14.2f} s {load.real_time_factor:>26.2f} {last:>18} "
            f"{load.underruns:>13}"
        )
    typer.echo(
        f"\nIt sustains {sustained} of these in real time."
        if sustained
        else "\nNot in real time here: --quantize int8, --backend compiled, a smaller model or a GPU would help."
    )
