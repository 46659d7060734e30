"""Speed and accuracy, measured: each row runs ours and the peer in one process."""
