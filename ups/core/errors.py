"""Errors that a user can mend. The command line prints them as one line and exits with code 2."""


class UserError(ValueError):
    """Something the user wrote or pointed to is wrong; the message names it, the rule, and a remedy."""


class ConfigError(UserError):
    """A configuration key or value is refused; the message starts with its path."""


class DataError(UserError):
    """A data file is missing, damaged, or lacks what the task needs; the message names the file."""
