"""The tokenizer of a checkpoint, loaded and saved without remote code and without loss.

The released 4.5 folder names a tokenizer class of its own; it is Qwen2's byte-level BPE with names for the visual
tokens. `MiniCPMVTokenizerFast` is that class here, built on transformers'. Transformers 5 writes a configuration that
older versions, and so the official code, cannot read; `save_pretrained` adds the files in the form of the release.
A checkpoint of the Llama type (4.0) keeps whatever its tokenizer.json says.
"""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer
from transformers.utils.hub import cached_file

from minicpmv.errors import CheckpointNotFoundError

_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
_TRANSIENT = ("backend", "is_local", "local_files_only", "processor_class", "files_loaded", "name_or_path")


class MiniCPMVTokenizerFast(Qwen2Tokenizer):  # type: ignore[misc, unused-ignore]  # transformers is partly untyped
    """Byte-level BPE of MiniCPM-V 4.5, with the names that its code uses for the visual tokens."""

    im_start = "<image>"
    im_end = "</image>"
    slice_start = "<slice>"
    slice_end = "</slice>"
    im_id_start = "<image_id>"
    im_id_end = "</image_id>"

    def save_pretrained(  # type: ignore[override]  # the arguments between are passed through
        self, save_directory: str | Path, *args: Any, **kwargs: Any
    ) -> tuple[str, ...]:
        """Write tokenizer.json and, in the form of the release, the configuration and vocabulary files.

        Args:
            save_directory: folder to write to; made if absent.
            *args: as in transformers.
            **kwargs: as in transformers; the chat template is always part of tokenizer_config.json, as released.

        Returns:
            The files written.
        """
        kwargs["save_jinja_files"] = False
        written = super().save_pretrained(save_directory, *args, **kwargs)
        folder = Path(save_directory)
        model = json.loads(self.backend_tokenizer.to_str())["model"]
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        contents = {
            "tokenizer_config.json": _dump(self._released_config(folder)),
            "special_tokens_map.json": _dump(self._released_special_tokens()),
            "added_tokens.json": _dump(self._released_added_tokens(len(model["vocab"]))),
            "vocab.json": json.dumps(model["vocab"], ensure_ascii=False),
            "merges.txt": "\n".join(["#version: 0.2", *merges, ""]),
        }
        for name, content in contents.items():
            (folder / name).write_text(content, encoding="utf-8")
        return tuple(dict.fromkeys([*written, *(str(folder / name) for name in contents)]))

    def _added(self) -> dict[int, dict[str, Any]]:
        """Every added token by id, as the release writes it."""
        keys = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
        return {
            index: {key: getattr(token, key) for key in keys}
            for index, token in sorted(self.added_tokens_decoder.items())
        }

    def _named(self) -> list[str]:
        """Extra special tokens in the order of the release."""
        named = [str(token) for token in self.extra_special_tokens]
        if named:
            return named
        # The released file lists them and has an empty newer key as well, which transformers 5.17 believes.
        special = [token["content"] for token in self._added().values() if token["special"]]
        return [name for name in special if not name.startswith("<|") or name.startswith("<|reserved")]

    def _released_config(self, folder: Path) -> dict[str, Any]:
        config: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        for key in _TRANSIENT:
            config.pop(key, None)
        return config | {
            "add_bos_token": bool(self.init_kwargs.get("add_bos_token", False)),
            "added_tokens_decoder": {str(index): token for index, token in self._added().items()},
            "additional_special_tokens": self._named(),
            "extra_special_tokens": {},
            "split_special_tokens": bool(config.get("split_special_tokens", False)),
            "tokenizer_class": "MiniCPMVTokenizerFast",
        }

    def _released_special_tokens(self) -> dict[str, Any]:
        described = {
            token["content"]: {key: value for key, value in token.items() if key != "special"}
            for token in self._added().values()
        }
        names = {"eos_token": self.eos_token, "pad_token": self.pad_token}
        return {
            "additional_special_tokens": [described[name] for name in self._named()],
            **{key: described[name] for key, name in names.items() if name in described},
        }

    def _released_added_tokens(self, vocabulary: int) -> dict[str, int]:
        added = {token["content"]: index for index, token in self._added().items() if index >= vocabulary}
        return dict(sorted(added.items()))


def _dump(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def load_tokenizer(name_or_path: str | Path, **kwargs: Any) -> Any:
    """The tokenizer of a checkpoint folder or hub id, whatever family it belongs to; no remote code is run.

    Args:
        name_or_path: folder or hub id.
        **kwargs: hub options, as in transformers.

    Raises:
        CheckpointNotFoundError: the folder has no tokenizer.
    """
    hub = {key: kwargs[key] for key in _HUB_OPTIONS if kwargs.get(key) is not None}
    found = {
        name: cached_file(str(name_or_path), name, _raise_exceptions_for_missing_entries=False, **hub)
        for name in ("tokenizer.json", "vocab.json")
    }
    if found["vocab.json"] is not None or (found["tokenizer.json"] and _is_byte_level(found["tokenizer.json"])):
        return MiniCPMVTokenizerFast.from_pretrained(name_or_path, trust_remote_code=False, **hub)
    if found["tokenizer.json"] is None:
        raise CheckpointNotFoundError(
            f"{name_or_path} has neither vocab.json nor tokenizer.json.",
            remedy="Give a folder or hub id of a MiniCPM-V checkpoint.",
        )
    return PreTrainedTokenizerFast.from_pretrained(name_or_path, trust_remote_code=False, **hub)


def _is_byte_level(path: str) -> bool:
    decoder = json.loads(Path(path).read_text(encoding="utf-8")).get("decoder") or {}
    return bool(decoder.get("type") == "ByteLevel")
