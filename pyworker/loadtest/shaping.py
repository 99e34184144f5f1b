"""Makes the payloads as the options want them."""

from __future__ import annotations

from pyworker.loadtest.payloads import Payloads
from pyworker.loadtest.plan import Plan
from pyworker.loadtest.shape import Shape
from pyworker.loadtest.texts import Texts
from pyworker.loadtest.tokens import counting


def shaped(plan: Plan, payloads: Payloads) -> tuple[Payloads, str]:
    """With lengths and prefixes, and who counted their tokens; checked for conversations.

    Raises `ConfigError` if a payload has no place for something.
    """
    by = ""
    if plan.shape is not None:
        seed = plan.seed or 0
        count = None
        if plan.shape.has_text:
            tokens = counting(plan.shape.tokenizer, payloads.kind)
            count, by = tokens.count, tokens.by
        payloads = payloads.shaped(Shape(plan.shape, Texts(count, seed), seed))
    if plan.talk is not None:
        plan.talk.check(payloads)
    return payloads, by
