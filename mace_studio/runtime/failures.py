"""What a failed job keeps of its error: what it says, and none of the memory that the work had."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

PLAIN = (str, int, float, complex, bool, type(None))
OBJECTS = ("obj", "value")  # where Python's own errors keep whose attribute was missing, or what was returned


def let_go(error: BaseException) -> None:
    """Let go of all that an error, and those that it is made of, hold but text and numbers.

    The frames of a traceback keep alive all that the work had in memory, gigabytes of a large model. So do the errors
    of a group, the causes, and an error's own arguments and attributes.

    Args:
        error: changed in place; what it says stays.
    """
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, BaseExceptionGroup):
            waiting.extend(one.exceptions)
        # Somebody else may hold these, as a library does that raises the same error again and again.
        waiting.extend(filter(None, (one.__cause__, one.__context__)))
        one.__traceback__ = one.__cause__ = one.__context__ = None
        one.args = tuple(map(_plain, one.args))
        for name, value in vars(one).items():
            vars(one)[name] = _plain(value)
        for name in OBJECTS:
            with suppress(Exception):  # a class of its own may not let it be set
                if not isinstance(getattr(one, name, None), PLAIN):
                    setattr(one, name, None)


def _plain(value: Any) -> Any:
    """Text and numbers, also in a list or tuple, as they are; of an error what it says, of all else its kind."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, list | tuple) and all(isinstance(one, PLAIN) for one in value):
        return value
    with suppress(Exception):
        if isinstance(value, BaseException):
            return str(value)
    return f"<{type(value).__name__}>"
