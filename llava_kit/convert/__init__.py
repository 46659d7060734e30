"""Any source becomes files that every other tool can read: rows and pictures, streamed, in parallel, resumable."""
