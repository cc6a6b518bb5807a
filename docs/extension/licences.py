"""The licences of the packages that an installed one brings, from their own metadata."""

from __future__ import annotations

from importlib.metadata import Distribution, distribution
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = "cleveragents-plans"
#: What a user installs; the others are for those who develop it.
EXTRAS = ("", "asyncio", "cli", "postgresql", "yaml")


class Licence(NamedTuple):
    """A package that is installed with this one, on this platform."""

    package: str
    #: As it stands in its metadata: an SPDX expression, a text, or a classifier.
    licence: str
    #: The extra that brings it; "" if it always comes.
    extra: str


def licences() -> list[Licence]:
    """List the packages that each extra brings, and theirs."""
    found: dict[str, Licence] = {}
    for extra in EXTRAS:
        pending = _required(PACKAGE, {extra})
        while pending:
            name, extras = pending.popitem()
            if name not in found:
                found[name] = Licence(name, _licence(distribution(name)), extra)
                pending |= _required(name, extras)
    return sorted(found.values(), key=lambda each: (EXTRAS.index(each.extra), each.package))


def _required(package: str, extras: set[str]) -> dict[str, set[str]]:
    """List what *package* requires here with *extras*, and with which extras of its own."""
    required = [Requirement(text) for text in distribution(package).requires or ()]
    return {
        canonicalize_name(each.name): each.extras
        for each in required
        if each.marker is None
        or any(each.marker.evaluate({"extra": extra}) for extra in extras | {""})
    }


def _licence(package: Distribution) -> str:
    metadata = package.metadata
    for field in ("License-Expression", "License"):
        if metadata[field]:
            return str(metadata[field])
    classifiers = metadata.get_all("Classifier") or []
    said = [text.rpartition(" :: ")[2] for text in classifiers if text.startswith("License :: ")]
    return said[0] if said else "not said"
