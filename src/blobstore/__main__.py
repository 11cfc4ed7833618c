"""`python -m blobstore`: the command line."""

import sys

from blobstore.cli.main import main

sys.exit(main())
