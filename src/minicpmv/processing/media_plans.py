"""What each file will become, from its header alone: the probing half of `minicpmv plan`.

part -> size, frames or pages (no pixels) -> MediaPlan
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from minicpmv.errors import MediaError, MessageError
from minicpmv.media.document import DEFAULT_DPI, MAX_PAGE_PIXELS, POINTS_PER_INCH, probe_document
from minicpmv.media.fetch import FetchPolicy, read_source
from minicpmv.media.video import inspect_video
from minicpmv.messages import DocumentPart, ImagePart, Part, Source, VideoPart
from minicpmv.processing.budget import MediaPlan
from minicpmv.processing.image_processor import MiniCPMVImageProcessor
from minicpmv.processing.options import MediaOptions, part_options
from minicpmv.processing.slicing import Size
from minicpmv.processing.video_processor import MiniCPMVVideoProcessor

_ORIENTATION_TAG = 0x0112
_SIDEWAYS = (5, 6, 7, 8)


def picture_size(source: Source, policy: FetchPolicy | None = None) -> Size:
    """Size of a picture as it will be looked at, EXIF orientation applied; only its header is read.

    Raises:
        MediaError: no picture, or it cannot be read.
    """
    if isinstance(source, Image.Image):
        return Size(*source.size)
    found: Any = read_source(source, policy or FetchPolicy())
    try:
        with Image.open(io.BytesIO(found) if isinstance(found, bytes) else found) as image:
            size = Size(*image.size)
            return Size(size.height, size.width) if image.getexif().get(_ORIENTATION_TAG) in _SIDEWAYS else size
    except (UnidentifiedImageError, OSError) as error:
        name = "The picture" if isinstance(found, bytes) else str(found)
        raise MediaError(f"{name} cannot be read as a picture: {error}.", remedy="Check the file.") from None


def page_size(size_pt: tuple[float, float], dpi: float) -> Size:
    """Size of a page once it is drawn, in px: rounded up, at a lower resolution where it would be too large.

    >>> page_size((612.0, 792.0), 144.0)
    Size(width=1224, height=1584)
    """
    scale = dpi / POINTS_PER_INCH
    pixels = math.ceil(size_pt[0] * scale) * math.ceil(size_pt[1] * scale)
    if pixels > MAX_PAGE_PIXELS:
        scale *= math.sqrt(MAX_PAGE_PIXELS / pixels)
    return Size(math.ceil(size_pt[0] * scale), math.ceil(size_pt[1] * scale))


class MediaPlanner:
    """Plans parts with the settings of a checkpoint.

    Args:
        image_processor: of the checkpoint.
        video_processor: of the checkpoint.
        options: for parts that do not say themselves.
        policy: what may be read from the network.
    """

    def __init__(
        self,
        image_processor: MiniCPMVImageProcessor,
        video_processor: MiniCPMVVideoProcessor,
        options: MediaOptions | None = None,
        policy: FetchPolicy | None = None,
    ) -> None:
        self._images = image_processor
        self._videos = video_processor
        self._options = options or MediaOptions()
        self._policy = policy or FetchPolicy()

    def plan(self, part: Part, name: str = "") -> MediaPlan:
        """What one part will become.

        Args:
            part: a picture, clip or document.
            name: what to call it in the report.

        Raises:
            MediaError: the file cannot be read.
            MessageError: the part is text or names no source.
        """
        if isinstance(part, ImagePart) and part.source is not None:
            size = picture_size(part.source, self._policy)
            text = self._images.plan(size, part_options(part).over(self._options))
            return MediaPlan(name, "image", *size, (text,))
        if isinstance(part, DocumentPart):
            return self._document(part, name)
        if isinstance(part, VideoPart) and part.frames is not None:
            return self._pictures(part, part.frames, name)
        if isinstance(part, VideoPart) and part.source is not None:
            return self._video(part, part.source, name)
        raise MessageError(f"{type(part).__name__} has nothing to plan.", remedy="Give a file.")

    def _video(self, part: VideoPart, source: Source, name: str) -> MediaPlan:
        video = inspect_video(read_source(source, self._policy))
        options = part_options(part).over(self._options)
        frames, text = self._videos.plan_file(video, options, self._images.geometry)
        indices = tuple(frames.indices)
        return MediaPlan(
            name, "video", video.info.width, video.info.height, (text,), video.times_s(indices), frame_indices=indices
        )

    def _pictures(self, part: VideoPart, frames: Sequence[Source], name: str) -> MediaPlan:
        sizes = [picture_size(source, self._policy) for source in frames]
        options = part_options(part).over(self._options)
        kept, text = self._videos.plan_pictures(part, sizes, options, self._images.geometry)
        times = tuple(part.timestamps[index] for index in kept) if part.timestamps else ()
        return MediaPlan(name, "video", *sizes[0], (text,), times)

    def _document(self, part: DocumentPart, name: str) -> MediaPlan:
        source: Path | bytes = read_source(part.source, self._policy)
        info = probe_document(source)
        options = part_options(part).over(self._options)
        pages = range(1, info.num_pages + 1) if part.pages is None else part.pages
        beyond = [page for page in pages if not 1 <= page <= info.num_pages]
        if beyond:
            raise MediaError(
                f"The document has {info.num_pages} pages, but page {beyond[0]} is asked for.",
                remedy=f"Use pages 1 to {info.num_pages}.",
            )
        dpi = DEFAULT_DPI if options.dpi is None else options.dpi
        sizes = [page_size(info.page_sizes_pt[page - 1], dpi) for page in pages]
        texts = tuple(self._images.plan(size, options) for size in sizes)
        return MediaPlan(name, "document", *sizes[0], texts)
