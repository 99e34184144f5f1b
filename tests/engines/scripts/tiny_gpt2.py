"""Runs under the Python of the engines: `tiny_gpt2.py FOLDER` makes a tiny random chat model there.

Its positions are learned, so a prompt that is longer than them makes the model fail. It never ends by itself.
Written without torch, whose import takes most of a minute on a busy machine.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

POSITIONS = 2048
_WIDTH = 64
_VOCABULARY = 384
_TEXT = [
    "A server is a patient clerk behind a counter.",
    "The queue is short in the morning, and long at noon.",
    "system user assistant: Hello! What is a tide? 0123456789",
]
_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
_CONFIG = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "n_positions": POSITIONS,
    "n_embd": _WIDTH,
    "n_layer": 1,
    "n_head": 2,
    "bos_token_id": None,
    "eos_token_id": None,
}
_TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "model_max_length": POSITIONS,
    "chat_template": _TEMPLATE,
}


def tokenizer() -> Any:
    """Of bytes and some merged pairs, trained on the spot."""
    tokenizers: Any = importlib.import_module("tokenizers")
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = byte_level
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=_VOCABULARY, initial_alphabet=byte_level.alphabet(), show_progress=False
    )
    made.train_from_iterator(_TEXT, trainer)
    return made


def weights(words: int) -> dict[str, Any]:
    """Random ones, by the names of this architecture."""
    numpy: Any = importlib.import_module("numpy")
    random = numpy.random.default_rng(14)

    def matrix(rows: int, columns: int) -> Any:
        return random.normal(0, 0.02, (rows, columns)).astype(numpy.float32)

    def zeros(count: int) -> Any:
        return numpy.zeros(count, numpy.float32)

    made = {
        "transformer.wte.weight": matrix(words, _WIDTH),
        "transformer.wpe.weight": matrix(POSITIONS, _WIDTH),
    }
    for name in ("h.0.ln_1", "h.0.ln_2", "ln_f"):
        made[f"transformer.{name}.weight"] = zeros(_WIDTH) + 1
        made[f"transformer.{name}.bias"] = zeros(_WIDTH)
    layers = {"attn.c_attn": (1, 3), "attn.c_proj": (1, 1), "mlp.c_fc": (1, 4), "mlp.c_proj": (4, 1)}
    for name, (before, after) in layers.items():
        made[f"transformer.h.0.{name}.weight"] = matrix(before * _WIDTH, after * _WIDTH)
        made[f"transformer.h.0.{name}.bias"] = zeros(after * _WIDTH)
    return made


def main(folder: Path) -> None:
    """Write tokenizer, configuration and weights."""
    safetensors: Any = importlib.import_module("safetensors.numpy")
    folder.mkdir()
    words = tokenizer()
    words.save(str(folder / "tokenizer.json"))
    texts = {
        "config.json": {**_CONFIG, "vocab_size": words.get_vocab_size()},
        "generation_config.json": {"do_sample": True, "eos_token_id": None},
        "tokenizer_config.json": _TOKENIZER,
    }
    for name, content in texts.items():
        (folder / name).write_text(json.dumps(content), "utf-8")
    safetensors.save_file(
        weights(words.get_vocab_size()), str(folder / "model.safetensors"), metadata={"format": "pt"}
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
