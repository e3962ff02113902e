"""Conversations with pictures, pages and clips to model inputs: the processor of the family.

    messages -> parts -> patch rows and text layout -> pieces -> ids, labels and slots in one pass -> batch

Training, inference, reinforcement learning and serving all use this class, so they cannot disagree about a prompt.
It loads the released folder without remote code and writes back files that the official code reads.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import BatchFeature, ProcessorMixin

from minicpmv.errors import ContextLengthError, MessageError, OptionError
from minicpmv.media.document import DEFAULT_DPI, render_pages
from minicpmv.media.fetch import read_source
from minicpmv.media.image import load_image
from minicpmv.messages import (
    DocumentPart,
    ImagePart,
    Message,
    Part,
    TextPart,
    VideoPart,
    group_frames,
    parse_conversations,
)
from minicpmv.processing.call_settings import CallSettings, read_call_settings
from minicpmv.processing.chat_template import (
    THINK,
    TemplateOptions,
    VisualText,
    conversation_pieces,
    visual_pieces,
)
from minicpmv.processing.collate import EncodedSample, check_lengths, collate
from minicpmv.processing.image_processor import MiniCPMVImageProcessor
from minicpmv.processing.item_rows import VisualRows
from minicpmv.processing.options import part_options
from minicpmv.processing.rendered_text import (
    IMAGE_PLACEHOLDER,
    VIDEO_PLACEHOLDER,
    as_image_part,
    as_video_part,
    distribute,
    placeholder_kinds,
    rendered_pieces,
)
from minicpmv.processing.text_encoding import Piece, PieceEncoder, Words, pieces_to_text
from minicpmv.processing.tokenizer import load_tokenizer
from minicpmv.processing.video_processor import MiniCPMVVideoProcessor

Encoded = tuple[VisualText, VisualRows]

_LOGGER = logging.getLogger(__name__)


class MiniCPMVProcessor(ProcessorMixin):  # type: ignore[misc, unused-ignore]  # transformers is partly untyped
    """Turns conversations into the tensors that the model takes.

    Args:
        image_processor: slices pictures; the official settings by default.
        tokenizer: tokenizer of the checkpoint.
        video_processor: samples clips; the official policy by default.
        chat_template: kept for libraries that look for it; the tokenizer's by default.
    """

    image_token = IMAGE_PLACEHOLDER
    video_token = VIDEO_PLACEHOLDER

    def __init__(
        self,
        image_processor: MiniCPMVImageProcessor | None = None,
        tokenizer: Any = None,
        video_processor: MiniCPMVVideoProcessor | None = None,
        chat_template: str | None = None,
    ) -> None:
        super().__init__(
            image_processor or MiniCPMVImageProcessor(),
            tokenizer,
            video_processor or MiniCPMVVideoProcessor(),
            chat_template=chat_template or getattr(tokenizer, "chat_template", None),
        )

    # --- loading and saving ---------------------------------------------------------------------------------------

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        """As in transformers, except that our video processor needs no torchvision and has no such base class."""
        if argument_name == "video_processor":
            if not isinstance(argument, MiniCPMVVideoProcessor):
                raise TypeError(f"Expected a MiniCPMVVideoProcessor, received {type(argument).__name__}")
            return MiniCPMVVideoProcessor
        return super().check_argument_for_proper_class(argument_name, argument)

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path: Any, *_: Any, **kwargs: Any) -> list[Any]:
        """Our three parts, loaded without the Auto classes and so without remote code."""
        hub = {key: value for key, value in kwargs.items() if key not in ("trust_remote_code", "_from_auto")}
        return [
            MiniCPMVImageProcessor.from_pretrained(pretrained_model_name_or_path, **hub),
            load_tokenizer(pretrained_model_name_or_path, **hub),
            MiniCPMVVideoProcessor.from_pretrained(pretrained_model_name_or_path, **hub),
        ]

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """Write the files of the release: preprocessor_config.json and the tokenizer's.

        Args:
            save_directory: folder to write to; made if absent.
            push_to_hub: as in transformers.
            **kwargs: as in transformers.

        Returns:
            The files written. Clip settings get a file only where they differ from the official policy.
        """
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        hub = kwargs | {"push_to_hub": push_to_hub}
        return [
            *self.image_processor.save_pretrained(save_directory, **hub),
            *self.tokenizer.save_pretrained(save_directory, **hub),
            *self.video_processor.save_pretrained(save_directory),
        ]

    @property
    def model_input_names(self) -> list[str]:
        """Names of everything the model takes."""
        return ["input_ids", "attention_mask", *self.image_processor.model_input_names, "visual_slots"]

    # --- conversations --------------------------------------------------------------------------------------------

    def apply_chat_template(  # type: ignore[override, unused-ignore]  # noqa: PLR0913  # transformers' own list
        self,
        conversation: Any,
        chat_template: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        enable_thinking: bool | None = False,
        tokenize: bool = False,
        return_dict: bool = False,
        images: Any = None,
        videos: Any = None,
        temporal_ids: Sequence[Sequence[int]] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Lay out a conversation, or a batch of them, in the official chat format.

        Args:
            conversation: anything `messages.parse_messages` reads, or a list of such.
            chat_template: not supported; the layout is the checkpoint's.
            tools: functions the model may call, as JSON schemas.
            add_generation_prompt: end with the opening of an answer.
            continue_final_message: leave the last assistant message open.
            enable_thinking: False closes the think block in the opening (the released default), True opens it, None
                leaves the choice to the model.
            tokenize: give ids and pixels; otherwise the string, with a placeholder per picture or clip.
            return_dict: give all model inputs; otherwise only `input_ids`.
            images: pictures for image parts that name no source.
            videos: clips for video parts that name no source.
            temporal_ids: official groups of time codes over all pictures of a single conversation.
            **kwargs: `max_slices`, `use_image_id`, `fps`, `packing`, `max_frames`, `dpi` for parts that do not say
                themselves; `return_tensors` ("pt", "np", None), `return_labels`, `padding`, `padding_side`,
                `max_length`, `fetch_policy`.

        Returns:
            A string per conversation, ids, or a `BatchFeature`; see `collate.collate` for its tensors.

        Raises:
            MessageError: a conversation cannot be read, or media and placeholders differ in number.
            MediaError: a picture, page or clip cannot be read.
            OptionError: an unknown option or value.
            ContextLengthError: a prompt is longer than `max_length`.
        """
        if chat_template is not None and chat_template != self.chat_template:
            raise OptionError("Another chat_template cannot be used.", remedy="The layout is the checkpoint's own.")
        if kwargs.get("return_tensors") == "auto":
            kwargs["return_tensors"] = "pt" if return_dict else None
        settings = read_call_settings(kwargs)
        conversations, is_batch = parse_conversations(conversation)
        conversations = fill_sources(conversations, images, videos)
        if temporal_ids is not None:
            if len(conversations) > 1:
                raise MessageError("temporal_ids fit one conversation.", remedy="Use video parts in a batch.")
            conversations = [group_frames(conversations[0], temporal_ids)]
        encoder = self.piece_encoder()
        options = TemplateOptions(
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            thinking=enable_thinking,
            tools=tuple(tools or ()),
            has_think=encoder.knows(THINK),
            tokens=self.image_processor.visual_tokens,
        )
        if not tokenize:
            rendered = [self._render(messages, options, encoder) for messages in conversations]
            return rendered if is_batch else rendered[0]
        samples = [self._encode(messages, options, encoder, settings) for messages in conversations]
        batch = self._collate(samples, settings)
        if return_dict:
            if not is_batch and settings.return_tensors is None:
                batch = {name: value[0] if isinstance(value, list) else value for name, value in batch.items()}
            return BatchFeature(batch)
        ids = batch["input_ids"]
        return ids if is_batch or settings.return_tensors is not None else ids[0]

    def __call__(  # type: ignore[override, unused-ignore]  # transformers' own order is images first as well
        self, images: Any = None, text: str | Sequence[str] | None = None, videos: Any = None, **kwargs: Any
    ) -> BatchFeature:
        """Model inputs of prompts that are strings already, with their pictures and clips beside them.

        Args:
            images: one picture, a flat list over all prompts, or one list per prompt.
            text: a prompt or several; each picture stands as `(<image>./</image>)`, each clip as
                `(<video>./</video>)`. Chat control tokens in it are special, visual tokens are not.
            videos: as `images`; a clip is a file or a list of pictures.
            **kwargs: as in `apply_chat_template`.

        Raises:
            MessageError: media and placeholders differ in number; both counts are named.
            MediaError: a picture or clip cannot be read.
            ContextLengthError: a prompt is longer than `max_length`.
        """
        if isinstance(images, str) and text is not None and not isinstance(text, str | list | tuple):
            images, text = text, images  # the official order: text first
        settings = read_call_settings(kwargs)
        if text is None:
            raise MessageError("No text was given.", remedy="Use image_processor for pictures alone.")
        texts = [text] if isinstance(text, str) else list(text)
        shares = zip(
            texts,
            distribute(texts, images, "image", as_image_part),
            distribute(texts, videos, "video", as_video_part),
            strict=True,
        )
        encoder = self.piece_encoder()
        samples = []
        for prompt, own_images, own_videos in shares:
            remaining = {"image": iter(own_images), "video": iter(own_videos)}
            parts = [next(remaining[kind]) for kind in placeholder_kinds(prompt)]
            media = [list(self._encode_media(part, settings)) for part in parts]
            pieces = rendered_pieces(prompt, self._numbered(media), self._chat_controls())
            samples.append(self._sample(pieces, media, encoder))
        return BatchFeature(self._collate(samples, settings))

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **kwargs: Any
    ) -> list[str]:
        """Texts of generated ids.

        Args:
            generated_outputs: [batch, tokens].
            skip_special_tokens: leave out control tokens; think tokens stay, as they are no special tokens.
            **kwargs: as in the tokenizer's `decode`.
        """
        texts: list[str] = self.tokenizer.batch_decode(
            generated_outputs, skip_special_tokens=skip_special_tokens, **kwargs
        )
        return texts

    def encode_conversation(self, messages: Sequence[Message], **kwargs: Any) -> EncodedSample:
        """One conversation to learn from: ids, which of them count, and patch rows, not yet collated.

        An answer without reasoning gets the empty think block of the short mode.

        Args:
            messages: the conversation.
            **kwargs: as in `apply_chat_template`.

        Raises:
            MessageError: the conversation has no source for a picture or clip.
            MediaError: a picture, page or clip cannot be read.
            OptionError: an unknown option or value.
            ContextLengthError: the conversation is longer than `max_length`.
        """
        encoder, settings = self.piece_encoder(), read_call_settings(kwargs)
        options = TemplateOptions(has_think=encoder.knows(THINK), tokens=self.image_processor.visual_tokens)
        sample = self._encode(messages, options, encoder, settings)
        check_lengths([sample], settings.padding.max_length)
        return sample

    def count_tokens(self, conversation: Any, visuals: Sequence[Sequence[VisualText]], **kwargs: Any) -> int:
        """Length of a prompt whose media have only been planned.

        Args:
            conversation: one conversation.
            visuals: for every part that is not text, in order, what it contributes to the text.
            **kwargs: fields of `TemplateOptions`.
        """
        encoder = self.piece_encoder()
        options = TemplateOptions(**kwargs, has_think=encoder.knows(THINK), tokens=self.image_processor.visual_tokens)
        messages = parse_conversations(conversation)[0][0]
        pieces = conversation_pieces(messages, self._numbered_texts(visuals), options)
        return len(encoder.encode(pieces).ids)

    # --- steps ----------------------------------------------------------------------------------------------------

    def piece_encoder(self) -> PieceEncoder:
        """What turns words and control tokens into ids."""
        return PieceEncoder(
            self.tokenizer,
            placeholder=self.image_processor.unk,
            slot_length=self.image_processor.image_feature_size,
        )

    def _chat_controls(self) -> list[str]:
        """Names of the added tokens that are no visual tokens."""
        tokens = self.image_processor.visual_tokens
        visual = {
            self.image_processor.unk,
            *(tokens.image_start, tokens.image_end, tokens.slice_start, tokens.slice_end),
            *(tokens.id_start, tokens.id_end),
        }
        return [name for name in self.tokenizer.get_added_vocab() if name not in visual]

    def _render(self, messages: Sequence[Message], options: TemplateOptions, encoder: PieceEncoder) -> str:
        media = [[Words(_placeholder(part))] for part in _media_parts(messages)]
        pieces = conversation_pieces(messages, media, options)
        return pieces_to_text(pieces, placeholder=self.image_processor.unk, slot_length=encoder.slot_length)

    def _encode(
        self, messages: Sequence[Message], options: TemplateOptions, encoder: PieceEncoder, settings: CallSettings
    ) -> EncodedSample:
        media: list[list[Encoded]] = []
        num_visual, limit = 0, settings.padding.max_length
        for part in _media_parts(messages):
            media.append([])
            for encoded in self._encode_media(part, settings):
                media[-1].append(encoded)
                num_visual += encoded[0].num_slots * encoder.slot_length
                if limit is not None and num_visual > limit:  # a thick document is not drawn to its end
                    raise ContextLengthError(
                        f"The prompt has at least {num_visual} tokens for pictures; the limit is {limit}.",
                        remedy="Use fewer slices, frames or pages, larger frame packs, or a shorter text.",
                    )
        return self._sample(conversation_pieces(messages, self._numbered(media), options), media, encoder)

    def _encode_media(self, part: Part, settings: CallSettings) -> Iterator[Encoded]:
        """Text layout and rows of one part; a document has one picture per page."""
        if isinstance(part, VideoPart):
            geometry = self.image_processor.geometry
            yield self.video_processor.encode(part, settings.media, geometry, settings.policy)
        elif isinstance(part, ImagePart):
            if part.source is None:
                raise MessageError("An image part names no source.", remedy="Give it one, or pass images=[...].")
            loaded = load_image(part.source, policy=settings.policy)
            for note in loaded.notes:
                _LOGGER.warning("%s", note)
            yield self.image_processor.encode(loaded.image, part_options(part).over(settings.media))
        elif isinstance(part, DocumentPart):
            options = part_options(part).over(settings.media)
            source = read_source(part.source, settings.policy)
            pages = render_pages(source, part.pages, dpi=DEFAULT_DPI if options.dpi is None else options.dpi)
            for page in pages:
                yield self.image_processor.encode(page.image, options)
        else:
            raise MessageError(f"{type(part).__name__} has no pixels.", remedy="Use it as text.")

    def _numbered(self, media: Sequence[Sequence[Encoded]]) -> Iterator[list[Piece]]:
        return self._numbered_texts([[text for text, _ in visuals] for visuals in media])

    def _numbered_texts(self, media: Sequence[Sequence[VisualText]]) -> Iterator[list[Piece]]:
        """What stands in the place of each part; pictures and frames are counted over the whole conversation."""
        counted = 0
        for visuals in media:
            pieces: list[Piece] = []
            for position, text in enumerate(visuals):
                if position:
                    pieces.append(Words("\n"))
                pieces += visual_pieces(text, counted, self.image_processor.visual_tokens)
                counted += text.num_frames
            yield pieces

    def _sample(
        self, pieces: Sequence[Piece], media: Sequence[Sequence[Encoded]], encoder: PieceEncoder
    ) -> EncodedSample:
        encoded = encoder.encode(pieces)
        rows = tuple(rows for visuals in media for _, rows in visuals)
        return EncodedSample(encoded.ids, encoded.trained, encoded.slots, rows, encoder.slot_length)

    def _collate(self, samples: Sequence[EncodedSample], settings: CallSettings) -> dict[str, Any]:
        return collate(
            samples,
            settings.padding,
            pad_id=int(self.tokenizer.pad_token_id or 0),
            labels=settings.return_labels,
            assistant_mask=settings.assistant_mask,
            return_tensors=settings.return_tensors,
        )


def _media_parts(messages: Sequence[Message]) -> list[Part]:
    return [part for message in messages for part in message.parts if not isinstance(part, TextPart)]


def _placeholder(part: Part) -> str:
    """What stands for a part in a string."""
    if isinstance(part, DocumentPart):
        if part.pages is None:
            raise MessageError(
                "A document of unknown length has no place in a string.", remedy="Name its pages, or use tokenize=True."
            )
        return "\n".join([IMAGE_PLACEHOLDER] * len(part.pages))
    return VIDEO_PLACEHOLDER if isinstance(part, VideoPart) else IMAGE_PLACEHOLDER


def fill_sources(conversations: list[list[Message]], images: Any, videos: Any) -> list[list[Message]]:
    """Conversations whose parts without a source take the pictures and clips given beside them, in order.

    Raises:
        MessageError: more or fewer media than parts that want one, with both counts.
    """
    if images is None and videos is None:
        return conversations
    texts = [
        "".join(_placeholder(part) for part in _media_parts(messages) if _wants_source(part))
        for messages in conversations
    ]
    image_parts = distribute(texts, images, "image", as_image_part)
    video_parts = distribute(texts, videos, "video", as_video_part)
    filled = []
    for messages, own_images, own_videos in zip(conversations, image_parts, video_parts, strict=True):
        remaining = {ImagePart: iter(own_images), VideoPart: iter(own_videos)}
        filled.append(
            [replace(message, parts=tuple(_filled(part, remaining) for part in message.parts)) for message in messages]
        )
    return filled


def _wants_source(part: Part) -> bool:
    if isinstance(part, VideoPart):
        return part.source is None and part.frames is None
    return isinstance(part, ImagePart) and part.source is None


def _filled(part: Part, remaining: Mapping[Any, Iterator[Any]]) -> Part:
    if isinstance(part, ImagePart) and _wants_source(part):
        return replace(part, source=next(remaining[ImagePart]).source)
    if isinstance(part, VideoPart) and _wants_source(part):
        given: VideoPart = next(remaining[VideoPart])
        return replace(
            part,
            source=given.source,
            frames=given.frames,
            timestamps=given.timestamps,
            temporal_ids=given.temporal_ids,
        )
    return part
