"""What is trained: the whole model, with the dense reading head and the slot codes that help its parts."""

from torch import nn

from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.training.towers.patch_reading import PatchReader
from minicpmv.training.towers.reading_slots import SlotCodes


class Learner(nn.Module):
    """A model with its training-only head.

    Args:
        model: the model.
        patch_reader: what is in a patch, from its features; not saved with the model.
        slot_codes: what the resampler should say about letters; not saved with the model.
    """

    def __init__(
        self, model: MiniCPMVForConditionalGeneration, patch_reader: PatchReader, slot_codes: SlotCodes
    ) -> None:
        super().__init__()
        self.model = model
        self.patch_reader: PatchReader = patch_reader
        self.slot_codes: SlotCodes = slot_codes

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Modules that a recipe may train, by name."""
        model = self.model
        helpers = {"patch_reader": self.patch_reader, "slot_codes": self.slot_codes}
        return {"llm": model.llm, "resampler": model.resampler, "vpm": model.vpm, **helpers}
