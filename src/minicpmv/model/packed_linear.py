"""Linear layers with weights of eight or four bits, for a CPU that writes an answer token by token.

    pack_linears(model.llm, "int8")            nn.Linear [out, in] -> Int8Linear or Int4Linear, in place

Writing reads every weight for a single row of activations, so its speed is bytes of weights over bandwidth of memory:
half or a quarter of the bytes is close to two or four times the tokens. Reading a prompt has many rows and is bound by
arithmetic instead; there eight bits are widened piece by piece into a small buffer and go through the usual product.

The kernels are torch's (`_weight_int8pack_mm`, `_weight_int4pack_mm_for_cpu`); bounds of rows are measured by
`bench/products.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minicpmv.errors import OptionError

QUANTIZATIONS = ("int8", "int4")

GROUP = 32
"""Inputs that share a scale and a zero in four bits. Ours: that of GGUF's Q4."""
_MOST_PACKED_ROWS = 8
"""Up to here the packed kernel of eight bits beats widening. Measured."""
_BUFFER_VALUES = 2**22
"""Weights that are widened at a time. Ours: 8 MiB in bfloat16, which a cache holds."""
_INT8_MAX = 127
_INT4_MAX = 15
_INT4_MIDDLE = 8
_INPUTS_MULTIPLE = 32
"""The kernels read so many inputs at a time and do not look where a row ends."""
_OUTPUTS_MULTIPLE = 16


class Int8Linear(nn.Module):
    """`y = x W^T + b` with W in eight bits and one scale per output.

    Args:
        linear: whose weights are packed.
    """

    weight: Tensor
    scales: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        dense = linear.weight.detach()
        scales = dense.abs().amax(1).float().clamp_min(torch.finfo(torch.float32).tiny) / _INT8_MAX
        packed = torch.empty(dense.shape, dtype=torch.int8)
        for part in _parts(dense):
            packed[part] = (dense[part].float() / scales[part, None]).round().to(torch.int8)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("weight", packed)
        self.register_buffer("scales", scales.to(dense.dtype))
        self.bias = linear.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        rows = inputs.reshape(-1, self.in_features)
        if len(rows) <= _MOST_PACKED_ROWS:
            out = torch.ops.aten._weight_int8pack_mm(rows.contiguous(), self.weight, self.scales)
        else:
            out = self._widened(rows)
        if self.bias is not None:
            out = out + self.bias
        return out.view(*inputs.shape[:-1], self.out_features)

    def _widened(self, rows: Tensor) -> Tensor:
        out = rows.new_empty(len(rows), self.out_features)
        buffer: Tensor | None = None
        for part in _parts(self.weight):
            packed = self.weight[part]
            if buffer is None:
                buffer = rows.new_empty(packed.shape)
            # Within a type's numbers eight bits are exact, so the scale can wait for the sums.
            wide = buffer[: len(packed)].copy_(packed)
            torch.mul(F.linear(rows, wide), self.scales[part], out=out[:, part])
        return out


class Int4Linear(nn.Module):
    """`y = x W^T + b` with W in four bits, and a scale and a zero for every 32 inputs of an output.

    Args:
        linear: whose weights are packed.
    """

    weight: Tensor
    scales_and_zeros: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        dense = linear.weight.detach()
        groups = (linear.out_features, linear.in_features // GROUP)
        # int32 is what the packing takes, four bytes for half a one: it is done in parts of whole blocks of outputs.
        packed, table = [], torch.empty(groups[1], groups[0], 2, dtype=dense.dtype)
        for part in _parts(dense):
            grouped = dense[part].float().unflatten(1, (groups[1], GROUP))
            low, high = grouped.aminmax(dim=2, keepdim=True)
            scales = ((high - low) / _INT4_MAX).clamp_min(torch.finfo(torch.float32).tiny)
            codes = ((grouped - low) / scales).round().clamp(0, _INT4_MAX).to(torch.int32).flatten(1)
            packed.append(torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1))
            table[:, part, 0] = scales.squeeze(2).t().to(dense.dtype)
            table[:, part, 1] = (low + _INT4_MIDDLE * scales).squeeze(2).t().to(dense.dtype)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("weight", torch.cat(packed))
        self.register_buffer("scales_and_zeros", table)
        self.bias = linear.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        rows = inputs.reshape(-1, self.in_features).contiguous()
        out = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.weight, GROUP, self.scales_and_zeros)
        if self.bias is not None:
            out = out + self.bias
        return out.view(*inputs.shape[:-1], self.out_features)


def _parts(weight: Tensor) -> list[slice]:
    """Outputs in parts that are small enough for a buffer and whole blocks of the packed layout."""
    block = 64  # of the widest kernel
    step = max(block, _BUFFER_VALUES // weight.shape[1] // block * block)
    return [slice(first, min(first + step, len(weight))) for first in range(0, len(weight), step)]


def check_quantization(quantization: str, place: torch.device) -> None:
    """See whether weights can be packed like that there.

    Args:
        quantization: how many bits.
        place: where the model is, or is going to be.

    Raises:
        OptionError: an unknown kind, or a device that has no such kernels.
    """
    if quantization not in QUANTIZATIONS:
        raise OptionError(f"The quantization is {quantization!r}.", remedy=f"Choose one of {', '.join(QUANTIZATIONS)}.")
    if place.type != "cpu":
        raise OptionError(
            f"{quantization} weights are for a CPU, and the device is {place}.",
            remedy="Leave the quantization out, or add --device cpu.",
        )


def pack_linears(model: nn.Module, quantization: str) -> int:
    """Pack the weights of every linear layer whose shape the kernels take; each is let go before the next.

    The last layer, which chooses among all tokens, gets eight bits at least. A weight that another module shares stays.

    Args:
        model: on a CPU, not for training any more.
        quantization: how many bits.

    Returns:
        Number of layers that were packed.

    Raises:
        OptionError: see `check_quantization`.
    """
    check_quantization(quantization, next(model.parameters()).device)
    holders: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            holders[id(parameter)] = holders.get(id(parameter), 0) + 1
    number = 0
    for parent_name, parent in list(model.named_modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not nn.Linear or not _fits(child) or holders[id(child.weight)] > 1:
                continue
            wide = quantization == "int8" or (not parent_name and name == "lm_head")
            setattr(parent, name, (Int8Linear if wide else Int4Linear)(child))
            number += 1
    return number


def _fits(linear: nn.Linear) -> bool:
    return linear.in_features % _INPUTS_MULTIPLE == 0 and linear.out_features % _OUTPUTS_MULTIPLE == 0
