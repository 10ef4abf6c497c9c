"""`duologue eval listen` and `duologue eval cmos`: people compare two systems blind, and what they say."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from duologue.cli import files, groups, options, terminal

if TYPE_CHECKING:
    from duologue.eval.listening import Comparison, ConditionOpinion

_MAX_NAMED: Final = 5
_BYTES_PER_MEGABYTE: Final = 1_000_000


def register(group: typer.Typer) -> None:
    """Add the commands."""
    group.command("listen")(groups.grouped(listen))
    group.command("cmos")(groups.grouped(cmos))


def listen(
    first: Annotated[Path, typer.Argument(metavar="A", help="The folder of one system's clips.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="The folder of the other system's.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The page. The key goes beside it, as key.json.")
    ],
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="Another file for the key.", show_default=False)
    ] = None,
    title: Annotated[str, typer.Option(help="What raters read at the top. Do not name the systems.")] = (
        "Listening test"
    ),
    pairs: Annotated[
        int | None,
        typer.Option(min=1, help="Ask this many pairs, drawn at random. Default: all.", show_default=False),
    ] = None,
    checks: Annotated[int, typer.Option(min=0, help="Attention checks, pairs whose answer is known.")] = 4,
    seed: Annotated[int, typer.Option(help="The same clips and seed give the same page.")] = 0,
    lossless: Annotated[
        bool, typer.Option("--lossless", help="Put wav into the page instead of mp3: about six times as large.")
    ] = False,
    keep_loudness: Annotated[
        bool, typer.Option("--keep-loudness", help="Leave the clips as loud as they are; else all are made alike.")
    ] = False,
    *,
    messages: options.Messages,
) -> None:
    """Make a page on which people compare two systems blind.

    Each folder holds clips and a manifest.jsonl, one JSON object a line with
    file, id, text and context; without one, every recording in it is a clip.
    Clips pair by id. The page is one file that needs no network: send it to
    raters, keep the key, and collect the files that they download at the end.

    Examples:

      duologue eval listen parlor/ other/ -o test/page.html
      duologue eval listen parlor/ other/ -o page.html --pairs 20 --seed 7
    """
    files.check_utf8(title, "--title")

    from duologue.eval.listening import PageOptions, build_page, pair_folders, write_page

    chosen = PageOptions(
        title=title,
        seed=seed,
        max_pairs=pairs,
        num_checks=checks,
        sound_format="wav" if lossless else "mp3",
        keep_loudness=keep_loudness,
    )
    is_quiet = messages.quiet or messages.as_json
    pairing = pair_folders(first, second)
    with terminal.progress(not is_quiet) as show:
        page = build_page(pairing, chosen, show)
    key_path = write_page(page, output, key)
    for folder, ids in ((first, pairing.only_first), (second, pairing.only_second)):
        if ids and not messages.as_json:
            terminal.note(f"only in {folder}, left out: {len(ids)} ({_some(ids)})")
    num_bytes = len(page.html.encode())
    if messages.as_json:
        terminal.emit_json(
            {
                "page": str(output),
                "key": str(key_path),
                "test": page.key.test,
                "bytes": num_bytes,
                "pairs": page.num_pairs,
                "pairs_with_context": page.num_with_context,
                "questions": page.num_trials,
                "attention_checks": page.num_checks,
                "only_in_first": list(pairing.only_first),
                "only_in_second": list(pairing.only_second),
            },
            sys.stdout,
        )
    elif not messages.quiet:
        terminal.say(
            f"{output}: {page.num_trials} questions on {page.num_pairs} pairs ({page.num_with_context} with context), "
            f"{page.num_checks} of them attention checks, {num_bytes / _BYTES_PER_MEGABYTE:.1f} MB"
        )
        terminal.say(f"{key_path}: whose clips they are; needed for the ratings, not for raters")


def cmos(
    ratings: Annotated[list[Path], typer.Argument(metavar="RATINGS...", help="The files that raters downloaded.")],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="The key.json that was made with the page.")],
    include_failed: Annotated[
        bool, typer.Option("--include-failed", help="Count raters who failed attention checks too.")
    ] = False,
    allowed_failures: Annotated[
        int, typer.Option(min=0, help="A rater who fails more attention checks is not counted.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="For the draws behind the intervals.")] = 0,
    *,
    as_json: options.AsJson = False,
) -> None:
    """Say which system the raters of a listening page prefer, and how surely.

    CMOS is the mean answer from -3 to 3, above 0 where the second system is
    better, with a bootstrap 95 % interval over raters and pairs.

    Examples:

      duologue eval cmos ratings/*.json --key test/key.json
      duologue eval cmos ratings/*.json --key test/key.json --json
    """
    from duologue.eval.listening import compare_opinions, read_key, read_ratings

    known = read_key(key)
    found = compare_opinions(
        known,
        read_ratings(ratings, known),
        allowed_failures=allowed_failures,
        include_failed=include_failed,
        seed=seed,
    )
    if as_json:
        terminal.emit_json(found.to_dict(), sys.stdout)
        return
    for rater in found.failed_raters:
        terminal.note(
            f"rater {rater.rater} failed {rater.num_failed} of {rater.num_checks} attention checks and is "
            + ("counted all the same" if rater.counted else "not counted")
        )
    if found.num_unanswered:
        terminal.note(f"{found.num_unanswered} questions were left unanswered")
    for line in _report(found):
        typer.echo(line)


def _report(found: Comparison) -> list[str]:
    first, second = terminal.one_line(found.first_system), terminal.one_line(found.second_system)
    lines = [
        f"CMOS of {second} over {first}: above 0 where {second} is preferred, from -3 to 3",
        f"{found.num_raters} raters; right over left whatever the system {found.mean_right_over_left:+.2f}",
        "",
    ]
    lines += _table(
        [
            "condition",
            "CMOS",
            "95 % interval",
            "ratings",
            "raters",
            "pairs",
            f"{second} better",
            "same",
            f"{first} better",
        ],
        [_condition_row(opinion) for opinion in found.conditions],
    )
    rows = [
        [terminal.one_line(item.item), item.condition, f"{item.value:+.2f}", str(item.num_ratings)]
        for item in found.items
    ]
    return [*lines, "", *_table(["pair", "condition", "mean", "ratings"], rows)]


def _condition_row(opinion: ConditionOpinion) -> list[str]:
    count = max(1, opinion.num_ratings)
    return [
        opinion.condition,
        "-" if opinion.value is None else f"{opinion.value:+.2f}",
        "-" if opinion.low is None or opinion.high is None else f"{opinion.low:+.2f} to {opinion.high:+.2f}",
        str(opinion.num_ratings),
        str(opinion.num_raters),
        str(opinion.num_items),
        *(
            f"{number / count:.0%}"
            for number in (opinion.num_second_better, opinion.num_same, opinion.num_first_better)
        ),
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell; the first to the left, the others to the right."""
    widths = [max(len(row[index]) for row in (heads, *rows)) for index in range(len(heads))]
    return [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (heads, *rows)
    ]


def _some(ids: Sequence[str]) -> str:
    rest = f", and {len(ids) - _MAX_NAMED} more" if len(ids) > _MAX_NAMED else ""
    return ", ".join(ids[:_MAX_NAMED]) + rest
