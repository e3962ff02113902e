"""Options of pictures and clips: a part's own, over those of the call, over the checkpoint's.

MediaOptions(part) .over( MediaOptions(call) ) .over( defaults ) -> checked, complete options
"""

from dataclasses import dataclass, fields, replace
from typing import Any

from minicpmv.errors import OptionError
from minicpmv.messages import DocumentPart, ImagePart, VideoPart
from minicpmv.processing.sampling import check_options


@dataclass(frozen=True, slots=True)
class MediaOptions:
    """What may be chosen for a picture, page or clip; None leaves it to the next level.

    Args:
        max_slices: upper bound on the slices of one picture, page or frame.
        use_image_id: number the pictures in the text.
        fps: frames per second looked at, up to 10.
        packing: frames per pack, 1 to 6.
        max_frames: upper bound on the frames of a clip.
        dpi: resolution at which a page is drawn.

    Raises:
        OptionError: a value of the wrong type or outside its range.
    """

    max_slices: int | None = None
    use_image_id: bool | None = None
    fps: float | None = None
    packing: int | None = None
    max_frames: int | None = None
    dpi: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_slices", "packing", "max_frames"):
            _require(name, getattr(self, name), int)
        for name in ("fps", "dpi"):
            _require(name, getattr(self, name), int | float)
        if self.use_image_id is not None and not isinstance(self.use_image_id, bool):
            raise OptionError(f"use_image_id is {self.use_image_id!r}.", remedy="Use true or false.")
        if self.max_slices is not None and self.max_slices < 1:
            raise OptionError(f"max_slices is {self.max_slices}.", remedy="Use 1 for no slices, or up to 9.")
        check_options(fps=self.fps, packing=self.packing, max_frames=self.max_frames)

    def over(self, defaults: "MediaOptions") -> "MediaOptions":
        """These options, completed by `defaults` where they say nothing."""
        missing = {item.name: getattr(defaults, item.name) for item in fields(self) if getattr(self, item.name) is None}
        return replace(self, **missing)


def _require(name: str, value: Any, kind: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
        raise OptionError(f"{name} is {value!r}.", remedy="Give a number.")


def part_options(part: ImagePart | VideoPart | DocumentPart) -> MediaOptions:
    """The options a part carries itself."""
    names = {item.name for item in fields(MediaOptions)}
    return MediaOptions(**{name: getattr(part, name) for name in names if hasattr(part, name)})
