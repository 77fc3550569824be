"""Whom programs that listen on a port answer without a token: this machine alone."""

HOSTS = ("127.0.0.1", "localhost", "[::1]")


def is_own_host(host: str) -> bool:
    """Whether a request's Host names this machine; other names may be another site's, that lead here."""
    return host.rsplit(":", 1)[0] in HOSTS
