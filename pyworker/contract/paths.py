"""The rules of an app: which view is on which path, and for which methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pyworker.contract.handlers import named, variables_of
from pyworker.contract.places import place_of
from pyworker.data_types import EndpointHandler
from pyworker.errors import ConfigError

# Flask adds them.
_IMPLIED = {"HEAD", "OPTIONS"}


@dataclass(frozen=True)
class Registered:
    """One rule of the app. handler: None for a view that is not one of a handler."""

    path: str
    methods: frozenset[str]
    variables: frozenset[str]
    view: Callable[..., Any]
    handler: EndpointHandler[Any] | None

    @property
    def name(self) -> str:
        return place_of(self.view) if self.handler is None else named(self.handler)


def check_paths(rules: Iterable[Registered]) -> None:
    """Raise `ConfigError` for two views on one path, and for a view that is registered for another method
    than its handler's.
    """
    problems: list[str] = []
    taken: dict[tuple[str, str], Registered] = {}
    for rule in rules:
        own = rule.methods - _IMPLIED
        if rule.handler is not None and list(own) != [rule.handler.method]:
            problems.append(
                f"{rule.name} is registered at {rule.path} for {', '.join(sorted(own))}, but it is for "
                f'{rule.handler.method}: write methods=["{rule.handler.method}"], or another method in its '
                "class"
            )
        if rule.handler is not None and (missing := variables_of(rule.handler.endpoint) - rule.variables):
            problems.append(
                f"{rule.name} has the variable {', '.join(sorted(missing))} in its endpoint "
                f"{rule.handler.endpoint}, but is registered at {rule.path}: give both the same variables"
            )
        for method in sorted(own):
            first = taken.setdefault((rule.path, method), rule)
            if first is not rule:
                problems.append(
                    f"{rule.name} and {first.name} are both at {method} {rule.path}: give one of them "
                    "another path"
                )
    if problems:
        raise ConfigError(*problems)


def registered(
    rules: Iterable[Any],
    views: Mapping[str, Callable[..., Any]],
    handlers: Mapping[Callable[..., Any], EndpointHandler[Any]],
) -> Iterable[Registered]:
    """The rules of Flask's URL map. views: by endpoint; handlers: of those that are views of handlers."""
    for rule in rules:
        view = views[rule.endpoint]
        methods, names = frozenset[str](rule.methods or ()), frozenset[str](rule.arguments)
        yield Registered(rule.rule, methods, names, view, handlers.get(view))
