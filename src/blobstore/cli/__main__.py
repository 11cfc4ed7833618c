"""`python -m blobstore.cli`."""

import sys

from blobstore.cli.main import main

sys.exit(main())
