"""Configuration of the family: the official `config.json` read as it is, and written back the same way.

    config.json (language-model keys at top level) -> MiniCPMVConfig(text_config, vision_config, slice_config, ...)

The release keeps the keys of its language model (Qwen3 in 4.5, Llama in 4.0) at the top level, beside the nested vision
and slicing settings. transformers wants a nested `text_config`. `MiniCPMVConfig` holds the nested form in memory and
converts at the border, so that a folder written here can be read by the official code and by its peers.

Source: config.json and configuration_minicpm.py of MiniCPM-V 4.5 (ModelScope copy of 2025-10-10); 4.0 as reconstructed
in transformers pull request 39899.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from transformers import AutoConfig, LlamaConfig, PreTrainedConfig, Qwen3Config
from transformers.utils import logging

from minicpmv.errors import ConfigurationError
from minicpmv.model.presets import PRESETS

logger = logging.get_logger(__name__)

# Keys that belong to a whole model and not to its language part, beside the ones named in `MiniCPMVConfig.__init__`.
_WHOLE_MODEL_KEYS = frozenset(
    {
        "architectures",
        "auto_map",
        "attn_implementation",
        "chunk_size_feed_forward",
        "dtype",
        "experts_implementation",
        "id2label",
        "is_encoder_decoder",
        "label2id",
        "model_type",
        "name_or_path",
        "_name_or_path",
        "num_labels",
        "output_attentions",
        "output_hidden_states",
        "problem_type",
        "quantization_config",
        "return_dict",
        "torch_dtype",
        "transformers_version",
    }
)
# Keys transformers derives for itself; official code does not know them.
_DERIVED_TEXT_KEYS = frozenset({"layer_types", "model_type", "rope_parameters", "architectures", "dtype"})


class MiniCPMVVisionConfig(PreTrainedConfig):
    """Sizes of the SigLIP2 tower.

    Args:
        hidden_size: width of a patch vector.
        image_size: side in px whose patch grid gives the size of the position table (980 / 14 = 70 buckets a side).
        intermediate_size: width of the MLP.
        num_attention_heads: heads; must divide `hidden_size`.
        num_hidden_layers: transformer blocks stored in the checkpoint.
        patch_size: side of a patch in px.
    """

    model_type = "siglip"
    base_config_key = "vision_config"

    def __init__(  # noqa: PLR0913  (one argument per key of the official file)
        self,
        hidden_size: int = 1152,
        image_size: int = 980,
        intermediate_size: int = 4304,
        num_attention_heads: int = 16,
        num_hidden_layers: int = 27,
        patch_size: int = 14,
        num_channels: int = 3,
        hidden_act: str = "gelu_pytorch_tanh",
        layer_norm_eps: float = 1e-6,
        attention_dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if hidden_size % num_attention_heads:
            raise ConfigurationError(
                f"vision hidden_size {hidden_size} is not a multiple of num_attention_heads {num_attention_heads}.",
                remedy="Choose a width that the heads divide.",
            )
        self.hidden_size = hidden_size
        self.image_size = image_size
        self.intermediate_size = intermediate_size
        self.num_attention_heads = num_attention_heads
        self.num_hidden_layers = num_hidden_layers
        self.patch_size = patch_size
        self.num_channels = num_channels
        self.hidden_act = hidden_act
        self.layer_norm_eps = layer_norm_eps
        self.attention_dropout = attention_dropout
        super().__init__(**kwargs)

    @property
    def position_buckets(self) -> int:
        """Rows (and columns) of the learned position table."""
        return self.image_size // self.patch_size


class MiniCPMVConfig(PreTrainedConfig):
    """Everything that decides the shape of one model of the family.

    Language-model keys may be given flat (as in the official file) or as `text_config`.

    Args:
        version: release the layout follows; below 4.5 the language model is Llama and the resampler has no time.
        vision_config: sizes of the vision tower, as `MiniCPMVVisionConfig` or its keys.
        slice_config: `max_slice_nums`, `patch_size`, `scale_resolution`. Missing means one slice, as in the official
            class.
        query_num: tokens per slice or frame pack.
        image_size: recorded side of a square slice, px.
        patch_size: side of a patch, px.
        use_image_id: whether pictures are numbered in prompts.
        slice_mode: whether large pictures are cut at all.
        drop_vision_last_layer: whether the last vision block is skipped. The official class default is true and the
            release's file says false; both are honoured.
        batch_vision_input, batch_3d_resampler, vision_batch_size: official switches of the padded implementation; kept
            so that the file survives a round trip. The ragged implementation here has no use for them.
        text_config: the language model's configuration; built from the flat keys when absent.
    """

    model_type = "minicpmv"
    sub_configs: ClassVar[dict[str, Any]] = {"vision_config": MiniCPMVVisionConfig, "text_config": AutoConfig}

    def __init__(  # noqa: PLR0913  (one argument per key of the official file)
        self,
        version: float | str = 4.5,
        vision_config: MiniCPMVVisionConfig | dict[str, Any] | None = None,
        slice_config: dict[str, Any] | None = None,
        query_num: int = 64,
        image_size: int = 448,
        patch_size: int = 14,
        use_image_id: bool = True,
        slice_mode: bool = True,
        drop_vision_last_layer: bool = True,
        batch_vision_input: bool = True,
        batch_3d_resampler: bool = True,
        vision_batch_size: int = 16,
        text_config: PreTrainedConfig | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.version = version
        self.query_num = query_num
        self.image_size = image_size
        self.patch_size = patch_size
        self.use_image_id = use_image_id
        self.slice_mode = slice_mode
        self.drop_vision_last_layer = drop_vision_last_layer
        self.batch_vision_input = batch_vision_input
        self.batch_3d_resampler = batch_3d_resampler
        self.vision_batch_size = vision_batch_size
        self.slice_config = dict(slice_config) if slice_config is not None else {"max_slice_nums": 1}
        if not isinstance(vision_config, MiniCPMVVisionConfig):
            vision_config = MiniCPMVVisionConfig(**(vision_config or {}))
        self.vision_config = vision_config
        whole = {key: kwargs.pop(key) for key in list(kwargs) if key in _WHOLE_MODEL_KEYS}
        whole.pop("model_type", None)
        text = _build_text_config(self.uses_qwen3, text_config, kwargs)
        # After `super().__init__`: while `text_config` is absent, unknown attributes are not forwarded to it.
        super().__init__(**whole)
        self.text_config = text
        self._attn_implementation = self._attn_implementation
        self._check()

    def __getattr__(self, name: str) -> Any:
        """Language-model settings are readable on the whole, as in the official class (`config.hidden_size`)."""
        text = self.__dict__.get("text_config")
        if text is None or name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(text, name)

    def _check(self) -> None:
        width = self.text_config.hidden_size
        if width % 128:
            raise ConfigurationError(
                f"hidden_size {width} is not a multiple of 128.",
                remedy="The resampler's heads are 128 wide; choose a multiple.",
            )
        if self.query_num < 1:
            raise ConfigurationError(f"query_num is {self.query_num}.", remedy="It must be at least 1.")

    @property
    def uses_qwen3(self) -> bool:
        """Whether the language model is Qwen3 (4.5) rather than Llama (4.0)."""
        try:
            return float(self.version) >= 4.5
        except (TypeError, ValueError):
            raise ConfigurationError(
                f"version is {self.version!r}, not a number.", remedy="MiniCPM-V 4.0 and 4.5 are known."
            ) from None

    @property
    def num_vision_layers(self) -> int:
        """Vision blocks that run."""
        return int(self.vision_config.num_hidden_layers) - int(self.drop_vision_last_layer)

    @property
    def scale_resolution(self) -> int:
        """Side in px of the square that one slice approximates."""
        return int(self.slice_config.get("scale_resolution", 448))

    @classmethod
    def preset(cls, name: str) -> MiniCPMVConfig:
        """The configuration of a known size: `toy`, `nano`, `4.0` or `4.5`.

        >>> MiniCPMVConfig.preset("4.5").text_config.num_hidden_layers
        36
        """
        if name not in PRESETS:
            raise ConfigurationError(f"There is no preset {name!r}.", remedy=f"Known: {', '.join(PRESETS)}.")
        return cls(**copy.deepcopy(PRESETS[name]))

    def to_dict(self) -> dict[str, Any]:
        """The official flat layout: language-model keys at top level, `torch_dtype`, nested vision and slicing."""
        whole = super().to_dict()
        text = self.text_config.to_dict()
        defaults = PreTrainedConfig().to_dict()
        whole.pop("text_config", None)
        flat = {
            key: value
            for key, value in text.items()
            if key not in _DERIVED_TEXT_KEYS
            and not (key in defaults and value == defaults[key])
            and not (key == "pad_token_id" and value is None)
        }
        flat.update(_official_rope(text.get("rope_parameters")))
        flat.update({key: value for key, value in whole.items() if not (key in defaults and value == defaults[key])})
        flat["vision_config"] = _without_defaults(whole["vision_config"], defaults)
        dtype = flat.pop("dtype", None)
        if dtype is not None:
            flat["torch_dtype"] = dtype
        # transformers writes the name of the Python class; peers choose their implementation by the official one.
        flat["architectures"] = ["MiniCPMV"]
        flat["transformers_version"] = whole["transformers_version"]
        return flat

    def to_diff_dict(self) -> dict[str, Any]:
        """What `save_pretrained` writes: `to_dict` without the name of the folder it came from."""
        flat = self.to_dict()
        flat.pop("_name_or_path", None)
        return flat


def _build_text_config(
    uses_qwen3: bool, text_config: PreTrainedConfig | dict[str, Any] | None, flat: dict[str, Any]
) -> PreTrainedConfig:
    """The language model's configuration from the flat official keys, or from an explicit one."""
    kind = Qwen3Config if uses_qwen3 else LlamaConfig
    if isinstance(text_config, PreTrainedConfig):
        return text_config
    keys = copy.deepcopy({**flat, **(text_config or {})})  # transformers completes `rope_scaling` in place
    keys.pop("model_type", None)
    return kind(**keys)


def _official_rope(parameters: dict[str, Any] | None) -> dict[str, Any]:
    """Transformers' `rope_parameters` as the two official keys `rope_theta` and `rope_scaling`."""
    if parameters is None:
        return {}
    rest = {key: value for key, value in parameters.items() if key != "rope_theta"}
    theta = parameters.get("rope_theta")
    scaling = None if rest.get("rope_type", "default") == "default" else rest
    return {"rope_theta": theta, "rope_scaling": scaling}


def _without_defaults(nested: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """A nested configuration without what every configuration of transformers carries."""
    return {key: value for key, value in nested.items() if key not in defaults or value != defaults[key]}
