"""Questions about pictures from their publishers' own files: VQAv2, GQA, OKVQA, A-OKVQA, TextVQA, ScienceQA and others."""
