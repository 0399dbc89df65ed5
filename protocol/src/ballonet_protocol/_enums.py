"""Named values: what this package uses of the standard library's `enum`, without its weight.

`enum` loads functools, collections, operator, keyword and reprlib, and each class made by it carries a dozen tables:
0.7 MB of private memory in every guest (2026-11-24). These bases behave like their namesakes where this package and
its users look: members are constants with `name` and `value`, `Class(value)` and `Class["NAME"]` find them, `for`, `in`
and `len` know them in the order of the class body, copies and pickles are the member itself. There are no aliases and
no `auto()`. A type checker sees the real ones.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enum import Enum as Enum
    from enum import IntEnum as IntEnum
else:

    class EnumType(type):
        """Turns the constants of a class body into members, kept in `__members__` by name."""

        def __new__(mcls, name, bases, body):
            is_base = not any(isinstance(base, EnumType) for base in bases)
            constants = {} if is_base else {key: body[key] for key in body if not key.startswith("_")}
            rest = {key: body[key] for key in body if key not in constants}
            cls = super().__new__(mcls, name, bases, {"__slots__": (), **rest})
            cls.__members__ = {key: cls._make(key, value) for key, value in constants.items()}
            for key, member in cls.__members__.items():
                setattr(cls, key, member)
            return cls

        def __call__(cls, value):
            for member in cls:
                if member.value == value:
                    return member
            raise ValueError(f"{value!r} is not a valid {cls.__name__}")

        def __getitem__(cls, name):
            return cls.__members__[name]

        def __iter__(cls):
            return iter(cls.__members__.values())

        def __len__(cls):
            return len(cls.__members__)

    class Enum(metaclass=EnumType):
        """A named constant, equal to itself alone."""

        __slots__ = ("name", "value")

        @classmethod
        def _make(cls, name, value):
            member = object.__new__(cls)
            member.name, member.value = name, value
            return member

        def __reduce__(self):
            return type(self), (self.value,)

        def __repr__(self):
            return f"<{type(self).__name__}.{self.name}: {self.value!r}>"

        def __str__(self):
            return f"{type(self).__name__}.{self.name}"

    class IntEnum(int, metaclass=EnumType):
        """A named number, equal to that number and printed as it."""

        @classmethod
        def _make(cls, _name, value):
            return int.__new__(cls, value)

        @property
        def name(self):
            return next(name for name, member in type(self).__members__.items() if member is self)

        @property
        def value(self):
            return int(self)

        def __reduce__(self):
            return type(self), (int(self),)

        def __repr__(self):
            return f"<{type(self).__name__}.{self.name}: {int(self)}>"

        __str__ = int.__repr__
