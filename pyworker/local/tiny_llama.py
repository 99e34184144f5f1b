"""A very small language model as a GGUF file for llama.cpp: words that look like sentences, and mean nothing.

It is a Llama with one layer whose weights are zero, so that only its embedding and its output matrix count:
each token is a unit vector, and row y, column x of the output matrix holds the logarithm of how often y
followed x in a text. The file is written in a moment, and one processor makes hundreds of tokens a second.
"""

from __future__ import annotations

import importlib
import math
import re
import string
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyworker.resources import resource_path

#: Tokens, and so the width of the model too.
VOCABULARY = 1024
#: Positions that a prompt and its response may take in all; a server may be started with fewer.
CONTEXT = 131_072
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:\\n' }}{% endif %}"
)

_SPECIAL = ("<unk>", "<s>", "</s>")
_END_TOKEN = 2
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
_SPACE = "\u2581"  # stands for a space in the vocabulary
_WORD = re.compile(r"[^\W_]+|[.,;:?!]")
_ENDS = frozenset(".?!")
_ATTENTION = 32  # width of its one head
_FEED_FORWARD = 32
#: Logarithm of the probability of what never followed.
_NEVER = -30.0
#: How often a sentence is the last one, as a share of the sentences.
_LAST = 0.3


def write_model(path: Path, *, text: str | None = None) -> None:
    """Write the file. text: what to learn from; the handbook that ships if it is None.

    Needs the packages gguf and numpy.
    """
    words = _WORD.findall(text or resource_path("handbook.txt").read_text("utf-8"))
    tokens = _vocabulary(words)
    gguf: Any = importlib.import_module("gguf")
    writer = gguf.GGUFWriter(str(path), "llama")
    _add_shape(writer)
    _add_vocabulary(writer, gguf.TokenType, tokens)
    for name, tensor in _tensors(tokens, words).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _vocabulary(words: Sequence[str]) -> list[str]:
    """Special tokens, every byte, the printable characters of ASCII, and the most frequent words."""
    characters = [character for character in string.printable if character.isprintable() and character != " "]
    begun = [*_SPECIAL, *_BYTES, _SPACE, *characters]
    frequent = (_SPACE + word for word, _ in Counter(words).most_common() if word[0].isalnum())
    known = [*begun, *list(frequent)[: VOCABULARY - len(begun)]]
    return [*known, *(f"<unused{number}>" for number in range(VOCABULARY - len(known)))]


def _add_shape(writer: Any) -> None:
    writer.add_name("pyworker tiny llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(VOCABULARY)
    writer.add_block_count(1)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_key_length(_ATTENTION)
    writer.add_value_length(_ATTENTION)
    writer.add_rope_dimension_count(_ATTENTION)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(VOCABULARY)
    writer.add_file_type(0)  # all of it is float32


def _add_vocabulary(writer: Any, kind: Any, tokens: Sequence[str]) -> None:
    kinds = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL, *[kind.BYTE] * len(_BYTES)]
    rest = tokens[len(kinds) :]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(
        [*kinds, *(kind.UNUSED if token.startswith("<unused") else kind.NORMAL for token in rest)]
    )
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(_END_TOKEN)
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT_TEMPLATE)


def _tensors(tokens: Sequence[str], words: Iterable[str]) -> Mapping[str, Any]:
    numpy: Any = importlib.import_module("numpy")
    width = len(tokens)

    def zeros(*shape: int) -> Any:
        return numpy.zeros(shape, numpy.float32)

    ones = numpy.ones(width, numpy.float32)
    return {
        "token_embd.weight": numpy.eye(width, dtype=numpy.float32),
        "blk.0.attn_norm.weight": ones,
        "blk.0.attn_q.weight": zeros(_ATTENTION, width),
        "blk.0.attn_k.weight": zeros(_ATTENTION, width),
        "blk.0.attn_v.weight": zeros(_ATTENTION, width),
        "blk.0.attn_output.weight": zeros(width, _ATTENTION),
        "blk.0.ffn_norm.weight": ones,
        "blk.0.ffn_gate.weight": zeros(_FEED_FORWARD, width),
        "blk.0.ffn_up.weight": zeros(_FEED_FORWARD, width),
        "blk.0.ffn_down.weight": zeros(width, _FEED_FORWARD),
        "output_norm.weight": ones,
        "output.weight": _logits(numpy, tokens, words),
    }


def _logits(numpy: Any, tokens: Sequence[str], words: Iterable[str]) -> Any:
    """The output matrix. Normalized, a unit vector of n dimensions is √n long, hence the division."""
    number = {token: index for index, token in enumerate(tokens)}
    following = _following(number, words)
    openings = {after: count for after, count in following[number["."]].items() if after != _END_TOKEN}
    matrix = numpy.full((len(tokens), len(tokens)), _NEVER, numpy.float32)
    for before in range(len(tokens)):
        # What is no word of the text, such as the last character of a prompt, is followed by an opening.
        counts = following.get(before) or openings
        total = sum(counts.values())
        for after, count in counts.items():
            matrix[after, before] = math.log(count / total)
    return matrix / math.sqrt(len(tokens))


def _following(number: Mapping[str, int], words: Iterable[str]) -> Mapping[int, Mapping[int, float]]:
    """How often which token followed which one. Every end of a sentence counts as a full stop.

    A response ends only behind a full stop, since most prompts end with a question mark.
    """
    counts: defaultdict[int, Counter[int]] = defaultdict(Counter)
    stop = number["."]
    before = stop
    for word in words:
        after = number.get(_SPACE + word if word[0].isalnum() else word)
        if after is not None:
            counts[before][after] += 1
            before = stop if word in _ENDS else after
    openings = counts[stop]
    end = {_END_TOKEN: _LAST / (1 - _LAST) * sum(openings.values())}
    return {**counts, stop: {**openings, **end}}
