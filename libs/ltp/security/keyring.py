"""The keys of stored secrets: a file outside the database, which only its owner reads. The first key encrypts, all decrypt."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from ltp.core.errors import ErrorCode, LtpError
from ltp.security.private_file import write_private

# Keys that stand in documents and examples: as good as none.
_KNOWN = frozenset(
    {
        "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=",  # the Fernet specification's
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    }
)
_HINT = (
    "`ltp up` makes one at its first start; bring the lost one back from your backup, for what it encrypted needs it."
)


@dataclass(frozen=True)
class Keyring:
    """The keys, newest first."""

    path: Path
    keys: tuple[str, ...]

    @classmethod
    def load(cls, path: Path) -> Keyring:
        """Read the file. Raises KEYRING_UNUSABLE when it is missing, open to others, a known default, or no keyring."""
        try:
            status = path.stat()
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise _unusable(f"The keyring {path} cannot be read ({type(error).__name__}).", _HINT) from None
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            mode = stat.S_IMODE(status.st_mode)
            message = f"The keyring {path} has mode {mode:04o}: others could read it."
            raise _unusable(message, f"`chmod 600 {path}`, and rotate the key with `ltp secret rotate`.")
        keys = tuple(line.strip() for line in text.splitlines() if line.strip())
        if not keys:
            raise _unusable(f"The keyring {path} is empty.", _HINT)
        for number, key in enumerate(keys, 1):
            _check(path, number, key)
        return cls(path, keys)

    def encrypt(self, value: str) -> bytes:
        """Under the first key."""
        return self._fernet().encrypt(value.encode())

    def decrypt(self, ciphertext: bytes) -> str:
        """Under whichever key it was made with. Raises KEYRING_UNUSABLE when it is none of these."""
        try:
            return self._fernet().decrypt(ciphertext).decode()
        except InvalidToken:
            message = f"A stored secret was encrypted under a key that is not in {self.path}."
            raise _unusable(message, "Bring the key back, or set the secret anew.") from None

    def renew(self, ciphertext: bytes) -> bytes:
        """The same value under the first key."""
        return self.encrypt(self.decrypt(ciphertext))

    def with_new_key(self) -> Keyring:
        """This ring with a fresh key in front, written to its file."""
        return self._written((Fernet.generate_key().decode(), *self.keys))

    def first_only(self) -> Keyring:
        """This ring without the keys that nothing needs any more, written to its file."""
        return self._written(self.keys[:1])

    def _written(self, keys: tuple[str, ...]) -> Keyring:
        write_keys(self.path, keys)
        return Keyring(self.path, keys)

    def _fernet(self) -> MultiFernet:
        return MultiFernet([Fernet(key) for key in self.keys])


def make_keyring(path: Path) -> None:
    """Make the file with one key, unless it is there."""
    if not path.exists():
        write_keys(path, (Fernet.generate_key().decode(),))


def write_keys(path: Path, keys: tuple[str, ...]) -> None:
    """Replace the file at once: whoever reads sees the old keys or the new ones."""
    write_private(path, "\n".join(keys) + "\n")


def _check(path: Path, number: int, key: str) -> None:
    # The key itself never goes into a message.
    if key in _KNOWN or len(set(key)) < 8:
        raise _unusable(f"Line {number} of {path} is a default key, which everybody knows.", _HINT)
    try:
        Fernet(key)
    except ValueError:
        message = f"Line {number} of {path} is no Fernet key (32 bytes in URL-safe base64)."
        raise _unusable(message, _HINT) from None


def _unusable(message: str, hint: str) -> LtpError:
    return LtpError(ErrorCode.KEYRING_UNUSABLE, message, hint)
