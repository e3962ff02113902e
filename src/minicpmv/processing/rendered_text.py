"""Prompts that were rendered to a string elsewhere, read back into pieces.

`apply_chat_template(tokenize=False)` gives a string in which each picture is the official literal
`(<image>./</image>)`; libraries hand it back together with the pictures. In such a string control tokens of the chat
layout are meant as such. Visual tokens are not: a picture enters only through its placeholder, so that words such as
`</image>` or `<slice>` in a question cannot disturb the slots.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from minicpmv.errors import MessageError
from minicpmv.messages import ImagePart, VideoPart, parse_messages
from minicpmv.processing.text_encoding import Control, Piece, Words

IMAGE_PLACEHOLDER = "(<image>./</image>)"
"""Stands for a picture in a rendered prompt. Source: official processor."""

VIDEO_PLACEHOLDER = "(<video>./</video>)"
"""Stands for a clip in a rendered prompt. Source: vLLM's processor for the same checkpoint."""

_IMAGE_FORMS = (IMAGE_PLACEHOLDER, "<image>")
_VIDEO_FORMS = (VIDEO_PLACEHOLDER, "<video>")


def placeholder_kinds(text: str) -> list[str]:
    r"""The media that a rendered prompt asks for, "image" or "video", in order.

    >>> placeholder_kinds("(<video>./</video>)\nand <image>?")
    ['video', 'image']
    """
    pattern = re.compile("|".join(map(re.escape, (*_IMAGE_FORMS, *_VIDEO_FORMS))))
    return ["image" if match.group() in _IMAGE_FORMS else "video" for match in pattern.finditer(text)]


def rendered_pieces(text: str, media: Iterable[Sequence[Piece]], controls: Sequence[str]) -> list[Piece]:
    """The pieces of a rendered prompt.

    Args:
        text: the prompt.
        media: what stands in the place of each placeholder, in order.
        controls: names of the tokens that are special in the prompt; not the visual ones.
    """
    forms = (*_IMAGE_FORMS, *_VIDEO_FORMS)
    names = sorted({*controls, *forms}, key=len, reverse=True)
    remaining = iter(media)
    pieces: list[Piece] = []
    for position, part in enumerate(re.split(f"({'|'.join(map(re.escape, names))})", text)):
        if position % 2 == 0:
            pieces += [Words(part)] if part else []
        elif part in forms:
            pieces += next(remaining)
        else:
            pieces.append(Control(part))
    return pieces


def distribute(texts: Sequence[str], given: Any, kind: str, as_part: Callable[[Any], Any]) -> list[list[Any]]:
    """Media given beside rendered prompts, shared out by the placeholders of each prompt.

    Args:
        texts: the prompts.
        given: one medium, a flat list over all prompts, or one list per prompt.
        kind: "image" or "video".
        as_part: makes a part of one medium.

    Raises:
        MessageError: more or fewer media than placeholders, with both counts.
    """
    wanted = [placeholder_kinds(text).count(kind) for text in texts]
    listed = _as_list(given, kind)
    nested = bool(listed) and all(isinstance(item, list | tuple) or item is None for item in listed)
    if nested and kind == "video":  # a list of lists of pictures is a list of clips, unless it goes one level deeper
        nested = all(item is None or not item or not _is_picture(item[0]) for item in listed)
    if nested and len(listed) == len(texts):
        per_text = [list(item or ()) for item in listed]
    else:
        flat = [medium for item in listed for medium in item] if nested else listed
        if len(flat) != sum(wanted):
            raise _count_error(sum(wanted), len(flat), kind, "The text has")
        remaining = iter(flat)
        per_text = [[next(remaining) for _ in range(count)] for count in wanted]
    for row, (count, media) in enumerate(zip(wanted, per_text, strict=True)):
        if count != len(media):
            raise _count_error(count, len(media), kind, f"Text {row} has" if len(texts) > 1 else "The text has")
    return [[as_part(medium) for medium in media] for media in per_text]


def _as_list(given: Any, kind: str) -> list[Any]:
    if given is None:
        return []
    if kind == "video" and isinstance(given, list | tuple) and given and all(_is_picture(item) for item in given):
        return [given]
    return list(given) if isinstance(given, list | tuple) else [given]


def _is_picture(value: Any) -> bool:
    return isinstance(value, Image.Image) or (isinstance(value, np.ndarray) and value.ndim == 3)


def _count_error(placeholders: int, media: int, kind: str, where: str) -> MessageError:
    return MessageError(
        f"{where} {placeholders} {kind} placeholder{'s' * (placeholders != 1)}, but {media} "
        f"{kind}{'s were' if media != 1 else ' was'} given.",
        remedy=f"Write one {IMAGE_PLACEHOLDER if kind == 'image' else VIDEO_PLACEHOLDER} per {kind}.",
    )


def as_image_part(medium: Any) -> ImagePart:
    """A picture in any accepted form as a part.

    Raises:
        MessageError: it is none.
    """
    raw = medium if isinstance(medium, ImagePart | dict) else {"type": "image", "image": medium}
    part = parse_messages([{"role": "user", "content": [raw]}])[0].parts[0]
    if not isinstance(part, ImagePart):
        raise MessageError(f"Expected a picture, received {type(part).__name__}.", remedy="Pass clips as videos.")
    return part


def as_video_part(medium: Any) -> VideoPart:
    """A clip in any accepted form as a part: a file, or a list of pictures.

    Raises:
        MessageError: it is none.
    """
    raw = medium if isinstance(medium, VideoPart | dict) else {"type": "video", "video": medium}
    part = parse_messages([{"role": "user", "content": [raw]}])[0].parts[0]
    if not isinstance(part, VideoPart):
        raise MessageError(f"Expected a clip, received {type(part).__name__}.", remedy="Pass pictures as images.")
    return part
