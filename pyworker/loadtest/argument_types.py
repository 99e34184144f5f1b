"""What the options of a load test may say: each parser raises `ArgumentTypeError` with what is wrong."""

from __future__ import annotations

import argparse
import math
import re

from pyworker.loadtest.arrivals import Rate
from pyworker.loadtest.objective import Objective
from pyworker.loadtest.search import Steps


def whole(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def not_negative(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number")
    return int(text)


def ramp(text: str) -> Rate:
    fault = f"{text} is no ramp; it is FROM:TO:SECONDS, such as 1:50:600"
    try:
        first, last, seconds = (float(part) for part in text.split(":"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(fault) from error
    finite = all(math.isfinite(number) and number >= 0 for number in (first, last, seconds))
    if not finite or first + last <= 0 or seconds <= 0:
        raise argparse.ArgumentTypeError(fault)
    return Rate(first, last, seconds)


def slo(text: str) -> Objective:
    try:
        return Objective.parsed(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def share(text: str) -> float:
    number, percent, rest = text.partition("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = -1.0
    if rest or not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share; it is from 0 to 1, or from 0% to 100%")
    return share


def steps(text: str) -> Steps:
    try:
        return Steps.parsed(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not (math.isfinite(number) and number >= 0):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return number
