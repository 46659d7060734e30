"""Pages that people look at: one static HTML file each, with no request to anywhere. Imports errors alone."""
