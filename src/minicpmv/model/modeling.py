"""The whole model: encode, resample, place, decode.

    pixel rows -> vpm -> resampler -> visual features [packs, queries, d_llm]
    input_ids -> embeddings, visual features placed in their slots -> llm -> logits

The language model is transformers' own `Qwen3ForCausalLM` or `LlamaForCausalLM`, unchanged. Parameter names are those
of the released checkpoint (`llm.`, `vpm.`, `resampler.`), in its order.

Source: modeling_minicpmv.py of MiniCPM-V 4.5. Deviations: slots are given by the processor (no search for token ids);
results are assigned by slot, so packed clips in a batch get their own rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, LlamaForCausalLM, PreTrainedModel, Qwen3ForCausalLM
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutputWithPast

from minicpmv.errors import ShapeContractError
from minicpmv.model.configuration import MiniCPMVConfig
from minicpmv.model.generation_inputs import VisualGeneration
from minicpmv.model.loading_checks import refuse_incomplete
from minicpmv.model.resampler import Resampler, ResamplerAttention
from minicpmv.model.vision import MiniCPMVVisionModel
from minicpmv.model.visual_inputs import VisualInputs, place_in_slots


class MiniCPMVPreTrainedModel(PreTrainedModel):
    """What transformers needs to know about the family."""

    config_class = MiniCPMVConfig
    base_model_prefix = ""
    input_modalities = ["image", "video", "text"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _no_split_modules = [  # noqa: RUF012  (transformers reads a list)
        "VisionEmbeddings",
        "VisionLayer",
        "Resampler",
        "Qwen3DecoderLayer",
        "LlamaDecoderLayer",
    ]
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The resampler's own parameters; the two towers initialise themselves."""
        if isinstance(module, Resampler):
            init.trunc_normal_(module.query, std=0.02)
            init.normal_(module.proj, std=module.proj.shape[0] ** -0.5)
        elif isinstance(module, ResamplerAttention):
            init.xavier_uniform_(module.in_proj_weight)
            init.zeros_(module.in_proj_bias)
        elif isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)


class MiniCPMVForConditionalGeneration(  # type: ignore[misc]  # VisualGeneration narrows two signatures
    MiniCPMVPreTrainedModel, VisualGeneration, GenerationMixin
):
    """MiniCPM-V 4.0 and 4.5: pictures, documents and clips to text.

    Args:
        config: shapes of all three parts.

    Attributes:
        llm: the language model.
        vpm: the vision tower.
        resampler: the unified 3D-Resampler.
        max_patches_per_chunk: patches encoded at a time when no gradient is needed; bounds the memory of a long clip.
            The default of 16384 is sixteen slices of 448 x 448, the official `vision_batch_size`.
    """

    def __init__(self, config: MiniCPMVConfig) -> None:
        super().__init__(config)
        text = config.text_config
        language_class: type[PreTrainedModel] = Qwen3ForCausalLM if config.uses_qwen3 else LlamaForCausalLM
        self.llm = language_class(text)
        self.vpm = MiniCPMVVisionModel(config.vision_config, num_layers=config.num_vision_layers)
        self.resampler = Resampler(config.query_num, text.hidden_size, config.vision_config.hidden_size)
        self.max_patches_per_chunk = 16384
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, except that an incomplete checkpoint is an error and not a warning.

        Raises:
            CheckpointError: tensors are missing, unexpected or misshaped; each is named. Pass
                `output_loading_info=True` to receive the lists instead.
        """
        if kwargs.get("output_loading_info"):
            return super().from_pretrained(*args, **kwargs)
        return refuse_incomplete(super().from_pretrained, *args, **kwargs)

    def get_input_embeddings(self) -> nn.Module:
        """The token table (not the attribute of the official code, which names the wrong module)."""
        return self.llm.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token table."""
        self.llm.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The matrix that turns hidden states into logits."""
        return self.llm.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace that matrix."""
        self.llm.set_output_embeddings(new_embeddings)

    def get_decoder(self) -> nn.Module:
        """The language model without its head."""
        decoder: nn.Module = self.llm.model
        return decoder

    def get_visual_features(
        self,
        pixel_values: Tensor,
        item_shapes: Tensor | None,
        item_packs: Tensor | None = None,
        item_times: Tensor | None = None,
    ) -> Tensor:
        """Language-model tokens of every slice and frame pack.

        Args:
            pixel_values: [patches, 588].
            item_shapes: int64 [items, 2], (rows, columns) of patches.
            item_packs: int64 [items]; without it every item is a pack of its own.
            item_times: int64 [items]; without it no item has a time.

        Returns:
            [packs, queries, d_llm].

        Raises:
            ShapeContractError: the tensors contradict each other.
        """
        inputs = VisualInputs.from_tensors(pixel_values, item_shapes, item_packs, item_times)
        # With gradients every activation is kept anyway, so splitting would save nothing.
        budget = pixel_values.shape[0] if torch.is_grad_enabled() else self.max_patches_per_chunk
        pieces = [self._encode(part) for part in inputs.chunks(max(budget, 1))]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _encode(self, part: VisualInputs) -> Tensor:
        features = self.vpm(part.pixel_values.to(self.vpm.dtype), part.shapes)
        implementation = self.config.vision_config._attn_implementation or "sdpa"
        resampled: Tensor = self.resampler(features, part.shapes, part.packs, part.times, implementation)
        return resampled

    def _embed(self, input_ids: Tensor | None) -> Tensor:
        """Token embeddings, scaled where a checkpoint of the family says so (`scale_emb`)."""
        if input_ids is None:
            raise ShapeContractError("The model got neither input_ids nor inputs_embeds.", remedy="Pass one of them.")
        scale: float = getattr(self.config.text_config, "scale_emb", 1)
        embeddings: Tensor = self.get_input_embeddings()(input_ids)
        return embeddings if scale == 1 else embeddings * scale

    def _unused_vision(self) -> Tensor:
        """A zero that depends on every vision parameter.

        In distributed training all ranks must use the same parameters, also a rank whose batch has no picture.
        """
        side = self.config.patch_size
        blank = torch.zeros(1, 3 * side * side, device=self.device, dtype=self.vpm.dtype)
        part = VisualInputs(blank, [(1, 1)], [0], torch.full((1,), -1))
        return self._encode(part).sum() * 0

    def place_visuals(self, embeddings: Tensor, visual_features: Tensor | None, visual_slots: Tensor | None) -> Tensor:
        """Token embeddings with the visual features in their slots.

        Args:
            embeddings: [batch, tokens, d_llm].
            visual_features: [packs, queries, d_llm]; None for text alone.
            visual_slots: int64 [packs, 2].

        Raises:
            ShapeContractError: another number of slots than of packs, or a slot outside the prompt.
        """
        if visual_features is not None:
            slots = torch.empty(0, 2, dtype=torch.long) if visual_slots is None else visual_slots
            return place_in_slots(embeddings, visual_features, slots)
        if self.training and torch.distributed.is_available() and torch.distributed.is_initialized():
            return embeddings + self._unused_vision()
        return embeddings

    def hidden_states(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        item_shapes: Tensor | None = None,
        item_packs: Tensor | None = None,
        item_times: Tensor | None = None,
        visual_slots: Tensor | None = None,
    ) -> Tensor:
        """What the language model makes of every token, before logits: training needs them for few tokens only.

        Args:
            input_ids: int64 [rows, tokens].
            position_ids: int64 [rows, tokens]; where they start again, another sample begins.
            pixel_values: as in `forward`, and so are the rest.
            item_shapes: see `forward`.
            item_packs: see `forward`.
            item_times: see `forward`.
            visual_slots: see `forward`.

        Returns:
            [rows, tokens, d_llm].

        Raises:
            ShapeContractError: the visual tensors do not fit each other or the prompt.
        """
        features = None
        if pixel_values is not None:
            features = self.get_visual_features(pixel_values, item_shapes, item_packs, item_times)
        embeddings = self.place_visuals(self._embed(input_ids), features, visual_slots)
        output = self.get_decoder()(inputs_embeds=embeddings, position_ids=position_ids, use_cache=False)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def forward(  # noqa: PLR0913  (transformers passes inputs by name)
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        item_shapes: Tensor | None = None,
        item_packs: Tensor | None = None,
        item_times: Tensor | None = None,
        visual_slots: Tensor | None = None,
        visual_features: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits for every token (or the last `logits_to_keep`).

        Args:
            input_ids: int64 [batch, tokens].
            attention_mask: [batch, tokens], 1 for real tokens.
            position_ids: int64 [batch, tokens].
            past_key_values: transformers cache.
            inputs_embeds: [batch, tokens, d_llm] instead of `input_ids`.
            pixel_values: [patches, 588], all items of the batch one after another.
            item_shapes: int64 [items, 2].
            item_packs: int64 [items].
            item_times: int64 [items].
            visual_slots: int64 [packs, 2], (sample, first column) of each pack's run of placeholders.
            visual_features: [packs, queries, d_llm], already resampled, instead of the four above.
            labels: int64 [batch, tokens], -100 where nothing is learned.
            use_cache: as in transformers.
            logits_to_keep: as in transformers.
            **kwargs: passed to the language model.

        Returns:
            The language model's output: `logits`, `loss` with labels, `past_key_values`.

        Raises:
            ShapeContractError: the visual tensors do not fit each other or the prompt.
        """
        if pixel_values is not None and visual_features is None:
            visual_features = self.get_visual_features(pixel_values, item_shapes, item_packs, item_times)
        embeddings = self._embed(input_ids) if inputs_embeds is None else inputs_embeds
        return self.llm(
            inputs_embeds=self.place_visuals(embeddings, visual_features, visual_slots),
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    def chat(self, *args: Any, **kwargs: Any) -> Any:
        """Answer in the manner of the official `model.chat`; see `minicpmv.generation.official_chat.chat`."""
        from minicpmv.generation.official_chat import (
            chat,
        )  # the one upward import, so that official snippets run as they are

        run: Callable[..., Any] = chat
        return run(self, *args, **kwargs)
