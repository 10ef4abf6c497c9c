"""A folder of buzzes with texts, and measured rows with the values that a test wants."""

import json
from pathlib import Path

from duologue.audio import write_audio
from duologue.eval.measure import Row
from tests.eval.builders import RATE, buzz

PITCHES = {"ann": 150.0, "bea": 250.0}


def make_folder(folder: Path, *, num_each: int = 6, seconds: float = 2.0, text: str = "we all went home") -> Path:
    """Recordings of the voices in turn; each voice's first is its prompt, 3.5 s long."""
    folder.mkdir(parents=True)
    lines = []
    for number in range(num_each):
        for voice, hertz in PITCHES.items():
            file = f"{voice}{number}.wav"
            write_audio(folder / file, buzz(3.5 if number == 0 else seconds, hertz + number), RATE)
            lines.append(json.dumps({"file": file, "text": f"{text} {number}", "voice": voice}))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def make_row(identity: int, group: str = "spoken", **values: object) -> Row:
    base: dict[str, object] = {"suite": "calibration", "group": group, "id": str(identity), "text": "t", "seed": 0}
    return Row(**(base | values))  # type: ignore[arg-type]
