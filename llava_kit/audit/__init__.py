"""What is wrong with data before a GPU finds out: every row checked, every mistake told; mixtures compared."""
