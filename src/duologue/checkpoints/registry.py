"""Checkpoints known by name: where they are, what they hold, and where what they lack comes from.

Sources: the repositories' pages on huggingface.co; SesameAILabs/csm issue 99 and ComfyUI-CSM-Nodes issue 3 for the
ungated copy of the tokenizer of Llama 3.2, which Sesame's and MisoTTS' generators take from meta-llama's gated one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class HubEntry:
    """A hub repository: what is in it, and whether one has to ask for access first."""

    repo_id: str
    holds: Literal["csm", "codec"]
    note: str
    gated: bool = False


# The moshi file that Sesame's generator loads, for CSM checkpoints without a codec.
CODEC_SOURCE = "kyutai/moshiko-pytorch-bf16"
# Llama 3.2's tokenizer without the gate, for CSM checkpoints without a tokenizer.json.
TOKENIZER_SOURCE = "unsloth/Llama-3.2-1B"
TOKENIZER_FILE = "tokenizer.json"

# Recordings in sesame/csm-1b that its demo speaks with; they are no part of a checkpoint's download.
SESAME_PROMPTS = tuple(
    f"prompts/{name}.wav"
    for name in (
        "conversational_a",
        "conversational_b",
        "read_speech_a",
        "read_speech_b",
        "read_speech_c",
        "read_speech_d",
    )
)

KNOWN: dict[str, HubEntry] = {
    entry.repo_id: entry
    for entry in (
        HubEntry("sesame/csm-1b", "csm", "two layouts side by side; the transformers one is taken", gated=True),
        HubEntry("eustlb/csm-1b", "csm", "the transformers layout by the author of its conversion"),
        HubEntry("unsloth/csm-1b", "csm", "a copy of the transformers layout"),
        HubEntry(
            "MisoLabs/MisoTTS", "csm", "csm-8b shape, original layout, float32, no config, no tokenizer, no codec"
        ),
        HubEntry("kyutai/mimi", "codec", "transformers layout"),
        HubEntry("kyutai/moshiko-pytorch-bf16", "codec", "moshi layout, beside a language model that is not read"),
        HubEntry("kyutai/moshika-pytorch-bf16", "codec", "moshi layout, beside a language model that is not read"),
    )
}

SHORT_NAMES = {"csm-1b": "sesame/csm-1b", "misotts": "MisoLabs/MisoTTS", "mimi": "kyutai/mimi"}
