"""`python -m miaobi`, the command line."""

import sys

from miaobi.cli import main

if __name__ == "__main__":
    sys.exit(main())
