"""A full-size csm-1b with random weights, from both layouts, in less than 8 GB.

`make test PYTEST_ARGS="-m slow -s tests/checkpoints/test_full_size.py"`; needs 14 GB of disk.
Every step runs in a process of its own, so that the peak is that of loading and speaking alone.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

MAX_BYTES = 8_000_000_000

# The preset in Sesame's layout, and the published codec and a tokenizer beside it.
WRITE = """
import sys
from pathlib import Path
import torch
from duologue.checkpoints import save_checkpoint
from duologue.checkpoints.layouts import build_codec, build_csm
from duologue.checkpoints.rules import fill
from duologue.config import CSM_PRESETS, MIMI_PRESETS
from duologue.text.tokenizer import TextTokenizer, build_symbol_tokenizer

def random(module):
    for name, tensor in module.state_dict().items():
        kind = "usage" if name.endswith("cluster_usage") else "norm" if "norm" in name else "weight"
        values = torch.empty(tensor.shape)
        yield name, values.fill_(1.0) if kind != "weight" else values.normal_(std=0.02)

torch.manual_seed(0)
folder, cpu = Path(sys.argv[1]), torch.device("cpu")
config = CSM_PRESETS["csm-1b"]
model, codec = build_csm(config), build_codec(MIMI_PRESETS["mimi"])
fill(model, random(model), device=cpu, dtype=None)
fill(codec, random(codec), device=cpu, dtype=None)
tokenizer = folder.parent / "symbols.json"
TextTokenizer(build_symbol_tokenizer("abcdefghijklmnopqrstuvwxyz.,?!"), config.text).save(tokenizer)
save_checkpoint(folder, "sesame", model=model, codec=codec, tokenizer_path=tokenizer)
"""

CONVERT = """
import sys
from duologue.checkpoints import convert
convert(sys.argv[1], sys.argv[2], "transformers")
"""

SPEAK = """
import json, re, sys
from pathlib import Path
import torch
from duologue.checkpoints import load_checkpoint
from duologue.frames import text_rows
from tests.parity.builders import greedy_frames

checkpoint = load_checkpoint(sys.argv[1], offline=True)
loaded = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
model = checkpoint.model
rows = text_rows(checkpoint.tokenizer.encode("hello there", 0), model.num_codebooks)
with torch.inference_mode():
    frames = greedy_frames(model, rows.tokens[None], rows.mask[None], 2)
    audio = checkpoint.codec.decode(frames.T[None].clamp(max=model.config.codebook_size - 1))
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
print(json.dumps({
    "layout": checkpoint.layout, "dtype": str(model.audio_head.dtype), "loaded": loaded, "peak": peak,
    "frames": frames.tolist(), "samples": audio.shape[-1],
    "parameters": sum(parameter.numel() for parameter in model.parameters()),
}))
"""


def run(program: str, *arguments: Path, repository: Path) -> str:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from Linux")
def test_csm_1b_loads_from_both_layouts_within_8_gb(tmp_path: Path, repository: Path) -> None:
    run(WRITE, tmp_path / "sesame", repository=repository)
    original = json.loads(run(SPEAK, tmp_path / "sesame", repository=repository))
    run(CONVERT, tmp_path / "sesame", tmp_path / "transformers", repository=repository)
    converted = json.loads(run(SPEAK, tmp_path / "transformers", repository=repository))
    print({key: (original[key], converted[key]) for key in ("loaded", "peak")})
    assert (original["layout"], converted["layout"]) == ("sesame", "transformers")
    for result in (original, converted):
        assert result["dtype"] == "torch.float32"
        assert result["parameters"] == 1_552_791_552
        assert result["peak"] < MAX_BYTES
        assert len(result["frames"]) == 2 and len(result["frames"][0]) == 32
        assert result["samples"] == 2 * 1920
    assert original["frames"] == converted["frames"]
