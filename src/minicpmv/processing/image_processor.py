"""Pictures to patch rows: the image processor of the family.

It reads and writes the official preprocessor_config.json with every key kept, needs no torchvision, and does its work
with the pure functions of this package. One picture is a group of one frame without a time.
"""

from collections.abc import Sequence
from typing import Any

from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from minicpmv.errors import ConfigurationError, MessageError
from minicpmv.media.fetch import FetchPolicy
from minicpmv.media.image import load_image
from minicpmv.messages import Source
from minicpmv.processing.chat_template import VisualText, VisualTokens
from minicpmv.processing.geometry import Geometry
from minicpmv.processing.item_rows import ItemRows, VisualRows, concatenate_rows
from minicpmv.processing.options import MediaOptions
from minicpmv.processing.packing import FrameGroup
from minicpmv.processing.sampling import NO_TIME
from minicpmv.processing.slicing import MAX_SLICES, PATCH, RESOLUTION, Size
from minicpmv.processing.tensors import to_tensors

OFFICIAL_VERSION = 2.6


class MiniCPMVImageProcessor(BaseImageProcessor):  # type: ignore[misc, unused-ignore]  # transformers is partly untyped
    """Slices pictures and lays out their patches.

    Args:
        max_slice_nums: upper bound on the slices of one picture.
        scale_resolution: side of the square that one slice approximates, in px.
        patch_size: side of a patch, in px.
        use_image_id: number the pictures of a conversation in the text.
        image_feature_size: tokens per picture, slice or frame pack.
        slice_mode: False leaves pictures at their size, rounded to whole patches.
        norm_mean: per channel, on the scale 0..1.
        norm_std: per channel, on the scale 0..1.
        version: format of the configuration; the release says 2.6.
        **kwargs: names of the visual tokens, and anything else the file holds; all are kept and written back.

    Source of the defaults: preprocessor_config.json of MiniCPM-V 4.5.
    """

    model_input_names = ["pixel_values", "item_shapes", "item_packs", "item_times"]  # noqa: RUF012  # as in transformers

    def __init__(  # noqa: PLR0913  # one argument per key of the official file
        self,
        max_slice_nums: int = MAX_SLICES,
        scale_resolution: int = RESOLUTION,
        patch_size: int = PATCH,
        use_image_id: bool = True,
        image_feature_size: int = 64,
        slice_mode: bool = True,
        norm_mean: Sequence[float] = (0.5, 0.5, 0.5),
        norm_std: Sequence[float] = (0.5, 0.5, 0.5),
        version: float = OFFICIAL_VERSION,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("image_processor_type", None)
        self.processor_class = kwargs.pop("processor_class", "MiniCPMVProcessor")
        self.max_slice_nums = max_slice_nums
        self.scale_resolution = scale_resolution
        self.patch_size = patch_size
        self.use_image_id = use_image_id
        self.image_feature_size = image_feature_size
        self.im_start = kwargs.pop("im_start", "<image>")
        self.im_end = kwargs.pop("im_end", "</image>")
        self.slice_start = kwargs.pop("slice_start", "<slice>")
        self.slice_end = kwargs.pop("slice_end", "</slice>")
        self.unk = kwargs.pop("unk", "<unk>")
        self.im_id_start = kwargs.pop("im_id_start", "<image_id>")
        self.im_id_end = kwargs.pop("im_id_end", "</image_id>")
        self.slice_mode = slice_mode
        self.norm_mean = list(norm_mean)
        self.norm_std = list(norm_std)
        self.version = version
        if min(max_slice_nums, scale_resolution, patch_size, image_feature_size) < 1:
            raise ConfigurationError(
                f"max_slice_nums {max_slice_nums}, scale_resolution {scale_resolution}, patch_size {patch_size} and "
                f"image_feature_size {image_feature_size} must be at least 1.",
                remedy="Check preprocessor_config.json.",
            )
        super().__init__(**kwargs)

    @property
    def geometry(self) -> Geometry:
        """How pictures become patches under this configuration."""
        return Geometry(
            self.scale_resolution, self.patch_size, tuple(self.norm_mean), tuple(self.norm_std), self.slice_mode
        )

    @property
    def visual_tokens(self) -> VisualTokens:
        """Names of the tokens around slots."""
        return VisualTokens(
            self.im_start, self.im_end, self.slice_start, self.slice_end, self.im_id_start, self.im_id_end
        )

    @property
    def defaults(self) -> MediaOptions:
        """The checkpoint's options for a picture."""
        return MediaOptions(max_slices=self.max_slice_nums, use_image_id=self.use_image_id)

    def plan(self, size: Size, options: MediaOptions | None = None) -> VisualText:
        """What a picture of this size contributes to the text; no pixels are needed."""
        chosen = (options or MediaOptions()).over(self.defaults)
        plan = self.geometry.plan(size, chosen.max_slices or self.max_slice_nums)
        return VisualText((FrameGroup((0,), (NO_TIME,), (plan,)),), bool(chosen.use_image_id))

    def encode(self, image: Image.Image, options: MediaOptions | None = None) -> tuple[VisualText, VisualRows]:
        """Text layout and patch rows of one RGB picture."""
        text = self.plan(Size(*image.size), options)
        rows = ItemRows(text.groups, self.geometry)
        rows.write(0, image)
        return text, rows.rows

    def preprocess(
        self,
        images: Source | Sequence[Source],
        max_slices: int | None = None,
        return_tensors: str | None = None,
        fetch_policy: FetchPolicy | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Patch rows of one picture or several.

        Args:
            images: pictures, paths, URLs or bytes.
            max_slices: upper bound on the slices of one picture; the checkpoint's by default.
            return_tensors: "pt", "np" or None for numpy arrays.
            fetch_policy: what may be read from the network; nothing by default.
            **kwargs: `max_slice_nums`, the official name of `max_slices`; others are refused.

        Returns:
            `pixel_values`, `item_shapes`, `item_packs` and `item_times` of all pictures one after another.

        Raises:
            MediaError: a picture cannot be read.
            MessageError: an unknown argument, or no picture.
        """
        max_slices = kwargs.pop("max_slice_nums", max_slices)
        kwargs.pop("use_image_id", None)
        if kwargs:
            raise MessageError(f"Unknown image options: {', '.join(sorted(kwargs))}.", remedy="Use max_slices.")
        listed: list[Any] = list(images) if isinstance(images, list | tuple) else [images]
        if not listed:
            raise MessageError("No pictures were given.", remedy="Give at least one.")
        options = MediaOptions(max_slices=max_slices)
        policy = fetch_policy or FetchPolicy()
        rows = [self.encode(load_image(source, policy=policy).image, options)[1] for source in listed]
        return BatchFeature(to_tensors(concatenate_rows(rows), return_tensors))
