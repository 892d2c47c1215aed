"""What a search has found: the best candidates, the table, the file and the page."""
