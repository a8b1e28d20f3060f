"""Load a base, its tokenizer and an adapter from local folders; never from a hub, never with remote code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from workbench import paths
from workbench.bases.files import TEMPLATE_BYTES, loadable
from workbench.errors import IntegrityError, UsageError
from workbench.peft_layout import WEIGHTS

__all__ = [
    "PLAIN_TEMPLATE",
    "compute_dtype",
    "device",
    "has_bf16_units",
    "first_line",
    "load_adapter",
    "load_base",
    "load_tokenizer",
    "misfits",
    "set_threads",
]

# For bases that come without a chat template: plain words and the end-of-text token only, so no vocabulary is added.
PLAIN_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '### Answer:\\n' + message['content'] + eos_token + '\\n\\n' }}"
    "{% elif message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
    "{% else %}{{ '### Question:\\n' + message['content'] + '\\n\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Answer:\\n' }}{% endif %}"
)


def device() -> torch.device:
    """The GPU when torch can use one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")


def has_bf16_units(on: torch.device | None = None) -> bool:
    """True where bfloat16 matrix products run in hardware; emulated ones are some thirty times slower than float32."""
    on = on or device()
    if on.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if on.type == "mps":
        return True
    return any(present is True for unit, present in torch.cpu.get_capabilities().items() if "bf16" in unit)


def compute_dtype(bf16: bool | None) -> torch.dtype:
    """The dtype to compute in: as told, else bfloat16 where the machine has units for it, else float32."""
    wanted = has_bf16_units() if bf16 is None else bf16
    return torch.bfloat16 if wanted else torch.float32


def set_threads(threads: int | None = None) -> int:
    """Use `threads` CPU threads, else `OMP_NUM_THREADS`, else torch's own choice (one a core). Returns the number."""
    number = threads or paths.wanted_threads() or torch.get_num_threads()
    torch.set_num_threads(number)
    return number


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a base or adapter folder: with a pad token, right padding and a chat template.

    Raises `UsageError` when it cannot be read, has a chat template that is too long, or no fast tokenizer, because labels are
    placed by character offsets.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except MemoryError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of the tokenizers library
            raise
        raise UsageError(f"There is no tokenizer in {folder} that can be read: {first_line(error)}") from None
    templates = tokenizer.chat_template
    for text in templates.values() if isinstance(templates, dict) else [templates or ""]:
        if len(str(text)) > TEMPLATE_BYTES:
            raise UsageError(f"The chat template in {folder} is longer than {TEMPLATE_BYTES:,} characters.", hint="Replace it.")
    if not tokenizer.is_fast:
        raise UsageError(f"The tokenizer in {folder} has no tokenizer.json.", hint="Convert it with transformers and add the base again.")
    if tokenizer.eos_token is None:
        raise UsageError(f"The tokenizer in {folder} has no end-of-text token.", hint="Set eos_token in its tokenizer_config.json.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not tokenizer.chat_template:
        tokenizer.chat_template = PLAIN_TEMPLATE
    tokenizer.padding_side = "right"
    return tokenizer


def load_base(folder: Path, *, dtype: torch.dtype, quantized: str | None = None, nested: bool = False, attn: str | None = None) -> Any:
    """The base in `folder` as a causal language model in eval mode, on `device()`.

    `dtype` is the dtype of the weights (with `quantized`, "nf4" or "fp4": of the products with the dequantised weights;
    `nested` quantises the quantisation constants too).
    `attn` is transformers' `attn_implementation`. Raises `IntegrityError` when weights are torn, missing or do not fit.
    """
    quantization = None
    if quantized is not None:
        if quantized not in {"nf4", "fp4"}:
            raise UsageError(f"'{quantized}' is no 4-bit type.", hint="Use nf4 or fp4.")
        quantization = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type=quantized, bnb_4bit_compute_dtype=dtype, bnb_4bit_use_double_quant=nested
        )
    transformers_logging.disable_progress_bar()  # one line per weight says nothing in a job's log
    files = loadable(folder)
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        config.transformers_weights = files[0].name if files[0].name == "model.safetensors" else "model.safetensors.index.json"
        config._experts_implementation = None  # the file may not decide what code runs, as `attn` below
        model, info = AutoModelForCausalLM.from_pretrained(
            str(folder),
            config=config,
            dtype=dtype,
            quantization_config=quantization,
            attn_implementation=attn,
            device_map={"": device()} if quantized else None,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise IntegrityError(f"The base in {folder} cannot be loaded: {first_line(error)}", hint="Check it: workbench base show") from None
    if wrong := misfits(info):
        raise IntegrityError(
            f"The weights in {folder} do not fit their config.json: {', '.join(wrong[:8])}.", hint="Check it: workbench base show"
        )
    model.config.use_cache = True
    return (model if quantized else model.to(device())).eval()


def misfits(info: dict[str, Any]) -> list[str]:
    """Of a model's `output_loading_info`: what in it is random numbers, because the files have no such weights."""
    return [f"missing {key}" for key in sorted(info["missing_keys"])] + [f"misshapen {key[0]}" for key in info["mismatched_keys"]]


def load_adapter(model: Any, folder: Path, *, trainable: bool = False) -> Any:
    """Put the PEFT adapter in `folder` on `model` and return the wrapped model, in eval mode.

    Only safetensors are read. Raises `IntegrityError`, naming every key, unless each weight of the file found its
    module and each module its weight: PEFT itself would go on with an adapter that does nothing.
    """
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers
    from safetensors.torch import load_file

    weights = folder / WEIGHTS
    if not weights.is_file():
        raise IntegrityError(f"There is no {WEIGHTS} in {folder}.", hint="Only adapters saved as safetensors are loaded.")
    config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = not trainable
    try:
        wrapped = get_peft_model(model, config)
    except ValueError as error:
        raise IntegrityError(f"The adapter in {folder} does not fit this base: {first_line(error)}") from None
    wanted = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    # experts saved one by one, as transformers 4 held them, become what this version holds; anything else stays as it is
    state = convert_peft_adapter_state_dict_for_transformers(wrapped, wrapped.peft_config["default"], load_file(weights))
    problems = [f"no weight for {key}" for key in sorted(wanted.keys() - state.keys())]
    problems += [f"no module for {key}" for key in sorted(state.keys() - wanted.keys())]
    problems += [
        f"{key} is {tuple(state[key].shape)}, not {tuple(wanted[key].shape)}"
        for key in sorted(state.keys() & wanted.keys())
        if state[key].shape != wanted[key].shape
    ]
    if problems or not state:
        listed = "\n  - ".join(problems or ["the file holds no weights"])
        raise IntegrityError(f"The adapter in {folder} does not fit this base:\n  - {listed}")
    set_peft_model_state_dict(wrapped, state)
    return wrapped.to(device()) if trainable else wrapped.to(device()).eval()


def first_line(error: BaseException) -> str:
    """Of a library's error, the line that says what is wrong; the rest is advice about hubs."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
