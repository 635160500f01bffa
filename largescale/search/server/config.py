"""Settings of the server."""

from ipaddress import ip_address
from pathlib import Path

from pydantic import Field, model_validator

from largescale.search.config import OfModel


class ServeConfig(OfModel):
    """The index over HTTP, with a page."""

    host: str = "127.0.0.1"
    """Address to listen on. Others than this machine's own need a token."""
    port: int = Field(default=8000, ge=0, le=65535)
    """0: any that is free."""
    token: Path | None = None
    """File with the secret that every request must send, as `Authorization: Bearer ...`; null: none, on this machine alone."""
    max_mb: float = Field(default=32, gt=0)
    """Most megabytes (2**20 bytes) of a request."""
    max_megapixels: float = Field(default=50, gt=0)
    """Pictures with more are refused before they are decoded."""
    timeout: float = Field(default=60, gt=0)
    """Seconds within which a request must be sent."""

    @model_validator(mode="after")
    def _known_clients(self) -> "ServeConfig":
        if self.token is None and not is_loopback(self.host):
            raise ValueError(
                f"host={self.host} lets other machines ask, so a token is needed: write a secret into a file and give token=FILE"
            )
        return self


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
