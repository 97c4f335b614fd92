"""Optional packages: asked for by their exact pin where they are used, and by the command that brings them."""

from __future__ import annotations

import importlib.metadata


def require(pin: str, purpose: str) -> None:
    """Refuse to go on without an optional package.

    Args:
        pin: e.g. "math-verify==0.9.0".
        purpose: what needs it, as the message says.
    Raises:
        ImportError: it is missing, or another version is installed; names both and the mend.
    """
    name, _, wanted = pin.partition("==")
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        found = "none"
    if found != wanted:
        raise ImportError(f"{purpose} needs {pin}, found {found}; run `pip install {pin}`")
