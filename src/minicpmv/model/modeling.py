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
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

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


class Body:
    """Everything but the head: the same inputs, and the last hidden states instead of logits.

    Not a module of its own, since the checkpoint's names know none: it borrows the model's parts.
    """

    def __init__(self, model: MiniCPMVForConditionalGeneration) -> None:
        self._model = model
        self._tp_plan, self._pp_plan = model._tp_plan, model._pp_plan

    def __call__(self, input_ids: Tensor | None = None, **inputs: Any) -> BaseModelOutputWithPast:
        """Hidden states [batch, tokens, d_llm] before the head, as `last_hidden_state`.

        Args:
            input_ids: as in `MiniCPMVForConditionalGeneration.forward`.
            **inputs: likewise; what is not about pictures goes to the language model.
        """
        visual = {name: inputs.pop(name) for name in _EMBEDDED if name in inputs}
        decoder: Any = self._model.get_decoder()
        output: BaseModelOutputWithPast = decoder(inputs_embeds=self._model.embed_inputs(input_ids, **visual), **inputs)
        return output


_EMBEDDED = (
    "inputs_embeds",
    "pixel_values",
    "item_shapes",
    "item_packs",
    "item_times",
    "visual_slots",
    "visual_features",
)


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

    def encode_packs(self, part: VisualInputs) -> Tensor:
        """Language-model tokens of some packs, [packs, queries, d_llm], all encoded at once.

        Args:
            part: on any device.
        """
        return self._encode(part.to(self.device))

    def embed_tokens(self, input_ids: Tensor) -> Tensor:
        """Embeddings [batch, tokens, d_llm] of ids, before any picture is placed among them.

        Args:
            input_ids: int64 [batch, tokens].
        """
        return self._embed(input_ids)

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

    def embed_inputs(
        self,
        input_ids: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        item_shapes: Tensor | None = None,
        item_packs: Tensor | None = None,
        item_times: Tensor | None = None,
        visual_slots: Tensor | None = None,
        visual_features: Tensor | None = None,
    ) -> Tensor:
        """Token embeddings with the visual features in their slots: what the language model reads.

        Args:
            input_ids: as in `forward`, and so are the others.
            inputs_embeds: see `forward`.
            pixel_values: see `forward`.
            item_shapes: see `forward`.
            item_packs: see `forward`.
            item_times: see `forward`.
            visual_slots: see `forward`.
            visual_features: see `forward`.

        Returns:
            [batch, tokens, d_llm].

        Raises:
            ShapeContractError: the visual tensors do not fit each other or the prompt.
        """
        if pixel_values is not None and visual_features is None:
            visual_features = self.get_visual_features(pixel_values, item_shapes, item_packs, item_times)
        embeddings = self._embed(input_ids) if inputs_embeds is None else inputs_embeds
        if visual_features is not None:
            slots = torch.empty(0, 2, dtype=torch.long) if visual_slots is None else visual_slots
            return place_in_slots(embeddings, visual_features, slots, input_ids)
        if self.training and torch.distributed.is_available() and torch.distributed.is_initialized():
            return embeddings + self._unused_vision()
        return embeddings

    @property
    def base_model(self) -> Any:
        """The model without its head (`Body`), as libraries look for it that compute logits themselves."""
        return Body(self)

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
        embeddings = self.embed_inputs(
            input_ids,
            inputs_embeds=inputs_embeds,
            pixel_values=pixel_values,
            item_shapes=item_shapes,
            item_packs=item_packs,
            item_times=item_times,
            visual_slots=visual_slots,
            visual_features=visual_features,
        )
        return self.llm(
            inputs_embeds=embeddings,
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
