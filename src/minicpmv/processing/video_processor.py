"""Clips to patch rows in frame packs: the video processor of the family.

    clip -> probe -> plan_frames -> time codes -> groups -> rows, written while frames are decoded

Transformers' own video processors need torchvision; this one needs PyAV and Pillow, and keeps a frame only as long as
it takes to resize it. The released folder has no file for it, so its settings are saved only where they differ from
the official policy.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.utils.hub import PushToHubMixin, cached_file

from minicpmv.errors import ConfigurationError, MediaError, MessageError
from minicpmv.media.fetch import FetchPolicy, read_source
from minicpmv.media.image import load_image
from minicpmv.media.video import Video, inspect_video
from minicpmv.messages import VideoPart
from minicpmv.processing.chat_template import VisualText
from minicpmv.processing.geometry import Geometry
from minicpmv.processing.item_rows import ItemRows, PictureWriter, VisualRows, concatenate_rows
from minicpmv.processing.options import MediaOptions, part_options
from minicpmv.processing.packing import FrameGroup, check_groups, group_consecutive, plan_groups
from minicpmv.processing.sampling import (
    FRAMES_PER_SECOND,
    MAX_PACKS,
    NO_TIME,
    PACKING_LIMIT,
    TIME_STEP_S,
    FramePlan,
    plan_frames,
    time_codes,
    uniform_indices,
)
from minicpmv.processing.slicing import Size

FILE_NAME = "video_preprocessor_config.json"


class MiniCPMVVideoProcessor(PushToHubMixin):
    """Samples, packs and lays out the frames of clips.

    Args:
        choose_fps: frames per second looked at when nobody asks for another rate.
        max_packs: frame packs that the official policy plans for.
        max_slices: upper bound on the slices of one frame.
        use_image_id: number the packs in the text.
        packing: frames per pack of every clip, for a checkpoint that was trained on one packing only.
        max_frames: upper bound on the frames of a clip, likewise.
        **kwargs: anything else the file holds; kept and written back.

    Source of the defaults: the model card of MiniCPM-V 4.5 (`encode_video` and its call of `chat`).
    """

    _auto_class = None

    def __init__(
        self,
        choose_fps: float = FRAMES_PER_SECOND,
        max_packs: int = MAX_PACKS,
        max_slices: int = 1,
        use_image_id: bool = False,
        packing: int | None = None,
        max_frames: int | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("video_processor_type", None)
        if max_packs < 1:
            raise ConfigurationError(f"max_packs is {max_packs}.", remedy=f"Check {FILE_NAME}.")
        MediaOptions(fps=choose_fps, max_slices=max_slices, packing=packing, max_frames=max_frames)
        self.choose_fps = choose_fps
        self.max_packs = max_packs
        self.max_slices = max_slices
        self.use_image_id = use_image_id
        self.packing = packing
        self.max_frames = max_frames
        self.extra = kwargs

    @property
    def defaults(self) -> MediaOptions:
        """The checkpoint's options for a clip."""
        return MediaOptions(
            max_slices=self.max_slices,
            use_image_id=self.use_image_id,
            packing=self.packing,
            max_frames=self.max_frames,
        )

    def to_dict(self) -> dict[str, Any]:
        """The settings as they are saved."""
        return self.extra | {
            "video_processor_type": type(self).__name__,
            "choose_fps": self.choose_fps,
            "max_packs": self.max_packs,
            "max_slices": self.max_slices,
            "use_image_id": self.use_image_id,
            "packing": self.packing,
            "max_frames": self.max_frames,
        }

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **kwargs: Any) -> "MiniCPMVVideoProcessor":
        """The settings of a checkpoint; the official policy where it has none.

        Args:
            name_or_path: folder or hub id.
            **kwargs: hub options, as in transformers.
        """
        hub = {key: value for key, value in kwargs.items() if key in ("cache_dir", "revision", "token", "subfolder")}
        hub["local_files_only"] = kwargs.get("local_files_only", False)
        path = cached_file(str(name_or_path), FILE_NAME, _raise_exceptions_for_missing_entries=False, **hub)
        return cls(**json.loads(Path(path).read_text(encoding="utf-8"))) if path else cls()

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> list[str]:
        """Write the settings if they differ from the official policy, and return the files written."""
        path = Path(save_directory) / FILE_NAME
        if self.to_dict() == type(self)().to_dict():
            path.unlink(missing_ok=True)
            return []
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return [str(path)]

    def __repr__(self) -> str:
        return f"{type(self).__name__} {json.dumps(self.to_dict(), indent=2)}"

    def plan_file(self, video: Video, options: MediaOptions, geometry: Geometry) -> tuple[FramePlan, VisualText]:
        """Which frames of a file are looked at, and what they contribute to the text; nothing is decoded.

        Args:
            video: the clip, looked at but not decoded.
            options: the part's options over the call's; completed here by the checkpoint's.
            geometry: how frames become patches.

        Raises:
            MediaError: the clip has no frames.
        """
        chosen = options.over(self.defaults)
        info = video.info
        plan = plan_frames(
            info.num_frames,
            info.fps,
            choose_fps=self.choose_fps if chosen.fps is None else chosen.fps,
            packing=chosen.packing,
            max_frames=chosen.max_frames,
            max_packs=self.max_packs,
        )
        # Officially number / average rate: the same at a constant rate; at a variable one this is when it happened.
        codes = time_codes(video.times_s(plan.indices), info.duration_s)
        groups = group_consecutive(codes, plan.packing)
        return plan, self._text(groups, [Size(info.width, info.height)] * len(codes), chosen, geometry)

    def group_pictures(
        self, part: VideoPart, options: MediaOptions
    ) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
        """Which pictures of a clip given as frames are used, and their time codes in groups.

        Args:
            part: a clip with frames.
            options: the part's options over the call's.

        Raises:
            MessageError: times that do not fit the frames.
        """
        total = len(part.frames or ())
        options = options.over(self.defaults)
        if part.temporal_ids is not None:
            return tuple(range(total)), check_groups(part.temporal_ids, total)
        kept = tuple(range(total))
        if options.max_frames is not None and total > options.max_frames:
            kept = uniform_indices(total, options.max_frames)
        codes = picture_times(part, total, options.fps)
        packing = options.packing or min(-(-len(kept) // self.max_packs), PACKING_LIMIT)
        return kept, group_consecutive([codes[index] for index in kept], packing)

    def plan_pictures(
        self, part: VideoPart, sizes: Sequence[Size], options: MediaOptions, geometry: Geometry
    ) -> tuple[tuple[int, ...], VisualText]:
        """Which pictures of a clip given as frames are used, and what they contribute to the text.

        Args:
            part: a clip with frames.
            sizes: size of each of its frames, in px.
            options: the part's options over the call's.
            geometry: how frames become patches.

        Raises:
            MessageError: times that do not fit the frames.
        """
        kept, times = self.group_pictures(part, options)
        return kept, self._text(times, [sizes[index] for index in kept], options.over(self.defaults), geometry)

    def encode(
        self, part: VideoPart, options: MediaOptions, geometry: Geometry, policy: FetchPolicy
    ) -> tuple[VisualText, VisualRows]:
        """Text layout and patch rows of a clip.

        Args:
            part: a file, or frames.
            options: the call's options; the part's own win.
            geometry: how frames become patches.
            policy: what may be read from the network.

        Raises:
            MediaError: the clip cannot be read, or ends before a frame that its header promises.
            MessageError: times that do not fit the frames.
        """
        options = part_options(part).over(options)
        if part.frames is not None:
            return self._encode_pictures(part, options, geometry, policy)
        if part.source is None:
            raise MessageError("A video part has neither a source nor frames.", remedy="Give one of them.")
        source = read_source(part.source, policy)
        video = inspect_video(source)
        plan, text = self.plan_file(video, options, geometry)
        rows = ItemRows(text.groups, geometry)
        positions: dict[int, list[int]] = defaultdict(list)
        for position, index in enumerate(plan.indices):
            positions[index].append(position)
        with PictureWriter(rows) as writer:
            for frame in video.frames(list(positions)):
                for position in positions.pop(frame.index, ()):
                    writer.write(position, frame.image)
        if positions:
            raise MediaError(
                f"The clip ends before frame {min(positions)}, which its header promises.",
                remedy="Check that the file is complete.",
            )
        return text, rows.rows

    def _encode_pictures(
        self, part: VideoPart, options: MediaOptions, geometry: Geometry, policy: FetchPolicy
    ) -> tuple[VisualText, VisualRows]:
        """One group at a time, so that only its pictures are in memory at full size."""
        chosen = options.over(self.defaults)
        kept, times = self.group_pictures(part, options)
        groups: list[FrameGroup] = []
        parts: list[VisualRows] = []
        start = 0
        for codes in times:
            sources = [(part.frames or ())[index] for index in kept[start : start + len(codes)]]
            images = [load_image(source, policy=policy).image for source in sources]
            text = self._text([codes], [Size(*image.size) for image in images], chosen, geometry, start)
            rows = ItemRows(text.groups, geometry)
            for position, image in enumerate(images, start):
                rows.write(position, image)
            groups += text.groups
            parts.append(rows.rows)
            start += len(codes)
        return VisualText(tuple(groups), bool(chosen.use_image_id)), concatenate_rows(parts)

    def _text(
        self,
        times: Sequence[Sequence[int]],
        sizes: Sequence[Size],
        chosen: MediaOptions,
        geometry: Geometry,
        start: int = 0,
    ) -> VisualText:
        slices = chosen.max_slices or self.max_slices
        groups = plan_groups(
            times,
            sizes,
            max_slices=slices,
            resolution=geometry.resolution,
            patch=geometry.patch,
            slice_mode=geometry.slice_mode,
            start=start,
        )
        return VisualText(groups, bool(chosen.use_image_id))


def picture_times(part: VideoPart, num_frames: int, fps: float | None) -> tuple[int, ...]:
    """Time codes of a clip given as frames: from its timestamps, else from a rate, else none.

    Raises:
        MessageError: a timestamp is negative, not a number, or before the one in front of it.
    """
    if part.timestamps is None:
        if fps is None:
            return (NO_TIME,) * num_frames
        return time_codes([index / fps for index in range(num_frames)], num_frames / fps)
    moments = part.timestamps
    if any(not 0 <= moment < float("inf") for moment in moments) or list(moments) != sorted(moments):
        raise MessageError("timestamps must be seconds from 0 up, in rising order.", remedy="Sort the frames by time.")
    return time_codes(moments, moments[-1] + 2 * TIME_STEP_S)
