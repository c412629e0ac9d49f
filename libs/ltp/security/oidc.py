"""Sign-in by another system's tokens (OpenID Connect): a JWT is checked against its issuer's published keys, and becomes a caller.

Only asymmetric signatures count, so that a public key can never be used as a shared one. The role comes from a claim: who has none
is known and may nothing.
"""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.request import urlopen
from uuid import NAMESPACE_URL, uuid5

import jwt
from jwt import PyJWK, PyJWKSet, PyJWTError

from ltp.core.errors import ErrorCode, LtpError
from ltp.security.identity import GRANTS, Principal, Role

ALGORITHMS = ("RS256", "ES256", "EdDSA")
_LEEWAY_SECONDS = 30
_FETCH_SECONDS = 5.0
# Keys are asked for anew after a while, and sooner only for an unknown one: a stranger must not make us call each time.
_KEEP_SECONDS, _AGAIN_SECONDS = 600.0, 30.0
_MOST_BYTES = 1 << 20
_NAME = re.compile(r"[^A-Za-z0-9._@-]+")
_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass
class Oidc:
    """One issuer that is trusted to say who somebody is."""

    issuer: str
    audience: str
    role_claim: str = "ltp_role"
    project_claim: str = "ltp_project"
    _keys: dict[str, PyJWK] = field(default_factory=dict[str, PyJWK])
    _asked_at: float = -_KEEP_SECONDS
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @staticmethod
    def concerns(token: str) -> bool:
        """Whether a token has the form of a JWT; ours have no dots."""
        return token.count(".") == 2 and len(token) < 16_384

    def principal(self, token: str) -> tuple[Principal, float]:
        """Who a token speaks for, and until when (Unix time). Blocks while keys are fetched. Raises UNAUTHENTICATED, FORBIDDEN."""
        try:
            kid = str(jwt.get_unverified_header(token).get("kid", ""))
            key = self._key(kid)
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                audience=self.audience,
                issuer=self.issuer,
                leeway=_LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except (PyJWTError, ValueError, TypeError) as error:
            hint = "Sign in again; the gateway's LTP_GATEWAY_OIDC_ISSUER and LTP_GATEWAY_OIDC_AUDIENCE must be the token's."
            raise LtpError(
                ErrorCode.UNAUTHENTICATED, f"The token is not valid ({type(error).__name__}).", hint
            ) from error
        return self._caller(claims), float(claims["exp"])

    def _caller(self, claims: dict[str, Any]) -> Principal:
        role, project = claims.get(self.role_claim), claims.get(self.project_claim)
        if not isinstance(role, str) or role not in GRANTS:
            message = f"The token's claim {self.role_claim!r} gives no role of this platform."
            raise LtpError(ErrorCode.FORBIDDEN, message, f"It must be one of {', '.join(GRANTS)}.")
        if project is not None and not (isinstance(project, str) and _PROJECT.fullmatch(project)):
            message = f"The token's claim {self.project_claim!r} is no name of a project."
            raise LtpError(ErrorCode.FORBIDDEN, message, "Letters, digits, dot, dash and underscore.")
        if project is None and role != "admin":
            message = f"The token has no claim {self.project_claim!r}."
            raise LtpError(ErrorCode.FORBIDDEN, message, "Only an administrator may be without a project.")
        known = cast("Role", role)
        name = str(claims.get("preferred_username") or claims.get("email") or claims["sub"])
        shown = _NAME.sub("-", name)[:100] or "somebody"
        token_id = uuid5(NAMESPACE_URL, f"{self.issuer}#{claims['sub']}")
        return Principal(token_id, shown, known, None if known == "admin" else project, GRANTS[known])

    def _key(self, kid: str) -> PyJWK:
        with self._lock:
            age = time.monotonic() - self._asked_at
            if age > _KEEP_SECONDS or (kid not in self._keys and age > _AGAIN_SECONDS):
                self._asked_at = time.monotonic()
                self._keys = self._fetched() or self._keys
            if kid not in self._keys:
                raise ValueError("unknown key")
            return self._keys[kid]

    def _fetched(self) -> dict[str, PyJWK]:
        """The issuer's keys; none when it cannot be asked, in which case the known ones go on to count."""
        try:
            address = str(_read(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")["jwks_uri"])
            found = PyJWKSet.from_dict(_read(address))
        except (OSError, ValueError, KeyError, PyJWTError):
            return {}
        return {key.key_id or "": key for key in found.keys}


def _read(url: str) -> dict[str, Any]:
    if not url.startswith(("https://", "http://")):
        raise ValueError("an issuer is a web address")
    with urlopen(url, timeout=_FETCH_SECONDS) as answer:  # noqa: S310 - checked above, and named by the operator
        return dict(json.loads(answer.read(_MOST_BYTES)))
