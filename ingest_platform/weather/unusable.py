"""The one refusal of a decoder: a message or file that must not become a grid."""

from typing import Literal

from ingest_platform.errors import Damaged

type Kind = Literal["framing", "decode", "identity"]


class Unusable(Damaged):
    """This message cannot be used; its neighbours are not affected.

    `kind` says why: the bytes do not add up (framing), the decoder refused them (decode), or they
    hold another field than was asked for (identity).
    """

    def __init__(self, message: str, kind: Kind) -> None:
        super().__init__(message)
        self.kind: Kind = kind
