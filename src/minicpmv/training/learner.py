"""What is trained: the whole model, and the dense reading head that helps its tower."""

from torch import nn

from minicpmv.model.modeling import MiniCPMVForConditionalGeneration


class Learner(nn.Module):
    """A model with its training-only head.

    Args:
        model: the model.
        patch_reader: characters of a patch from its features; not saved with the model.
    """

    def __init__(self, model: MiniCPMVForConditionalGeneration, patch_reader: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.patch_reader = patch_reader

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Modules that a recipe may train, by name."""
        model = self.model
        return {"llm": model.llm, "resampler": model.resampler, "vpm": model.vpm, "patch_reader": self.patch_reader}
