"""cyoloctl: small, strongly consistent clusters of Zero Trust connector nodes."""

__all__ = ["__version__"]

__version__ = "0.2.0"
