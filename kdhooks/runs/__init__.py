"""What a run leaves on disk for people and pages: its record."""
