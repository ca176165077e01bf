"""A folder of Hugging Face as a module with random inputs; nothing is fetched, no code of it runs.

The class is the one that config.json names, from the installed transformers; weights are read from
safetensors alone. Inputs are drawn from what the configuration says of them.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import importlib
import inspect
import json
import os
import warnings
from pathlib import Path
from typing import Any

from graphfuse.errors import ModelError, OriginalModelError, UsageError, in_one_line
from graphfuse.integrations.module import torch_module
from graphfuse.system import libraries, machine

IN_BATCH, LENGTH, DECODED = 2, 7, 5
"""Extents of the drawn inputs: each its own, so that none is taken for another's."""

BY_HAND = (
    "write a function that returns the model and its arguments, and name it as "
    "package.module:function"
)

WAVE = 4000
"""Samples of a drawn wave: a quarter of a second, as speech is recorded."""


def from_folder(
    folder: Path, dtype: str, seed: int
) -> tuple[Any, dict[str, Any], tuple[str, ...] | None]:
    """The model of a folder in eval mode, arguments by name, and the names of its outputs.

    Raises ModelError for a folder that is no checkpoint, or asks for code of its own, UsageError
    for a model whose inputs are not known, and ProviderError without torch or transformers.
    """
    # Before huggingface_hub is imported, which reads them once.
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    settings = _settings(folder)
    # In this order: the extra that brings transformers brings PyTorch as well.
    transformers = libraries.transformers()
    torch = torch_module()
    _require_no_code(folder, settings, transformers)
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} has no weights in safetensors",
            "save it with `model.save_pretrained(folder)`: other files run code when they are read",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            transformers.utils.logging.set_verbosity_error()
            transformers.utils.logging.disable_progress_bar()
            model = _kind(settings, transformers).from_pretrained(
                str(folder),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                attn_implementation="eager",
            )
    except Exception as error:
        # transformers raises anything for a folder that is not whole.
        machine.check(error, f"loading {folder}")
        raise ModelError(
            f"transformers cannot load {folder} ({type(error).__name__}: "
            f"{in_one_line(error, 200)})",
            "load it in Python with local_files_only=True first",
        ) from error
    model = model.eval().to(getattr(torch, dtype))
    _without_caches(model)
    given = drawn(torch, model, getattr(torch, dtype), seed)
    return model, given, _outputs(torch, model, given)


def _outputs(torch: Any, model: Any, given: dict[str, Any]) -> tuple[str, ...] | None:
    """What transformers calls the outputs; None where they are no tensors by name.

    Raises OriginalModelError for a model that does not run on what is drawn for it.
    """
    try:
        with torch.no_grad():
            found = model(**given)
    except Exception as error:
        # It may take inputs that are drawn in no way here.
        usual = f"{type(model).__name__} may take other inputs: {BY_HAND}"
        raise OriginalModelError(
            f"{type(model).__name__} does not run on inputs that are drawn for it "
            f"({type(error).__name__}: {in_one_line(error, 160)})",
            machine.remedy(error, "running the model", usual),
        ) from error
    named = dict(found.items()) if hasattr(found, "items") else {}
    plain = bool(named) and all(isinstance(each, torch.Tensor) for each in named.values())
    # An output of an input's name would be a second tensor of it.
    return tuple(named) if plain and not named.keys() & given.keys() else None


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(
            f"{folder} has no config.json", "name a folder that `model.save_pretrained` wrote"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be read ({in_one_line(error, 120)})", "save the model again"
        ) from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} is no configuration", "save the model again")
    return found


def _require_no_code(folder: Path, settings: dict[str, Any], transformers: Any) -> None:
    """Raise ModelError for a model that only code in its folder, or elsewhere, describes."""
    known = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    kind = settings.get("model_type")
    if kind in known:
        return
    if "auto_map" in settings:
        raise ModelError(
            f"{folder} asks for code of its own (auto_map in config.json), and graphfuse runs none",
            f"load it in Python, where you can read that code first: {BY_HAND}",
        )
    raise ModelError(
        f"transformers {transformers.__version__} knows no model of type {kind!r} ({folder})",
        "install the version that the folder was saved with",
    )


def _kind(settings: dict[str, Any], transformers: Any) -> Any:
    """The class that the configuration names; AutoModel where it names none."""
    named = settings.get("architectures")
    if not named:
        return transformers.AutoModel
    name = str(named[0])
    found = getattr(transformers, name, None)
    if found is None:
        # Such as WhisperEncoder: a part that is no class of the package's own list.
        config = transformers.models.auto.configuration_auto.CONFIG_MAPPING[settings["model_type"]]
        home = config.__module__.replace(".configuration_", ".modeling_")
        found = getattr(importlib.import_module(home), name, None)
    base = transformers.PreTrainedModel
    if not isinstance(found, type) or not issubclass(found, base):
        raise ValueError(f"there is no architecture {name!r} in transformers")
    return found


def _without_caches(model: Any) -> None:
    """Keys and values of earlier tokens are objects, and no tensors: none are given."""
    for part in model.modules():
        for name in ("config", "generation_config"):
            config = getattr(part, name, None)
            for each in (config, getattr(config, "text_config", None)):
                if each is not None and hasattr(each, "use_cache"):
                    each.use_cache = False


def drawn(torch: Any, model: Any, dtype: Any, seed: int) -> dict[str, Any]:
    """Arguments by name that a model of Hugging Face takes, random, of small extents.

    Raises UsageError for a model whose main input is of another kind than text, images or sound.
    """
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    taken = inspect.signature(model.forward).parameters
    text = getattr(config, "text_config", None) or config
    main = str(getattr(model, "main_input_name", "input_ids"))
    given: dict[str, Any] = {}

    def tokens(length: int) -> Any:
        words = _number(text, "vocab_size")
        low = min(3, words - 1)  # The first ones are often padding and the like.
        return torch.randint(low, words, (IN_BATCH, length), generator=generator)

    def noise(*shape: int) -> Any:
        return torch.randn(*shape, generator=generator).to(dtype)

    if main == "input_ids" or ("input_ids" in taken and "pixel_values" in taken):
        given["input_ids"] = tokens(LENGTH)
        if "attention_mask" in taken:
            given["attention_mask"] = torch.ones_like(given["input_ids"])
    if main == "pixel_values" or ("input_ids" in given and hasattr(config, "vision_config")):
        given["pixel_values"] = noise(IN_BATCH, *_image(getattr(config, "vision_config", config)))
    if main == "input_features":
        frames = 2 * _number(config, "max_source_positions")
        given["input_features"] = noise(IN_BATCH, _number(config, "num_mel_bins"), frames)
    if main == "input_values":
        given["input_values"] = noise(IN_BATCH, WAVE)
    if not given:
        raise UsageError(
            f"graphfuse cannot draw {main!r}, which {type(model).__name__} takes", BY_HAND
        )
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in taken:
        given["decoder_input_ids"] = tokens(DECODED)
    return given


def _number(config: Any, name: str) -> int:
    found = getattr(config, name, None)
    if not isinstance(found, int) or found < 1:
        raise UsageError(f"the configuration does not say {name}", BY_HAND)
    return found


def _image(config: Any) -> tuple[int, int, int]:
    """Channels, height and width of an image that a vision model takes."""
    size = getattr(config, "image_size", 224)
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return int(getattr(config, "num_channels", 3)), int(height), int(width)
