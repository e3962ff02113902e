"""The options of one processor call, gathered from every form in which libraries pass them, and checked by name."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from minicpmv.errors import OptionError
from minicpmv.media.fetch import FetchPolicy
from minicpmv.processing.collate import Padding
from minicpmv.processing.options import MediaOptions

_GROUPS = ("processor_kwargs", "common_kwargs", "text_kwargs", "images_kwargs", "videos_kwargs")
_ALIASES = {"max_slice_nums": "max_slices", "labels": "return_labels"}
_MEDIA = tuple(item.name for item in fields(MediaOptions))
# What transformers and TRL pass to every processor; the value named here is the only thing this one can mean.
_FIXED: dict[str, tuple[Any, ...]] = {
    "add_special_tokens": (True, False, None),
    "return_attention_mask": (True, None),
    "return_token_type_ids": (False, None),
    "return_mm_token_type_ids": (False, None),
    "return_offsets_mapping": (False, None),
    "sanitize_control_tokens": (True, False),
    "load_audio_from_video": (False, None),
    "truncation": (True, False, None),
    "documents": (None,),
    "audio": (None,),
}


@dataclass(frozen=True, slots=True)
class CallSettings:
    """Everything about a call that is not the conversation itself."""

    media: MediaOptions = MediaOptions()
    padding: Padding = Padding()
    policy: FetchPolicy = field(default_factory=FetchPolicy)
    return_tensors: str | None = None
    return_labels: bool = False
    assistant_mask: bool = False


def read_call_settings(given: Mapping[str, Any]) -> CallSettings:
    """Settings from keyword arguments.

    `truncation` is accepted and never acts: a prompt that is longer than `max_length` is an error with counts.

    Args:
        given: keyword arguments; grouped ones (`processor_kwargs`, `images_kwargs`, ...) count as if given flat.

    Raises:
        OptionError: an unknown option, with the nearest known one, or a value that cannot be honoured.
    """
    flat: dict[str, Any] = {}
    for name, value in given.items():
        flat.update(value or {}) if name in _GROUPS else flat.update({name: value})
    flat = {_ALIASES.get(name, name): value for name, value in flat.items()}
    for name, accepted in _FIXED.items():
        if name in flat and flat.pop(name) not in accepted:
            raise OptionError(f"{name} cannot be changed for this processor.", remedy=f"Leave {name} out.")
    tensors = flat.pop("return_tensors", None)
    padding: Any = flat.pop("padding", None)
    padding = tensors is not None if padding is None else padding
    names: dict[Any, Any] = {True: "longest", False: "none", "do_not_pad": "none"}
    settings = CallSettings(
        media=MediaOptions(**{name: flat.pop(name) for name in _MEDIA if name in flat}),
        padding=Padding(
            names.get(padding, padding),
            flat.pop("padding_side", None) or "left",
            flat.pop("max_length", None),
            flat.pop("pad_to_multiple_of", None),
        ),
        policy=flat.pop("fetch_policy", None) or FetchPolicy(),
        return_tensors=tensors,
        return_labels=bool(flat.pop("return_labels", False)),
        assistant_mask=bool(flat.pop("return_assistant_tokens_mask", False)),
    )
    if flat:
        known = [*_MEDIA, "padding", "padding_side", "max_length", "fetch_policy", "return_labels", "return_tensors"]
        near = difflib.get_close_matches(next(iter(flat)), known, 1)
        raise OptionError(
            f"Unknown option{'s' * (len(flat) > 1)} {', '.join(sorted(flat))}.",
            remedy=f"Did you mean {near[0]}?" if near else f"Known are {', '.join(known)}.",
        )
    return settings
