"""A web page with damaged lines, whose text is to be written: `restore` for pages that no world has drawn.

PageSample -> corrupt -> damaged picture, question, the lines as they were -> Sample
"""

from collections.abc import Mapping

from numpy.random import Generator

from minicpmv.data.corruption.calibration import Calibration, Level
from minicpmv.data.corruption.corrupt import LEVEL_SHARES
from minicpmv.data.drawn import damaged_sample
from minicpmv.data.sample import Sample
from minicpmv.data.worlds.paper import PageSample


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
    return damaged_sample(generator, key, page, calibration or Calibration.bundled(), shares)
