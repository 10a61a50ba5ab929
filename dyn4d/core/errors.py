"""The exceptions that reach a user. The command line prints their text as it is and turns them into exit codes."""


class Dyn4DError(Exception):
    """Base of all errors with a text meant for a person: what is wrong, where, and how to mend it."""

    exit_code = 1


class InputError(Dyn4DError):
    """What the user gave cannot be used: a file, a folder, an option. Exit code 2."""

    exit_code = 2


class RunError(Dyn4DError):
    """The run itself failed (diverged, out of disk, a missing earlier stage). Exit code 1."""


class BackendUnavailable(RunError):
    """A backend that this machine cannot run was asked for by name."""
