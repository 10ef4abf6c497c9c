"""Names and shapes of the published checkpoints, in `tests/assets/manifests/`, and how they were made.

`python -m tests.checkpoints.manifests` builds them anew from the classes of transformers and moshi on the `meta` device
and from `tests/parity/original.py`. That they are those of the published files is checked by the files' sizes to the
byte: the header of a safetensors file has every name and shape in it, an index every name.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from pathlib import Path

Shapes = dict[str, tuple[int, ...]]

FOLDER = Path(__file__).resolve().parents[1] / "assets" / "manifests"
NAMES = ("csm-1b.sesame", "csm-1b.transformers", "misotts.sesame", "mimi.moshi", "mimi.transformers")


def load(name: str) -> Shapes:
    """A manifest, spelled out."""
    shapes: Shapes = {}
    for pattern, shape in json.loads((FOLDER / f"{name}.json").read_text()).items():
        for full in expand(pattern):
            assert full not in shapes
            shapes[full] = tuple(shape)
    return shapes


def expand(pattern: str) -> list[str]:
    """`a.{0-2}.b` to `a.0.b`, `a.1.b`, `a.2.b`."""
    match = re.search(r"\{(\d+)-(\d+)\}", pattern)
    if match is None:
        return [pattern]
    return [pattern[: match.start()] + str(n) + pattern[match.end() :] for n in range(int(match[1]), int(match[2]) + 1)]


def compress(shapes: Shapes) -> dict[str, list[int]]:
    """Runs of layers of one shape as one entry."""
    groups: dict[tuple[str, str, tuple[int, ...]], list[int]] = defaultdict(list)
    for name, shape in shapes.items():
        match = re.search(r"(?<=\.)\d+(?=\.)", name)
        if match is None:
            groups[name, "", shape] = []
        else:
            groups[name[: match.start()], name[match.end() :], shape].append(int(match[0]))
    entries = {}
    for (before, after, shape), numbers in groups.items():
        runs: list[list[int]] = []
        for number in sorted(numbers):
            if runs and number == runs[-1][1] + 1:
                runs[-1][1] = number
            else:
                runs.append([number, number])
        for first, last in runs or [[-1, -1]]:
            middle = "" if first < 0 else str(first) if first == last else f"{{{first}-{last}}}"
            entries[before + middle + after] = list(shape)
    return dict(sorted(entries.items()))


def file_size(shapes: Shapes) -> int:
    """Bytes of the safetensors file that holds these tensors in float32, without metadata."""
    header, position = {}, 0
    for name, shape in sorted(shapes.items()):
        end = position + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [position, end]}
        position = end
    length = len(json.dumps(header, separators=(",", ":")))
    return 8 + length + -length % 8 + position


def index_size(shapes: Shapes, shard: str) -> int:
    """Bytes of transformers' index over shards whose names are as long as `shard`."""
    total = sum(4 * math.prod(shape) for shape in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict.fromkeys(shapes, shard)}
    return len(json.dumps(index, indent=2, sort_keys=True)) + 1


def build(name: str) -> Shapes:
    """A manifest from the foreign classes."""
    from tests.parity.original import Llama, OriginalModel

    if name == "csm-1b.sesame":
        return OriginalModel(Llama(16, 32, 8, 2048, 8192), Llama(4, 8, 2, 1024, 8192), 128_256, 2051, 32).shapes()
    if name == "misotts.sesame":
        return OriginalModel(Llama(32, 32, 8, 4096, 14_336), Llama(8, 24, 6, 1536, 6912), 128_256, 2051, 32).shapes()
    if name == "mimi.moshi":
        from moshi.models import loaders

        state = loaders.get_mimi(None, device="meta", num_codebooks=32).state_dict()
        # The published file is older than these names; moshi's `_load_hook` renames them as it loads.
        renamed = {"in_projs.0.weight": "in_proj_weight", "out_projs.0.weight": "out_proj.weight"}
        shapes = {}
        for key, tensor in state.items():
            for new, old in renamed.items():
                key = key.replace(new, old)
            shapes[key] = tuple(tensor.shape)
        return shapes

    import torch
    import transformers

    with torch.device("meta"):
        if name == "mimi.transformers":
            model = transformers.MimiModel(transformers.MimiConfig())
        else:
            model = transformers.CsmForConditionalGeneration(transformers.CsmConfig())
    return {_saved_name(key): tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def _saved_name(name: str) -> str:
    """Version 5 nests Mimi's modules one deeper than its files do."""
    inner = r"(encoder_seanet|encoder_transformer|downsample|decoder_seanet|decoder_transformer|upsample)\b"
    return re.sub(rf"(^|codec_model\.)(?:en|de)coder\.{inner}", r"\1\2", name).replace("_seanet.", ".")


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(shape)}" for key, shape in compress(build(name)).items())
        (FOLDER / f"{name}.json").write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
