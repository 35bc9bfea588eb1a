"""`python -m dify_batch` is the same as `dify-batch`."""

import sys

from dify_batch.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
