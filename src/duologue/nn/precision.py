"""Which number format a device computes fast in.

A processor without bfloat16 instructions emulates them: a linear layer then runs at a hundredth of its float32 speed.
"""

from __future__ import annotations

import functools

import torch

_BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")  # x86 twice, Arm


@functools.cache
def computes_bfloat16(device: torch.device | str) -> bool:
    """Whether matrix products in bfloat16 are faster than in float32 on `device`."""
    device = torch.device(device)
    if device.type == "cpu":
        found = torch.cpu.get_capabilities()
        return any(found.get(name, False) for name in _BFLOAT16_INSTRUCTIONS)
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
