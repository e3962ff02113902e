"""What a training recipe says: the model, its tokenizer, and stages that run one after another.

A stage trains the parts it names, each with its own peak rate; whatever it does not name is frozen. Its data are worlds
with weights. Every batch is a pure function of (seed, stage, step), so a resumed run sees exactly what an uninterrupted
one would have seen.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from minicpmv.errors import SettingsError
from minicpmv.processing.sampling import PACKING_LIMIT
from minicpmv.training.recipe import OptimiserRecipe, Precision, check_name
from minicpmv.training.schedule import Schedule

Objective = Literal["patches", "answers"]
PARTS = ("llm", "resampler", "vpm", "patch_reader", "slot_codes", "place_heads")
"""What may be trained. The last three only help to train; they are not part of the finished model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerRecipe:
    """The byte-level BPE vocabulary of a model trained from nothing."""

    vocabulary: int
    """Tokens in all, the special ones of the release included."""

    texts: int
    """Texts drawn from the worlds to learn merges from."""

    def __post_init__(self) -> None:
        if self.vocabulary < 1 or self.texts < 1:
            raise SettingsError(
                f"The tokenizer has a vocabulary of {self.vocabulary}, learned from {self.texts} texts.",
                remedy="Counts are at least 1.",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipRecipe:
    """How the finished model samples clips unless a caller asks otherwise: as they were in training."""

    choose_fps: float
    packing: int
    max_frames: int

    def __post_init__(self) -> None:
        if not 0 < self.choose_fps < math.inf:
            raise SettingsError(
                f"Clips have choose_fps {self.choose_fps}.", remedy="Give frames per second, a number above 0."
            )
        if not 1 <= self.packing <= PACKING_LIMIT or self.max_frames < 1:
            raise SettingsError(
                f"Clips have packing {self.packing} and max_frames {self.max_frames}.",
                remedy=f"Packs hold 1 to {PACKING_LIMIT} frames, and a clip at least one.",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRecipe:
    """One stage: who learns, from what, for how long."""

    name: str
    objective: Objective
    """`patches`: name what is in every patch, letters or drawn things, and where it lies; with a slot loss, the letters
    in every token too. `answers`: next-token loss on assistant turns."""

    rates: Mapping[str, float]
    """Peak learning rate of each part that trains, by part."""

    worlds: Mapping[str, float]
    """Weight of each world in the mixture."""

    steps: int
    batch: int
    """Samples per step."""

    warmup: int
    """Steps of linear warm-up."""

    decay: float
    """Share of the steps, at the end, in which the rate falls linearly to zero (warmup-stable-decay)."""

    muon: float = 0.0
    """The matrices of the tower's and the language model's layers learn with Muon, at this multiple of their part's
    rate; 0 leaves them to AdamW, like everything else."""

    patch_loss: float = 0.0
    """Weight of the tower's dense reading loss beside the answers; `patches` is nothing else."""

    slot_loss: float = 0.0
    """Weight of the resampler's dense reading loss, beside the tower's or the answers."""

    place_loss: float = 0.0
    """Weight of the loss on where patches lie, and on where queries look if the resampler learns too (`patches`)."""

    @property
    def schedule(self) -> Schedule:
        """Warm up, stay, come down to nothing."""
        decay = min(round(self.steps * self.decay), self.steps - self.warmup)
        return Schedule(steps=self.steps, warmup=self.warmup, decay=decay)

    def __post_init__(self) -> None:
        unknown = [part for part in self.rates if part not in PARTS]
        if unknown or not self.rates:
            raise SettingsError(
                f"Stage {self.name!r} trains {', '.join(unknown) or 'nothing'}.",
                remedy=f"Parts are {', '.join(PARTS)}.",
            )
        check_name(self.name)
        if not set(self.rates) & self._reached():
            raise SettingsError(
                f"Stage {self.name!r} ({self.objective}) trains {', '.join(self.rates)}, which no loss of it reaches.",
                remedy="Give a rate to a part that one reaches, or the loss that reaches this one a weight.",
            )
        if self.steps < 1 or self.batch < 1 or not 0 <= self.decay <= 1 or not 0 <= self.warmup <= self.steps:
            raise SettingsError(
                f"Stage {self.name!r} has steps {self.steps}, batch {self.batch}, warmup {self.warmup} and decay "
                f"{self.decay}.",
                remedy="Counts are at least 1, decay is a share, and warm-up fits into the steps.",
            )
        if not all(0 < rate < math.inf for rate in self.rates.values()):
            raise SettingsError(
                f"Stage {self.name!r} has the rates {dict(self.rates)}.",
                remedy="Rates are above 0; leave out what is frozen.",
            )
        if not 0 <= self.muon < math.inf:
            raise SettingsError(f"Stage {self.name!r} has muon {self.muon}.", remedy="Use 0, or a factor such as 3.")
        if not all(0 <= weight < math.inf for weight in (self.patch_loss, self.slot_loss)):
            raise SettingsError(
                f"Stage {self.name!r} has patch_loss {self.patch_loss} and slot_loss {self.slot_loss}.",
                remedy="Use 0, or a positive weight.",
            )
        if not 0 <= self.place_loss < math.inf or (self.place_loss and self.objective != "patches"):
            raise SettingsError(
                f"Stage {self.name!r} ({self.objective}) has place_loss {self.place_loss}.",
                remedy="Use 0, or a positive weight in a stage whose objective is patches.",
            )
        if not self.worlds or not all(0 < weight < math.inf for weight in self.worlds.values()):
            raise SettingsError(
                f"Stage {self.name!r} has no worlds with a positive weight.", remedy="Name at least one."
            )

    def _reached(self) -> set[str]:
        """Parts that a loss of the stage can teach."""
        if self.objective == "answers":
            return set(PARTS) - {"place_heads"} - (set() if self.patch_loss else {"patch_reader"})
        of_tokens = {"resampler", "slot_codes"} if self.slot_loss else set()
        return {"vpm", "patch_reader"} | of_tokens | ({"place_heads"} if self.place_loss else set())


@dataclass(frozen=True, kw_only=True, slots=True)
class TowersRecipe:
    """A whole run."""

    name: str
    model: str
    """A preset of `MiniCPMVConfig`."""

    seed: int
    tokenizer: TokenizerRecipe
    clips: ClipRecipe
    optimiser: OptimiserRecipe
    stages: tuple[StageRecipe, ...]
    save_every_s: float
    """Seconds between checkpoints of a running stage."""

    start: str | None = None
    """A model whose tower and language model go on, with the words of this run and a new resampler; as `start` of a
    stage. null: everything is blank."""

    attention: Literal["eager", "sdpa"] = "sdpa"
    """Attention path while training. On a CPU `eager` is several times faster backwards for short items."""

    precision: Precision = "auto"
    """Arithmetic of the forward pass; weights and optimiser stay in float32."""

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) != len(names):
            raise SettingsError(f"Stages are named {names}.", remedy="Name at least one stage, each differently.")
        check_name(self.name)
        if self.seed < 0:
            raise SettingsError(f"{self.name} has the seed {self.seed}.", remedy="Seeds are 0 or more.")
        if not self.save_every_s >= 0:
            raise SettingsError(f"{self.name} has save_every_s {self.save_every_s}.", remedy="Give seconds, 0 or more.")
