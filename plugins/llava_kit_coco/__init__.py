"""Pictures with captions and boxes: COCO, RefCOCO, Visual Genome, caption lists such as CC3M's and LCS's."""
