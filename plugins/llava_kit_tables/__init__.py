"""Tables and archives with pictures in them: Parquet, data sets of Hugging Face, WebDataset."""
