"""`python -m llava_kit` is `llava-kit`."""

import sys

from llava_kit.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
