"""A web page with damaged lines, whose text is to be written: `restore` for pages that no world has drawn.

PageSample -> corrupt -> damaged picture, question, the lines as they were -> Sample
"""

from collections.abc import Mapping

from numpy.random import Generator
from PIL import Image

from minicpmv.data.corruption.calibration import Calibration, Level
from minicpmv.data.corruption.corrupt import LEVEL_SHARES, corrupt
from minicpmv.data.drawn import RESTORE
from minicpmv.data.sample import Sample
from minicpmv.data.worlds.paper import PageSample
from minicpmv.messages import ImagePart, Message, TextPart


def restore_page(
    generator: Generator,
    page: PageSample,
    key: str,
    *,
    calibration: Calibration | None = None,
    shares: Mapping[Level, float] = LEVEL_SHARES,
) -> Sample:
    """A page with damaged regions, and their text in reading order, a line per region.

    Args:
        generator: source of randomness.
        page: with its regions, for instance of `Browser.render`.
        key: of the sample.
        calibration: how strong each level is; the bundled one if None.
        shares: how often a region gets each level.

    Raises:
        OptionError: the page has no regions.
    """
    damaged = corrupt(generator, page.image, page.regions, calibration or Calibration.bundled(), shares=shares)
    question = RESTORE[int(generator.random() * len(RESTORE))]
    answer = "\n".join(target.text.replace("\n", " ") for target in damaged.targets)
    metadata = {"kind": page.kind, "task": "restore", "targets": [target.to_dict() for target in damaged.targets]}
    asked = Message("user", (ImagePart(Image.fromarray(damaged.image)), TextPart(question)))
    return Sample(key, (asked, Message("assistant", (TextPart(answer),))), metadata)
