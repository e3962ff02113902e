"""The most memory this process has held at one time, as the operating system and the GPU's allocator know it."""

import sys

import torch


def peak_memory_bytes() -> int | None:
    """Peak resident memory since the process began; None where the operating system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_gpu_memory_bytes() -> int | None:
    """Peak memory of tensors on all GPUs together since the process began; None without a GPU in use."""
    if not torch.cuda.is_initialized():
        return None
    return sum(torch.cuda.max_memory_allocated(index) for index in range(torch.cuda.device_count()))
