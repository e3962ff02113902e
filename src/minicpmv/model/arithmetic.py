"""Which number format a device multiplies fast.

A processor without instructions for bfloat16 multiplies it several times slower than float32.
"""

import torch

_FOR_BFLOAT16 = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16")
"""As `torch.cpu.get_capabilities` names them, for x86 and for ARM."""


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether products of bfloat16 matrices are faster than those of float32 on a device.

    >>> multiplies_bfloat16(torch.device("cuda"))
    True
    """
    if device.type != "cpu":
        return True
    if hasattr(torch.cpu, "get_capabilities"):
        return any(torch.cpu.get_capabilities().get(name, False) for name in _FOR_BFLOAT16)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # torch 2.11


def half_or_single(device: torch.device) -> torch.dtype:
    """bfloat16 where it is the faster one, else float32."""
    return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
