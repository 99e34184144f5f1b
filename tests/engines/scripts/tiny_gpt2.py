"""Runs under a Python that has transformers and torch: `tiny_gpt2.py FOLDER` makes a tiny random model there.

Its positions are learned, so a prompt that is longer than them makes the model fail. It never ends by itself.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

POSITIONS = 2048
TEXT = [
    "A server is a patient clerk behind a counter.",
    "The queue is short in the morning, and long at noon.",
    "system user assistant: Hello! What is a tide? 0123456789",
]
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


def tokenizer() -> Any:
    """Of bytes and a few merged pairs, trained on the spot."""
    tokenizers: Any = importlib.import_module("tokenizers")
    transformers: Any = importlib.import_module("transformers")
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = byte_level
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=384, initial_alphabet=byte_level.alphabet(), show_progress=False
    )
    made.train_from_iterator(TEXT, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, chat_template=TEMPLATE, model_max_length=POSITIONS
    )


def main(folder: str) -> None:
    """Write tokenizer, configuration and weights."""
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    torch.manual_seed(14)
    words = tokenizer()
    config = transformers.GPT2Config(
        vocab_size=len(words),
        n_positions=POSITIONS,
        n_embd=64,
        n_layer=2,
        n_head=2,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = transformers.GPT2LMHeadModel(config)
    model.generation_config.do_sample = True
    model.save_pretrained(folder)
    words.save_pretrained(folder)


if __name__ == "__main__":
    main(sys.argv[1])
