"""What every page that people look at is made of: charts as inline SVG, coloured by the style of the page."""
