"""Helpers of the GRPO-Math series: one module, one idea. Importing the package itself loads nothing."""

__version__ = "0.1.0"
