"""A text-only teacher writes conversations about pictures from captions and boxes: asked, counted, checked, kept."""
