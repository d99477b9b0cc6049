"""What docs/choosing.md shows: the noise that a site adds, and the accuracy that is left: numbers and plots."""
