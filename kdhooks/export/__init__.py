"""The student in other formats, each loaded again and compared."""
