"""The one kind of failure a command reports by itself: a line on standard error and exit status 2."""

from __future__ import annotations


class CommandError(Exception):
    """Something the user can mend; the message, one line, names the file, row or option at fault."""
