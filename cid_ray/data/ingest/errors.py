"""The error of one file, which `--skip-bad` leaves out."""


class BadFile(Exception):
    """One file cannot be used. The message names the file and the reason."""
