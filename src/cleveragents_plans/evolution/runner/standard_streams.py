"""Standard output, the result of a command, and the streams of a process that has not got all."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO, TextIOWrapper
from typing import TextIO

from alembic.config import Config

from cleveragents_plans.evolution.errors import EvolutionError


def have_standard_streams(config: Config | None = None) -> None:
    """
    Open the null device for each standard stream that is closed, for this process.

    Otherwise the next file or socket, the database's, would get its number, and what a C
    library writes to standard error would go there. Python has None for such a stream, and so
    has *config*; Alembic expects neither.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115
    if config is not None:
        config.stdout = config.stdout or sys.stdout


@contextmanager
def standard_output() -> Iterator[None]:
    """
    Write the result of a command; the reader may leave (``| head``).

    Raises:
        EvolutionError: Not all could be written, for another reason.
    """
    try:
        with _blocking(sys.stdout):
            yield
            sys.stdout.flush()
    except BrokenPipeError:
        # What Python still has to write would make the exit status 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.filename is not None:  # a file's
            raise
        raise EvolutionError(
            f"standard output cannot be written to ({error.strerror}), so the result is not "
            "whole; let it go elsewhere and run the same command again"
        ) from error


@contextmanager
def _blocking(stream: TextIO) -> Iterator[None]:
    """
    Let writes to *stream* wait for its reader.

    The parent process may have made the pipe non-blocking; what does not fit into it would be
    lost, and Python does not say so.
    """
    try:
        number = stream.fileno()
        former = os.get_blocking(number)
    except (AttributeError, OSError, ValueError):  # of whatever an application put in its place
        yield
        return
    os.set_blocking(number, True)
    try:
        yield
    finally:
        os.set_blocking(number, former)


@contextmanager
def alembic_output(config: Config) -> Iterator[None]:
    """
    Write what Alembic prints, at the end of the block: it passes over what cannot be written.

    Raises:
        EvolutionError: See `standard_output`.
    """
    stream = config.stdout
    encoding = getattr(stream, "encoding", None) or "ascii"
    with TextIOWrapper(BytesIO(), encoding, newline="") as printed:
        config.stdout = printed
        try:
            yield
        finally:
            config.stdout = stream
        printed.flush()
        text = printed.buffer.getvalue().decode(encoding)
    with standard_output():
        stream.write(text)


def log_level(config: Config) -> int | None:
    """Tell what is written to standard error, as a level of logging; None is nothing."""
    level: int | None = config.attributes.get("level", logging.INFO)
    return logging.WARNING if config.messaging_opts["quiet"] else level
