"""An LLM in a GGUF file to transformers' layout."""

from __future__ import annotations

from pathlib import Path

from stages.errors import ModelError

END_OF_TURN = "<|im_end|>"


def convert(gguf: Path, target: Path, remedy: str) -> None:
    """Write the causal LLM in the file ``gguf`` into the existing folder ``target`` as safetensors with its tokenizer.

    transformers dequantises GGUF but refuses to save the result (it still counts as quantised), so the weights move into a
    fresh model of the same configuration. float16 on disk: its rounding is far below that of the 4-bit file.
    Raises ModelError, which ``remedy`` ends.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    try:
        source = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except (OSError, ValueError, KeyError, IndexError, RuntimeError, EOFError) as error:
        size = gguf.stat().st_size if gguf.is_file() else 0
        raise ModelError(
            f"{gguf}: not readable as a causal LLM in GGUF ({size} bytes; {type(error).__name__}: {error}). {remedy}"
        ) from error
    config = source.config.__class__.from_dict(
        {
            key: value
            for key, value in source.config.to_dict().items()
            if key not in ("quantization_config", "_name_or_path")
        }
    )
    state = source.state_dict()
    with torch.device("meta"):
        model = type(source)(config)
    model.load_state_dict({name: value.to(torch.float16) for name, value in state.items()}, strict=True, assign=True)
    model.tie_weights()
    model.config.dtype = torch.float16
    end = (
        tokenizer.convert_tokens_to_ids(END_OF_TURN) if END_OF_TURN in tokenizer.get_vocab() else tokenizer.eos_token_id
    )
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=end, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
