"""`python -m keras_bcgd` is the command `keras-bcgd`."""

import sys

from keras_bcgd import cli

if __name__ == "__main__":
    sys.exit(cli.main())
