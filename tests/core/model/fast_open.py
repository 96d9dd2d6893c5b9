"""A server host's Fast Open (RFC 7413), as Linux does it, and as others might."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from nfq_zerortt.wire.options import OptionSet

_COOKIE_SIZE = 8


@dataclass
class FastOpen:
    """What becomes of a SYN with the option, or with data.

    Attributes:
        cookies: it gives cookies, and accepts data that comes with one (sysctl 0x402 of Linux).
        any_data: it accepts data without a cookie, and gives none (0x602).
        most: so many bytes of a SYN's data are taken, no more.
        full_every: each so manieth SYN with data finds the queue full; 0: none does.
        eaten: SYNs that never arrive: with an "option", with "data", or none ("").
        given: every cookie that a client's address was ever given.
    """

    cookies: bool = False
    any_data: bool = False
    most: int = 1 << 16
    full_every: int = 0
    eaten: str = ""
    given: dict[bytes, set[bytes]] = field(default_factory=dict)
    _key: int = 0
    _seen: int = 0

    def become(self, other: FastOpen) -> None:
        """Change the way; what was given stays on record."""
        self.cookies, self.any_data, self.most = other.cookies, other.any_data, other.most
        self.full_every, self.eaten = other.full_every, other.eaten

    def change_key(self) -> None:
        """From now on, the cookies given so far are bad."""
        self._key += 1

    def eats(self, options: OptionSet, length: int) -> bool:
        """Tell whether something on the way does away with a SYN like this."""
        return (self.eaten == "option" and options.fast_open is not None) or (
            self.eaten == "data" and length > 0
        )

    def answer(self, client: bytes, options: OptionSet, length: int) -> tuple[int, bytes | None]:
        """Return how much of a SYN's data is taken, and the cookie that the SYN-ACK carries."""
        cookie = options.fast_open
        if length:
            self._seen += 1
            if self.full_every and self._seen % self.full_every == 0:
                return 0, None
        if self.any_data:
            return min(length, self.most), None
        if not self.cookies or cookie is None:
            return 0, None
        good = self._cookie(client)
        if cookie == good:
            return min(length, self.most), None
        self.given.setdefault(client, set()).add(good)
        return 0, good

    def _cookie(self, client: bytes) -> bytes:
        key = self._key.to_bytes(4, "big")
        return hashlib.blake2s(client, key=key, digest_size=_COOKIE_SIZE).digest()
