"""What a stage of training says: where it starts, from what it learns, who learns, and for how long.

One complete YAML file per stage, nothing inherited; `minicpmv recipes diff` shows what a stage changes. The towers that
a nano model grows from nothing have recipes of another kind, `minicpmv.training.towers.recipe`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from minicpmv.data.sources import SourceRecipe
from minicpmv.errors import SettingsError
from minicpmv.processing.sampling import PACKING_LIMIT
from minicpmv.training.schedule import Schedule

PARTS = ("llm", "vpm", "resampler")
"""The parts of the model, each with a rate of its own or frozen."""

Precision = Literal["auto", "fp32", "bf16"]
"""`auto` is bf16 where the device multiplies it faster than float32: GPUs, and processors with instructions for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimiserRecipe:
    """AdamW; weight decay and clipping also hold for what learns with Muon."""

    betas: tuple[float, float]
    weight_decay: float
    clip_norm: float
    """Largest norm of the gradients; `.inf` clips nothing."""

    def __post_init__(self) -> None:
        are_shares = all(0 <= beta < 1 for beta in self.betas)
        if not are_shares or not 0 <= self.weight_decay < math.inf or not self.clip_norm > 0:
            raise SettingsError(
                f"An optimiser has betas {list(self.betas)}, weight_decay {self.weight_decay} and clip_norm "
                f"{self.clip_norm}.",
                remedy="Betas are 0 or more and below 1, weight_decay is 0 or more, clip_norm is above 0.",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class JoinRecipe:
    """What is joined."""

    name: str
    preset: str
    """Of `MiniCPMVConfig`: the sizes that both parts must have."""

    llm: str
    """Folder or hub id of a Qwen3."""

    vpm: str
    """Folder or hub id of a SigLIP or SigLIP2 with square patches of the preset's side."""

    processor: str
    """Folder or hub id of a model of this family whose tokenizer and media settings are taken; not its weights."""

    seed: int = 0
    """Of the blank resampler."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaRecipe:
    """How pictures and clips are looked at where a sample does not say; None leaves it to the checkpoint."""

    max_slices: int | None = None
    max_frames: int | None = None
    packing: tuple[int, ...] | None = None
    """Frames per pack: the sizes from which every clip draws one. Source: arXiv 2509.18154 section 2.1.1 draws it at
    random and does not say how."""

    fps: tuple[float, float] | None = None
    """Frames per second: the range from which every file draws, evenly in octaves. Source as above. Drawn clips bring
    their frames, at rates of their own."""

    def __post_init__(self) -> None:
        if self.packing is not None and not (self.packing and set(self.packing) <= set(range(1, PACKING_LIMIT + 1))):
            raise SettingsError(
                f"packing is {list(self.packing)}.", remedy=f"List the sizes to draw from, each 1 to {PACKING_LIMIT}."
            )
        if self.fps is not None and not 1e-3 <= self.fps[0] <= self.fps[1] < math.inf:
            raise SettingsError(f"fps is {list(self.fps)}.", remedy="Give the smallest and the largest rate.")


@dataclass(frozen=True, kw_only=True, slots=True)
class RowsRecipe:
    """Row packing."""

    tokens: int
    """Most tokens of a row; a longer sample is left out and counted, never cut."""

    per_pass: int = 1
    """Rows that go through the model at a time, in every process; what is left of a batch follows in further passes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraRecipe:
    """Low-rank adapters instead of whole matrices, on the parts that have a rate."""

    rank: int
    alpha: int
    dropout: float = 0.0
    whole: tuple[str, ...] = ()
    """Parts that learn whole all the same, for example the resampler."""

    bits: Literal[4, 16] = 16
    """Of every frozen weight of the language model's layers: 4 is QLoRA. Source: arXiv 2305.14314."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 1 or not 0 <= self.dropout < 1:
            raise SettingsError(
                f"Adapters have rank {self.rank}, alpha {self.alpha} and dropout {self.dropout}.",
                remedy="Rank and alpha are at least 1, dropout is a share below 1.",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseRecipe:
    """Losses on single letters, things and places beside the answers; see `minicpmv.training.dense`."""

    heads: str | None = None
    """The recipe whose run has left the heads; it is looked for beside this one. None begins with blank heads."""

    rate: float = 0.0
    """Peak learning rate of the heads; at 0 they stay as they are. Codes of letters learn only if they begin blank."""

    patches: float = 1.0
    """Weight of the mean loss on letters in patches, which the tower should have seen."""

    slots: float = 1.0
    """Weight of the mean loss on letters in slots, which the resampler should have passed on."""

    things: float = 0.0
    """Weight of the mean loss on the colours and kinds of drawn things in patches."""

    places: float = 0.0
    """Weight of the mean squared distance, in half widths of an item, between where patches lie and queries look, and
    where heads say so from what the tower and the resampler give."""

    @property
    def weights(self) -> list[float]:
        """As `dense.ASKED`."""
        return [self.patches, self.slots, self.things, self.places, self.places]

    def __post_init__(self) -> None:
        if not all(0 <= weight < math.inf for weight in self.weights):
            weights = f"{self.patches:g}, {self.slots:g}, {self.things:g} and {self.places:g}"
            raise SettingsError(f"Dense losses weigh {weights}.", remedy="Weights are 0 or more.")
        if not 0 <= self.rate < math.inf or (self.heads is None and not self.rate):
            raise SettingsError(
                f"Heads of dense losses come from {self.heads or 'nowhere'} and learn at a rate of {self.rate:g}.",
                remedy="Name the recipe that has left them, or give blank ones a rate above 0.",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRecipe:
    """One stage."""

    name: str
    start: str
    """Where the weights come from: a model folder, a hub id, `nano` for the bundled model, or the name of another
    recipe, whose run is looked for beside this one."""

    data: Mapping[str, SourceRecipe]
    """The mixture."""

    batch: int
    """Samples per step, over all processes."""

    rows: RowsRecipe
    rates: Mapping[str, float]
    """Peak learning rate of each part that learns; the others are frozen."""

    schedule: Schedule
    optimiser: OptimiserRecipe
    seed: int = 0
    decay_data: Mapping[str, SourceRecipe] | None = None
    """Another mixture while the rate comes down. Source: MiniCPM (arXiv 2404.06395), section 4."""

    media: MediaRecipe = field(default_factory=MediaRecipe)
    dense: DenseRecipe | None = None
    lora: LoraRecipe | None = None
    muon: float = 0.0
    """As in the recipes of the towers: matrices of layers learn with Muon at this multiple of their part's rate."""

    precision: Precision = "auto"
    """Arithmetic of the passes; what learns is kept in float32."""

    attention: Literal["by_sample", "eager", "sdpa", "flash_attention_2"] = "sdpa"
    """`by_sample` is for CPUs: the samples of a row one by one instead of a mask over the row, and eager vision."""

    recompute: bool = False
    """Gradient checkpointing: activations of layers are computed again in the backward pass instead of kept."""

    sharding: Literal["none", "full"] = "none"
    """With several processes: every one has the whole model (DDP), or a share of everything (FSDP2)."""

    workers: int = 1
    """Data workers per process, at most one per core; 0 loads in the training process itself."""

    most_flawed: float = 0.05
    """Training stops if more than this share of the samples cannot be used."""

    save_every_s: float = 600.0
    sheet_samples: int = 8
    """Samples that are answered and shown in `sheets/` at every save; 0 for none."""

    trackers: tuple[str, ...] = ()
    """Where else numbers go: `tensorboard`, `wandb`, ... whatever accelerate knows."""

    def __post_init__(self) -> None:
        check_name(self.name)
        self._check_parts()
        self._check_numbers()
        if self.lora is not None and self.sharding != "none":
            raise SettingsError(
                f"{self.name} wants adapters and sharding.", remedy="Adapters are small: use sharding: none."
            )
        if self.dense is not None and self.dense.rate and self.sharding != "none":
            raise SettingsError(
                f"{self.name} wants heads that learn, and sharding.",
                remedy="Use sharding: none, or heads of a run before with dense.rate: 0.",
            )
        if not self.data or (self.decay_data is not None and not self.decay_data):
            raise SettingsError(f"{self.name} has no data.", remedy="Name at least one source.")

    def _check_parts(self) -> None:
        """Who learns is there, and has something to learn with."""
        learn_whole = self.lora.whole if self.lora else ()
        unknown = [part for part in (*self.rates, *learn_whole) if part not in PARTS]
        if unknown or not self.rates:
            raise SettingsError(
                f"{self.name} gives rates to {', '.join(unknown) or 'nothing that can learn'}.",
                remedy=f"Name some of {', '.join(PARTS)}, each with a rate above 0; leave out what is frozen.",
            )
        unrated = [part for part in learn_whole if part not in self.rates]
        if unrated:
            raise SettingsError(
                f"{self.name} has {', '.join(unrated)} learn whole without a rate.",
                remedy="Give it one in rates, or take it out of lora.whole.",
            )
        if self.lora is not None and self.lora.bits == 4 and "llm" in learn_whole:
            raise SettingsError(
                f"{self.name} wants a language model of 4 bits that learns whole.",
                remedy="Weights of 4 bits are frozen: take llm out of lora.whole, or use bits: 16.",
            )
        if self.lora is not None and set(self.rates) <= set(learn_whole):
            raise SettingsError(
                f"{self.name} wants adapters, and all that learns does so whole: {', '.join(self.rates)}.",
                remedy="Train without adapters, or give rates to parts that can have them.",
            )

    def _check_numbers(self) -> None:
        """Every number is in its range; what is not a number is in none."""
        if not all(0 < rate < math.inf for rate in self.rates.values()):
            raise SettingsError(
                f"{self.name} has the rates {dict(self.rates)}.", remedy="Rates are above 0; leave out what is frozen."
            )
        if not 0 <= self.muon < math.inf:
            raise SettingsError(f"{self.name} has muon {self.muon}.", remedy="Use 0, or a factor such as 3.")
        if not 0 <= self.most_flawed <= 1:
            raise SettingsError(
                f"{self.name} has most_flawed {self.most_flawed}.", remedy="It is a share of the samples, 0 to 1."
            )
        if not self.save_every_s >= 0:
            raise SettingsError(f"{self.name} has save_every_s {self.save_every_s}.", remedy="Give seconds, 0 or more.")
        if self.seed < 0:
            raise SettingsError(f"{self.name} has the seed {self.seed}.", remedy="Seeds are 0 or more.")
        if self.batch < 1 or self.rows.tokens < 1 or self.rows.per_pass < 1 or self.workers < 0:
            raise SettingsError(
                f"{self.name} has a batch of {self.batch}, rows of {self.rows.tokens} tokens, {self.rows.per_pass} per "
                f"pass, and {self.workers} workers.",
                remedy="Counts are at least 1; workers may be 0.",
            )


def check_name(name: str) -> None:
    """A name that becomes a folder.

    Raises:
        SettingsError: it would not, or one elsewhere.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise SettingsError(
            f"{name!r} is no name for a recipe or stage.", remedy="Use letters, digits, dots, - and _: it is a folder."
        )


def origin_of(recipe: TrainingRecipe) -> dict[str, str]:
    """What a run cannot change on the way: where its weights come from, and what its samples are.

    Shares, rates and schedules may be changed.
    """
    origin = {"start": recipe.start, "seed": str(recipe.seed)}
    for mixture in (recipe.data, recipe.decay_data or {}):
        for name, source in mixture.items():
            origin |= {f"data.{leaf}": said for leaf, said in _leaves_of(name, source)}
    return origin


def _leaves_of(name: str, source: SourceRecipe) -> list[tuple[str, str]]:
    """Leaves of a tree by path, with what they draw or read, in words."""
    if source.parts:
        return [leaf for part, inner in source.parts.items() for leaf in _leaves_of(f"{name}/{part}", inner)]
    said = source.path or " ".join([source.world, *(f"{key}={value}" for key, value in sorted(source.options.items()))])
    return [(name, said)]
