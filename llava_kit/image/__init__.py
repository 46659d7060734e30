"""From a reference to a picture (`reader`, `colour`), and from a picture to tiles (`geometry`, `tiling`, `resize`).

May import `core` and `errors` only. `reader` is the one door by which picture files come in: training, evaluation and chat all
use it. `geometry` and `reader` need no torch.
"""
