"""What pages are drawn with: SVG, axes, a style sheet, the frame of a page; no script, and nothing from elsewhere."""
