"""The options for lengths, shared prefixes and conversations."""

from __future__ import annotations

import argparse
import functools
import re

from pyworker.loadtest.answers import OPENAI
from pyworker.loadtest.argument_types import whole
from pyworker.loadtest.distribution import FORMS, Distribution
from pyworker.loadtest.fields import OPTION, parsed_fields
from pyworker.loadtest.shape import MOST_PREFIX_TOKENS, ShapePlan
from pyworker.loadtest.talk import LONGEST_THINKING, MOST_TURNS, TalkPlan
from pyworker.loadtest.texts import LONGEST
from pyworker.loadtest.trace import Trace


def add_shape(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("lengths and conversations", f"NUMBERS are {FORMS}")
    tokens = functools.partial(_numbers, least=1, most=LONGEST)
    group.add_argument(
        "--input-tokens",
        type=tokens,
        metavar="NUMBERS",
        help="send texts of so many tokens in INPUT of --fields",
    )
    group.add_argument(
        "--output-tokens", type=tokens, metavar="NUMBERS", help="ask for so many in OUTPUT of --fields"
    )
    group.add_argument(
        "--fields",
        "--trace-fields",
        type=_fields,
        metavar="INPUT,OUTPUT",
        help="where these stand in a payload, or the lengths of --trace: such as prompt,max_tokens or "
        "messages.0.content,max_tokens; a third one is where a prefix stands, if not before the input",
    )
    group.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="that counts: a hub id, a folder or a tokenizer.json (default: the one by which the worker "
        "counts workload, if it does)",
    )
    group.add_argument(
        "--prefix-tokens", type=whole, metavar="N", help="begin each request with a shared text of N tokens"
    )
    group.add_argument(
        "--prefixes", type=whole, metavar="K", help="with one of K such texts, at random (default: 1)"
    )
    group.add_argument(
        "--turns",
        type=functools.partial(_numbers, least=1, most=MOST_TURNS),
        metavar="NUMBERS",
        help="hold conversations of so many turns, each in a session of the worker: the answer and the next "
        "question are appended to the messages. -n, -rps and --concurrency then count conversations",
    )
    group.add_argument(
        "--think",
        type=functools.partial(_numbers, least=0, most=LONGEST_THINKING),
        metavar="NUMBERS",
        help="seconds between an answer and the next question (default: 0)",
    )
    group.add_argument(
        "--answer",
        type=_path,
        metavar="FIELD",
        help="where an answer stands in a response or an event of a stream "
        f"(default: OpenAI's, {', '.join(OPENAI)})",
    )


def shape_from(
    parser: argparse.ArgumentParser, options: argparse.Namespace, trace: Trace | None
) -> ShapePlan | None:
    """None if no lengths are asked for; ends the program if options contradict each other."""
    if options.prefixes is not None and options.prefix_tokens is None:
        parser.error("--prefixes needs --prefix-tokens N")
    prefixes, prefix_tokens = options.prefixes or 1, options.prefix_tokens or 0
    if prefixes * prefix_tokens > MOST_PREFIX_TOKENS:
        parser.error(f"--prefixes times --prefix-tokens is more than {MOST_PREFIX_TOKENS}")
    drawn = options.input_tokens is not None or options.output_tokens is not None
    traced = trace is not None and options.fields is not None
    if trace is not None and drawn:
        parser.error("--trace has lengths of its own: leave out --input-tokens and --output-tokens")
    if not (drawn or traced or prefix_tokens):
        _unused(parser, options)
        return None
    if options.fields is None:
        parser.error(
            "say where the lengths stand in a payload: --fields INPUT,OUTPUT such as prompt,max_tokens"
        )
    if len(options.fields) < 2 and (traced or options.output_tokens is not None):
        parser.error(f"{OPTION} has no second name, where the output's length stands")
    if len(options.fields) == 3 and not prefix_tokens:
        parser.error(f"{OPTION} has a third name, for --prefix-tokens")
    return ShapePlan(
        fields=options.fields,
        input=options.input_tokens,
        output=options.output_tokens,
        trace=trace if traced else None,
        prefix_tokens=prefix_tokens,
        prefixes=prefixes,
        tokenizer=options.tokenizer,
    )


def _unused(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.fields is not None and options.turns is None:
        parser.error(f"{OPTION} is for --trace, --input-tokens, --output-tokens, --prefix-tokens and --turns")
    if options.tokenizer is not None:
        parser.error("--tokenizer is for --input-tokens and --prefix-tokens, and --trace with --fields")


def talk_from(parser: argparse.ArgumentParser, options: argparse.Namespace) -> TalkPlan | None:
    """None without --turns; ends the program if options contradict each other."""
    if options.turns is None:
        for name in ("think", "answer"):
            if getattr(options, name) is not None:
                parser.error(f"--{name} is for --turns")
        return None
    if options.trace is not None:
        parser.error("--trace says when each request is sent, and --turns sends when an answer has come")
    if options.sweep and options.concurrency is None:
        parser.error("--turns with --sweep needs --concurrency N: users, each with a conversation")
    messages = "messages"
    if options.fields is not None:
        found = re.fullmatch(r"(.+?)\.\d+(?:\..*)?", options.fields[0])
        if found is None:
            parser.error(
                f"{OPTION}: with --turns the input has to be in a list of messages: messages.0.content"
            )
        messages = found[1]
    return TalkPlan(
        turns=options.turns,
        think=options.think,
        messages=messages,
        answer=OPENAI if options.answer is None else (options.answer,),
    )


def _numbers(text: str, *, least: float, most: float) -> Distribution:
    try:
        return Distribution.parsed(text, least, most)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _fields(text: str) -> tuple[str, ...]:
    try:
        return parsed_fields(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _path(text: str) -> str:
    if not all(text.split(".")):
        raise argparse.ArgumentTypeError(f"{text!r} is no field, such as choices.0.message.content")
    return text
