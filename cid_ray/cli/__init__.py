"""What all commands share: options, console, `--restarts`, `--dashboard`."""
