"""The exception that is meant for users, and refusals of the operating system in its words."""

import contextlib
from collections.abc import Iterator


class UserError(Exception):
    """A mistake the user can correct: one sentence naming the thing, what was expected, what to do."""


@contextlib.contextmanager
def refusals_explained() -> Iterator[None]:
    """Raise UserError where the operating system refuses a file: permission, disk, server, limits.

    Such a file is not damaged, and nobody may act as if it were. A missing file is no refusal, nor is a
    lost connection: both pass unchanged, as do errors that libraries raise without a number.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        unnamed = error.filename is None
        if error.errno is None or (unnamed and isinstance(error, ConnectionError | TimeoutError)):
            raise
        raise UserError(
            f"{_subject(error)} could not be used ({error.strerror}), which does not mean that it "
            "is damaged: it was left as it is; correct what the system complains of, such as its owner "
            "and mode or the disk, and run again."
        ) from error


def _subject(error: OSError) -> str:
    return "a file" if error.filename is None else str(error.filename)
