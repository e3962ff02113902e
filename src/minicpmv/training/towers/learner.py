"""What is trained: the whole model, with the heads and codes that help its parts."""

from torch import nn

from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.training.places import PlaceHeads
from minicpmv.training.towers.patch_reading import PatchReader
from minicpmv.training.towers.reading_slots import SlotCodes


class Learner(nn.Module):
    """A model with its training-only helpers.

    Args:
        model: the model.
        patch_reader: what is in a patch, from its features; not saved with the model.
        slot_codes: what the resampler should say about letters; not saved with the model.
        place_heads: where patches lie and queries look; not saved with the model.
    """

    def __init__(
        self,
        model: MiniCPMVForConditionalGeneration,
        patch_reader: PatchReader,
        slot_codes: SlotCodes,
        place_heads: PlaceHeads,
    ) -> None:
        super().__init__()
        self.model = model
        self.patch_reader: PatchReader = patch_reader
        self.slot_codes: SlotCodes = slot_codes
        self.place_heads: PlaceHeads = place_heads

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Modules that a recipe may train, by name."""
        model = self.model
        helpers = {"patch_reader": self.patch_reader, "slot_codes": self.slot_codes, "place_heads": self.place_heads}
        return {"llm": model.llm, "resampler": model.resampler, "vpm": model.vpm, **helpers}
