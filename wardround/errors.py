"""The exceptions that wardround raises on purpose."""

__all__ = ["BudgetError", "LocalError", "MissingExtraError", "RemoteError", "WardroundError"]


class WardroundError(Exception):
    """Any failure that wardround foresees; its text is one line, fit to be shown to a person."""


class LocalError(WardroundError):
    """This process was asked for something that it cannot or must not do."""


class BudgetError(LocalError):
    """What is asked would spend more privacy than is left; nothing was spent."""


class RemoteError(WardroundError):
    """A peer broke the protocol: what it sent is malformed, inconsistent or not allowed."""


class MissingExtraError(LocalError):
    """An optional dependency is not installed."""

    def __init__(self, extra: str, module: str) -> None:
        super().__init__(
            f"this needs wardround[{extra}]: pip install 'wardround[{extra}]' (module {module!r} is missing)"
        )
