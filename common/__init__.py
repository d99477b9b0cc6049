"""What both sides share; imports neither side."""
