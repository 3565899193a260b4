"""What the settings' classes use to refuse values. Importing this, or any settings, loads no torch."""


class InvalidValue(ValueError):
    """A value outside its range. `key` is relative to the class that raises it."""

    def __init__(self, key: str, message: str):
        super().__init__(f"{key}: {message}")
        self.key = key
        self.message = message


class InvalidCombination(ValueError):
    """Settings that are fine alone and mean nothing together. `keys` are full dotted names."""

    def __init__(self, keys: tuple[str, ...], message: str):
        super().__init__(message)
        self.keys = keys


class RecipeError(ValueError):
    """A recipe that cannot be read: what is wrong, where it was written, and what was probably meant."""


Rule = tuple[bool, tuple[str, ...], str]
"""Whether it is broken, the settings it speaks of, and what to do."""


def check(condition: bool, key: str, message: str) -> None:
    """Raise `InvalidValue` unless the condition holds."""
    if not condition:
        raise InvalidValue(key, message)


def in_range(section: object, low: float | int, high: float | int, *keys: str) -> None:
    """Raise `InvalidValue` for the first of these settings that is not between low and high, both included."""
    for key in keys:
        value = getattr(section, key)
        check(low <= value <= high, key, f"{value} is not between {low:g} and {high:g}")
