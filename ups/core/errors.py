"""Errors that a user can mend. The command line prints them as one line and exits with code 2."""


class UserError(ValueError):
    """Something the user wrote or pointed to is wrong; the message names it, the rule, and a remedy."""


class ConfigError(UserError):
    """A configuration key or value is refused; the message starts with its path."""


class DataError(UserError):
    """A data file is missing, damaged, or lacks what the task needs; the message names the file."""


class StageBusy(Exception):
    """Another process trains a stage that this run needs, and the run was asked not to wait for it."""

    def __init__(self, stage: str, key: str) -> None:
        # all arguments, so that it travels between processes
        super().__init__(stage, key)
        self.stage = stage
        """such as `operator`, or `latents`"""
        self.key = key
        """what the stage is called in the store"""

    def __str__(self) -> str:
        return f"{self.stage} is being made by another process (key {self.key})"
