"""A small OpenID Connect provider on the loopback interface that signs in whomever it is told to, without asking."""

from __future__ import annotations

import json
import secrets
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT_ID = "renalcore"


@dataclass
class IdentityProvider:
    """Attributes: `subject`, `email`, `email_verified` and `issued_ago_s` are what it says about whoever comes next."""

    subject: str = "subject-1"
    email: str = "somebody@hospital.example"
    email_verified: bool = True
    issued_ago_s: int = 0
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "1", "use": "sig", "alg": "RS256"}))
    nonces: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                address = urlsplit(self.path)
                if address.path == "/.well-known/openid-configuration":
                    self._json(provider._metadata())
                elif address.path == "/keys":
                    self._json({"keys": [provider.key.as_dict(private=False)]})
                else:
                    asked = {key: values[0] for key, values in parse_qs(address.query).items()}
                    code = secrets.token_hex(8)
                    provider.nonces[code] = asked.get("nonce", "")
                    self.send_response(302)
                    self.send_header(
                        "location", f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"
                    )
                    self.end_headers()

            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
                token = provider._id_token(provider.nonces.pop(form["code"][0]))
                self._json({"access_token": "unused", "token_type": "Bearer", "expires_in": 60, "id_token": token})

            def _json(self, body: Any) -> None:
                content = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                """Say nothing on the terminal."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Close the provider."""
        self._server.shutdown()
        self._server.server_close()

    def secrets_toml(self, app_url: str) -> str:
        """What stands in `.streamlit/secrets.toml` of an app that uses this provider."""
        return f"""
[auth]
redirect_uri = "{app_url}/oauth2callback"
cookie_secret = "{secrets.token_hex(32)}"
client_id = "{CLIENT_ID}"
client_secret = "not a secret here"
server_metadata_url = "{self.issuer}/.well-known/openid-configuration"
"""

    def _metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }

    def _id_token(self, nonce: str) -> str:
        claims = {
            "iss": self.issuer,
            "sub": self.subject,
            "aud": CLIENT_ID,
            "exp": int(time.time()) + 300,
            "iat": int(time.time()) - self.issued_ago_s,
            "nonce": nonce,
            "email": self.email,
            "email_verified": self.email_verified,
        }
        return jwt.encode({"alg": "RS256", "kid": "1"}, claims, self.key)
